"""All of Plivo's voice calls: placing, ending and looking them up, callbacks, V3 signatures and XML.

Source of the protocol facts: https://www.plivo.com/docs/voice (api/call, xml, concepts/signature-validation,
troubleshooting/hangup-causes) and, where named "SDK", the public package plivo 4.63.0, which the tests hold this
client against. docs/plivo.md says what is documented, what only the SDK shows, and what was not found.
"""

import hmac
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, quote, urlparse

import httpx

import xml_builder
from call_script import CallScript
from callback_bodies import MAX_FORM_FIELDS, form_of, shown_word, texts_of
from carrier_request import Answer, ask
from hangup_causes import ended_event
from plivo_account import REFUSALS, error_of, is_any_right
from voice_provider import (
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallState,
    CallUrls,
    Capabilities,
    EndReason,
    MachineDetection,
    RawWebhook,
    SignaturePolicy,
    WebhookRejected,
)
from xml_builder import Voices

logger = logging.getLogger(__name__)

MAX_CALLS_LOOKED_THROUGH = 20  # also the longest page of a list (documented)

# Documented: the languages of WOMAN and MAN. The first variety of a language is the one for its other regions.
BASIC_LANGUAGES = (
    "en-US", "en-GB", "en-AU", "es-ES", "es-US", "fr-FR", "fr-CA", "pt-BR", "pt-PT", "de-DE", "it-IT", "nl-NL",
    "pl-PL", "ru-RU", "sv-SE", "da-DK",
)  # fmt: skip

# Documented there: four of them have no man's voice, one no woman's. Not found: what asking for one would do.
BASIC_VOICES = {
    **dict.fromkeys(("da-DK", "fr-CA", "ru-RU", "sv-SE"), Voices("WOMAN")),
    "pt-PT": Voices(male="MAN"),
}

# Documented on voice/concepts/ssml: Amazon Polly's voices by language, a woman's and a man's where there are both,
# and only names without letters that XML tools could mangle (pt-BR has Vitória, too). They understand SSML.
POLLY_VOICES = {
    "en-US": Voices("Polly.Joanna", "Polly.Matthew"),
    "en-GB": Voices("Polly.Amy", "Polly.Brian"),
    "en-AU": Voices("Polly.Nicole", "Polly.Russell"),
    "en-IN": Voices("Polly.Raveena"),
    "es-ES": Voices("Polly.Conchita", "Polly.Enrique"),
    "es-US": Voices("Polly.Penelope", "Polly.Miguel"),
    "es-MX": Voices("Polly.Mia"),
    "fr-FR": Voices("Polly.Celine", "Polly.Mathieu"),
    "fr-CA": Voices("Polly.Chantal"),
    "pt-BR": Voices(male="Polly.Ricardo"),
    "pt-PT": Voices("Polly.Ines", "Polly.Cristiano"),
    "de-DE": Voices("Polly.Marlene", "Polly.Hans"),
    "it-IT": Voices("Polly.Carla", "Polly.Giorgio"),
    "nl-NL": Voices("Polly.Lotte", "Polly.Ruben"),
    "pl-PL": Voices("Polly.Ewa", "Polly.Jacek"),
    "ru-RU": Voices("Polly.Tatyana", "Polly.Maxim"),
    "sv-SE": Voices("Polly.Astrid"),
    "da-DK": Voices("Polly.Naja", "Polly.Mads"),
    "nb-NO": Voices("Polly.Liv"),
    "is-IS": Voices("Polly.Dora", "Polly.Karl"),
    "cy-GB": Voices("Polly.Gwyneth"),
    "ro-RO": Voices("Polly.Carmen"),
    "tr-TR": Voices("Polly.Filiz"),
    "hi-IN": Voices("Polly.Aditi"),
    "ja-JP": Voices("Polly.Mizuki", "Polly.Takumi"),
    "ko-KR": Voices("Polly.Seoyeon"),
    "cmn-CN": Voices("Polly.Zhiyu"),
}
# Documented there, too: further voices, which have to be asked for by name.
FURTHER_VOICES = {
    "en-US": ("Polly.Salli", "Polly.Kendra", "Polly.Kimberly", "Polly.Ivy", "Polly.Justin", "Polly.Joey"),
    "en-GB": ("Polly.Emma",),
    "en-IN": ("Polly.Aditi",),
    "es-US": ("Polly.Lupe-Standard",),
    "fr-FR": ("Polly.Lea",),
    "de-DE": ("Polly.Vicki",),
    "pl-PL": ("Polly.Maja", "Polly.Jan"),
}

