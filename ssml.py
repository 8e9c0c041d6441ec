"""SSML in an operator's own words, checked before any carrier sees it."""

import re
from typing import NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape

# Each element with its attributes: those that carriers name, as far as they fetch nothing. `speak` has none, as it
# is taken off where a carrier's own element stands in its place.
ELEMENTS = {
    "speak": frozenset[str](),
    "break": frozenset({"time", "strength"}),
    "prosody": frozenset({"rate", "pitch", "volume"}),
    "say-as": frozenset({"interpret-as", "format", "detail"}),
    "emphasis": frozenset({"level"}),
    "p": frozenset[str](),
    "s": frozenset[str](),
    "sub": frozenset({"alias"}),
    "phoneme": frozenset({"alphabet", "ph"}),
    "lang": frozenset({"xml:lang"}),
    "w": frozenset({"role"}),
}
MAX_BREAK_SECONDS = 10  # of all breaks together
_TIME = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?)(ms|s)")
_SPACED = frozenset({"break", "p", "s"})


class BadSsml(Exception):
    """`problem` is words that follow the text's name; line and column count from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        self.column = column


class Ssml(NamedTuple):
    """What is left without markup, and how long the breaks in it are."""

    words: str
    break_seconds: float


def read_ssml(text: str) -> Ssml:
    """Raises: BadSsml for the first thing that is wrong."""
    return _Reader().read(text)


def inside(text: str) -> str:
    """What stands in the one `<speak>` of a checked text."""
    return text[text.index(">") + 1 : text.rindex("</")]


def escaped(value: str) -> str:
    """A value that can stand in a text or an attribute of SSML."""
    return escape(value, {'"': "&quot;", "'": "&apos;"})


class _Reader:
    """Expat with everything refused that a voice does not need.

    Entities can be defined in a DOCTYPE only, which ends the reading where it begins: nothing is ever expanded but
    XML's own five.
    """

    def __init__(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.CharacterDataHandler = self._take
        self._parser.StartDoctypeDeclHandler = lambda *_: self._refuse("has a DOCTYPE")
        self._parser.ProcessingInstructionHandler = lambda *_: self._refuse("has a processing instruction")
        self._parser.CommentHandler = lambda *_: self._refuse("has a comment")
        self._parser.StartCdataSectionHandler = lambda: self._refuse("has a CDATA section")
        self._words: list[str] = []
        self._break_seconds = 0.0
        self._is_inside = False

    def read(self, text: str) -> Ssml:
        try:
            self._parser.Parse(text, True)
        except expat.ExpatError as error:
            problem = f"is not well-formed SSML: {expat.ErrorString(error.code)}"
            raise BadSsml(problem, error.lineno, error.offset + 1) from None
        return Ssml(" ".join("".join(self._words).split()), self._break_seconds)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if (name == "speak") == self._is_inside:
            self._refuse("is not SSML inside of one <speak>")
        self._is_inside = True
        if name not in ELEMENTS:
            self._refuse(f"has the element {name}: use {', '.join(ELEMENTS)}")
        for attribute in attributes:
            if attribute not in ELEMENTS[name]:
                allowed = ", ".join(sorted(ELEMENTS[name])) or "none"
                self._refuse(f"has the attribute {attribute} of {name}: allowed is {allowed}")
        if name == "break" and "time" in attributes:
            self._count_break(attributes["time"])
        if name in _SPACED:
            self._words.append(" ")

    def _count_break(self, time: str) -> None:
        match = _TIME.fullmatch(time)
        if match is None:
            self._refuse("has a break whose time is not such as 300ms or 1.5s")
        else:
            self._break_seconds += float(match[1]) / (1000 if match[2] == "ms" else 1)
        if self._break_seconds > MAX_BREAK_SECONDS:
            self._refuse(f"has breaks of more than {MAX_BREAK_SECONDS} seconds in all")

    def _take(self, text: str) -> None:
        self._words.append(text)

    def _refuse(self, problem: str) -> None:
        raise BadSsml(problem, self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1)
