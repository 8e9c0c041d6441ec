"""Plivo's text messages: sending one, and the reports of what became of it.

Source of the protocol facts: https://www.plivo.com/docs/messaging (api/messages, concepts/signature-validation),
and, where named "SDK", the public package plivo 4.63.0.
"""

import hmac
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx

from callback_bodies import form_of
from carrier_request import ask
from plivo_account import REFUSALS, error_of, is_any_right
from sms_provider import MessageOrder, MessageReport, MessageState
from voice_provider import CallOutcomeUnknown, RawWebhook, SignaturePolicy, WebhookRejected

logger = logging.getLogger(__name__)

SHORTEST_EXPIRY_SECONDS, LONGEST_EXPIRY_SECONDS = 5, 10_799  # documented; how long a message may be queued

# Documented: `Status` of a report; `rejected` on older pages only.
_STATES = {
    "queued": MessageState.QUEUED,
    "sent": MessageState.SENT,
    "delivered": MessageState.DELIVERED,
    "undelivered": MessageState.UNDELIVERED,
    "failed": MessageState.UNDELIVERED,
    "rejected": MessageState.UNDELIVERED,
}

# The fields that are read of a report; all others are ignored.
REPORT_SCHEMA = {
    "type": "object",
    "required": ["MessageUUID", "Status"],
    "properties": {
        "MessageUUID": {"type": "string", "format": "uuid"},
        "Status": {"type": "string", "enum": list(_STATES)},
        "ErrorCode": {"type": "string", "description": "000 when delivered"},
    },
}

_MESSAGE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NONCE = re.compile(r"[A-Za-z0-9-]{1,64}")  # in examples 20 digits, in the SDK's tests five


@dataclass(frozen=True, slots=True)
class PlivoSmsConfig:
    """The DLT values are those that India's operators know the sender and its text by; "" where there are none."""

    auth_id: str
    auth_token: str = field(repr=False)
    from_number: str = field(repr=False)
    api_url: str = "https://api.plivo.com/v1"
    signature_policy: SignaturePolicy = SignaturePolicy.REQUIRED
    dlt_entity_id: str = ""
    dlt_template_id: str = ""
    dlt_template_category: str = ""
    request_deadline_seconds: float = 10


class PlivoSms:
    """Plivo as an SmsProvider."""

    report_schema: Mapping[str, Any] = REPORT_SCHEMA
    signs_reports = False  # V2 covers no field: one captured signature would do for all reports to the same URL

    def __init__(self, config: PlivoSmsConfig, http: httpx.AsyncClient, name: str = "plivo") -> None:
        self.name = name
        self.from_number = config.from_number
        self._config = config
        self._http = http
        # Documented: every path ends with a slash.
        self._url = f"{config.api_url.rstrip('/')}/Account/{quote(config.auth_id, safe='')}/Message/"
        self._credentials = httpx.BasicAuth(config.auth_id, config.auth_token)
        self._mac = hmac.new(config.auth_token.encode(), digestmod=sha256)
        self._has_warned = False

    async def send_message(self, order: MessageOrder) -> str:
        """Send a message, once; its `message_uuid`. Plivo names one for each destination (documented).

        Raises: ProviderError.
        """
        answer = await ask(
            self._http,
            "Plivo",
            self._config.request_deadline_seconds,
            "POST",
            self._url,
            json=self._parameters(order),
            auth=self._credentials,
        )
        if not answer.is_success:
            raise error_of(answer, _REFUSALS, "message_uuid")
        message_ids = answer.body.get("message_uuid")
        message_id = message_ids[0] if isinstance(message_ids, list) and len(message_ids) == 1 else None
        if not isinstance(message_id, str) or not _MESSAGE_ID.fullmatch(message_id):
            raise CallOutcomeUnknown("Plivo accepted the message but named no message_uuid")
        return message_id

    def _parameters(self, order: MessageOrder) -> dict[str, str | int]:
        registered = {
            "dlt_entity_id": self._config.dlt_entity_id,
            "dlt_template_id": self._config.dlt_template_id,
            "dlt_template_category": self._config.dlt_template_category,
        }
        return {
            "src": order.from_number,
            "dst": order.to,
            "text": order.text,
            "type": "sms",
            "url": order.report_url,
            "method": "POST",
            "log": "false",  # the code stays out of Plivo's records; a word, not a truth value (SDK)
            "message_expiry": max(SHORTEST_EXPIRY_SECONDS, min(order.expires_in_seconds, LONGEST_EXPIRY_SECONDS)),
            **{name: value for name, value in registered.items() if value},
        }

    def check_report(self, webhook: RawWebhook) -> None:
        """Check the V2 signature: base64(HMAC-SHA256(auth token, URL without query + nonce)).

        Reports are signed with V2 only (documented), which does not cover their fields: the message token in the
        path says which message they are about. Not found: what is signed while an account has several tokens; a
        list, as V3 then has, is understood. The main account's signature (Ma) is never looked at.
        Raises: WebhookRejected.
        """
        signature = webhook.headers.get("x-plivo-signature-v2")
        nonce = webhook.headers.get("x-plivo-signature-v2-nonce")
        if signature is None and nonce is None:
            if self._config.signature_policy is SignaturePolicy.REQUIRED:
                raise WebhookRejected("Plivo report is not signed: did something remove its X-Plivo headers?")
            self._warn_of_unsigned_reports()
            return
        if not signature or not nonce or not _NONCE.fullmatch(nonce):
            raise WebhookRejected("Plivo report has half a V2 signature, or an odd nonce")
        messages = (f"{url}{nonce}".encode() for url in webhook.urls)
        if not is_any_right(self._mac, messages, signature.encode().split(b",")):
            raise WebhookRejected(
                "Plivo report has a wrong signature: check PLIVO_AUTH_TOKEN and PUBLIC_URL "
                "(signed for another host?)"
            )

    def _warn_of_unsigned_reports(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Plivo reports come unsigned; their message tokens let them in. Plivo signs all of its reports: "
                "set WEBHOOK_SIGNATURES=required"
            )

    def parse_report(self, webhook: RawWebhook) -> MessageReport:
        """Translate a report: fields of a form, or of the query of a GET. Raises: WebhookRejected."""
        fields = form_of(webhook.query.encode() if webhook.method == "GET" else webhook.body, "Plivo")
        message_id = fields.get("MessageUUID", "")
        if not _MESSAGE_ID.fullmatch(message_id):
            raise WebhookRejected("Plivo report has no MessageUUID", status=400)
        status = fields.get("Status", "")
        if status not in _STATES:
            logger.warning("Plivo reported an unknown status of a message: %.16r", status)
        return MessageReport(message_id, _STATES.get(status), _cause(status, fields.get("ErrorCode", "")))

    def reference_of(self, webhook: RawWebhook) -> str | None:
        """None: a report to a URL without message token has no place for one, and is refused."""
        return None


def _cause(status: str, error_code: str) -> str:
    """Plivo's own words, such as `undelivered 450`, kept short and printable; `000` is no error (documented)."""
    error = "" if error_code == "000" else error_code
    return re.sub(r"[^A-Za-z0-9_ -]", "", f"{status} {error}".strip())[:64]


_REFUSALS = {
    **REFUSALS,
    400: "Plivo found a parameter missing or invalid: check the sender number and, for India, the DLT values",
}
