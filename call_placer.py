"""From a wish for a call to one that is placed, or waits for its turn: counted, and on record, before it rings."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from abuse_guard import AbuseGuard
from call_log import log_call
from call_router import CallRouter, Candidate, Choice
from clock import Clock
from dialer import Dialer
from guard_store import Reservation
from log_format import log_unexpected
from number_page import Begun, CallStillLive, NewCode
from otp_store import OtpStore
from send_order import SendOrder
from verification import Call, NewCall, Verification
from voice_provider import CallState, EndReason, ProviderError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sent:
    """`is_confirmed` is False when no carrier told in time whether it took the call, or message.

    `call` is None for a text message; a queued one still waits.
    """

    record: Verification
    call: Call | None
    is_duplicate: bool
    is_confirmed: bool

    @property
    def is_queued(self) -> bool:
        return self.call is not None and self.call.state is CallState.QUEUED


@dataclass(frozen=True, slots=True)
class _Placing:
    """A call that was begun, with what it was counted as, and the carriers for it, the chosen one first."""

    record: Verification
    call: Call
    order: SendOrder
    candidates: Sequence[Candidate]
    reservation: Reservation


class CallPlacer:
    def __init__(
        self, store: OtpStore, router: CallRouter, dialer: Dialer, guard: AbuseGuard, clock: Clock
    ) -> None:
        self._clock = clock
        self._store = store
        self._router = router
        self._dialer = dialer
        self._guard = guard
        self._placing_later: set[asyncio.Task[None]] = set()

    async def place(self, order: SendOrder, new_code: NewCode, candidates: Sequence[Candidate]) -> Sent:
        """Reserve what the call counts, a carrier's turn, then the number's one live call; then place it.

        Raises: LimitReached, StoreUnavailable, NumberLocked, CallStillLive, ProviderError.
        """
        reservation = await self._guard.reserve(order.client, order.phone)
        try:
            choice, begun = await self._choose_and_begin(order, new_code, candidates)
        except Exception:
            await self._guard.refund(reservation)
            raise
        call = begun.record.call
        assert call is not None  # noqa: S101 - begin() always starts or joins a call
        if begun.is_duplicate:  # another request was quicker
            await self._give_back(reservation, choice)
            return Sent(begun.record, call, is_duplicate=True, is_confirmed=True)
        placing = _Placing(begun.record, call, order, _first(choice.candidate, candidates), reservation)
        if choice.turn is not None:
            return await self._dial(placing)
        log_call(logging.INFO, "call queued", begun.record, call)
        self._dial_later(placing, has_turn=False)
        return Sent(begun.record, call, is_duplicate=False, is_confirmed=True)

    async def place_again(
        self, record: Verification, call: Call, order: SendOrder, candidates: Sequence[Candidate]
    ) -> None:
        """Place the next call of a verification whose last one is over, while the caller does something else.

        Raises: LimitReached, StoreUnavailable, ProviderError.
        """
        reservation = await self._guard.reserve(order.client, order.phone)
        choice: Choice | None = None
        try:
            choice = await self._router.choose(candidates, order.ttl_seconds / 2)
            again = await self._store.next_call(record.id, call.number, self._new_call(order, choice), "redialing")
        except Exception:
            await self._give_back(reservation, choice)
            raise
        if again is None or again.call is None:
            await self._give_back(reservation, choice)
            return
        placing = _Placing(again, again.call, order, _first(choice.candidate, candidates), reservation)
        self._dial_later(placing, has_turn=choice.turn is not None)

    async def _give_back(self, reservation: Reservation, choice: Choice | None) -> None:
        await self._guard.refund(reservation)
        if choice is not None:
            await self._give_turn_back(choice)

    @staticmethod
    async def _give_turn_back(choice: Choice) -> None:
        if choice.turn is not None:
            await choice.candidate.line.give_back(choice.turn)

    async def _choose_and_begin(
        self, order: SendOrder, new_code: NewCode, candidates: Sequence[Candidate]
    ) -> tuple[Choice, Begun]:
        """A carrier's turn, or a place in its queue, and the number's one live call."""
        longest_wait_seconds = await self._longest_wait_seconds(order)
        for is_last_try in (False, True):
            choice = await self._router.choose(candidates, longest_wait_seconds)
            try:
                new_call = self._new_call(order, choice)
                return choice, await self._store.begin(order.client, order.phone, new_code, new_call)
            except CallStillLive as left_over:
                await self._give_turn_back(choice)
                if is_last_try or not left_over.record.is_final:
                    raise
                await self._end_left_over_call(left_over)
            except Exception:
                await self._give_turn_back(choice)
                raise
        raise AssertionError("the second try returns or raises")

    async def _longest_wait_seconds(self, order: SendOrder) -> float:
        """Half of the life that the code has, or, if it is running already, has left."""
        running = await self._store.find(order.client, order.phone)
        if running is None or running.is_final:
            return order.ttl_seconds / 2
        return max(0.0, running.expires_at - self._clock.now()) / 2

    def _new_call(self, order: SendOrder, choice: Choice) -> NewCall:
        queue_seconds = order.ttl_seconds / 2 if choice.turn is None else 0
        return self._router.new_call(order, choice.candidate, queue_seconds)

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

    def _dial_later(self, placing: _Placing, *, has_turn: bool) -> None:
        task = asyncio.create_task(self._wait_and_dial(placing, has_turn=has_turn), name="queued call")
        self._placing_later.add(task)
        task.add_done_callback(self._placing_later.discard)

    async def _wait_and_dial(self, placing: _Placing, *, has_turn: bool) -> None:
        """Dial once the call's turn has come. Its caller is gone: what goes wrong is logged."""
        try:
            if not has_turn:
                ready = await self._dialer.wait_for_turn(
                    placing.record, placing.call, placing.order, placing.candidates
                )
                if ready is None:
                    await self._drop(placing)
                    return
                candidates = _first(ready.candidate, placing.candidates)
                placing = replace(placing, record=ready.record, call=ready.call, candidates=candidates)
            await self._dial(placing)
        except ProviderError:
            pass  # logged where it happened, and in the status
        except Exception as error:
            log_unexpected(error, "queued call")

    async def _drop(self, placing: _Placing) -> None:
        """A call whose turn did not come in time, or that is not wanted any more."""
        record, call = placing.record, placing.call
        ended = await self._store.fail_call(record.id, call.number, EndReason.FAILED, "queue_timeout")
        await self._guard.refund(placing.reservation)
        log_call(logging.WARNING, "queued call dropped", ended or record, call)

    async def _dial(self, placing: _Placing) -> Sent:
        record = placing.record
        # Now, as the first callbacks can be quicker than the answer.
        await self._guard.count_if_possible(self._guard.on_placing(record))
        try:
            dialed = await self._dialer.dial(record, placing.call, placing.order, placing.candidates)
        except ProviderError:
            await self._guard.refund(placing.reservation, keep_client_quota=True)
            await self._guard.count_if_possible(self._guard.on_carrier_failure(record))
            raise
        if not dialed.is_confirmed:
            await self._guard.count_if_possible(self._guard.on_carrier_failure(record))
        return Sent(dialed.record, dialed.call, is_duplicate=False, is_confirmed=dialed.is_confirmed)

    async def close(self) -> None:
        """Drop the calls that wait for their turns."""
        if self._placing_later:
            logger.warning("queued calls dropped", extra={"calls": len(self._placing_later)})
        for task in list(self._placing_later):
            task.cancel()
        await asyncio.gather(*self._placing_later, return_exceptions=True)
        await self._router.close()


def _first(candidate: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate, *(one for one in candidates if one is not candidate)]
