"""A TOML file of the operator's, and all that is wrong in it: one line each, with the place where it stands."""

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from settings import BadSettings

Where = tuple[str, ...]
"""The keys that lead to a value, from the top of the file."""

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\\\n]*"|'[^'\n]*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_STRING = r'''"""(?:[^\\]|\\[\s\S])*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\''''
_ENTRY = re.compile(
    rf"^[ \t]*(?:\[[ \t]*(?P<table>{_KEYS})[ \t]*\]|(?P<keys>{_KEYS})[ \t]*=[ \t]*(?P<string>{_STRING})?)",
    re.MULTILINE,
)
_QUOTES = re.compile(r'"""\n?|\'\'\'\n?|"|\'')


class Spot(NamedTuple):
    """Line and column, from 1 on."""

    line: int
    column: int


class _Entry(NamedTuple):
    """Where a key stands, and where its text begins if the text is written as it is, without escapes."""

    line: int
    text_start: Spot | None = None


class ConfigFile:
    """What a file holds, and the problems that were found in it. `name` begins each of them."""

    def __init__(self, name: str, text: str) -> None:
        """Raises: BadSettings when it is no TOML."""
        self.problems: list[str] = []
        self._name = name
        text = text.replace("\r\n", "\n")
        try:
            self.document: Mapping[str, Any] = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise BadSettings([f"{name} is not TOML: {error}"]) from None
        self._entries = _entries(text)

    def report(self, where: Where, words: str, spot: Spot | None = None) -> None:
        """Note a problem: the value's name, then these words. `spot` is a place inside of its text."""
        name = ".".join(map(_shown, where))
        prefixes = (where[:length] for length in range(len(where), 0, -1))
        entry = next((self._entries[prefix] for prefix in prefixes if prefix in self._entries), None)
        place = f", line {entry.line}" if entry else ""
        if spot and entry and entry.text_start:
            line, column = entry.text_start
            place = f", line {line + spot.line - 1}, column {spot.column + (column - 1 if spot.line == 1 else 0)}"
        elif spot:
            name = f"{name} (line {spot.line}, column {spot.column} of its text)"
        self.problems.append(f"{self._name}{place}: {name} {words}")

    def table(self, where: Where, value: object) -> Mapping[str, Any]:
        """The value, or an empty table in the place of anything else, which is noted."""
        if isinstance(value, dict):
            return value
        self.report(where, "must be a table")
        return {}

    def text(self, where: Where, value: object) -> str | None:
        """The value, or None in the place of anything else, which is noted."""
        if isinstance(value, str):
            return value
        self.report(where, "must be text in quotes")
        return None

    def refuse_other_keys(self, where: Where, table: Mapping[str, object], known: Collection[str]) -> None:
        for key in table:
            if key not in known:
                self.report((*where, key), f"is not known: use {', '.join(known)}")


def read_config(setting: str, path: str) -> ConfigFile:
    """Raises: BadSettings when the file cannot be read, or is no TOML."""
    name = f"{setting} {path}"
    try:
        return ConfigFile(name, Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadSettings([f"{name} cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise BadSettings([f"{name} is not UTF-8: save it again in that encoding"]) from None


def _shown(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key)


def _entries(text: str) -> dict[Where, _Entry]:
    """Where keys stand: tomllib does not tell. Keys of inline tables are not found: their table's line must do."""
    entries: dict[Where, _Entry] = {}
    table: Where = ()
    for match in _ENTRY.finditer(text):
        where = _where(match["table"] or match["keys"])
        if match["table"]:
            table = where
        else:
            where = (*table, *where)
        line = _spot(text, match.start("table" if match["table"] else "keys")).line
        for length in range(1, len(where)):
            entries.setdefault(where[:length], _Entry(line))
        entries[where] = _Entry(line, _text_start(text, match) if match["string"] else None)
    return entries


def _where(keys: str) -> Where:
    """A dotted key, taken apart by the one who knows how to."""
    where, rest = [], tomllib.loads(f"{keys} = 0")
    while isinstance(rest, dict):
        ((key, rest),) = rest.items()
        where.append(key)
    return tuple(where)


def _text_start(text: str, match: re.Match[str]) -> Spot | None:
    """Where a string begins behind its quotes; None with escapes in it, which move what follows them."""
    literal = match["string"]
    opening = _QUOTES.match(literal)
    start = opening.end() if opening else 0
    end = len(literal) - len(literal[:start].rstrip("\n"))
    try:
        is_verbatim = tomllib.loads(f"text = {literal}")["text"] == literal[start:end]
    except tomllib.TOMLDecodeError:
        return None
    return _spot(text, match.start("string") + start) if is_verbatim else None


def _spot(text: str, offset: int) -> Spot:
    return Spot(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))
