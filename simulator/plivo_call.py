"""A call of the simulated Plivo: its documents, callbacks and signatures.

Documented on https://www.plivo.com/docs/voice (xml, concepts/ssml, concepts/callback-configurations); signatures
as the public package plivo 4.63.0 checks them. Nothing here is taken from our own client.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, NamedTuple
from urllib.parse import parse_qsl, urldefrag, urlsplit

import httpx

from simulator import answer_xml
from simulator.answer_xml import (
    BOOLEAN,
    METHOD,
    SHARED_ELEMENTS,
    SPEAK_LANGUAGES,
    BadXml,
    Content,
    Dialect,
    Document,
    Element,
    ElementRules,
    is_anything,
    is_seconds_or_auto,
    is_url,
    one_of,
    whole_number,
)
from simulator.call import Ending
from simulator.callbacks import CallbackRules, CallbackSender, Failure, Purpose, Signer, Tries, unsigned
from simulator.clock import SimulatorClock
from simulator.hangup_causes import Cause, hangup_causes
from simulator.xml_call import KeyTimeout, XmlCall

LONGEST_CALLBACK_SECONDS = 55.0  # documented: the longest `tt`
CAUSES = hangup_causes("Plivo")

# Documented: voice/concepts/ssml.
POLLY_VOICES: Mapping[str, frozenset[str]] = {
    language: frozenset(names.split())
    for language, names in {
        "en-AU": "Nicole Russell",
        "pt-BR": "Vitória Ricardo",
        "fr-CA": "Chantal",
        "da-DK": "Naja Mads",
        "nl-NL": "Lotte Ruben",
        "fr-FR": "Lea Celine Mathieu",
        "de-DE": "Vicki Marlene Hans",
        "hi-IN": "Aditi",
        "is-IS": "Dora Karl",
        "en-IN": "Raveena Aditi",
        "it-IT": "Carla Giorgio",
        "ja-JP": "Mizuki Takumi",
        "ko-KR": "Seoyeon",
        "cmn-CN": "Zhiyu",
        "nb-NO": "Liv",
        "pl-PL": "Ewa Maja Jacek Jan",
        "pt-PT": "Ines Cristiano",
        "ro-RO": "Carmen",
        "ru-RU": "Tatyana Maxim",
        "es-ES": "Conchita Enrique",
        "es-MX": "Mia",
        "es-US": "Penelope Lupe-Standard Miguel",
        "sv-SE": "Astrid",
        "tr-TR": "Filiz",
        "en-GB": "Amy Emma Brian",
        "en-US": "Joanna Salli Kendra Kimberly Ivy Matthew Justin Joey",
        "cy-GB": "Gwyneth",
        "en-GB-WLS": "Geraint",
    }.items()
}

_FINISH_KEY = re.compile(r"[0-9*#]?|none")
_ASKED_FOR_KEYS = {
    "action": is_url,
    "method": METHOD,
    "finishOnKey": lambda value: _FINISH_KEY.fullmatch(value) is not None,
    "retries": whole_number(1),
    "redirect": BOOLEAN,
    "log": BOOLEAN,
}

# An empty `Response` needs no rule: the call ends with the end of its document (documented for Plivo).
DIALECT: Dialect = {
    **SHARED_ELEMENTS,
    "Response": ElementRules(children=frozenset({*SHARED_ELEMENTS, "GetInput", "GetDigits"})),
    "Speak": ElementRules(
        {"voice": is_anything, "language": is_anything, "loop": whole_number(0)}, content=Content.SPEECH
    ),
    "GetInput": ElementRules(
        {
            **_ASKED_FOR_KEYS,
            "inputType": one_of("dtmf", "speech", "dtmf speech"),
            "executionTimeout": whole_number(5, 60),
            "digitEndTimeout": is_seconds_or_auto,
            "speechEndTimeout": is_seconds_or_auto,
            "numDigits": whole_number(1, 32),
            "speechModel": one_of("default", "command_and_search", "phone_call"),
            "hints": is_anything,
            "language": is_anything,
            "interimSpeechResultsCallback": is_url,
            "interimSpeechResultsCallbackMethod": METHOD,
            "profanityFilter": BOOLEAN,
        },
        required=("action",),
        children=frozenset({"Speak", "Play"}),
    ),
    "GetDigits": ElementRules(
        {
            **_ASKED_FOR_KEYS,
            "timeout": whole_number(1),
            "digitTimeout": whole_number(1),
            "numDigits": whole_number(1),
            "playBeep": BOOLEAN,
            "validDigits": lambda value: re.fullmatch(r"[0-9*#]+", value) is not None,
            "invalidDigitsSound": is_url,
        },
        required=("action",),
        children=frozenset({"Speak", "Play"}),
    ),
}


def read(body: bytes) -> Document:
    """The elements of an answer document. Raises: BadXml."""
    document = answer_xml.read(body, DIALECT)
    _check_voices(document)
    return document


def _check_voices(elements: Iterable[Element]) -> None:
    """A voice speaks its own languages only. Raises: BadXml."""
    for element in elements:
        _check_voices(element.children)
        if element.name != "Speak":
            continue
        voice = element.attributes.get("voice", "WOMAN")
        language = element.attributes.get("language", "en-US")
        is_polly = voice.removeprefix("Polly.") in POLLY_VOICES.get(language, ()) and voice.startswith("Polly.")
        if not is_polly and (voice not in ("WOMAN", "MAN") or language not in SPEAK_LANGUAGES):
            raise BadXml(f"the voice {voice[:20]!r} does not speak {language[:20]!r}")


@dataclass(eq=False)
class PlivoCall(XmlCall):
    """`queue_seconds`: how long the call waits for its turn, as its account starts so many a second only."""

    causes: ClassVar[Mapping[str, Cause]] = CAUSES
    key_timeouts: ClassVar[Mapping[str, KeyTimeout]] = {
        "GetInput": KeyTimeout("executionTimeout", 15, most_keys=32),
        "GetDigits": KeyTimeout("timeout", 5, "digitTimeout", most_keys=99),  # documented: 2 s between keys
    }

    queue_seconds: float = 0.0

    async def _ring(self) -> None:
        await self.clock.sleep(self.queue_seconds)
        await super()._ring()

    def fields(self, event: str, call_status: str) -> dict[str, str]:
        fields = super().fields(event, call_status)
        if event in ("StartApp", "Hangup"):
            fields["stir_verification"] = "Not Applicable"
        return fields

    def key_fields(self, element: Element, keys: str) -> dict[str, str]:
        """Documented: GetDigits tells the digits only. Inferred: `Event`, which no page names here."""
        if element.name == "GetDigits":
            return {**self.fields("Redirect", "in-progress"), "Digits": keys}
        return {**super().key_fields(element, keys), "Event": "Redirect"}

    def hangup_fields(self, cause: Cause) -> dict[str, str]:
        """Seen in third-party code: the parent account. Documented on an older page: `machine`."""
        fields = {**super().hangup_fields(cause), "ParentAuthID": self.account_id}
        return {**fields, "machine": "machine_detection"} if self.ending == Ending.MACHINE else fields


@dataclass(frozen=True, slots=True, repr=False)
class SigningTokens:
    """What an account signs with: its auth token, others that are active, that of the main account above it."""

    own: str
    main: str
    others: tuple[str, ...] = ()


def callback_sender(
    http: httpx.AsyncClient, clock: SimulatorClock, tokens: SigningTokens | None
) -> CallbackSender:
    """Callbacks as Plivo makes them, signed unless there are no tokens."""
    sign = unsigned if tokens is None else v3_signer(tokens)
    return CallbackSender(http, clock, CallbackRules("Plivo", read, tries_for, sign))


# How often, and for how long


class Knob(NamedTuple):
    lowest: int
    highest: int
    default: int


# Documented on voice/concepts/callback-configurations: knobs in the fragment of a callback URL, in milliseconds
# but for `rc`, with their ranges and defaults.
_KNOBS = {
    "ct": Knob(100, 10_000, 2000),
    "rt": Knob(100, 40_000, 40_000),
    "tt": Knob(100, 55_000, 55_000),
    "rc": Knob(0, 5, 1),
}
_REPEAT_ON = {
    "4xx": frozenset({Failure.CLIENT_ERROR}),
    "5xx": frozenset({Failure.SERVER_ERROR}),
    "ct": frozenset({Failure.CONNECT}),
    "rt": frozenset({Failure.TIMEOUT}),
    "all": frozenset(Failure),
}


def tries_for(url: str, _purpose: Purpose) -> Tries:
    """How a callback to a URL is tried, by the knobs in its fragment. Not documented: any pause between tries."""
    given = dict(parse_qsl(urldefrag(url).fragment))
    connect, read_, total, repeats = (_knob(given, name) for name in _KNOBS)
    repeat_on: frozenset[Failure] = frozenset()
    for word in given.get("rp", "ct,rt").split(","):
        repeat_on |= _REPEAT_ON.get(word, frozenset())
    return Tries(min(connect + read_, total) / 1000, (0.0,) * repeats, repeat_on)


def _knob(given: Mapping[str, str], name: str) -> int:
    """The value of a knob; one that is out of its range, or no number, is not looked at (inferred)."""
    knob, text = _KNOBS[name], given.get(name, "")
    is_usable = re.fullmatch("[0-9]{1,6}", text) is not None and knob.lowest <= int(text) <= knob.highest
    return int(text) if is_usable else knob.default


# Signatures


def v3_signer(tokens: SigningTokens) -> Signer:
    """V3 of each active token, as a list (documented), and of the main account's."""

    def sign(method: str, url: str, fields: Mapping[str, str]) -> dict[str, str]:
        nonce = new_nonce()
        message = f"{_signed_text(method, url, fields)}.{nonce}"
        return {
            "X-Plivo-Signature-V3": ",".join(
                hmac_base64(token, message) for token in (*tokens.others, tokens.own)
            ),
            "X-Plivo-Signature-Ma-V3": hmac_base64(tokens.main, message),
            "X-Plivo-Signature-V3-Nonce": nonce,
        }

    return sign


