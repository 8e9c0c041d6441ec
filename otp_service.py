"""The steps of one verification for the backend: send, verify, status, cancel; and the passing of its time."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from access import Caller
from call_flow import hang_up_if_possible, log_call, log_verification
from call_links import CallLinks
from call_script import ScriptWriter
from clock import Clock
from guard_store import Reservation
from log_format import log_unexpected
from otp_store import Begun, CallStillLive, Checked, NewCode, OtpStore, Outcome, StoreUnavailable
from protection import Protection
from verification import Call, CallRef, NewCall, Status, Verification, draw_code
from voice_provider import (
    CallOrder,
    CallOutcomeUnknown,
    EndReason,
    ProviderError,
    Providers,
    VoiceProvider,
)

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LOOK_UPS_AT_ONCE = 10
CLOCK_SKEW_SECONDS = 10  # by which a carrier's clock may be behind ours


class UnsupportedOption(Exception):
    """A request asks for something that this service, or the carrier in question, cannot do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How calls are placed, whoever asks for them."""

    ring_timeout_seconds: int
    time_limit_seconds: int
    hang_up_on_machine: bool


@dataclass(frozen=True, slots=True)
class SendOrder:
    """One request for a code. `phone` is E.164; `code` is the backend's own, if it brought one."""

    client: str
    phone: str = field(repr=False)
    language: str | None
    code: str | None = field(repr=False)
    code_length: int
    ttl_seconds: int
    max_replays: int
    provider: str | None
    reference: str | None


@dataclass(frozen=True, slots=True)
class Sent:
    """`is_confirmed` is False when the carrier did not tell in time whether it took the call."""

    record: Verification
    call: Call
    is_duplicate: bool
    is_confirmed: bool


