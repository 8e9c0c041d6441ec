"""Answering machines: what is asked of each carrier, what it tells, and what a machine is left with."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from banner import banner
from call_script import Continue, Manner, Pacing, Pause, PlayAudio, Speak, WholeCall, estimated_seconds
from languages import load_spoken_texts
from plivo_client import PlivoClient, PlivoConfig
from script_writer import ScriptWriter
from settings import load_settings
from simulator.hearing import Sound, character_of
from tests.conftest import RunningService, keep_secret, run_service
from tests.test_calls import HandCarrier
from verification import Mode
from vobiz_client import VobizClient, VobizConfig
from voice_provider import (
    CallOrder,
    CallState,
    CallUrls,
    MachineDetection,
    RawWebhook,
    VoiceProvider,
    WebhookRejected,
)
from voipbin_client import actions_of

VOICEMAILS = ("+14155550109", "+14155550121", "+14155550122", "+14155550123")
LISTENER = "+14155550101"
CODE = keep_secret("QZXJKV")  # of letters, which nothing else in a call is made of
CALL_ID = "97ceeb52-58b6-11e1-86da-77300b68f8bb"
NAMES = ("answer", "fallback", "choice", "hangup", "ring", "events")
URLS = CallUrls(**{name: f"https://otp.example.com/{name}/T" for name in NAMES})
WRITER = ScriptWriter(load_spoken_texts(Path(__file__).parent.parent / "spoken_texts"), "Acme")


# What a carrier is asked for, and what it tells


def vobiz(http: httpx.AsyncClient) -> VoiceProvider:
    return VobizClient(VobizConfig("MA_T", "token", "+12025550100", "https://api.example.com"), http)


def plivo(http: httpx.AsyncClient) -> VoiceProvider:
    return PlivoClient(PlivoConfig("MAT", "token", "+12025550100", "https://api.example.com"), http)


CLIENTS = pytest.mark.parametrize("make", [pytest.param(vobiz, id="vobiz"), pytest.param(plivo, id="plivo")])


async def parameters_of(make: Any, detection: MachineDetection) -> dict[str, Any]:
    """Those about machines, of a request to call."""
    asked: list[dict[str, Any]] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(201, json={"request_uuid": CALL_ID})

    order = CallOrder("+14155550142", "+12025550100", URLS, 30, 150, machine_detection=detection)
    await make(httpx.AsyncClient(transport=httpx.MockTransport(vendor))).place_call(order)
    return {name: value for name, value in asked[0].items() if name.startswith("machine")}


@CLIENTS
async def test_where_no_code_is_to_be_left_the_carrier_tells_of_a_machine_while_the_call_goes_on(
    make: Any,
) -> None:
    wanted = await parameters_of(make, MachineDetection.NO_CODE)
    url = wanted.pop("machine_detection_url")
    assert wanted == {
        "machine_detection": "true",
        "machine_detection_time": 5000,
        "machine_detection_method": "POST",
    }
    assert url.split("?")[0] == URLS.ring
    assert await parameters_of(make, MachineDetection.OFF) == {}
    assert await parameters_of(make, MachineDetection.HANGUP) == {"machine_detection": "hangup"}


@CLIENTS
@pytest.mark.parametrize(("verdict", "is_machine"), [("true", True), ("false", False)])
def test_a_verdict_says_nothing_of_where_the_call_is(make: Any, verdict: str, is_machine: bool) -> None:
    body = f"CallUUID={CALL_ID}&Event=MachineDetection&CallStatus=in-progress&Machine={verdict}&IfMachine=continue"
    client = make(httpx.AsyncClient())
    webhook = RawWebhook(("https://otp.example.com/ring/T",), {}, body.encode())
    for expected in (CallState.RINGING, CallState.ANSWERED):
        event = client.parse_event(webhook, expected)
        assert (event.call_id, event.state, event.is_machine) == (CALL_ID, None, is_machine)


def test_plivos_verdict_is_read_in_full_as_its_signature_does_not_say_where_a_field_ends() -> None:
    body = f"CallUUID={CALL_ID}&Event=MachineDetection&Machine=falseIfMachine"
    with pytest.raises(WebhookRejected, match="neither true nor false"):
        plivo(httpx.AsyncClient()).parse_event(RawWebhook(("",), {}, body.encode()), None)


@pytest.mark.parametrize("detection", MachineDetection)
def test_voipbin_ends_the_call_of_a_machine_as_it_cannot_tell_of_one(detection: MachineDetection) -> None:
    script: WholeCall = WRITER.whole_call("610389", Manner("en-US"))
    order = CallOrder("+14155550142", "+12025550100", URLS, 30, 150, machine_detection=detection)
    found = [action["option"] for action in actions_of(order, script) if action["type"] == "amd"]
    wanted = [] if detection is MachineDetection.OFF else [{"machine_handle": "hangup", "async": False}]
    assert found == wanted


@pytest.mark.parametrize("detection", ["hangup", "no_code"])
def test_the_banner_names_carriers_that_know_no_machine(detection: str) -> None:
    given = {
        "public_url": "https://otp.example.com",
        "api_keys": "k" * 32,
        "allowed_regions": "US",
        "from_number": "+12025550100",
        "vobiz_auth_id": "MA_T",
        "vobiz_auth_token": "t",
        "cm_product_token": "t",
        "providers": "vobiz,cm",
    }
    assert "machines hear the code in calls of cm," in banner(load_settings(**given, machine_detection=detection))


# What is said


@pytest.mark.parametrize("language", ["en-US", "de-DE"])
def test_the_greeting_and_silence_last_until_the_verdict_also_with_a_fast_voice(language: str) -> None:
    script = WRITER.greet_first(Manner(language, verdict_seconds=6))
    silence_seconds = sum(step.seconds for step in script if isinstance(step, Pause))
    spoken_seconds = estimated_seconds(script) - silence_seconds
    assert silence_seconds + spoken_seconds / 2 >= 6
    assert isinstance(script[-1], Continue)


def test_a_long_greeting_needs_no_silence_after_it() -> None:
    writer = ScriptWriter(WRITER._texts, "A" * 60, Pacing(lead_in_seconds=0))
    script = writer.greet_first(Manner("en-US", verdict_seconds=3))
    assert [type(step) for step in script] == [Speak, Continue]


def test_who_was_greeted_is_not_greeted_again() -> None:
    plain, waiting = Manner("en-US"), Manner("en-US", verdict_seconds=6)
    greeting = WRITER.greet_first(waiting)[1]
    assert greeting in WRITER.read_code("610389", plain, reading=1)
    assert greeting not in WRITER.read_code("610389", waiting, reading=1)
    assert not any(isinstance(step, PlayAudio) for step in WRITER.greet_first(waiting))


def test_the_time_of_a_call_has_the_wait_for_the_verdict_in_it() -> None:
    plain, waiting = Manner("en-US"), Manner("en-US", verdict_seconds=6)
    for seconds in (WRITER.first_reading_seconds, WRITER.whole_call_seconds):
        assert seconds(Mode.SPEAK, 6, waiting) > seconds(Mode.SPEAK, 6, plain)
        assert seconds(Mode.KEYPAD, 6, waiting) == seconds(Mode.KEYPAD, 6, plain)


# Whole calls


def heard_of(service: RunningService, call_id: str) -> list[str]:
    """What was said in a simulated call."""
    for carrier in service.app.state.carriers.values():
        if call_id in carrier.records:
            spoken: list[str] = carrier.records[call_id].spoken
            return spoken
    raise LookupError(call_id)


def characters_in(heard: list[str]) -> list[str]:
    """The letters that were said."""
    found = [character_of(Sound(1, text, "en-US")) for text in heard]
    return [character for character in found if character.isalpha()]


async def call(service: RunningService, phone: str, **fields: Any) -> tuple[dict[str, Any], list[str]]:
    """The status after a call is over, and what was said in it."""
    sent = (await service.send(phone, **fields)).json()
    for carrier in service.app.state.carriers.values():
        while carrier.tasks:
            await next(iter(carrier.tasks.values()))
    return await service.status(phone), heard_of(service, sent["call_uuid"])


CARRIERS = ("vobiz", "plivo", "voipbin")


async def wait_for_events(service: RunningService) -> None:
    """VoIPBin tells of its calls when they are over, too."""
    voipbin = service.app.state.carriers["voipbin"]
    for task in [*voipbin.sending]:
        await task


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_with_no_code_a_machine_is_told_what_it_may_keep_and_a_person_the_code(carrier: str) -> None:
    async with run_service(simulate=True, providers=",".join(CARRIERS), machine_detection="no_code") as service:
        for phone in VOICEMAILS:
            _, heard = await call(service, phone, code=CODE, provider=carrier)
            await wait_for_events(service)
            status = await service.status(phone)
            assert characters_in(heard) == []
            assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "voicemail")
            assert any("answering machine" in text for text in heard) == (carrier != "voipbin")
        status, heard = await call(service, LISTENER, code=CODE, provider=carrier)
        await wait_for_events(service)
        status = await service.status(LISTENER)
        assert "".join(characters_in(heard)) == CODE * 2
        assert (status["status"], status["call"]["end_reason"]) == ("delivered", "answered_and_spoken")
        assert sum("This is your verification code" in text for text in heard) == 1
        assert not any("answering machine" in text for text in heard)


async def test_the_timeline_says_that_a_machine_answered() -> None:
    async with run_service(machine_detection="no_code") as service:
        status, _ = await call(service, VOICEMAILS[0])
        events = [entry["event"] for entry in status["timeline"]]
        assert events.count("machine_detected") == 1
        assert "code_requested" not in events
        status, _ = await call(service, LISTENER)
        assert "machine_detected" not in [entry["event"] for entry in status["timeline"]]


async def test_an_alert_is_left_on_a_machine_where_only_codes_are_not(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.toml"
    prompts.write_text('[alerts.outage]\ntexts.en = "The power is out."\n', encoding="utf-8")
    for detection, is_told in (("no_code", True), ("hangup", False)):
        async with run_service(machine_detection=detection, prompts_file=str(prompts)) as service:
            keep_secret(VOICEMAILS[0])
            body = {"phone": VOICEMAILS[0], "template": "outage"}
            sent = (await service.client.post("/send-alert", json=body)).json()
            await service.calls_over()
            assert ("The power is out." in heard_of(service, sent["call_uuid"])) is is_told


async def test_with_keys_first_the_code_does_not_wait_for_the_verdict() -> None:
    async with run_service(machine_detection="no_code", require_keypress=True) as service:
        status, heard = await call(service, "+14155550119", code=CODE, max_replays=0)
        assert "".join(characters_in(heard)) == CODE * 2
        assert not any("This is your verification code" in text for text in heard)
        status, heard = await call(service, VOICEMAILS[0], code=CODE)
        assert characters_in(heard) == []
        assert status["call"]["end_reason"] == "voicemail"


async def test_a_greeting_that_is_fetched_again_is_said_again_and_the_code_only_after_it() -> None:
    async with run_service(machine_detection="no_code") as service:
        status, heard = await call(service, "+14155550117", code=CODE)  # every callback comes twice
        assert status["call"]["times_spoken"] == 4
        assert sum("This is your verification code" in text for text in heard) == 1


async def test_a_verdict_that_comes_late_stops_what_is_left() -> None:
    carrier = HandCarrier()
    http = httpx.AsyncClient(transport=httpx.MockTransport(carrier))
    settings: dict[str, Any] = {"vobiz_auth_id": "MA_T", "vobiz_auth_token": "t", "from_number": "+12025550100"}
    async with run_service(
        http=http, public_url="https://otp.example.com", machine_detection="no_code", **settings
    ) as service:
        call_id = (await service.send("+14155550142", code=CODE)).json()["call_uuid"]

        async def post(path: str, **fields: str) -> str:
            route, _, query = path.partition("?")
            url = f"{route}/{carrier.token}" + (f"?{query}" if query else "")
            return (await service.client.post(url, data={"CallUUID": call_id, **fields})).text

        for _ in range(2):  # a carrier repeats a request that it got no answer to
            greeting = await post("/answer?n=1", Event="StartApp")
            assert "verification code" in greeting
            assert f"/otp-choice/{carrier.token}?n=0" in greeting
            assert ">cue<" not in greeting
        assert ">cue<" in await post("/otp-choice?n=0", Event="Redirect")
        assert "press 1" in await post("/otp-choice?n=1", Event="Redirect")
        assert await post("/ring", Event="MachineDetection", Machine="true") == ""
        again = await post("/answer?n=2", Event="Redirect")
        assert "answering machine" in again
        assert ">cue<" not in again
        assert (await service.status("+14155550142"))["call"]["state"] == "answered"
        keep_secret(carrier.token)
