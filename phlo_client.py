"""All of Plivo's PHLO: running a call flow that was built in Plivo's console, and reading what it reports back.

A PHLO is told everything when it is run, and can be neither asked nor stopped. What becomes of its call is known
only as far as HTTP Request nodes in it say so; docs/plivo-phlo.md shows, click by click, the PHLO to build.

Source of the protocol facts: https://www.plivo.com/docs/phlo (api/phlo/run-a-phlo, components-library/*,
voice/use-cases/voice-otp) and the SDK plivo 4.63.0; the page says which is which, and what was not found.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from call_script import CallScript, WholeCall
from callback_bodies import json_of, shown_word, texts_of
from carrier_request import ask, refusal
from hangup_causes import END_REASONS
from voice_provider import (
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallState,
    CallUrls,
    Capabilities,
    EndReason,
    ProviderUnavailable,
    RawWebhook,
    WebhookRejected,
)

logger = logging.getLogger(__name__)

API_URL = "https://phlorunner.plivo.com/v1"


class _Meaning(NamedTuple):
    state: CallState
    end_reason: EndReason | None = None


# Ours: the words that the page has HTTP Request nodes post. After an ordinary end, what was spoken is the reason.
EVENTS = {
    "answered": _Meaning(CallState.ANSWERED),
    "spoken": _Meaning(CallState.ANSWERED),
    "ended": _Meaning(CallState.COMPLETED),
    "no_answer": _Meaning(CallState.COMPLETED, EndReason.NO_ANSWER),
    "busy": _Meaning(CallState.COMPLETED, EndReason.BUSY),
    "rejected": _Meaning(CallState.COMPLETED, EndReason.REJECTED),
    "voicemail": _Meaning(CallState.COMPLETED, EndReason.VOICEMAIL),
    "failed": _Meaning(CallState.COMPLETED, EndReason.FAILED),
}

CALLBACK_SCHEMA = {
    "type": "object",
    "required": ["event"],
    "properties": {
        "event": {"type": "string", "enum": list(EVENTS)},
        "reading": {"type": "string", "description": "with `spoken`: which reading of the code; 1 if absent"},
        "hangup_cause": {"type": "string", "description": "Plivo's code, of the Initiate Call node"},
    },
}

_RUN_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
# Whether a PHLO escapes what it puts into SSML is not documented, nor whether it reads its own marks in values.
_NOT_SPEAKABLE = re.compile(r"[<>&{}\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class PhloConfig:
    """`language` is that of the PHLO's voice. `reports_back` says that its HTTP Request nodes are there."""

    auth_id: str
    auth_token: str = field(repr=False)
    phlo_id: str
    from_number: str = field(repr=False)
    api_url: str = API_URL
    language: str = "en-US"
    reports_back: bool = False
    request_deadline_seconds: float = 10


