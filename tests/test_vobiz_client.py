"""Vobiz on the wire: what we send, how each answer is understood, whose callbacks are believed."""

import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

import vobiz_client
from tests.conftest import VOBIZ_TOKEN
from vobiz_client import VobizClient, VobizConfig
from voice_provider import (
    AccountRefused,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    EndReason,
    MachineDetection,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
    RawWebhook,
    SignaturePolicy,
    WebhookRejected,
)

CALL_ID = "5a9fd4a0-3d4c-11ef-bef9-0242ac110005"
ORDER = CallOrder(
    to="+14155550142",
    from_number="+12025550100",
    urls=CallUrls(
        *(
            f"https://otp.example.com/{name}/T"
            for name in ("answer", "fallback", "choice", "hangup", "ring", "events")
        )
    ),
    ring_timeout_seconds=30,
    time_limit_seconds=150,
)

Vendor = Callable[[httpx.Request], httpx.Response]


def client_of(vendor: Vendor, **config: Any) -> VobizClient:
    """A client whose carrier is a function."""
    given = {"auth_id": "MA_TEST", "auth_token": VOBIZ_TOKEN, "from_number": "+12025550100", **config}
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    return VobizClient(VobizConfig(api_url="https://api.vobiz.test/api/v1", **given), http)


def answering(status: int, body: object = None, **headers: str) -> Vendor:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return lambda _: httpx.Response(status, content=content, headers=headers)


# Placing a call


async def test_a_call_is_placed_with_every_limit_and_url() -> None:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"api_id": "x", "message": "Call fired", "request_uuid": CALL_ID})

    assert await client_of(vendor).place_call(ORDER) == CALL_ID
    (request,) = seen
    assert (request.method, request.url.path) == ("POST", "/api/v1/Account/MA_TEST/Call/")
    assert request.headers["x-auth-id"] == "MA_TEST"
    assert request.headers["x-auth-token"] == VOBIZ_TOKEN
    assert json.loads(request.content) == {
        "from": "+12025550100",
        "to": "+14155550142",
        "answer_url": "https://otp.example.com/answer/T",
        "answer_method": "POST",
        "fallback_url": "https://otp.example.com/fallback/T",
        "fallback_method": "POST",
        "ring_url": "https://otp.example.com/ring/T",
        "ring_method": "POST",
        "hangup_url": "https://otp.example.com/hangup/T",
        "hangup_method": "POST",
        "ring_timeout": 30,
        "hangup_on_ring": 30,
        "time_limit": 150,
    }


async def test_machine_detection_is_asked_for_only_when_wanted() -> None:
    bodies: list[dict[str, Any]] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(201, json={"request_uuid": CALL_ID})

    order = CallOrder(ORDER.to, ORDER.from_number, ORDER.urls, 30, 150, machine_detection=MachineDetection.HANGUP)
    await client_of(vendor).place_call(order)
    assert bodies[0]["machine_detection"] == "hangup"


ENVELOPE = {
    "status": "error",
    "error": {"code": "INSUFFICIENT_BALANCE", "message": "low +14155550142", "details": {}},
}
TROUBLE = {"status": "error", "error": {"code": "INTERNAL_ERROR", "message": "oops", "details": {}}}
CPS = {"error": {"code": "RATE_LIMIT_EXCEEDED", "details": {"limitType": "cps", "retryAfter": 7}}}


