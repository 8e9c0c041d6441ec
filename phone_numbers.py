"""Phone numbers: one canonical E.164 form inside, a masked form outside."""

import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import phonenumbers

_TOLERATED = re.compile(r"\+[0-9 .\-()]{7,40}")
_SEPARATORS = re.compile(r"[ .\-()]")
_NON_GEOGRAPHIC = "001"  # libphonenumber's region of numbers such as +800 and +882
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


class InvalidPhone(ValueError):
    """The text is not one complete phone number. The message says what to do and never repeats the text."""


class LineType(StrEnum):
    """What kind of line a number belongs to, as far as the numbering plan tells."""

    MOBILE = "mobile"
    FIXED_LINE = "fixed_line"
    FIXED_LINE_OR_MOBILE = "fixed_line_or_mobile"
    VOIP = "voip"
    PREMIUM_RATE = "premium_rate"
    SHARED_COST = "shared_cost"
    PERSONAL_NUMBER = "personal_number"
    TOLL_FREE = "toll_free"
    PAGER = "pager"
    UAN = "uan"
    VOICEMAIL = "voicemail"
    UNKNOWN = "unknown"


REGIONS = frozenset(phonenumbers.SUPPORTED_REGIONS)
"""ISO 3166 regions that have numbers."""

_LINE_TYPES = {getattr(phonenumbers.PhoneNumberType, kind.name): kind for kind in LineType}


class Number(NamedTuple):
    """A phone number and what its numbering plan says of it."""

    e164: str
    region: str | None
    """ISO 3166, for example `IN`; None where the number belongs to no region."""
    line_type: LineType


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


def number_of(e164: str) -> Number:
    """A number with its region and line type. Raises: InvalidPhone."""
    return _read(e164)


def line_key(e164: str) -> str:
    """One key for one phone, for what is counted per number.

    An Argentine mobile is valid with and without the 9 after +54, and both may reach it.
    """
    return "+54" + e164[4:] if e164.startswith("+549") else e164


@lru_cache(maxsize=65_536)
def _read(text: str) -> Number:
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
    line_type = _LINE_TYPES[phonenumbers.number_type(number)]
    if region is None or line_type is LineType.UNKNOWN or not _E164.fullmatch(e164):  # no type: not valid
        raise InvalidPhone("is not a complete number of its country: check the digits")
    return Number(e164, None if region == _NON_GEOGRAPHIC else region, line_type)


def mask(e164: str) -> str:
    """What a log line may say of a number: its last two digits."""
    return f"..{e164[-2:]}"
