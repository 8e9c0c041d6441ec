"""Placing a call once more, when its time has come and it is still wanted."""

import logging
from dataclasses import replace

from abuse_guard import AbuseGuard, SendRefused
from call_log import log_call
from call_placer import CallPlacer
from call_router import CallRouter, Candidate
from clock import Clock
from jobs import Redial
from number_failures import NumberLocked
from number_page import CallStillLive
from otp_service import OtpService
from otp_store import OtpStore
from redial import Redials
from send_order import SendOrder, UnsupportedOption, order_again
from verification import Call, Verification
from voice_provider import ProviderError

_NO_REDIAL = (SendRefused, UnsupportedOption, NumberLocked, CallStillLive, ProviderError)


class Redialer:
    def __init__(
        self,
        service: OtpService,
        placer: CallPlacer,
        router: CallRouter,
        store: OtpStore,
        guard: AbuseGuard,
        redials: Redials,
        clock: Clock,
    ) -> None:
        self._service = service
        self._placer = placer
        self._router = router
        self._store = store
        self._guard = guard
        self._redials = redials
        self._clock = clock

    async def redial(self, job: Redial) -> None:
        """Place a call once more. Done again, it does nothing: then another call is the newest one.

        Raises: StoreUnavailable.
        """
        record = await self._store.find_by_id(job.verification_id)
        call = record.call if record is not None else None
        if record is None or call is None or call.number != job.call_number or not self._redials.is_wanted(record):
            return
        try:
            await self._redial(record, call)
        except _NO_REDIAL as error:
            log_call(logging.WARNING, f"call not placed once more: {type(error).__name__}", record, call)

    async def _redial(self, record: Verification, call: Call) -> None:
        order = replace(order_again(record, call, self._clock.now()), is_redial=True)
        if self._redials.policy.through == "sms":
            # A message always shows its sender, and comes from whoever sends messages.
            await self._service.send(replace(order, channel="sms", hide_caller_id=False, provider=None))
            return
        await self._guard.check_destination(order.client, order.phone)
        await self._placer.place_again(record, call, order, self._candidates_again(order, call))

    def _candidates_again(self, order: SendOrder, call: Call) -> list[Candidate]:
        """The carrier of the call before comes first, or, if the next one is wanted, last."""
        candidates = self._router.candidates(order)
        is_last = self._redials.policy.through == "next"
        return sorted(candidates, key=lambda one: (one.provider.name == call.provider) == is_last)
