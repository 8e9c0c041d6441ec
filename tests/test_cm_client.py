"""CM.com on the wire: the instruction we send, how each answer is understood, what its one callback tells."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from call_script import Pacing, PlayAudio, Speak
from cm_client import LANGUAGES, CmClient, CmConfig
from tests.conftest import keep_secret
from tests.whole_calls import whole_call
from voice_provider import (
    AccountRefused,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    EndReason,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
    RawWebhook,
    WebhookRejected,
)

PAYLOADS = Path(__file__).parent / "payloads" / "cm"
TOKEN = keep_secret("4e1a62c0-CANARY-4b7d-8d3e-5f6a7b8c9d0e")
CODE = keep_secret("482913")
CALLEE = keep_secret("+14155550142")
CALLER = keep_secret("+12025550100")
CALL_ID = "4f6c1d7e-1111-4222-8333-944444444444"
SCRIPT = whole_call(CODE, "en-GB", max_replays=2)
ORDER = CallOrder(
    to=CALLEE,
    from_number=CALLER,
    urls=CallUrls(
        *(
            f"https://otp.example.com/{name}/T"
            for name in ("answer", "fallback", "choice", "hangup", "ring", "events")
        )
    ),
    ring_timeout_seconds=30,
    time_limit_seconds=150,
    reference="chal7f3a",
    script=SCRIPT,
)

Vendor = Callable[[httpx.Request], httpx.Response]


def payload(name: str) -> bytes:
    return (PAYLOADS / f"{name}.json").read_bytes()


def client_of(vendor: Vendor, **config: Any) -> CmClient:
    """A client whose carrier is a function."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    return CmClient(CmConfig(TOKEN, CALLER, "https://api.cm.test/", **config), http)


def answering(status: int, body: object = None, **headers: str) -> Vendor:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return lambda _: httpx.Response(status, content=content, headers=headers)


def failing(error: Exception) -> Vendor:
    def vendor(_: httpx.Request) -> httpx.Response:
        raise error

    return vendor


async def instruction_of(order: CallOrder = ORDER, **config: Any) -> dict[str, Any]:
    """What the client sends for an order."""
    bodies: list[dict[str, Any]] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=payload("otp_queued"))

    await client_of(vendor, **config).place_call(order)
    (body,) = bodies
    return body


# Placing a call


async def test_a_call_is_placed_with_every_prompt_and_limit() -> None:
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=payload("otp_queued"))

    assert await client_of(vendor).place_call(ORDER) == CALL_ID, "in lower case, as in callbacks"
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://api.cm.test/voiceapi/v2/OTP")
    assert request.headers["x-cm-producttoken"] == TOKEN
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {
        "instruction-id": "chal7f3a",
        "callee": CALLEE,
        "caller": CALLER,
        "anonymous": False,
        "callback-url": "https://otp.example.com/events/T",
        "max-ringing-timeout": 30,
        "intro-prompt": "Hello. This is your verification code for Example.",
        "intro-prompt-type": "TTS",
        "code-prompt": "Your code is",
        "code-prompt-type": "TTS",
        "replay-prompt": "To hear the code again, press 1.",
        "replay-prompt-type": "TTS",
        "outro-prompt": "Goodbye.",
        "outro-prompt-type": "TTS",
        "code": CODE,
        "code-type": "TTS",
        "max-replays": 2,
        "auto-replay": False,
        "voice": {"language": "en-GB", "gender": "Female", "number": 1, "volume": 0, "premium": False},
    }


async def test_a_voice_is_chosen_by_the_settings() -> None:
    chosen: dict[str, Any] = {"voice_gender": "male", "voice_number": 3, "voice_volume": -2, "voice_premium": True}
    voice = (await instruction_of(**chosen))["voice"]
    assert voice == {"language": "en-GB", "gender": "Male", "number": 3, "volume": -2, "premium": True}


@pytest.mark.parametrize(
    ("wanted", "configured", "gender"),
    [
        ("male", "female", "Male"),
        ("female", "male", "Female"),
        ("", "male", "Male"),
        ("Polly.Amy", "male", "Male"),
    ],
)
async def test_a_call_can_ask_for_a_womans_or_a_mans_voice(wanted: str, configured: str, gender: str) -> None:
    order = replace(ORDER, script=whole_call(CODE, "en-GB", voice=wanted))
    assert (await instruction_of(order, voice_gender=configured))["voice"]["gender"] == gender


