"""The languages that can be spoken: one file each in `spoken_texts/`, data only, checked when it is read."""

import re
import string
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SpokenTexts:
    """One language: its sentences, and what is said for each character of a code.

    `regions` (ISO 3166) hear it unless another one is asked for. `{app}`, `{code}` and `{key}` in a sentence are
    places for the app's name, the code and the key or keys to press. `digits` and `letters` are words, so that a
    voice can neither run characters together nor take them for something else.
    """

    name: str
    regions: tuple[str, ...]
    greeting: str
    code_prompt: str
    again: str
    menu: str
    goodbye: str
    apology: str
    text_message: str
    key_greeting: str
    key_prompt: str
    voicemail: str
    keypad_greeting: str
    keypad_prompt: str
    keypad_wrong: str
    keypad_right: str
    alert_again: str
    acknowledge_prompt: str
    acknowledged: str
    digits: Mapping[str, str]
    letters: Mapping[str, str]


_CHARACTERS = {"digits": string.digits, "letters": string.ascii_uppercase}
_KEYS = [field.name for field in fields(SpokenTexts)]
_SENTENCES = [key for key in _KEYS if key not in ("regions", *_CHARACTERS)]
_PLACEHOLDERS = {
    "greeting": ["{app}"],
    "text_message": ["{app}", "{code}"],
    "key_greeting": ["{app}"],
    "key_prompt": ["{key}"],
    "keypad_greeting": ["{app}"],
}
_IN_BRACES = re.compile(r"\{\w*\}|[{}]")


def load_spoken_texts(folder: Path) -> dict[str, SpokenTexts]:
    """Every language, by its bare code. Raises: ValueError, with a line for every problem of every file."""
    languages: dict[str, SpokenTexts] = {}
    problems: list[str] = []
    file_of_region: dict[str, str] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # of TOML or of UTF-8
            problems.append(f"{path.name}: cannot be read: {error}")
            continue
        found = [*_problems_of(content), *_regions_taken(content, path.name, file_of_region)]
        problems += [f"{path.name}: {problem}" for problem in found]
        if not found:
            languages[path.stem] = SpokenTexts(**{**content, "regions": tuple(content["regions"])})
    if problems:
        raise ValueError("\n".join(problems))
    return languages


def _problems_of(content: Mapping[str, Any]) -> Iterator[str]:
    yield from _differences("", _KEYS, content)
    for key in _SENTENCES:
        if key in content:
            yield from _problems_of_text(key, content[key], _PLACEHOLDERS.get(key, []))
    for key, characters in _CHARACTERS.items():
        words = content.get(key)
        if isinstance(words, dict):
            yield from _differences(f"{key}.", characters, words)
            for character, word in words.items():
                yield from _problems_of_text(f"{key}.{character}", word, [])
        elif key in content:
            yield f"{key} is not a table"


def _differences(prefix: str, wanted: Collection[str], found: Collection[str]) -> Iterator[str]:
    yield from (f"{prefix}{key} is missing" for key in wanted if key not in found)
    yield from (f"{prefix}{key} is unknown" for key in found if key not in wanted)


def _problems_of_text(key: str, text: Any, placeholders: list[str]) -> Iterator[str]:
    if not isinstance(text, str) or not text.strip():
        yield f"{key} is not a text, or empty"
    elif sorted(_IN_BRACES.findall(text)) != placeholders:
        yield f"{key} must have {' and '.join(placeholders) or 'nothing'} in braces, once"


def _regions_taken(content: Mapping[str, Any], file: str, file_of_region: dict[str, str]) -> Iterator[str]:
    """Enters the regions of a file into `file_of_region`."""
    regions = content.get("regions", [])
    if not isinstance(regions, list) or not all(isinstance(region, str) for region in regions):
        yield "regions is not a list of texts"
        return
    for region in regions:
        if region in file_of_region:
            yield f"region {region} belongs to {file_of_region[region]} already"
        file_of_region.setdefault(region, file)
