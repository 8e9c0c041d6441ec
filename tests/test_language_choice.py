"""The wanted language, else that of the number's region, else the default, as far as it can be spoken."""

from pathlib import Path

import pytest

from language_choice import LanguageChoice
from languages import load_spoken_texts
from vobiz_client import LANGUAGES

TEXTS = load_spoken_texts(Path(__file__).parent.parent / "spoken_texts")
AMERICAN, BRITISH = "+14155550142", "+447400123456"


@pytest.fixture
def languages() -> LanguageChoice:
    return LanguageChoice(TEXTS, "en-US")


def test_each_language_of_the_carrier_can_be_wished_for(languages: LanguageChoice) -> None:
    for tag in LANGUAGES:
        assert languages.choose(tag, AMERICAN, LANGUAGES) == tag


@pytest.mark.parametrize(
    ("wanted", "phone", "chosen"),
    [
        pytest.param("de-AT", AMERICAN, "de-DE", id="another variety of a wanted language"),
        pytest.param("FR-ca", AMERICAN, "fr-CA", id="any case"),
        pytest.param("no", AMERICAN, "nb-NO", id="an older tag of the same language"),
        pytest.param("sw", AMERICAN, "en-US", id="the region's where the carrier lacks the wanted one"),
        pytest.param("sw", "+4915123456789", "de-DE", id="the region's where that is another one"),
        pytest.param(None, BRITISH, "en-GB", id="the region's own variety"),
        pytest.param(None, "+4915123456789", "de-DE", id="the region's language"),
        pytest.param(None, "+255712345678", "en-US", id="the default where the carrier lacks the region's"),
        pytest.param(None, "+88216123456", "en-US", id="the default where a number has no region"),
    ],
)
def test_the_best_that_can_be_spoken(
    languages: LanguageChoice, wanted: str | None, phone: str, chosen: str | None
) -> None:
    assert languages.choose(wanted, phone, (*LANGUAGES, "nb-NO")) == chosen


def test_nothing_where_not_even_the_default_can_be_spoken(languages: LanguageChoice) -> None:
    assert languages.choose(None, AMERICAN, ("ja-JP",)) is None


def test_known_is_what_has_texts(languages: LanguageChoice) -> None:
    assert languages.knows("de-CH")
    assert not languages.knows("tlh")
