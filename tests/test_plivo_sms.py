"""Plivo's text messages on the wire: what we send, how each answer is understood, what reports mean."""

import json
from typing import Any

import httpx
import pytest

from plivo_sms import PlivoSms, PlivoSmsConfig
from sms_provider import MessageOrder, MessageState
from tests.conftest import keep_secret
from tests.test_plivo_client import TOKEN, Vendor, answering, failing, form, payload
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

MESSAGE_ID = "db3ce55a-7f1d-11e1-8ea7-1231380bc196"
CODE = keep_secret("493817")
ORDER = MessageOrder(
    to="+14155550142",
    from_number="+12025550100",
    text=f"{CODE} is your code.",
    report_url="https://otp.example.com/message/T",
    reference="T",
    expires_in_seconds=300,
)


def sms_of(vendor: Vendor, **config: Any) -> PlivoSms:
    """A client whose carrier is a function."""
    given = {"auth_id": "MAXXXXXXXXXXXXXXXXXX", "auth_token": TOKEN, "from_number": "+12025550100", **config}
    return PlivoSms(PlivoSmsConfig(**given), httpx.AsyncClient(transport=httpx.MockTransport(vendor)))


async def sent(order: MessageOrder = ORDER, **config: Any) -> httpx.Request:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json=payload("message_queued"))

    assert await sms_of(vendor, **config).send_message(order) == MESSAGE_ID
    (request,) = seen
    return request


async def test_a_message_is_sent_once_and_kept_out_of_plivos_records() -> None:
    request = await sent()
    assert str(request.url) == "https://api.plivo.com/v1/Account/MAXXXXXXXXXXXXXXXXXX/Message/"
    assert request.headers["authorization"] == httpx.BasicAuth("MAXXXXXXXXXXXXXXXXXX", TOKEN)._auth_header
    assert json.loads(request.content) == {
        "src": "+12025550100",
        "dst": "+14155550142",
        "text": f"{CODE} is your code.",
        "type": "sms",
        "url": "https://otp.example.com/message/T",
        "method": "POST",
        "log": "false",
        "message_expiry": 300,
    }


async def test_indias_registration_goes_along_where_there_is_one() -> None:
    request = await sent(dlt_entity_id="1234", dlt_template_id="5678", dlt_template_category="service_implicit")
    assert json.loads(request.content).items() >= {
        "dlt_entity_id": "1234",
        "dlt_template_id": "5678",
        "dlt_template_category": "service_implicit",
    }.items()  # fmt: skip


@pytest.mark.parametrize(("seconds", "expiry"), [(1, 5), (600, 600), (86_400, 10_799)])
async def test_the_time_in_plivos_queue_is_kept_within_its_limits(seconds: int, expiry: int) -> None:
    order = MessageOrder("+14155550142", "+12025550100", "x", "https://otp.example.com/message/T", "T", seconds)
    assert json.loads((await sent(order)).content)["message_expiry"] == expiry


ERROR = payload("error")
QUEUED = payload("message_queued")


