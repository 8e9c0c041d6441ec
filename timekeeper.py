"""The passing of time: codes that expire, calls that fell silent, calls that are placed once more."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from abuse_guard import SendRefused
from call_events import CallEvents
from call_log import hang_up_if_possible, log_call, log_verification
from call_placer import CallPlacer
from call_router import CallRouter, Candidate
from clock import Clock
from dialer import placed_after
from log_format import log_unexpected
from number_failures import NumberLocked
from number_page import CallStillLive, OtherCall
from otp_service import OtpService
from otp_store import OtpStore, StoreUnavailable
from protection import Protection
from redial import Redials
from send_order import SendOrder, UnsupportedOption
from verification import Call, Verification
from voice_provider import ProviderError

logger = logging.getLogger(__name__)

# One redial that cannot be must not keep the others from being.
_NO_REDIAL = (SendRefused, UnsupportedOption, NumberLocked, CallStillLive, StoreUnavailable, ProviderError)

TICK_SECONDS = 1.0
LOOK_UPS_AT_ONCE = 10


class Timekeeper:
    def __init__(
        self,
        service: OtpService,
        placer: CallPlacer,
        router: CallRouter,
        store: OtpStore,
        events: CallEvents,
        redials: Redials,
        protection: Protection,
        clock: Clock,
    ) -> None:
        self._service = service
        self._placer = placer
        self._router = router
        self._store = store
        self._events = events
        self._redials = redials
        self._protection = protection
        self._clock = clock

    async def keep_time(self) -> None:
        """Let deadlines pass, and ask carriers about calls that fell silent; runs until it is cancelled."""
        await asyncio.gather(
            _every_second("expiry", self.expire),
            _every_second("look-up of silent calls", self.ask_about_silent_calls),
            _every_second("redial", self.redial),
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
        if event is None:
            return
        try:
            told = await self._events.take_in(record, call, event)
        except OtherCall:  # a callback has named it otherwise meanwhile
            return
        longest_seconds = call.ring_timeout_seconds + call.time_limit_seconds
        is_too_long = self._clock.now() > call.started_at + longest_seconds
        is_unlimited = provider.capabilities.hangs_up and not provider.capabilities.limits_call
        if told is not None and told.live_call is not None and is_too_long and is_unlimited:
            await hang_up_if_possible(provider, event.call_id)

    async def redial(self) -> None:
        """Place the calls once more that were busy or not answered, where that is wanted."""
        for ref in self._redials.take_due():
            record = await self._store.find_by_id(ref.verification_id)
            call = record.call if record is not None else None
            if record is None or call is None or call.number != ref.number or not self._redials.is_wanted(record):
                continue
            try:
                await self._redial(record, call)
            except _NO_REDIAL as error:
                log_call(logging.WARNING, f"call not placed once more: {type(error).__name__}", record, call)

    async def _redial(self, record: Verification, call: Call) -> None:
        order = self._order_again(record, call)
        if order.channel == "sms":
            await self._service.send(order)
            return
        await self._protection.guard.check_destination(order.client, order.phone)
        await self._placer.place_again(record, call, order, self._candidates_again(order, call))

    def _order_again(self, record: Verification, call: Call) -> SendOrder:
        through = self._redials.policy.through
        return SendOrder(
            client=record.client,
            phone=record.phone,
            channel="sms" if through == "sms" else "voice",
            language=call.language,
            code=None,
            code_length=call.code_length,
            ttl_seconds=max(1, int(record.expires_at - self._clock.now())),
            max_replays=call.manner.max_replays,
            hide_caller_id=call.hide_caller_id and through != "sms",  # a message always shows its sender
            provider=call.provider if call.is_pinned and through != "sms" else None,
            reference=record.reference,
            mode=record.mode,
            prompts=call.manner.prompts,
            voice=call.manner.voice,
            auto_replay=call.manner.auto_replay,
            keys_first=call.manner.keys_first,
            template=call.manner.template,
            is_redial=True,
        )

    def _candidates_again(self, order: SendOrder, call: Call) -> list[Candidate]:
        """The carrier of the call before comes first, or, if the next one is wanted, last."""
        candidates = self._router.candidates(order)
        is_last = self._redials.policy.through == "next"
        return sorted(candidates, key=lambda one: (one.provider.name == call.provider) == is_last)


async def _every_second(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # one bad second must not end all later ones
            log_unexpected(error, name)
        await asyncio.sleep(TICK_SECONDS)
