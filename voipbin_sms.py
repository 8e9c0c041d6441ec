"""Text messages through VoIPBin. Sources of the protocol facts: see voipbin_account.py."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from sms_provider import MessageOrder, MessageReport, MessageState
from voice_provider import CallOutcomeUnknown, RawWebhook, WebhookRejected
from voipbin_account import VoipbinAccount, VoipbinConfig, event_of, id_of, tel

logger = logging.getLogger(__name__)

# Documented on message_overview. The two time-outs are missing receipts, which say nothing of the message: it
# stays where it was known to be.
_STATES = {
    "queued": MessageState.QUEUED,
    "gw_timeout": MessageState.QUEUED,
    "sent": MessageState.SENT,
    "dlr_timeout": MessageState.SENT,
    "delivered": MessageState.DELIVERED,
    "failed": MessageState.UNDELIVERED,
}

# The fields that are read of a report; all others are ignored.
REPORT_SCHEMA = {
    "type": "object",
    "required": ["type", "data"],
    "properties": {
        "type": {"type": "string", "enum": ["message_created", "message_updated", "message_deleted"]},
        "data": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string"},
                "status": {"type": "string", "enum": list(_STATES)},
                "targets": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"status": {"type": "string", "enum": list(_STATES)}},
                    },
                },
            },
        },
    },
}

# Source: the gateway names neither of the two.
_NO_MESSAGE = (
    "VoIPBin sent no message and does not say why: check that VoIPBin has verified the account's identity, that "
    "there is balance, and that VOIPBIN_FROM_NUMBER is an active number of the account"
)


class VoipbinSms:
    """VoIPBin as an SmsProvider."""

    report_schema: Mapping[str, Any] = REPORT_SCHEMA
    signs_reports = True

    def __init__(
        self,
        config: VoipbinConfig,
        http: httpx.AsyncClient,
        name: str = "voipbin",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.from_number = config.from_number
        self._account = VoipbinAccount(config, http, now)

    async def send_message(self, order: MessageOrder) -> str:
        """Send a message; its id, which its reports bear. There is no field for how long it may take.

        Raises: CallRejected, ProviderThrottled, ProviderUnavailable, CallOutcomeUnknown.
        """
        body = {"source": tel(order.from_number), "destinations": [tel(order.to)], "text": order.text}
        answer = await self._account.request("POST", "/messages", body, internal=_NO_MESSAGE)
        message_id = id_of(answer.body)
        if not message_id:
            raise CallOutcomeUnknown("VoIPBin accepted the message but named no id")
        return message_id

    def check_report(self, webhook: RawWebhook) -> None:
        """Check the signature. Reports come to the account's own URL, so nothing else authorises them.

        Raises: WebhookRejected.
        """
        self._account.check_signature(webhook, must_be_signed=True)

    def parse_report(self, webhook: RawWebhook) -> MessageReport | None:
        """Translate an event of the account; None for one that is about no message.

        Raises: WebhookRejected.
        """
        kind, data = event_of(webhook)
        if not kind.startswith("message_"):
            return None
        message_id = id_of(data)
        if not message_id:
            raise WebhookRejected("VoIPBin event names no message", status=400)
        status = _status_of(data)
        if status not in _STATES:
            logger.info("VoIPBin reported an unknown status of a message: %.32r", status)
        return MessageReport(message_id, _STATES.get(status), cause=re.sub(r"[^a-z_]", "", status)[:64])

    def reference_of(self, webhook: RawWebhook) -> str | None:
        """None: no reference of ours travels with a message, so it is found by its id."""
        return None


def _status_of(message: Mapping[str, Any]) -> str:
    """The status of its one target (source), or the message's own, as an example in the documentation has it."""
    targets = message.get("targets")
    target = targets[0] if isinstance(targets, list) and targets and isinstance(targets[0], dict) else message
    return str(target.get("status", ""))
