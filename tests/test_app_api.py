"""The backend's routes: the documented answers, and bad input that changes nothing and is not repeated."""

import asyncio
import hmac
import json
import re
from hashlib import sha256
from typing import Any

import httpx
import pytest

from app_models import CancelOtp, SendAlert, SendOtp, VerifyOtp
from lean_route import parse_json, read_body
from otp_store import StoreUnavailable
from problems import Problem
from simulator.call import Stage
from tests.conftest import VOBIZ_TOKEN, FakeTime, RunningService, keep_secret, run_service
from tests.hearing import heard
from vobiz_client import sign

PHONE = "+14155550101"
RINGING = "+14155550142"  # rings in the browser, where nobody answers in these tests


async def test_a_code_is_sent_and_verified(service: RunningService) -> None:
    sent = await service.send("+1 (415) 555-0101", code="610389", reference="order-4711")
    assert sent.status_code == 200
    answer = sent.json()
    assert re.fullmatch(r"vrf_[0-9a-f]{32}", answer.pop("verification_id"))
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.pop("call_uuid"))
    assert answer == {
        "status": "call_initiated",
        "phone": PHONE,
        "provider": "simulator",
        "channel": "voice",
        "language": "en-US",
        "expires_in": 300,
        "max_attempts": 5,
        "resend_after": 0,
        "fallback_available": False,
        "from": "+12025550100",
        "reference": "order-4711",
    }
    await service.calls_over()
    wrong = await service.verify(PHONE, "610388")
    assert (wrong.status_code, wrong.json()) == (400, {"valid": False, "reason": "incorrect", "attempts_left": 4})
    right = await service.verify(PHONE, "610389")
    verification_id = sent.json()["verification_id"]
    expected = {"valid": True, "verification_id": verification_id, "phone": PHONE}
    assert (right.status_code, right.json()) == (200, expected)
    again = await service.verify(PHONE, "610389")
    assert (again.status_code, again.json()["reason"]) == (400, "expired_or_not_found")


async def test_a_code_is_verified_by_verification_id(service: RunningService) -> None:
    sent = (await service.send(PHONE, code="610389")).json()
    body = {"verification_id": sent["verification_id"], "otp": "610389"}
    assert (await service.client.post("/verify-otp", json=body)).json()["valid"] is True


async def test_a_status_is_found_by_number_and_by_id_and_tells_the_story(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock) as service:
        sent = (await service.send(PHONE, code="610389", reference="a.b:c_d-1")).json()
        await service.calls_over()
        by_number = await service.status(PHONE)
        assert await service.status(PHONE.replace("+", "%2B")) == by_number
        assert await service.status(sent["verification_id"]) == by_number
        assert by_number == {
            "verification_id": sent["verification_id"],
            "phone": PHONE,
            "mode": "speak",
            "status": "delivered",
            "acknowledged": None,
            "channel": "voice",
            "provider": "simulator",
            "attempts_left": 5,
            "expires_in": 300,
            "call": {
                "call_uuid": sent["call_uuid"],
                "state": "completed",
                "end_reason": "answered_and_spoken",
                "hangup_cause": "NORMAL_CLEARING 4000",
                "ring_seconds": 0,
                "talk_seconds": 42,
                "language": "en-US",
                "times_spoken": 1,
            },
            "message": None,
            "timeline": [
                {"at": "2026-01-01T00:00:00.000Z", "event": event}
                for event in (
                    "created", "dialing", "ringing", "answered", "code_requested", "code_spoken", "completed",
                )
            ],
            "reference": "a.b:c_d-1",
        }  # fmt: skip


async def test_a_status_has_all_its_fields_from_the_first_moment(service: RunningService) -> None:
    await service.send(RINGING)
    early = await service.status(RINGING)
    assert early["reference"] is None
    for name in ("end_reason", "hangup_cause", "talk_seconds"):
        assert early["call"][name] is None


