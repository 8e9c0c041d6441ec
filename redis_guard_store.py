"""What protection counts and remembers, in Redis: for all processes that share it, one step each.

Neither keys nor values show a phone number, a client or an address: names of keys are keyed digests, and what has
to be read again is sealed. On a Redis Cluster each number has a place of its own, and all that many numbers share
lies in one slot; a reservation over several slots counts too much for a moment, never too little.
"""

import logging
import math
import secrets
import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from clock import Clock
from guard_store import (
    COHORT_SECONDS,
    SHARE_WINDOW_SECONDS,
    STRIKE_MEMORY_SECONDS,
    Block,
    Share,
    oldest_cohort,
    share_of,
    stands,
)
from limit_rules import Charge, Exceeded, Log, Reservation, Rule, refusal_of, room_in
from otp_store import StoreFull, StoreUnavailable
from redis_clock import SharedClock
from redis_connection import Redis, Script
from redis_guard_scripts import (
    BLOCK,
    REMEMBER,
    RESERVE,
    SETTLE,
    STRIKE,
    UNBLOCK,
    charge_argument,
    cohorts_of,
    entries_of,
    rule_argument,
    without_sum,
)
from redis_link import Part

logger = logging.getLogger(__name__)

# A write counts for as long as its sender waits for it.
WRITE_SECONDS = 0.5

SHARED_SLOT = b"{guard}"
# 120 bits: no two of 100 million names are alike, and they are text for whoever looks.
_NAME_BYTES = 15
_NAMES_KEPT = 16_384
_NONCE_BYTES = 12
# The server keeps things for this much longer than they can matter, as clocks of machines differ a little.
_SPARE_MS = 1000
_NOTHING_RESERVED = Reservation((), 0.0)


