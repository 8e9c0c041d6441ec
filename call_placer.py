"""From a wish for a call to one that is placed, or waits for its turn: counted, and on record, before it rings."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from abuse_guard import AbuseGuard, SendRefused
from call_log import log_call
from call_router import CallRouter, Candidate, Choice
from clock import Clock
from dialer import Dialer
from jobs import Dial, Jobs
from limit_rules import Reservation
from log_format import log_unexpected
from number_page import Begun, CallStillLive, NewCode
from otp_store import OtpStore, StoreUnavailable
from send_order import SendOrder, UnsupportedOption, order_again
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
        self, store: OtpStore, router: CallRouter, dialer: Dialer, guard: AbuseGuard, jobs: Jobs, clock: Clock
    ) -> None:
        self._clock = clock
        self._jobs = jobs
        self._store = store
        self._router = router
        self._dialer = dialer
        self._guard = guard
        self._dialling: set[asyncio.Task[None]] = set()

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
        await self._queue(placing)
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
        if choice.turn is not None:
            self._dial_apart(placing)
        else:
            await self._queue(placing)

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

    async def _queue(self, placing: _Placing) -> None:
        """Have a call dialled when its turn comes, by whoever works then. Raises: StoreUnavailable."""
        record, call = placing.record, placing.call
        providers = tuple(one.provider.name for one in placing.candidates)
        try:
            await self._jobs.plan(Dial(record.id, call.number, providers, call.started_at, placing.reservation.at))
        except StoreUnavailable:
            with contextlib.suppress(StoreUnavailable):
                await self._drop(placing, "store_unavailable")
            raise
        log_call(logging.INFO, "call queued", record, call)

    async def see_to_queued(self, record: Verification, call: Call, candidates: Sequence[Candidate]) -> None:
        """Plan a call that waits, as whoever queued it may have died before that. Raises: StoreUnavailable."""
        names = sorted((one.provider.name for one in candidates), key=lambda name: name != call.provider)
        await self._jobs.plan(Dial(record.id, call.number, tuple(names), call.started_at, call.started_at))

    async def dial_queued(self, job: Dial) -> None:
        """Dial once the call's turn has come. Done again, it does nothing: then the call is not queued any more.

        Raises: StoreUnavailable.
        """
        record = await self._store.find_by_id(job.verification_id)
        call = record.call if record is not None else None
        if record is None or call is None or call.number != job.call_number:
            return
        reservation = self._guard.reservation_at(record.client, record.phone, job.reserved_at)
        if call.state is not CallState.QUEUED:
            if call.end_reason is EndReason.CANCELLED and call.started_at == job.queued_at:  # never dialled
                await self._guard.refund(reservation)
            return
        order = order_again(record, call, self._clock.now())
        placing = _Placing(record, call, order, self._candidates_again(order, job), reservation)
        ready = None
        if placing.candidates:
            ready = await self._dialer.wait_for_turn(record, call, order, placing.candidates)
        if ready is None:
            await self._drop(placing, "queue_timeout")
            return
        candidates = _first(ready.candidate, placing.candidates)
        try:
            await self._guard.check_destination(record.client, record.phone)
        except SendRefused:  # stopped while it waited
            ready.candidate.line.abandon()
            await self._store.fail_call(record.id, ready.call.number, EndReason.FAILED, "destination_not_allowed")
            await self._guard.refund(reservation)
            log_call(logging.WARNING, "queued call stopped", ready.record, ready.call)
            return
        self._dial_apart(replace(placing, record=ready.record, call=ready.call, candidates=candidates))

    def _candidates_again(self, order: SendOrder, job: Dial) -> list[Candidate]:
        """Those that the call was begun with, in that order; none when the settings have no use for them now."""
        try:
            by_name = {one.provider.name: one for one in self._router.candidates(order)}
        except UnsupportedOption:
            return []
        return [by_name[name] for name in job.providers if name in by_name]

    async def _drop(self, placing: _Placing, cause: str) -> None:
        """End a call whose turn did not come in time, or that is not wanted any more."""
        record, call = placing.record, placing.call
        known = await self._store.find_by_id(record.id)
        if known is None or known.call is None or known.call.number != call.number:
            return
        was_cancelled = known.call.end_reason is EndReason.CANCELLED and known.call.started_at == call.started_at
        if known.call.state is not CallState.QUEUED and not was_cancelled:
            return  # somebody else has dialled it
        ended = await self._store.fail_call(record.id, call.number, EndReason.FAILED, cause)
        await self._guard.refund(placing.reservation)
        log_call(logging.WARNING, "queued call dropped", ended or record, call)

    def _dial_apart(self, placing: _Placing) -> None:
        """Dial while the caller does something else."""
        task = asyncio.create_task(self._dial_unattended(placing), name="call")
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dial_unattended(self, placing: _Placing) -> None:
        """Dial with nobody there to be told what goes wrong."""
        try:
            await self._dial(placing)
        except ProviderError:
            pass  # logged where it happened, and in the status
        except Exception as error:
            log_unexpected(error, "queued call")

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
        """Wait for the calls that are being placed."""
        if self._dialling:
            _, unfinished = await asyncio.wait(self._dialling, timeout=self._router.deadline_seconds)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await self._router.close()


def _first(candidate: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate, *(one for one in candidates if one is not candidate)]
