"""The ways of reading a code that are compared. Each gives a call script, with the same words around the code."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from call_script import CallScript, Pause, ScriptWriter, Speak, Step, load_spoken_texts

LANGUAGE = "en-US"
SPOKEN_TEXTS = Path(__file__).parents[2] / "spoken_texts"


@dataclass(frozen=True, slots=True)
class Style:
    name: str
    write: Callable[[str], CallScript]


def read_code(code: str, language: str = LANGUAGE) -> CallScript:
    """The service's own script: what it says until it offers to say the code again."""
    writer = ScriptWriter(load_spoken_texts(SPOKEN_TEXTS), "your app", language)
    script = writer.read_code(code, language, with_greeting=True, with_menu=False)
    return tuple(step for step in script if isinstance(step, Speak | Pause))


def one_speak_per_digit(code: str) -> CallScript:
    """The idiom of Vobiz's own sample: a second of silence after each digit, and the whole twice."""
    digits: list[Step] = []
    for digit in code:
        digits += [Speak(digit, LANGUAGE), Pause(1)]
    opening, again = _prompts(code)
    return (Pause(1), *opening, *digits, *again, *digits)


def comma_joined(code: str) -> CallScript:
    """All digits in one utterance."""
    opening, _ = _prompts(code)
    return (Pause(1), *opening, Speak(", ".join(code), LANGUAGE))


def full_stops_twice(code: str) -> CallScript:
    """All digits in one utterance, with full stops between them, and the whole twice."""
    opening, again = _prompts(code)
    digits = Speak(". ".join(code) + ".", LANGUAGE)
    return (Pause(1), *opening, digits, *again, digits)


def _prompts(code: str) -> tuple[list[Speak], list[Speak]]:
    """Our own words before the first reading, and before the second one."""
    before, after = [], []
    is_read = False
    for step in read_code(code):
        if isinstance(step, Speak):
            if holds_digits(step):
                is_read = True
            else:
                (after if is_read else before).append(step)
    return before, after


def holds_digits(step: Step) -> bool:
    return isinstance(step, Speak) and any(character.isdigit() for character in step.text)


STYLES = (
    Style("ours", read_code),
    Style("one Speak per digit, twice", one_speak_per_digit),
    Style("comma-joined", comma_joined),
    Style('". "-joined, twice', full_stops_twice),
)
