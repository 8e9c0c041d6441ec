"""All of CM.com's calls: its voice app "OTP" is told everything up front and posts once, when the call has ended.

Source of the protocol facts: https://developers.cm.com/voice (reference/post_voiceapi-v2-otp, docs/the-apps,
reference/callbacks, docs/audio-and-voices), as documented in 2026, and CM.com's own .NET SDK,
https://github.com/cmdotcom/talk-sdk-dotnet, for the names of fields; docs/cm.md says which is which, and what was
not found.
"""

import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

import httpx

from call_script import NORMAL_RATE, CallScript, Speak, Utterance, WholeCall
from callback_bodies import json_objects_of
from carrier_request import Answer, ask, refusal
from voice_provider import (
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    Capabilities,
    EndReason,
    ProviderError,
    ProviderUnavailable,
    RawWebhook,
    WebhookRejected,
)

logger = logging.getLogger(__name__)

# Documented: de-DE, en-US and nl-NL, with a reference to a longer list. The SDK's default is en-GB; the others are
# the locales of spoken codes in CM.com's SDK for its messages. The first variety is the one for other regions.
LANGUAGES = (
    "en-US", "en-GB", "en-AU", "en-IN", "de-DE", "nl-NL", "es-ES", "fr-FR", "fr-CA", "it-IT",
)  # fmt: skip

MAX_REPLAYS = 3
MAX_REFERENCE_CHARACTERS = 64
MAX_PROMPT_CHARACTERS = 750  # documented for the prompts of the app next to this one
SHORTEST_RING_SECONDS = 10
LONGEST_RING_SECONDS = 60

# The SDK sends its enums as numbers, other integrations as these words; whether case matters was not found.
_CODE_TYPES = {"default": "Default", "tts": "TTS", "custom": "Custom"}
_GENDERS = {"female": "Female", "male": "Male"}

# Documented: the result codes. None is an ordinary end, which does not say what was heard: a voicemail's, too.
_ANSWERED = "10"
_END_REASONS: dict[str, EndReason | None] = {
    "9": EndReason.NO_ANSWER,
    _ANSWERED: None,
    "11": EndReason.FAILED,
    "12": EndReason.REJECTED,
}
# Inferred: a busy line has no result code of its own, but a SIP status (RFC 3261).
_END_REASONS_BY_SIP = {"486": EndReason.BUSY, "600": EndReason.BUSY, "603": EndReason.REJECTED}

# The fields that are read of a callback; all others are ignored.
CALLBACK_SCHEMA = {
    "type": "object",
    "required": ["result"],
    "properties": {
        "type": {"type": "string"},
        "call-id": {"type": "string", "examples": ["4f6c1d7e-1111-4222-8333-944444444444"]},
        "result": {
            "type": "object",
            "required": ["code"],
            "properties": {
                "code": {"type": "integer", "examples": [9, 10, 11, 12]},
                "description": {"type": "string"},
                "sip-disconnect-code": {"type": "string"},
            },
        },
    },
}

_CALL_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class CmConfig:
    """`audio_directory`, relative to the account's files, holds recorded prompts: `<locale>/intro.wav`,
    `code.wav`, `replay.wav` and `outro.wav`. `voice_gender` is female or male, `voice_volume` from -4 to 4,
    `code_type` default (CM.com's recordings), tts, or custom (the account's own)."""

    product_token: str = field(repr=False)
    from_number: str = field(repr=False)
    api_url: str = "https://api.cm.com"
    voice_gender: str = "female"
    voice_number: int = 1
    voice_volume: int = 0
    voice_premium: bool = False
    code_type: str = "tts"
    audio_directory: str = ""
    languages: tuple[str, ...] = LANGUAGES
    request_deadline_seconds: float = 10