async def test_recorded_prompts_are_named_by_directory_and_locale() -> None:
    body = await instruction_of(audio_directory="/otp/prompts/")
    for name in ("intro", "code", "replay", "outro"):
        assert body[f"{name}-prompt"] == f"otp/prompts/en-GB/{name}.wav"
        assert body[f"{name}-prompt-type"] == "File"


@pytest.mark.parametrize(
    ("code_type", "wire", "code"),
    [("default", "Default", "48AB13"), ("tts", "TTS", "48AB13"), ("custom", "Custom", "48ab13")],
)
async def test_files_of_single_characters_are_named_in_lower_case(code_type: str, wire: str, code: str) -> None:
    order = replace(ORDER, script=SCRIPT._replace(code=keep_secret("48AB13")))
    body = await instruction_of(order, code_type=code_type)
    assert (body["code-type"], body["code"]) == (wire, keep_secret(code))


async def test_replays_without_a_key_ask_for_no_key() -> None:
    order = replace(ORDER, script=whole_call(CODE, "en-GB", max_replays=2, auto_replay=True))
    body = await instruction_of(order)
    assert (body["auto-replay"], body["max-replays"]) == (True, 2)
    assert "replay-prompt" not in body


async def test_a_call_without_replays_offers_none() -> None:
    body = await instruction_of(replace(ORDER, script=whole_call(CODE, "en-GB", max_replays=0)))
    assert body["max-replays"] == 0
    assert "replay-prompt" not in body


async def test_no_more_replays_are_asked_for_than_cm_allows() -> None:
    order = replace(ORDER, script=whole_call(CODE, "en-GB", max_replays=5))
    assert (await instruction_of(order))["max-replays"] == 3


@pytest.mark.parametrize(("given", "sent"), [(5, 10), (10, 10), (45, 45), (60, 60), (120, 60)])
async def test_the_ring_time_stays_within_the_documented_range(given: int, sent: int) -> None:
    body = await instruction_of(replace(ORDER, ring_timeout_seconds=given))
    assert body["max-ringing-timeout"] == sent


async def test_a_caller_id_is_hidden_when_wanted() -> None:
    assert (await instruction_of(replace(ORDER, hide_caller_id=True)))["anonymous"] is True


@pytest.mark.parametrize(("reference", "sent"), [("", None), ("r" * 64, "r" * 64), ("r" * 70, "r" * 64)])
async def test_a_reference_is_cut_to_what_cm_keeps(reference: str, sent: str | None) -> None:
    assert (await instruction_of(replace(ORDER, reference=reference))).get("instruction-id") == sent


LONG = "x" * 800
LONG_SSML = 'Hello <break time="250ms"/>' * 30
HELLO_SSML = 'Hello <break time="1s"/> there.'


@pytest.mark.parametrize(
    ("greeting", "kind", "prompt"),
    [
        pytest.param(Speak("Fish & Chips", "en-GB"), "TTS", "Fish & Chips", id="words"),
        pytest.param(Speak(LONG, "en-GB"), "TTS", LONG[:750], id="cut to what CM.com takes"),
        pytest.param(
            Speak("Hello there.", "en-GB", ssml=HELLO_SSML), "TTS_SSML", f"<speak>{HELLO_SSML}</speak>", id="SSML"
        ),
        pytest.param(
            Speak("Hello there.", "en-GB", rate=80, ssml=HELLO_SSML),
            "TTS_SSML",
            f'<speak><prosody rate="80%">{HELLO_SSML}</prosody></speak>',
            id="slower SSML",
        ),
        pytest.param(
            Speak("Fish & Chips", "en-GB", rate=120),
            "TTS_SSML",
            '<speak><prosody rate="120%">Fish &amp; Chips</prosody></speak>',
            id="faster words",
        ),
        pytest.param(Speak("Hello", "en-GB", ssml=LONG_SSML), "TTS", "Hello", id="SSML that is too long"),
        pytest.param(Speak(LONG, "en-GB", rate=80), "TTS", LONG[:750], id="slower words that are too long"),
        pytest.param(PlayAudio("https://otp.example.com/a.wav", 2, "Hello"), "TTS", "Hello", id="a recording"),
    ],
)
async def test_a_prompt_is_words_or_ssml_of_which_nothing_is_cut(
    greeting: Speak | PlayAudio, kind: str, prompt: str
) -> None:
    body = await instruction_of(replace(ORDER, script=SCRIPT._replace(greeting=greeting)))
    assert (body["intro-prompt-type"], body["intro-prompt"]) == (kind, prompt)


