"""Placing calls: each in its turn, through the first carrier that takes it.

Another carrier is tried only where nothing was dialled, or where nothing has been heard for so long that it would
have been. What was found of each kind of failure stands in docs/providers.md.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from call_events import CallEvents
from call_links import CallLinks
from call_log import hang_up_if_possible, log_call
from call_router import CallPolicy, CallRouter, Candidate
from carrier_line import NoTurn
from clock import Clock
from limit_rules import Reservation
from number_page import OtherCall
from otp_store import OtpStore, StoreUnavailable
from script_writer import ScriptWriter
from sealing import Sealer
from send_order import SendOrder
from verification import KEY_TRIES, Call, CallRef, Mode, Status, Verification, short_id
from voice_provider import (
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    EndReason,
    MachineDetection,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
    VoiceProvider,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Shares of the deadline of one request. While others could be tried, a carrier has the first to answer in; one
# that may have dialled has until the second to be heard of, and the third to answer a question.
ATTEMPT_SHARE, GRACE_SHARE, ASK_SHARE = 0.4, 0.7, 0.1
LEAST_SHARE = 0.05  # with less time left nobody else is asked: an answer would come too late
LISTEN_SECONDS = 0.1
CLOCK_SKEW_SECONDS = 10  # by which a carrier's clock may be behind ours


class Dialed(NamedTuple):
    """`is_confirmed` is False where no carrier has told whether it took the call."""

    record: Verification
    call: Call
    is_confirmed: bool


class Ready(NamedTuple):
    """A call that may be dialled now, through a carrier that has given its turn."""

    record: Verification
    call: Call
    candidate: Candidate


class Heard(Enum):
    """What is known of a call whose carrier did not say whether it took it."""

    THE_CALL = "it exists"
    NO_CALL_EXISTS = "it would have been heard of by now"
    NOTHING = "nothing"


class Dialer:
    def __init__(
        self,
        router: CallRouter,
        store: OtpStore,
        events: CallEvents,
        writer: ScriptWriter,
        links: CallLinks,
        sealer: Sealer,
        policy: CallPolicy,
        clock: Clock,
    ) -> None:
        self._router = router
        self._store = store
        self._events = events
        self._writer = writer
        self._links = links
        self._sealer = sealer
        self._policy = policy
        self._clock = clock

    async def wait_for_turn(
        self, record: Verification, call: Call, order: SendOrder, candidates: Sequence[Candidate]
    ) -> Ready | None:
        """A queued call whose turn has come; None when it is not wanted any more, or its turn would come too late.

        It stays with the carrier that it was begun with, unless that one goes down and another one works.
        A stop while it waits leaves it queued; from its turn on it is dialled all the same.
        """
        longest_wait_seconds = min(call.queue_seconds, (record.expires_at - call.started_at) / 2)
        give_up_at = call.started_at + longest_wait_seconds
        candidate = candidates[0]
        while (left := give_up_at - self._clock.now()) > 0:
            candidate = await self._in_service(candidate, candidates)
            turn = await candidate.line.wait_for_turn(left)
            if isinstance(turn, Reservation):
                return await _in_one_piece(self._use_turn(turn, record, call, order, candidate))
            if turn is NoTurn.TOO_LATE:
                return None
        return None

    async def _in_service(self, candidate: Candidate, candidates: Sequence[Candidate]) -> Candidate:
        """Who is to be waited for: the first one again, unless it is down and another one works."""
        if not candidate.line.breaker.seconds_closed_off:
            return candidate
        working = [one for one in candidates if one.line.breaker.admits]
        return (await self._router.by_wait(working))[0] if working else candidate

    async def _use_turn(
        self, turn: Reservation, record: Verification, call: Call, order: SendOrder, candidate: Candidate
    ) -> Ready | None:
        try:
            ready = await self._begin_dialling(record, call, order, candidate)
        except Exception:
            candidate.line.breaker.abandon()
            raise
        if ready is None or ready.call is None:
            await candidate.line.give_back(turn)
            return None
        return Ready(ready, ready.call, candidate)

    async def _begin_dialling(
        self, record: Verification, call: Call, order: SendOrder, candidate: Candidate
    ) -> Verification | None:
        """Only one passes, however many wait with the same call, and whoever they wait for."""
        taken = await self._store.dial_queued(record.id, call.number)
        if taken is None or candidate.provider.name == call.provider:
            return taken
        moved = await self._move_on(record, call, order, candidate, is_certain=True)
        if moved is None:  # it ended this moment
            await self._store.fail_call(record.id, call.number, EndReason.CANCELLED, "")
        return moved

    async def dial(
        self, record: Verification, call: Call, order: SendOrder, candidates: Sequence[Candidate]
    ) -> Dialed:
        """Place a call through the first of the candidates, which gave its turn, or one that takes it instead.

        Ends within the deadline of a request. Raises: ProviderError when no carrier dialled.
        """
        ends_at = self._clock.now() + self._policy.deadline_seconds
        candidate, *untried = candidates
        errors: list[ProviderError] = []
        while True:
            began_at = self._clock.now()
            has_others = bool(await self._reachable(untried, ends_at))
            try:
                seconds = self._attempt_seconds(ends_at, has_others)
                return await self._place(record, call, order, candidate, seconds)
            except ProviderError as error:
                errors.append(error)
            if isinstance(errors[-1], CallOutcomeUnknown):
                heard = Heard.NOTHING
                if has_others:
                    heard, known = await self._listen(record, call, candidate, began_at, ends_at)
                    if heard is Heard.THE_CALL and known.call is not None:
                        return Dialed(known, known.call, is_confirmed=bool(known.call.call_id))
                if heard is not Heard.NO_CALL_EXISTS:
                    break
            moved = await self._fail_over(record, call, order, untried, errors[-1], ends_at)
            if moved is None:
                break
            record, call, candidate = moved
            untried = untried[untried.index(candidate) + 1 :]
        return await self._give_up(record, call, errors)

    async def _reachable(self, candidates: Sequence[Candidate], ends_at: float) -> list[Candidate]:
        """Those that work, and would have a turn in time."""
        patience_seconds = self._patience_seconds(ends_at)
        if patience_seconds < 0:
            return []
        working = [one for one in candidates if one.line.breaker.admits]
        return [one for one in working if await one.line.expected_wait_seconds() <= patience_seconds]

    def _patience_seconds(self, ends_at: float) -> float:
        """How long a turn may be waited for, so that its carrier is not asked with no time left to answer in."""
        return ends_at - self._clock.now() - LEAST_SHARE * self._policy.deadline_seconds

    def _attempt_seconds(self, ends_at: float, has_others: bool) -> float:
        left = ends_at - self._clock.now()
        return min(left, ATTEMPT_SHARE * self._policy.deadline_seconds) if has_others else left

    async def _place(
        self, record: Verification, call: Call, order: SendOrder, candidate: Candidate, seconds: float
    ) -> Dialed:
        provider, line = candidate.provider, candidate.line
        log_call(logging.INFO, "placing call", record, call)  # what a crash from here on leaves to be found
        try:
            call_order = await self._call_order(record, call, order, provider)
            call_id = await self._ask_to_call(record, call, candidate, call_order, seconds)
        except BaseException:
            line.abandon()  # unless this told something of the carrier
            raise
        line.note_success()
        log_call(logging.INFO, "call placed", record, call)
        try:
            record = await self._store.name_call(record.id, call.number, call_id) or record
        except StoreUnavailable:  # it rings all the same, and its callbacks will name it
            return Dialed(record, call, is_confirmed=False)
        if record.status is Status.CANCELLED:  # while we were waiting for the carrier
            await hang_up_if_possible(provider, call_id)
        return Dialed(record, record.call or call, is_confirmed=True)

    @staticmethod
    async def _ask_to_call(
        record: Verification, call: Call, candidate: Candidate, call_order: CallOrder, seconds: float
    ) -> str:
        """The carrier's id of the call. Raises: ProviderError, of which the carrier's line knows then."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await candidate.provider.place_call(call_order)
        except (ProviderError, TimeoutError) as error:
            trouble = error if isinstance(error, ProviderError) else CallOutcomeUnknown("no answer in time")
            candidate.line.note_failure(trouble)
            is_unknown = isinstance(trouble, CallOutcomeUnknown)
            text = f"call not confirmed: {trouble}" if is_unknown else f"call not placed: {trouble}"
            log_call(logging.WARNING, text, record, call)
            raise trouble from None

    async def _call_order(
        self, record: Verification, call: Call, order: SendOrder, provider: VoiceProvider
    ) -> CallOrder:
        script = None
        if not provider.capabilities.fetches_script:
            code = await self._store.read_whole_code(record.id, call.number)
            if code is None:
                raise CallRejected("the call is not wanted any more")
            script = self._writer.whole_call(code, call.manner, self._keys(record, call))
        return CallOrder(
            to=record.phone,
            from_number=call.from_number,
            urls=self._links.urls(CallRef(record.id, call.number), reading=0),
            ring_timeout_seconds=call.ring_timeout_seconds,
            time_limit_seconds=call.time_limit_seconds,
            machine_detection=self._machine_detection(record),
            hide_caller_id=order.hide_caller_id,
            reference=f"{short_id(record.id)}-{call.number}",
            script=script,
        )

    def _machine_detection(self, record: Verification) -> MachineDetection:
        """An alert has no code to keep from a machine."""
        wanted = self._policy.machine_detection
        is_needless = record.mode is Mode.ALERT and wanted is MachineDetection.NO_CODE
        return MachineDetection.OFF if is_needless else wanted

    def _keys(self, record: Verification, call: Call) -> tuple[str, ...]:
        """Those that a callee may press before the code is told, at one try after the other."""
        length, ref = call.manner.keys_first, CallRef(record.id, call.number)
        return tuple(self._sealer.draw_keys(ref, attempt, length) for attempt in range(KEY_TRIES if length else 0))

    async def _fail_over(
        self,
        record: Verification,
        call: Call,
        order: SendOrder,
        untried: Sequence[Candidate],
        error: ProviderError,
        ends_at: float,
    ) -> Ready | None:
        """The next call, once the first carrier that can take it has given its turn; None when none can."""
        is_certain = not isinstance(error, CallOutcomeUnknown)
        for candidate in await self._reachable(untried, ends_at):
            line = candidate.line
            turn: Reservation | NoTurn | None = await line.take_turn()
            if turn is None:
                turn = await line.wait_for_turn(max(0.0, self._patience_seconds(ends_at)))
            if not isinstance(turn, Reservation):
                continue
            moved = await self._move_on(record, call, order, candidate, is_certain=is_certain)
            if moved is None or moved.call is None:
                await line.give_back(turn)
                return None
            return Ready(moved, moved.call, candidate)
        return None

    async def _move_on(
        self, record: Verification, call: Call, order: SendOrder, candidate: Candidate, *, is_certain: bool
    ) -> Verification | None:
        new_call = self._router.new_call(order, candidate)
        moved = await self._store.next_call(record.id, call.number, new_call, "failed_over", is_certain=is_certain)
        if moved is not None and moved.call is not None:
            log_call(logging.WARNING, "failed over", moved, moved.call, {"from_provider": call.provider})
        return moved

    async def _listen(
        self, record: Verification, call: Call, candidate: Candidate, began_at: float, ends_at: float
    ) -> tuple[Heard, Verification]:
        """What comes of a call that may have been dialled: a callback, or its carrier's word when it is asked.

        With too little time left for that, nothing is known of it.
        """
        deadline_seconds = self._policy.deadline_seconds
        until = began_at + GRACE_SHARE * deadline_seconds
        if until + ASK_SHARE * deadline_seconds > ends_at:
            return Heard.NOTHING, record
        while self._clock.now() < until:
            known = await self._store.find_by_id(record.id)
            if known is None or known.call is None or known.call.number != call.number:
                return Heard.NOTHING, record
            if known.call.call_id or known.call.state is not CallState.DIALING:
                return Heard.THE_CALL, known
            await self._clock.sleep(LISTEN_SECONDS)
        return await self._ask(record, call, candidate.provider)

    async def _ask(self, record: Verification, call: Call, provider: VoiceProvider) -> tuple[Heard, Verification]:
        """Ask the carrier for a call that should have been heard of by now."""
        silence = Heard.NO_CALL_EXISTS if provider.capabilities.silence_is_proof else Heard.NOTHING
        if not provider.capabilities.can_be_asked:
            return silence, record
        try:
            async with asyncio.timeout(ASK_SHARE * self._policy.deadline_seconds):
                event = await provider.find_call(record.phone, placed_after(record, call))
        except (ProviderError, TimeoutError):
            logger.warning("carrier could not be asked for a call", extra={"provider": provider.name})
            return silence, record
        if event is None:
            return Heard.NO_CALL_EXISTS, record
        try:
            known = await self._events.take_in(record, call, event)
        except OtherCall:  # a callback has named it otherwise meanwhile
            known = await self._store.find_by_id(record.id)
        return Heard.THE_CALL, known or record

    async def _give_up(self, record: Verification, call: Call, errors: Sequence[ProviderError]) -> Dialed:
        """No carrier took the call. Raises: ProviderError, the most hopeful one, unless one may have dialled."""
        is_last_unknown = isinstance(errors[-1], CallOutcomeUnknown)
        if not is_last_unknown:
            await self._store.fail_call(record.id, call.number, EndReason.FAILED, errors[-1].code)
        if not any(isinstance(error, CallOutcomeUnknown) for error in errors):
            raise max(errors, key=_hope)
        if not is_last_unknown:  # an earlier one may have dialled, and is waited for again
            await self._store.resume_given_up(record.id, call.number)
        known = await self._store.find_by_id(record.id) or record  # a callback may have told us meanwhile
        call = known.call or call
        return Dialed(known, call, is_confirmed=bool(call.call_id))


def placed_after(record: Verification, call: Call) -> float:
    """Unix time before which a carrier did not have this call."""
    return record.created_wall + call.started_at - record.created_at - CLOCK_SKEW_SECONDS


def _hope(error: ProviderError) -> int:
    """Errors that may pass by themselves count for more."""
    return isinstance(error, ProviderUnavailable) + isinstance(error, ProviderThrottled)


async def _in_one_piece(step: Coroutine[Any, Any, T]) -> T:
    """Do a step to its end, also when its task is told to stop meanwhile."""
    task = asyncio.create_task(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task
