"""Writes what is said in a call: the texts of its language or prompt set, in its voice, at the operator's pace."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from alert_templates import AlertTemplate, read_values
from call_script import (
    CallScript,
    Continue,
    Hangup,
    KeyStep,
    Manner,
    Menu,
    Pacing,
    Pause,
    PlayAudio,
    Speak,
    Step,
    Utterance,
    WholeCall,
    estimated_seconds,
)
from language_choice import bare_language, texts_tag
from languages import SpokenTexts
from prompt_sets import Prompt, PromptKind, PromptSet, PromptSets, fill
from recorded_audio import Recordings
from verification import KEY_TRIES, Mode

MENU_TIMEOUT_SECONDS = 5
KEYS_TIMEOUT_SECONDS = 10  # for two keys, which have to be found first
KEYPAD_TIMEOUT_SECONDS = 20  # a callee has to look for the code, and for the keypad
# A sentence that keys are said in the middle of: what comes after them may be silence.
RECORDED_IN_PARTS = {"key_prompt": ("key_prompt_1", "key_prompt_2")}
RECORDED_PROMPTS = (
    "greeting", "code_prompt", "again", "menu", "goodbye", "apology", "key_greeting", "key_prompt_1",
    "key_prompt_2", "voicemail", "keypad_greeting", "keypad_prompt", "keypad_wrong", "keypad_right",
)  # fmt: skip
FASTEST_SPEECH = 2  # times as fast as its estimate, which is a long one


class _Estimates(NamedTuple):
    """Seconds that the parts of a call take. The beginning has the first reading in it."""

    first_reading: float
    beginning: float
    replay: float
    ending: float


class ScriptWriter:
    """Writes the scripts of calls in every language that `spoken_texts/` has a file for."""

    def __init__(
        self,
        texts: Mapping[str, SpokenTexts],
        app_name: str,
        pacing: Pacing | None = None,
        prompt_sets: PromptSets | None = None,
        recordings: Recordings | None = None,
        templates: Mapping[str, AlertTemplate] | None = None,
    ) -> None:
        self._texts = texts
        self._pacing = pacing or Pacing()
        # One object each: what is built of steps is looked up quickest by the very same ones.
        self._digit_pause = Pause(self._pacing.digit_pause_seconds)
        self._reading_pause = Pause(self._pacing.reading_pause_seconds)
        self._prompt_sets = prompt_sets or PromptSets({}, {}, app_name)
        self._recordings = recordings
        self._templates = templates or {}
        self._known_utterances: dict[tuple[str, Manner], tuple[Utterance, ...]] = {}
        self._known_codes: dict[tuple[str, Manner], Speak] = {}
        self._known_estimates: dict[tuple[Mode, int, Manner], _Estimates] = {}

    @property
    def recorded_languages(self) -> tuple[str, ...]:
        return self._recordings.languages if self._recordings is not None else ()

    def texts_of_alert(self, template: str) -> tuple[str, ...]:
        return self._templates[template].languages

    def languages_of_alert(self, template: str, spoken: Iterable[str]) -> tuple[str, ...]:
        """Those of the tags that an alert has a text in."""
        return tuple(tag for tag in spoken if self._templates[template].has_text(texts_tag(tag)))

    # What is said while a code is told

    def greet_first(self, manner: Manner) -> CallScript:
        """The greeting alone, and silence until the carrier has told whether a machine answered."""
        said = (*self._lead_in(), *self._say("greeting", manner))
        silence_seconds = manner.verdict_seconds - estimated_seconds(said) / FASTEST_SPEECH
        return (*said, *((Pause(silence_seconds),) if silence_seconds > 0 else ()), Continue())

    def read_code(self, code: str, manner: Manner, *, reading: int) -> CallScript:
        """The code as often as the pacing says, one utterance per character so that no voice runs them together.

        Then comes the offer to hear it again, unless this is the last reading, or the next one comes by itself.
        """
        spelled = self._spelled(code, manner)
        steps = [*self._lead_in(), *self._opening(manner, reading), *spelled]
        for _ in range(self._pacing.readings - 1):
            steps += [self._reading_pause, *self._say("again", manner), *spelled]
        steps.append(self._digit_pause)
        has_menu = reading <= manner.max_replays and not manner.auto_replay
        return (*steps, *(self.menu(manner) if has_menu else (Continue(),)))

    def _opening(self, manner: Manner, reading: int) -> tuple[Utterance, ...]:
        if reading > 1:
            return self._say("again", manner)
        was_greeted = manner.keys_first or manner.verdict_seconds
        greeting = () if was_greeted else self._say("greeting", manner)
        return (*greeting, *self._say("code_prompt", manner))

    def menu(self, manner: Manner) -> CallScript:
        """Only the offer to hear the code again."""
        return (Menu(self._say("menu", manner), MENU_TIMEOUT_SECONDS), Continue())

    def ask_for_keys(self, keys: str, manner: Manner) -> CallScript:
        """What an answering machine cannot know: which keys to press before the code is told."""
        prompt = (*self._say("key_greeting", manner), *self._key_prompt(keys, manner))
        return (*self._lead_in(), Menu(prompt, KEYS_TIMEOUT_SECONDS, len(keys)), Continue())

    def _key_prompt(self, keys: str, manner: Manner) -> tuple[Utterance, ...]:
        """The wish for keys, each an utterance of its own, in the place that the sentence has for them."""
        own = self._own_prompt("key_prompt", manner)
        if own is None and manner.is_recorded:
            before, *after = self._recorded("key_prompt", manner)
            return (before, *(self._character(key, manner) for key in keys), *after)
        if own is not None and own.kind is PromptKind.SSML:  # which cannot be taken apart
            words = ", ".join(self._texts_in(manner.language).digits[key] for key in keys)
            said = own.filled({"app": self._app_name_in(manner), "key": words})
            return (self._speak(said.words, manner, said.inner_ssml, said.break_seconds),)
        text = own.content if own is not None else self._texts_in(manner.language).key_prompt
        before_keys, after_keys = fill(text, {"app": self._app_name_in(manner), "key": "\0"}).split("\0", 1)
        parts = (self._part(before_keys, manner), self._part(after_keys, manner))
        return (*parts[0], *(self._character(key, manner) for key in keys), *parts[1])

    def _part(self, text: str, manner: Manner) -> tuple[Utterance, ...]:
        """Part of a sentence; none where nothing is left of it but a full stop."""
        return (self._speak(text.strip(), manner),) if any(map(str.isalpha, text)) else ()

    # What is said while a code is asked for

    def ask_for_code(self, code_length: int, manner: Manner, *, is_wrong: bool) -> CallScript:
        """The callee is to type the code on the phone; `is_wrong`: once more."""
        opening = "keypad_wrong" if is_wrong else "keypad_greeting"
        prompt = (*self._say(opening, manner), *self._say("keypad_prompt", manner))
        return (*self._lead_in(), Menu(prompt, KEYPAD_TIMEOUT_SECONDS, code_length), Continue())

    def right_code(self, manner: Manner) -> CallScript:
        return (*self._say("keypad_right", manner), Hangup())

    # What is said in an alert

    def tell_alert(self, sealed_form: str, manner: Manner, *, reading: int) -> CallScript:
        """The message as often as the pacing says, then the wish to have it acknowledged, if there is one."""
        name, values = read_values(sealed_form)
        template = self._templates[name]
        return self._alert(template, template.text(texts_tag(manner.language), values), manner, reading)

    def _alert(self, template: AlertTemplate, text: str, manner: Manner, reading: int) -> CallScript:
        message = self._speak(text, manner)
        again = self._say("alert_again", manner)
        steps: list[Step] = [*self._lead_in(), *(again if reading > 1 else ()), message]
        for _ in range(self._pacing.readings - 1):
            steps += [self._reading_pause, *again, message]
        steps.append(self._digit_pause)
        return (*steps, *(self.ask_to_acknowledge(manner) if template.acknowledge else (Continue(),)))

    def ask_to_acknowledge(self, manner: Manner) -> CallScript:
        return (Menu(self._say("acknowledge_prompt", manner), MENU_TIMEOUT_SECONDS), Continue())

    def acknowledged(self, manner: Manner) -> CallScript:
        return (*self._say("acknowledged", manner), Hangup())

    # How a call ends

    def goodbye(self, manner: Manner, *, after_wrong_code: bool = False) -> CallScript:
        wrong = self._say("keypad_wrong", manner) if after_wrong_code else ()
        return (*wrong, *self._say("goodbye", manner), Hangup())

    def apology(self, manner: Manner) -> CallScript:
        return (*self._say("apology", manner), Hangup())

    def no_code(self, manner: Manner) -> CallScript:
        """What an answering machine may keep."""
        return (*self._say("voicemail", manner), Hangup())

    # All of it at once

    def whole_call(self, code: str, manner: Manner, keys: tuple[str, ...] = ()) -> WholeCall:
        """The same in one piece; `keys` are those to be asked for, one after the other, until they are pressed."""
        greeting, code_prompt, again, menu, goodbye = (
            self._say(key, manner)[0] for key in ("greeting", "code_prompt", "again", "menu", "goodbye")
        )
        key_greeting = self._say("key_greeting", manner)
        return WholeCall(
            manner=manner,
            pacing=self._pacing,
            greeting=greeting,
            code_prompt=code_prompt,
            code=code,
            spelled=tuple(self._character(character, manner) for character in code),
            again=again,
            replay_prompt=menu,
            goodbye=goodbye,
            app_name=self._app_name_in(manner),
            keys_first=tuple(KeyStep((*key_greeting, *self._key_prompt(key, manner)), key) for key in keys),
        )

    def text_message(self, code: str, language: str, prompts: str = "") -> str:
        """The code in one line, for a text message."""
        manner = Manner(language, prompts)
        own = self._own_prompt("text_message", manner)
        text = own.content if own is not None else self._texts_in(language).text_message
        return fill(text, {"app": self._app_name_in(manner), "code": code})

    # How long it takes

    def first_reading_seconds(self, mode: Mode, code_length: int, manner: Manner) -> float:
        """How long a call has lasted, at the most, when the code, or alert, has been said once."""
        return self._estimates(mode, code_length, manner).first_reading

    def whole_call_seconds(self, mode: Mode, code_length: int, manner: Manner) -> float:
        """How long a call can last: every replay, every wait to its end, and a last "goodbye"."""
        estimates = self._estimates(mode, code_length, manner)
        return estimates.beginning + manner.max_replays * estimates.replay + estimates.ending

    def fitted(self, mode: Mode, manner: Manner, code_length: int, seconds: float) -> Manner:
        """The manner with as many replays as a call of so many seconds has room for."""
        while manner.max_replays and self.whole_call_seconds(mode, code_length, manner) > seconds:
            manner = msgspec.structs.replace(manner, max_replays=manner.max_replays - 1)
        return manner

    def _estimates(self, mode: Mode, code_length: int, manner: Manner) -> _Estimates:
        known = self._known_estimates.get((mode, code_length, manner))
        if known is None:
            known = self._known_estimates[mode, code_length, manner] = self._estimate(mode, code_length, manner)
        return known

    def _estimate(self, mode: Mode, code_length: int, manner: Manner) -> _Estimates:
        if mode is Mode.KEYPAD:
            asked = _longest_seconds(self.ask_for_code(code_length, manner, is_wrong=False))
            return _Estimates(asked, KEY_TRIES * asked, 0, _longest_seconds(self.right_code(manner)))
        if mode is Mode.ALERT:
            first, replay = (self._longest_alert(manner, reading) for reading in (1, 2))
            once = first[: len(self._lead_in()) + 1]  # the message alone
            ending = self.acknowledged(manner)
        else:
            code = "0" * code_length
            first, replay = (self.read_code(code, manner, reading=reading) for reading in (1, 2))
            once = (*self._lead_in(), *self._opening(manner, 1), *self._spelled(code, manner))
            again = self.menu(manner) if manner.max_replays else ()  # which is met with silence, or a wrong key
            ending = (*again, *self.goodbye(manner))
        before = 0.0
        if mode is Mode.SPEAK and manner.keys_first:
            before = KEY_TRIES * _longest_seconds(self.ask_for_keys("0" * manner.keys_first, manner))
        elif mode is Mode.SPEAK and manner.verdict_seconds:
            before = _longest_seconds(self.greet_first(manner))
        return _Estimates(
            first_reading=before + estimated_seconds(once),
            beginning=before + _longest_seconds(first),
            replay=_longest_seconds(replay),
            ending=_longest_seconds(ending),
        )

    def _longest_alert(self, manner: Manner, reading: int) -> CallScript:
        template = self._templates[manner.template]
        return self._alert(template, "0" * template.longest(texts_tag(manner.language)), manner, reading)

    # The words

    def _lead_in(self) -> tuple[Pause, ...]:
        seconds = self._pacing.lead_in_seconds
        return (Pause(seconds),) if seconds else ()

    def _spelled(self, code: str, manner: Manner) -> list[Step]:
        steps: list[Step] = []
        for character in code:
            steps += (self._character(character, manner), self._digit_pause)
        return steps[:-1]

    def _character(self, character: str, manner: Manner) -> Utterance:
        if manner.is_recorded:
            return self._sound(f"{manner.language}/{character.lower()}")
        known = self._known_codes.get((character, manner))
        if known is None:
            texts = self._texts_in(manner.language)
            word = texts.digits.get(character) or texts.letters[character]
            known = self._known_codes[character, manner] = self._speak(word, manner)
        return known

    def _say(self, key: str, manner: Manner) -> tuple[Utterance, ...]:
        """A prompt: one utterance, or two around the keys that are asked for."""
        known = self._known_utterances.get((key, manner))
        if known is None:
            known = self._utter(key, manner)
            if not any(isinstance(part, PlayAudio) for part in known):  # whose URLs change with time
                self._known_utterances[key, manner] = known
        return known

    def _utter(self, key: str, manner: Manner) -> tuple[Utterance, ...]:
        own = self._own_prompt(key, manner)
        app = {"app": self._app_name_in(manner)}
        if own is None and manner.is_recorded:
            return self._recorded(key, manner)
        if own is None or own.kind is PromptKind.AUDIO:
            text = fill(str(getattr(self._texts_in(manner.language), key)), app)
            return (self._sound(own.content, text) if own is not None else self._speak(text, manner),)
        said = own.filled(app)
        ssml = said.inner_ssml if own.kind is PromptKind.SSML else ""
        return (self._speak(said.words, manner, ssml, said.break_seconds),)

    def _recorded(self, key: str, manner: Manner) -> tuple[Utterance, ...]:
        names = RECORDED_IN_PARTS.get(key, (key,))
        return tuple(self._sound(f"{manner.language}/{name}") for name in names)

    def _sound(self, path: str, text: str = "") -> PlayAudio:
        assert self._recordings is not None  # noqa: S101 - checked at the start
        return PlayAudio(*self._recordings.sound(path), text)

    def _speak(self, text: str, manner: Manner, ssml: str = "", break_seconds: float = 0) -> Speak:
        voice = manner.voice or self._voice_of(manner)
        return Speak(text, manner.language, voice, self._pacing.speech_rate, ssml, break_seconds)

    def _voice_of(self, manner: Manner) -> str:
        """The voice that the prompt set has for a language; empty for the carrier's choice."""
        return self._prompts_of(manner).voice_for(manner.language)

    def _own_prompt(self, key: str, manner: Manner) -> Prompt | None:
        return self._prompts_of(manner).prompt(texts_tag(manner.language), key)

    def _app_name_in(self, manner: Manner) -> str:
        return self._prompts_of(manner).app_name

    def _prompts_of(self, manner: Manner) -> PromptSet:
        return self._prompt_sets.named(manner.prompts)

    def _texts_in(self, language: str) -> SpokenTexts:
        return self._texts[bare_language(language)]


def _longest_seconds(script: CallScript) -> float:
    """With every wait for keys to its end."""
    waits = sum(step.timeout_seconds for step in script if isinstance(step, Menu))
    return estimated_seconds(script) + waits