async def test_one_ring_for_many_requests_at_once(service: RunningService) -> None:
    answers = await asyncio.gather(*(service.send(RINGING) for _ in range(20)))
    bodies = [answer.json() for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    assert len({body["verification_id"] for body in bodies}) == 1
    assert [body.get("deduplicated") for body in bodies].count(None) == 1
    assert service.carrier.requests == 1


async def test_a_resend_reads_the_same_code_in_a_second_call(service: RunningService) -> None:
    first = (await service.send(PHONE)).json()
    await service.calls_over()
    second = (await service.send(PHONE)).json()
    await service.calls_over()
    assert second["verification_id"] == first["verification_id"]
    assert second["call_uuid"] != first["call_uuid"]
    codes = [heard(call.spoken)[:6] for call in service.carrier.records.values()]
    assert codes[0] == codes[1]
    assert (await service.verify(PHONE, codes[0])).json()["valid"] is True


async def test_new_codes_on_resend_when_configured() -> None:
    async with run_service(resend_code="new") as service:
        codes = []
        for _ in range(2):
            call_uuid = (await service.send(PHONE, code_length=10)).json()["call_uuid"]
            await service.calls_over()
            codes.append(heard(service.carrier.records[call_uuid].spoken)[:10])
        assert codes[0] != codes[1]
        assert (await service.verify(PHONE, codes[0])).json()["reason"] == "incorrect"
        assert (await service.verify(PHONE, codes[1])).json()["valid"] is True


async def test_cancelling_hangs_up_a_ringing_call(service: RunningService) -> None:
    sent = (await service.send(RINGING)).json()
    answer = await service.client.post("/cancel-otp", json={"verification_id": sent["verification_id"]})
    assert answer.json() == {
        "status": "cancelled",
        "verification_id": sent["verification_id"],
        "phone": RINGING,
        "call_hung_up": True,
    }
    await service.calls_over()
    status = await service.status(RINGING)
    assert (status["status"], status["expires_in"]) == ("cancelled", 0)
    assert (status["call"]["end_reason"], status["call"]["hangup_cause"]) == (
        "cancelled",
        "ORIGINATOR_CANCEL 1000",
    )
    again = await service.client.post("/cancel-otp", json={"phone": RINGING})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")


async def test_cancelling_after_the_call_hangs_up_nothing(service: RunningService) -> None:
    await service.send(PHONE)
    await service.calls_over()
    answer = await service.client.post("/cancel-otp", json={"phone": PHONE})
    assert answer.json()["call_hung_up"] is False


async def test_a_call_cancelled_while_it_is_being_placed_is_hung_up(fake_time: FakeTime) -> None:
    placing, cancelled = asyncio.Event(), asyncio.Event()
    hung_up: list[str] = []

    async def vendor(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            hung_up.append(request.url.path)
            return httpx.Response(500)
        placing.set()
        await cancelled.wait()
        return httpx.Response(200, json={"request_uuid": "call-1"})

    settings: dict[str, Any] = {
        "vobiz_auth_id": "MA_T",
        "vobiz_auth_token": VOBIZ_TOKEN,
        "from_number": "+12025550100",
    }
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    async with run_service(http=http, public_url="https://otp.example.com", **settings) as service:
        sending = asyncio.create_task(service.send(PHONE))
        await placing.wait()
        answer = await service.client.post("/cancel-otp", json={"phone": PHONE})
        assert answer.json()["call_hung_up"] is False
        cancelled.set()
        await sending
        assert hung_up == ["/api/v1/Account/MA_T/Call/call-1/"]


class HeldBackAnswers:
    """A carrier whose answers to create requests come only when it is told so, if ever."""

    def __init__(self) -> None:
        self.answer_urls: list[str] = []
        self.hung_up: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.hung_up.append(request.url.path)
            return httpx.Response(204)
        self.answer_urls.append(json.loads(request.content)["answer_url"])
        raise httpx.ReadTimeout("no answer in time")


VOBIZ: dict[str, Any] = {
    "vobiz_auth_id": "MA_T",
    "vobiz_auth_token": VOBIZ_TOKEN,
    "from_number": "+12025550100",
    "public_url": "https://otp.example.com",
}


async def test_a_call_without_an_answer_is_202_and_its_callbacks_confirm_it() -> None:
    carrier = HeldBackAnswers()
    http = httpx.AsyncClient(transport=httpx.MockTransport(carrier))
    async with run_service(http=http, **VOBIZ) as service:
        answer = await service.send(PHONE, code="CANARY610")
        assert (answer.status_code, answer.json()["status"]) == (202, "call_unconfirmed")
        assert "call_uuid" not in answer.json()
        again = await service.send(PHONE)
        assert (again.status_code, again.json()["deduplicated"], len(carrier.answer_urls)) == (200, True, 1)
        path = carrier.answer_urls[0].removeprefix("https://otp.example.com")
        fields = {"CallUUID": "call-1", "Event": "StartApp"}
        assert (await service.client.post(path, data=fields)).text.count("<Speak") > 10
        call = (await service.status(PHONE))["call"]
        assert (call["call_uuid"], call["state"]) == ("call-1", "answered")


async def test_a_cancelled_call_without_an_answer_is_hung_up_once_its_id_is_known() -> None:
    carrier = HeldBackAnswers()
    http = httpx.AsyncClient(transport=httpx.MockTransport(carrier))
    async with run_service(http=http, **VOBIZ) as service:
        await service.send(PHONE)
        cancelled = await service.client.post("/cancel-otp", json={"phone": PHONE})
        assert cancelled.json()["call_hung_up"] is False
        token = carrier.answer_urls[0].split("/")[-1].split("?")[0]
        fields = {"CallUUID": "call-1", "Event": "Ring"}
        for _ in range(2):
            assert (await service.client.post(f"/ring/{token}", data=fields)).status_code == 200
        assert carrier.hung_up == ["/api/v1/Account/MA_T/Call/call-1/"]


async def test_the_second_public_url_is_ours_too() -> None:
    """A signed callback to the fallback host is as good as one to the first."""
    carrier = HeldBackAnswers()
    http = httpx.AsyncClient(transport=httpx.MockTransport(carrier))
    fallback = "https://b.example.com"
    async with run_service(
        http=http, fallback_public_url=fallback, webhook_signatures="required", **VOBIZ
    ) as service:
        await service.send(PHONE, code="CANARY610")
        token = carrier.answer_urls[0].split("/")[-1].split("?")[0]
        for host, status in ((fallback, 200), ("https://otp.example.com", 200), ("https://c.example.com", 403)):
            mac = hmac.new(VOBIZ_TOKEN.encode(), digestmod=sha256)
            nonce = "12345678901234567890"
            headers = {
                "X-Vobiz-Signature-V3": sign(mac, f"{host}/answer/{token}", nonce),
                "X-Vobiz-Signature-V3-Nonce": nonce,
            }
            fields = {"CallUUID": "call-1", "Event": "StartApp"}
            answer = await service.client.post(f"/answer/{token}?n=1", data=fields, headers=headers)
            assert answer.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/send-otp", {"phone": PHONE}),
        ("POST", "/verify-otp", {"phone": PHONE, "otp": "610389"}),
        ("POST", "/cancel-otp", {"phone": PHONE}),
        ("GET", f"/otp-status/{PHONE}", None),
        ("GET", "/ready", None),
    ],
)
async def test_without_its_store_the_service_refuses_and_says_so_in_the_log(
    service: RunningService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    body: Any,
) -> None:
    async def gone(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the store is gone")

    for name in ("begin", "check", "cancel", "find"):
        monkeypatch.setattr(service.app.state.service._store, name, gone)
    answer = await service.client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert "the store is gone" in caplog.text
    assert service.carrier.requests == 0


async def test_a_configured_provider_can_be_pinned(service: RunningService) -> None:
    assert (await service.send(PHONE, provider="simulator")).status_code == 200


@pytest.mark.parametrize(("most", "least_wait"), [(20, 29), (5, 86_000)])
async def test_a_number_with_too_many_failures_is_not_called(most: int, least_wait: int) -> None:
    async with run_service(max_failures_per_number=most) as service:
        await service.send(PHONE, code="610389")
        for _ in range(5):
            await service.verify(PHONE, "000000")
        await service.calls_over()
        answer = await service.send(PHONE)
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_failures")
        assert int(answer.headers["retry-after"]) >= least_wait
        assert service.carrier.requests == 1


@pytest.mark.parametrize("end", ["locked", "verified", "cancelled"])
async def test_a_number_never_rings_twice_at_once(end: str) -> None:
    async with run_service(max_attempts=1) as service:
        for _ in range(3):
            await service.send(RINGING, code="CANARY610")
            if end == "locked":
                await service.verify(RINGING, "000000")
            if end == "verified":
                assert (await service.verify(RINGING, "CANARY610")).status_code == 200
            if end == "cancelled":
                await service.client.post("/cancel-otp", json={"phone": RINGING})
            live = [call for call in service.carrier.calls.values() if call.stage is not Stage.ENDED]
            assert len(live) <= 1
        assert service.carrier.requests == 3


async def test_cancelling_ends_the_call_of_a_locked_verification_too(service: RunningService) -> None:
    await service.send(RINGING)
    for _ in range(5):
        await service.verify(RINGING, "000000")
    answer = await service.client.post("/cancel-otp", json={"phone": RINGING})
    assert (answer.json()["status"], answer.json()["call_hung_up"]) == ("locked", True)
    await service.calls_over()
    assert (await service.client.post("/cancel-otp", json={"phone": RINGING})).status_code == 404


async def test_a_left_over_call_that_cannot_be_hung_up_is_a_clear_refusal() -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            return httpx.Response(500)
        return httpx.Response(200, json={"request_uuid": "call-1"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    async with run_service(http=http, **VOBIZ) as service:
        await service.send(PHONE)
        await service.client.post("/cancel-otp", json={"phone": PHONE})
        answer = await service.send(PHONE)
        assert (answer.status_code, answer.json()["code"]) == (409, "call_in_progress")


async def test_a_left_over_call_that_is_not_known_by_id_is_not_doubled() -> None:
    carrier = HeldBackAnswers()
    http = httpx.AsyncClient(transport=httpx.MockTransport(carrier))
    async with run_service(http=http, **VOBIZ) as service:
        await service.send(PHONE)
        await service.client.post("/cancel-otp", json={"phone": PHONE})
        answer = await service.send(PHONE)
        assert (answer.status_code, answer.json()["code"]) == (409, "call_in_progress")
        assert len(carrier.answer_urls) == 1


@pytest.mark.parametrize(
    ("wanted", "limit", "replays", "seconds"),
    [
        pytest.param(0, 250, 0, 39, id="none wanted"),
        pytest.param(3, 250, 3, 181, id="room for all"),
        pytest.param(3, 180, 2, 140, id="room for two"),
        pytest.param(3, 100, 1, 89, id="room for one"),
        pytest.param(3, 60, 0, 39, id="room for none"),
    ],
)
async def test_a_call_has_as_many_replays_as_the_limit_has_room_for_and_the_time_for_them(
    wanted: int, limit: int, replays: int, seconds: int
) -> None:
    async with run_service(call_time_limit_seconds=limit) as service:
        sent = (await service.send(RINGING, max_replays=wanted)).json()
        assert service.carrier.calls[sent["call_uuid"]].request.time_limit == seconds
        record = await service.app.state.service._store.find_by_id(sent["verification_id"])
        assert record.call.manner.max_replays == replays


async def test_a_replay_that_there_is_no_room_for_is_not_offered() -> None:
    async with run_service(call_time_limit_seconds=60) as service:
        sent = (await service.send("+14155550103", max_replays=3)).json()  # presses 1 three times
        await service.calls_over()
        call = service.carrier.records[sent["call_uuid"]]
        assert len(heard(call.spoken)) == 2 * 6
        assert not any("press" in text for text in call.spoken)
        assert (await service.status("+14155550103"))["status"] == "delivered"


async def test_another_code_of_the_backend_is_refused_while_one_is_read(service: RunningService) -> None:
    await service.send(RINGING, code="CANARY610")
    assert (await service.send(RINGING, code="CANARY610")).json()["deduplicated"] is True
    answer = await service.send(RINGING, code="CANARY611")
    assert (answer.status_code, answer.json()["code"]) == (409, "call_in_progress")


async def test_redirects_are_not_built_from_the_host_header(service: RunningService) -> None:
    answer = await service.client.post("/send-otp/", json={}, headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize("model", [SendOtp, SendAlert, VerifyOtp, CancelOtp])
def test_every_field_has_words_for_its_refusal(model: Any) -> None:
    for name in model.model_fields:
        with pytest.raises(Problem) as refused:
            parse_json(model, json.dumps({name: [{"not": "a value"}]}).encode())
        messages = {error.field: error.message for error in refused.value.errors}
        assert re.fullmatch(r"must be \S.*", messages[name])
        assert "None" not in messages[name]


async def test_a_full_store_is_a_clear_refusal() -> None:
    async with run_service(store_capacity=1) as service:
        await service.send(RINGING)
        answer = await service.send(PHONE)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert service.carrier.requests == 1


BAD_SENDS: list[Any] = [
    pytest.param({}, "phone", id="nothing"),
    pytest.param({"phone": 14155550101}, "phone", id="phone as number"),
    pytest.param({"phone": None}, "phone", id="phone null"),
    pytest.param({"phone": ["+14155550101"]}, "phone", id="phone in a list"),
    pytest.param({"phone": "+1 800 FLOWERSX"}, "phone", id="letters"),
    pytest.param({"phone": "+14155550101;ext=77"}, "phone", id="extension"),
    pytest.param({"phone": "+१४१५५५५०१०१"}, "phone", id="Devanagari digits"),
    pytest.param({"phone": "+14155550101<+14155550102"}, "phone", id="two destinations"),
    pytest.param({"phone": "+14155550101\n"}, "phone", id="newline"),
    pytest.param({"phone": "4155550101"}, "phone", id="no country code"),
    pytest.param({"phone": PHONE, "language": "klingon-x!"}, "language", id="no language tag"),
    pytest.param({"phone": PHONE, "language": "tlh"}, "language", id="unknown language"),
    pytest.param({"phone": PHONE, "channel": "sms"}, "channel", id="no SMS yet"),
    pytest.param({"phone": PHONE, "channel": "fax"}, "channel", id="no such channel"),
    pytest.param({"phone": PHONE, "mode": "sing"}, "mode", id="unknown mode"),
    pytest.param({"phone": PHONE, "mode": "alert"}, "mode", id="alert by another route"),
    pytest.param({"phone": PHONE, "mode": "keypad", "code": "12345X"}, "code", id="letters to type on a phone"),
    pytest.param({"phone": PHONE, "prompts": "Hello there"}, "prompts", id="free text as prompts"),
    pytest.param({"phone": PHONE, "prompts": "acme"}, "prompts", id="unknown prompts"),
    pytest.param({"phone": PHONE, "voice": "Polly Amy"}, "voice", id="no voice's name"),
    pytest.param({"phone": PHONE, "voice": "Bob"}, "voice", id="unknown voice"),
    pytest.param({"phone": PHONE, "auto_replay": 1}, "auto_replay", id="number for a boolean"),
    pytest.param({"phone": PHONE, "require_keypress": "no"}, "require_keypress", id="word for a boolean"),
    pytest.param({"phone": PHONE, "code": "12 345"}, "code", id="space in the code"),
    pytest.param({"phone": PHONE, "code": "12345x"}, "code", id="lower case in the code"),
    pytest.param({"phone": PHONE, "code": "٠١٢٣٤٥"}, "code", id="Arabic digits in the code"),
    pytest.param({"phone": PHONE, "code": 123456}, "code", id="code as number"),
    pytest.param({"phone": PHONE, "code": "123456\n"}, "code", id="newline in the code"),
    pytest.param({"phone": PHONE, "code": "1234"}, "code", id="short code"),
    pytest.param({"phone": PHONE, "code": "12345678901"}, "code", id="long code"),
    pytest.param({"phone": PHONE, "code": "123456", "code_length": 7}, "code_length", id="contradiction"),
    pytest.param({"phone": PHONE, "code_length": 4}, "code_length", id="short code length"),
    pytest.param({"phone": PHONE, "code_length": 11}, "code_length", id="long code length"),
    pytest.param({"phone": PHONE, "code_length": True}, "code_length", id="boolean length"),
    pytest.param({"phone": PHONE, "code_length": 6.0}, "code_length", id="fractional length"),
    pytest.param({"phone": PHONE, "ttl_seconds": 29}, "ttl_seconds", id="short life"),
    pytest.param({"phone": PHONE, "ttl_seconds": 601}, "ttl_seconds", id="long life"),
    pytest.param({"phone": PHONE, "max_replays": 4}, "max_replays", id="many replays"),
    pytest.param({"phone": PHONE, "provider": "nobody"}, "provider", id="unknown provider"),
    pytest.param({"phone": PHONE, "reference": "a b"}, "reference", id="space in the reference"),
    pytest.param({"phone": PHONE, "reference": "x" * 65}, "reference", id="long reference"),
    pytest.param({"phone": PHONE, "colour": "red"}, "", id="unknown field"),
]


@pytest.mark.parametrize(("body", "field"), BAD_SENDS)
async def test_bad_input_is_refused_without_an_echo_a_call_or_a_trace(
    service: RunningService, body: dict[str, Any], field: str
) -> None:
    answer = await service.client.post("/send-otp", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    assert problem["type"] == f"urn:voice-otp:problem:{problem['code']}"
    assert [error["field"] for error in problem["errors"]] == [field]
    for value in body.values():
        said = [str(item) for item in (value if isinstance(value, list) else [value])]
        harmless = (PHONE, "keypad")  # a word of ours
        assert all(len(text) < 4 or text in harmless or text not in answer.text for text in said)
    assert service.carrier.requests == 0
    assert (await service.client.get(f"/otp-status/{PHONE}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"phone": PHONE, "otp": 610389}, ["otp"]),
        ({"phone": PHONE, "otp": "610 389"}, ["otp"]),
        ({"phone": PHONE, "otp": True}, ["otp"]),
        ({"otp": "610389"}, [""]),
        ({"phone": PHONE, "verification_id": "vrf_" + "0" * 32, "otp": "610389"}, [""]),
        ({"verification_id": "vrf_short", "otp": "610389"}, ["verification_id"]),
        ({"phone": "x", "otp": "y"}, ["phone", "otp"]),
    ],
)
async def test_bad_checks_cost_no_attempt(
    service: RunningService, body: dict[str, Any], fields: list[str]
) -> None:
    await service.send(PHONE, code="610389")
    answer = await service.client.post("/verify-otp", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == fields
    assert "610389" not in answer.text
    assert (await service.status(PHONE))["attempts_left"] == 5


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        pytest.param(b"", 400, "invalid_request", id="empty"),
        pytest.param(b"phone=1", 400, "invalid_request", id="not JSON"),
        pytest.param(
            b'{"phone":"+14155550101","phone":"+14155550102"}', 400, "invalid_request", id="a name twice"
        ),
        pytest.param(
            b'{"phone":"+14155550101","\\u0070hone":"x"}', 400, "invalid_request", id="a name twice, escaped"
        ),
        pytest.param(b'\xff\xfe{"phone":1}', 400, "invalid_request", id="not UTF-8"),
        pytest.param(b"[" * 16_000, 400, "invalid_request", id="deep nesting"),
        pytest.param(b"[]", 422, "invalid_request", id="a list"),
        pytest.param(b"null", 422, "invalid_request", id="null"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", 400, "invalid_request", id="a huge number"),
        pytest.param(b'{"phone":"' + b"1" * 17_000 + b'"}', 413, "payload_too_large", id="17 KB"),
    ],
)
async def test_bodies_that_are_no_request(service: RunningService, content: bytes, status: int, code: str) -> None:
    headers = {"content-type": "application/json"}
    answer = await service.client.post("/send-otp", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert service.carrier.requests == 0


async def test_a_chunked_body_without_length_is_cut_off_at_the_limit(service: RunningService) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 1024

    headers = {"content-type": "application/json"}
    answer = await service.client.post("/send-otp", content=chunks(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


async def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(service: RunningService) -> None:
    messages = [
        {"type": "http.request", "body": b'{"phone":"+14155550101"}', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    with pytest.raises(Problem) as refused:
        await read_body(receive)
    assert refused.value.status == 400


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_only_json_is_taken(service: RunningService, content_type: str) -> None:
    content = b'{"phone":"+14155550101"}'
    answer = await service.client.post("/send-otp", content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert service.carrier.requests == 0


@pytest.mark.parametrize("key", ["nobody", "vrf_123", "4155550101", "%2B1415555%0aFAKE", "+1415555010x"])
async def test_a_status_of_no_number_is_refused(service: RunningService, key: str) -> None:
    answer = await service.client.get(f"/otp-status/{key}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_phone")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/send-otp", 405, "method_not_allowed"),
        ("DELETE", "/otp-status/+14155550101", 405, "method_not_allowed"),
        ("GET", "/otp-status/vrf_" + "0" * 32, 404, "not_found"),
    ],
)
async def test_other_routes_and_methods_are_problems_too(
    service: RunningService, method: str, path: str, status: int, code: str
) -> None:
    answer = await service.client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_short_codes_only_when_allowed() -> None:
    async with run_service(allow_short_codes=True) as service:
        assert (await service.send(PHONE, code="1234")).status_code == 200
        assert (await service.verify(PHONE, "1234")).json()["valid"] is True


async def test_an_unexpected_error_is_logged_without_its_message(
    service: RunningService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = keep_secret("610389")  # not in the source line, which a trace shows

    async def broken(*_: object) -> None:
        raise RuntimeError(f"the code is {code}")

    monkeypatch.setattr(service.app.state.service, "verify", broken)
    answer = await service.verify(PHONE, "610389")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "610389" not in answer.text + caplog.text
    assert "unexpected RuntimeError" in caplog.text


async def test_a_check_with_a_key_is_the_same_check_when_it_comes_again(service: RunningService) -> None:
    await service.send(PHONE, code="610389")

    async def verify(otp: str, key: str) -> tuple[int, Any]:
        body, headers = {"phone": PHONE, "otp": otp}, {"Idempotency-Key": key}
        answer = await service.client.post("/verify-otp", json=body, headers=headers)
        return answer.status_code, answer.json()

    for _ in range(3):
        assert await verify("999999", "one") == (400, {"valid": False, "reason": "incorrect", "attempts_left": 4})
    for _ in range(3):
        status, answer = await verify("610389", "two")
        assert (status, answer["valid"]) == (200, True)
    status, answer = await verify("610389", "three")
    assert (status, answer["reason"]) == (400, "expired_or_not_found")
    status, answer = await verify("610389", "two words")
    assert (status, answer["code"]) == (400, "invalid_request")