# Documented: GetInput replaces the older GetDigits, also where only keys are wanted. With no key pressed the next
# element follows. `log` false keeps keys out of Plivo's records.
BASIC_DIALECT = xml_builder.Dialect(
    pause="Wait",
    menu="GetInput",
    menu_timeout_attribute="executionTimeout",
    menu_shortest_seconds=5,  # documented range: 5-60, counted from the end of the prompt
    menu_keys_attribute="numDigits",
    menu_attributes=(("inputType", "dtmf"), ("finishOnKey", "none"), ("log", "false")),
    # Documented range between keys: 2-10, or auto, of which no page says how long it is.
    typing_attributes=(("digitEndTimeout", "5"), ("finishOnKey", "#")),
    plain_voices=Voices("WOMAN", "MAN"),
    voices=BASIC_VOICES,
)
POLLY_DIALECT = replace(BASIC_DIALECT, voices=POLLY_VOICES, further_voices=FURTHER_VOICES)

# Documented: `Event` on callbacks. `StartApp` asks for the answer document.
_STATES = {
    "Ring": CallState.RINGING,
    "StartApp": CallState.ANSWERED,
    "Redirect": CallState.ANSWERED,
    "Hangup": CallState.COMPLETED,
}

# Documented for live calls: `in-progress`. Any other word is of a call that has not been answered yet.
_LIVE_STATES = {"in-progress": CallState.ANSWERED, "ringing": CallState.RINGING}

MACHINE = "MachineDetection"  # documented: the event that tells whether a machine answered
DETECTION_SECONDS = 5  # documented: 2-10, and what holds where it is not said

# The fields that are read of a callback; all others are ignored.
CALLBACK_SCHEMA = {
    "type": "object",
    "required": ["CallUUID"],
    "properties": {
        "CallUUID": {"type": "string", "format": "uuid", "examples": ["97ceeb52-58b6-11e1-86da-77300b68f8bb"]},
        "Event": {"type": "string", "enum": ["Ring", "StartApp", "Redirect", "Hangup", MACHINE]},
        "Machine": {"type": "string", "enum": ["true", "false"], "description": f"only of {MACHINE}"},
        "Digits": {"type": "string", "description": "keys pressed; empty or absent when there were none"},
        "CallStatus": {"type": "string"},
        "HangupCause": {"type": "string"},
        "HangupCauseCode": {"type": "string"},
        "Duration": {"type": "string", "description": "seconds from answer to hangup"},
        "machine": {"type": "string", "description": "on a hangup: a machine answered"},
    },
}

# In examples always 20 digits, in words only "a randomly generated string". The point that sets it off from the
# rest of what is signed must not be in it: else the end of a callback's fields could be moved into it.
_NONCE = re.compile(r"[A-Za-z0-9-]{1,64}")
# Of a fixed length, so that no part of a neighbouring field can be taken for a part of it (see `_fields_of`).
_CALL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9*#]{0,32}")
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class PlivoConfig:
    """`polly` speaks with a Polly voice for each language."""

    auth_id: str
    auth_token: str = field(repr=False)
    from_number: str = field(repr=False)
    api_url: str = "https://api.plivo.com/v1"
    signature_policy: SignaturePolicy = SignaturePolicy.REQUIRED
    polly: bool = True
    request_deadline_seconds: float = 10


