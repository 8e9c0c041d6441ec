"""What a callee hears by configuration: prompt sets, voices, pace, and an operator's recordings."""

import re
import wave
from pathlib import Path
from typing import Any

import pytest

from script_writer import RECORDED_PROMPTS
from server import create_app
from settings import BadSettings, load_settings
from tests.calls_by_hand import PHONE, begin_call
from tests.conftest import NO_LIMITS, run_service
from verification import CallRef

CODE = "610389"
PROMPTS = """
[prompts.acme]
app_name = "Acme Bank"
voice = "male"
[prompts.acme.voices]
fr = "female"
[prompts.acme.en]
greeting = "Welcome to {app}."
goodbye = "<speak>Bye <break time='300ms'/> now.</speak>"
key_prompt = "Press {key} to go on."

[prompts.default.en]
code_prompt = "Here it comes:"
"""
KEYS = {"shop": "shop-key-CANARY-0123456789", "bank": "bank-key-CANARY-0123456789"}


@pytest.fixture
def prompts_file(tmp_path: Path) -> str:
    path = tmp_path / "prompts.toml"
    path.write_text(PROMPTS, encoding="utf-8")
    return str(path)


def record_all(folder: Path, language: str, seconds: float = 0.5) -> Path:
    """A recording of everything in a language."""
    names = [*"0123456789", *(chr(ord("a") + number) for number in range(26)), *RECORDED_PROMPTS]
    (folder / language).mkdir(parents=True)
    for name in names:
        with wave.open(str(folder / language / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(b"\0\1" * int(8000 * seconds) + name.encode().ljust(20, b"\0"))
    return folder


async def test_a_prompt_set_is_chosen_by_name(prompts_file: str) -> None:
    async with run_service(prompts_file=prompts_file) as running:
        call = await begin_call(running, code=CODE, prompts="acme")
        reading = await call.answer()
        assert reading.texts[:2] == ["Welcome to Acme Bank.", "Your code is"]
        assert reading.voices == {"MAN"}
        last = await call.press(await call.press(reading))
        assert last.texts == ["Bye now."], "the voice knows no SSML"


async def test_or_by_the_client(prompts_file: str) -> None:
    keys = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    async with run_service(
        prompts_file=prompts_file, api_keys=keys, client_prompts="bank:acme", otp_secret="x" * 32
    ) as running:
        for client, greeting in (("bank", "Welcome to Acme Bank."), ("shop", "Hello.")):
            running.client.headers["Authorization"] = f"Bearer {KEYS[client]}"
            call = await begin_call(running, code=CODE)
            assert (await call.answer()).texts[0].startswith(greeting)
            await call.hang_up()


async def test_the_default_set_is_for_all_others(prompts_file: str) -> None:
    async with run_service(prompts_file=prompts_file) as running:
        assert (await (await begin_call(running, code=CODE)).answer()).texts[1] == "Here it comes:"


async def test_keys_are_said_in_the_middle_of_a_sentence(prompts_file: str) -> None:
    async with run_service(prompts_file=prompts_file, require_keypress=True) as running:
        asking = await (await begin_call(running, code=CODE, prompts="acme")).answer()
        assert asking.texts[-4] == "Press"
        assert asking.texts[-1] == "to go on."
        assert len(asking.spoken_digits) == 2


@pytest.mark.parametrize(
    ("wish", "voice"),
    [
        pytest.param({}, "WOMAN", id="the carrier's own"),
        pytest.param({"voice": "male"}, "MAN", id="a man's"),
        pytest.param({"voice": "Polly.Salli"}, "Polly.Salli", id="by name"),
        pytest.param({"voice": "Polly.Amy"}, "WOMAN", id="of another variety"),
    ],
)
async def test_a_voice_is_chosen_in_the_request(wish: dict[str, str], voice: str) -> None:
    async with run_service() as running:
        assert (await (await begin_call(running, code=CODE, **wish)).answer()).voices == {voice}


@pytest.mark.parametrize(
    ("fields", "field", "accepted"),
    [
        pytest.param({"prompts": "none"}, "prompts", "acme, default", id="prompt set"),
        pytest.param({"voice": "robot"}, "voice", "female, male, Polly.Salli", id="voice"),
        pytest.param({"language": "tlh"}, "language", "da, de, el, en", id="language"),
    ],
)
async def test_what_is_not_known_is_refused_with_what_is(
    prompts_file: str, fields: dict[str, str], field: str, accepted: str
) -> None:
    async with run_service(prompts_file=prompts_file) as running:
        refused = await running.send(PHONE, **fields)
        assert refused.status_code == 422
        error = refused.json()["errors"][0]
        assert error["field"] == field
        assert accepted in error["message"]


async def test_a_language_that_no_carrier_speaks_falls_to_the_next_best_and_is_named() -> None:
    async with run_service() as running:
        assert (await begin_call(running, code=CODE, language="hi")).sent["language"] == "en-US"


async def test_the_pace_is_the_operators() -> None:
    pace: dict[str, Any] = {"readings": 1, "lead_in_seconds": 0, "digit_pause_seconds": 0.5}
    async with run_service(**pace) as running:
        call = await begin_call(running, code=CODE)
        answer = await call.post(f"/answer/{call.token}?n=1", Event="StartApp")
        assert answer.text.count(">six<") == 1
        assert answer.text.startswith("<Response><Speak")
        assert '<Wait length="1"/>' in answer.text, "half a second is a whole one for this carrier"


async def test_replays_come_by_themselves_where_that_is_wanted() -> None:
    async with run_service(auto_replay=True) as running:
        call = await begin_call(running, code=CODE, max_replays=1)
        first = await call.answer()
        assert first.keys == 0
        second = await call.go_on(await call.press(first))
        assert second.code == CODE
        assert second.texts[0] == "Once more. Your code is"
        assert (await call.press(second)).texts == ["Goodbye."]


async def test_a_menu_that_is_met_with_silence_comes_once_more() -> None:
    """A key may have been lost on its way."""
    async with run_service() as running:
        call = await begin_call(running, code=CODE)
        menu = await call.press(await call.answer())
        assert menu.texts == ["To hear the code again, press 1."]
        assert menu.keys == 1
        assert (await call.go_on(await call.press(menu, "1"))).code == CODE


async def test_recordings_take_the_place_of_voices(tmp_path: Path) -> None:
    folder = record_all(tmp_path / "audio", "hi")
    async with run_service(audio_dir=str(folder), require_keypress=True) as running:
        call = await begin_call(running, code="112233", language="hi")
        assert call.sent["language"] == "hi", "no voice of this carrier speaks it"
        asking = await call.answer()
        assert not asking.texts
        # The greeting, the wish for keys in two parts, and two keys in between.
        assert len(asking.played) == 5
        assert asking.keys == 2
        keys = running.app.state.service._placer._dialer._sealer.draw_keys(CallRef(call.id, 1), 0, 2)
        reading = await call.go_on(await call.press(asking, keys))
        code = reading.played[1:7]
        assert code[0] == code[1] != code[2] == code[3] != code[4] == code[5]
        for url in {*reading.played}:
            assert "hi" not in url.split("/")[-1]
            assert (await running.client.get(url)).status_code == 200


async def test_a_voice_that_is_asked_for_is_no_recording(tmp_path: Path) -> None:
    folder = record_all(tmp_path / "audio", "en")
    async with run_service(audio_dir=str(folder)) as running:
        assert (await (await begin_call(running, code=CODE)).answer()).played
        await running.client.post("/cancel-otp", json={"phone": PHONE})
    async with run_service(audio_dir=str(folder)) as running:
        reading = await (await begin_call(running, code=CODE, voice="male")).answer()
        assert (reading.played, reading.voices) == ([], {"MAN"})


async def test_but_where_only_recordings_have_the_language_they_are_heard(tmp_path: Path) -> None:
    folder = record_all(tmp_path / "audio", "hi")
    async with run_service(audio_dir=str(folder)) as running:
        call = await begin_call(running, code=CODE, language="hi", voice="male")
        assert call.sent["language"] == "hi"
        assert (await call.answer()).played


@pytest.mark.parametrize(
    ("languages", "prompts", "problem"),
    [
        pytest.param(
            ["en", "xx"], "", "AUDIO_DIR: xx is no language that there are texts in", id="unknown language"
        ),
        pytest.param(["hi_IN"], "", "AUDIO_DIR: hi_IN is no name of a language: write hi-IN", id="underscore"),
        pytest.param(
            ["hi"],
            "[prompts.shop.hi]\ngoodbye = 'नमस्ते'\n",
            "prompts.shop has a text for goodbye, but simulator has no voice for hi: use a file",
            id="text that nobody can say",
        ),
    ],
)
def test_recordings_that_would_not_be_heard_stop_the_start(
    tmp_path: Path, languages: list[str], prompts: str, problem: str
) -> None:
    for language in languages:
        record_all(tmp_path / "audio", language)
    file = tmp_path / "prompts.toml"
    file.write_text(prompts, encoding="utf-8")
    settings = {"audio_dir": str(tmp_path / "audio"), "prompts_file": str(file)}
    with pytest.raises(BadSettings, match=re.escape(problem)):
        create_app(load_settings(**NO_LIMITS, **settings))


@pytest.mark.parametrize(
    ("settings", "prompts", "problem"),
    [
        pytest.param({}, "", "a code in [a-zA-Z-]+ takes up to", id="code"),
        pytest.param({"require_keypress": True, "call_time_limit_seconds": 60}, "", "a code in", id="keys first"),
        pytest.param(
            {"call_time_limit_seconds": 50},
            f"[prompts.shop.en]\ngreeting = '{'Hello. ' * 40}'\n",
            r"a code in en-\w\w in the words of prompts\.shop takes up to",
            id="long prompt",
        ),
        pytest.param(
            {"call_time_limit_seconds": 70},
            f"[alerts.long.texts]\nen = '{'Hello. ' * 80}'\n",
            r"alerts\.long takes up to \d+ seconds in en-\w\w, and CALL_TIME_LIMIT_SECONDS is 70",
            id="alert",
        ),
    ],
)
def test_a_call_that_would_be_cut_off_stops_the_start(
    tmp_path: Path, settings: dict[str, Any], prompts: str, problem: str
) -> None:
    file = tmp_path / "prompts.toml"
    file.write_text(prompts, encoding="utf-8")
    given = {"call_time_limit_seconds": 30, "prompts_file": str(file), **settings}
    with pytest.raises(BadSettings, match=problem):
        create_app(load_settings(**NO_LIMITS, **given))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param(
            {"simulate": True, "providers": "cm", "require_keypress": True},
            "REQUIRE_KEYPRESS",
            id="keys without a way",
        ),
    ],
)
def test_what_these_carriers_cannot_do_stops_the_start(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadSettings, match=problem):
        create_app(load_settings(**NO_LIMITS, **settings))


def test_an_incomplete_language_stops_the_start_with_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xx.toml").write_text('name = "None"\ngreeting = "Hello"\n', encoding="utf-8")
    monkeypatch.setattr("speech.SPOKEN_TEXTS", tmp_path)
    with pytest.raises(BadSettings, match=r"spoken_texts/xx\.toml: digits is missing\n"):
        create_app(load_settings(**NO_LIMITS))


def test_a_voice_that_no_carrier_has_stops_the_start(prompts_file: str) -> None:
    Path(prompts_file).write_text(PROMPTS.replace('"male"', '"Polly.Robot"'), encoding="utf-8")
    with pytest.raises(BadSettings, match=r"prompts\.acme has the voice Polly\.Robot.*Polly\.Salli"):
        create_app(load_settings(**NO_LIMITS, prompts_file=prompts_file))


async def test_fewer_replays_are_offered_where_the_call_would_be_too_long() -> None:
    async with run_service(call_time_limit_seconds=100) as running:
        call = await begin_call(running, code=CODE, max_replays=3)
        first = await call.answer()
        second = await call.go_on(await call.press(first, "1"))
        assert (first.keys, second.keys) == (1, 0)
