"""Pages of numbers in Redis: sealed, replaced only by whoever saw them last, with the timers of their shards.

A write that arrives late, or twice, changes nothing: each page begins with a nonce of its own, by which the server
knows what it has kept already, and each write says until when its sender waits for it.
"""

import asyncio
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from number_page import EMPTY_PAGE, NumberPage, OpenPage
from otp_store import StoreUnavailable
from redis_clock import SharedClock
from redis_connection import Redis, Script
from sealing import PAGE_NONCE_BYTES, PageSealer, Unsealable, derive_key

# A write counts for as long as its sender waits for it.
WRITE_SECONDS = 0.5
# One whose connection was lost soon after it was sent is sent once more, on the next connection.
REPEAT_WITHIN_SECONDS, REPEAT_AFTER_SECONDS = 0.3, 0.05
# Whoever took what is due has so long to deal with it; then another process takes it.
LEASE_SECONDS = 30.0
SHARDS = 64
PLACES_REMEMBERED = 16_384
_ID_BYTES = 16

# KEYS: page, then for each timer the slots of its kind and its own slot. ARGV: nonce of the page that was seen,
# the new page or nothing, milliseconds that it lives, server time in milliseconds until which this counts, then
# for each timer its second and id.
# Gives 1 when the page is replaced, or was already, or is as it was seen; 0 when it is too late; else the page.
_SWAP = Script("""
local time = redis.call('TIME')
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[4]) then return 0 end
local page = redis.call('GET', KEYS[1]) or ''
local nonce = string.sub(page, 1, 12)
if ARGV[2] ~= '' and nonce == string.sub(ARGV[2], 1, 12) then return 1 end
if nonce ~= ARGV[1] then return page end
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
for i = 5, #ARGV, 2 do
    if redis.call('APPEND', KEYS[i - 2], ARGV[i + 1]) == #ARGV[i + 1] then
        redis.call('ZADD', KEYS[i - 3], ARGV[i], ARGV[i])
    end
end
return 1
""")

# KEYS: slots. ARGV: now, when the lease ends, how many at the most. Gives the seconds of slots that are due.
_LEASE = Script("""
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, second in ipairs(due) do redis.call('ZADD', KEYS[1], ARGV[2], second) end
return due
""")

# KEYS: slots, one of them. ARGV: its second, how long it was when it was taken.
_FINISH = Script("""
if redis.call('STRLEN', KEYS[2]) == tonumber(ARGV[2]) then
    redis.call('DEL', KEYS[2])
    redis.call('ZREM', KEYS[1], ARGV[1])
end
""")


class Timers(StrEnum):
    """What becomes due: codes that expire, and calls of which nothing was heard.

    Timers of one shard and second lie in one slot, as a string of ids. They are added, and never moved: whoever
    finds one due looks what is to be done.
    """

    DEADLINES = "deadlines"
    WATCHES = "watches"


class DueSlot(NamedTuple):
    slots: bytes
    key: bytes
    second: bytes
    ids: list[str]


class Seen(NamedTuple):
    """A page as the server had it, and the nonce that tells whether it still does."""

    nonce: bytes
    page: NumberPage


