"""A call of the simulated Vobiz: its documents, callbacks and signatures, as documented on https://docs.vobiz.ai."""

import base64
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar
from urllib.parse import urlsplit

import httpx

from simulator import answer_xml
from simulator.answer_xml import (
    BOOLEAN,
    METHOD,
    SHARED_ELEMENTS,
    Dialect,
    Document,
    ElementRules,
    is_anything,
    is_seconds_or_auto,
    is_url,
    one_of,
    whole_number,
)
from simulator.callbacks import CallbackRules, CallbackSender, Purpose, Signer, Tries, unsigned
from simulator.clock import SimulatorClock
from simulator.hangup_causes import Cause, hangup_causes
from simulator.xml_call import KeyTimeout, XmlCall

DOCUMENT_SECONDS = 10.0  # documented: "within 10 s" (applications)
NOTICE_SECONDS = 3.0  # documented: 200 within 3 s
PAUSES_SECONDS = (1.0, 2.0)  # documented: up to three tries, with exponential back-off; inferred: how long
CAUSES = hangup_causes("Vobiz")

DIALECT: Dialect = {
    **SHARED_ELEMENTS,
    "Response": ElementRules(children=frozenset({*SHARED_ELEMENTS, "Gather"})),
    "Gather": ElementRules(
        {
            "action": is_url,
            "method": METHOD,
            "inputType": one_of("dtmf", "speech", "dtmf speech"),
            "executionTimeout": whole_number(5, 60),
            "digitEndTimeout": is_seconds_or_auto,
            "speechEndTimeout": is_seconds_or_auto,
            "finishOnKey": lambda value: re.fullmatch(r"[0-9*#]?|none", value) is not None,
            "numDigits": whole_number(1, 32),
            "speechModel": one_of("default", "command_and_search", "phone_call"),
            "hints": is_anything,
            "language": is_anything,
            "interimSpeechResultsCallback": is_url,
            "interimSpeechResultsCallbackMethod": METHOD,
            "log": BOOLEAN,
            "redirect": BOOLEAN,
            "profanityFilter": BOOLEAN,
        },
        required=("action",),
        children=frozenset({"Speak", "Play"}),
    ),
}


def read(body: bytes) -> Document:
    """The elements of an answer document. Raises: BadXml."""
    return answer_xml.read(body, DIALECT)


@dataclass(eq=False)
class VobizCall(XmlCall):
    causes: ClassVar[Mapping[str, Cause]] = CAUSES
    key_timeouts: ClassVar[Mapping[str, KeyTimeout]] = {"Gather": KeyTimeout("executionTimeout", 15, most_keys=32)}

    def fields(self, event: str, call_status: str) -> dict[str, str]:
        fields = {**super().fields(event, call_status), "ParentAuthID": self.account_id}
        if event in ("StartApp", "Hangup"):
            fields["STIRVerification"] = "Not Applicable"
        return fields

    def hangup_fields(self, cause: Cause) -> dict[str, str]:
        return {**super().hangup_fields(cause), "CountryCode": "", "RouteType": "Not_Domestic"}


def callback_sender(http: httpx.AsyncClient, clock: SimulatorClock, auth_token: str | None) -> CallbackSender:
    """Callbacks as Vobiz makes them, signed with `auth_token` unless that is None."""
    sign = unsigned if auth_token is None else _signer(auth_token)
    return CallbackSender(http, clock, CallbackRules("Vobiz", read, _tries, sign))


def _tries(_url: str, purpose: Purpose) -> Tries:
    seconds = DOCUMENT_SECONDS if purpose is Purpose.DOCUMENT else NOTICE_SECONDS
    return Tries(seconds, PAUSES_SECONDS)


def _signer(auth_token: str) -> Signer:
    """Signatures V3 and V2, as documented: over the URL without its query and a nonce, not over the fields."""

    def sign(_method: str, url: str, _fields: Mapping[str, str]) -> dict[str, str]:
        parts = urlsplit(url)
        base = f"{parts.scheme}://{parts.netloc}{parts.path}"
        nonce_v2, nonce_v3 = _nonce(), _nonce()
        return {
            "X-Vobiz-Signature-V2": _hmac_base64(auth_token, base + nonce_v2),
            "X-Vobiz-Signature-V2-Nonce": nonce_v2,
            "X-Vobiz-Signature-V3": _hmac_base64(auth_token, f"{base}.{nonce_v3}"),
            "X-Vobiz-Signature-V3-Nonce": nonce_v3,
        }

    return sign


def _nonce() -> str:
    return f"{secrets.randbelow(10**20):020d}"


def _hmac_base64(key: str, message: str) -> str:
    return base64.b64encode(hmac.digest(key.encode(), message.encode(), sha256)).decode()
