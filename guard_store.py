"""What protection counts and remembers: the contract, and the same in memory.

Everything that bounds calls, guesses and replays goes through here, so that a store in another process can keep
it for many workers. Each method is one atomic step.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from clock import Clock
from limit_rules import Charge, Exceeded, Log, Reservation, Rule, refusal_of, room_in
from otp_store import StoreFull
from timer_wheel import TimerWheel

COHORT_SECONDS = 60.0
SHARE_WINDOW_SECONDS = 3600.0
STRIKE_MEMORY_SECONDS = 7 * 24 * 3600.0


class Share(NamedTuple):
    """Of `begun` verifications, this many were `verified`."""

    begun: int
    verified: int


class Block(msgspec.Struct, frozen=True):
    """No calls to or for `target`: `all`, `client:<name>`, `region:<ISO 3166>` or `prefix:+<digits>`.

    `until` is in seconds of the store's clock; None: until it is lifted.
    """

    target: str
    reason: str
    until: float | None = None


class GuardStore(Protocol):
    """All methods but `refund` raise StoreUnavailable when it cannot answer, and then nothing is let through."""

    async def reserve(self, charges: Sequence[Charge]) -> Reservation | list[Exceeded]:
        """Count all charges, or none of them and say which do not fit. No two of them have one key."""
        ...

    async def refund(self, reservation: Reservation) -> None:
        """Take back what was reserved, as if it had never been counted.

        Without the store it stays counted, and nothing is raised: what came of a request stands.
        """
        ...

    async def room(self, charge: Charge) -> tuple[int, int]:
        """What is left in a rule's first window for a subject, and seconds until all of it is free again."""
        ...

    async def tally(
        self,
        destinations: Iterable[str],
        begun_at: float,
        *,
        begun: int = 0,
        verified: int = 0,
        refund: Reservation | None = None,
    ) -> None:
        """Count verifications of destinations, in the minute in which they were begun.

        What they had reserved is refunded in the same step; not of rules with many subjects.
        """
        ...

    async def shares(self, destinations: Iterable[str], grace_seconds: float) -> list[Share]:
        """Of the last hour, leaving out what was begun less than `grace_seconds` ago."""
        ...

    async def block(self, block: Block) -> None: ...

    async def strike(self, target: str, reason: str, seconds: float) -> Block:
        """Block a target; for twice as long as the last time when that was within a week, up to a week.

        A block that stands stays as it is: many calls at once are one strike, and an operator's block has no end.
        """
        ...

    async def unblock(self, target: str) -> bool:
        """Whether there was a block to lift."""
        ...

    async def blocks(self) -> list[Block]: ...

    async def blocks_among(self, targets: Iterable[str]) -> list[Block]: ...

    async def remember(self, key: str, value: bytes, seconds: float) -> bytes | None:
        """Keep a value under a key that has none; else the value that stands."""
        ...

    async def replace(self, key: str, value: bytes, seconds: float) -> None: ...

    async def recall(self, key: str) -> bytes | None:
        """The value that stands."""
        ...

    async def forget(self, key: str) -> None: ...

    async def expire(self, limit: int = 250) -> bool:
        """Drop what has no effect any more, at most `limit` items; whether some may be left."""
        ...


class _Remembered(NamedTuple):
    value: bytes
    until: float


class _Strikes(NamedTuple):
    number: int
    forget_at: float