async def test_every_prompt_is_spoken_at_the_operators_rate() -> None:
    order = replace(ORDER, script=whole_call(CODE, "en-GB", pacing=Pacing(speech_rate=85)))
    body = await instruction_of(order)
    assert {body[f"{name}-prompt-type"] for name in ("intro", "code", "replay", "outro")} == {"TTS_SSML"}
    assert body["code-prompt"] == '<speak><prosody rate="85%">Your code is</prosody></speak>'


def test_the_capabilities_are_those_of_a_call_told_up_front() -> None:
    capabilities = client_of(answering(200), languages=("nl-NL",)).capabilities
    assert capabilities.languages == ("nl-NL",)
    assert client_of(answering(200)).capabilities.languages == LANGUAGES
    can = {name for name in capabilities.__slots__ if getattr(capabilities, name) is True}
    assert can == {"hides_caller_id", "chooses_voice"}
    assert capabilities.voices == (), "which have no names"
    assert capabilities.max_replays == 3


async def test_a_list_of_answers_is_searched_for_the_callee() -> None:
    assert await client_of(answering(200, payload("otp_queued_list"))).place_call(ORDER) == CALL_ID


async def test_a_list_of_one_needs_no_callee() -> None:
    answer = [{"call-id": CALL_ID, "success": True}]
    assert await client_of(answering(200, answer)).place_call(ORDER) == CALL_ID


QUEUED = json.loads(payload("otp_queued"))