class PlivoClient:
    """Plivo as a VoiceProvider."""

    callback_schema: Mapping[str, Any] = CALLBACK_SCHEMA

    def __init__(self, config: PlivoConfig, http: httpx.AsyncClient, name: str = "plivo") -> None:
        self.name = name
        self.from_number = config.from_number
        self.capabilities = Capabilities(
            languages=tuple(POLLY_VOICES) if config.polly else BASIC_LANGUAGES,
            detects_machines=True,
            verdict_seconds=DETECTION_SECONDS + 1,
            chooses_voice=True,
            voices=POLLY_DIALECT.named_voices if config.polly else (),
            plays_audio=True,
            callback_methods=("POST", "GET"),
        )
        self._config = config
        self._http = http
        self._dialect = POLLY_DIALECT if config.polly else BASIC_DIALECT
        # Documented: every path ends with a slash.
        self._account_url = f"{config.api_url.rstrip('/')}/Account/{quote(config.auth_id, safe='')}"
        self._credentials = httpx.BasicAuth(config.auth_id, config.auth_token)
        self._has_warned = False
        self._mac = hmac.new(config.auth_token.encode(), digestmod=sha256)

    async def place_call(self, order: CallOrder) -> str:
        """Start a call; its `request_uuid`, which is the `CallUUID` of every later callback (documented).

        There is no idempotency key, so a request is sent once; the SDK sends one up to three times after a 5xx,
        which can ring a phone three times. "call queued" instead of "call fired" is accepted, too: over the calls
        per second of the account, Plivo queues. Raises: ProviderError.
        """
        answer = await self._request("POST", "/Call/", body=self._call_parameters(order))
        call_id = answer.body.get("request_uuid")
        if not isinstance(call_id, str) or not _CALL_ID.fullmatch(call_id):
            raise CallOutcomeUnknown("Plivo accepted the call but named no request_uuid")
        return call_id

    def _call_parameters(self, order: CallOrder) -> dict[str, Any]:
        urls = order.urls
        return {
            "from": order.from_number,
            "to": order.to,
            "answer_url": _with_query(urls.answer),
            "answer_method": "POST",
            "fallback_url": _with_query(urls.fallback),
            "fallback_method": "POST",
            "ring_url": _with_query(urls.ring),
            "ring_method": "POST",
            "hangup_url": _with_query(urls.hangup),
            "hangup_method": "POST",
            "ring_timeout": order.ring_timeout_seconds,
            "time_limit": order.time_limit_seconds,
            **_machine_detection(order),
        }

    async def hang_up(self, call_id: str) -> bool:
        """End a call, also a queued one. Documented: 204; 404 for a call that is not known (any more)."""
        return (await self._request("DELETE", f"/Call/{quote(call_id, safe='')}/")).status != 404

    async def look_up(self, call_id: str) -> CallEvent | None:
        """Where a call is: among the live ones, the queued ones, or in the records of ended calls (CDR)."""
        path = f"/Call/{quote(call_id, safe='')}/"
        live = await self._request("GET", path, query={"status": "live"})
        status = live.body.get("call_status")
        if live.status == 200 and isinstance(status, str):
            return CallEvent(call_id, _LIVE_STATES.get(status, CallState.DIALING))
        queued = await self._request("GET", path, query={"status": "queued"})
        if queued.status == 200 and queued.body.get("call_status"):
            return CallEvent(call_id, CallState.DIALING)
        record = await self._request("GET", path)
        details = texts_of(record.body)
        if record.status != 200 or "call_uuid" not in details:
            return None
        return _event_of_record(call_id, details)

    async def find_call(self, to: str, placed_after: float) -> CallEvent | None:
        """A call whose create request got no answer: among the live ones, the queued ones, or in the records.

        No reference of ours travels with a call, so it is known by its callee. Only the first page of each list
        is looked through. Documented: list calls with `status`, `to_number` and `end_time__gte` (UTC).
        Raises: ProviderError, CallOutcomeUnknown where a list goes on after what was looked through.
        """
        is_whole = True
        for status in ("live", "queued"):
            listed = await self._request("GET", "/Call/", query={"status": status})
            is_whole &= _is_whole(listed.body.get("calls"))
            for call_id in _call_ids(listed.body.get("calls")):
                if await self._is_call_to(call_id, to, status):
                    return CallEvent(call_id, CallState.ANSWERED if status == "live" else CallState.DIALING)
        ended_after = f"{datetime.fromtimestamp(placed_after, UTC):%Y-%m-%d %H:%M:%S}"
        for number in (to[1:], to):  # records show numbers with and without their plus sign
            query = {"to_number": number, "end_time__gte": ended_after, "limit": str(MAX_CALLS_LOOKED_THROUGH)}
            listed = await self._request("GET", "/Call/", query=query)
            if found := _record_of(listed.body.get("objects"), to, placed_after):
                return found
            is_whole &= _is_whole(listed.body.get("objects"))
        if not is_whole:
            raise CallOutcomeUnknown("Plivo lists more calls than were looked through; ours may be among them")
        return None

    async def _is_call_to(self, call_id: str, to: str, status: str) -> bool:
        shown = await self._request("GET", f"/Call/{call_id}/", query={"status": status})
        return str(shown.body.get("to", "")).removeprefix("+") == to[1:]

    def check_webhook(self, webhook: RawWebhook, *, must_be_signed: bool = False) -> str | None:
        """Check the V3 signature, by the SDK's reading of it (see `signed_message`).

        `X-Plivo-Signature-V3` is a list where the account has several tokens: any of them may match (documented).
        V2 is never looked at, as it does not cover the fields; nor is the main account's signature (Ma).
        Raises: WebhookRejected.
        """
        signature = webhook.headers.get("x-plivo-signature-v3")
        nonce = webhook.headers.get("x-plivo-signature-v3-nonce")
        if signature is None and nonce is None:
            if must_be_signed or self._config.signature_policy is SignaturePolicy.REQUIRED:
                raise WebhookRejected("Plivo callback is not signed: did something remove its X-Plivo headers?")
            self._warn_of_unsigned_callbacks()
            return None
        if not signature or not nonce or not _NONCE.fullmatch(nonce):
            raise WebhookRejected("Plivo callback has half a V3 signature, or an odd nonce")
        if not self._is_signed(webhook, signature.encode().split(b","), nonce):
            raise WebhookRejected(
                "Plivo callback has a wrong signature: check PLIVO_AUTH_TOKEN and PUBLIC_URL "
                "(signed for another host?)"
            )
        return nonce

    def _is_signed(self, webhook: RawWebhook, given: list[bytes], nonce: str) -> bool:
        fields = {} if webhook.method == "GET" else form_of(webhook.body, "Plivo")
        messages = (signed_message(f"{url}?{webhook.query}", fields, nonce) for url in webhook.urls)
        return is_any_right(self._mac, messages, given)

    def _warn_of_unsigned_callbacks(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Plivo callbacks come unsigned; their call tokens let them in. Plivo signs all of its callbacks: "
                "set WEBHOOK_SIGNATURES=required"
            )

    def parse_event(self, webhook: RawWebhook, expected: CallState | None) -> CallEvent:
        """Translate a callback: fields of a form, or of the query of a GET; durations are whole seconds.

        Only `CallUUID` is required. Raises: WebhookRejected for fields that could be read in two ways.
        """
        fields = _fields_of(webhook)
        call_id = fields.get("CallUUID", "")
        if not _CALL_ID.fullmatch(call_id):
            raise WebhookRejected("Plivo callback has no CallUUID", status=400)
        if fields.get("Event") == MACHINE:
            return CallEvent(call_id, is_machine=_is_machine(fields))
        state = _state_of(fields, expected)
        if state is CallState.COMPLETED:
            return _end_of_call(call_id, fields)
        digits = fields.get("Digits", "")
        if not _DIGITS.fullmatch(digits):
            raise WebhookRejected("Plivo callback has Digits that are no keys", status=400)
        return CallEvent(call_id, state, digits=digits)

    def render(self, script: CallScript, urls: CallUrls) -> bytes:
        return xml_builder.render(script, self._dialect, urls)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask Plivo once. Raises: ProviderError; a 404 comes back as an answer unless a call was to be placed."""
        answer = await ask(
            self._http,
            "Plivo",
            self._config.request_deadline_seconds,
            method,
            self._account_url + path,
            json=body,
            params=query,
            auth=self._credentials,
        )
        if answer.is_success or (answer.status == 404 and method != "POST"):
            return answer
        raise error_of(answer, _REFUSALS, "request_uuid")


def _machine_detection(order: CallOrder) -> dict[str, Any]:
    """Documented on call/machine-detection: with a URL of its own it does not hold up the call."""
    match order.machine_detection:
        case MachineDetection.HANGUP:
            return {"machine_detection": "hangup"}
        case MachineDetection.NO_CODE:
            return {
                "machine_detection": "true",
                "machine_detection_time": 1000 * DETECTION_SECONDS,
                "machine_detection_url": _with_query(order.urls.ring),
                "machine_detection_method": "POST",
            }
        case MachineDetection.OFF:
            return {}


def signed_message(url: str, fields: Mapping[str, str], nonce: str) -> bytes:
    """What a V3 signature is made over. Raises: WebhookRejected for a URL that the SDK cannot read either.

    SDK, utils/signature_v3: the URL without query; `?`, the query decoded and sorted; `.`, the fields of a POST
    sorted and joined without separators; `.`, the nonce. Without a query the point before the fields is missing,
    and without fields the question mark, too, where there is no query. The documentation's words differ: the URL
    as it was sent, and a point always. Both agree where the query is one plain parameter, which is why every URL
    that Plivo is told has one (`_with_query`), and why only the SDK's reading is taken for those that have none.
    """
    parts = urlparse(url)
    query = _sorted_query(parts.query)
    text = parts._replace(params="", query="", fragment="").geturl()
    if query or fields:
        text += "?" + query
    if query and fields:
        text += "."
    text += "".join(name + value for name, value in sorted(fields.items()))
    return f"{text}.{nonce}".encode()


def _sorted_query(query: str) -> str:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        raise WebhookRejected("Plivo callback has too long a query", status=400) from None
    text = "&".join(f"{name}={value}" for name, value in sorted(pairs))
    if not text.isascii():
        raise WebhookRejected("Plivo callback has a query that is not ASCII", status=400)
    return text


def _with_query(url: str) -> str:
    """The URL with one plain parameter, with which there is only one reading of what a signature covers."""
    return url if "?" in url else f"{url}?k=1"


def _fields_of(webhook: RawWebhook) -> dict[str, str]:
    """The fields of a callback, read so that one signature can stand for one set of them only.

    V3 joins names and values without separators: `Digits=1&Event=Redirect` and `Digits=1EventRedirect` have the
    same signature, as have a query and a first field whose name holds it. So names must be names here, and the
    values that are read are checked in full, by those who read them.
    """
    fields = form_of(webhook.query.encode() if webhook.method == "GET" else webhook.body, "Plivo")
    if not all(map(_FIELD_NAME.fullmatch, fields)):
        raise WebhookRejected("Plivo callback has a field with an odd name", status=400)
    return fields


def _state_of(fields: Mapping[str, str], expected: CallState | None) -> CallState | None:
    """What happened. Which `Event` comes with keys that were pressed is not documented: then it may be any."""
    event = fields.get("Event")
    if not event:
        return expected
    state = _STATES.get(event)
    if state is None and "Digits" in fields:
        return expected
    if state is None:
        logger.info("Plivo reported an unknown event: %s", shown_word(event or ""))
    return state


def _is_machine(fields: Mapping[str, str]) -> bool:
    """Raises: WebhookRejected for what is no verdict (see `_fields_of`)."""
    verdict = fields.get("Machine")
    if verdict not in ("true", "false"):
        raise WebhookRejected("Plivo callback has a Machine that is neither true nor false", status=400)
    return verdict == "true"


def _end_of_call(call_id: str, fields: Mapping[str, str]) -> CallEvent:
    event = ended_event("Plivo", call_id, fields, code_field="HangupCauseCode", talk_field="Duration")
    # Older documentation: a call that machine detection ended has `machine`; cause codes came later.
    if "machine" in fields and not fields.get("HangupCauseCode"):
        return replace(event, end_reason=EndReason.VOICEMAIL)
    return event


def _event_of_record(call_id: str, details: Mapping[str, str]) -> CallEvent:
    """What a record (CDR) says. One without an end is of a call between the lists of queued and live calls."""
    if not details.get("end_time") and not details.get("hangup_cause_code"):
        return CallEvent(call_id, CallState.DIALING)
    return ended_event("Plivo", call_id, details, code_field="hangup_cause_code", talk_field="call_duration")


def _is_whole(listed: Any) -> bool:
    """Whether nothing can follow in a list: a full page may have another one after it."""
    return not isinstance(listed, list) or len(listed) < MAX_CALLS_LOOKED_THROUGH


def _call_ids(listed: Any) -> Iterable[str]:
    """The well-formed ids of a list of calls."""
    for call_id in listed[:MAX_CALLS_LOOKED_THROUGH] if isinstance(listed, list) else []:
        if isinstance(call_id, str) and _CALL_ID.fullmatch(call_id):
            yield call_id


def _record_of(listed: Any, to: str, placed_after: float) -> CallEvent | None:
    """The first record of a call to a number that was begun in time."""
    for record in listed if isinstance(listed, list) else []:
        details = texts_of(record) if isinstance(record, dict) else {}
        call_id = details.get("call_uuid", "")
        is_to = details.get("to_number", "").removeprefix("+") == to[1:]
        if is_to and _CALL_ID.fullmatch(call_id) and _is_later(details.get("initiation_time", ""), placed_after):
            return _event_of_record(call_id, details)
    return None


def _is_later(time: str, placed_after: float) -> bool:
    """Whether a record's time is later; times without a zone are in the console's, and the list's filter decides.

    Documented: `2022-10-12 21:57:47+05:30`, on some pages without the zone.
    """
    try:
        begun = datetime.fromisoformat(time)
    except ValueError:
        return False
    return begun.tzinfo is None or begun.timestamp() >= int(placed_after)


_REFUSALS = {**REFUSALS, 400: "Plivo found a parameter missing or invalid: check FROM_NUMBER and PUBLIC_URL"}
