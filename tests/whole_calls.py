"""What is said in the calls of tests: the real texts, out of the files of languages."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from call_script import Manner, Pacing, WholeCall
from languages import load_spoken_texts
from script_writer import ScriptWriter

TEXTS = load_spoken_texts(Path(__file__).parent.parent / "spoken_texts")
WRITER = ScriptWriter(TEXTS, "Example")


def whole_call(
    code: str,
    language: str = "en-US",
    *,
    keys: tuple[str, ...] = (),
    app_name: str = "Example",
    pacing: Pacing | None = None,
    **manner: Any,
) -> WholeCall:
    """All that is said in a call with this code; `keys` are asked for before it, one after the other."""
    writer = ScriptWriter(TEXTS, app_name, pacing)
    spoken = Manner(language, keys_first=len(keys[0]) if keys else 0, **manner)
    return writer.whole_call(code, spoken, keys)


def words_of(code: str, language: str = "en") -> list[str]:
    """What is said for each character of a code."""
    texts = TEXTS[language]
    return [texts.digits.get(character) or texts.letters[character] for character in code]


def characters_in(spoken: Iterable[str], language: str = "en") -> str:
    """The characters of codes and keys among what was said."""
    texts = TEXTS[language]
    characters = {word: character for character, word in {**texts.letters, **texts.digits}.items()}
    return "".join(characters.get(text, "") for text in spoken)
