"""The steps of one verification for the backend: send, verify, status, cancel."""

import math

from access import Caller
from call_log import hang_up_if_possible
from call_placer import CallPlacer, Sent
from call_router import CallRouter
from clock import Clock
from number_page import Checked, NewCode, Outcome
from otp_store import OtpStore
from protection import Protection
from send_order import SendOrder
from text_messages import TextMessages
from verification import Verification, draw_code
from voice_provider import CallState, EndReason, ProviderError


class OtpService:
    def __init__(
        self,
        store: OtpStore,
        router: CallRouter,
        placer: CallPlacer,
        texts: TextMessages,
        protection: Protection,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._store = store
        self._router = router
        self._placer = placer
        self._texts = texts
        self._protection = protection
        self._guard = protection.guard

    async def send(self, order: SendOrder) -> Sent:
        """Call a phone with a code, unless a call to it is live already; or send it a text message.

        The call is counted against every limit, and on record, before a carrier hears of it, so a crash in
        between leaves no call unknown.
        Raises: UnsupportedOption, SendRefused, StoreUnavailable, NumberLocked, CallStillLive, ProviderError.
        """
        await self._guard.check_destination(order.client, order.phone)
        if order.channel == "sms":
            return await self._send_text(order)
        candidates = self._router.candidates(order)
        code = order.code or draw_code(order.code_length)
        new_code = NewCode(
            code, order.code is not None, order.ttl_seconds, order.reference, mode=order.mode, mark=order.mark
        )
        live = await self._store.join(order.client, order.phone, new_code)
        if live is not None and live.call is not None:
            if live.call.state is CallState.QUEUED:
                await self._placer.see_to_queued(live, live.call, candidates)
            return Sent(live, live.call, is_duplicate=True, is_confirmed=True)
        return await self._placer.place(order, new_code, candidates)

    async def code_to_show(self, verification_id: str) -> str | None:
        """The code that a callee is to type on the phone, as long as it can be right."""
        return await self._store.code_to_show(verification_id)

    async def _send_text(self, order: SendOrder) -> Sent:
        language = self._texts.check_order(order)
        code = order.code or draw_code(order.code_length)
        new_code = NewCode(
            code, order.code is not None, order.ttl_seconds, order.reference, keeps_running=order.is_redial
        )
        reservation = await self._guard.reserve(order.client, order.phone)
        try:
            record, is_confirmed = await self._texts.send(order, new_code, language)
        except ProviderError:
            await self._guard.refund(reservation, keep_client_quota=True)
            raise
        except Exception:
            await self._guard.refund(reservation)
            raise
        await self._guard.count_if_possible(self._guard.on_placing(record))
        return Sent(record, None, is_duplicate=False, is_confirmed=is_confirmed)

    def can_text(self, phone: str) -> bool:
        """Whether a code can be sent to this number as a text message."""
        return self._texts.can_reach(phone)

    async def verify(self, caller: Caller, key: str, candidate: str, attempt: str = "") -> Checked:
        """Check a code, which uses up one attempt, unless it is the last one made again, by its name.

        Raises: LimitReached, NumberLocked, StoreUnavailable."""
        reservation = await self._protection.budgets.reserve_wrong_code(*caller)
        try:
            checked = await self._store.check(caller.client, key, candidate, attempt)
        except BaseException:
            await self._guard.count_if_possible(self._protection.budgets.refund(reservation))
            raise
        # What the check said stands without these: a code that is used up must not be an error to its sender.
        if checked.outcome is Outcome.CORRECT and checked.record is not None:
            await self._guard.count_if_possible(self._guard.on_verified(checked.record, reservation))
        elif checked.outcome is not Outcome.INCORRECT:
            await self._guard.count_if_possible(self._protection.budgets.refund(reservation))
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