@pytest.mark.parametrize(
    ("vendor", "error", "message"),
    [
        pytest.param(answering(400, ERROR), CallRejected, "DLT", id="400"),
        pytest.param(answering(401), AccountRefused, "PLIVO_AUTH_TOKEN", id="401"),
        pytest.param(answering(402, ERROR), AccountRefused, "credit", id="402"),
        pytest.param(answering(403, ERROR), CallRejected, "geo permissions", id="403"),
        pytest.param(answering(404, ERROR), CallRejected, "PLIVO_AUTH_ID", id="404"),
        pytest.param(answering(408, ERROR), CallOutcomeUnknown, "408", id="408"),
        pytest.param(answering(429), ProviderThrottled, "300 requests", id="429"),
        pytest.param(answering(500, ERROR), ProviderUnavailable, "in trouble", id="500 of the API itself"),
        pytest.param(answering(500, {**ERROR, **QUEUED}), CallOutcomeUnknown, "may", id="500 with a message"),
        pytest.param(answering(502, b"<html>"), CallOutcomeUnknown, "502", id="502 of a gateway"),
        pytest.param(answering(302, None, location="https://x"), CallOutcomeUnknown, "302", id="redirect"),
        pytest.param(answering(202, b"junk"), CallOutcomeUnknown, "message_uuid", id="junk"),
        pytest.param(answering(202, {"message_uuid": []}), CallOutcomeUnknown, "message_uuid", id="no id"),
        pytest.param(answering(202, {"message_uuid": MESSAGE_ID}), CallOutcomeUnknown, "message_uuid", id="text"),
        pytest.param(
            answering(202, {"message_uuid": [MESSAGE_ID] * 2}), CallOutcomeUnknown, "message_uuid", id="two"
        ),
        pytest.param(answering(202, {"message_uuid": ["../x"]}), CallOutcomeUnknown, "message_uuid", id="odd id"),
        pytest.param(failing(httpx.ConnectError("x")), ProviderUnavailable, "could not be reached", id="refused"),
        pytest.param(failing(httpx.ReadTimeout("x")), CallOutcomeUnknown, "may have been", id="read time-out"),
    ],
)
async def test_each_failure_says_what_may_be_done_next(
    vendor: Vendor, error: type[ProviderError], message: str
) -> None:
    asked = 0

    def counting(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return vendor(request)

    with pytest.raises(ProviderError, match=message) as raised:
        await sms_of(counting).send_message(ORDER)
    assert type(raised.value) is error
    assert asked == 1
    for secret in ("4155550142", CODE, TOKEN):
        assert secret not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "state", "cause"),
    [
        pytest.param(form("report_sent"), MessageState.SENT, "sent", id="sent"),
        pytest.param(form("report_delivered"), MessageState.DELIVERED, "delivered", id="delivered"),
        pytest.param(form("report_undelivered"), MessageState.UNDELIVERED, "undelivered 450", id="undelivered"),
        pytest.param(
            f"MessageUUID={MESSAGE_ID}&Status=queued".encode(), MessageState.QUEUED, "queued", id="queued"
        ),
        pytest.param(
            f"MessageUUID={MESSAGE_ID}&Status=failed&ErrorCode=200".encode(),
            MessageState.UNDELIVERED,
            "failed 200",
            id="failed",
        ),
        pytest.param(
            f"MessageUUID={MESSAGE_ID}&Status=rejected".encode(),
            MessageState.UNDELIVERED,
            "rejected",
            id="rejected",
        ),
        pytest.param(f"MessageUUID={MESSAGE_ID}&Status=read".encode(), None, "read", id="an unknown word"),
        pytest.param(f"MessageUUID={MESSAGE_ID}&Status=%0A%3Cb".encode(), None, "b", id="a hostile word"),
        pytest.param(f"MessageUUID={MESSAGE_ID}".encode(), None, "", id="no word"),
    ],
)
def test_reports_are_translated_by_post_and_get(body: bytes, state: MessageState | None, cause: str) -> None:
    sms = sms_of(answering(202))
    for webhook in (
        RawWebhook(("https://otp.example.com/message/T",), {}, body),
        RawWebhook(("https://otp.example.com/message/T",), {}, b"", "GET", body.decode()),
    ):
        report = sms.parse_report(webhook)
        assert (report.message_id, report.state, report.cause) == (MESSAGE_ID, state, cause)
        assert sms.reference_of(webhook) is None


@pytest.mark.parametrize("body", [b"", b"Status=sent", b"MessageUUID=1&Status=sent", b"{}", b"\xff"])
def test_a_malformed_report_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRejected) as refused:
        sms_of(answering(202)).parse_report(RawWebhook(("https://otp.example.com/message/T",), {}, body))
    assert refused.value.status == 400


def test_secrets_do_not_show_in_representations() -> None:
    sms = sms_of(answering(202))
    shown = repr(sms) + repr(sms._config) + repr(ORDER)
    for secret in (TOKEN, CODE, "2025550100"):
        assert secret not in shown
