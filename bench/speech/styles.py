"""The ways of reading a code that are compared. Each gives a call script, with the same words around the code."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from call_script import CallScript, Manner, Pause, Speak, Step
from languages import load_spoken_texts
from script_writer import ScriptWriter
from speech import SPOKEN_TEXTS

MANNER = Manner("en-US")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
APP_NAME = "your app"


@dataclass(frozen=True, slots=True)
class Style:
    name: str
    file_name: str
    write: Callable[[str], CallScript]


def ours(code: str) -> CallScript:
    """The service's own script with its defaults, up to the offer to hear the code again."""
    script = _writer().read_code(code, MANNER, reading=1)
    return tuple(step for step in script if isinstance(step, Speak | Pause))


def one_speak_per_digit(code: str) -> CallScript:
    """The idiom of Vobiz's own sample: a second of silence after each digit, and the message twice."""
    digits: list[Step] = []
    for digit in code:
        digits += [_speak(digit), Pause(1)]
    return _twice(digits)


def comma_joined(code: str) -> CallScript:
    """All digits in one utterance."""
    opening, _ = _prompts()
    return (Pause(1), *opening, _speak(", ".join(code)))


def full_stops_twice(code: str) -> CallScript:
    """All digits in one utterance, with full stops between them, and the message twice."""
    return _twice([_speak(". ".join(code) + ".")])


def _twice(digits: list[Step]) -> CallScript:
    opening, again = _prompts()
    return (Pause(1), *opening, *digits, *again, *digits)


@cache
def _writer() -> ScriptWriter:
    return ScriptWriter(load_spoken_texts(SPOKEN_TEXTS), APP_NAME)


@cache
def _prompts() -> tuple[list[Speak], list[Speak]]:
    """Our own words before the first reading, and before the second one."""
    words = [step for step in ours("0") if isinstance(step, Speak)]
    first, second = (number for number, step in enumerate(words) if is_digit(step))
    return words[:first], words[first + 1 : second]


def is_digit(step: Step) -> bool:
    """Whether a step says a digit, as a word or a figure, or all of them."""
    return isinstance(step, Speak) and (step.text in WORDS or any(map(str.isdigit, step.text)))


def _speak(text: str) -> Speak:
    return Speak(text, MANNER.language)


STYLES = (
    Style("ours", "ours", ours),
    Style("one Speak per digit, twice", "one-speak-per-digit", one_speak_per_digit),
    Style("comma-joined", "comma-joined", comma_joined),
    Style('". "-joined, twice', "full-stops", full_stops_twice),
)
