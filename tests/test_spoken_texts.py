"""The language files: complete, in their own script, and with the right word for each digit."""

import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import icu_rbnf
import pytest
from num2words import CONVERTER_CLASSES, num2words  # type: ignore[import-untyped]

from languages import SpokenTexts, load_spoken_texts
from phone_numbers import REGIONS

FOLDER = Path(__file__).parent.parent / "spoken_texts"
TEXTS = load_spoken_texts(FOLDER)

every_language = pytest.mark.parametrize("code", TEXTS)

# The first words of the names that Unicode has for a script's letters; Latin where a language is not here.
SCRIPTS = {
    "ar": ("ARABIC",),
    "bg": ("CYRILLIC",),
    "bn": ("BENGALI",),
    "el": ("GREEK",),
    "fa": ("ARABIC",),
    "gu": ("GUJARATI",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"),
    "kn": ("KANNADA",),
    "ko": ("HANGUL",),
    "ml": ("MALAYALAM",),
    "mr": ("DEVANAGARI",),
    "pa": ("GURMUKHI",),
    "ru": ("CYRILLIC",),
    "sr": ("CYRILLIC",),
    "ta": ("TAMIL",),
    "te": ("TELUGU",),
    "th": ("THAI",),
    "uk": ("CYRILLIC",),
    "ur": ("ARABIC",),
    "zh": ("CJK",),
}

NUM2WORDS_NAMES = {"nb": "no"}
NOT_FROM_NUM2WORDS = {"sr": "it writes Latin script"}
NOT_JUDGED = ("ml", "mr", "pa", "ur")  # neither num2words nor CLDR has them

# Where what is said on the phone is not the judge's word, and why.
OWN_DIGITS = {
    ("nb", "1"): ("én", "the numeral; `en` is the article, too, and could be read weakly"),
    ("nb", "7"): ("sju", "the recommended one of two words, and the one that CLDR has"),
}


def sentences(texts: SpokenTexts) -> dict[str, str]:
    names = (name for name in texts.__slots__ if name not in ("name", "regions", "digits", "letters"))
    return {name: getattr(texts, name) for name in names}


def spoken(texts: SpokenTexts) -> Iterator[str]:
    """Everything that a voice reads, with nothing in the places for app, code and key."""
    yield from (text.format(app="", code="", key="") for text in sentences(texts).values())
    yield from texts.digits.values()
    yield from texts.letters.values()


@every_language
def test_regions_are_iso_3166(code: str) -> None:
    assert set(TEXTS[code].regions) <= REGIONS


@every_language
def test_each_text_is_in_the_languages_script(code: str) -> None:
    scripts = SCRIPTS.get(code, ("LATIN",))
    for text in spoken(TEXTS[code]):
        assert text == unicodedata.normalize("NFC", text)
        for character in filter(str.isalpha, text):
            assert unicodedata.name(character).split()[0] in scripts, (text, character)


@every_language
def test_no_numeral_is_left_to_the_voice(code: str) -> None:
    """In many languages `1.` is an ordinal. English has none of that form."""
    if code != "en":
        assert not [text for text in spoken(TEXTS[code]) if any(map(str.isdigit, text))]


@every_language
def test_the_key_comes_last(code: str) -> None:
    """Keys are spoken one by one, and nothing after them could tell that they are over."""
    assert TEXTS[code].key_prompt.endswith("{key}")


@every_language
def test_texts_have_no_stray_spaces(code: str) -> None:
    for text in [*sentences(TEXTS[code]).values(), *TEXTS[code].digits.values(), *TEXTS[code].letters.values()]:
        assert text == " ".join(text.split())


@every_language
def test_digits_and_letters_are_told_apart(code: str) -> None:
    words = [word.casefold() for word in (*TEXTS[code].digits.values(), *TEXTS[code].letters.values())]
    assert len(set(words)) == len(words) == 36


def num2words_of(code: str, digit: str, to: str = "cardinal") -> str | None:
    """None where num2words has no such word."""
    # Japanese as it is read, which kanji do not tell.
    options = {"reading": True} if (code, to) == ("ja", "cardinal") else {}
    try:
        word: str = num2words(int(digit), to=to, lang=NUM2WORDS_NAMES.get(code, code), **options)
    except (NotImplementedError, LookupError):
        return None
    return word


def judge_of(code: str, digit: str) -> str:
    if NUM2WORDS_NAMES.get(code, code) in CONVERTER_CLASSES and code not in NOT_FROM_NUM2WORDS:
        word = num2words_of(code, digit)
        assert word is not None
    else:
        word = icu_rbnf.spellout(int(digit), code)
    return unicodedata.normalize("NFC", word)


@pytest.mark.parametrize("code", [code for code in TEXTS if code not in NOT_JUDGED])
def test_digit_words_are_those_of_an_independent_library(code: str) -> None:
    expected = {digit: judge_of(code, digit) for digit in string.digits}
    own = {digit: word for (language, digit), (word, _) in OWN_DIGITS.items() if language == code}
    assert all(expected[digit] != word for digit, word in own.items()), "an exception that is none"
    assert TEXTS[code].digits == expected | own


@every_language
def test_no_digit_is_an_ordinal(code: str) -> None:
    if NUM2WORDS_NAMES.get(code, code) not in CONVERTER_CLASSES:
        return
    for digit, word in TEXTS[code].digits.items():
        # Where num2words makes no difference between the two, it does not know better.
        assert word == num2words_of(code, digit) or word != num2words_of(code, digit, "ordinal")


ENGLISH = (FOLDER / "en.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(ENGLISH.replace("goodbye =", "good_bye ="), "goodbye is missing", id="missing sentence"),
        pytest.param(ENGLISH.replace("goodbye =", "good_bye ="), "good_bye is unknown", id="unknown key"),
        pytest.param(ENGLISH.replace('"Goodbye."', '" "'), "goodbye is not a text, or empty", id="empty sentence"),
        pytest.param(ENGLISH.replace('"Goodbye."', "1"), "goodbye is not a text, or empty", id="not a text"),
        pytest.param(
            ENGLISH.replace("code for {app}", "code"), "greeting must have {app} in braces, once", id="no place"
        ),
        pytest.param(
            ENGLISH.replace("press {key}", "press {key} {key}"),
            "key_prompt must have {key} in braces, once",
            id="a place twice",
        ),
        pytest.param(
            ENGLISH.replace("{code} is", "{code:>9} is"),
            "text_message must have {app} and {code} in braces, once",
            id="a place with a format",
        ),
        pytest.param(
            ENGLISH.replace("Goodbye.", "Goodbye, {app}."),
            "goodbye must have nothing in braces, once",
            id="a place where none belongs",
        ),
        pytest.param(
            ENGLISH.replace("see on", "see } on"), "keypad_prompt must have nothing in braces, once", id="brace"
        ),
        pytest.param(ENGLISH.replace('9 = "nine"', ""), "digits.9 is missing", id="missing digit"),
        pytest.param(ENGLISH.replace("9 = ", "10 = "), "digits.10 is unknown", id="extra digit"),
        pytest.param(ENGLISH.replace('= "nine"', '= ""'), "digits.9 is not a text, or empty", id="empty digit"),
        pytest.param(ENGLISH.replace('Z = "zee"', ""), "letters.Z is missing", id="missing letter"),
        pytest.param(ENGLISH + 'AE = "ash"', "letters.AE is unknown", id="extra letter"),
        pytest.param(ENGLISH.split("[letters]")[0], "letters is missing", id="no letters"),
        pytest.param(
            'letters = "ABC"\n' + ENGLISH.split("[letters]")[0], "letters is not a table", id="no table of letters"
        ),
        pytest.param(ENGLISH.replace('["US"', '"US" #'), "regions is not a list of texts", id="one region"),
        pytest.param(ENGLISH.replace('"US"', "1"), "regions is not a list of texts", id="a number as region"),
        pytest.param(ENGLISH.replace('"US"', '"DE"'), "region DE belongs to de.toml already", id="region taken"),
        pytest.param("name = English", "cannot be read: ", id="not TOML"),
        pytest.param("name = '\udcff'", "cannot be read: ", id="not UTF-8"),
    ],
)
def test_a_broken_file_is_named_with_its_problem(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "de.toml").write_text((FOLDER / "de.toml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "en.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="toml: ") as refused:
        load_spoken_texts(tmp_path)
    lines = str(refused.value).splitlines()
    assert any(line.startswith(f"en.toml: {problem}") for line in lines)
    assert all(line.startswith("en.toml: ") for line in lines)


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "xx.toml").write_text('regions = ["XX"]\ngreeting = "Hello"\n[digits]', encoding="utf-8")
    (tmp_path / "yy.toml").write_text('regions = ["XX"]\ntune = "la"', encoding="utf-8")
    with pytest.raises(ValueError, match="toml: ") as refused:
        load_spoken_texts(tmp_path)
    lines = str(refused.value).splitlines()
    assert {
        "xx.toml: greeting must have {app} in braces, once",
        "xx.toml: goodbye is missing",
        "xx.toml: digits.0 is missing",
        "yy.toml: tune is unknown",
        "yy.toml: region XX belongs to xx.toml already",
    } <= set(lines)
    assert len(lines) == len(set(lines)) == 51
