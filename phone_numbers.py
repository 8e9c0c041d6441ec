"""Phone numbers: one canonical E.164 form inside, a masked form outside."""

import re
from functools import lru_cache
from typing import NamedTuple

import phonenumbers

_TOLERATED = re.compile(r"\+[0-9 .\-()]{7,40}")
_SEPARATORS = re.compile(r"[ .\-()]")
_NON_GEOGRAPHIC = "001"  # libphonenumber's region of numbers such as +800 and +882
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


class InvalidPhone(ValueError):
    """The text is not one complete phone number. The message says what to do and never repeats the text."""


class _Number(NamedTuple):
    e164: str
    region: str | None


def to_e164(text: str) -> str:
    """The one E.164 spelling of a phone number.

    Spaces, dots, dashes and brackets are dropped. Anything else that libphonenumber would also read
    (letters, extensions, other scripts' digits, `tel:`) is refused, so that one phone has one spelling and no
    text can dial two destinations.

    Raises: InvalidPhone.
    """
    return _read(text).e164


def region_of(e164: str) -> str | None:
    """ISO 3166 region of a number, for example `IN`; None where the number belongs to no region."""
    return _read(e164).region


@lru_cache(maxsize=65_536)
def _read(text: str) -> _Number:
    if not text.lstrip().startswith("+") and _TOLERATED.fullmatch("+" + text):
        raise InvalidPhone("has no country code: write it as E.164, for example +14155550100")
    if not _TOLERATED.fullmatch(text):
        raise InvalidPhone("is not a phone number: write it as E.164, for example +14155550100")
    try:
        number = phonenumbers.parse(_SEPARATORS.sub("", text))
    except phonenumbers.NumberParseException:
        raise InvalidPhone("has an unknown country code: write it as E.164, for example +14155550100") from None
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    region = phonenumbers.region_code_for_number(number)
    if region is None or not phonenumbers.is_valid_number_for_region(number, region) or not _E164.fullmatch(e164):
        raise InvalidPhone("is not a complete number of its country: check the digits")
    return _Number(e164, None if region == _NON_GEOGRAPHIC else region)


def mask(e164: str) -> str:
    """What a log line may say of a number: its last two digits."""
    return f"..{e164[-2:]}"
