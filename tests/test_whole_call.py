"""What is told of a call before it is placed, all at once."""

import pytest

from call_script import Manner, PlayAudio, Speak
from prompt_sets import Prompt, PromptKind, PromptSet, PromptSets
from recorded_audio import Recording, Recordings
from script_writer import ScriptWriter
from tests.conftest import OTP_SECRET, FakeTime
from tests.whole_calls import TEXTS, whole_call, words_of

RECORDINGS = Recordings(
    {"shop/hello.wav": Recording(b"", 2.5, "audio/wav")},
    (OTP_SECRET,),
    "https://otp.example.com",
    FakeTime().clock,
)


def test_a_call_has_every_sentence_and_a_word_for_each_character() -> None:
    told = whole_call("07A", "de-DE")
    texts = TEXTS["de"]
    assert [one.text for one in (told.greeting, told.again, told.replay_prompt, told.goodbye)] == [
        *(texts.greeting.format(app="Example"), texts.again, texts.menu, texts.goodbye)
    ]
    assert [one.text for one in told.spelled] == words_of("07A", "de")
    assert {one.language for one in told.spelled if isinstance(one, Speak)} == {"de-DE"}
    assert told.keys_first == ()
    assert "07A" not in repr(told)


def test_the_keys_of_each_try_are_spoken_one_by_one() -> None:
    told = whole_call("482913", keys=("42", "17"))
    assert [step.keys for step in told.keys_first] == ["42", "17"]
    for step in told.keys_first:
        _, *asked = step.prompt
        assert [one.text for one in asked] == ["To hear it, press", *words_of(step.keys)]


@pytest.mark.parametrize("language", TEXTS)
def test_a_prompt_that_is_a_file_has_the_words_of_its_language_too(language: str) -> None:
    own = PromptSet("acme", "Acme", {}, {language: {"greeting": Prompt(PromptKind.AUDIO, "shop/hello.wav")}})
    writer = ScriptWriter(TEXTS, "Example", None, PromptSets({"acme": own}, {}, "Example"), RECORDINGS)
    told = writer.whole_call("482913", Manner(language, "acme"))
    text = TEXTS[language].greeting.format(app="Acme")
    assert told.greeting == PlayAudio(RECORDINGS.sound("shop/hello.wav").url, 2.5, text)
    assert isinstance(told.code_prompt, Speak)
