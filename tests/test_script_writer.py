"""What the callee hears, step by step, and how long it takes."""

from pathlib import Path

import pytest

from call_script import Continue, Hangup, Manner, Menu, Pause, PlayAudio, Speak, estimated_seconds
from languages import load_spoken_texts
from script_writer import ScriptWriter
from settings import Settings
from verification import Mode
from vobiz_client import LANGUAGES

TEXTS = load_spoken_texts(Path(__file__).parent.parent / "spoken_texts")
ENGLISH = Manner("en-US")


@pytest.fixture
def writer() -> ScriptWriter:
    return ScriptWriter(TEXTS, "Acme Bank")


def test_the_code_is_read_twice_digit_by_digit_with_pauses(writer: ScriptWriter) -> None:
    assert writer.read_code("07", ENGLISH, reading=1) == (
        Pause(1),
        Speak("Hello. This is your verification code for Acme Bank.", "en-US"),
        Speak("Your code is", "en-US"),
        Speak("zero", "en-US"),
        Pause(1),
        Speak("seven", "en-US"),
        Pause(1),
        Speak("Once more. Your code is", "en-US"),
        Speak("zero", "en-US"),
        Pause(1),
        Speak("seven", "en-US"),
        Pause(1),
        Menu((Speak("To hear the code again, press 1.", "en-US"),), 5),
        Continue(),
    )


def test_the_last_reading_offers_no_other_one(writer: ScriptWriter) -> None:
    script = writer.read_code("0742", Manner("en-US", max_replays=1), reading=2)
    assert script[-1] == Continue()
    assert not any(isinstance(step, Menu) for step in script)


def test_every_language_of_the_carrier_can_be_spoken(writer: ScriptWriter) -> None:
    for tag in LANGUAGES:
        assert writer.apology(Manner(tag))[-1] == Hangup()
        assert writer.goodbye(Manner(tag))[-1] == Hangup()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_longest_call_fits_into_the_default_time_limit(writer: ScriptWriter, language: str) -> None:
    limit = Settings.model_fields["call_time_limit_seconds"].default
    assert writer.whole_call_seconds(Mode.SPEAK, 6, Manner(language)) < limit


def test_a_call_has_the_replays_that_it_has_room_for(writer: ScriptWriter) -> None:
    whole = writer.whole_call_seconds(Mode.SPEAK, 10, ENGLISH)
    assert writer.fitted(Mode.SPEAK, ENGLISH, 10, whole) == ENGLISH
    fewer = writer.fitted(Mode.SPEAK, ENGLISH, 10, whole - 1)
    assert fewer.max_replays == ENGLISH.max_replays - 1
    assert writer.fitted(Mode.SPEAK, ENGLISH, 10, 1).max_replays == 0


def test_a_call_without_replays_is_short(writer: ScriptWriter) -> None:
    manner = Manner("en-US", max_replays=0)
    whole = writer.whole_call_seconds(Mode.SPEAK, 6, manner)
    assert writer.first_reading_seconds(Mode.SPEAK, 6, manner) * 1.5 < whole < 60


def test_an_estimate_counts_pauses_prompts_and_speech() -> None:
    script = (
        Pause(2),
        Speak("x" * 11, "en-US"),
        Menu((Speak("x" * 22, "en-US"),), 5),
        PlayAudio("https://a/b", 4),
    )
    assert estimated_seconds(script) == pytest.approx(2 + 1.8 + 2.8 + 4)


def test_the_first_reading_lasts_to_its_last_character(writer: ScriptWriter) -> None:
    script = writer.read_code("000000", ENGLISH, reading=1)
    again = next(
        place for place, step in enumerate(script) if isinstance(step, Speak) and "Once more" in step.text
    )
    seconds = estimated_seconds(script[: again - 1])  # without the pause between readings
    assert writer.first_reading_seconds(Mode.SPEAK, 6, ENGLISH) == pytest.approx(seconds)
