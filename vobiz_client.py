"""All of Vobiz: placing, ending and looking up calls, its callbacks, its signatures and its XML.

Source of the protocol facts: https://docs.vobiz.ai (call/make-call, call/hangup-call, cdr/get-cdr, errors,
concepts/hangup-causes, concepts/validating-callbacks, xml/*), as documented in 2026; docs/vobiz.md says what is
documented, what was seen in public captures and where the documentation contradicts itself.
"""

import base64
import hmac
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import httpx

import xml_builder
from call_script import CallScript
from callback_bodies import form_of, shown_word, texts_of
from carrier_request import Answer, ask, refusal, retry_after_seconds
from hangup_causes import ended_event
from voice_provider import (
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallState,
    CallUrls,
    Capabilities,
    MachineDetection,
    ProviderError,
    RawWebhook,
    SignaturePolicy,
    WebhookRejected,
)
from xml_builder import Voices

logger = logging.getLogger(__name__)

MAX_CALLS_LOOKED_THROUGH = 20

DIALECT = xml_builder.Dialect(
    pause="Wait",
    menu="Gather",
    menu_timeout_attribute="executionTimeout",
    menu_shortest_seconds=5,  # documented range: 5-60
    menu_keys_attribute="numDigits",
    menu_attributes=(("inputType", "dtmf"), ("finishOnKey", "none"), ("log", "false")),
    # Documented range between keys: 2-10, or auto, of which no page says how long it is.
    typing_attributes=(("digitEndTimeout", "5"), ("finishOnKey", "#")),
    # Documented: a language that lacks one of the two is spoken by the other.
    plain_voices=Voices("WOMAN", "MAN"),
    # Documented on xml/speak/ssml, which has examples of two only; they understand SSML.
    further_voices={"en-US": ("Polly.Salli",), "en-GB": ("Polly.Amy",)},
)

# Documented: the table of xml/speak. The first variety of a language is the one for its other regions.
LANGUAGES = (
    "en-US", "en-GB", "en-AU", "es-ES", "es-US", "fr-FR", "fr-CA", "pt-BR", "pt-PT", "de-DE", "it-IT", "nl-NL",
    "pl-PL", "ru-RU", "sv-SE", "da-DK",
)  # fmt: skip

# Documented: `Event` on callbacks; `StartApp` asks for the answer document, `Redirect` for a later one.
_STATES = {
    "Ring": CallState.RINGING,
    "StartApp": CallState.ANSWERED,
    "Redirect": CallState.ANSWERED,
    "Hangup": CallState.COMPLETED,
}

MACHINE = "MachineDetection"  # documented: the event that tells whether a machine answered
DETECTION_SECONDS = 5  # documented: 2-10, and what holds where it is not said

# The fields that are read of a callback; all others are ignored.
CALLBACK_SCHEMA = {
    "type": "object",
    "required": ["CallUUID"],
    "properties": {
        "CallUUID": {"type": "string", "examples": ["5a9fd4a0-3d4c-11ef-bef9-0242ac110005"]},
        "Event": {"type": "string", "enum": ["Ring", "StartApp", "Redirect", "Hangup", MACHINE]},
        "Machine": {"type": "string", "enum": ["true", "false"], "description": f"only of {MACHINE}"},
        "Digits": {"type": "string", "description": "keys pressed; empty or absent when there were none"},
        "CallStatus": {"type": "string"},
        "HangupCause": {"type": "string"},
        "HangupCauseCode": {"type": "string"},
        "Duration": {"type": "string", "description": "seconds from answer to hangup"},
    },
}

_NONCE = re.compile(r"[0-9]{20}")  # documented: 20 random digits
_CALL_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_DIGITS = re.compile(r"[0-9*#]{0,32}")


@dataclass(frozen=True, slots=True)
class VobizConfig:
    auth_id: str
    auth_token: str = field(repr=False)
    from_number: str = field(repr=False)
    api_url: str
    signature_policy: SignaturePolicy = SignaturePolicy.WHEN_PRESENT
    request_deadline_seconds: float = 10