class PhloClient:
    """A PHLO as a VoiceProvider."""

    callback_schema: Mapping[str, Any] = CALLBACK_SCHEMA

    def __init__(self, config: PhloConfig, http: httpx.AsyncClient, name: str = "phlo") -> None:
        self.name = name
        self.from_number = config.from_number
        self.capabilities = Capabilities(
            languages=(config.language,),
            fetches_script=False,
            reports_progress=False,  # even with its reports a PHLO is silent while the phone rings
            silence_is_proof=False,
            can_be_asked=False,
            hangs_up=False,
            limits_call=False,
            proves_speaking=config.reports_back,
            asks_for_keys=False,
            takes_codes=False,
            tells_alerts=False,
        )
        self._config = config
        self._http = http
        path = f"account/{quote(config.auth_id, safe='')}/phlo/{quote(config.phlo_id, safe='')}/"
        # Documented without slash at the end, sent with one by the SDK.
        self._run_url = f"{config.api_url.rstrip('/')}/{path}"

    async def place_call(self, order: CallOrder) -> str:
        """Run the PHLO; the `api_id` of the run (documented), which stands for the call here.

        The id of the call itself is not in the answer. No idempotency key is documented, so a run is asked for
        once only. Raises: CallRejected, ProviderThrottled, ProviderUnavailable, CallOutcomeUnknown.
        """
        config = self._config
        answer = await ask(
            self._http,
            "Plivo PHLO",
            config.request_deadline_seconds,
            "POST",
            self._run_url,
            json=run_payload(order),
            auth=(config.auth_id, config.auth_token),
        )
        if not answer.is_success:
            # The shape of an error is not documented for PHLO, so none of them proves that nothing was dialled.
            raise refusal(answer, "Plivo PHLO", _REFUSALS)
        run_id = answer.body.get("api_id")
        if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
            raise CallOutcomeUnknown("Plivo PHLO accepted the run but named no api_id")
        return run_id

    async def hang_up(self, call_id: str) -> bool:
        """Raises: ProviderUnavailable, as nothing documented ends a run."""
        raise ProviderUnavailable("Plivo PHLO has no way to end a call")

    async def look_up(self, call_id: str) -> CallEvent | None:
        """Raises: ProviderUnavailable, as nothing documented tells of a run."""
        raise ProviderUnavailable("Plivo PHLO has no way to look at a call")

    async def find_call(self, to: str, placed_after: float) -> CallEvent | None:
        """Raises: ProviderUnavailable: None would say that there is no call."""
        raise ProviderUnavailable("Plivo PHLO has no way to look for a call")

    def check_webhook(self, webhook: RawWebhook, *, must_be_signed: bool = False) -> str | None:
        """No signature of an HTTP Request node is documented: the call token in the URL is what authorises it.

        Raises: WebhookRejected where that is not enough.
        """
        if must_be_signed:
            raise WebhookRejected("Plivo PHLO signs nothing: its reports need the call token in their URL")
        return None

    def parse_event(self, webhook: RawWebhook, expected: CallState | None) -> CallEvent:
        """Translate what an HTTP Request node of the documented PHLO posts: JSON, whose values may all be strings.

        A PHLO does not know the id of its own run, so `call_id` is empty: the call is that of the token.
        Raises: WebhookRejected for a body that is no JSON object, or names no event.
        """
        fields = texts_of(json_of(webhook.body, "Plivo PHLO"))
        word = re.sub("[ /-]+", "_", fields.get("event", "").strip().lower())
        if not word:
            raise WebhookRejected("Plivo PHLO callback has no event", status=400)
        meaning = EVENTS.get(word)
        if meaning is None:
            # Letters only: whatever else an operator put there by mistake, no code and no number is logged.
            logger.warning("Plivo PHLO reported an unknown event: %.32s", re.sub("[^a-z_]", "", word))
            return CallEvent("")
        cause = shown_word(fields.get("hangup_cause", "").strip())
        return CallEvent(
            "",
            meaning.state,
            _end_reason(meaning, cause),
            hangup_cause=cause,
            reading=_reading(fields.get("reading", "")) if word == "spoken" else 0,
        )

    def render(self, script: CallScript, urls: CallUrls) -> bytes:
        """A PHLO asks for no document."""
        return b""


def run_payload(order: CallOrder) -> dict[str, str]:
    """The values for the keys of the PHLO's Start node, where templates read them as `Start.http.params.<key>`.

    `otp` is to be spelled by SSML; `otp_spoken` is for voices without, which read 482913 as one large number.
    `readings` is how often the code may be read at the most.
    """
    script = order.script
    if script is None:
        raise ValueError("a PHLO is told what to say when it is run")
    return {
        "from": order.from_number,
        "to": order.to,
        "otp": script.code,
        "otp_spoken": ", ".join(word.text for word in script.spelled),
        **_sentences(script),
        "readings": str(script.manner.max_replays + 1),
        "callback_url": order.urls.events,
    }


def _sentences(script: WholeCall) -> dict[str, str]:
    texts = {
        "greeting": script.greeting,
        "code_prompt": script.code_prompt,
        "again": script.again,
        "replay_prompt": script.replay_prompt,
        "goodbye": script.goodbye,
    }
    return {key: " ".join(_NOT_SPEAKABLE.sub(" ", one.text).split()) for key, one in texts.items()}


def _end_reason(meaning: _Meaning, cause: str) -> EndReason | None:
    """What the cause code says, if anything: a busy and a rejecting callee take the same way out of a node."""
    if meaning.state is not CallState.COMPLETED:
        return None
    return END_REASONS.get(cause) or meaning.end_reason


def _reading(text: str) -> int:
    return int(text) if re.fullmatch("[1-9]", text) else 1


# Documented (SDK, and the API overview for all of Plivo): what each status means, and what the operator can do.
_REFUSALS = {
    400: "Plivo found the run malformed: compare the keys of the PHLO's Start node with docs/plivo-phlo.md",
    401: "Plivo refused the credentials: check PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN",
    402: "the Plivo account has too little balance: top it up in the console",
    403: "Plivo does not allow this: check the account's geo permissions for this country, and its verification",
    404: "Plivo does not know this PHLO: check PLIVO_PHLO_ID, PLIVO_AUTH_ID and PLIVO_PHLO_URL",
    405: "Plivo does not take runs at this address: check PLIVO_PHLO_URL",
}
