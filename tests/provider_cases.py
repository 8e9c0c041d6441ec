"""What the shared tests of carriers must know of each one: how its client is made, what it answers and reports.

One entry per carrier, in `VOICE_CASES` and, where it sends text messages, in `SMS_CASES`. A carrier that can be
configured but has no entry fails tests/test_providers.py.
"""

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx

from carriers import open_carrier, open_texter
from settings import load_settings
from sms_provider import MessageOrder, MessageState, SmsProvider
from tests.conftest import keep_secret
from voice_provider import (
    AccountRefused,
    CallRejected,
    CallState,
    EndReason,
    ProviderError,
    RawWebhook,
    VoiceProvider,
)

PAYLOADS = Path(__file__).parent / "payloads"
CALLEE = keep_secret("+14155550142")
CALLER_ID = "+12025550100"
CODE = keep_secret("482913")
TOKEN = keep_secret("7f" * 34)  # a call token, or a message token
URL = f"https://otp.example.com/events/{TOKEN}"
NONCE = "05429567804466091622"

Vendor = Callable[[httpx.Request], httpx.Response]
Signing = Callable[[bytes], dict[str, str]]
"""The headers of a callback with this body to `URL`, with the carrier's signature."""


@dataclass(frozen=True)
class Report:
    """A callback and what it means. `expected` is what its route is for, None on routes that take any event."""

    body: bytes
    state: CallState | None
    expected: CallState | None = None
    reading: int = 0
    digits: str = ""


@dataclass(frozen=True)
class VoiceCase:
    """A carrier for calls.

    `refusals` are its own error answers by status. `is_500_proof`: whether its own 500 proves that nothing was
    dialled. `no_call` is what an API that does not know a call answers to questions, and `hung_up` its answer to
    a hangup. `ends` are reports of a call's end by reason; None is an ordinary end. Reasons that the carrier does
    not tell apart are `untold`. `own_words` are statuses whose own answer says more than the status does.
    """

    name: str
    settings: Mapping[str, Any]
    secrets: tuple[str, ...]
    accepted: bytes
    call_id: str
    refusals: Mapping[int, bytes]
    is_500_proof: bool
    reports: Mapping[str, Report]
    ends: Mapping[EndReason | None, bytes]
    untold: frozenset[EndReason]
    hung_up: tuple[int, bytes] = (204, b"")
    gone: tuple[int, bytes] = (404, b"")
    no_call: tuple[int, bytes] = (404, b"")
    signing: Signing | None = None
    own_words: Mapping[int, type[ProviderError]] = field(default_factory=dict)

    def client(self, vendor: Vendor, **settings: Any) -> VoiceProvider:
        """The client as the service makes it, except that the carrier is a function."""
        return open_carrier(self.name, _settings({**self.settings, **settings}), _http(vendor))


@dataclass(frozen=True)
class SmsCase:
    """A carrier for text messages. `reports` are by what they mean."""

    name: str
    settings: Mapping[str, Any]
    secrets: tuple[str, ...]
    accepted: bytes
    message_id: str
    refusals: Mapping[int, bytes]
    reports: Mapping[MessageState, bytes]
    reference: str = TOKEN
    signing: Signing | None = None
    is_500_proof: bool = True
    own_words: Mapping[int, type[ProviderError]] = field(default_factory=dict)

    def client(self, vendor: Vendor, **settings: Any) -> SmsProvider:
        return open_texter(self.name, _settings({**self.settings, **settings}), _http(vendor))

    @property
    def order(self) -> MessageOrder:
        return MessageOrder(CALLEE, CALLER_ID, f"{CODE} is your code.", URL, self.reference, 300)


def _settings(given: Mapping[str, Any]) -> Any:
    return load_settings(**{"from_number": CALLER_ID, "allow_anonymous": True, "allowed_regions": "*", **given})


def _http(vendor: Vendor) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(vendor))


def payload(name: str) -> bytes:
    """A file below tests/payloads."""
    return (PAYLOADS / name).read_bytes().strip()


def form(name: str, **changes: str) -> bytes:
    """A form with other values."""
    return urlencode({**dict(parse_qsl(payload(name).decode(), keep_blank_values=True)), **changes}).encode()


def document(name: str, **changes: Any) -> bytes:
    """A JSON object with other values."""
    return json.dumps({**json.loads(payload(name)), **changes}).encode()


def webhook_of(body: bytes, headers: Mapping[str, str] | None = None) -> RawWebhook:
    return RawWebhook((URL,), headers or {}, body)