@pytest.mark.parametrize(
    ("vendor", "error", "message"),
    [
        pytest.param(
            answering(200, payload("otp_refused_with_200")), CallRejected, r"\(caller\)", id="200, success false"
        ),
        pytest.param(
            answering(200, {"success": False}), CallRejected, "refused", id="success false, nothing else"
        ),
        pytest.param(
            answering(200, [QUEUED | {"success": False}]), CallRejected, "refused", id="refused in a list"
        ),
        pytest.param(answering(200, QUEUED | {"success": "no"}), CallOutcomeUnknown, "call-id", id="odd success"),
        pytest.param(answering(200, {"success": True}), CallOutcomeUnknown, "call-id", id="no call id"),
        pytest.param(answering(200, {"call-id": "a b"}), CallOutcomeUnknown, "call-id", id="odd call id"),
        pytest.param(answering(200, {"call-id": 7}), CallOutcomeUnknown, "call-id", id="a number as call id"),
        pytest.param(answering(200), CallOutcomeUnknown, "call-id", id="nothing with 200"),
        pytest.param(answering(200, []), CallOutcomeUnknown, "call-id", id="an empty list"),
        pytest.param(answering(200, [1, "x"]), CallOutcomeUnknown, "call-id", id="a list of no objects"),
        pytest.param(
            answering(200, [QUEUED | {"callee": f"+1415555019{n}"} for n in (8, 9)]),
            CallOutcomeUnknown,
            "call-id",
            id="a list about others",
        ),
        pytest.param(
            answering(400, payload("error_message")), CallRejected, "400 max-ringing-timeout", id="400, message"
        ),
        pytest.param(answering(400, payload("error_messages")), CallRejected, "400 callee", id="400, messages"),
        pytest.param(answering(400, {"messages": "x"}), CallRejected, r"\(400\)", id="400, odd messages"),
        pytest.param(answering(400, b"Bad Request"), CallRejected, "CM_FROM_NUMBER", id="400, text"),
        pytest.param(answering(401), AccountRefused, "CM_PRODUCT_TOKEN", id="401, empty"),
        pytest.param(answering(401, b"<html>"), AccountRefused, "CM_PRODUCT_TOKEN", id="401, no JSON"),
        pytest.param(answering(402, {}), AccountRefused, "credit", id="402"),
        pytest.param(answering(403), CallRejected, "does not allow", id="403"),
        pytest.param(answering(404), CallRejected, "CM_API_URL", id="404"),
        pytest.param(answering(429, {"message": "slow down"}), ProviderThrottled, "no more calls", id="429"),
        pytest.param(
            answering(500, payload("error_details")), ProviderUnavailable, "max-replays", id="500, errorCode"
        ),
        pytest.param(
            answering(503, {"success": False, "error": "down"}), ProviderUnavailable, "trouble", id="503, success"
        ),
        pytest.param(
            answering(503, QUEUED | {"success": False}), CallOutcomeUnknown, "may", id="503 that names a call"
        ),
        pytest.param(answering(500, {"message": "oops"}), CallOutcomeUnknown, "500", id="500, message alone"),
        pytest.param(answering(502, b"<html>"), CallOutcomeUnknown, "502", id="502 of a gateway"),
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
    assert not any(secret in str(raised.value) for secret in (CALLEE[1:], CALLER[1:], TOKEN, CODE))


async def test_a_throttled_call_says_when_to_try_again() -> None:
    vendor = answering(429, None, **{"retry-after": "7"})
    with pytest.raises(ProviderThrottled) as raised:
        await client_of(vendor).place_call(ORDER)
    assert raised.value.retry_after_seconds == 7


async def test_cm_is_never_asked_for_what_it_cannot_do() -> None:
    client = client_of(failing(AssertionError("sent")))
    for request in (client.hang_up(CALL_ID), client.look_up(CALL_ID), client.find_call(CALLEE, 0)):
        with pytest.raises(ProviderUnavailable, match="has no way"):
            await request
    assert client.render((), ORDER.urls) == b""


def test_no_secret_shows_in_the_repr_of_the_settings() -> None:
    shown = repr(CmConfig(TOKEN, CALLER))
    assert TOKEN not in shown
    assert CALLER not in shown


# Callbacks


def webhook(body: bytes | object) -> RawWebhook:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawWebhook(("https://otp.example.com/events/T",), {}, content)


def ended(result: object, **fields: Any) -> bytes:
    return json.dumps({"call-id": CALL_ID, "result": result, **fields}).encode()


CLIENT = client_of(answering(200))


def test_the_token_in_the_path_is_all_that_authorises_a_callback() -> None:
    assert CLIENT.check_webhook(webhook(payload("callback_finished"))) is None
    with pytest.raises(WebhookRejected, match="does not sign"):
        CLIENT.check_webhook(webhook(payload("callback_finished")), must_be_signed=True)


@pytest.mark.parametrize(
    ("body", "reason", "cause"),
    [
        pytest.param(payload("callback_finished"), None, "Finished successfully 10 BYE", id="finished"),
        pytest.param(
            payload("callback_cancelled"), EndReason.NO_ANSWER, "Cancelled 9 487", id="ring time ran out"
        ),
        pytest.param(payload("callback_failed_busy"), EndReason.BUSY, "Failed 11 486", id="busy"),
        pytest.param(payload("callback_rejected"), EndReason.REJECTED, "Call rejected 12 403", id="rejected"),
        pytest.param(payload("callback_list"), None, "Finished successfully 10 BYE", id="a list of one"),
        pytest.param(ended({"code": 11}), EndReason.FAILED, "11", id="failed"),
        pytest.param(
            ended({"code": 11, "sip-disconnect-code": "404"}), EndReason.FAILED, "11 404", id="failed, not found"
        ),
        pytest.param(
            ended({"code": 12, "sip-disconnect-code": "486"}), EndReason.BUSY, "12 486", id="busy, as rejected"
        ),
        pytest.param(
            ended({"code": 11, "sip-disconnect-code": "603"}),
            EndReason.REJECTED,
            "11 603",
            id="declined, as failed",
        ),
        pytest.param(
            ended({"code": 10, "sip-disconnect-code": "486"}), None, "10 486", id="answered, whatever SIP says"
        ),
        pytest.param(
            ended({"code": "9", "description": f"Call to {CALLEE} timed out"}),
            EndReason.NO_ANSWER,
            "Call to  timed out 9",
            id="a number in the description",
        ),
        pytest.param(ended({"code": 10, "sip-disconnect-code": CALLEE}), None, "10", id="a number for a SIP code"),
    ],
)
def test_each_result_ends_the_call_for_its_reason(body: bytes, reason: EndReason | None, cause: str) -> None:
    event = CLIENT.parse_event(webhook(body), None)
    assert (event.call_id, event.state) == (CALL_ID, CallState.COMPLETED)
    assert (event.end_reason, event.hangup_cause) == (reason, cause)
    assert event.was_answered is (reason is None)
    assert (event.talk_seconds, event.reading) == (None, 0), "CM.com tells neither"


@pytest.mark.parametrize("code", [13, "", None, "ten", [10], CALLEE, CODE])
def test_an_unknown_result_is_an_end_for_unknown_reasons_and_one_log_line(
    code: object, caplog: pytest.LogCaptureFixture
) -> None:
    event = CLIENT.parse_event(webhook(ended({"code": code})), None)
    assert (event.state, event.end_reason, event.was_answered) == (
        CallState.COMPLETED,
        EndReason.UNKNOWN,
        False,
    )
    assert [record.message for record in caplog.records if "unknown result code" in record.message]


def test_a_callback_without_a_call_id_is_about_the_call_of_its_token() -> None:
    event = CLIENT.parse_event(webhook(payload("callback_without_ids")), None)
    assert (event.call_id, event.end_reason) == ("", EndReason.NO_ANSWER)


def test_a_call_id_is_read_in_lower_case() -> None:
    body = ended({"code": 10}, **{"call-id": CALL_ID.upper()})
    assert CLIENT.parse_event(webhook(body), None).call_id == CALL_ID


@pytest.mark.parametrize("expected", [None, CallState.RINGING])
def test_a_callback_without_a_result_is_what_its_route_is_for(expected: CallState | None) -> None:
    for body in ({"type": "call-queued", "call-id": CALL_ID}, {"call-id": CALL_ID, "result": "10"}):
        event = CLIENT.parse_event(webhook(body), expected)
        assert (event.call_id, event.state, event.end_reason) == (CALL_ID, expected, None)


@pytest.mark.parametrize("kind", ["call-queued", CALLEE, CODE, None])
def test_a_kind_of_callback_is_logged_only_as_a_word(kind: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    CLIENT.parse_event(webhook({"type": kind}), None)
    shown = kind if kind == "call-queued" else "None" if kind is None else "(not shown)"
    assert caplog.records[-1].message.endswith(f"of type {shown}")


@pytest.mark.parametrize("kind", ["otp-finished", "OtpFinished", "", None, 7])
def test_the_kind_of_a_callback_changes_nothing(kind: object) -> None:
    event = CLIENT.parse_event(webhook(ended({"code": 10}, type=kind, unheard=["of"])), None)
    assert event.was_answered


def test_an_event_that_is_listed_twice_is_one_event() -> None:
    one = json.loads(payload("callback_finished"))
    without_id = {"type": "otp-finished", "result": one["result"]}
    for twice in ([one, one], [without_id, one]):
        assert CLIENT.parse_event(webhook(twice), None).call_id == CALL_ID


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"code=10", id="a form"),
        pytest.param(b"[]", id="an empty list"),
        pytest.param(b"[1]", id="a list of no objects"),
        pytest.param(b'"10"', id="a text"),
        pytest.param(b"\xff", id="no UTF-8"),
        pytest.param(b"[" * 5000, id="deep"),
        pytest.param(b'{"result": {"code": 10, "code": 9}}', id="a name twice"),
        pytest.param(ended({"code": 10}, **{"call-id": "a b"}), id="an odd call id"),
        pytest.param(ended({"code": 10}, **{"call-id": 7}), id="a number as call id"),
        pytest.param(b'[{"call-id": "a", "result": {}}, {"call-id": "b"}]', id="two calls"),
    ],
)
def test_a_callback_that_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRejected) as raised:
        CLIENT.parse_event(webhook(body), None)
    assert raised.value.status == 400
