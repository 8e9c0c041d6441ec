"""One carrier as the dialer sees it: its pace, the calls that wait for it, and whether it works."""

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

from carrier_trouble import FAILURE_MEMORY_SECONDS, FAILURES_TO_OPEN, OPEN_SECONDS, SharedTrouble
from clock import Clock
from guard_store import GuardStore
from limit_rules import Charge, Reservation, Rule, Window, rule
from otp_store import OtpStore, StoreUnavailable
from voice_provider import (
    AccountRefused,
    CallOutcomeUnknown,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
)

logger = logging.getLogger(__name__)

# A second and a little, as requests reach a carrier less evenly than they leave.
PACE_SECONDS = 1.05
MAX_WAITING = 10_000  # also where no pace tells how long the wait would be
LOOK_AGAIN_SECONDS = 0.25  # while a carrier holds as many calls as it may
_FAILURES = (ProviderUnavailable, CallOutcomeUnknown, AccountRefused)


# A turn that is this old when its call wakes up is dated anew: the carrier counts when it is asked.
STALE_SECONDS = 0.01
REFRESH_SECONDS = 1.0  # how late a worker learns at the most what others found out of a carrier
MEAN_CALL_SECONDS = 45.0  # for a guess at how long a carrier that is full stays so


class LineState(StrEnum):
    """`paused`: the carrier asked to be left alone for some seconds."""

    UP = "up"
    PAUSED = "paused"
    DOWN = "down"
    PROBING = "probing"


class NoTurn(StrEnum):
    """Why a call that waited got no turn."""

    TOO_LATE = "too late"
    DOWN = "down"


class LineLimits(NamedTuple):
    """What the account allows; 0 is no limit."""

    calls_per_second: int = 0
    concurrent_calls: int = 0


class LineHealth(NamedTuple):
    """What operators see of a carrier. `trouble` is the last error's code while it is not up."""

    name: str
    state: LineState
    queued: int
    trouble: str | None
    retry_after_seconds: float