class CmClient:
    """CM.com as a VoiceProvider."""

    callback_schema: Mapping[str, Any] = CALLBACK_SCHEMA

    def __init__(self, config: CmConfig, http: httpx.AsyncClient, name: str = "cm") -> None:
        self.name = name
        self.from_number = config.from_number
        self.capabilities = Capabilities(
            languages=config.languages,
            fetches_script=False,
            reports_progress=False,
            silence_is_proof=False,
            can_be_asked=False,
            hangs_up=False,
            hides_caller_id=True,
            limits_call=False,
            chooses_voice=True,
            proves_speaking=False,
            asks_for_keys=False,
            takes_codes=False,
            tells_alerts=False,
            max_replays=MAX_REPLAYS,
        )
        self._config = config
        self._http = http
        self._otp_url = f"{config.api_url.rstrip('/')}/voiceapi/v2/OTP"

    async def place_call(self, order: CallOrder) -> str:
        """Start a call; its `call-id`, which the callback repeats.

        No idempotency key was found, so a request is sent once only.
        Raises: CallRejected, ProviderThrottled, ProviderUnavailable, CallOutcomeUnknown.
        """
        answer = await ask(
            self._http,
            "CM.com",
            self._config.request_deadline_seconds,
            "POST",
            self._otp_url,
            json=self._instruction(order),
            headers={"X-CM-PRODUCTTOKEN": self._config.product_token},
        )
        if not answer.is_success:
            raise _error_of(answer)
        return _call_id_of_queued(answer, order.to)

    def _instruction(self, order: CallOrder) -> dict[str, Any]:
        script = order.script
        if script is None:
            raise ValueError("CM.com is told what to say when the call is placed, and the order has no script")
        config = self._config
        is_custom = config.code_type == "custom"
        return {
            **({"instruction-id": order.reference[:MAX_REFERENCE_CHARACTERS]} if order.reference else {}),
            "callee": order.to,
            "caller": order.from_number,
            "anonymous": order.hide_caller_id,
            "callback-url": order.urls.events,
            "max-ringing-timeout": max(
                SHORTEST_RING_SECONDS, min(order.ring_timeout_seconds, LONGEST_RING_SECONDS)
            ),
            **self._prompts(script),
            # Documented: the files of single characters have lower-case names.
            "code": script.code.lower() if is_custom else script.code,
            "code-type": _CODE_TYPES[config.code_type],
            "max-replays": min(script.manner.max_replays, MAX_REPLAYS),
            "auto-replay": script.manner.auto_replay,
            "voice": {
                "language": script.manner.language,
                "gender": _GENDERS.get(_voice_in(script.spelled[0]), _GENDERS[config.voice_gender]),
                "number": config.voice_number,
                "volume": config.voice_volume,
                "premium": config.voice_premium,
            },
        }

    def _prompts(self, script: WholeCall) -> dict[str, str]:
        """What is said around the code, each with its type: the server's defaults for those were not found.

        Nobody is asked to press a key where none is waited for.
        """
        said = {"intro": script.greeting, "code": script.code_prompt, "outro": script.goodbye}
        if script.manner.max_replays and not script.manner.auto_replay:
            said["replay"] = script.replay_prompt
        directory = self._config.audio_directory.strip("/")
        prompts: dict[str, str] = {}
        for name, utterance in said.items():
            file = f"{directory}/{script.manner.language}/{name}.wav"
            kind, content = ("File", file) if directory else _prompt_of(utterance)
            prompts |= {f"{name}-prompt": content, f"{name}-prompt-type": kind}
        return prompts

    async def hang_up(self, call_id: str) -> bool:
        """Raises: ProviderUnavailable, as no way to end a call was found."""
        raise ProviderUnavailable("CM.com has no way to end a call")

    async def look_up(self, call_id: str) -> CallEvent | None:
        """Raises: ProviderUnavailable, as no way to look at a call was found."""
        raise ProviderUnavailable("CM.com has no way to look at a call")

    async def find_call(self, to: str, placed_after: float) -> CallEvent | None:
        """Raises: ProviderUnavailable, as for `look_up`."""
        raise ProviderUnavailable("CM.com has no way to look for a call")

    def check_webhook(self, webhook: RawWebhook, *, must_be_signed: bool = False) -> str | None:
        """None: no signature was found anywhere, so the call token in the path is all that authorises a callback.

        Raises: WebhookRejected where a signature is needed.
        """
        if must_be_signed:
            raise WebhookRejected("CM.com does not sign callbacks: they are taken at the URL of their call only")
        return None

    def parse_event(self, webhook: RawWebhook, expected: CallState | None) -> CallEvent:
        """Translate a callback, which tells of the end of the call; `result` is documented as required.

        Documented for "the call or calls", so it may be a list. The kind of event is not looked at, as its name
        for this app was not found, and a missing `call-id` leaves the call to the token.
        Raises: WebhookRejected for what is no JSON, or tells of several calls.
        """
        events = json_objects_of(webhook.body, "CM.com")
        call_ids = {_call_id_of(event) for event in events} - {""}
        if len(call_ids) > 1:
            raise WebhookRejected("CM.com callback is about several calls", status=400)
        call_id = call_ids.pop() if call_ids else ""
        result = next((event["result"] for event in events if isinstance(event.get("result"), dict)), None)
        if result is None:
            kind = str(events[0].get("type"))
            logger.info("CM.com sent a callback without a result, of type %s", _shown(kind, "[A-Za-z_-]{1,32}"))
            return CallEvent(call_id, expected)
        return _ended_event(call_id, result)

    def render(self, script: CallScript, urls: CallUrls) -> bytes:
        """Nothing: CM.com fetches no documents."""
        return b""


