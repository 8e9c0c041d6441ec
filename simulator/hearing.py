"""What a callee hears, and understands of it: characters by their names, and the keys that are asked for."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from language_choice import bare_language

# The words with which people say digits and letters: of each language, not of whoever calls.
_LANGUAGES = {path.stem: path for path in (Path(__file__).parent.parent / "spoken_texts").glob("*.toml")}
_WORDS = re.compile(r"[0-9]+|[^\s0-9]+")


@dataclass(frozen=True, slots=True)
class Sound:
    """What is heard for some seconds: a spoken text, an audio file, or nothing."""

    seconds: float
    text: str = ""
    language: str = ""
    url: str = ""


def character_of(sound: Sound) -> str:
    """The digit or letter that is said, by its name or as itself; empty for anything else."""
    text = _bare(sound.text)
    return _names(bare_language(sound.language)).get(text) or (text.upper() if len(text) == 1 else "")


def keys_asked_for(prompt: Iterable[Sound]) -> str:
    """The keys that a prompt asks for: the digits that it names last, one after the other; "" for none."""
    heard = " ".join(_digits(sound) for sound in prompt)
    named: list[str] = re.findall(r"[0-9](?: *[0-9])*", heard)
    return named[-1].replace(" ", "") if named else ""


def _digits(sound: Sound) -> str:
    """The words of a text: each digit as itself, any other word as a dash."""
    names = _names(bare_language(sound.language))
    words = [_bare(word) for word in _WORDS.findall(sound.text)]
    return " ".join(digits if (digits := names.get(word, word)).isdecimal() else "-" for word in words)


def _bare(text: str) -> str:
    return text.strip(" .,;:!?¡¿。、").casefold()


@cache
def _names(language: str) -> Mapping[str, str]:
    """What characters are called in a language; nothing for one that is not known."""
    if language not in _LANGUAGES:
        return {}
    texts = tomllib.loads(_LANGUAGES[language].read_text(encoding="utf-8"))
    return {_bare(name): character for key in ("letters", "digits") for character, name in texts[key].items()}
