"""The passing of time: codes that expire, and calls that fell silent."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from call_events import CallEvents
from call_log import hang_up_if_possible, log_call, log_verification
from call_router import CallRouter
from clock import Clock
from dialer import placed_after
from log_format import log_unexpected
from number_page import OtherCall
from otp_store import OtpStore, StoreUnavailable
from protection import Protection
from verification import Verification
from voice_provider import ProviderError

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LOOK_UPS_AT_ONCE = 10


class Timekeeper:
    def __init__(
        self, router: CallRouter, store: OtpStore, events: CallEvents, protection: Protection, clock: Clock
    ) -> None:
        self._router = router
        self._store = store
        self._events = events
        self._protection = protection
        self._clock = clock

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


async def _every_second(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except StoreUnavailable:
            pass  # requests tell of it, and what is due stays due
        except Exception as error:  # one bad second must not end all later ones
            log_unexpected(error, name)
        await asyncio.sleep(TICK_SECONDS)
