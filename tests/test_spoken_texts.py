"""The language files: complete, in their own script, and with the right word for each digit."""

import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from num2words import CONVERTER_CLASSES, num2words  # type: ignore[import-untyped]
from unicode_rbnf import FormatPurpose, RbnfEngine

import vobiz_client
from language_choice import bare_language
from languages import SpokenTexts, load_spoken_texts
from phone_numbers import REGIONS

FOLDER = Path(__file__).parent.parent / "spoken_texts"
TEXTS = load_spoken_texts(FOLDER)

every_language = pytest.mark.parametrize("code", TEXTS)

INDIAN = ("hi", "bn", "te", "mr", "ta", "gu", "kn", "ml", "pa", "ur")

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
    "mk": ("CYRILLIC",),
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
LETTERS_IN_LATIN = ("zh",)  # Chinese has no names for them that are its own

NUM2WORDS_NAMES = {"nb": "no"}
NOT_FROM_NUM2WORDS = {"sr": "it writes Latin script"}
UNKNOWN_TO_BOTH = ("eu", "gl", "gu", "ml", "mr", "pa", "ur")

# Where what is said on the phone is not the library's word, and why.
OTHER_DIGITS = {
    ("nb", "1"): ("én", "the numeral; `en` is the article, too, and could be read weakly"),
    ("nb", "7"): ("sju", "the recommended one of two words"),
    ("sl", "2"): ("dva", "the word of counting; `dve` goes with feminine nouns"),
    ("fil", "0"): ("sero", "CLDR's `walâ` is `none`"),
    ("fa", "9"): ("نُه", "without its vowel sign it reads `no`, too"),
    ("ko", "0"): ("공", "the word in telephone numbers, and CLDR's; `영` is that of arithmetic"),
    ("ta", "0"): ("பூஜ்ஜியம்", "the usual spelling"),
    ("te", "0"): ("సున్నా", "the usual spelling"),
    ("te", "5"): ("ఐదు", "the usual spelling"),
    ("zh", "0"): ("零", "the character of the word; CLDR has the one of numerals"),
}
STRESS_MARKED = ("fil",)  # by CLDR, as dictionaries do; nobody else writes the marks


def sentences(texts: SpokenTexts) -> dict[str, str]:
    others = ("name", "regions", "digits", "letters")
    return {name: text for name, text in vars(texts).items() if name not in others}


def words(texts: SpokenTexts) -> list[str]:
    return [*texts.digits.values(), *texts.letters.values()]


def spoken(texts: SpokenTexts) -> Iterator[str]:
    """Everything that a voice reads, with nothing in the places for app, code and key."""
    yield from (text.format(app="", code="", key="") for text in sentences(texts).values())
    yield from words(texts)


def test_the_wanted_languages_are_there() -> None:
    wanted = {*INDIAN, "ko", "ja", "zh", *map(bare_language, vobiz_client.LANGUAGES)}
    assert wanted - set(TEXTS) == set()


def test_there_are_at_least_forty_languages() -> None:
    assert len(TEXTS) >= 40


@every_language
def test_a_file_is_named_as_its_language_is_looked_up(code: str) -> None:
    assert bare_language(code) == code


def test_each_region_has_numbers_and_one_language() -> None:
    regions = [region for texts in TEXTS.values() for region in texts.regions]
    assert set(regions) <= REGIONS
    assert len(regions) == len(set(regions))


@every_language
def test_each_text_is_in_the_languages_script(code: str) -> None:
    scripts = SCRIPTS.get(code, ("LATIN",))
    latin_letters = TEXTS[code].letters.values() if code in LETTERS_IN_LATIN else ()
    for text in spoken(TEXTS[code]):
        assert text == unicodedata.normalize("NFC", text)
        for character in filter(str.isalpha, "" if text in latin_letters else text):
            assert unicodedata.name(character).split()[0] in scripts, (text, character)


@every_language
def test_no_numeral_is_left_to_the_voice(code: str) -> None:
    """In many languages `1.` is an ordinal. English has none of that form."""
    if code != "en":
        assert not [text for text in spoken(TEXTS[code]) if any(map(str.isdigit, text))]


@every_language
def test_texts_have_no_stray_spaces(code: str) -> None:
    for text in [*sentences(TEXTS[code]).values(), *words(TEXTS[code])]:
        assert text == " ".join(text.split())


@every_language
def test_digits_and_letters_are_told_apart(code: str) -> None:
    assert len({word.casefold() for word in words(TEXTS[code])}) == 36


def num2words_of(code: str, digit: str, to: str = "cardinal") -> str | None:
    """None where num2words has no such word."""
    # Japanese as it is read, which kanji do not tell.
    options = {"reading": True} if (code, to) == ("ja", "cardinal") else {}
    try:
        word: str = num2words(int(digit), to=to, lang=NUM2WORDS_NAMES.get(code, code), **options)
    except (NotImplementedError, LookupError):
        return None
    return unicodedata.normalize("NFC", word)


def is_in_num2words(code: str) -> bool:
    return NUM2WORDS_NAMES.get(code, code) in CONVERTER_CLASSES and code not in NOT_FROM_NUM2WORDS


def library_word(code: str, digit: str) -> str | None:
    """What num2words says, else Unicode's CLDR."""
    if is_in_num2words(code):
        return num2words_of(code, digit)
    said = RbnfEngine.for_language(code).format_number(int(digit), FormatPurpose.CARDINAL)
    word = said.text_by_ruleset["spellout-numbering"]
    if code in STRESS_MARKED:
        word = "".join(mark for mark in unicodedata.normalize("NFD", word) if not unicodedata.combining(mark))
    return unicodedata.normalize("NFC", word)


@pytest.mark.parametrize("code", [code for code in TEXTS if code not in UNKNOWN_TO_BOTH])
def test_digit_words_are_those_of_an_independent_library(code: str) -> None:
    expected = {digit: library_word(code, digit) for digit in string.digits}
    own = {digit: word for (language, digit), (word, _) in OTHER_DIGITS.items() if language == code}
    assert all(expected[digit] != word for digit, word in own.items()), "an exception that is none"
    assert TEXTS[code].digits == expected | own


@pytest.mark.parametrize("code", UNKNOWN_TO_BOTH)
def test_no_language_is_left_unjudged_that_a_library_has(code: str) -> None:
    assert not is_in_num2words(code)
    with pytest.raises(ValueError, match="not supported"):
        RbnfEngine.for_language(code)


@pytest.mark.parametrize("code", [code for code in TEXTS if is_in_num2words(code)])
def test_no_digit_is_an_ordinal(code: str) -> None:
    ordinals = {num2words_of(code, digit, "ordinal") for digit in string.digits}
    # Where num2words makes no difference between the two, it does not know better.
    assert not (ordinals - {library_word(code, digit) for digit in string.digits}) & {*TEXTS[code].digits.values()}


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
    assert len(lines) == len(set(lines))