def _prompt_of(utterance: Utterance) -> tuple[str, str]:
    """A prompt's type and content. CM.com plays files of its own account only, and cut SSML would be none."""
    if isinstance(utterance, Speak) and (utterance.ssml or utterance.rate != NORMAL_RATE):
        content = utterance.ssml or escape(utterance.text)
        if utterance.rate != NORMAL_RATE:
            content = f'<prosody rate="{utterance.rate}%">{content}</prosody>'
        ssml = f"<speak>{content}</speak>"
        if len(ssml) <= MAX_PROMPT_CHARACTERS:
            return "TTS_SSML", ssml
    return "TTS", utterance.text[:MAX_PROMPT_CHARACTERS]


def _voice_in(utterance: Utterance) -> str:
    return utterance.voice if isinstance(utterance, Speak) else ""


def _call_id_of(event: Mapping[str, Any]) -> str:
    """The call id in lower case, as callbacks have it (documented); empty where there is none."""
    call_id = event.get("call-id") or ""
    if call_id and not (isinstance(call_id, str) and _CALL_ID.fullmatch(call_id)):
        raise WebhookRejected("CM.com callback has a call-id that is no id", status=400)
    return str(call_id).lower()


def _ended_event(call_id: str, result: Mapping[str, Any]) -> CallEvent:
    code, sip_code = str(result.get("code", "")), str(result.get("sip-disconnect-code") or "")
    if code not in _END_REASONS:
        logger.warning("CM.com reported an unknown result code: %s", _shown(code, "[0-9]{1,3}|[A-Za-z_]{1,16}"))
    end_reason = _END_REASONS.get(code, EndReason.UNKNOWN)
    if end_reason in (EndReason.FAILED, EndReason.REJECTED):
        end_reason = _END_REASONS_BY_SIP.get(sip_code, end_reason)
    return CallEvent(
        call_id,
        CallState.COMPLETED,
        end_reason,
        hangup_cause=_hangup_cause(str(result.get("description") or ""), code, sip_code),
        was_answered=code == _ANSWERED,
    )


def _shown(word: str, pattern: str) -> str:
    """A word of CM.com's for the log: whatever is not of its form could be a number, or a code."""
    return word if re.fullmatch(pattern, word) else "(not shown)"