class OtpService:
    def __init__(
        self,
        store: OtpStore,
        providers: Providers,
        writer: ScriptWriter,
        links: CallLinks,
        policy: CallPolicy,
        protection: Protection,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._store = store
        self._providers = providers
        self._writer = writer
        self._links = links
        self._policy = policy
        self._protection = protection
        self._guard = protection.guard

    async def send(self, order: SendOrder) -> Sent:
        """Call a phone with a code, unless a call to it is live already.

        The call is counted against every limit, and on record, before the carrier hears of it, so a crash in
        between leaves no call unknown.
        Raises: UnsupportedOption, SendRefused, StoreUnavailable, NumberLocked, CallStillLive, ProviderError.
        """
        await self._guard.check_destination(order.client, order.phone)
        provider = self._provider_named(order.provider)
        language = self._writer.choose_language(order.language, order.phone, provider.capabilities.languages)
        if language is None:
            spoken = ", ".join(provider.capabilities.languages)
            raise UnsupportedOption("language", f"cannot be spoken by {provider.name}, which speaks {spoken}")
        code = order.code or draw_code(order.code_length)
        new_code = NewCode(code, order.code is not None, order.ttl_seconds, order.reference)
        live = await self._store.join(order.client, order.phone, new_code)
        if live is not None and live.call is not None:
            return Sent(live, live.call, is_duplicate=True, is_confirmed=True)
        return await self._start(order, new_code, self._new_call(order, len(code), provider, language))

    def _new_call(self, order: SendOrder, code_length: int, provider: VoiceProvider, language: str) -> NewCall:
        return NewCall(
            provider=provider.name,
            from_number=provider.from_number,
            language=language,
            max_replays=order.max_replays,
            ring_timeout_seconds=self._policy.ring_timeout_seconds,
            time_limit_seconds=self._time_limit(code_length, order.max_replays, language),
            first_reading_seconds=self._writer.first_reading_seconds(code_length, language),
        )

    async def _start(self, order: SendOrder, new_code: NewCode, new_call: NewCall) -> Sent:
        """Reserve what the call counts, then the number's one live call, then place it."""
        reservation = await self._guard.reserve(order.client, order.phone)
        try:
            begun = await self._begin(order, new_code, new_call)
        except Exception:
            await self._guard.refund(reservation)
            raise
        call = begun.record.call
        assert call is not None  # noqa: S101 - begin() always starts or joins a call
        if begun.is_duplicate:  # another request was quicker
            await self._guard.refund(reservation)
            return Sent(begun.record, call, is_duplicate=True, is_confirmed=True)
        return await self._place(begun.record, call, reservation)

    async def _begin(self, order: SendOrder, new_code: NewCode, new_call: NewCall) -> Begun:
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
        if call is None or not call.call_id:
            raise left_over
        try:
            await self._provider_of(call).hang_up(call.call_id)
        except ProviderError as error:
            logger.warning("call could not be hung up: %s", error)
            raise left_over from None
        await self._store.fail_call(left_over.record.id, call.number, EndReason.CANCELLED, "")

    def _time_limit(self, code_length: int, max_replays: int, language: str) -> int:
        """As long as this call can last with all its replays, but never longer than the policy allows."""
        needed = self._writer.whole_call_seconds(code_length, max_replays, language)
        return min(math.ceil(needed), self._policy.time_limit_seconds)

    async def _place(self, record: Verification, call: Call, reservation: Reservation) -> Sent:
        provider = self._provider_of(call)
        order = CallOrder(
            to=record.phone,
            from_number=call.from_number,
            urls=self._links.urls(CallRef(record.id, call.number), reading=0),
            ring_timeout_seconds=call.ring_timeout_seconds,
            time_limit_seconds=call.time_limit_seconds,
            hang_up_on_machine=self._policy.hang_up_on_machine,
        )
        # Now, as the first callbacks can be quicker than the answer.
        await _count_if_possible(self._guard.on_placing(record))
        log_call(logging.INFO, "placing call", record, call)  # what a crash from here on leaves to be found
        try:
            call_id = await provider.place_call(order)
        except CallOutcomeUnknown as error:
            log_call(logging.WARNING, f"call not confirmed: {error}", record, call)
            await _count_if_possible(self._guard.on_carrier_failure(record))
            record = await self._store.find_by_id(record.id) or record  # a callback may have told us meanwhile
            call = record.call or call
            return Sent(record, call, is_duplicate=False, is_confirmed=bool(call.call_id))
        except ProviderError as error:
            await self._store.fail_call(record.id, call.number, EndReason.FAILED, error.code)
            await self._guard.refund(reservation, keep_client_quota=True)
            await _count_if_possible(self._guard.on_carrier_failure(record))
            log_call(logging.WARNING, f"call not placed: {error}", record, call)
            raise
        log_call(logging.INFO, "call placed", record, call)
        record = await self._store.name_call(record.id, call.number, call_id) or record
        if record.status is Status.CANCELLED:  # while we were waiting for the carrier
            await hang_up_if_possible(provider, call_id)
        return Sent(record, record.call or call, is_duplicate=False, is_confirmed=True)

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
        if call is None or not call.call_id:
            return record, False
        return record, await hang_up_if_possible(self._provider_of(call), call.call_id)

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
        provider = self._provider_of(call)
        try:
            if call.call_id:
                event = await provider.look_up(call.call_id)
            else:  # its create request got no answer, and no callback came
                placed_after = record.created_wall + call.started_at - record.created_at
                event = await provider.find_call(record.phone, placed_after - CLOCK_SKEW_SECONDS)
        except ProviderError as error:
            logger.warning("call could not be looked up: %s", error)
            return
        told = await self._store.record_call_event(record.id, call.number, event) if event is not None else None
        if told is not None and told.call is not None and told.call.state is not call.state:
            log_call(logging.INFO, f"call {told.call.state.value}", told, told.call)
            if call.call_id and told.call.end_reason is EndReason.FAILED:
                await _count_if_possible(self._guard.on_carrier_failure(told))

    def _provider_of(self, call: Call) -> VoiceProvider:
        return self._providers.by_name[call.provider]

    def _provider_named(self, name: str | None) -> VoiceProvider:
        if name is None:
            return self._providers.default
        if name not in self._providers.by_name:
            raise UnsupportedOption("provider", f"must be one of {', '.join(self._providers.by_name)}")
        return self._providers.by_name[name]


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
