"""Who may call the carriers' routes, and what anyone else gets: no code, no change, valid XML."""

import base64
import hmac
import json
from hashlib import sha256
from typing import Any

import httpx
import pytest

from otp_store import StoreFull, StoreUnavailable
from simulator import vobiz_call
from tests.conftest import RunningService, run_service
from tests.hearing import heard

PHONE = "+14155550142"
HANGUP = "<Response><Hangup/></Response>"
NONCE = "12345678901234567890"


class Call:
    """A live call, seen by someone who wants to send callbacks about it."""

    def __init__(self, service: RunningService, call_uuid: str, token: str) -> None:
        self.service = service
        self.call_uuid = call_uuid
        self.token = token

    async def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        body = {"CallUUID": self.call_uuid, **fields}
        return await self.service.client.post(path, data=body, headers=headers)

    def signature(self, path: str, nonce: str = NONCE) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.service.settings.http_port}{path}"
        key = self.service.carrier.account.auth_token.encode()
        digest = hmac.digest(key, f"{url}.{nonce}".encode(), sha256)
        return {
            "X-Vobiz-Signature-V3": base64.b64encode(digest).decode(),
            "X-Vobiz-Signature-V3-Nonce": nonce,
        }

    async def is_untouched(self) -> bool:
        status = await self.service.status(PHONE)
        return bool(status["status"] == "calling" and status["call"]["times_spoken"] == 0)


@pytest.fixture
async def call(service: RunningService) -> Call:
    return await start_call(service)


async def start_call(service: RunningService) -> Call:
    sent = (await service.send(PHONE, code="CANARY610")).json()
    simulated = service.carrier.calls[sent["call_uuid"]]
    token = simulated.request.answer.url.split("/")[-1].split("?")[0]
    return Call(service, sent["call_uuid"], token)


SPEAKING = ("/answer", "/otp-choice")
NOTICES = ("/ring", "/hangup")


@pytest.mark.parametrize("route", SPEAKING + NOTICES)
@pytest.mark.parametrize(
    "token",
    [
        pytest.param("x", id="not a token"),
        pytest.param("0" * 68, id="guessed"),
        pytest.param("{token}0", id="longer"),
        pytest.param("{altered}", id="altered"),
        pytest.param("%20%00", id="control characters"),
    ],
)
async def test_an_unknown_token_learns_and_changes_nothing(call: Call, route: str, token: str) -> None:
    altered = call.token[:-1] + ("0" if call.token[-1] != "0" else "1")
    path = f"{route}/{token.format(token=call.token, altered=altered)}"
    answer = await call.post(path, Event="StartApp", Digits="1")
    assert answer.status_code == 404
    assert answer.text == (HANGUP if route in SPEAKING else "")
    assert await call.is_untouched()


@pytest.mark.parametrize("route", SPEAKING + NOTICES)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Vobiz-Signature-V3": "wrong", "X-Vobiz-Signature-V3-Nonce": NONCE}, id="wrong"),
        pytest.param({"X-Vobiz-Signature-V3": "", "X-Vobiz-Signature-V3-Nonce": ""}, id="empty"),
        pytest.param({"X-Vobiz-Signature-V3-Nonce": NONCE}, id="only a nonce"),
    ],
)
async def test_a_wrong_signature_is_refused_although_the_token_is_right(
    call: Call, route: str, headers: dict[str, str]
) -> None:
    answer = await call.post(f"{route}/{call.token}?n=1", headers, Event="Hangup", HangupCauseCode="4000")
    assert answer.status_code == 403
    assert answer.text == (HANGUP if route in SPEAKING else "")
    assert await call.is_untouched()


async def test_a_right_signature_of_another_path_is_refused(call: Call) -> None:
    stolen = call.signature(f"/ring/{call.token}")
    answer = await call.post(f"/answer/{call.token}?n=1", stolen, Event="StartApp")
    assert (answer.status_code, answer.text) == (403, HANGUP)


async def test_a_signature_is_checked_against_the_configured_url_whatever_the_host_header(call: Call) -> None:
    path = f"/answer/{call.token}"
    headers = {**call.signature(path), "Host": "evil.example.com"}
    assert (await call.post(path + "?n=1", headers, Event="StartApp")).status_code == 200


