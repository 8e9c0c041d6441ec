"""What simulated carriers have in common: calls under way, records of those that ended, limits, and who answers.

Several carriers can share one clock and the phones in the browser; a carrier owns neither.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from simulator.audio import AudioFiles
from simulator.call import CallRequest, Customs, SimulatedCall
from simulator.callees import SCRIPTED_CALLEES, ApiTrouble, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.lines import Line, ScriptedLine
from simulator.phone import PhoneExchange

MAX_RECORDS = 10_000

AnyCall = TypeVar("AnyCall", bound=SimulatedCall)


class LimitReached(Exception):
    """The account may not start a call now: too many a second (`cps`), or at the same time (`concurrency`)."""

    def __init__(self, limit_type: str, limit: int, current: int) -> None:
        super().__init__(f"{limit_type} limit exceeded")
        self.limit_type = limit_type
        self.limit = limit
        self.current = current


class Carrier(Generic[AnyCall]):
    """A carrier, apart from its protocol.

    Numbers that no script owns ring in the browser, or get the `stand_in`. Without `audio` files that are played
    are not fetched. `requests` counts the create-call requests that reached it, also those that it refused.
    `is_first`: whether it is asked before all others.
    """

    def __init__(self, clock: SimulatorClock, phones: PhoneExchange, *, is_first: bool = True) -> None:
        self.clock = clock
        self.phones = phones
        self.is_first = is_first
        self.stand_in: ScriptedCallee | None = None
        self.audio: AudioFiles | None = None
        self.calls: dict[str, AnyCall] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.records: OrderedDict[str, AnyCall] = OrderedDict()
        self.starts: deque[float] = deque()
        self.requests = 0

    def trouble_with(self, to: str) -> ApiTrouble:
        """What becomes of a request to call a number."""
        trouble = SCRIPTED_CALLEES[to].api_trouble if to in SCRIPTED_CALLEES else ApiTrouble.NONE
        if trouble is ApiTrouble.FIRST_DOWN:
            return ApiTrouble.DOWN if self.is_first else ApiTrouble.NONE
        return trouble

    def count_start(self, calls_per_second: int, concurrent_calls: int) -> None:
        """Count one more call that starts now; a limit of 0 is no limit. Raises: LimitReached."""
        now = self.clock.now()
        while self.starts and self.starts[0] <= now - 1:
            self.starts.popleft()
        if calls_per_second and len(self.starts) >= calls_per_second:
            raise LimitReached("cps", calls_per_second, len(self.starts))
        if concurrent_calls and len(self.calls) >= concurrent_calls:
            raise LimitReached("concurrency", concurrent_calls, len(self.calls))
        self.starts.append(now)

    def line_for(self, request: CallRequest) -> Line:
        """The end of the line at the number that is called."""
        callee = self._callee(request)
        if callee is None:
            return self.phones.line(request.call_id, request.to)
        return ScriptedLine(callee, self.clock)

    def customs_for(self, request: CallRequest, *, is_own_caller_id: bool = True) -> Customs:
        callee = self._callee(request)
        return Customs(
            loses_hangup_callback=callee is not None and callee.loses_hangup_callback,
            doubles_callbacks=callee is not None and callee.doubles_callbacks,
            is_own_caller_id=is_own_caller_id,
        )

    def _callee(self, request: CallRequest) -> ScriptedCallee | None:
        return SCRIPTED_CALLEES.get(request.to, self.stand_in)

    def start(self, call: AnyCall) -> None:
        """Let a call begin; it lives on by itself."""
        call_id = call.request.call_id
        call.audio = self.audio
        self.calls[call_id] = call
        self.tasks[call_id] = asyncio.create_task(self._live(call), name=f"simulated call {call_id}")

    async def _live(self, call: AnyCall) -> None:
        call_id = call.request.call_id
        try:
            await call.run()
        finally:
            del self.calls[call_id], self.tasks[call_id]
            self.records[call_id] = call
            while len(self.records) > MAX_RECORDS:
                self.records.popitem(last=False)

    def hang_up(self, call_id: str) -> bool:
        """Whether there was such a call to end."""
        task = self.tasks.get(call_id)
        return task is not None and not task.cancelling() and task.cancel()

    async def close(self) -> None:
        """Drop every call without a word, as a network that loses its power does."""
        for _ in range(2):  # the first cancellation of a call is taken for a hangup by the API
            for task in list(self.tasks.values()):
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