class Breaker:
    """Keeps requests away from a carrier that fails: five failures in 30 seconds open it for 30 seconds.

    Then one request may try; its success closes the breaker, its failure opens it again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=FAILURES_TO_OPEN)
        self._open_until = 0.0
        self._is_open = False
        self._is_probing = False
        self.trouble: str | None = None

    @property
    def state(self) -> LineState:
        if not self._is_open:
            return LineState.UP
        return LineState.PROBING if self._is_probing else LineState.DOWN

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def open_until(self) -> float:
        return self._open_until

    @property
    def seconds_closed_off(self) -> float:
        """How long until a request may try."""
        return max(0.0, self._open_until - self._clock.now()) if self._is_open else 0.0

    @property
    def admits(self) -> bool:
        return not self._is_open or (not self._is_probing and self.seconds_closed_off == 0)

    def begin(self) -> None:
        """A request starts; while the breaker is open it is the probe."""
        self._is_probing = self._is_open

    def succeed(self) -> bool:
        """Whether the breaker was open."""
        was_open = self._is_open
        self._failures.clear()
        self._is_open = self._is_probing = False
        self.trouble = None
        return was_open

    def fail(self, trouble: str) -> bool:
        """Whether this failure opened the breaker, or opened it again."""
        now = self._clock.now()
        self._failures.append(now)
        self.trouble = trouble
        is_many = len(self._failures) == FAILURES_TO_OPEN and now - self._failures[0] <= FAILURE_MEMORY_SECONDS
        if not (is_many or self._is_probing):
            return False
        is_change = not self._is_open or self._is_probing
        self._is_open, self._is_probing = True, False
        self._open_until = now + OPEN_SECONDS
        return is_change

    def open(self, until: float, trouble: str) -> bool:
        """Other workers found the carrier in trouble. Whether that is new to this one."""
        is_change = not self._is_open
        self._is_open, self._is_probing = True, False
        self._open_until, self.trouble = until, trouble
        return is_change

    def abandon(self) -> None:
        """A request ended without telling anything of the carrier."""
        self._is_probing = False


class CarrierLine:
    """Turns are given in the order in which they were asked for, at the pace that the account allows.

    The pace is counted in the guard store, so that workers that share one keep it together, and so is trouble: the
    breaker is this worker's, which opens and closes with the others' within a second.
    """

    def __init__(
        self, name: str, limits: LineLimits, store: OtpStore, guard_store: GuardStore, clock: Clock
    ) -> None:
        self.name = name
        self.breaker = Breaker(clock)
        self._limits = limits
        self._pace: Rule | None = None
        if limits.calls_per_second:
            self._pace = rule("calls-per-second", Window(limits.calls_per_second, PACE_SECONDS))
        self._store = store
        self._guard_store = guard_store
        self._clock = clock
        self._paused_until = 0.0
        self._waiting: deque[asyncio.Future[Reservation | NoTurn]] = deque()
        self._usher: asyncio.Task[None] | None = None
        self._is_closed = False
        self._shared = SharedTrouble(name, guard_store)
        self._reports: deque[Callable[[], Awaitable[None]]] = deque()
        self._reporter: asyncio.Task[None] | None = None
        self._looked_at = -math.inf
        self._is_failing = False  # somebody has counted a failure since the last success
        self._shared_until = 0.0  # of the opening that all share; 0: none
        self._probe: float | None = None  # the opening whose probe is ours
        self._is_store_silent = False

    def health(self) -> LineHealth:
        breaker, closed_off = self.breaker, self._seconds_closed_off()
        is_paused = breaker.state is LineState.UP and closed_off > 0
        state = LineState.PAUSED if is_paused else breaker.state
        return LineHealth(self.name, state, len(self._waiting), breaker.trouble, closed_off)

    async def expected_wait_seconds(self) -> float:
        """About how long a call would wait that joined the queue now; infinite when there is no place in it."""
        # A call is on record as queued a moment before it stands in the queue: of many at once each must be seen.
        queued = max(len(self._waiting), await self._store.queued_calls(self.name))
        if queued >= MAX_WAITING:
            return math.inf
        pace = self._limits.calls_per_second
        # Turns come in rounds, of as many as the pace has.
        queue_seconds = math.ceil((queued + 1) / pace) * PACE_SECONDS if pace else 0.0
        limit = self._limits.concurrent_calls
        if limit and await self._store.live_calls(self.name) + queued >= limit:
            queue_seconds = max(queue_seconds, (queued + 1) / limit * MEAN_CALL_SECONDS)
        return self._seconds_closed_off() + queue_seconds

    def _seconds_closed_off(self) -> float:
        return max(self.breaker.seconds_closed_off, self._paused_until - self._clock.now(), 0.0)

    async def take_turn(self) -> Reservation | None:
        """A turn now, if nobody waits and the carrier may be asked; it can be given back."""
        await self._refresh_if_due()
        if self._waiting or self._seconds_closed_off() or not self.breaker.admits:
            return None
        turn = await self._take()
        return turn if isinstance(turn, Reservation) else None

    async def _take(self) -> Reservation | float:
        """A turn, or how long to wait before asking again."""
        if self.breaker.is_open and not await self._may_probe():
            return LOOK_AGAIN_SECONDS
        try:
            answer = await self._guard_store.reserve([Charge(self._pace, self.name)] if self._pace else [])
        except BaseException:
            self._give_up_probe()
            raise
        if isinstance(answer, Reservation):
            if await self._has_room():
                self.breaker.begin()
                return answer
            self._give_up_probe()
            await self._guard_store.refund(answer)
            return LOOK_AGAIN_SECONDS
        self._give_up_probe()
        return answer[0].retry_after_seconds or LOOK_AGAIN_SECONDS

    async def _has_room(self) -> bool:
        limit = self._limits.concurrent_calls
        return not limit or await self._store.claim_live_call(self.name, limit)

    async def _may_probe(self) -> bool:
        """Whether the carrier works again, or this worker is the one to find out."""
        await self._refresh()
        if not self.breaker.is_open:
            return True
        if not self.breaker.admits:
            return False
        opening = self._shared_until or self.breaker.open_until
        try:
            is_ours = await self._shared.claim_probe(opening)
        except StoreUnavailable:
            return True  # each worker finds out for itself
        if is_ours:
            self._probe = opening
        return is_ours

    def _give_up_probe(self) -> None:
        opening, self._probe = self._probe, None
        if opening is not None:
            self._tell(lambda: self._shared.give_up_probe(opening))

    def abandon(self) -> None:
        """A request ended without telling anything of the carrier."""
        self.breaker.abandon()
        self._give_up_probe()

    async def give_back(self, turn: Reservation) -> None:
        """A turn that was not used."""
        self.abandon()
        await self._guard_store.refund(turn)

    async def wait_for_turn(self, within_seconds: float) -> Reservation | NoTurn:
        """A turn, unless it does not come in time, or the carrier goes down, so that others can be tried.

        A closed line gives no turns any more.
        """
        give_up_at = self._clock.now() + within_seconds
        turn = await self._stand_in_line(within_seconds)
        while isinstance(turn, Reservation) and self._clock.now() - turn.at > STALE_SECONDS:
            await self.give_back(turn)
            fresh = await self._take()
            if isinstance(fresh, Reservation):
                return fresh
            turn = await self._stand_in_line(give_up_at - self._clock.now(), is_first=True)
        return turn

    async def _stand_in_line(self, within_seconds: float, *, is_first: bool = False) -> Reservation | NoTurn:
        place: asyncio.Future[Reservation | NoTurn] = asyncio.get_running_loop().create_future()
        if is_first:
            self._waiting.appendleft(place)
        else:
            self._waiting.append(place)
        if not self._is_closed and (self._usher is None or self._usher.done()):
            self._usher = asyncio.create_task(self._give_turns(), name=f"turns of {self.name}")
        timer = asyncio.create_task(self._give_up(place, within_seconds))
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and isinstance(turn := place.result(), Reservation):
                await self.give_back(turn)
            raise
        finally:
            timer.cancel()
            with contextlib.suppress(ValueError):
                self._waiting.remove(place)

    async def _give_up(self, place: "asyncio.Future[Reservation | NoTurn]", seconds: float) -> None:
        await self._clock.sleep(max(0.0, seconds))
        if not place.done():
            place.set_result(NoTurn.TOO_LATE)

    async def _give_turns(self) -> None:
        while self._waiting:
            await self._refresh_if_due()
            wait = self._seconds_closed_off()
            if not wait and not self.breaker.admits:
                wait = LOOK_AGAIN_SECONDS  # a probe is on its way
            taken = wait or await self._take_if_possible()
            if not isinstance(taken, Reservation):
                await self._clock.sleep(taken)
                continue
            place = self._next_place()
            if place is None:
                await self.give_back(taken)
                continue  # somebody may have come meanwhile
            place.set_result(taken)
            await asyncio.sleep(0)  # its call begins before the next one's turn

    async def _take_if_possible(self) -> Reservation | float:
        """What `_take` does; without the store nobody gets a turn, but the queue stands."""
        try:
            taken = await self._take()
        except StoreUnavailable as error:
            if not self._is_store_silent:
                logger.warning("the store cannot answer: %s", error)
            self._is_store_silent = True
            return LOOK_AGAIN_SECONDS
        self._is_store_silent = False
        return taken

    def _next_place(self) -> "asyncio.Future[Reservation | NoTurn] | None":
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                return place
        return None

    def note_success(self) -> None:
        self._probe = None
        if self.breaker.succeed():
            logger.warning("carrier works again", extra={"provider": self.name})
        if self._is_failing:
            self._is_failing, self._shared_until = False, 0.0
            self._tell(self._shared.close)

    def note_failure(self, error: ProviderError) -> None:
        """What an error says of the carrier as a whole."""
        if isinstance(error, ProviderThrottled):
            self._pause(error.retry_after_seconds)
        if not isinstance(error, _FAILURES) or isinstance(error, ProviderThrottled):
            self.note_success()  # it answered: the trouble is with this request, or with too many of them
            return
        is_probe = self.breaker.state is LineState.PROBING
        self._probe = None
        if self.breaker.fail(error.code):
            self._leave_alone(error.code)
        self._is_failing = True
        if is_probe and self._shared_until:
            self._tell(lambda: self._open_for_all(error.code))
        else:
            self._tell(lambda: self._count_for_all(error.code))

    def _leave_alone(self, trouble: str) -> None:
        logger.error("carrier is left alone for a while", extra={"provider": self.name, "trouble": trouble})
        self._send_away(NoTurn.DOWN)

    def _pause(self, seconds: float) -> None:
        until = self._clock.now() + seconds
        if seconds > 0 and until > self._paused_until:
            self._paused_until = until
            self._tell(lambda: self._shared.pause(until, seconds))

    # What other workers know. Without the store each worker goes by what it knows itself.

    def _tell(self, report: Callable[[], Awaitable[None]]) -> None:
        """One after the other, beside the calls."""
        self._reports.append(report)
        if self._reporter is None or self._reporter.done():
            self._reporter = asyncio.create_task(self._report(), name=f"reports of {self.name}")

    async def told(self) -> None:
        """Returns when the others can know all that this worker knows."""
        while self._reporter is not None and not self._reporter.done():
            await asyncio.shield(self._reporter)

    async def _report(self) -> None:
        while self._reports:
            try:
                await self._reports[0]()
            except StoreUnavailable as error:
                logger.warning("the store cannot answer: %s", error)
            finally:
                self._reports.popleft()

    async def _count_for_all(self, trouble: str) -> None:
        if await self._shared.count_failure() and self._shared_until <= self._clock.now():
            await self._open_for_all(trouble)

    async def _open_for_all(self, trouble: str) -> None:
        is_open = self.breaker.seconds_closed_off > 0
        until = self.breaker.open_until if is_open else self._clock.now() + OPEN_SECONDS
        self._adopt_opening(until, trouble)
        await self._shared.open(until, trouble)

    def _adopt_opening(self, until: float, trouble: str) -> None:
        self._shared_until = until
        if self.breaker.open(until, trouble):
            self._leave_alone(trouble)

    async def _refresh_if_due(self) -> None:
        if self._clock.now() - self._looked_at >= REFRESH_SECONDS:
            await self._refresh()

    async def _refresh(self) -> None:
        self._looked_at = self._clock.now()
        if self._reports:
            return
        try:
            seen = await self._shared.look()
        except StoreUnavailable:
            return
        if self._reports:
            return  # what we tell now is newer
        self._is_failing = seen.is_failing or seen.open_until > 0
        self._paused_until = max(self._paused_until, seen.paused_until)
        if seen.open_until > self._shared_until:
            self._adopt_opening(seen.open_until, seen.trouble)
        elif self._shared_until and not seen.open_until:
            self._shared_until = 0.0
            if self.breaker.succeed():
                logger.warning("carrier works again", extra={"provider": self.name})

    def _send_away(self, why: NoTurn) -> None:
        for place in self._waiting:
            if not place.done():
                place.set_result(why)

    async def close(self) -> None:
        """Send away the calls that wait, and give no more turns."""
        self._is_closed = True
        self._send_away(NoTurn.TOO_LATE)
        if self._usher is not None:
            self._usher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._usher
        await self.told()