@pytest.mark.parametrize("route", SPEAKING)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"Event=StartApp", id="no CallUUID"),
        pytest.param(b"CallUUID={uuid}&Digits=1&Digits=9", id="a field twice"),
        pytest.param(b'{"CallUUID":"{uuid}"}', id="JSON"),
        pytest.param(b"CallUUID={uuid}&" + b"x=1&" * 5000, id="too long"),
    ],
)
async def test_a_malformed_body_learns_and_changes_nothing(call: Call, route: str, content: bytes) -> None:
    body = content.replace(b"{uuid}", call.call_uuid.encode())
    answer = await call.service.client.post(f"{route}/{call.token}?n=1", content=body)
    assert answer.status_code in (400, 413)
    assert answer.text == HANGUP
    assert answer.headers["content-type"] == "application/xml"
    assert await call.is_untouched()


@pytest.mark.parametrize("route", SPEAKING + NOTICES)
async def test_a_callback_that_names_another_call_is_refused(call: Call, route: str) -> None:
    call.call_uuid = "5a9fd4a0-3d4c-11ef-bef9-0242ac119999"
    answer = await call.post(f"{route}/{call.token}?n=1", Event="Hangup", Digits="1")
    assert answer.status_code == 403
    assert await call.is_untouched()


async def test_unsigned_callbacks_are_refused_when_signatures_are_required() -> None:
    async with run_service(webhook_signatures="required") as service:
        call = await start_call(service)
        path = f"/answer/{call.token}"
        assert (await call.post(path + "?n=1", Event="StartApp")).status_code == 403
        answer = await call.post(path + "?n=1", call.signature(path), Event="StartApp")
        assert answer.status_code == 200
        assert answer.text.count("<Speak") > 10


async def test_calls_work_without_any_signature_too() -> None:
    async with run_service(simulator_signatures=False) as service:
        await service.send("+14155550101")
        await service.calls_over()
        assert (await service.status("+14155550101"))["status"] == "delivered"


# The static URLs of a carrier's console


async def test_static_urls_serve_signed_callbacks_of_live_calls(call: Call) -> None:
    answer = await call.post("/answer", call.signature("/answer"), Event="StartApp")
    assert answer.status_code == 200
    assert heard(e.text for e in vobiz_call.read(answer.content)) == "CANARY610" * 2
    choice = await call.post("/otp-choice", call.signature("/otp-choice", "2" * 20), Digits="1")
    assert "Redirect" in choice.text
    assert f"/answer/{call.token}?n=2" in choice.text
    ended = await call.post("/hangup", call.signature("/hangup", "3" * 20), Event="Hangup", HangupCauseCode="4000")
    assert (ended.status_code, ended.text) == (200, "")
    assert (await call.service.status(PHONE))["call"]["end_reason"] == "answered_and_spoken"
    late = await call.post("/answer", call.signature("/answer"), Event="StartApp")
    assert (late.status_code, late.text) == (404, HANGUP)


@pytest.mark.parametrize("route", SPEAKING + NOTICES)
async def test_static_urls_refuse_unsigned_callbacks_whatever_the_policy(call: Call, route: str) -> None:
    answer = await call.post(route, Event="StartApp")
    assert answer.status_code == 403
    assert answer.text == (HANGUP if route in SPEAKING else "")
    assert await call.is_untouched()


@pytest.mark.parametrize("route", SPEAKING + NOTICES)
async def test_static_urls_refuse_calls_that_are_not_ours(call: Call, route: str) -> None:
    call.call_uuid = "5a9fd4a0-3d4c-11ef-bef9-0242ac119999"
    answer = await call.post(route, call.signature(route), Event="StartApp")
    assert answer.status_code == 404


