"""Pages of numbers in Redis: sealed, replaced only by whoever saw them last, with the timers of their shards.

A write that arrives late, or twice, changes nothing: each page begins with a nonce of its own, by which the server
knows what it has kept already, and each write says until when its sender waits for it.
"""

import asyncio
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from number_page import EMPTY_PAGE, NumberPage, OpenPage, Timer
from otp_store import StoreUnavailable
from redis_clock import SharedClock
from redis_connection import Redis, Script
from sealing import PAGE_NONCE_BYTES, PageSealer, Unsealable

# A write counts for as long as its sender waits for it.
WRITE_SECONDS = 0.5
# One whose connection was lost soon after it was sent is sent once more, on the next connection.
REPEAT_WITHIN_SECONDS, REPEAT_AFTER_SECONDS = 0.3, 0.05
# Whoever took what is due has so long to deal with it; then another process takes it.
LEASE_SECONDS = 30.0
SHARDS = 64

# KEYS: page, deadlines, watches. ARGV: nonce of the page that was seen, the new page or nothing, milliseconds that
# it lives, server time in milliseconds until which this counts, how many of the timers that follow are deadlines.
# Gives 1 when the page is replaced, or was already, or is as it was seen; 0 when it is too late; else the page.
_SWAP = Script("""
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[4]) then return 0 end
local page = redis.call('GET', KEYS[1]) or ''
local nonce = string.sub(page, 1, 12)
if ARGV[2] ~= '' and nonce == string.sub(ARGV[2], 1, 12) then return 1 end
if nonce ~= ARGV[1] then return page end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
for i = 6, #ARGV, 2 do
    redis.call('ZADD', i < 6 + 2 * ARGV[5] and KEYS[2] or KEYS[3], ARGV[i], ARGV[i + 1])
end
return 1
""")

# KEYS: timers. ARGV: now, when the lease ends, how many at the most. Gives what is due.
_TAKE_DUE = Script("""
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(due) do redis.call('ZADD', KEYS[1], ARGV[2], member) end
return due
""")


class Timers(IntEnum):
    """What becomes due: codes that expire, and calls of which nothing was heard."""

    DEADLINES = 1
    WATCHES = 2


class Seen(NamedTuple):
    """A page as the server had it, and the nonce that tells whether it still does."""

    nonce: bytes
    page: NumberPage


class _Shard(NamedTuple):
    prefix: bytes
    deadlines: bytes
    watches: bytes


class RedisPages:
    def __init__(self, redis: Redis, shared: SharedClock, sealer: PageSealer) -> None:
        self._redis = redis
        self._shared = shared
        self._sealer = sealer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(NumberPage)
        self._shards = _even_shards()

    async def load(self, line: str) -> Seen:
        _, key = self._place(line)
        return self._read(line, await self._redis.call(key, "GET", key))

    async def swap(self, line: str, seen: Seen, page: OpenPage) -> tuple[Seen, bool]:
        """Put what became of a page in the place of what was seen; the page that is kept now, and whether it is
        that. With a page that did not change it is only looked whether it is as it was seen."""
        kept, sealed, milliseconds = seen, b"", 0
        if page.is_changed:
            after = page.page()
            sealed = self._sealer.seal(line, self._encoder.encode(after))
            kept, milliseconds = Seen(sealed[:PAGE_NONCE_BYTES], after), int(page.lifetime_seconds() * 1000)
        shard, key = self._place(line)
        reply = await self._run(
            [key, shard.deadlines, shard.watches],
            [seen.nonce, sealed, milliseconds],
            [len(page.deadlines), *_parts(page.deadlines), *_parts(page.watches)],
        )
        if reply == 0:
            await self._shared.sync()  # perhaps the server's clock was set
            raise StoreUnavailable("the store took too long")
        return (kept, True) if reply == 1 else (self._read(line, reply), False)

    async def _run(self, keys: list[bytes], change: list[Any], timers: list[Any]) -> Any:
        began_at = self._shared.server_now()
        try:
            return await self._redis.run(_SWAP, keys, *change, self._until(), *timers)
        except StoreUnavailable:
            if self._shared.server_now() - began_at > REPEAT_WITHIN_SECONDS:
                raise
        # Whether the server has kept it is not known, but the server knows.
        await asyncio.sleep(REPEAT_AFTER_SECONDS)
        return await self._redis.run(_SWAP, keys, *change, self._until(), *timers)

    def _until(self) -> int:
        return int((self._shared.server_now() + WRITE_SECONDS) * 1000)

    def _place(self, line: str) -> tuple[_Shard, bytes]:
        name = self._sealer.name(line)
        shard = self._shards[name[0] % SHARDS]
        return shard, shard.prefix + name

    def _read(self, line: str, sealed: bytes | None) -> Seen:
        if not sealed:
            return Seen(b"", EMPTY_PAGE)
        try:
            return Seen(sealed[:PAGE_NONCE_BYTES], self._decoder.decode(self._sealer.unseal(line, sealed)))
        except (Unsealable, msgspec.DecodeError):
            raise StoreUnavailable("a page of the store cannot be read: it was altered") from None

    async def take_due(self, timers: Timers, now: float, limit: int) -> list[str]:
        """Ids of verifications whose time has come. Nobody else gets them while the lease lasts."""
        keys = [shard[timers] for shard in self._shards]
        counts = await asyncio.gather(*(self._redis.call(key, "ZCOUNT", key, "-inf", now) for key in keys))
        taken: list[str] = []
        for key, count in zip(keys, counts, strict=True):
            if count and len(taken) < limit:
                due = await self._redis.run(_TAKE_DUE, [key], now, now + LEASE_SECONDS, limit - len(taken))
                taken += [f"vrf_{raw.hex()}" for raw in due]
        return taken

    async def drop_timer(self, timers: Timers, line: str, verification_id: str) -> bool:
        """What was due is done; whether nobody else had said so."""
        key = self._place(line)[0][timers]
        return bool(await self._redis.call(key, "ZREM", key, bytes.fromhex(verification_id[4:])))


def _parts(timers: Sequence[Timer]) -> list[float | bytes]:
    return [part for timer in timers for part in (timer.due_at, bytes.fromhex(timer.verification_id[4:]))]


def _even_shards() -> list[_Shard]:
    """Shards with hash tags whose slots lie evenly, so that any number of primaries has equal shares."""
    width = REDIS_CLUSTER_HASH_SLOTS // SHARDS
    tags: dict[int, bytes] = {}
    number = 0
    while len(tags) < SHARDS:
        tags.setdefault(key_slot(b"%d" % number) // width, b"%d" % number)
        number += 1
    prefixes = [b"otp:{%b}:" % tags[shard] for shard in range(SHARDS)]
    return [_Shard(prefix, prefix + b"deadlines", prefix + b"watches") for prefix in prefixes]