def v2_signer(tokens: SigningTokens) -> Signer:
    """V2, of reports on messages: over the URL without its query and a nonce, not over the fields."""

    def sign(_method: str, url: str, _fields: Mapping[str, str]) -> dict[str, str]:
        nonce = new_nonce()
        message = _base_of(url) + nonce
        return {
            "X-Plivo-Signature-V2": hmac_base64(tokens.own, message),
            "X-Plivo-Signature-Ma-V2": hmac_base64(tokens.main, message),
            "X-Plivo-Signature-V2-Nonce": nonce,
        }

    return sign


def _signed_text(method: str, url: str, fields: Mapping[str, str]) -> str:
    """SDK: a GET has all its parameters in the query; a POST has its fields behind it."""
    query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    if method == "GET":
        query += fields.items()
    joined = "&".join(f"{name}={value}" for name, value in sorted(query))
    base = _base_of(url)
    if method == "GET" or not fields:
        return f"{base}?{joined}" if joined else base
    posted = "".join(name + value for name, value in sorted(fields.items()))
    return f"{base}?{joined}.{posted}" if joined else f"{base}?{posted}"


def _base_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def new_nonce() -> str:
    return f"{secrets.randbelow(10**20):020d}"


def hmac_base64(key: str, message: str) -> str:
    return base64.b64encode(hmac.digest(key.encode(), message.encode(), sha256)).decode()
