"""Plivo on the wire: what we send, how each answer is understood, what callbacks mean."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from plivo import plivoxml  # type: ignore[import-untyped]

from call_script import Continue, Hangup, Menu, Pause, PlayAudio, Replay, Speak
from plivo_client import BASIC_LANGUAGES, POLLY_VOICES, PlivoClient, PlivoConfig
from tests.conftest import keep_secret
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
    WebhookRejected,
)

TOKEN = keep_secret("plivo-token-CANARY-0123456789")
CALL_ID = "97ceeb52-58b6-11e1-86da-77300b68f8bb"
OTHER_ID = "5a9fd4a0-3d4c-11ef-bef9-0242ac110005"
CALLEE = keep_secret("+14155550142")
ACCOUNT = "/v1/Account/MAXXXXXXXXXXXXXXXXXX"
PAYLOADS = Path(__file__).parent / "payloads" / "plivo"
URLS = CallUrls(
    answer="https://otp.example.com/answer/T?n=1",
    fallback="https://backup.example.com/answer/T?n=1",
    choice="https://otp.example.com/otp-choice/T?n=1",
    hangup="https://otp.example.com/hangup/T",
    ring="https://otp.example.com/ring/T",
    events="https://otp.example.com/events/T",
)
ORDER = CallOrder(CALLEE, "+12025550100", URLS, ring_timeout_seconds=30, time_limit_seconds=150)

Vendor = Callable[[httpx.Request], httpx.Response]


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text())


def form(name: str) -> bytes:
    return (PAYLOADS / f"{name}.form").read_bytes().strip()


def client_of(vendor: Vendor, **config: Any) -> PlivoClient:
    """A client whose carrier is a function."""
    given = {"auth_id": "MAXXXXXXXXXXXXXXXXXX", "auth_token": TOKEN, "from_number": "+12025550100", **config}
    return PlivoClient(PlivoConfig(**given), httpx.AsyncClient(transport=httpx.MockTransport(vendor)))


def answering(status: int, body: object = None, **headers: str) -> Vendor:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return lambda _: httpx.Response(status, content=content, headers=headers)


def failing(error: Exception) -> Vendor:
    def vendor(_: httpx.Request) -> httpx.Response:
        raise error

    return vendor


# Placing a call


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("answer", ["call_fired", "call_queued"])
async def test_a_call_is_placed_with_every_limit_and_url(status: int, answer: str) -> None:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, json=payload(answer))

    assert await client_of(vendor).place_call(ORDER) == CALL_ID
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", f"https://api.plivo.com{ACCOUNT}/Call/")
    assert request.headers["authorization"] == httpx.BasicAuth("MAXXXXXXXXXXXXXXXXXX", TOKEN)._auth_header
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "from": "+12025550100",
        "to": "+14155550142",
        "answer_url": "https://otp.example.com/answer/T?n=1",
        "answer_method": "POST",
        "fallback_url": "https://backup.example.com/answer/T?n=1",
        "fallback_method": "POST",
        "ring_url": "https://otp.example.com/ring/T?k=1",
        "ring_method": "POST",
        "hangup_url": "https://otp.example.com/hangup/T?k=1",
        "hangup_method": "POST",
        "ring_timeout": 30,
        "time_limit": 150,
    }


async def test_machine_detection_is_asked_for_only_when_wanted() -> None:
    bodies: list[dict[str, Any]] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(201, json=payload("call_fired"))

    await client_of(vendor).place_call(replace(ORDER, machine_detection=MachineDetection.HANGUP))
    assert bodies[0]["machine_detection"] == "hangup"


ERROR = payload("error")


@pytest.mark.parametrize(
    ("vendor", "error", "message"),
    [
        pytest.param(answering(400, ERROR), CallRejected, "FROM_NUMBER", id="400"),
        pytest.param(answering(401, b"not JSON"), AccountRefused, "PLIVO_AUTH_TOKEN", id="401"),
        pytest.param(answering(402, ERROR), AccountRefused, "credit", id="402"),
        pytest.param(answering(403, ERROR), CallRejected, "geo permissions", id="403"),
        pytest.param(answering(404, ERROR), CallRejected, "PLIVO_AUTH_ID", id="404"),
        pytest.param(answering(405, ERROR), CallRejected, "405", id="405"),
        pytest.param(answering(409, ERROR), CallRejected, "409", id="409"),
        pytest.param(answering(422, ERROR), CallRejected, "422", id="422"),
        pytest.param(answering(429), ProviderThrottled, "300 requests", id="429"),
        pytest.param(answering(500, ERROR), ProviderUnavailable, "in trouble", id="500 of the API itself"),
        pytest.param(answering(503, ERROR), ProviderUnavailable, "in trouble", id="503 of the API itself"),
        pytest.param(
            answering(500, {**ERROR, "request_uuid": CALL_ID}), CallOutcomeUnknown, "may", id="500 with a call"
        ),
        pytest.param(answering(500, {"error": "x"}), CallOutcomeUnknown, "may", id="500 in another shape"),
        pytest.param(answering(502, b"<html>" * 90_000), CallOutcomeUnknown, "502", id="502 of a gateway, huge"),
        pytest.param(answering(504), CallOutcomeUnknown, "504", id="504"),
        pytest.param(answering(200, payload("call_spawned")), CallOutcomeUnknown, "request_uuid", id="no id"),
        pytest.param(answering(201, {"request_uuid": [CALL_ID]}), CallOutcomeUnknown, "request_uuid", id="a list"),
        pytest.param(answering(201, {"request_uuid": "../x"}), CallOutcomeUnknown, "request_uuid", id="odd id"),
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
    assert asked == 1, "a request for a call is never sent twice, whatever the answer"
    assert "4155550142" not in str(raised.value)
    assert TOKEN not in str(raised.value)


async def test_a_throttled_call_says_when_to_try_again() -> None:
    for header, seconds in (({"retry-after": "3"}, 3), ({}, 1), ({"retry-after": "soon"}, 1)):
        with pytest.raises(ProviderThrottled) as raised:
            await client_of(answering(429, ERROR, **header)).place_call(ORDER)
        assert raised.value.retry_after_seconds == seconds


async def test_an_answer_that_drips_in_is_cut_off() -> None:
    class Drip(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
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
        return httpx.Response(204) if len(paths) == 1 else httpx.Response(404, json=ERROR)

    client = client_of(vendor)
    assert await client.hang_up(CALL_ID) is True
    assert await client.hang_up(CALL_ID) is False
    assert paths == [f"DELETE {ACCOUNT}/Call/{CALL_ID}/"] * 2


LIVE, QUEUED, RECORD = payload("live_call"), payload("queued_call"), payload("record_busy")


@pytest.mark.parametrize(
    ("live", "queued", "record", "state", "reason", "cause"),
    [
        pytest.param(LIVE, None, None, CallState.ANSWERED, None, "", id="live"),
        pytest.param({**LIVE, "call_status": "ringing"}, None, None, CallState.RINGING, None, "", id="ringing"),
        pytest.param({**LIVE, "call_status": "new"}, None, None, CallState.DIALING, None, "", id="another word"),
        pytest.param(None, QUEUED, None, CallState.DIALING, None, "", id="queued"),
        pytest.param(None, None, RECORD, CallState.COMPLETED, EndReason.BUSY, "Busy Line 3010", id="ended"),
        pytest.param(
            None, None, payload("record_unfinished"), CallState.DIALING, None, "", id="a record without an end"
        ),
    ],
)
async def test_a_call_is_looked_up_in_all_three_places(
    live: Any, queued: Any, record: Any, state: CallState, reason: EndReason | None, cause: str
) -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        assert request.url.path == f"{ACCOUNT}/Call/{CALL_ID}/"
        found = {"live": live, "queued": queued, None: record}[request.url.params.get("status")]
        return httpx.Response(200, json=found) if found else httpx.Response(404, json=ERROR)

    event = await client_of(vendor).look_up(CALL_ID)
    assert event is not None
    assert (event.state, event.end_reason, event.hangup_cause) == (state, reason, cause)


@pytest.mark.parametrize("answer", [ERROR, {}, [1]])
async def test_a_call_that_plivo_does_not_know_is_none(answer: Any) -> None:
    assert await client_of(answering(200, answer)).look_up(CALL_ID) is None
    assert await client_of(answering(404, answer)).look_up(CALL_ID) is None


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        pytest.param({"live": [OTHER_ID, CALL_ID]}, CallState.ANSWERED, id="live"),
        pytest.param({"queued": ["not/an/id", 7, CALL_ID]}, CallState.DIALING, id="queued"),
        pytest.param({"+14155550142": [RECORD]}, CallState.COMPLETED, id="ended, listed with a plus sign"),
        pytest.param({"14155550142": [RECORD]}, CallState.COMPLETED, id="ended, listed without one"),
        pytest.param(
            {"14155550142": [{**RECORD, "initiation_time": "2026-01-01 05:29:59+05:30"}]}, None, id="earlier"
        ),
        pytest.param(
            {"14155550142": [{**RECORD, "initiation_time": "2026-01-01 00:00:05"}]},
            CallState.COMPLETED,
            id="a time without a zone: the list's filter decides",
        ),
        pytest.param({"14155550142": [{**RECORD, "initiation_time": "soon"}]}, None, id="no time"),
        pytest.param({"14155550142": [{**RECORD, "to_number": "141555501423"}]}, None, id="only a prefix"),
        pytest.param({"14155550142": ["x", {}]}, None, id="no records"),
        pytest.param({"live": [OTHER_ID]}, None, id="live to another callee"),
        pytest.param({"live": "x", "14155550142": "x"}, None, id="odd answers"),
    ],
)
async def test_a_call_without_a_known_id_is_found_by_its_callee(answers: dict[str, Any], state: Any) -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        params = request.url.params
        if request.url.path != f"{ACCOUNT}/Call/":
            to = CALLEE if CALL_ID in request.url.path else "+14155550143"
            return httpx.Response(200, json={**LIVE, "to": to})
        if "status" in params:
            return httpx.Response(200, json={"api_id": "x", "calls": answers.get(params["status"], [])})
        assert params["end_time__gte"] == "2026-01-01 00:00:00"
        return httpx.Response(200, json={"api_id": "x", "objects": answers.get(params["to_number"], [])})

    event = await client_of(vendor).find_call(CALLEE, 1_767_225_600.0)
    assert (event and event.state) == state
    assert event is None or event.call_id == CALL_ID


@pytest.mark.parametrize("full", ["live", "queued", "14155550142", "+14155550142"])
async def test_a_full_page_does_not_prove_that_there_is_no_call(full: str) -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        params = request.url.params
        listed = params.get("status") or params.get("to_number")
        if request.url.path != f"{ACCOUNT}/Call/":
            return httpx.Response(200, json={**LIVE, "to": "+14155550143"})
        return httpx.Response(
            200, json={name: [OTHER_ID] * 20 * (listed == full) for name in ("calls", "objects")}
        )

    with pytest.raises(CallOutcomeUnknown, match="more calls"):
        await client_of(vendor).find_call(CALLEE, 1_767_225_600.0)


# Callbacks


def event_of(body: bytes, expected: CallState | None = CallState.ANSWERED) -> Any:
    return client_of(answering(200)).parse_event(RawWebhook(("https://otp.example.com/x",), {}, body), expected)


@pytest.mark.parametrize(
    ("name", "expected", "state", "digits"),
    [
        ("ring", CallState.RINGING, CallState.RINGING, ""),
        ("answer", CallState.ANSWERED, CallState.ANSWERED, ""),
        ("key_pressed", CallState.ANSWERED, CallState.ANSWERED, "1"),
        ("key_pressed_with_other_event", CallState.ANSWERED, CallState.ANSWERED, "9"),
        ("machine_detection", CallState.ANSWERED, None, ""),
        ("ring", CallState.COMPLETED, CallState.RINGING, ""),
    ],
)
def test_callbacks_are_translated(name: str, expected: CallState, state: CallState | None, digits: str) -> None:
    event = event_of(form(name), expected)
    assert (event.call_id, event.state, event.digits) == (CALL_ID, state, digits)


def test_a_callback_by_get_is_read_from_its_query() -> None:
    webhook = RawWebhook(("https://otp.example.com/x",), {}, b"", "GET", f"n=1&{form('key_pressed').decode()}")
    event = client_of(answering(200)).parse_event(webhook, CallState.ANSWERED)
    assert (event.call_id, event.state, event.digits) == (CALL_ID, CallState.ANSWERED, "1")


def test_without_an_event_a_callback_is_what_its_route_is_for() -> None:
    for expected in (CallState.RINGING, CallState.ANSWERED, CallState.COMPLETED):
        assert event_of(f"CallUUID={CALL_ID}&CallStatus=completed".encode(), expected).state is expected


@pytest.mark.parametrize(
    ("name", "reason", "cause", "talk_seconds"),
    [
        ("hangup_normal", None, "NORMAL_CLEARING 4000", 13),
        ("hangup_busy_without_code", EndReason.BUSY, "USER_BUSY", 0),
        ("hangup_machine", EndReason.VOICEMAIL, "NORMAL_CLEARING 9100", 5),
        ("hangup_machine_without_code", EndReason.VOICEMAIL, "NORMAL_CLEARING", 5),
    ],
)
def test_the_end_of_a_call_is_translated(
    name: str, reason: EndReason | None, cause: str, talk_seconds: int
) -> None:
    event = event_of(form(name))
    assert (event.state, event.end_reason) == (CallState.COMPLETED, reason)
    assert (event.hangup_cause, event.talk_seconds) == (cause, talk_seconds)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("1000", EndReason.CANCELLED),
        ("1010", EndReason.FAILED),
        ("2000", EndReason.FAILED),
        ("2050", EndReason.FAILED),
        ("3000", EndReason.NO_ANSWER),
        ("3010", EndReason.BUSY),
        ("3020", EndReason.REJECTED),
        ("3030", EndReason.FAILED),
        ("3130", EndReason.REJECTED),
        ("4010", None),
        ("5030", EndReason.FAILED),
        ("6000", None),
        ("6010", EndReason.NO_ANSWER),
        ("7011", EndReason.FAILED),
        ("8011", EndReason.FAILED),
        ("9110", EndReason.NO_KEYPRESS),
        ("0", EndReason.UNKNOWN),
        ("4711", EndReason.UNKNOWN),
    ],
)
def test_hangup_causes_are_translated(code: str, reason: EndReason | None) -> None:
    event = event_of(f"CallUUID={CALL_ID}&Event=Hangup&CallStatus=completed&HangupCauseCode={code}".encode())
    assert event.end_reason is reason


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param("Event=StartApp", id="no CallUUID"),
        pytest.param("CallUUID=1234", id="no UUID"),
        pytest.param(f"CallUUID={CALL_ID}Digits1", id="a field swallowed by the CallUUID"),
        pytest.param(f"CallUUID={CALL_ID}&Digits=1Event", id="the next field's name in Digits"),
        pytest.param(f"CallUUID={CALL_ID}&1EventRedirect=", id="a value in a name"),
        pytest.param(f"n%3D1.CallUUID=x&CallUUID={CALL_ID}", id="a query in a name"),
        pytest.param(f"=1&CallUUID={CALL_ID}", id="a field without a name"),
        pytest.param(f"CallUUID={CALL_ID}&Digits=1&Digits=9", id="a field twice"),
        pytest.param(f"CallUUID={CALL_ID}&" + "&".join(f"f{n}=1" for n in range(5000)), id="5,000 fields"),
        pytest.param('{"CallUUID": "x"}', id="JSON"),
        pytest.param(f"CallUUID={CALL_ID}&Digits=%ff", id="not UTF-8"),
    ],
)
def test_a_malformed_callback_is_refused(body: str) -> None:
    with pytest.raises(WebhookRejected) as refused:
        event_of(body.encode())
    assert refused.value.status == 400
    webhook = RawWebhook(("https://otp.example.com/x",), {}, b"", "GET", body)
    with pytest.raises(WebhookRejected) as refused:
        client_of(answering(200)).parse_event(webhook, CallState.ANSWERED)
    assert refused.value.status == 400


# What is said. The judge of documents is the SDK's builder of them.

SCRIPT = (
    Pause(1),
    Speak("Code of <App> & Co:", "en-US"),
    Speak("4", "en-US"),
    Menu((Speak("Press 1.", "en-US"),), 3),
    Continue(),
    Replay(),
    PlayAudio("https://a.example/1.wav"),
    Hangup(),
)


def sdk_document(voice: str) -> str:
    response = plivoxml.ResponseElement()
    response.add(plivoxml.WaitElement(length=1))
    response.add(plivoxml.SpeakElement("Code of <App> & Co:", voice=voice, language="en-US"))
    response.add(plivoxml.SpeakElement("4", voice=voice, language="en-US"))
    menu = plivoxml.GetInputElement(
        action=URLS.choice,
        method="POST",
        input_type="dtmf",
        execution_timeout=5,
        num_digits=1,
        finish_on_key="none",
        log=False,
    )
    response.add(menu.add(plivoxml.SpeakElement("Press 1.", voice=voice, language="en-US")))
    response.add(plivoxml.RedirectElement(URLS.choice, method="POST"))
    response.add(plivoxml.RedirectElement(URLS.answer, method="POST"))
    response.add(plivoxml.PlayElement("https://a.example/1.wav"))
    response.add(plivoxml.HangupElement())
    document: str = response.to_string()
    return document


@pytest.mark.parametrize(("polly", "voice"), [(True, "Polly.Joanna"), (False, "WOMAN")])
def test_documents_are_those_that_the_sdk_builds(polly: bool, voice: str) -> None:
    assert tree_of(client_of(answering(200), polly=polly).render(SCRIPT, URLS)) == tree_of(sdk_document(voice))


def test_a_wait_for_several_keys_lets_the_callee_take_time_and_finish_early() -> None:
    menu = Menu((Speak("Press", "en-US"), Speak("four", "en-US"), Speak("two", "en-US")), 20, keys=2)
    element = plivoxml.GetInputElement(
        action=URLS.choice,
        method="POST",
        input_type="dtmf",
        execution_timeout=20,
        digit_end_timeout=5,
        num_digits=2,
        finish_on_key="#",
        log=False,
    )
    for text in ("Press", "four", "two"):
        element.add(plivoxml.SpeakElement(text, voice="Polly.Joanna", language="en-US"))
    response = plivoxml.ResponseElement().add(element)
    assert tree_of(client_of(answering(200)).render((menu,), URLS)) == tree_of(response.to_string())


@pytest.mark.parametrize(
    ("polly", "language", "wanted", "voice"),
    [
        (True, "en-US", "", "Polly.Joanna"),
        (True, "en-US", "female", "Polly.Joanna"),
        (True, "en-US", "male", "Polly.Matthew"),
        (True, "en-US", "Polly.Kendra", "Polly.Kendra"),
        pytest.param(True, "de-DE", "Polly.Kendra", "Polly.Marlene", id="a voice of another language"),
        pytest.param(True, "hi-IN", "male", "Polly.Aditi", id="no man's voice"),
        pytest.param(True, "pt-BR", "female", "Polly.Ricardo", id="no woman's voice"),
        (True, "hi-IN", "Polly.Aditi", "Polly.Aditi"),
        pytest.param(True, "en-IN", "Polly.Aditi", "Polly.Aditi", id="a voice of two languages"),
        (True, "en-IN", "", "Polly.Raveena"),
        (False, "en-US", "", "WOMAN"),
        (False, "en-US", "male", "MAN"),
        pytest.param(False, "da-DK", "male", "WOMAN", id="no basic man's voice"),
        pytest.param(False, "pt-PT", "female", "MAN", id="no basic woman's voice"),
        pytest.param(False, "en-US", "Polly.Kendra", "WOMAN", id="no Polly"),
    ],
)
def test_a_voice_is_the_wanted_one_or_the_nearest(polly: bool, language: str, wanted: str, voice: str) -> None:
    document = client_of(answering(200), polly=polly).render((Speak("x", language, wanted),), URLS)
    (speak,) = ElementTree.fromstring(document)
    assert speak.attrib == {"voice": voice, "language": language}


def sdk_speak(content: str) -> Any:
    return plivoxml.SpeakElement(content, voice="Polly.Joanna", language="en-US")


def test_a_polly_voice_speaks_the_operators_ssml_at_the_operators_rate() -> None:
    script = (
        Speak("Bye for now.", "en-US", ssml='Bye <break time="300ms"/> for now &amp; ever.'),
        Speak("Bye & bye.", "en-US", rate=80),
        Speak("Bye.", "en-US", rate=120, ssml='Bye <break time="300ms"/>'),
    )
    response = plivoxml.ResponseElement()
    response.add(sdk_speak("Bye ").add_break(time="300ms").add_cont("for now & ever."))
    response.add(sdk_speak("").add_prosody("Bye & bye.", rate="80%"))
    response.add(sdk_speak("").add(plivoxml.ProsodyElement("Bye ", rate="120%").add_break(time="300ms")))
    assert tree_of(client_of(answering(200)).render(script, URLS)) == tree_of(response.to_string())


def test_a_basic_voice_speaks_words_at_its_own_pace() -> None:
    ssml = Speak("Bye & bye.", "en-US", rate=80, ssml='Bye <break time="300ms"/>')
    response = plivoxml.ResponseElement()
    response.add(plivoxml.SpeakElement("Bye & bye.", voice="WOMAN", language="en-US"))
    assert tree_of(client_of(answering(200), polly=False).render((ssml,), URLS)) == tree_of(response.to_string())


def tree_of(document: str | bytes) -> Any:
    """An element as name, attributes, text, children, and the text behind it. The SDK adds spaces of its own."""

    def read(node: ElementTree.Element) -> Any:
        text, tail = (" ".join((found or "").split()) for found in (node.text, node.tail))
        return node.tag, dict(node.attrib), text, [read(child) for child in node], tail

    return read(ElementTree.fromstring(document))


def test_polly_widens_the_languages() -> None:
    assert client_of(answering(200), polly=False).capabilities.languages == BASIC_LANGUAGES
    spoken = client_of(answering(200)).capabilities.languages
    assert {"hi-IN", "ja-JP", "ko-KR", *BASIC_LANGUAGES} <= set(spoken)
    assert set(spoken) == set(POLLY_VOICES)
    first = {tag.split("-")[0]: tag for tag in reversed(spoken)}
    basic = {tag.split("-")[0]: tag for tag in reversed(BASIC_LANGUAGES)}
    assert basic.items() <= first.items(), "the variety for a language's other regions stays the same"


def test_every_language_is_on_plivos_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "plivo.md").read_text(encoding="utf-8")
    table = page.split("| `WOMAN` and `MAN`, and Polly |")[1].split("\n\n")[0]
    basic, polly = (set(re.findall(r"[a-z]{2,3}-[A-Z]{2}", row)) for row in table.splitlines())
    assert basic == set(BASIC_LANGUAGES)
    assert basic | polly == set(POLLY_VOICES)


def test_secrets_do_not_show_in_representations() -> None:
    client = client_of(answering(200))
    assert TOKEN not in repr(client) + repr(client._config)
    assert "2025550100" not in repr(client._config)