@pytest.mark.parametrize(
    ("vendor", "error", "message"),
    [
        pytest.param(answering(400, {"error": "bad"}), CallRejected, "malformed", id="400, second envelope"),
        pytest.param(answering(401, {}), AccountRefused, "VOBIZ_AUTH_TOKEN", id="401"),
        pytest.param(answering(402, ENVELOPE), AccountRefused, "INSUFFICIENT_BALANCE", id="402, first envelope"),
        pytest.param(answering(403), CallRejected, "does not allow", id="403, no body"),
        pytest.param(
            answering(404, {"message": "Not Found"}), CallRejected, "VOBIZ_AUTH_ID", id="404, third envelope"
        ),
        pytest.param(answering(418), CallRejected, "418", id="another 4xx"),
        pytest.param(answering(422, {"error": {"code": 5}}), CallRejected, "FROM_NUMBER", id="422, odd envelope"),
        pytest.param(answering(429, CPS), ProviderThrottled, "no more calls", id="429"),
        pytest.param(answering(503, TROUBLE), ProviderUnavailable, "in trouble", id="503 of the API itself"),
        pytest.param(answering(500, TROUBLE), ProviderUnavailable, "in trouble", id="500 of the API itself"),
        pytest.param(
            answering(500, {**TROUBLE, "request_uuid": CALL_ID}), CallOutcomeUnknown, "may", id="500, call"
        ),
        pytest.param(answering(504, b"<html>" * 90_000), CallOutcomeUnknown, "504", id="504 of a gateway, huge"),
        pytest.param(answering(503, b"[" * 100_000), CallOutcomeUnknown, "503", id="503, deep JSON"),
        pytest.param(
            answering(200, {"message": "Call fired"}), CallOutcomeUnknown, "request_uuid", id="no call id"
        ),
        pytest.param(
            answering(200, {"request_uuid": "a b"}), CallOutcomeUnknown, "request_uuid", id="odd call id"
        ),
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
        await client_of(counting).place_call(ORDER)
    assert type(raised.value) is error
    assert asked == 1, "a request for a call is never sent twice"
    assert "4155550142" not in str(raised.value)
    assert VOBIZ_TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("header", "body", "seconds"),
    [
        ("3", CPS, 3),
        (None, CPS, 7),
        (None, {}, 1),
        ("soon", {}, 1),
        ("0", {}, 1),
        ("3", {"error": "slow down"}, 3),
    ],
)
async def test_a_throttled_call_says_when_to_try_again(header: str | None, body: object, seconds: int) -> None:
    headers = {"retry-after": header} if header is not None else {}
    with pytest.raises(ProviderThrottled) as raised:
        await client_of(answering(429, body, **headers)).place_call(ORDER)
    assert raised.value.retry_after_seconds == seconds


async def test_an_answer_that_drips_in_is_cut_off() -> None:
    class Drip(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            import asyncio

            await asyncio.Event().wait()
            yield b""

    client = client_of(lambda _: httpx.Response(200, stream=Drip()), request_deadline_seconds=0.01)
    with pytest.raises(CallOutcomeUnknown):
        await client.place_call(ORDER)


# Ending and looking up a call


async def test_hanging_up_tells_whether_the_call_was_live() -> None:
    paths: list[str] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        paths.append(f"{request.method} {request.url.path}")
        return httpx.Response(204 if len(paths) == 1 else 404, json=None)

    client = client_of(vendor)
    assert await client.hang_up(CALL_ID) is True
    assert await client.hang_up(CALL_ID) is False
    assert paths == [f"DELETE /api/v1/Account/MA_TEST/Call/{CALL_ID}/"] * 2


LIVE = {"call_status": "in-progress", "call_uuid": CALL_ID}
QUEUED = {"call_status": "queued", "call_uuid": CALL_ID}
CDR = {"success": True, "data": {"hangup_cause_code": 3010, "hangup_cause": "USER_BUSY", "billsec": 0}}


@pytest.mark.parametrize(
    ("live", "queued", "record", "state", "reason"),
    [
        pytest.param(LIVE, None, None, CallState.ANSWERED, None, id="live"),
        pytest.param(None, QUEUED, None, CallState.DIALING, None, id="queued"),
        pytest.param(None, None, CDR, CallState.COMPLETED, EndReason.BUSY, id="ended"),
    ],
)
async def test_a_call_is_looked_up_in_all_three_places(
    live: Any, queued: Any, record: Any, state: CallState, reason: EndReason | None
) -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        found = {"live": live, "queued": queued, None: record}[request.url.params.get("status")]
        return httpx.Response(200, json=found) if found else httpx.Response(404, json={"error": "not found"})

    event = await client_of(vendor).look_up(CALL_ID)
    assert event is not None
    assert (event.state, event.end_reason) == (state, reason)


@pytest.mark.parametrize("answer", [{"error": "failed"}, {"data": None}, {"data": "x"}])
async def test_a_call_that_vobiz_does_not_know_is_none(answer: Any) -> None:
    assert await client_of(answering(200, answer)).look_up(CALL_ID) is None
    assert await client_of(answering(404, answer)).look_up(CALL_ID) is None


RECORD = {"uuid": CALL_ID, "destination_number": "14155550142", "start_time": "2026-01-01T00:00:05Z"}


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        pytest.param({"live": [CALL_ID]}, CallState.ANSWERED, id="live"),
        pytest.param({"queued": ["not an id", CALL_ID]}, CallState.DIALING, id="queued"),
        pytest.param({"cdr": [RECORD]}, CallState.COMPLETED, id="ended"),
        pytest.param({"cdr": [{**RECORD, "start_time": "2025-12-31T23:59:59Z"}]}, None, id="an earlier call"),
        pytest.param({"cdr": [{**RECORD, "destination_number": "14155550143"}]}, None, id="another callee"),
        pytest.param({"cdr": ["x", {}]}, None, id="no records"),
        pytest.param({"live": ["5a9fd4a0-0000-11ef-bef9-0242ac110005"]}, None, id="live to another callee"),
        pytest.param({"live": "x", "cdr": "x"}, None, id="odd answers"),
    ],
)
async def test_a_call_without_a_known_id_is_found_by_its_callee(answers: dict[str, Any], state: Any) -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        status = request.url.params.get("status", "cdr")
        if request.url.path.endswith("/Call/"):
            return httpx.Response(200, json={"calls": answers.get(status, [])})
        if request.url.path.endswith("/cdr"):
            assert request.url.params["start_date"] == "2026-01-01"
            return httpx.Response(200, json={"data": answers.get("cdr", [])})
        to = "+14155550142" if CALL_ID in str(request.url) else "+14155550143"
        return httpx.Response(200, json={"to": to, "call_uuid": CALL_ID})

    event = await client_of(vendor).find_call("+14155550142", 1_767_225_600.0)
    assert (event and event.state) == state
    assert event is None or event.call_id == CALL_ID