def _hangup_cause(description: str, code: str, sip_code: str) -> str:
    """CM.com's own words, such as `Finished successfully 10 BYE`: no digits but those of the two codes."""
    words = re.sub(r"[^A-Za-z ()-]", "", description)[:48].strip()
    codes = [text for text in (code, sip_code) if re.fullmatch("[0-9A-Z]{1,3}", text)]
    return sys.intern(" ".join([words, *codes]).strip())  # a handful of causes, kept for many calls


def _call_id_of_queued(answer: Answer, to: str) -> str:
    """The call id of a 2xx answer; success in the body, too, must say so (seen in two public integrations).

    Raises: CallRejected, CallOutcomeUnknown.
    """
    queued = _part_about(answer.document, to)
    if queued.get("success") is False:
        raise CallRejected(f"CM.com refused the call{_in_brackets(_field_named_in(queued))}: check the caller ID")
    call_id = queued.get("call-id")
    is_named = isinstance(call_id, str) and _CALL_ID.fullmatch(call_id) is not None
    if not is_named or queued.get("success", True) is not True:
        raise CallOutcomeUnknown("CM.com answered the request but named no call-id")
    return str(call_id).lower()


def _part_about(document: Any, to: str) -> Mapping[str, Any]:
    """The object of an answer, or the one about this callee in a list of them, as for several callees (seen)."""
    parts = _objects_in(document if isinstance(document, list) else [document])
    about_callee = [part for part in parts if _without_prefix(str(part.get("callee"))) == _without_prefix(to)]
    if about_callee:
        return about_callee[0]
    return parts[0] if len(parts) == 1 else {}


def _objects_in(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _without_prefix(number: str) -> str:
    return re.sub(r"^(\+|00)", "", number)


# What the operator can do. Documented: 401, and that wrong values are refused; every other status was not found.
_REFUSALS = {
    400: "CM.com refused a value of the request: check CM_FROM_NUMBER or FROM_NUMBER, and the CM_ settings",
    401: "CM.com refused the product token: check CM_PRODUCT_TOKEN and CM_API_URL",
    402: "the CM.com account has too little credit: top it up",
    403: "CM.com does not allow this call: check whether the voice app of the account may call this country",
    404: "CM.com does not know this path: check CM_API_URL",
}


def _error_of(answer: Answer) -> ProviderError:
    """The error for an answer that is no success. A 401 may have no body (seen), so none is needed."""
    body = answer.body
    says_so_itself = body.get("success") is False or isinstance(body.get("errorCode"), int)
    return refusal(
        answer,
        "CM.com",
        _REFUSALS,
        code=_field_named_in(body),
        is_own_error=says_so_itself and not body.get("call-id"),
    )


# Without `code` and `voice`, which many an error text has in it.
_FIELDS = (
    "instruction-id", "callees", "callee", "caller", "anonymous", "callback-url", "max-ringing-timeout",
    "intro-prompt", "code-prompt", "replay-prompt", "outro-prompt", "code-type", "max-replays", "auto-replay",
)  # fmt: skip
_FIELD_BY_WORD = {name.replace("-", ""): name for name in _FIELDS}
_FIELD = re.compile(rf"\b({'|'.join(name.replace('-', '-?') for name in _FIELDS)})(?:-?type)?\b", re.IGNORECASE)


def _field_named_in(body: Mapping[str, Any]) -> str:
    """The field of our request that an error's text names first: of free text, nothing else is shown.

    Seen: the text is in `message`, in `messages[].messageDetails` or in `details`, by API; `error` is the SDK's.
    """
    inner = [item.get("messageDetails") for item in _objects_in(body.get("messages"))]
    for text in (body.get("message"), body.get("error"), body.get("details"), *inner):
        found = _FIELD.search(text) if isinstance(text, str) else None
        if found:
            return _FIELD_BY_WORD[found[1].replace("-", "").lower()]
    return ""


def _in_brackets(word: str) -> str:
    return f" ({word})" if word else ""
