"""What a carrier reports of a call, whoever heard of it: on record, in the log, and what follows from it."""

import logging

from abuse_guard import AbuseGuard
from call_log import hang_up_if_possible, log_call
from otp_store import OtpStore
from redial import Redials
from verification import Call, CallRef, Status, Verification
from voice_provider import CallEvent, CallState, EndReason, Providers

# A carrier waits three seconds for the answer to its callback (documented for Vobiz), however slow its own API is.
HANG_UP_SECONDS = 1.5


class CallEvents:
    def __init__(self, store: OtpStore, providers: Providers, guard: AbuseGuard, redials: Redials) -> None:
        self._store = store
        self._providers = providers
        self._guard = guard
        self._redials = redials

    async def take_in(self, before: Verification, call: Call, event: CallEvent) -> Verification | None:
        """The verification with its newest call moved on; None when `call` is not its newest one any more.

        Raises: OtherCall, StoreUnavailable.
        """
        ref = CallRef(before.id, call.number)
        record = await self._store.record_call_event(*ref, event)
        if record is not None and event.reading:
            record = await self._store.record_reading_end(*ref, event.reading) or record
        if record is None or record.call is None:
            return record
        if not call.call_id and record.status is Status.CANCELLED and record.call.is_live:
            await self._end_cancelled(record.call)  # the cancellation had no id to hang up by
        if record.call.state is not call.state:
            log_call(logging.INFO, f"call {record.call.state.value}", record, record.call)
            if record.call.state is CallState.COMPLETED:
                await self._call_is_over(record, record.call.end_reason)
        return record

    async def _end_cancelled(self, call: Call) -> None:
        provider = self._providers.by_name[call.provider]
        if call.call_id and provider.capabilities.hangs_up:
            await hang_up_if_possible(provider, call.call_id, HANG_UP_SECONDS)

    async def _call_is_over(self, record: Verification, end_reason: EndReason | None) -> None:
        await self._redials.plan(record)
        if end_reason is EndReason.FAILED:
            await self._guard.count_if_possible(self._guard.on_carrier_failure(record))