# Trouble


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), StoreFull("full"), RuntimeError("bug")])
@pytest.mark.parametrize("route", SPEAKING)
async def test_trouble_during_an_authentic_call_still_answers_xml_with_200(
    call: Call, monkeypatch: pytest.MonkeyPatch, route: str, error: Exception
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise error

    store = call.service.app.state.service._store
    monkeypatch.setattr(store, "read_code", broken)
    monkeypatch.setattr(store, "record_reading_end", broken)
    answer = await call.post(f"{route}/{call.token}?n=1", Event="StartApp")
    assert answer.status_code == 200
    assert "Goodbye" in answer.text
    assert answer.text.endswith("<Hangup/></Response>")
    vobiz_call.read(answer.content)


async def test_trouble_before_a_call_is_known_answers_xml_with_an_error(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(call.service.app.state.service._store, "find_by_id", broken)
    answer = await call.post(f"/answer/{call.token}?n=1", Event="StartApp")
    assert (answer.status_code, answer.text) == (500, HANGUP)


@pytest.mark.parametrize("place", ["/answer/{}?n=1", "/otp-choice/{}?n=1", "/otp-choice/{}?k=1", "/answer/{}"])
async def test_while_the_store_is_lost_a_carrier_is_told_to_come_back(
    call: Call, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    async def lost(*_: Any) -> None:
        raise StoreUnavailable("gone")

    path = place.format(call.token)
    with monkeypatch.context() as patched:
        patched.setattr(call.service.app.state.service._store, "find_by_id", lost)
        answer = await call.post(path, Event="StartApp", Digits="1")
        guessed = await call.post(place.format("0" * 68), Event="StartApp")
    assert answer.status_code == 200
    again = f'<Wait length="1"/><Redirect method="POST">{call.service.settings.base_url}{path}</Redirect>'
    assert answer.text == f"<Response>{again}</Response>"
    vobiz_call.read(answer.content)
    assert (guessed.status_code, guessed.text) == (404, HANGUP)
    assert "Redirect" in (await call.post(path, Event="Redirect")).text


# What a callback does not say, and what it says wrongly


async def test_a_hangup_without_event_ends_the_call_all_the_same(call: Call) -> None:
    assert (
        await call.post(f"/hangup/{call.token}", HangupCauseCode="3010", HangupCause="USER_BUSY")
    ).status_code == 200
    assert (await call.service.status(PHONE))["call"]["end_reason"] == "busy"


async def test_an_answer_without_event_is_an_answer(call: Call) -> None:
    assert (await call.post(f"/answer/{call.token}?n=1")).text.count("<Speak") > 10


@pytest.mark.parametrize("event", ["CallInitiated", "MachineDetection", "Nonsense", "Ring"])
@pytest.mark.parametrize("route", SPEAKING)
async def test_another_event_gets_no_code_on_a_speaking_route(call: Call, route: str, event: str) -> None:
    answer = await call.post(f"{route}/{call.token}?n=1", Event=event)
    assert (answer.status_code, answer.text) == (200, "")
    assert await call.is_untouched()


async def test_a_callback_that_was_cut_off_does_not_name_the_call() -> None:
    """The carrier's own answer says which call it is; what a callback said before counts less."""
    answer_urls: list[str] = []
    service: RunningService

    async def vendor(request: httpx.Request) -> httpx.Response:
        answer_urls.append(json.loads(request.content)["answer_url"])
        path = answer_urls[0].removeprefix("https://otp.example.com").replace("/answer/", "/ring/")
        await service.client.post(path, data={"CallUUID": "5a9f", "Event": "Ring"})
        return httpx.Response(200, json={"request_uuid": "5a9fd4a0-3d4c-11ef-bef9-0242ac110005"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    settings: dict[str, Any] = {"vobiz_auth_id": "MA_T", "vobiz_auth_token": "t", "from_number": "+12025550100"}
    async with run_service(http=http, public_url="https://otp.example.com", **settings) as service:
        sent = await service.send(PHONE, code="CANARY610")
        assert sent.json()["call_uuid"] == "5a9fd4a0-3d4c-11ef-bef9-0242ac110005"
        path = answer_urls[0].removeprefix("https://otp.example.com")
        answer = await service.client.post(path, data={"CallUUID": sent.json()["call_uuid"], "Event": "StartApp"})
        assert answer.text.count("<Speak") > 10