class MemoryGuardStore:
    """The guard store of a single process. Nothing in it awaits, so each method is one step of the event loop.

    Holds at most `capacity` entries of each kind; nothing that still has an effect is ever evicted.
    """

    def __init__(self, clock: Clock, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        self._logs: dict[str, Log] = {}
        self._idle_logs: TimerWheel[tuple[str, Rule]] = TimerWheel()
        self._cohorts: dict[str, dict[int, Share]] = {}
        self._idle_cohorts: TimerWheel[str] = TimerWheel()
        self._blocks: dict[str, Block] = {}
        self._strikes: dict[str, _Strikes] = {}
        self._remembered: dict[str, _Remembered] = {}
        self._forgettable: TimerWheel[str] = TimerWheel()

    async def reserve(self, charges: Sequence[Charge]) -> Reservation | list[Exceeded]:
        now = self._clock.now()
        keys = [charge.key for charge in charges]
        logs = [self._log_of(key, charge.rule, now) for key, charge in zip(keys, charges, strict=True)]
        exceeded = [
            refusal
            for charge, log in zip(charges, logs, strict=True)
            if (refusal := refusal_of(charge, log, now)) is not None
        ]
        if exceeded:
            return exceeded
        new = [key for key in keys if key not in self._logs]
        if new and len(self._logs) + len(new) > self._capacity:
            raise StoreFull("limits are counted for as many numbers as the store can hold")
        for key, charge, log in zip(keys, charges, logs, strict=True):
            log.add(charge.rule.entry_at(now), charge.amount)
            if key in new:
                self._logs[key] = log
                self._idle_logs.add(now + charge.rule.lifetime_seconds, (key, charge.rule))
        return Reservation(charges, now)

    def _log_of(self, key: str, rule: Rule, now: float) -> Log:
        """What was counted so far. A new log is kept only once something is counted: refusals fill no store."""
        log = self._logs.get(key)
        if log is None:
            return Log()
        log.drop_ended(now, rule.lifetime_seconds)
        return log

    async def refund(self, reservation: Reservation) -> None:
        for charge in reservation.charges:
            log = self._logs.get(charge.key)
            if log is not None:
                log.take_back(charge.rule.entry_at(reservation.at), charge.amount)

    async def room(self, charge: Charge) -> tuple[int, int]:
        now = self._clock.now()
        return room_in(self._log_of(charge.key, charge.rule, now), charge.rule, now)

    async def tally(
        self,
        destinations: Iterable[str],
        begun_at: float,
        *,
        begun: int = 0,
        verified: int = 0,
        refund: Reservation | None = None,
    ) -> None:
        if refund is not None:
            await self.refund(refund)
        now = self._clock.now()
        cohort = int(begun_at // COHORT_SECONDS)
        for destination in destinations:
            cohorts = self._cohorts.get(destination)
            if cohorts is None:
                if len(self._cohorts) >= self._capacity:
                    raise StoreFull("shares are kept for as many destinations as the store can hold")
                cohorts = self._cohorts[destination] = {}
                self._idle_cohorts.add(now + SHARE_WINDOW_SECONDS, destination)
            before = cohorts.get(cohort, Share(0, 0))
            cohorts[cohort] = Share(max(0, before.begun + begun), before.verified + verified)

    async def shares(self, destinations: Iterable[str], grace_seconds: float) -> list[Share]:
        now = self._clock.now()
        all_cohorts = [self._cohorts.get(destination, {}) for destination in destinations]
        for cohorts in all_cohorts:
            for cohort in [cohort for cohort in cohorts if cohort < oldest_cohort(now)]:
                del cohorts[cohort]
        return [share_of(cohorts, now, grace_seconds) for cohorts in all_cohorts]

    async def block(self, block: Block) -> None:
        if block.target not in self._blocks and len(self._blocks) >= self._capacity:
            raise StoreFull("as many blocks are set as the store can hold")
        self._blocks[block.target] = block

    async def strike(self, target: str, reason: str, seconds: float) -> Block:
        now = self._clock.now()
        standing = self._blocks.get(target)
        if standing is not None and stands(standing, now):
            return standing
        strikes = self._strikes.get(target)
        count = strikes.number if strikes is not None and now < strikes.forget_at else 0
        until = now + min(seconds * 2**count, STRIKE_MEMORY_SECONDS)
        block = Block(target, reason, until)
        await self.block(block)
        self._strikes[target] = _Strikes(count + 1, until + STRIKE_MEMORY_SECONDS)
        return block

    async def unblock(self, target: str) -> bool:
        self._strikes.pop(target, None)
        return self._blocks.pop(target, None) is not None

    async def blocks(self) -> list[Block]:
        self._drop_ended_blocks()
        return list(self._blocks.values())

    async def blocks_among(self, targets: Iterable[str]) -> list[Block]:
        if not self._blocks:
            return []
        now = self._clock.now()
        found = [self._blocks[target] for target in targets if target in self._blocks]
        return [block for block in found if stands(block, now)]

    async def remember(self, key: str, value: bytes, seconds: float) -> bytes | None:
        now = self._clock.now()
        standing = self._remembered.get(key)
        if standing is not None and now < standing.until:
            return standing.value
        if standing is None and len(self._remembered) >= self._capacity:
            raise StoreFull("as much is remembered as the store can hold")
        self._keep(key, value, now + seconds)
        return None

    async def replace(self, key: str, value: bytes, seconds: float) -> None:
        self._keep(key, value, self._clock.now() + seconds)

    def _keep(self, key: str, value: bytes, until: float) -> None:
        self._remembered[key] = _Remembered(value, until)
        self._forgettable.add(until, key)

    async def recall(self, key: str) -> bytes | None:
        standing = self._remembered.get(key)
        return standing.value if standing is not None and self._clock.now() < standing.until else None

    async def forget(self, key: str) -> None:
        self._remembered.pop(key, None)

    async def expire(self, limit: int = 250) -> bool:
        now = self._clock.now()
        logs = self._idle_logs.take(now, limit)
        for key, rule in logs:
            self._drop_idle_log(key, rule, now)
        destinations = self._idle_cohorts.take(now, limit)
        for destination in destinations:
            self._drop_idle_cohorts(destination, now)
        remembered = self._forgettable.take(now, limit)
        for key in remembered:
            if key in self._remembered and self._remembered[key].until <= now:
                del self._remembered[key]
        self._drop_ended_blocks()
        return max(len(logs), len(destinations), len(remembered)) >= limit

    def _drop_idle_log(self, key: str, rule: Rule, now: float) -> None:
        log = self._log_of(key, rule, now)
        if log.entries:
            self._idle_logs.add(log.entries[-1][0] + rule.lifetime_seconds, (key, rule))
        else:
            del self._logs[key]

    def _drop_idle_cohorts(self, destination: str, now: float) -> None:
        cohorts = self._cohorts[destination]
        if cohorts and max(cohorts) >= (now - SHARE_WINDOW_SECONDS) // COHORT_SECONDS:
            self._idle_cohorts.add(now + SHARE_WINDOW_SECONDS, destination)
        else:
            del self._cohorts[destination]

    def _drop_ended_blocks(self) -> None:
        now = self._clock.now()
        for target in [block.target for block in self._blocks.values() if not stands(block, now)]:
            del self._blocks[target]
        for target in [target for target, strikes in self._strikes.items() if strikes.forget_at <= now]:
            del self._strikes[target]


def oldest_cohort(now: float) -> int:
    return int((now - SHARE_WINDOW_SECONDS) // COHORT_SECONDS)


def share_of(cohorts: Mapping[int, Share], now: float, grace_seconds: float) -> Share:
    newest = int((now - grace_seconds) // COHORT_SECONDS)
    ripe = [share for cohort, share in cohorts.items() if oldest_cohort(now) <= cohort < newest]
    return Share(sum(share.begun for share in ripe), sum(share.verified for share in ripe))


def stands(block: Block, now: float) -> bool:
    return block.until is None or now < block.until