@pytest.mark.parametrize("full", ["live", "queued", "cdr"])
async def test_a_full_page_does_not_prove_that_there_is_no_call(full: str) -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        listed = ["5a9fd4a0-0000-11ef-bef9-0242ac110005"] * 20
        is_full = request.url.params.get("status", "cdr") == full
        body = {"calls": listed * is_full, "data": listed * is_full, "to": "+14155550143"}
        return httpx.Response(200, json=body)

    with pytest.raises(CallOutcomeUnknown, match="more calls"):
        await client_of(vendor).find_call("+14155550142", 1_767_225_600.0)


# Signatures. The vector was computed from the documented formula with two independent HMAC implementations.

VECTOR_TOKEN = "vobiz_test_token_0123456789"
VECTOR_URL = "https://otp.example.com/hooks/vobiz/answer"
VECTOR_NONCE = "09876543210987654321"
VECTOR_V3 = "zlOwKnc7WztXcWnkgY29TxhsGMQ2Ll2aaG3IR8xLTds="
VECTOR_V2_NONCE = "12345678901234567890"
VECTOR_V2 = "aSthiM1ljn3WTf+rVK1WHN7iKzt2AEtRjaNFPERF4vg="
VECTOR_MA_V3 = "LxYrCC4gObFb3I7d3rETW1NGmgLDqVVLgU0Si1wWjTk="

V3 = "x-vobiz-signature-v3"


def signed(policy: str = "when_present") -> VobizClient:
    return client_of(answering(200), auth_token=VECTOR_TOKEN, signature_policy=SignaturePolicy(policy))


