"""What a carrier reports of a call, whoever heard of it: on record, in the log, and what follows from it."""

import logging

from abuse_guard import AbuseGuard
from call_log import log_call
from otp_store import OtpStore
from redial import Redials
from verification import Call, CallRef, Verification
from voice_provider import CallEvent, CallState, EndReason


class CallEvents:
    def __init__(self, store: OtpStore, guard: AbuseGuard, redials: Redials) -> None:
        self._store = store
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
        if record.call.state is not call.state:
            log_call(logging.INFO, f"call {record.call.state.value}", record, record.call)
            if record.call.state is CallState.COMPLETED:
                await self._call_is_over(record, record.call.end_reason)
        return record

    async def _call_is_over(self, record: Verification, end_reason: EndReason | None) -> None:
        self._redials.plan(record)
        if end_reason is EndReason.FAILED:
            await self._guard.count_if_possible(self._guard.on_carrier_failure(record))