class RedisGuardStore:
    """The key of names is the same in all processes: with another one, nothing of what was counted is found."""

    def __init__(self, redis: Redis, clock: Clock, key: bytes = b"", shared: SharedClock | None = None) -> None:
        """With a shared clock, what arrives late counts for nothing."""
        self._redis = redis
        self._shared = shared
        self._clock = clock
        self._name = lru_cache(maxsize=_NAMES_KEPT)(self._make_name)
        self.use_names(key)

    def use_names(self, key: bytes) -> None:
        """Until there is a key nothing can be found."""
        self._name_key = blake2b(b"names", key=key[:64]).digest() if key else b""
        self._seal_key = blake2b(b"values", key=key[:64]).digest()
        self._name.cache_clear()

    @property
    def _blocks(self) -> bytes:
        return SHARED_SLOT + self._name("blocks")

    def _make_name(self, text: str) -> bytes:
        if not self._name_key:
            raise StoreUnavailable("the store has not been reached yet")
        return urlsafe_b64encode(blake2b(text.encode(), digest_size=_NAME_BYTES, key=self._name_key).digest())

    def _key_of(self, charge: Charge) -> bytes:
        name = self._name(charge.key)
        return b"l:" + name if charge.rule.has_many_subjects else SHARED_SLOT + name

    # Limits

    async def reserve(self, charges: Sequence[Charge]) -> Reservation | list[Exceeded]:
        now = self._clock.now()
        exceeded: list[Exceeded] = []
        counted: list[Charge] = []
        for group in self._by_slot(charges):
            try:
                refused = await self._reserve_in_one_slot(group, now, counts=not exceeded)
            except StoreUnavailable:
                await self.refund(Reservation(counted, now))
                raise
            exceeded += refused
            if not exceeded:
                counted += group
        if not exceeded:
            return Reservation(charges, now)
        await self.refund(Reservation(counted, now))
        return sorted(exceeded, key=lambda one: charges.index(one.charge))

    async def _run_in_time(self, script: Script, keys: Sequence[bytes], *args: Part) -> Any:
        until: Part = self._shared.latest_ms(WRITE_SECONDS) if self._shared is not None else b""
        reply = await self._redis.run(script, keys, until, *args)
        if reply == 0 and self._shared is not None:
            await self._shared.sync()  # perhaps the server's clock was set
            raise StoreUnavailable("the store took too long")
        return reply

    def _by_slot(self, charges: Sequence[Charge]) -> list[Sequence[Charge]]:
        """What one script may touch, first what refuses most often. One server takes all of it at once."""
        if not charges:
            return []
        if not self._redis.is_cluster:
            return [charges]
        shared = [charge for charge in charges if not charge.rule.has_many_subjects]
        alone: list[Sequence[Charge]] = [[charge] for charge in charges if charge.rule.has_many_subjects]
        return [*alone, shared] if shared else alone

    async def _reserve_in_one_slot(self, charges: Sequence[Charge], now: float, *, counts: bool) -> list[Exceeded]:
        keys = [self._key_of(charge) for charge in charges]
        arguments = [
            charge_argument(charge.amount, charge.rule.entry_at(now), _rule_argument(charge.rule))
            for charge in charges
        ]
        answer = await self._run_in_time(RESERVE, keys, now, int(counts), *arguments)
        if answer == 1:
            return []
        logs = [Log(entries_of(entries)) for entries in answer]
        refusals = [refusal_of(charge, log, now) for charge, log in zip(charges, logs, strict=True)]
        exceeded = [refusal for refusal in refusals if refusal is not None]
        if not exceeded:
            raise StoreFull("more is counted than the store can hold in one sum")
        return exceeded

    async def refund(self, reservation: Reservation) -> None:
        for charges in self._by_slot(reservation.charges):
            try:
                await self._settle(Reservation(charges, reservation.at))
            except StoreUnavailable as error:
                logger.warning("what was not used stays counted: %s", error)

    async def _settle(self, refund: Reservation, shares: Sequence[bytes] = (), *counts: Part) -> None:
        """Refund, and count, what lies in one slot. `counts`: see the script."""
        keys = [self._key_of(charge) for charge in refund.charges]
        taken_back: list[Part] = []
        for charge in refund.charges:
            taken_back += (charge.rule.entry_at(refund.at), charge.amount)
        await self._redis.run(SETTLE, [*keys, *shares], len(keys), *taken_back, *counts)

    async def room(self, charge: Charge) -> tuple[int, int]:
        key, now = self._key_of(charge), self._clock.now()
        log = Log(entries_of(without_sum(await self._redis.call(key, "GET", key))))
        log.drop_ended(now, charge.rule.lifetime_seconds)
        return room_in(log, charge.rule, now)

    # Shares

    async def tally(
        self,
        destinations: Iterable[str],
        begun_at: float,
        *,
        begun: int = 0,
        verified: int = 0,
        refund: Reservation | None = None,
    ) -> None:
        shares = [self._key_of_share(destination) for destination in destinations]
        oldest = oldest_cohort(self._clock.now())
        keep_ms = int((SHARE_WINDOW_SECONDS + 2 * COHORT_SECONDS) * 1000)
        cohort = int(begun_at // COHORT_SECONDS)
        await self._settle(refund or _NOTHING_RESERVED, shares, oldest, cohort, begun, verified, keep_ms)

    def _key_of_share(self, destination: str) -> bytes:
        return SHARED_SLOT + self._name(f"share/{destination}")

    async def shares(self, destinations: Iterable[str], grace_seconds: float) -> list[Share]:
        keys = [self._key_of_share(destination) for destination in destinations]
        shares = []
        for packed in await self._redis.call(SHARED_SLOT, "MGET", *keys):
            cohorts = {cohort: Share(*counts) for cohort, *counts in cohorts_of(packed or b"")}
            shares.append(share_of(cohorts, self._clock.now(), grace_seconds))
        return shares

    # Blocks

    async def block(self, block: Block) -> None:
        field = self._name(block.target)
        end = struct.pack("<d", math.inf if block.until is None else block.until)
        await self._redis.run(BLOCK, [self._blocks], self._clock.now(), field, end + self._seal_block(block))

    async def strike(self, target: str, reason: str, seconds: float) -> Block:
        field = self._name(target)
        value = await self._redis.run(
            STRIKE,
            [self._blocks, self._key_of_strikes(target)],
            self._clock.now(),
            field,
            self._seal_block(Block(target, reason)),
            seconds,
            STRIKE_MEMORY_SECONDS,
        )
        return self._open_block(field, value)

    def _key_of_strikes(self, target: str) -> bytes:
        return SHARED_SLOT + self._name(f"strikes/{target}")

    async def unblock(self, target: str) -> bool:
        keys = [self._blocks, self._key_of_strikes(target)]
        return bool(await self._redis.run(UNBLOCK, keys, self._name(target)))

    async def blocks(self) -> list[Block]:
        answer = await self._redis.call(self._blocks, "HGETALL", self._blocks)
        return self._standing(zip(answer[::2], answer[1::2], strict=True))

    async def blocks_among(self, targets: Iterable[str]) -> list[Block]:
        fields = [self._name(target) for target in targets]
        values = await self._redis.call(self._blocks, "HMGET", self._blocks, *fields)
        return self._standing(zip(fields, values, strict=True))

    def _standing(self, found: Iterable[tuple[bytes, bytes | None]]) -> list[Block]:
        now = self._clock.now()
        blocks = [self._open_block(field, value) for field, value in found if value is not None]
        return [block for block in blocks if stands(block, now)]

    def _seal_block(self, block: Block) -> bytes:
        return self._seal(self._name(block.target), msgspec.msgpack.encode((block.target, block.reason)))

    def _open_block(self, field: bytes, value: bytes) -> Block:
        until, content = self._opened(field, value)
        target, reason = msgspec.msgpack.decode(content)
        return Block(target, reason, None if until == math.inf else until)

    # What is remembered

    async def remember(self, key: str, value: bytes, seconds: float) -> bytes | None:
        name, now = self._key_of_memory(key), self._clock.now()
        packed = struct.pack("<d", now + seconds) + self._seal(name, value)
        standing = await self._run_in_time(REMEMBER, [name], now, packed, _milliseconds(seconds))
        return None if standing is None else self._opened(name, standing)[1]

    def _key_of_memory(self, key: str) -> bytes:
        return b"r:" + self._name(key)

    async def replace(self, key: str, value: bytes, seconds: float) -> None:
        name = self._key_of_memory(key)
        packed = struct.pack("<d", self._clock.now() + seconds) + self._seal(name, value)
        await self._redis.call(name, "SET", name, packed, "PX", _milliseconds(seconds))

    async def recall(self, key: str) -> bytes | None:
        name = self._key_of_memory(key)
        packed = await self._redis.call(name, "GET", name)
        if packed is None:
            return None
        until, value = self._opened(name, packed)
        return value if self._clock.now() < until else None

    async def forget(self, key: str) -> None:
        name = self._key_of_memory(key)
        await self._redis.call(name, "DEL", name)

    async def expire(self, limit: int = 250) -> bool:
        """The server does it."""
        return False

    # Sealing

    def _cipher(self, name: bytes) -> AESGCM:
        """One for each name, so that random nonces never run out."""
        return AESGCM(blake2b(name, digest_size=16, key=self._seal_key).digest())

    def _seal(self, name: bytes, value: bytes) -> bytes:
        if not value:
            return b""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher(name).encrypt(nonce, value, None)

    def _opened(self, name: bytes, packed: bytes) -> tuple[float, bytes]:
        """When it ends, and the value."""
        until: float = struct.unpack_from("<d", packed)[0]
        sealed = packed[8:]
        if not sealed:
            return until, b""
        try:
            return until, self._cipher(name).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except InvalidTag:
            raise StoreUnavailable("what was kept in the store cannot be read: it was altered") from None


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000) + _SPARE_MS


@lru_cache(maxsize=1024)
def _rule_argument(rule: Rule) -> bytes:
    windows = [(window.limit, window.seconds + rule.resolution_seconds) for window in rule.windows]
    return rule_argument(rule.lifetime_seconds, _milliseconds(rule.lifetime_seconds), windows)
