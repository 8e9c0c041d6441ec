"""One spelling for one phone; everything else is refused, without repeating it."""

import pytest

from phone_numbers import InvalidPhone, mask, region_of, to_e164


@pytest.mark.parametrize(
    ("text", "e164"),
    [
        ("+14155550142", "+14155550142"),
        ("+1 415 555 0142", "+14155550142"),
        ("+1 (415) 555-01.42", "+14155550142"),
        ("+91(0)9876543210", "+919876543210"),
        ("+44 7400 123456", "+447400123456"),
    ],
)
def test_separators_are_dropped(text: str, e164: str) -> None:
    assert to_e164(text) == e164


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        pytest.param("4155550142", "has no country code", id="no country code"),
        pytest.param("+1415555", "not a complete number", id="too short"),
        pytest.param("+141555501422222", "not a complete number", id="too long"),
        pytest.param("+0015550142", "unknown country code", id="no such country"),
        pytest.param("+1 800 FLOWERS", "not a phone number", id="letters"),
        pytest.param("+14155550142;ext=5", "not a phone number", id="extension"),
        pytest.param("+14155550142,,5", "not a phone number", id="pauses"),
        pytest.param("+14155550142x5", "not a phone number", id="x extension"),
        pytest.param("tel:+14155550142", "not a phone number", id="tel URI"),
        pytest.param("+14155550142<+14155550143", "not a phone number", id="two destinations"),
        pytest.param("sip:a@b", "not a phone number", id="SIP URI"),
        pytest.param("+९१९८७६५४३२१०", "not a phone number", id="Devanagari digits"),
        pytest.param("+１４１５５５５０１４２", "not a phone number", id="full-width digits"),
        pytest.param("+1415555\u200b0142", "not a phone number", id="zero-width space"),
        pytest.param("+14155550142\n", "not a phone number", id="newline"),
        pytest.param("", "not a phone number", id="empty"),
        pytest.param("+" + "1" * 300, "not a phone number", id="very long"),
    ],
)
def test_anything_else_is_refused_with_a_hint_and_no_echo(text: str, hint: str) -> None:
    with pytest.raises(InvalidPhone, match=hint) as refused:
        to_e164(text)
    assert not text or text not in str(refused.value)


def test_a_region_is_of_the_number_not_of_its_calling_code() -> None:
    assert region_of("+14155550142") == "US"
    assert region_of("+18765230123") == "JM"
    assert region_of("+80012345678") is None, "no region at all"


def test_a_masked_number_shows_two_digits() -> None:
    assert mask("+14155550142") == "..42"
