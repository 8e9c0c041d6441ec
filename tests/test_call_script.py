"""What the callee hears, step by step, and in which language."""

from pathlib import Path

import pytest

from call_script import Continue, Hangup, Menu, Pause, PlayAudio, ScriptWriter, Speak, estimated_seconds
from languages import load_spoken_texts
from settings import Settings
from vobiz_client import LANGUAGES

TEXTS = load_spoken_texts(Path(__file__).parent.parent / "spoken_texts")


@pytest.fixture
def writer() -> ScriptWriter:
    return ScriptWriter(TEXTS, "Acme Bank", "en-US")


def test_the_code_is_read_twice_digit_by_digit_with_pauses(writer: ScriptWriter) -> None:
    script = writer.read_code("07", "en-US", with_greeting=True, with_menu=True)
    assert script == (
        Pause(1),
        Speak("Hello. This is your verification code for Acme Bank.", "en-US"),
        Pause(1),
        Speak("0", "en-US"),
        Pause(1),
        Speak("7", "en-US"),
        Pause(2),
        Speak("Once more. Your code is", "en-US"),
        Pause(1),
        Speak("0", "en-US"),
        Pause(1),
        Speak("7", "en-US"),
        Pause(1),
        Menu((Speak("To hear the code again, press 1.", "en-US"),), 5),
        Continue(),
    )


def test_the_last_reading_offers_no_other_one(writer: ScriptWriter) -> None:
    script = writer.read_code("0742", "en-US", with_greeting=False, with_menu=False)
    assert script[-1] == Continue()
    assert not any(isinstance(step, Menu) for step in script)


def test_every_language_of_the_carrier_can_be_spoken(writer: ScriptWriter) -> None:
    for tag in LANGUAGES:
        assert writer.choose_language(tag, "+14155550142", LANGUAGES) == tag
        assert writer.apology(tag)[-1] == Hangup()
        assert writer.goodbye(tag)[-1] == Hangup()


@pytest.mark.parametrize(
    ("wanted", "phone", "chosen"),
    [
        pytest.param("de-AT", "+14155550142", "de-DE", id="another variety of a wanted language"),
        pytest.param("FR-ca", "+14155550142", "fr-CA", id="any case"),
        pytest.param("sw", "+14155550142", None, id="a language that the carrier lacks"),
        pytest.param(None, "+447400123456", "en-GB", id="the region's own variety"),
        pytest.param(None, "+919876543210", "en-US", id="a region whose variety the carrier lacks"),
        pytest.param(None, "+4915123456789", "de-DE", id="the region's language"),
        pytest.param(None, "+819012345678", "en-US", id="the default where the carrier lacks the language"),
    ],
)
def test_the_language_is_the_wanted_one_or_the_regions(
    writer: ScriptWriter, wanted: str | None, phone: str, chosen: str | None
) -> None:
    assert writer.choose_language(wanted, phone, LANGUAGES) == chosen


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_longest_call_fits_into_the_default_time_limit(writer: ScriptWriter, language: str) -> None:
    limit = Settings.model_fields["call_time_limit_seconds"].default
    assert writer.whole_call_seconds(6, 3, language) < 185
    assert writer.whole_call_seconds(10, 3, language) < limit


def test_a_call_without_replays_is_short(writer: ScriptWriter) -> None:
    whole = writer.whole_call_seconds(6, 0, "en-US")
    assert writer.first_reading_seconds(6, "en-US") * 2 < whole < 60


def test_an_estimate_counts_pauses_prompts_and_speech() -> None:
    script = (Pause(2), Speak("x" * 11, "en-US"), Menu((Speak("x" * 22, "en-US"),), 5), PlayAudio("https://a/b"))
    assert estimated_seconds(script) == pytest.approx(2 + 1.8 + 2.8)


def test_first_reading_ends_before_the_second_begins(writer: ScriptWriter) -> None:
    whole = estimated_seconds(writer.read_code("0" * 6, "en-US", with_greeting=True, with_menu=True))
    assert 10 < writer.first_reading_seconds(6, "en-US") < whole / 1.5