def webhook(body: str = f"CallUUID={CALL_ID}", url: str = VECTOR_URL, **headers: str) -> RawWebhook:
    return RawWebhook((url,), {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


def with_headers(headers: dict[str, str], url: str = VECTOR_URL) -> RawWebhook:
    return RawWebhook((url,), headers, b"")


def test_the_documented_signature_is_accepted() -> None:
    signed("required").check_webhook(with_headers({V3: VECTOR_V3, f"{V3}-nonce": VECTOR_NONCE}))


def test_an_unsigned_callback_passes_only_where_the_policy_lets_it() -> None:
    signed("when_present").check_webhook(with_headers({}))
    with pytest.raises(WebhookRejected, match="not signed"):
        signed("required").check_webhook(with_headers({}))
    with pytest.raises(WebhookRejected, match="not signed"):
        signed("when_present").check_webhook(with_headers({}), must_be_signed=True)


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        pytest.param({V3: "A" + VECTOR_V3[1:], f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL, id="altered"),
        pytest.param({V3: VECTOR_V3[:-4], f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL, id="cut"),
        pytest.param({V3: "", f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL, id="empty"),
        pytest.param({V3: "é" * 44, f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL, id="not ASCII"),
        pytest.param({V3: "x" * 10_000, f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL, id="10 KB"),
        pytest.param({V3: VECTOR_V3}, VECTOR_URL, id="no nonce"),
        pytest.param({f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL, id="only a nonce"),
        pytest.param({V3: VECTOR_V3, f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL + "x", id="another path"),
        pytest.param({V3: VECTOR_V3, f"{V3}-nonce": VECTOR_NONCE}, "http" + VECTOR_URL[5:], id="another scheme"),
        pytest.param({V3: VECTOR_V2, f"{V3}-nonce": VECTOR_V2_NONCE}, VECTOR_URL, id="a V2 signature as V3"),
        pytest.param(
            {V3: VECTOR_V2, f"{V3}-nonce": "." + VECTOR_V2_NONCE}, VECTOR_URL, id="V2 with a dotted nonce"
        ),
        pytest.param({V3: VECTOR_MA_V3, f"{V3}-nonce": VECTOR_NONCE}, VECTOR_URL, id="the parent account's"),
        pytest.param({V3: VECTOR_V3, f"{V3}-nonce": "٠" * 20}, VECTOR_URL, id="a nonce of other digits"),
    ],
)
def test_a_wrong_signature_is_refused_under_every_policy(headers: dict[str, str], url: str) -> None:
    for policy in SignaturePolicy:
        with pytest.raises(WebhookRejected):
            signed(policy).check_webhook(with_headers(headers, url))


def test_a_callback_may_come_to_any_of_our_hosts() -> None:
    headers = {V3: VECTOR_V3, f"{V3}-nonce": VECTOR_NONCE}
    signed("required").check_webhook(RawWebhook(("https://other.example.com/x", VECTOR_URL), headers, b""))


def test_unsigned_callbacks_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    client = signed("when_present")
    for _ in range(3):
        client.check_webhook(with_headers({}))
    assert caplog.text.count("WEBHOOK_SIGNATURES=required") == 1


@pytest.mark.parametrize("nonce", ["1" * 19, "1" * 21, "." + "1" * 20, "1" * 19 + "a", "1" * 20 + "\n", "٠" * 20])
def test_a_nonce_of_another_form_is_refused_although_its_signature_is_right(nonce: str) -> None:
    signature = vobiz_client.sign(hmac.new(VECTOR_TOKEN.encode(), digestmod=sha256), VECTOR_URL, nonce)
    with pytest.raises(WebhookRejected, match="nonce"):
        signed().check_webhook(with_headers({V3: signature, f"{V3}-nonce": nonce}))


def test_the_parent_accounts_signature_is_no_fallback_either() -> None:
    """Made with our own token, so that only the name of the header is wrong."""
    headers = {"x-vobiz-signature-ma-v3": VECTOR_V3, f"{V3}-nonce": VECTOR_NONCE}
    for policy in SignaturePolicy:
        with pytest.raises(WebhookRejected):
            signed(policy).check_webhook(with_headers(headers))


def test_v2_is_no_fallback_for_a_missing_v3() -> None:
    v2 = {"x-vobiz-signature-v2": VECTOR_V2, "x-vobiz-signature-v2-nonce": VECTOR_V2_NONCE}
    with pytest.raises(WebhookRejected, match="not signed"):
        signed("required").check_webhook(with_headers(v2))


# Callbacks. Fields as in public captures; values are ours.

CAPTURED = {
    "CallUUID": CALL_ID,
    "RequestUUID": CALL_ID,
    "Direction": "outbound",
    "From": "12025550100",
    "To": "14155550142",
    "SessionStart": "2026-08-31 20:08:21.073308",
    "BillRate": "0.00000",
}


@pytest.mark.parametrize(
    ("fields", "state", "digits"),
    [
        pytest.param({"Event": "Ring", "CallStatus": "ringing"}, CallState.RINGING, "", id="ring"),
        pytest.param({"Event": "StartApp", "CallStatus": "in-progress"}, CallState.ANSWERED, "", id="answer"),
        pytest.param({"Event": "Redirect"}, CallState.ANSWERED, "", id="redirect"),
        pytest.param({"Digits": "1", "InputType": "dtmf"}, CallState.ANSWERED, "1", id="key pressed"),
        pytest.param({"Digits": "", "Speech": ""}, CallState.ANSWERED, "", id="no key pressed"),
        pytest.param({"Event": "SomethingNew"}, None, "", id="an unknown event"),
    ],
)
def test_callbacks_are_translated(fields: dict[str, str], state: CallState | None, digits: str) -> None:
    event = signed().parse_event(webhook(urlencode({**CAPTURED, **fields})), CallState.ANSWERED)
    assert (event.call_id, event.state, event.digits) == (CALL_ID, state, digits)


CAUSES = [
    ("4000", "NORMAL_CLEARING", None),
    ("4010", "NORMAL_CLEARING", None),
    ("6000", "ALLOTTED_TIMEOUT", None),
    ("3010", "USER_BUSY", EndReason.BUSY),
    ("3100", "USER_BUSY", EndReason.BUSY),
    ("3000", "NO_ANSWER", EndReason.NO_ANSWER),
    ("6010", "NO_ANSWER", EndReason.NO_ANSWER),
    ("3020", "CALL_REJECTED", EndReason.REJECTED),
    ("3110", "CALL_REJECTED", EndReason.REJECTED),
    ("1000", "ORIGINATOR_CANCEL", EndReason.CANCELLED),
    ("9100", "NORMAL_CLEARING", EndReason.VOICEMAIL),
    ("9110", "", EndReason.NO_KEYPRESS),
    ("3050", "UNALLOCATED_NUMBER", EndReason.FAILED),
    ("5030", "", EndReason.FAILED),
    ("7011", "", EndReason.FAILED),
    ("8011", "", EndReason.FAILED),
    ("0", "UNKNOWN", EndReason.UNKNOWN),
    ("4711", "", EndReason.UNKNOWN),
    ("", "", None),
]


@pytest.mark.parametrize(("code", "text", "reason"), CAUSES)
def test_hangup_causes_are_translated_and_kept(code: str, text: str, reason: EndReason | None) -> None:
    fields = {
        "Event": "Hangup",
        "CallStatus": "completed",
        "HangupCause": text,
        "HangupCauseCode": code,
        "Duration": "13",
    }
    event = signed().parse_event(webhook(urlencode({**CAPTURED, **fields})), CallState.ANSWERED)
    assert (event.state, event.end_reason, event.talk_seconds) == (CallState.COMPLETED, reason, 13)
    assert event.hangup_cause == f"{text} {code}".strip()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("busy", EndReason.BUSY),
        ("no-answer", EndReason.NO_ANSWER),
        ("timeout", EndReason.NO_ANSWER),
        ("odd", EndReason.UNKNOWN),
    ],
)
def test_without_a_cause_code_the_call_status_decides(status: str, reason: EndReason) -> None:
    event = signed().parse_event(
        webhook(urlencode({**CAPTURED, "Event": "Hangup", "CallStatus": status})), CallState.COMPLETED
    )
    assert event.end_reason is reason
    assert event.talk_seconds is None


def test_a_hostile_hangup_cause_is_not_shown() -> None:
    fields = {"Event": "Hangup", "HangupCause": "<b>\n\x1b[31m" + "A" * 500, "HangupCauseCode": "4000"}
    event = signed().parse_event(webhook(urlencode({**CAPTURED, **fields})), CallState.ANSWERED)
    assert event.hangup_cause == "(not shown) 4000"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param("Event=StartApp", id="no CallUUID"),
        pytest.param("CallUUID=", id="empty CallUUID"),
        pytest.param(f"CallUUID={CALL_ID}&Digits=1&Digits=9", id="a field twice"),
        pytest.param(f"CallUUID={'x' * 65}", id="a long CallUUID"),
        pytest.param(f"CallUUID={CALL_ID}&" + "&".join(f"f{n}=1" for n in range(5000)), id="5,000 fields"),
        pytest.param('{"CallUUID": "x"}', id="JSON"),
        pytest.param(f"CallUUID={CALL_ID}&Digits=\xff", id="not ASCII"),
        pytest.param(f"CallUUID={CALL_ID}&Digits=%ff", id="not UTF-8"),
    ],
)
def test_a_malformed_callback_is_refused(body: str) -> None:
    with pytest.raises(WebhookRejected) as refused:
        signed().parse_event(RawWebhook((VECTOR_URL,), {}, body.encode("latin-1")), CallState.ANSWERED)
    assert refused.value.status == 400


@pytest.mark.parametrize("digits", ["1;Event=Hangup", "1 ", "A", "1" * 33])
def test_digits_are_keys_of_a_phone(digits: str) -> None:
    with pytest.raises(WebhookRejected, match="Digits that are no keys"):
        signed().parse_event(webhook(f"CallUUID={CALL_ID}&Digits={digits}"), CallState.ANSWERED)


def test_secrets_do_not_show_in_representations() -> None:
    client = signed()
    assert VECTOR_TOKEN not in repr(client) + repr(client._config)
