"""What the callee hears, provider-neutral: a script is a row of steps that a carrier carries out in order."""

import unicodedata
from typing import NamedTuple

import msgspec

# Slower than the usual 14 characters a second, so that an estimate never claims too early that a code was read.
_CHARACTERS_PER_SECOND = 11
_SECONDS_PER_UTTERANCE = 0.8
_LETTERS_IN_A_SYLLABLE = 3
NORMAL_RATE = 100


class _Step(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """Steps are compared and looked up by their contents, many times a second."""


class Speak(_Step, frozen=True):
    """Say a text in a language (BCP 47 tag).

    `voice` is female, male, or a carrier's own name of one; empty for the carrier's choice. `rate` is in percent
    of the voice's usual speed. `ssml` is what stands inside of a `<speak>` in the place of the text, with so many
    seconds of breaks. Voices that know no SSML say the text, at their usual speed.
    """

    text: str
    language: str
    voice: str = ""
    rate: int = NORMAL_RATE
    ssml: str = ""
    break_seconds: float = 0


class Pause(_Step, frozen=True):
    """Say nothing. Carriers that take whole seconds only round up."""

    seconds: float


class PlayAudio(_Step, frozen=True):
    """Play an audio file from its absolute URL; `seconds` is its length.

    A prompt has its `text`, too, for carriers that play no files of ours.
    """

    url: str
    seconds: float = 3.0
    text: str = ""


Utterance = Speak | PlayAudio


class Menu(_Step, frozen=True):
    """Say the prompt and wait for keys; then ask us what comes next, with those that were pressed, if any.

    The wait ends with the last one of `keys`; the timeout is for the first one, with some carriers for all.
    """

    prompt: tuple[Utterance, ...]
    timeout_seconds: int
    keys: int = 1


class Continue(_Step, frozen=True):
    """Ask us what comes next. Its arrival proves that everything before it was played."""


class Replay(_Step, frozen=True):
    """Go back to the answer URL and hear the code again."""


class Hangup(_Step, frozen=True):
    """End the call."""


Step = Speak | Pause | PlayAudio | Menu | Continue | Replay | Hangup
CallScript = tuple[Step, ...]

SILENT_HANGUP: CallScript = (Hangup(),)
REPLAY: CallScript = (Replay(),)


class Manner(msgspec.Struct, frozen=True, array_like=True, gc=False, cache_hash=True):
    """How a call speaks, decided when it is begun and the same at each of its callbacks.

    `prompts` names a set of prompts, and `voice` the voice that was asked for, as `Speak` has it; empty ones are
    the usual. A recorded call plays the operator's own files. `keys_first` is how many random keys the callee
    presses before the code is said. Not before `verdict_seconds` after the answer is it said either: by then the
    carrier has told whether a machine took the call; 0 where it does not tell. With `auto_replay` the replays come
    without being asked for. `template` is that of an alert.
    """

    language: str
    prompts: str = ""
    voice: str = ""
    is_recorded: bool = False
    max_replays: int = 3
    auto_replay: bool = False
    keys_first: int = 0
    verdict_seconds: float = 0
    template: str = ""


class Pacing(msgspec.Struct, frozen=True):
    """How fast a call speaks. `readings` is how often the code is said at a time; the rate is in percent."""

    lead_in_seconds: float = 1  # the first syllable is lost on many lines while the audio path opens
    digit_pause_seconds: float = 1
    reading_pause_seconds: float = 1
    readings: int = 2
    speech_rate: int = NORMAL_RATE


class KeyStep(NamedTuple):
    """Keys that a callee is asked for, in a call that is told before it is placed."""

    prompt: tuple[Utterance, ...]
    keys: str


class WholeCall(NamedTuple):
    """All that is said in a call, for carriers that are told before they dial.

    After the keys of `keys_first`, one try each, and the greeting, the code is read behind its prompt,
    character by character as `spelled` has it, in each further one of `pacing.readings` behind `again`. It is read
    once more, up to `manner.max_replays` times, when the callee presses 1 after the replay prompt.
    """

    manner: Manner
    pacing: Pacing
    greeting: Utterance
    code_prompt: Utterance
    code: str
    spelled: tuple[Utterance, ...]
    again: Utterance
    replay_prompt: Utterance
    goodbye: Utterance
    app_name: str
    keys_first: tuple[KeyStep, ...] = ()

    def __repr__(self) -> str:
        return f"WholeCall({self.manner.language}, <{len(self.code)} characters>)"


def estimated_seconds(script: CallScript) -> float:
    """A cautious (long) estimate of how long a script takes to play, without waiting for keys."""
    return sum(_seconds_of(step) for step in script)


def _letters_in(text: str) -> float:
    """How many letters of an alphabet take as long: a character of Chinese, Japanese or Korean is a syllable."""
    return sum(_LETTERS_IN_A_SYLLABLE if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _seconds_of(step: Step) -> float:
    match step:
        case Speak(text, rate=rate, break_seconds=breaks):
            spoken = _SECONDS_PER_UTTERANCE + _letters_in(text) / _CHARACTERS_PER_SECOND
            return breaks + spoken * NORMAL_RATE / min(rate, NORMAL_RATE)
        case Pause(seconds) | PlayAudio(seconds=seconds):
            return seconds
        case Menu(prompt):
            return sum(_seconds_of(part) for part in prompt)
        case _:
            return 0
