"""Text messages through VoIPBin: what we send, how each answer is understood, whose reports are believed."""

import hmac
import json
from hashlib import sha256
from typing import Any

import httpx
import pytest

from sms_provider import MessageOrder, MessageReport, MessageState
from tests.conftest import keep_secret
from tests.test_voipbin_client import ACCESS_KEY, Vendor, answering, failing, payload
from voice_provider import (
    AccountRefused,
    CallOutcomeUnknown,
    CallRejected,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
    RawWebhook,
    WebhookRejected,
)
from voipbin_account import VoipbinConfig
from voipbin_sms import VoipbinSms

MESSAGE_ID = "9e2a77b4-0000-4000-8000-000000000040"
SECRET = "voipbin-webhook-secret-CANARY-02"
ORDER = MessageOrder(
    to="+14155550142",
    from_number="+12025550100",
    text="482913 is your verification code for Acme.",
    report_url="https://otp.example.com/messages/T",
    reference="T",
    expires_in_seconds=300,
)


@pytest.fixture(autouse=True)
def _secrets() -> None:
    for secret in (ACCESS_KEY, SECRET, "482913", ORDER.to):
        keep_secret(secret)


def sms_of(vendor: Vendor, secret: str = SECRET) -> VoipbinSms:
    config = VoipbinConfig(ACCESS_KEY, "+12025550100", "https://api.voipbin.test/v1.0", webhook_secret=secret)
    return VoipbinSms(config, httpx.AsyncClient(transport=httpx.MockTransport(vendor)), now=lambda: 0.0)


async def test_a_message_is_sent_once() -> None:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=payload("create_message"))

    assert await sms_of(vendor).send_message(ORDER) == MESSAGE_ID
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://api.voipbin.test/v1.0/messages")
    assert request.headers["cookie"] == f"accesskey={ACCESS_KEY}"
    assert json.loads(request.content) == {
        "source": {"type": "tel", "target": "+12025550100"},
        "destinations": [{"type": "tel", "target": "+14155550142"}],
        "text": ORDER.text,
    }


@pytest.mark.parametrize(
    ("vendor", "error", "message"),
    [
        pytest.param(answering(400, {}), CallRejected, "VOIPBIN_FROM_NUMBER", id="400"),
        pytest.param(answering(402, payload("error_402")), AccountRefused, "balance", id="402"),
        pytest.param(answering(403, payload("error_403_identity")), AccountRefused, "identity", id="403"),
        pytest.param(answering(429, payload("error_429")), ProviderThrottled, "no more", id="429"),
        pytest.param(answering(500, payload("error_500")), CallRejected, "sent no message", id="500"),
        pytest.param(answering(500, b"oops"), CallOutcomeUnknown, "500", id="500 of something else"),
        pytest.param(answering(200, {}), CallOutcomeUnknown, "named no id", id="no id"),
        pytest.param(answering(200, [payload("create_message")]), CallOutcomeUnknown, "named no id", id="a list"),
        pytest.param(failing(httpx.ConnectError("x")), ProviderUnavailable, "reached", id="refused"),
        pytest.param(failing(httpx.ReadTimeout("x")), CallOutcomeUnknown, "may have been", id="read time-out"),
    ],
)
async def test_each_failure_says_what_may_be_done_next(
    vendor: Vendor, error: type[ProviderError], message: str
) -> None:
    with pytest.raises(ProviderError, match=message) as raised:
        await sms_of(vendor).send_message(ORDER)
    assert type(raised.value) is error
    for secret in ("4155550142", ACCESS_KEY, "482913"):
        assert secret not in str(raised.value)


def report(document: Any, **headers: str) -> RawWebhook:
    return RawWebhook(("https://otp.example.com/events/voipbin",), headers, json.dumps(document).encode())


def test_reports_must_be_signed() -> None:
    webhook = report(payload("message_updated_delivered"))
    right = "sha256=" + hmac.new(SECRET.encode(), webhook.body, sha256).hexdigest()
    sms = sms_of(answering(200))
    sms.check_report(RawWebhook(webhook.urls, {"x-voipbin-signature": right}, webhook.body))
    for headers in ({}, {"x-voipbin-signature": right[:-1] + "x"}):
        with pytest.raises(WebhookRejected):
            sms.check_report(RawWebhook(webhook.urls, headers, webhook.body))
    with pytest.raises(WebhookRejected, match="VOIPBIN_WEBHOOK_SECRET is not set"):
        sms_of(answering(200), secret="").check_report(webhook)


def told_by(document: dict[str, Any]) -> MessageReport:
    told = sms_of(answering(200)).parse_report(report(document))
    assert told is not None
    return told


@pytest.mark.parametrize(
    ("name", "state", "cause"),
    [
        ("message_created", MessageState.QUEUED, "queued"),
        ("message_updated_sent", MessageState.SENT, "sent"),
        ("message_updated_delivered", MessageState.DELIVERED, "delivered"),
        ("message_updated_failed", MessageState.UNDELIVERED, "failed"),
        ("message_updated_short", MessageState.DELIVERED, "delivered"),
    ],
)
def test_reports_are_translated(name: str, state: MessageState, cause: str) -> None:
    told = told_by(payload(name))
    assert (told.message_id, told.state, told.cause) == (MESSAGE_ID, state, cause)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("gw_timeout", MessageState.QUEUED),
        ("dlr_timeout", MessageState.SENT),
        ("received", None),
        ("<b>moon</b>", None),
        (None, None),
        (["sent"], None),
    ],
)
def test_a_missing_receipt_or_an_odd_status_decides_nothing(status: Any, state: MessageState | None) -> None:
    document = payload("message_updated_sent")
    document["data"]["targets"][0]["status"] = status
    told = told_by(document)
    assert told.state is state
    assert "<" not in told.cause


@pytest.mark.parametrize("targets", [[], None, ["x"], 5])
def test_a_report_without_a_target_says_nothing(targets: Any) -> None:
    document = payload("message_updated_sent")
    document["data"]["targets"] = targets
    assert told_by(document).state is None


def test_events_about_calls_are_no_reports() -> None:
    assert sms_of(answering(200)).parse_report(report(payload("call_hangup_local"))) is None
    with pytest.raises(WebhookRejected):
        sms_of(answering(200)).parse_report(report({"type": "message_updated", "data": {}}))


def test_a_report_is_found_by_its_message_id_alone() -> None:
    assert sms_of(answering(200)).reference_of(report(payload("message_updated_sent"))) is None
