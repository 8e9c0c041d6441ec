"""What the callee hears, provider-neutral: a script is a row of steps that a carrier carries out in order."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from languages import SpokenTexts
from phone_numbers import region_of

LEAD_IN_SECONDS = 1  # the first syllable is lost on many lines while the audio path opens
DIGIT_PAUSE_SECONDS = 1
READING_PAUSE_SECONDS = 2
MENU_TIMEOUT_SECONDS = 5
# Slower than the usual 14 characters a second, so that an estimate never claims too early that a code was read.
_CHARACTERS_PER_SECOND = 11
_SECONDS_PER_UTTERANCE = 0.8


class _Step(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """Steps are compared and looked up by their contents, many times a second."""


class Speak(_Step, frozen=True):
    """Say a text in a language (BCP 47 tag)."""

    text: str
    language: str


class Pause(_Step, frozen=True):
    """Say nothing for whole seconds."""

    seconds: int


class PlayAudio(_Step, frozen=True):
    """Play an audio file from its absolute URL."""

    url: str


class Menu(_Step, frozen=True):
    """Say the prompt and wait for one key; then ask us what comes next, with the key if there was one."""

    prompt: tuple[Speak | PlayAudio, ...]
    timeout_seconds: int


class Continue(_Step, frozen=True):
    """Ask us what comes next. Its arrival proves that everything before it was played."""


class Replay(_Step, frozen=True):
    """Go back to the answer URL and hear the code again."""


class Hangup(_Step, frozen=True):
    """End the call."""


Step = Speak | Pause | PlayAudio | Menu | Continue | Replay | Hangup
CallScript = tuple[Step, ...]


class WholeCall(NamedTuple):
    """All that is said in a call, for carriers that are told before they dial.

    After the greeting the code is read character by character behind its prompt, a second time behind `again`
    where the carrier can, and once more, up to `max_replays` times, when the callee presses 1 after the replay
    prompt. The greeting has `app_name` in it already.
    """

    language: str
    greeting: str
    code_prompt: str
    code: str
    again: str
    replay_prompt: str
    goodbye: str
    max_replays: int
    app_name: str

    def __repr__(self) -> str:
        return f"WholeCall({self.language}, <{len(self.code)} characters>)"


SILENT_HANGUP: CallScript = (Hangup(),)
REPLAY: CallScript = (Replay(),)


class _Estimates(NamedTuple):
    """Seconds that the parts of a call take."""

    first_reading: float
    first_document: float
    replay: float
    goodbye: float


class ScriptWriter:
    """Writes the scripts of an OTP call in every language that `spoken_texts/` has a file for."""

    def __init__(self, texts: Mapping[str, SpokenTexts], app_name: str, default_language: str) -> None:
        self._texts = texts
        self._app_name = app_name
        self._default_language = default_language
        self._known_estimates: dict[tuple[int, str], _Estimates] = {}
        self._language_of_region = {region: code for code, text in texts.items() for region in text.regions}

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that there are texts in, as bare codes; what a carrier can speak of them is its own."""
        return tuple(self._texts)

    def choose_language(self, wanted: str | None, phone: str, spoken: Iterable[str]) -> str | None:
        """The tag to speak in, out of those that the carrier can speak.

        A wanted language that cannot be spoken gives None. Without a wish it is the language of the number's
        region, in the region's own variety where the carrier has it, else the default language.
        """
        if wanted is not None:
            return self._match(wanted, spoken)
        region = region_of(phone)
        regional = self._language_of_region.get(region or "")
        matched = self._match(f"{regional}-{region}", spoken) if regional else None
        return matched or self._match(self._default_language, spoken)

    def _match(self, wanted: str, spoken: Iterable[str]) -> str | None:
        language = wanted.split("-")[0].lower()
        if language not in self._texts:
            return None
        varieties = [tag for tag in spoken if tag.split("-")[0] == language]
        exact = (tag for tag in varieties if tag.lower() == wanted.lower())
        return next(exact, varieties[0] if varieties else None)

    def read_code(self, code: str, language: str, *, with_greeting: bool, with_menu: bool) -> CallScript:
        """The code twice, one utterance per digit so that no voice runs digits together, then the menu."""
        texts = self._texts_for(language)
        opening = texts.greeting.format(app=self._app_name) if with_greeting else texts.again
        spelled = _spelled(code, language)
        return (
            Pause(LEAD_IN_SECONDS),
            Speak(opening, language),
            Pause(DIGIT_PAUSE_SECONDS),
            *spelled,
            Pause(READING_PAUSE_SECONDS),
            Speak(texts.again, language),
            Pause(DIGIT_PAUSE_SECONDS),
            *spelled,
            Pause(DIGIT_PAUSE_SECONDS),
            *(self.menu(language) if with_menu else (Continue(),)),
        )

    def whole_call(self, code: str, language: str, max_replays: int) -> WholeCall:
        """The same texts in one piece."""
        texts = self._texts_for(language)
        greeting = texts.greeting.format(app=self._app_name)
        return WholeCall(
            language=language,
            greeting=greeting,
            code_prompt=texts.code_prompt,
            code=code,
            again=texts.again,
            replay_prompt=texts.menu,
            goodbye=texts.goodbye,
            max_replays=max_replays,
            app_name=self._app_name,
        )

    def text_message(self, code: str, language: str) -> str:
        """The code in one line, for a text message."""
        return self._texts_for(language).text_message.format(app=self._app_name, code=code)

    def menu(self, language: str) -> CallScript:
        """Only the offer to hear the code again."""
        prompt = Speak(self._texts_for(language).menu, language)
        return (Menu((prompt,), MENU_TIMEOUT_SECONDS), Continue())

    def goodbye(self, language: str) -> CallScript:
        return (Speak(self._texts_for(language).goodbye, language), Hangup())

    def apology(self, language: str) -> CallScript:
        return (Speak(self._texts_for(language).apology, language), Hangup())

    def first_reading_seconds(self, code_length: int, language: str) -> float:
        """How long a call has lasted, at the most, when the code has been read once."""
        return self._estimates(code_length, language).first_reading

    def whole_call_seconds(self, code_length: int, max_replays: int, language: str) -> float:
        """How long a call can last: every replay, every menu waited out, and a last "goodbye"."""
        estimates = self._estimates(code_length, language)
        return estimates.first_document + max_replays * estimates.replay + estimates.goodbye

    def _estimates(self, code_length: int, language: str) -> "_Estimates":
        known = self._known_estimates.get((code_length, language))
        if known is None:
            code = "0" * code_length
            first = self.read_code(code, language, with_greeting=True, with_menu=True)
            replay = self.read_code(code, language, with_greeting=False, with_menu=True)
            known = _Estimates(
                first_reading=estimated_seconds(first[: first.index(Pause(READING_PAUSE_SECONDS))]),
                first_document=estimated_seconds(first) + MENU_TIMEOUT_SECONDS,
                replay=estimated_seconds(replay) + MENU_TIMEOUT_SECONDS,
                goodbye=estimated_seconds(self.goodbye(language)),
            )
            self._known_estimates[code_length, language] = known
        return known

    def _texts_for(self, language: str) -> SpokenTexts:
        return self._texts[language.split("-")[0].lower()]


def estimated_seconds(script: CallScript) -> float:
    """A cautious (long) estimate of how long a script takes to play, without waiting for keys."""
    return sum(_seconds_of(step) for step in script)


def _seconds_of(step: Step) -> float:
    match step:
        case Speak(text):
            return _SECONDS_PER_UTTERANCE + len(text) / _CHARACTERS_PER_SECOND
        case Pause(seconds):
            return seconds
        case Menu(prompt):
            return sum(_seconds_of(part) for part in prompt)
        case _:
            return 0


_DIGIT_PAUSE = Pause(DIGIT_PAUSE_SECONDS)


@lru_cache(maxsize=4096)
def _character(character: str, language: str) -> Speak:
    return Speak(character, language)


def _spelled(code: str, language: str) -> CallScript:
    steps: list[Step] = []
    for character in code:
        steps += (_character(character, language), _DIGIT_PAUSE)
    return tuple(steps[:-1])
