"""What all workers that share a guard store know together of one carrier: its failures, and that it is left alone.

Each worker's own breaker decides at once; here five failures over all workers open it for all, and one probe
closes it for all.
"""

import secrets
from typing import NamedTuple

import msgspec

from guard_store import GuardStore
from limit_rules import Charge, Reservation, Window, rule

FAILURES_TO_OPEN = 5
FAILURE_MEMORY_SECONDS = 30.0
OPEN_SECONDS = 30.0
# A worker that dies while it probes holds the others up for this long.
_PROBE_SECONDS = 30.0
# Nobody has asked the carrier for so long: it may work again, and whoever comes next finds out.
_FORGOTTEN_AFTER_SECONDS = 3600.0
_FAILURES = rule("carrier-failures", Window(FAILURES_TO_OPEN - 1, FAILURE_MEMORY_SECONDS))


class _Opening(msgspec.Struct, frozen=True, array_like=True):
    until: float
    trouble: str


class Seen(NamedTuple):
    """Moments of the clock; 0 where there is none."""

    is_failing: bool
    open_until: float
    trouble: str
    paused_until: float


class SharedTrouble:
    """Any of it may raise StoreUnavailable."""

    def __init__(self, carrier: str, store: GuardStore) -> None:
        self._store = store
        self._failing = f"carrier/{carrier}/failing"
        self._opening = f"carrier/{carrier}/opening"
        self._pause = f"carrier/{carrier}/pause"
        self._probe = f"carrier/{carrier}/probe"

    async def count_failure(self) -> bool:
        """Whether it is one too many since the carrier worked last."""
        # The first failure gives the count a name; a success forgets the name, and with it the count.
        mine = secrets.token_bytes(8)
        name = await self._store.remember(self._failing, mine, _FORGOTTEN_AFTER_SECONDS) or mine
        counted = await self._store.reserve([Charge(_FAILURES, name.hex())])
        return not isinstance(counted, Reservation)

    async def open(self, until: float, trouble: str) -> None:
        opening = msgspec.msgpack.encode(_Opening(until, trouble))
        await self._store.replace(self._opening, opening, _FORGOTTEN_AFTER_SECONDS)

    async def close(self) -> None:
        """The carrier works: what was counted against it is forgotten."""
        await self._store.forget(self._opening)
        await self._store.forget(self._failing)

    async def pause(self, until: float, seconds: float) -> None:
        """The longest one that any worker was told."""
        standing = await self._store.recall(self._pause)
        if standing is None or msgspec.msgpack.decode(standing, type=float) < until:
            await self._store.replace(self._pause, msgspec.msgpack.encode(until), seconds)

    async def claim_probe(self, open_until: float) -> bool:
        """Of all workers, one may try once this opening is over."""
        return await self._store.remember(f"{self._probe}/{open_until!r}", b"", _PROBE_SECONDS) is None

    async def give_up_probe(self, open_until: float) -> None:
        await self._store.forget(f"{self._probe}/{open_until!r}")

    async def look(self) -> Seen:
        failing = await self._store.recall(self._failing)
        opening = await self._store.recall(self._opening)
        pause = await self._store.recall(self._pause)
        until, trouble = 0.0, ""
        if opening is not None:
            decoded = msgspec.msgpack.decode(opening, type=_Opening)
            until, trouble = decoded.until, decoded.trouble
        paused_until = 0.0 if pause is None else msgspec.msgpack.decode(pause, type=float)
        return Seen(failing is not None, until, trouble, paused_until)