def _mac(key: str, message: str | bytes) -> bytes:
    return hmac.digest(key.encode(), message.encode() if isinstance(message, str) else message, sha256)


# Vobiz

_VOBIZ_TOKEN = keep_secret("vobiz-case-CANARY-0123456789")


def _signed_by_vobiz(body: bytes) -> dict[str, str]:
    signature = base64.b64encode(_mac(_VOBIZ_TOKEN, f"{URL}.{NONCE}")).decode()
    return {"x-vobiz-signature-v3": signature, "x-vobiz-signature-v3-nonce": NONCE}


VOBIZ = VoiceCase(
    name="vobiz",
    settings={"vobiz_auth_id": "MA_TEST", "vobiz_auth_token": _VOBIZ_TOKEN},
    secrets=(_VOBIZ_TOKEN,),
    accepted=payload("vobiz/call_fired.json"),
    call_id="5a9fd4a0-3d4c-11ef-bef9-0242ac110005",
    refusals={
        status: payload(f"vobiz/error_{status}.json") for status in (400, 401, 402, 403, 404, 422, 429, 500)
    },
    is_500_proof=True,
    reports={
        "ring": Report(payload("vobiz/ring.form"), CallState.RINGING, CallState.RINGING),
        "answer": Report(payload("vobiz/answer.form"), CallState.ANSWERED, CallState.ANSWERED),
        "key": Report(payload("vobiz/key_pressed.form"), CallState.ANSWERED, CallState.ANSWERED, digits="1"),
    },
    ends={
        None: payload("vobiz/hangup_normal.form"),
        EndReason.BUSY: payload("vobiz/hangup_busy.form"),
        EndReason.NO_ANSWER: payload("vobiz/hangup_no_answer.form"),
        EndReason.REJECTED: payload("vobiz/hangup_rejected.form"),
        EndReason.CANCELLED: payload("vobiz/hangup_cancelled.form"),
        EndReason.FAILED: payload("vobiz/hangup_failed.form"),
        EndReason.VOICEMAIL: payload("vobiz/hangup_machine.form"),
    },
    untold=frozenset(),
    signing=_signed_by_vobiz,
    own_words={403: AccountRefused},  # the account is not active
)

# Plivo: calls by XML, calls by PHLO, text messages

_PLIVO_TOKEN = keep_secret("plivo-case-CANARY-0123456789")
_PLIVO_ACCOUNT = {"plivo_auth_id": "MAXXXXXXXXXXXXXXXXXX", "plivo_auth_token": _PLIVO_TOKEN}
_PLIVO_ERROR = payload("plivo/error.json")


def _signed_by_plivo(body: bytes) -> dict[str, str]:
    fields = "".join(name + value for name, value in sorted(parse_qsl(body.decode(), keep_blank_values=True)))
    signature = base64.b64encode(_mac(_PLIVO_TOKEN, f"{URL}?{fields}.{NONCE}")).decode()
    return {"x-plivo-signature-v3": signature, "x-plivo-signature-v3-nonce": NONCE}


def _report_signed_by_plivo(body: bytes) -> dict[str, str]:
    signature = base64.b64encode(_mac(_PLIVO_TOKEN, URL + NONCE)).decode()
    return {"x-plivo-signature-v2": signature, "x-plivo-signature-v2-nonce": NONCE}


def _plivo_end(code: str) -> bytes:
    return form("plivo/hangup_normal.form", HangupCauseCode=code)


PLIVO = VoiceCase(
    name="plivo",
    settings=_PLIVO_ACCOUNT,
    secrets=(_PLIVO_TOKEN,),
    accepted=payload("plivo/call_fired.json"),
    call_id="97ceeb52-58b6-11e1-86da-77300b68f8bb",
    refusals=dict.fromkeys((400, 401, 402, 403, 404, 429, 500), _PLIVO_ERROR),
    is_500_proof=True,
    reports={
        "ring": Report(payload("plivo/ring.form"), CallState.RINGING, CallState.RINGING),
        "answer": Report(payload("plivo/answer.form"), CallState.ANSWERED, CallState.ANSWERED),
        "key": Report(payload("plivo/key_pressed.form"), CallState.ANSWERED, CallState.ANSWERED, digits="1"),
    },
    ends={
        None: payload("plivo/hangup_normal.form"),
        EndReason.BUSY: payload("plivo/hangup_busy_without_code.form"),
        EndReason.NO_ANSWER: _plivo_end("6010"),
        EndReason.REJECTED: _plivo_end("3020"),
        EndReason.CANCELLED: _plivo_end("1000"),
        EndReason.FAILED: _plivo_end("3050"),
        EndReason.VOICEMAIL: payload("plivo/hangup_machine.form"),
    },
    untold=frozenset(),
    signing=_signed_by_plivo,
)

