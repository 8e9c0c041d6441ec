"""Plivo PHLO on the wire: what a run is told, how each answer is understood, what a report of the PHLO means."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from call_script import PlayAudio, Speak
from phlo_client import EVENTS, PhloClient, PhloConfig, run_payload
from tests.conftest import keep_secret
from tests.whole_calls import TEXTS, whole_call, words_of
from voice_provider import (
    AccountRefused,
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    Capabilities,
    EndReason,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
    RawWebhook,
    WebhookRejected,
)

PAYLOADS = Path(__file__).parent / "payloads" / "phlo"
AUTH_ID = "MAXXXXXXXXXXXXXXXXXX"
AUTH_TOKEN = keep_secret("plivo-token-CANARY-0123456789")
PHLO_ID = "4c1a9f23-0000-4879-bb80-db856e1e7701"
RUN_ID = "7b6f8256-0000-4d9a-bf2a-a2cd0f05d269"
CALLEE = keep_secret("+14155550142")
CODE = keep_secret("482913")

SCRIPT = whole_call(CODE)
ORDER = CallOrder(
    to=CALLEE,
    from_number="+12025550100",
    urls=CallUrls("", "", "", "", "", events="https://otp.example.com/events/4b1d"),
    ring_timeout_seconds=30,
    time_limit_seconds=150,
    script=SCRIPT,
)

Vendor = Callable[[httpx.Request], httpx.Response]


def client_of(vendor: Vendor, **config: Any) -> PhloClient:
    """A client whose carrier is a function."""
    given = {"auth_id": AUTH_ID, "auth_token": AUTH_TOKEN, "phlo_id": PHLO_ID, "from_number": "+12025550100"}
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    return PhloClient(PhloConfig(**{**given, **config}), http)


def payload(name: str) -> bytes:
    return (PAYLOADS / f"{name}.json").read_bytes()


def answering(status: int, content: bytes = b"", **headers: str) -> Vendor:
    return lambda _: httpx.Response(status, content=content, headers=headers)


def failing(error: Exception) -> Vendor:
    def vendor(_: httpx.Request) -> httpx.Response:
        raise error

    return vendor


def silent() -> PhloClient:
    return client_of(failing(AssertionError("no request is to be made")))


# Running the PHLO


async def test_a_run_is_told_everything_at_once() -> None:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, content=payload("run_accepted"))

    assert await client_of(vendor).place_call(ORDER) == RUN_ID
    (request,) = seen
    assert str(request.url) == f"https://phlorunner.plivo.com/v1/account/{AUTH_ID}/phlo/{PHLO_ID}/"
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/json"
    credentials = base64.b64encode(f"{AUTH_ID}:{AUTH_TOKEN}".encode()).decode()
    assert request.headers["authorization"] == f"Basic {credentials}"
    assert json.loads(request.content) == {
        "from": "+12025550100",
        "to": CALLEE,
        "otp": CODE,
        "otp_spoken": "four, eight, two, nine, one, three",
        "greeting": "Hello. This is your verification code for Example.",
        "code_prompt": "Your code is",
        "again": "Once more. Your code is",
        "replay_prompt": "To hear the code again, press 1.",
        "goodbye": "Goodbye.",
        "readings": "4",
        "callback_url": "https://otp.example.com/events/4b1d",
    }


async def test_no_id_of_ours_can_lead_to_another_path() -> None:
    paths: list[bytes] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(201, content=payload("run_accepted"))

    client = client_of(vendor, phlo_id="../x?y", api_url="https://phlorunner.plivo.com/v1/")
    await client.place_call(ORDER)
    assert paths == [f"/v1/account/{AUTH_ID}/phlo/..%2Fx%3Fy/".encode()]


@pytest.mark.parametrize(
    ("app", "spoken"),
    [
        ("Tom & Jerry", "Tom Jerry"),
        ("<break time='9s'/>Shop", "break time='9s'/ Shop"),
        ("{{Start.http.params.otp}}", "Start.http.params.otp"),
        ("Zürich\n Café", "Zürich Café"),
    ],
)
def test_a_sentence_cannot_break_the_ssml_or_the_template_that_it_is_put_into(app: str, spoken: str) -> None:
    script = SCRIPT._replace(greeting=Speak(app, "en-US"))
    assert run_payload(replace(ORDER, script=script))["greeting"] == spoken


@pytest.mark.parametrize("language", TEXTS)
def test_a_code_is_spoken_in_the_words_of_its_language(language: str) -> None:
    code = keep_secret("07AZ39")
    spoken = run_payload(replace(ORDER, script=whole_call(code, language)))["otp_spoken"]
    assert spoken == ", ".join(words_of(code, language))
    assert not set(spoken) & set("<>&{}"), "so that it can stand in SSML"


def test_a_prompt_is_told_in_words_whatever_else_there_is_for_it() -> None:
    """A PHLO has its own voice at its own pace, and plays no files of ours."""
    ssml = Speak("Hello there.", "en-US", "male", 80, 'Hello <break time="1s"/> there.', 1)
    recorded = PlayAudio("https://otp.example.com/audio/1.wav", 2, "Your code is")
    told = run_payload(replace(ORDER, script=SCRIPT._replace(greeting=ssml, code_prompt=recorded)))
    assert (told["greeting"], told["code_prompt"]) == ("Hello there.", "Your code is")


REFUSED = payload("run_refused")
FIXTURE = payload("run_refused_by_fixture")


@pytest.mark.parametrize(
    ("vendor", "error", "message"),
    [
        pytest.param(answering(400, REFUSED), CallRejected, "Start node", id="400"),
        pytest.param(answering(401, FIXTURE), AccountRefused, "PLIVO_AUTH_TOKEN", id="401"),
        pytest.param(answering(402), AccountRefused, "top it up", id="402, undocumented"),
        pytest.param(answering(403, FIXTURE), CallRejected, "geo permissions", id="403"),
        pytest.param(answering(404, FIXTURE), CallRejected, "PLIVO_PHLO_ID", id="404"),
        pytest.param(answering(405, FIXTURE), CallRejected, "PLIVO_PHLO_URL", id="405"),
        pytest.param(answering(422, REFUSED), CallRejected, "422", id="another 4xx"),
        pytest.param(answering(429), ProviderThrottled, "no more calls", id="429"),
        # The shape of an error is not documented for PHLO: a 5xx proves nothing, in whatever shape it comes.
        pytest.param(answering(500, REFUSED), CallOutcomeUnknown, "may", id="500 with an error"),
        pytest.param(answering(503, FIXTURE), CallOutcomeUnknown, "may", id="503 with a status"),
        pytest.param(answering(504, b"<html>" * 90_000), CallOutcomeUnknown, "504", id="504 of a gateway, huge"),
        pytest.param(answering(200, b"ok"), CallOutcomeUnknown, "no api_id", id="200, no JSON"),
        pytest.param(answering(201, b"[]"), CallOutcomeUnknown, "no api_id", id="201, a list"),
        pytest.param(answering(201, b'{"api_id": 7}'), CallOutcomeUnknown, "no api_id", id="201, a number"),
        pytest.param(answering(201, b'{"api_id": "a/b"}'), CallOutcomeUnknown, "no api_id", id="201, odd id"),
    ],
)
async def test_an_answer_says_what_may_be_done_next(
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
    assert asked == 1, "a run is never asked for twice"
    for secret in (CALLEE[1:], CODE, AUTH_TOKEN, "4b1d"):
        assert secret not in str(raised.value)


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_every_success_that_the_sdk_takes_is_a_run(status: int) -> None:
    assert await client_of(answering(status, payload("run_accepted"))).place_call(ORDER) == RUN_ID


async def test_a_throttled_run_says_when_to_try_again() -> None:
    with pytest.raises(ProviderThrottled) as raised:
        await client_of(answering(429, b"", **{"retry-after": "5"})).place_call(ORDER)
    assert raised.value.retry_after_seconds == 5


async def test_an_answer_that_drips_in_is_cut_off() -> None:
    class Drip(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

    client = client_of(lambda _: httpx.Response(201, stream=Drip()), request_deadline_seconds=0.01)
    with pytest.raises(CallOutcomeUnknown):
        await client.place_call(ORDER)


# What a PHLO cannot do


@pytest.mark.parametrize("reports_back", [False, True])
def test_nothing_is_claimed_that_a_phlo_cannot_do_or_is_not_told_to_report(reports_back: bool) -> None:
    assert client_of(answering(500), reports_back=reports_back).capabilities == Capabilities(
        languages=("en-US",),
        fetches_script=False,
        reports_progress=False,  # nothing is told while the phone rings
        silence_is_proof=False,
        can_be_asked=False,
        hangs_up=False,
        detects_machines=False,
        limits_call=False,
        proves_speaking=reports_back,
        asks_for_keys=False,
        takes_codes=False,
        tells_alerts=False,
    )


def test_a_phlo_speaks_the_language_of_its_voice_only() -> None:
    assert client_of(answering(500), language="en-IN").capabilities.languages == ("en-IN",)


async def test_a_run_can_be_neither_stopped_nor_asked_and_no_request_pretends_so() -> None:
    client = silent()
    for asked in (client.hang_up(RUN_ID), client.look_up(RUN_ID), client.find_call(CALLEE, 0.0)):
        with pytest.raises(ProviderUnavailable, match="has no way"):
            await asked
    assert client.render((), ORDER.urls) == b""


# Reports


def report(body: bytes) -> RawWebhook:
    return RawWebhook(("https://otp.example.com/events/4b1d",), {}, body)


def event_of(body: bytes) -> CallEvent:
    return silent().parse_event(report(body), None)


REPORTS = {
    "event_answered": CallEvent("", CallState.ANSWERED),
    "event_spoken": CallEvent("", CallState.ANSWERED, reading=1),
    "event_ended": CallEvent("", CallState.COMPLETED),
    "event_no_answer": CallEvent("", CallState.COMPLETED, EndReason.NO_ANSWER, "6010"),
    "event_busy": CallEvent("", CallState.COMPLETED, EndReason.BUSY, "3010"),
    "event_rejected": CallEvent("", CallState.COMPLETED, EndReason.REJECTED, "3020"),
    "event_failed": CallEvent("", CallState.COMPLETED, EndReason.FAILED, "3050"),
    "event_voicemail": CallEvent("", CallState.COMPLETED, EndReason.VOICEMAIL),
    "event_unfilled": CallEvent("", CallState.COMPLETED, EndReason.BUSY, "(not shown)"),
}


@pytest.mark.parametrize("name", sorted(path.stem for path in PAYLOADS.glob("event_*.json")))
def test_reports_are_translated(name: str) -> None:
    assert event_of(payload(name)) == REPORTS[name]


@pytest.mark.parametrize("word", sorted(EVENTS))
def test_every_word_is_taken_however_it_is_spelled(word: str) -> None:
    spelled = json.dumps({"event": f" {word.replace('_', ' ').title()} "}).encode()
    assert event_of(spelled) == event_of(json.dumps({"event": word}).encode())


@pytest.mark.parametrize(
    ("reading", "number"), [(2, 2), ("4", 4), ("", 1), ("0", 1), ("12", 1), ("x", 1), (True, 1), (None, 1)]
)
def test_a_report_may_say_which_reading_was_spoken(reading: Any, number: int) -> None:
    assert event_of(json.dumps({"event": "spoken", "reading": reading}).encode()).reading == number


@pytest.mark.parametrize("event", sorted(set(EVENTS) - {"spoken"}))
def test_only_a_report_of_speaking_proves_speaking(event: str) -> None:
    assert event_of(json.dumps({"event": event, "reading": 3}).encode()).reading == 0


@pytest.mark.parametrize("cause", ["4000", "4711", "no such code", ""])
def test_without_a_cause_that_says_more_the_word_decides(cause: str) -> None:
    body = json.dumps({"event": "busy", "hangup_cause": cause}).encode()
    assert event_of(body).end_reason is EndReason.BUSY


def test_an_unknown_word_is_a_value_and_one_line_without_what_it_may_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    event = event_of(json.dumps({"event": f"Whispered {CODE} to {CALLEE}"}).encode())
    assert event == CallEvent("")
    assert [record.getMessage() for record in caplog.records] == [
        "Plivo PHLO reported an unknown event: whispered__to_"
    ]


def test_a_hostile_hangup_cause_is_not_shown() -> None:
    event = event_of(json.dumps({"event": "failed", "hangup_cause": "<b>\n\x1b[31m" + "A" * 500}).encode())
    assert event.hangup_cause == "(not shown)"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"event=spoken", id="a form"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no event"),
        pytest.param(b'{"event": " "}', id="an empty event"),
        pytest.param(b'{"event": {"event": "spoken"}}', id="an event that is no word"),
        pytest.param(b'{"event": "spoken", "event": "busy"}', id="two events"),
        pytest.param(b'{"event": "\xff"}', id="not UTF-8"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_a_malformed_report_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRejected) as refused:
        event_of(body)
    assert refused.value.status == 400


def test_the_call_token_is_all_that_a_report_can_show() -> None:
    assert silent().check_webhook(report(payload("event_spoken"))) is None
    with pytest.raises(WebhookRejected, match="call token"):
        silent().check_webhook(report(payload("event_spoken")), must_be_signed=True)


def test_secrets_do_not_show_in_representations() -> None:
    client = silent()
    shown = repr(client) + repr(client._config) + repr(ORDER.script)
    assert not [secret for secret in (AUTH_TOKEN, CODE, "2025550100") if secret in shown]
