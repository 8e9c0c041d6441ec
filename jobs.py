"""Work that is done after its request was answered: the kinds of it, who does it, and the same in one process.

A job names what is in the store by its id and holds what cannot be found there. It may be done twice, as a worker
can die before it has said that it is done: handlers begin with an atomic step of the store that only one passes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Protocol, TypeVar

import msgspec

from clock import Clock
from log_format import log_unexpected
from otp_store import StoreUnavailable
from timer_wheel import TimerWheel
from verification import CallRef

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
MAX_AT_ONCE = 100


class Redial(msgspec.Struct, frozen=True, array_like=True):
    """A call that is to be placed once more."""

    name: ClassVar[str] = "redial"
    verification_id: str
    call_number: int

    @property
    def lane(self) -> str:
        return self.name


class Dial(msgspec.Struct, frozen=True, array_like=True):
    """A queued call whose turn is to be waited for, through the first of these carriers.

    `queued_at` is when the call began, `reserved_at` when it was counted against its limits.
    """

    name: ClassVar[str] = "dial"
    verification_id: str
    call_number: int
    providers: tuple[str, ...]
    queued_at: float
    reserved_at: float

    @property
    def lane(self) -> str:
        return dial_lane(self.providers[0])


Job = Redial | Dial
J = TypeVar("J", Redial, Dial)


def dial_lane(provider: str) -> str:
    """The calls that wait for one carrier."""
    return f"{Dial.name}-{provider}"


def ref_of(job: Job) -> CallRef:
    return CallRef(job.verification_id, job.call_number)


class Jobs(Protocol):
    """Jobs of one lane are begun in the order in which they came due."""

    def on(self, kind: type[J], handler: Callable[[J], Awaitable[None]], lanes: Sequence[str]) -> None:
        """Who does the jobs of a kind, and the lanes that it comes in. A handler raises only StoreUnavailable,
        and what is unexpected."""
        ...

    async def plan(self, job: Job, after_seconds: float = 0) -> None:
        """Have a job done: soon, or after some time. One that is planned for soon already is not planned again.

        Raises: StoreUnavailable.
        """
        ...

    async def work(self) -> None:
        """Do what is planned; runs until it is cancelled, and then leaves what it can to others."""
        ...

    async def close(self) -> None: ...


class MemoryJobs:
    """The jobs of a single process, which end with it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._handlers: dict[str, Callable[[Job], Awaitable[None]]] = {}
        self._due: TimerWheel[Job] = TimerWheel()
        self._running: dict[CallRef, asyncio.Task[None]] = {}

    def on(self, kind: type[J], handler: Callable[[J], Awaitable[None]], lanes: Sequence[str]) -> None:
        self._handlers[kind.name] = handler  # type: ignore[assignment]

    async def plan(self, job: Job, after_seconds: float = 0) -> None:
        if after_seconds:
            self._due.add(self._clock.now() + after_seconds, job)
            return
        if (ref := ref_of(job)) in self._running:
            return
        task = self._running[ref] = asyncio.create_task(self._do(job), name=job.name)
        task.add_done_callback(lambda _: self._running.pop(ref))

    async def work(self) -> None:
        while True:
            await self.do_due()
            await asyncio.sleep(TICK_SECONDS)

    async def do_due(self) -> None:
        """Do what has come due, one job after the other."""
        for job in self._due.take(self._clock.now(), MAX_AT_ONCE):
            await self._do(job)

    async def _do(self, job: Job) -> None:
        try:
            await self._handlers[job.name](job)
        except StoreUnavailable as error:
            logger.warning("%s not done: %s", job.name, error)
        except Exception as error:  # one bad job must not end all later ones
            log_unexpected(error, job.name)

    async def close(self) -> None:
        """Drop what waits: nobody else knows of it."""
        if self._running:
            logger.warning("queued calls dropped", extra={"calls": len(self._running)})
        for task in list(self._running.values()):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._running.values(), return_exceptions=True)