_RUN_REFUSED = payload("phlo/run_refused.json")
PHLO = VoiceCase(
    name="phlo",
    settings={
        **_PLIVO_ACCOUNT,
        "plivo_phlo_id": "4c1a9f23-0000-4879-bb80-db856e1e7701",
        "phlo_reports_back": True,
    },
    secrets=(_PLIVO_TOKEN,),
    accepted=payload("phlo/run_accepted.json"),
    call_id="7b6f8256-0000-4d9a-bf2a-a2cd0f05d269",
    refusals=dict.fromkeys((400, 401, 402, 403, 404, 429, 500), _RUN_REFUSED),
    is_500_proof=False,
    reports={
        "answered": Report(payload("phlo/event_answered.json"), CallState.ANSWERED),
        "spoken": Report(payload("phlo/event_spoken.json"), CallState.ANSWERED, reading=1),
    },
    ends={
        None: payload("phlo/event_ended.json"),
        EndReason.BUSY: payload("phlo/event_busy.json"),
        EndReason.NO_ANSWER: payload("phlo/event_no_answer.json"),
        EndReason.REJECTED: payload("phlo/event_rejected.json"),
        EndReason.FAILED: payload("phlo/event_failed.json"),
        EndReason.VOICEMAIL: payload("phlo/event_voicemail.json"),
    },
    untold=frozenset({EndReason.CANCELLED}),
)

PLIVO_SMS = SmsCase(
    name="plivo",
    settings={**_PLIVO_ACCOUNT, "sms_providers": "plivo"},
    secrets=(_PLIVO_TOKEN,),
    accepted=payload("plivo/message_queued.json"),
    message_id="db3ce55a-7f1d-11e1-8ea7-1231380bc196",
    refusals=dict.fromkeys((400, 401, 402, 403, 404, 429, 500), _PLIVO_ERROR),
    reports={
        MessageState.SENT: payload("plivo/report_sent.form"),
        MessageState.DELIVERED: payload("plivo/report_delivered.form"),
        MessageState.UNDELIVERED: payload("plivo/report_undelivered.form"),
    },
    signing=_report_signed_by_plivo,
)

# CM.com

_CM_TOKEN = keep_secret("4e1a62c0-CASE-4b7d-8d3e-5f6a7b8c9d0e")
_CM_ACCOUNT = {"cm_product_token": _CM_TOKEN}
_CM_REFUSED = payload("cm/error_message.json")

CM = VoiceCase(
    name="cm",
    settings=_CM_ACCOUNT,
    secrets=(_CM_TOKEN,),
    accepted=payload("cm/otp_queued.json"),
    call_id="4f6c1d7e-1111-4222-8333-944444444444",
    refusals={
        **dict.fromkeys((400, 402, 403, 404, 429), _CM_REFUSED),
        401: b"",
        500: payload("cm/error_details.json"),
    },
    is_500_proof=True,
    reports={},
    ends={
        None: payload("cm/callback_finished.json"),
        EndReason.BUSY: payload("cm/callback_failed_busy.json"),
        EndReason.NO_ANSWER: payload("cm/callback_cancelled.json"),
        EndReason.REJECTED: payload("cm/callback_rejected.json"),
        EndReason.FAILED: document("cm/callback_rejected.json", result={"code": 11, "description": "Failed"}),
    },
    untold=frozenset({EndReason.CANCELLED, EndReason.VOICEMAIL}),
)

_CM_REFERENCE = keep_secret("0123456789abcdef0123456789abcdef")
CM_SMS = SmsCase(
    name="cm",
    settings={**_CM_ACCOUNT, "sms_providers": "cm"},
    secrets=(_CM_TOKEN,),
    accepted=payload("cm/sms_accepted.json"),
    message_id="",
    refusals={
        400: document("cm/sms_refused.json", errorCode=202, details="Malformed"),
        401: payload("cm/sms_refused.json"),
        402: document("cm/sms_refused.json", errorCode=102, details="Insufficient balance"),
        403: b"",
        404: b"",
        429: b"",
        500: payload("cm/error_details.json"),
    },
    reports={
        MessageState.DELIVERED: payload("cm/sms_report_edited.json"),
        MessageState.UNDELIVERED: payload("cm/sms_report.json"),
    },
    reference=_CM_REFERENCE,
)