class VobizClient:
    """Vobiz as a VoiceProvider."""

    capabilities = Capabilities(
        languages=LANGUAGES,
        detects_machines=True,
        verdict_seconds=DETECTION_SECONDS + 1,
        chooses_voice=True,
        voices=DIALECT.named_voices,
        plays_audio=True,
    )
    callback_schema: Mapping[str, Any] = CALLBACK_SCHEMA

    def __init__(self, config: VobizConfig, http: httpx.AsyncClient, name: str = "vobiz") -> None:
        self.name = name
        self.from_number = config.from_number
        self._config = config
        self._http = http
        # Documented: capital A and C and the slash at the end; a lower-case path answers 401.
        self._account_url = f"{config.api_url.rstrip('/')}/Account/{quote(config.auth_id, safe='')}"
        self._credentials = {"X-Auth-ID": config.auth_id, "X-Auth-Token": config.auth_token}
        self._has_warned = False
        self._mac = hmac.new(config.auth_token.encode(), digestmod=sha256)

    async def place_call(self, order: CallOrder) -> str:
        """Start a call; its `request_uuid`, which is the `CallUUID` of every later callback (documented).

        No idempotency key is documented, so a request is sent once only.
        Raises: CallRejected, ProviderThrottled, ProviderUnavailable, CallOutcomeUnknown.
        """
        answer = await self._request("POST", "/Call/", self._call_parameters(order))
        call_id = answer.body.get("request_uuid")
        if not isinstance(call_id, str) or not _CALL_ID.fullmatch(call_id):
            raise CallOutcomeUnknown("Vobiz accepted the call but named no request_uuid")
        return call_id

    def _call_parameters(self, order: CallOrder) -> dict[str, Any]:
        urls = order.urls
        return {
            "from": order.from_number,
            "to": order.to,
            "answer_url": urls.answer,
            "answer_method": "POST",  # optional on the page, required in the OpenAPI document
            "fallback_url": urls.fallback,
            "fallback_method": "POST",
            "ring_url": urls.ring,
            "ring_method": "POST",
            "hangup_url": urls.hangup,
            "hangup_method": "POST",
            # Two documented limits with the same effect, each missing from some page: send both.
            "ring_timeout": order.ring_timeout_seconds,
            "hangup_on_ring": order.ring_timeout_seconds,
            "time_limit": order.time_limit_seconds,
            **_machine_detection(order),
        }

    async def hang_up(self, call_id: str) -> bool:
        """End a call. Documented: 204. The answer for a finished call is not documented; 404 is taken for that."""
        return (await self._request("DELETE", f"/Call/{quote(call_id, safe='')}/")).status != 404

    async def look_up(self, call_id: str) -> CallEvent | None:
        """Where a call is: among the live ones, the queued ones, or in the records of ended calls (CDR)."""
        path = quote(call_id, safe="")
        live = await self._request("GET", f"/Call/{path}/?status=live")
        if live.status == 200 and live.body.get("call_status") == "in-progress":
            return CallEvent(call_id, CallState.ANSWERED)
        queued = await self._request("GET", f"/Call/{path}/?status=queued")
        if queued.status == 200 and queued.body.get("call_status") == "queued":
            return CallEvent(call_id, CallState.DIALING)
        record = await self._request("GET", f"/cdr/{path}")
        details = record.body.get("data")
        if record.status != 200 or not isinstance(details, dict):
            return None
        return ended_event(
            "Vobiz", call_id, texts_of(details), code_field="hangup_cause_code", talk_field="billsec"
        )

    async def find_call(self, to: str, placed_after: float) -> CallEvent | None:
        """A call whose create request got no answer: among the live ones, the queued ones, or in the CDR.

        No reference of ours travels with a call, so it is known by its callee; lists that are too long to be
        looked through tell nothing. Documented: list calls, and the CDR list with its filters.
        Raises: ProviderError, CallOutcomeUnknown where a list goes on after what was looked through.
        """
        is_whole = True
        for status, state in (("live", CallState.ANSWERED), ("queued", CallState.DIALING)):
            listed = await self._request("GET", f"/Call/?status={status}")
            call_ids = listed.body.get("calls")
            is_whole &= _is_whole(call_ids)
            for call_id in call_ids[:MAX_CALLS_LOOKED_THROUGH] if isinstance(call_ids, list) else []:
                if await self._is_call_to(str(call_id), to, status):
                    return CallEvent(str(call_id), state)
        records = await self._records(to, placed_after)
        if found := _record_of(records, to, placed_after):
            return found
        if not (is_whole and _is_whole(records)):
            raise CallOutcomeUnknown("Vobiz lists more calls than were looked through; ours may be among them")
        return None

    async def _is_call_to(self, call_id: str, to: str, status: str) -> bool:
        if not _CALL_ID.fullmatch(call_id):
            return False
        shown = await self._request("GET", f"/Call/{call_id}/?status={status}")
        return str(shown.body.get("to", "")).removeprefix("+") == to[1:]

    async def _records(self, to: str, placed_after: float) -> Any:
        """The first page of the records of calls to a number, from the day on."""
        placed_at = datetime.fromtimestamp(placed_after, UTC)
        dates = f"start_date={placed_at:%Y-%m-%d}&end_date={placed_at + timedelta(days=1):%Y-%m-%d}"
        listed = await self._request("GET", f"/cdr?to_number={to[1:]}&{dates}&per_page={MAX_CALLS_LOOKED_THROUGH}")
        return listed.body.get("data")

    def check_webhook(self, webhook: RawWebhook, *, must_be_signed: bool = False) -> str | None:
        """Check the V3 signature: base64(HMAC-SHA256(auth token, URL without query + "." + nonce)).

        Documented on concepts/validating-callbacks. Vobiz signs only where the account has credentials
        configured for the URL, hence the policy. V1, V2 and the parent account's signatures are never looked
        at: V2 of one nonce is V3 of another.
        Raises: WebhookRejected.
        """
        signature = webhook.headers.get("x-vobiz-signature-v3")
        nonce = webhook.headers.get("x-vobiz-signature-v3-nonce")
        if signature is None and nonce is None:
            if must_be_signed or self._config.signature_policy is SignaturePolicy.REQUIRED:
                raise WebhookRejected("Vobiz callback is not signed: configure credentials for its URL at Vobiz")
            self._warn_of_unsigned_callbacks()
            return None
        if not signature or not nonce or not _NONCE.fullmatch(nonce):
            raise WebhookRejected("Vobiz callback has half a V3 signature, or a nonce that is not 20 digits")
        given = signature.encode()
        if not any(hmac.compare_digest(sign(self._mac, url, nonce).encode(), given) for url in webhook.urls):
            raise WebhookRejected(
                "Vobiz callback has a wrong signature: check VOBIZ_AUTH_TOKEN and PUBLIC_URL "
                "(signed for another host?)"
            )
        return nonce

    def _warn_of_unsigned_callbacks(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Vobiz callbacks come unsigned; their call tokens let them in. Configure credentials for the "
                "callback URLs at Vobiz, then set WEBHOOK_SIGNATURES=required"
            )

    def parse_event(self, webhook: RawWebhook, expected: CallState | None) -> CallEvent:
        """Translate a callback: form fields, all strings; durations are whole seconds.

        Only `CallUUID` is required, unknown fields are ignored, as documentation and captures disagree on them. No
        `Event` is documented for the post of a Gather.
        Raises: WebhookRejected for a body that is no form, or names a field twice.
        """
        fields = form_of(webhook.body, "Vobiz")
        call_id = fields.get("CallUUID", "")
        if not _CALL_ID.fullmatch(call_id):
            raise WebhookRejected("Vobiz callback has no CallUUID", status=400)
        event = fields.get("Event")
        if event == MACHINE:
            return CallEvent(call_id, is_machine=fields.get("Machine") == "true")
        state = _STATES.get(event) if event else expected
        if state is None:
            logger.info("Vobiz reported an unknown event: %s", shown_word(event or ""))
        if state is CallState.COMPLETED:
            return ended_event("Vobiz", call_id, fields, code_field="HangupCauseCode", talk_field="Duration")
        digits = fields.get("Digits", "")
        if not _DIGITS.fullmatch(digits):
            raise WebhookRejected("Vobiz callback has Digits that are no keys", status=400)
        return CallEvent(call_id, state, digits=digits)

    def render(self, script: CallScript, urls: CallUrls) -> bytes:
        return xml_builder.render(script, DIALECT, urls)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Ask Vobiz once. Raises: ProviderError; a 404 comes back as an answer unless a call was to be placed."""
        answer = await ask(
            self._http,
            "Vobiz",
            self._config.request_deadline_seconds,
            method,
            self._account_url + path,
            json=body,
            headers=self._credentials,
        )
        if answer.is_success or (answer.status == 404 and method != "POST"):
            return answer
        raise _error_of(answer)


def _is_whole(listed: Any) -> bool:
    """Whether nothing can follow in a list: a full page may have another one after it."""
    return not isinstance(listed, list) or len(listed) < MAX_CALLS_LOOKED_THROUGH


def _record_of(records: Any, to: str, placed_after: float) -> CallEvent | None:
    """The first record of a call to a number that was begun in time."""
    placed_at = datetime.fromtimestamp(placed_after, UTC)
    for record in records if isinstance(records, list) else []:
        details = texts_of(record) if isinstance(record, dict) else {}
        call_id = details.get("uuid", "")
        # Times are ISO 8601 in UTC, which sort as text.
        is_later = details.get("start_time", "") >= f"{placed_at:%Y-%m-%dT%H:%M:%S}"
        if is_later and _CALL_ID.fullmatch(call_id) and details.get("destination_number") in (to, to[1:]):
            return ended_event("Vobiz", call_id, details, code_field="hangup_cause_code", talk_field="billsec")
    return None


def _machine_detection(order: CallOrder) -> dict[str, Any]:
    """Documented on call/machine-detection: with a URL of its own it does not hold up the call."""
    match order.machine_detection:
        case MachineDetection.HANGUP:
            return {"machine_detection": "hangup"}
        case MachineDetection.NO_CODE:
            return {
                "machine_detection": "true",
                "machine_detection_time": 1000 * DETECTION_SECONDS,
                "machine_detection_url": order.urls.ring,
                "machine_detection_method": "POST",
            }
        case MachineDetection.OFF:
            return {}


def sign(keyed_mac: hmac.HMAC, url_without_query: str, nonce: str) -> str:
    """The V3 signature of a callback URL, under a MAC that was keyed with the auth token."""
    mac = keyed_mac.copy()
    mac.update(f"{url_without_query}.{nonce}".encode())
    return base64.b64encode(mac.digest()).decode()


# Documented on call/make-call and errors: what each status means, and what the operator can do about it.
_REFUSALS = {
    400: "Vobiz found the request malformed",
    401: "Vobiz refused the credentials: check VOBIZ_AUTH_ID, VOBIZ_AUTH_TOKEN and VOBIZ_API_URL",
    402: "the Vobiz account has too little balance: top it up in the console",
    403: "Vobiz does not allow this call, or the account is not active: see the console",
    404: "Vobiz does not know this account or path: check VOBIZ_AUTH_ID and VOBIZ_API_URL",
    422: "Vobiz refused a value of the request: check FROM_NUMBER (a number rented from Vobiz)",
}


_ACCOUNT_CODES = frozenset({"ACCOUNT_INACTIVE"})  # documented, with a 403


def _error_of(answer: Answer) -> ProviderError:
    """The error for an answer that is no success. The carrier's own text is read for its code only."""
    code = _error_code(answer.body)
    # A failure that the API itself reports, in its documented envelope, placed no call unless it names one.
    is_own_error = bool(code) and not answer.body.get("request_uuid")
    if answer.status == 429:
        answer = replace(answer, retry_after=str(_retry_after(answer)))
    return refusal(
        answer,
        "Vobiz",
        _REFUSALS,
        code=code,
        is_own_error=is_own_error,
        is_about_account=code in _ACCOUNT_CODES,
    )


def _error_code(body: Mapping[str, Any]) -> str:
    """The machine-readable code, from any of the three envelopes: only the first one has any."""
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and re.fullmatch("[A-Z_]{1,40}", code) else ""


def _retry_after(answer: Answer) -> int:
    error = answer.body.get("error")
    details = error.get("details") if isinstance(error, dict) else None
    documented = details.get("retryAfter") if isinstance(details, dict) else None
    return retry_after_seconds(answer.retry_after, documented)
