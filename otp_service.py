"""The steps of one verification for the backend: send, verify, status, cancel; and the passing of its time."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from access import Caller
from call_flow import hang_up_if_possible, log_call, log_verification
from call_router import CallRouter, Candidate, Choice
from clock import Clock
from dialer import Dialer, placed_after
from guard_store import Reservation
from log_format import log_unexpected
from otp_store import Begun, CallStillLive, Checked, NewCode, OtpStore, Outcome, StoreUnavailable
from protection import Protection
from send_order import SendOrder
from verification import Call, Verification, draw_code
from voice_provider import CallState, EndReason, ProviderError

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LOOK_UPS_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Sent:
    """`is_confirmed` is False when no carrier told in time whether it took the call. A queued one still waits."""

    record: Verification
    call: Call
    is_duplicate: bool
    is_confirmed: bool

    @property
    def is_queued(self) -> bool:
        return self.call.state is CallState.QUEUED


class OtpService:
    def __init__(
        self,
        store: OtpStore,
        router: CallRouter,
        dialer: Dialer,
        protection: Protection,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._store = store
        self._router = router
        self._dialer = dialer
        self._protection = protection
        self._guard = protection.guard
        self._waiting_calls: set[asyncio.Task[None]] = set()

    async def send(self, order: SendOrder) -> Sent:
        """Call a phone with a code, unless a call to it is live already.

        The call is counted against every limit, and on record, before a carrier hears of it, so a crash in
        between leaves no call unknown.
        Raises: UnsupportedOption, SendRefused, StoreUnavailable, NumberLocked, CallStillLive, ProviderError.
        """
        await self._guard.check_destination(order.client, order.phone)
        candidates = self._router.candidates(order)
        code = order.code or draw_code(order.code_length)
        new_code = NewCode(code, order.code is not None, order.ttl_seconds, order.reference)
        live = await self._store.join(order.client, order.phone, new_code)
        if live is not None and live.call is not None:
            return Sent(live, live.call, is_duplicate=True, is_confirmed=True)
        return await self._start(order, new_code, candidates)

    async def _start(self, order: SendOrder, new_code: NewCode, candidates: list[Candidate]) -> Sent:
        """Reserve what the call counts, a carrier's turn, then the number's one live call; then place it."""
        reservation = await self._guard.reserve(order.client, order.phone)
        choice: Choice | None = None
        try:
            choice = await self._router.choose(candidates, order.ttl_seconds / 2)
            begun = await self._begin(order, new_code, choice)
        except Exception:
            await self._give_back(reservation, choice)
            raise
        call = begun.record.call
        assert call is not None  # noqa: S101 - begin() always starts or joins a call
        if begun.is_duplicate:  # another request was quicker
            await self._give_back(reservation, choice)
            return Sent(begun.record, call, is_duplicate=True, is_confirmed=True)
        first = choice.candidate
        candidates = [first, *(one for one in candidates if one is not first)]
        if choice.turn is None:
            self._place_later(begun.record, call, order, candidates, reservation)
            return Sent(begun.record, call, is_duplicate=False, is_confirmed=True)
        return await self._place(begun.record, call, order, candidates, reservation)

    async def _give_back(self, reservation: Reservation, choice: Choice | None) -> None:
        await self._guard.refund(reservation)
        if choice is not None and choice.turn is not None:
            await choice.candidate.line.give_back(choice.turn)

    async def _begin(self, order: SendOrder, new_code: NewCode, choice: Choice) -> Begun:
        queue_seconds = order.ttl_seconds / 2 if choice.turn is None else 0
        new_call = self._router.new_call(order, choice.candidate, queue_seconds)
        try:
            return await self._store.begin(order.client, order.phone, new_code, new_call)
        except CallStillLive as left_over:
            if not left_over.record.is_final:
                raise
            await self._end_left_over_call(left_over)
            return await self._store.begin(order.client, order.phone, new_code, new_call)

    async def _end_left_over_call(self, left_over: CallStillLive) -> None:
        """Hang up the call of a verification that has ended, before the number is called anew.

        Raises: CallStillLive when that is not certain, for then two calls could ring.
        """
        call = left_over.record.live_call
        if call is None:
            raise left_over
        if call.state is not CallState.QUEUED:
            provider = self._router.provider(call.provider)
            if not call.call_id or not provider.capabilities.hangs_up:
                raise left_over
            try:
                await provider.hang_up(call.call_id)
            except ProviderError as error:
                logger.warning("call could not be hung up: %s", error)
                raise left_over from None
        await self._store.fail_call(left_over.record.id, call.number, EndReason.CANCELLED, "")

    def _place_later(
        self,
        record: Verification,
        call: Call,
        order: SendOrder,
        candidates: list[Candidate],
        reservation: Reservation,
    ) -> None:
        log_call(logging.INFO, "call queued", record, call)
        waiting = self._wait_and_place(record, call, order, candidates, reservation)
        task = asyncio.create_task(waiting, name="queued call")
        self._waiting_calls.add(task)
        task.add_done_callback(self._waiting_calls.discard)

    async def _wait_and_place(
        self,
        record: Verification,
        call: Call,
        order: SendOrder,
        candidates: list[Candidate],
        reservation: Reservation,
    ) -> None:
        """What `_place` does, once the call's turn has come. Its caller is gone: what goes wrong is logged."""
        try:
            dialled = await self._dialer.wait_for_turn(record, call, candidates)
            if dialled is None or dialled.call is None:
                ended = await self._store.fail_call(record.id, call.number, EndReason.FAILED, "queue_timeout")
                await self._guard.refund(reservation)
                log_call(logging.WARNING, "queued call dropped", ended or record, call)
                return
            await self._place(dialled, dialled.call, order, candidates, reservation)
        except ProviderError:
            pass  # logged where it happened, and in the status
        except Exception as error:
            log_unexpected(error, "queued call")

    async def _place(
        self,
        record: Verification,
        call: Call,
        order: SendOrder,
        candidates: list[Candidate],
        reservation: Reservation,
    ) -> Sent:
        # Now, as the first callbacks can be quicker than the answer.
        await _count_if_possible(self._guard.on_placing(record))
        try:
            dialed = await self._dialer.dial(record, call, order, candidates)
        except ProviderError:
            await self._guard.refund(reservation, keep_client_quota=True)
            await _count_if_possible(self._guard.on_carrier_failure(record))
            raise
        if not dialed.is_confirmed:
            await _count_if_possible(self._guard.on_carrier_failure(record))
        return Sent(dialed.record, dialed.call, is_duplicate=False, is_confirmed=dialed.is_confirmed)

    async def verify(self, caller: Caller, key: str, candidate: str) -> Checked:
        """Check a code, which uses up one attempt. Raises: LimitReached, NumberLocked, StoreUnavailable."""
        reservation = await self._protection.budgets.reserve_wrong_code(*caller)
        outcome = None
        try:
            checked = await self._store.check(caller.client, key, candidate)
            outcome = checked.outcome
        finally:
            if outcome is not Outcome.INCORRECT:
                await self._protection.budgets.refund(reservation)
        if outcome is Outcome.CORRECT and checked.record is not None:
            await _count_if_possible(self._guard.on_verified(checked.record))
        return checked

    async def status(self, client: str, key: str) -> Verification | None:
        """The client's newest verification of a number, or its one with this id.

        Raises: LimitReached, StoreUnavailable.
        """
        record = await self._store.find(client, key)
        if record is not None:
            await self._protection.budgets.count_read(record.id)
        return record

    def seconds_left(self, record: Verification) -> int:
        """Whole seconds for which the code can still be right, rounded up."""
        return 0 if record.is_final else max(0, math.ceil(record.expires_at - self._clock.now()))

    async def cancel(self, client: str, key: str) -> tuple[Verification, bool] | None:
        """Make a code worthless and end its call; whether a live call was ended.

        None when there is neither a code that can be right nor a live call. Raises: StoreUnavailable.
        """
        cancelled = await self._store.cancel(client, key)
        record = cancelled or await self._store.find(client, key)
        call = record.live_call if record is not None else None
        if record is None or (cancelled is None and call is None):
            return None
        if call is None:
            return record, False
        if call.state is CallState.QUEUED:
            await self._store.fail_call(record.id, call.number, EndReason.CANCELLED, "")
        provider = self._router.provider(call.provider)
        if not call.call_id or not provider.capabilities.hangs_up:
            return record, False
        return record, await hang_up_if_possible(provider, call.call_id)

    async def close(self) -> None:
        """Drop the calls that wait for their turns."""
        if self._waiting_calls:
            logger.warning("queued calls dropped", extra={"calls": len(self._waiting_calls)})
        await self._router.close()
        for task in list(self._waiting_calls):
            task.cancel()
        await asyncio.gather(*self._waiting_calls, return_exceptions=True)

    async def keep_time(self) -> None:
        """Let deadlines pass, and ask carriers about calls that fell silent; runs until it is cancelled."""
        await asyncio.gather(
            _every_second("expiry", self.expire),
            _every_second("look-up of silent calls", self.ask_about_silent_calls),
        )

    async def expire(self) -> None:
        """Let due deadlines take effect, and forget what protection has no use for any more."""
        some_are_left = True
        while some_are_left:
            records, verifications_are_left = await self._store.expire()
            counts_are_left = await self._protection.expire()
            for record in records:
                log_verification(logging.INFO, "code expired", record)
            some_are_left = verifications_are_left or counts_are_left
            await asyncio.sleep(0)  # let requests in between two batches

    async def ask_about_silent_calls(self) -> None:
        """Ask carriers about calls that are overdue, a few at a time."""
        places = asyncio.Semaphore(LOOK_UPS_AT_ONCE)

        async def ask(record: Verification) -> None:
            async with places:
                await self._ask_about(record)

        await asyncio.gather(*(ask(record) for record in await self._store.take_overdue_calls()))

    async def _ask_about(self, record: Verification) -> None:
        call = record.call
        if call is None:
            return
        log_call(logging.WARNING, "call without news", record, call)
        provider = self._router.provider(call.provider)
        if not provider.capabilities.can_be_asked:
            return
        try:
            if call.call_id:
                event = await provider.look_up(call.call_id)
            else:  # its create request got no answer, and no callback came
                event = await provider.find_call(record.phone, placed_after(record, call))
        except ProviderError as error:
            logger.warning("call could not be looked up: %s", error)
            return
        told = await self._store.record_call_event(record.id, call.number, event) if event is not None else None
        if told is not None and told.call is not None and told.call.state is not call.state:
            log_call(logging.INFO, f"call {told.call.state.value}", told, told.call)
            if call.call_id and told.call.end_reason is EndReason.FAILED:
                await _count_if_possible(self._guard.on_carrier_failure(told))


async def _count_if_possible(counting: Awaitable[None]) -> None:
    """A destination's share is counted beside the call: a call and an accepted code stand without it."""
    try:
        await counting
    except StoreUnavailable as error:
        logger.warning("the store cannot answer: %s", error)


async def _every_second(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # one bad second must not end all later ones
            log_unexpected(error, name)
        await asyncio.sleep(TICK_SECONDS)