# VoIPBin

_ACCESS_KEY = keep_secret("vb_access-key-case-CANARY-0123456789")
_WEBHOOK_SECRET = keep_secret("voipbin-case-secret-CANARY-01")
_VOIPBIN_ACCOUNT = {"voipbin_access_key": _ACCESS_KEY, "voipbin_webhook_secret": _WEBHOOK_SECRET}
_VOIPBIN_REFUSALS = {
    400: payload("voipbin/error_400_action.json"),
    401: payload("voipbin/error_401.json"),
    402: payload("voipbin/error_402.json"),
    403: payload("voipbin/error_403_identity.json"),
    404: payload("voipbin/error_404_call.json"),
    429: payload("voipbin/error_429.json"),
    500: payload("voipbin/error_500.json"),
}
# 403: the account's identity; 500: nameless, perhaps for a country off the whitelist.
_VOIPBIN_OWN_WORDS = {403: AccountRefused, 500: CallRejected}


def _signed_by_voipbin(body: bytes) -> dict[str, str]:
    return {"x-voipbin-signature": f"sha256={_mac(_WEBHOOK_SECRET, body).hex()}"}


def _voipbin_call(name: str) -> bytes:
    """The call that an event is about, as the API shows it."""
    return json.dumps(json.loads(payload(name))["data"]).encode()


VOIPBIN = VoiceCase(
    name="voipbin",
    settings=_VOIPBIN_ACCOUNT,
    secrets=(_ACCESS_KEY, _WEBHOOK_SECRET),
    accepted=payload("voipbin/create_call.json"),
    call_id="0b6c1a52-0000-4000-8000-000000000001",
    refusals=_VOIPBIN_REFUSALS,
    is_500_proof=True,
    hung_up=(200, _voipbin_call("voipbin/call_terminating.json")),
    gone=(409, payload("voipbin/error_409_hangup.json")),
    no_call=(404, payload("voipbin/error_404_call.json")),
    reports={
        "dialing": Report(payload("voipbin/call_created.json"), CallState.DIALING),
        "ringing": Report(payload("voipbin/call_ringing.json"), CallState.RINGING),
        "answered": Report(payload("voipbin/call_progressing.json"), CallState.ANSWERED),
        "answered, by our own action": Report(payload("voipbin/otp_answered.json"), CallState.ANSWERED),
        "reading": Report(payload("voipbin/otp_reading.json"), CallState.ANSWERED, reading=1),
    },
    ends={
        None: payload("voipbin/call_hangup_remote.json"),
        EndReason.BUSY: payload("voipbin/call_hangup_busy.json"),
        EndReason.NO_ANSWER: payload("voipbin/call_hangup_noanswer.json"),
        EndReason.CANCELLED: payload("voipbin/call_hangup_cancel.json"),
        EndReason.FAILED: payload("voipbin/call_hangup_failed.json"),
        EndReason.VOICEMAIL: payload("voipbin/call_hangup_amd.json"),
    },
    untold=frozenset({EndReason.REJECTED}),
    signing=_signed_by_voipbin,
    own_words=_VOIPBIN_OWN_WORDS,
)

VOIPBIN_SMS = SmsCase(
    name="voipbin",
    settings={**_VOIPBIN_ACCOUNT, "sms_providers": "voipbin"},
    secrets=(_ACCESS_KEY, _WEBHOOK_SECRET),
    accepted=payload("voipbin/create_message.json"),
    message_id="9e2a77b4-0000-4000-8000-000000000040",
    refusals=_VOIPBIN_REFUSALS,
    reports={
        MessageState.SENT: payload("voipbin/message_updated_sent.json"),
        MessageState.DELIVERED: payload("voipbin/message_updated_delivered.json"),
        MessageState.UNDELIVERED: payload("voipbin/message_updated_failed.json"),
    },
    signing=_signed_by_voipbin,
    own_words=_VOIPBIN_OWN_WORDS,
)

VOICE_CASES = {case.name: case for case in (VOBIZ, PLIVO, PHLO, CM, VOIPBIN)}
SMS_CASES = {case.name: case for case in (PLIVO_SMS, CM_SMS, VOIPBIN_SMS)}
