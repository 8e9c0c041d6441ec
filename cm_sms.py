"""CM.com's text messages: one request to its Business Messaging gateway, and the account's status reports.

Source of the protocol facts: https://developers.cm.com/messaging (docs/integration, docs/incoming-status-report),
as documented in 2026, and CM.com's SDKs, https://github.com/cmdotcom/text-sdk-dotnet, -php and -python; docs/cm.md
says which is which, and what was not found.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from callback_bodies import json_objects_of
from carrier_request import Answer, ask, refusal
from sms_provider import MessageOrder, MessageReport, MessageState
from voice_provider import (
    AccountRefused,
    CallOutcomeUnknown,
    CallRejected,
    ProviderError,
    ProviderUnavailable,
    RawWebhook,
    WebhookRejected,
)

logger = logging.getLogger(__name__)

MAX_SENDER_CHARACTERS = 16  # documented: 11 letters and digits, or 16 digits
MAX_PARTS = 8  # the most that one message may be cut into, as in the SDKs
MAX_REPORT_DEPTH = 8
_REFERENCE = re.compile(r"[A-Za-z0-9]{1,32}")  # SDK: 1 to 32 letters and digits

# `status.code` of a report, by three public integrations; the documentation has no table of them.
_STATES = {
    "0": MessageState.SENT, "accepted": MessageState.SENT,
    "1": MessageState.UNDELIVERED, "rejected": MessageState.UNDELIVERED,
    "2": MessageState.DELIVERED, "delivered": MessageState.DELIVERED,
    "3": MessageState.UNDELIVERED, "failed": MessageState.UNDELIVERED,
    "4": MessageState.DELIVERED, "read": MessageState.DELIVERED,
}  # fmt: skip

# The fields that are read of a report; customers may edit its template.
REPORT_SCHEMA = {
    "type": "object",
    "properties": {
        "messages": {
            "type": "object",
            "properties": {
                "msg": {
                    "type": "object",
                    "properties": {
                        "reference": {"type": "string"},
                        "status": {
                            "type": "object",
                            "properties": {"code": {"type": "string"}, "errorCode": {"type": "string"}},
                        },
                    },
                }
            },
        }
    },
}


@dataclass(frozen=True, slots=True)
class CmSmsConfig:
    """`from_number` is a number in E.164, or a name of up to eleven letters and digits.

    `api_url` has the version in it: there is a second host, which does not go through Cloudflare.
    """

    product_token: str = field(repr=False)
    from_number: str = field(repr=False)
    api_url: str = "https://gw.messaging.cm.com/v1.0"
    request_deadline_seconds: float = 10


class CmSms:
    """CM.com as an SmsProvider."""

    report_schema: Mapping[str, Any] = REPORT_SCHEMA
    signs_reports = False

    def __init__(self, config: CmSmsConfig, http: httpx.AsyncClient, name: str = "cm") -> None:
        self.name = name
        self.from_number = config.from_number
        self._config = config
        self._http = http
        self._message_url = f"{config.api_url.rstrip('/')}/message"
        self._has_warned = False

    async def send_message(self, order: MessageOrder) -> str:
        """Send a message; always the empty id, as CM.com gives none: reports name our reference.

        Raises: CallRejected, ProviderThrottled, ProviderUnavailable, CallOutcomeUnknown.
        """
        answer = await ask(
            self._http,
            "CM.com",
            self._config.request_deadline_seconds,
            "POST",
            self._message_url,
            json={"messages": {"msg": [self._message(order)]}},
            headers={"X-CM-PRODUCTTOKEN": self._config.product_token},
        )
        item = _item_about(answer.body, order.reference)
        if _status_of(item) != "accepted":
            raise _error_of(answer, item)
        return ""

    def _message(self, order: MessageOrder) -> dict[str, Any]:
        return {
            "allowedChannels": ["SMS"],
            "from": _sender(order.from_number),
            "to": [{"number": _international(order.to)}],
            "body": {"type": "auto", "content": order.text},
            "minimumNumberOfMessageParts": 1,
            "maximumNumberOfMessageParts": MAX_PARTS,
            # Whole minutes or hours (SDK): a code that has expired is not worth delivering.
            "validity": f"{max(1, order.expires_in_seconds // 60)}m",
            **self._reference(order.reference),
        }

    def _reference(self, reference: str) -> dict[str, str]:
        if _REFERENCE.fullmatch(reference):
            return {"reference": reference}
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "CM.com takes references of 1 to 32 letters and digits: no reports of messages will come"
            )
        return {}

    def check_report(self, webhook: RawWebhook) -> None:
        """Nothing to check: reports are not signed (seen); the reference in them is the message token."""

    def parse_report(self, webhook: RawWebhook) -> MessageReport:
        """Translate a status report, as documented or as a customer edited it: fields are known by their names.

        Raises: WebhookRejected.
        """
        fields = _fields_of(webhook.body)
        status = _first(fields, "status.code", "statuscode", "status").lower()
        error = _first(fields, "status.errorcode", "errorcode")
        # A template may put anything there, also the recipient's number.
        words = [word for word in (status, error) if re.fullmatch("[0-9]{1,5}|[A-Za-z_]{1,32}", word)]
        if status not in _STATES:
            logger.warning("CM.com reported an unknown message status: %s", " ".join(words) or "(not shown)")
        return MessageReport("", _STATES.get(status), cause=" ".join(words))

    def reference_of(self, webhook: RawWebhook) -> str | None:
        """The message token, wherever in the report the template put it."""
        try:
            reference = _fields_of(webhook.body).get("reference", "")
        except WebhookRejected:
            return None
        return reference if _REFERENCE.fullmatch(reference) else None


def _international(number: str) -> str:
    """Documented: 00 and the country code."""
    return f"00{number[1:]}" if number.startswith("+") else number


def _sender(number: str) -> str:
    """As `to`, but without the 00 where that makes it longer than a sender may be."""
    sender = _international(number)
    return sender if len(sender) <= MAX_SENDER_CHARACTERS else number.removeprefix("+")


def _item_about(body: Mapping[str, Any], reference: str) -> Mapping[str, Any]:
    """Ours among the messages that an answer lists, accepted and rejected ones mixed (documented)."""
    messages = body.get("messages")
    items = [item for item in messages if isinstance(item, dict)] if isinstance(messages, list) else []
    ours = [item for item in items if item.get("reference") == reference]
    if ours:
        return ours[0]
    return items[0] if len(items) == 1 else {}


def _status_of(item: Mapping[str, Any]) -> str:
    return str(item.get("status", "")).lower()


_REFUSALS = {
    401: "CM.com refused the product token: check CM_PRODUCT_TOKEN",
    429: "CM.com allows no more messages now",
}

# Documented: `errorCode`, of the request or of one message. Those that say nothing more than "no" are left out.
_ERRORS: dict[int, tuple[type[ProviderError], str]] = {
    101: (AccountRefused, _REFUSALS[401]),
    102: (AccountRefused, "the CM.com account has too little credit: top it up"),
    103: (AccountRefused, _REFUSALS[401]),
    202: (CallRejected, "CM.com found the request malformed"),
    203: (CallRejected, "CM.com found the request malformed"),
    301: (CallRejected, "CM.com refused the sender: check CM_SMS_SENDER"),
    302: (CallRejected, "CM.com refused the recipient's number"),
    303: (CallRejected, "CM.com refused the recipient's number"),
    304: (CallRejected, "CM.com refused the text"),
    305: (CallRejected, "CM.com refused a value of the request"),
    401: (CallRejected, "CM.com's spam filter refused the message"),
    402: (CallRejected, "the recipient is on a block list at CM.com"),
    403: (CallRejected, "CM.com rejected the message"),
    500: (ProviderUnavailable, "CM.com is in trouble"),
}


def _error_of(answer: Answer, item: Mapping[str, Any]) -> ProviderError:
    """The error for a message that was not accepted. The gateway's own codes say more than the HTTP status."""
    code = _number(item.get("messageErrorCode")) or _number(answer.body.get("errorCode"))
    shown = str(code) if code else ""
    if code in _ERRORS and answer.status != 429:
        kind, text = _ERRORS[code]
        return kind(f"{text} ({answer.status} {shown})")
    if _status_of(item) == "rejected":
        return CallRejected(f"CM.com rejected the message ({answer.status} {shown})")
    if answer.is_success:
        return CallOutcomeUnknown("CM.com answered without saying what became of the message")
    return refusal(answer, "CM.com", _REFUSALS, code=shown, is_own_error=bool(code))


def _number(value: object) -> int:
    """A code as a number, 0 for anything else."""
    return int(str(value)) if re.fullmatch("[0-9]{1,4}", str(value)) else 0


def _fields_of(body: bytes) -> dict[str, str]:
    """Every plain value of a report by its name in lower case, one inside `status` as `status.code`.

    Raises: WebhookRejected, also for a report about several messages.
    """
    fields: dict[str, str] = {}
    for name, value in _plain_values(json_objects_of(body, "CM.com"), ""):
        if fields.setdefault(name, value) != value and name == "reference":
            raise WebhookRejected("CM.com report is about several messages", status=400)
    return fields


def _plain_values(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    if depth > MAX_REPORT_DEPTH:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            inner_name = f"status.{key.lower()}" if name == "status" else key.lower()
            yield from _plain_values(inner, inner_name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _plain_values(inner, name, depth + 1)
    elif isinstance(value, (str, int, float)):
        yield name, str(value)


def _first(fields: Mapping[str, str], *names: str) -> str:
    return next((fields[name] for name in names if fields.get(name)), "")
