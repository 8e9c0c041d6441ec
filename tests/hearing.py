"""How codes sound: the words that are said for their characters, and what a listener makes of the words."""

from collections.abc import Iterable
from functools import lru_cache

from language_choice import bare_language
from languages import load_spoken_texts
from speech import SPOKEN_TEXTS

TEXTS = load_spoken_texts(SPOKEN_TEXTS)


def words_of(code: str, language: str = "en") -> list[str]:
    """A code as it is read out, a word for each character."""
    words = _words_in(language)
    return [words[character] for character in code]


def heard(spoken: Iterable[str], language: str = "en") -> str:
    """The characters among what was said, in their order; sentences are no characters."""
    characters = _characters_in(language)
    return "".join(characters[text] for text in spoken if text in characters)


@lru_cache
def _characters_in(language: str) -> dict[str, str]:
    return {word: character for character, word in _words_in(language).items()}


@lru_cache
def _words_in(language: str) -> dict[str, str]:
    texts = TEXTS[bare_language(language)]
    return {**texts.digits, **texts.letters}