class RedisPages:
    def __init__(self, redis: Redis, shared: SharedClock) -> None:
        self._redis = redis
        self._shared = shared
        self._shards = _even_shards()
        self._name_key = b""
        self._sealer = PageSealer([])
        self._place = lru_cache(maxsize=PLACES_REMEMBERED)(self._find_place)

    async def load(self, line: str) -> Seen:
        _, key = self._place(line)
        return self._read(line, await self._redis.call(key, "GET", key))

    async def swap(self, line: str, seen: Seen, page: OpenPage, after: NumberPage) -> tuple[Seen, bool]:
        """Put what became of a page in the place of what was seen; the page that is kept now, and whether it is
        that. With a page that did not change it is only looked whether it is as it was seen."""
        kept, sealed, milliseconds = seen, b"", 0
        if page.is_changed:
            sealed = self._sealer.seal(line, encode_page(after))
            kept, milliseconds = Seen(sealed[:PAGE_NONCE_BYTES], after), int(page.lifetime_seconds() * 1000)
        shard, key = self._place(line)
        keys, timers = [key], []
        for kind, wanted in ((Timers.DEADLINES, page.deadlines), (Timers.WATCHES, page.watches)):
            slots = shard + kind.encode()
            for timer in wanted:
                second = int(timer.due_at) + 1
                keys += [slots, b"%b:%d" % (slots, second)]
                timers += [second, raw_id(timer.verification_id)]
        reply = await self._run(keys, [seen.nonce, sealed, milliseconds], timers)
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
        return self._shared.latest_ms(WRITE_SECONDS)

    def use_names(self, key: bytes) -> None:
        """Until then nothing can be found. Pages are sealed with it, too: they outlive any OTP_SECRET."""
        self._name_key = derive_key(key.hex(), b"pages")
        self._sealer = PageSealer([key.hex()])
        self._place.cache_clear()

    def _find_place(self, line: str) -> tuple[bytes, bytes]:
        """The prefix of its shard's keys, and the key of its page: 128 bits that tell nothing of the number."""
        if not self._name_key:
            raise StoreUnavailable("the store has not been reached yet")
        name = blake2b(line.encode(), digest_size=16, key=self._name_key).digest()
        shard = self._shards[name[0] % SHARDS]
        return shard, shard + name

    def _read(self, line: str, sealed: bytes | None) -> Seen:
        if not sealed:
            return Seen(b"", EMPTY_PAGE)
        try:
            return Seen(sealed[:PAGE_NONCE_BYTES], decode_page(self._sealer.unseal(line, sealed)))
        except (Unsealable, msgspec.DecodeError):
            raise StoreUnavailable("a page of the store cannot be read: it was altered") from None

    async def take_due(self, kind: Timers, now: float, limit: int) -> list[DueSlot]:
        """Slots that are due, with `limit` timers or a few more. Nobody else gets them while the lease lasts."""
        all_slots = [shard + kind.encode() for shard in self._shards]
        counts = await asyncio.gather(
            *(self._redis.call(slots, "ZCOUNT", slots, "-inf", now) for slots in all_slots)
        )
        taken: list[DueSlot] = []
        for slots, count in zip(all_slots, counts, strict=True):
            if count and (left := limit - sum(len(slot.ids) for slot in taken)) > 0:
                due = await self._redis.run(_LEASE, [slots], now, now + LEASE_SECONDS, left)
                taken += [await self._open_slot(slots, second) for second in due]
        return taken

    async def _open_slot(self, slots: bytes, second: bytes) -> DueSlot:
        key = slots + b":" + second
        raw = await self._redis.call(key, "GET", key) or b""
        return DueSlot(slots, key, second, _ids(raw))

    async def finish(self, slot: DueSlot) -> None:
        """All of it is dealt with."""
        await self._redis.run(_FINISH, [slot.slots, slot.key], slot.second, len(slot.ids) * _ID_BYTES)


class _KeptPage(msgspec.Struct, frozen=True, array_like=True):
    """A page as it is kept, with ids as bytes. By position: what is new goes to the end, with a default."""

    ids: bytes
    page: NumberPage


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_KeptPage)


def encode_page(page: NumberPage) -> bytes:
    ids = b"".join(raw_id(record.id) for record in page.records)
    nameless = tuple(msgspec.structs.replace(record, id="") for record in page.records)
    return _encoder.encode(_KeptPage(ids, NumberPage(nameless, page.failures)))


def decode_page(encoded: bytes) -> NumberPage:
    """Raises: msgspec.DecodeError."""
    kept = _decoder.decode(encoded)
    records = zip(_ids(kept.ids), kept.page.records, strict=True)
    named = tuple(msgspec.structs.replace(record, id=verification_id) for verification_id, record in records)
    return NumberPage(named, kept.page.failures)


def _ids(raw: bytes) -> list[str]:
    return [f"vrf_{raw[start : start + _ID_BYTES].hex()}" for start in range(0, len(raw), _ID_BYTES)]


def raw_id(verification_id: str) -> bytes:
    return bytes.fromhex(verification_id[4:])


def _even_shards() -> list[bytes]:
    """Key prefixes with hash tags whose slots lie evenly, so that any number of primaries has equal shares."""
    width = REDIS_CLUSTER_HASH_SLOTS // SHARDS
    tags: dict[int, bytes] = {}
    number = 0
    while len(tags) < SHARDS:
        tags.setdefault(key_slot(b"%d" % number) // width, b"%d" % number)
        number += 1
    return [b"otp:{%b}:" % tags[shard] for shard in range(SHARDS)]
