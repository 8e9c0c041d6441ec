"""CM.com's text messages on the wire: what we send, how each answer is understood, what reports tell."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cm_sms import CmSms, CmSmsConfig
from sms_provider import MessageOrder, MessageState
from tests.conftest import keep_secret
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

PAYLOADS = Path(__file__).parent / "payloads" / "cm"
TOKEN = keep_secret("4e1a62c0-CANARY-4b7d-8d3e-5f6a7b8c9d0e")
CALLEE = keep_secret("+14155550142")
SENDER = keep_secret("+12025550100")
REFERENCE = keep_secret("0123456789abcdef0123456789abcdef")
TEXT = f"{keep_secret('482913')} is your verification code for Example."
ORDER = MessageOrder(
    to=CALLEE,
    from_number=SENDER,
    text=TEXT,
    report_url=f"https://otp.example.com/sms-events/{REFERENCE}",
    reference=REFERENCE,
    expires_in_seconds=300,
)

Vendor = Callable[[httpx.Request], httpx.Response]


def payload(name: str) -> bytes:
    return (PAYLOADS / f"{name}.json").read_bytes()


def client_of(vendor: Vendor) -> CmSms:
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    return CmSms(CmSmsConfig(TOKEN, SENDER, "https://gw.cm.test/v1.0/"), http)


def answering(status: int, body: object = None) -> Vendor:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return lambda _: httpx.Response(status, content=content)


async def message_of(order: MessageOrder) -> dict[str, Any]:
    """The one message that the client sends for an order."""
    bodies: list[Any] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=payload("sms_accepted"))

    await client_of(vendor).send_message(order)
    message: dict[str, Any] = bodies[0]["messages"]["msg"][0]
    return message


# Sending


async def test_a_message_is_sent_as_sms_only_with_its_reference_and_validity() -> None:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=payload("sms_accepted"))

    assert await client_of(vendor).send_message(ORDER) == ""
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://gw.cm.test/v1.0/message")
    assert request.headers["x-cm-producttoken"] == TOKEN
    assert json.loads(request.content) == {
        "messages": {
            "msg": [
                {
                    "allowedChannels": ["SMS"],
                    "from": "0012025550100",
                    "to": [{"number": "0014155550142"}],
                    "body": {"type": "auto", "content": TEXT},
                    "minimumNumberOfMessageParts": 1,
                    "maximumNumberOfMessageParts": 8,
                    "validity": "5m",
                    "reference": REFERENCE,
                }
            ]
        }
    }


@pytest.mark.parametrize(("seconds", "validity"), [(30, "1m"), (60, "1m"), (119, "1m"), (600, "10m")])
async def test_no_message_is_delivered_after_its_code_expired(seconds: int, validity: str) -> None:
    assert (await message_of(replace(ORDER, expires_in_seconds=seconds)))["validity"] == validity


@pytest.mark.parametrize(
    ("sender", "sent"),
    [("Example", "Example"), ("+4915123456789", "004915123456789"), ("+491512345678901", "491512345678901")],
)
async def test_a_sender_is_a_name_or_a_number_of_sixteen_digits_at_the_most(sender: str, sent: str) -> None:
    keep_secret(sender)
    assert (await message_of(replace(ORDER, from_number=sender)))["from"] == sent


@pytest.mark.parametrize("reference", ["", "a" * 33, "a-b", "é"])
async def test_a_reference_that_cm_does_not_take_is_left_out(
    reference: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(answering(200, {"messages": [{"status": "Accepted"}]}))
    for _ in range(2):
        await client.send_message(replace(ORDER, reference=reference))
    assert "reference" not in await message_of(replace(ORDER, reference=reference))
    warnings = [record for record in caplog.records if "1 to 32 letters" in record.message]
    assert len(warnings) == 2, "once by each client"


async def test_our_message_is_found_among_accepted_and_rejected_ones() -> None:
    assert await client_of(answering(200, payload("sms_mixed"))).send_message(ORDER) == ""
    other = replace(ORDER, reference=keep_secret("ffffffffffffffffffffffffffffffff"))
    with pytest.raises(CallRejected, match="number"):
        await client_of(answering(200, payload("sms_mixed"))).send_message(other)


async def test_the_word_of_a_message_counts_more_than_the_http_status() -> None:
    assert await client_of(answering(400, payload("sms_accepted"))).send_message(ORDER) == ""


def failing(code: int, status: int = 400, message: dict[str, Any] | None = None) -> Vendor:
    return answering(
        status, {"details": f"no {CALLEE}", "errorCode": code, "messages": [message] if message else []}
    )


@pytest.mark.parametrize(
    ("vendor", "error", "text"),
    [
        pytest.param(
            answering(200, payload("sms_rejected")), CallRejected, r"block list .*\(200 402\)", id="rejected"
        ),
        pytest.param(answering(401, payload("sms_refused")), AccountRefused, "CM_PRODUCT_TOKEN", id="103"),
        pytest.param(failing(101, 200), AccountRefused, "CM_PRODUCT_TOKEN", id="101 with 200"),
        pytest.param(failing(102), AccountRefused, "credit", id="102"),
        pytest.param(failing(202), CallRejected, "malformed", id="202"),
        pytest.param(failing(301), CallRejected, "CM_SMS_SENDER", id="301"),
        pytest.param(failing(304), CallRejected, "text", id="304"),
        pytest.param(failing(401), CallRejected, "spam filter", id="errorCode 401 is not HTTP 401"),
        pytest.param(failing(500, 500), ProviderUnavailable, "trouble", id="500"),
        pytest.param(failing(999, 503), ProviderUnavailable, "trouble", id="999 with 503"),
        pytest.param(failing(999, 200), CallOutcomeUnknown, "without saying", id="999 with 200"),
        pytest.param(failing(777, 400), CallRejected, "400 777", id="an unknown code"),
        pytest.param(
            failing(999, 200, {"status": "rejected"}), CallRejected, "200 999", id="rejected for unknown reasons"
        ),
        pytest.param(answering(401), AccountRefused, "CM_PRODUCT_TOKEN", id="401, empty"),
        pytest.param(answering(404), CallRejected, "404", id="404, empty"),
        pytest.param(answering(502, b"<html>"), CallOutcomeUnknown, "502", id="502 of a gateway"),
        pytest.param(answering(200, b"junk"), CallOutcomeUnknown, "without saying", id="junk with 200"),
        pytest.param(answering(200, {"messages": {}}), CallOutcomeUnknown, "without", id="odd messages"),
        pytest.param(answering(200, {"messages": ["x"]}), CallOutcomeUnknown, "without", id="no objects"),
        pytest.param(failing(102, 429), ProviderThrottled, "no more messages", id="429"),
    ],
)
async def test_each_refusal_says_what_may_be_done_next(
    vendor: Vendor, error: type[ProviderError], text: str
) -> None:
    with pytest.raises(ProviderError, match=text) as raised:
        await client_of(vendor).send_message(ORDER)
    assert type(raised.value) is error
    assert not any(secret in str(raised.value) for secret in (CALLEE[1:], TOKEN, REFERENCE))


def test_no_secret_shows_in_the_repr_of_the_settings() -> None:
    shown = repr(CmSmsConfig(TOKEN, SENDER))
    assert TOKEN not in shown
    assert SENDER not in shown


# Reports


def report(body: bytes | object) -> RawWebhook:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawWebhook(("https://otp.example.com/sms-events/cm",), {}, content)


CLIENT = client_of(answering(200))


@pytest.mark.parametrize(
    ("body", "state", "cause"),
    [
        pytest.param(payload("sms_report"), MessageState.UNDELIVERED, "3 23", id="as documented"),
        pytest.param(payload("sms_report_edited"), MessageState.DELIVERED, "2", id="a flat template"),
        pytest.param({"reference": REFERENCE, "statusCode": 0}, MessageState.SENT, "0", id="accepted"),
        pytest.param({"reference": REFERENCE, "status": "1"}, MessageState.UNDELIVERED, "1", id="rejected"),
        pytest.param({"reference": REFERENCE, "status": "READ"}, MessageState.DELIVERED, "read", id="a word"),
        pytest.param(
            [{"msg": [{"reference": REFERENCE, "status": {"code": 2}}]}], MessageState.DELIVERED, "2", id="lists"
        ),
        pytest.param({"reference": REFERENCE, "status": "9"}, None, "9", id="an unknown state"),
        pytest.param({"reference": REFERENCE}, None, "", id="no state"),
        pytest.param(
            {"reference": REFERENCE, "status": {"code": 3, "errorCode": f"no {CALLEE}"}},
            MessageState.UNDELIVERED,
            "3",
            id="a number in the error",
        ),
    ],
)
def test_reports_are_read_by_the_names_of_their_fields(
    body: object, state: MessageState | None, cause: str
) -> None:
    CLIENT.check_report(report(body))
    assert not CLIENT.signs_reports
    assert CLIENT.reference_of(report(body)) == REFERENCE
    told = CLIENT.parse_report(report(body))
    assert (told.message_id, told.state, told.cause) == ("", state, cause)


@pytest.mark.parametrize(("status", "shown"), [("9", "9"), (CALLEE, "(not shown)"), ("", "(not shown)")])
def test_an_unknown_state_is_one_log_line(status: str, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    assert CLIENT.parse_report(report({"reference": REFERENCE, "status": status})).state is None
    assert [record.message for record in caplog.records] == [f"CM.com reported an unknown message status: {shown}"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<MESSAGES><MSG/></MESSAGES>", id="XML"),
        pytest.param(b'{"reference": "a", "reference": "b"}', id="a name twice"),
        pytest.param([{"reference": "a"}, {"reference": "b"}], id="several messages"),
    ],
)
def test_what_is_no_report_about_one_message_names_none_and_is_refused(body: object) -> None:
    assert CLIENT.reference_of(report(body)) is None
    with pytest.raises(WebhookRejected):
        CLIENT.parse_report(report(body))


@pytest.mark.parametrize("reference", ["", "a b", "../x", "a" * 33, None, ["x y"]])
def test_a_reference_that_cannot_be_ours_is_none(reference: object) -> None:
    assert CLIENT.reference_of(report({"messages": {"msg": {"reference": reference}}})) is None


def test_values_below_a_sensible_depth_are_not_looked_at() -> None:
    deep: Any = {"reference": "a"}
    for _ in range(100):
        deep = [deep]
    assert CLIENT.reference_of(report(deep)) is None
