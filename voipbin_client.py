"""Calls through VoIPBin: one list of actions, told when the call is placed, and the account's events.

Sources of the protocol facts: see voipbin_account.py. A call could also ask for its actions once it is answered
(`fetch`), but one failed request would leave the callee with silence, and the line open, for an hour (source).
"""

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from urllib.parse import quote

import httpx

import xml_builder
from call_script import NORMAL_RATE, CallScript, PlayAudio, Speak, Utterance, WholeCall
from callback_bodies import shown_word, texts_of
from carrier_request import Answer
from voice_provider import (
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallState,
    CallUrls,
    Capabilities,
    EndReason,
    MachineDetection,
    ProviderUnavailable,
    RawWebhook,
    WebhookRejected,
)
from voipbin_account import GONE, VoipbinAccount, event_of, id_of, tel
from voipbin_account import VoipbinConfig as VoipbinConfig

logger = logging.getLogger(__name__)

MAX_REPLAYS = 3
MENU_TIMEOUT_SECONDS = 5
KEYS_TIMEOUT_SECONDS = 10
CALLS_LISTED = 50  # each one is a kilobyte and more
REPLAY_KEY = "1"

# Source: the first eight have a voice of their own at both speech engines, the next three at the second one, which
# steps in when the first fails. For the rest the first engine, Google's, picks a voice (inferred: its list of
# languages). A language that no engine speaks is skipped in silence, so none is here on a guess.
LANGUAGES = (
    "en-US", "en-GB", "de-DE", "fr-FR", "es-ES", "it-IT", "ja-JP", "ko-KR", "pt-BR", "ru-RU", "zh-CN",
    "en-AU", "en-IN", "es-US", "fr-CA", "pt-PT", "nl-NL", "pl-PL", "sv-SE", "da-DK", "hi-IN",
)  # fmt: skip

# Documented on call_struct_call. While VoIPBin ends a call itself, it is not over yet; see `_state_of`.
_STATES = {
    "dialing": CallState.DIALING,
    "ringing": CallState.RINGING,
    "progressing": CallState.ANSWERED,
    "hangup": CallState.COMPLETED,
}
_ENDING = ("terminating", "canceling")

# Documented on call_struct_call; source: a callee who rejects is reported as `noanswer`, too. None is an ordinary
# end: what was spoken then decides.
_END_REASONS: dict[str, EndReason | None] = {
    "": None,
    "normal": None,
    "timeout": None,  # an hour after the answer
    "noanswer": EndReason.NO_ANSWER,
    "dialout": EndReason.NO_ANSWER,
    "busy": EndReason.BUSY,
    "failed": EndReason.FAILED,
    "cancel": EndReason.CANCELLED,
    "amd": EndReason.VOICEMAIL,
}

# The types of the events that our own actions send, beside those of the account.
OTP_ANSWERED = "otp_answered"
OTP_READING = "otp_reading"
OTP_NO_KEYS = "otp_no_keys"

# The fields that are read of an event; all others are ignored.
CALLBACK_SCHEMA = {
    "type": "object",
    "required": ["type", "data"],
    "properties": {
        "type": {"type": "string", "examples": ["call_progressing", "call_hangup", OTP_READING]},
        "data": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string", "examples": ["0b6c1a52-0000-4000-8000-000000000001"]},
                "status": {"type": "string", "enum": [*_STATES, *_ENDING]},
                "hangup_reason": {"type": "string"},
                "hangup_by": {"type": "string", "enum": ["local", "remote"]},
                "tm_progressing": {"type": "string"},
                "tm_hangup": {"type": "string"},
                "reading": {"type": "integer", "description": f"only of {OTP_READING}"},
            },
        },
    },
}

# Source: from the fourth check on, VoIPBin does not say which one of its preconditions failed.
_NO_CALL = (
    "VoIPBin placed no call and does not say why: check that the country is in the destination_whitelist of the "
    "account's outbound_config, that VOIPBIN_FROM_NUMBER is an active number of the account, its balance, "
    "and whether its e-mail is verified"
)


class VoipbinClient:
    """VoIPBin as a VoiceProvider."""

    capabilities = Capabilities(
        languages=LANGUAGES,
        fetches_script=False,
        # Ringing is told at the account's URL, by an id that only the answer to the request gives.
        silence_is_proof=False,
        detects_machines=True,
        plays_audio=True,
        takes_codes=False,
        tells_alerts=False,
        hides_caller_id=True,
        limits_call=False,  # no field for it: the list of actions comes to an end
        max_replays=MAX_REPLAYS,
    )
    callback_schema: Mapping[str, Any] = CALLBACK_SCHEMA

    def __init__(
        self,
        config: VoipbinConfig,
        http: httpx.AsyncClient,
        name: str = "voipbin",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.from_number = config.from_number
        self._account = VoipbinAccount(config, http, now)

    async def place_call(self, order: CallOrder) -> str:
        """Start a call; the id of the one call in the answer.

        No idempotency key exists, so a request is sent once only.
        Raises: CallRejected, ProviderThrottled, ProviderUnavailable, CallOutcomeUnknown.
        """
        if order.script is None:
            raise ValueError("VoIPBin is told what to say when the call is placed, and the order has no script")
        body = {
            "source": tel(order.from_number),
            "destinations": [tel(order.to)],
            "anonymous": "yes" if order.hide_caller_id else "no",
            "actions": actions_of(order, order.script),
        }
        answer = await self._account.request("POST", "/calls", body, internal=_NO_CALL)
        call_id = next((id_of(call) for call in _listed(answer, "calls")), "")
        if not call_id:
            raise CallOutcomeUnknown("VoIPBin accepted the call but named no id")
        return call_id

    async def hang_up(self, call_id: str) -> bool:
        """End a call. Documented: the answer is the call; one that has ended stays as it is (source)."""
        answer = await self._account.request("POST", f"/calls/{quote(call_id, safe='')}/hangup", gone=GONE)
        return answer.is_success and answer.body.get("status") != "hangup"

    async def look_up(self, call_id: str) -> CallEvent | None:
        """Where a call is; None for one that VoIPBin does not know, or that was deleted."""
        answer = await self._account.request("GET", f"/calls/{quote(call_id, safe='')}", gone=GONE)
        return _call_event(answer.body) if answer.is_success and id_of(answer.body) == call_id else None

    async def find_call(self, to: str, placed_after: float) -> CallEvent | None:
        """A call whose create request got no answer: among the calls listed first (inferred: the latest).

        No reference of ours travels with a call, so it is known by its callee. Raises: ProviderError, also for an
        answer without a list, and CallOutcomeUnknown for a full page, after which others may follow: None would be
        proof that nothing was dialled.
        """
        answer = await self._account.request("GET", f"/calls?page_size={CALLS_LISTED}")
        listed = answer.body.get("result", answer.document)
        if not isinstance(listed, list):
            raise ProviderUnavailable("VoIPBin answered without its list of calls")
        for call in _listed(answer, "result"):
            destination = call.get("destination")
            created_at = _unix_time(texts_of(call), "tm_create")
            is_ours = isinstance(destination, dict) and destination.get("target") == to and id_of(call)
            if is_ours and created_at is not None and created_at >= int(placed_after):
                return _call_event(call)
        if len(listed) >= CALLS_LISTED:
            raise CallOutcomeUnknown("VoIPBin lists more calls than were looked through; ours may be among them")
        return None

    def check_webhook(self, webhook: RawWebhook, *, must_be_signed: bool = False) -> None:
        """Check the signature of an event. It has no nonce: an event that comes twice says the same twice.

        Raises: WebhookRejected.
        """
        self._account.check_signature(webhook, must_be_signed=must_be_signed)

    def parse_event(self, webhook: RawWebhook, expected: CallState | None) -> CallEvent:
        """Translate an event of the account, or one that our own actions sent.

        What is about a call says where it is, however late it comes; what is about anything else says nothing.
        Raises: WebhookRejected for what is no event.
        """
        kind, data = event_of(webhook)
        call_id = id_of(data, "reference_id" if kind.startswith("activeflow_") else "id")
        if not call_id:
            raise WebhookRejected("VoIPBin event names no resource", status=400)
        if kind.startswith("call_"):
            return _call_event(data)
        if kind == OTP_ANSWERED:
            return CallEvent(call_id, CallState.ANSWERED)
        if kind == OTP_NO_KEYS:
            return CallEvent(call_id, CallState.ANSWERED, is_without_keys=True)
        if kind == OTP_READING:
            return CallEvent(call_id, CallState.ANSWERED, reading=_reading_of(data))
        return CallEvent(call_id)

    def render(self, script: CallScript, urls: CallUrls) -> bytes:
        """Nothing: a call has been told everything."""
        return b""


# The actions of a call


def actions_of(order: CallOrder, script: WholeCall) -> list[dict[str, Any]]:
    """The whole call. It starts when the callee answers, and every way through it ends with a hangup.

    Readings stand one after the other; a branch leads from one to the next when key 1 was pressed, else to the
    goodbye. A key that was pressed while the code was read counts at the next branch, the last one only (source).
    """
    replays = min(script.manner.max_replays, MAX_REPLAYS)
    actions = [_event(order.urls.events, OTP_ANSWERED)]
    if (
        order.machine_detection is not MachineDetection.OFF
    ):  # source: nothing tells a call of a machine that goes on
        actions.append(_action("amd", **{"machine_handle": "hangup", "async": False}))  # waits for the verdict
    actions += _ask_for_keys(order.urls.events, script)
    for reading in range(1, replays + 2):
        actions += _reading(order.urls.events, script, reading)
        if reading <= replays and not script.manner.auto_replay:
            actions += _menu(script, reading + 1)
    return [*actions, *_target(_GOODBYE, _say(script.goodbye)), _action("hangup")]


def _ask_for_keys(events_url: str, script: WholeCall) -> list[dict[str, Any]]:
    """Each wait for keys leads to the code if they were pressed, else to the next one, at last to the goodbye."""
    actions: list[dict[str, Any]] = []
    for number, step in enumerate(script.keys_first, start=1):
        wait = [_sleep(script.pacing.lead_in_seconds), *_prompt(*step.prompt), _receive(len(step.keys))]
        actions += _target(_target_id(f"keys {number}"), wait)
        actions.append(_branch(step.keys, _reading_id(1), otherwise=_target_id(f"keys {number + 1}")))
    if not actions:
        return []
    end = [_event(events_url, OTP_NO_KEYS), _action("goto", target_id=_GOODBYE, loop_count=1)]
    return [*actions, *_target(_target_id(f"keys {len(script.keys_first) + 1}"), end)]


def _reading(events_url: str, script: WholeCall, reading: int) -> list[dict[str, Any]]:
    """The code as often as the pacing says; then an event which says so."""
    pacing = script.pacing
    again = _spell(script, script.again)
    if reading > 1:
        opening = again
    elif script.keys_first:
        opening = _spell(script, script.code_prompt)
    else:
        opening = [*_say(script.greeting), *_spell(script, script.code_prompt)]
    said = [*opening, *[_sleep(pacing.reading_pause_seconds), *again] * (pacing.readings - 1)]
    event = _event(events_url, OTP_READING, reading=reading)
    return _target(_reading_id(reading), [_sleep(pacing.lead_in_seconds), *said, event])


def _menu(script: WholeCall, next_reading: int) -> list[dict[str, Any]]:
    """The offer to hear the code again; met with silence, it comes once more: a key may have been lost."""
    offer = [*_prompt(script.replay_prompt), _receive(1)]
    again, once_more = _reading_id(next_reading), _target_id(f"offer {next_reading}")
    return [
        *offer,
        _branch(REPLAY_KEY, again, otherwise=once_more),
        *_target(once_more, offer),
        _branch(REPLAY_KEY, again, otherwise=_GOODBYE),
    ]


def _branch(keys: str, target_id: str, otherwise: str) -> dict[str, Any]:
    """Go where these keys lead, else elsewhere; the keys are forgotten then (source)."""
    return _action("branch", target_ids={keys: target_id}, default_target_id=otherwise)


def _receive(keys: int) -> dict[str, Any]:
    """Wait for keys; the time is for all of them together (source)."""
    seconds = KEYS_TIMEOUT_SECONDS if keys > 1 else MENU_TIMEOUT_SECONDS
    return _action("digits_receive", duration=1000 * seconds, length=keys)


def _prompt(*utterances: Utterance) -> list[dict[str, Any]]:
    """What is said before keys are waited for: the first key ends it, where it is not played."""
    return _say(*utterances, digits_handle="next")


def _spell(script: WholeCall, prompt: Utterance) -> list[dict[str, Any]]:
    """Say a prompt, then the code character by character."""
    return _say(prompt, *script.spelled, pause_seconds=script.pacing.digit_pause_seconds)


def _say(*utterances: Utterance, pause_seconds: float = 0, **option: str) -> list[dict[str, Any]]:
    """Say one thing after the other, or play it, in as few actions as possible.

    One action per character would do so, too, but each action can fail by itself and is then skipped in silence
    (source): a code without its third digit is worse than none.
    """
    actions = []
    for _, group in groupby(utterances, type):
        parts = tuple(group)
        urls = [one.url for one in parts if isinstance(one, PlayAudio)]
        spoken = [one for one in parts if isinstance(one, Speak)]
        actions.append(_action("play", stream_urls=urls) if urls else _talk(spoken, pause_seconds, option))
    return actions


def _talk(spoken: Sequence[Speak], pause_seconds: float, option: Mapping[str, str]) -> dict[str, Any]:
    """Always one SSML document (documented: `text` is plain or SSML), so that no voice runs digits together."""
    pause = f'<break time="{pause_seconds:g}s"/>' if pause_seconds else " "
    ssml = pause.join(_ssml_of(one) for one in spoken)
    return _action("talk", text=f"<speak>{ssml}</speak>", language=spoken[0].language, **option)


def _ssml_of(one: Speak) -> str:
    """Text for SSML. VoIPBin replaces `${name}` in every option, so none may come from a setting (source)."""
    text = re.sub(r"\$+\{", "{", one.ssml or xml_builder.escaped(one.text))
    return text if one.rate == NORMAL_RATE else f'<prosody rate="{one.rate}%">{text}</prosody>'


def _sleep(seconds: float) -> dict[str, Any]:
    return _action("sleep", duration=round(1000 * seconds))


def _event(url: str, kind: str, **details: Any) -> dict[str, Any]:
    """Tell us where the call is; signed by VoIPBin as its own events are (source). It is not waited for."""
    data = json.dumps({"type": kind, "data": {"id": "${voipbin.call.id}", **details}})
    return _action("webhook_send", sync=False, uri=url, method="POST", data_type="application/json", data=data)


def _action(kind: str, **option: Any) -> dict[str, Any]:
    return {"type": kind, "option": option} if option else {"type": kind}


def _target(target_id: str, actions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Actions that others lead to, by the id of the first one."""
    first, *others = actions
    return [{"id": target_id, **first}, *others]


def _target_id(name: str) -> str:
    """The id of an action that others lead to; the same in every call, and none of those that are reserved."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def _reading_id(reading: int) -> str:
    return _target_id(f"reading {reading}")


_GOODBYE = _target_id("goodbye")


# What VoIPBin tells of a call


def _listed(answer: Answer, name: str) -> list[dict[str, Any]]:
    """The objects of a list under its name (documented), or of a bare one, as some examples show it."""
    listed = answer.body.get(name) if isinstance(answer.document, dict) else answer.document
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _call_event(call: Mapping[str, Any]) -> CallEvent:
    """Where a call is, by its status, whatever event brought it. `action` holds the code, and is not looked at."""
    details = texts_of(call)
    was_answered = _unix_time(details, "tm_progressing") is not None
    state = _state_of(details.get("status", ""), was_answered=was_answered)
    if state is not CallState.COMPLETED:
        return CallEvent(id_of(call), state)
    reason = details.get("hangup_reason", "")
    if reason not in _END_REASONS:
        logger.warning("VoIPBin reported an unknown hangup reason: %s", shown_word(reason))
    return CallEvent(
        id_of(call),
        state,
        _END_REASONS.get(reason, EndReason.UNKNOWN),
        hangup_cause=_hangup_cause(reason, details.get("hangup_by", "")),
        talk_seconds=_talk_seconds(details),
        was_answered=was_answered,
    )


def _state_of(status: str, *, was_answered: bool) -> CallState | None:
    if status in _ENDING:
        return CallState.ANSWERED if was_answered else CallState.DIALING
    if status not in _STATES:
        logger.info("VoIPBin reported an unknown call status: %s", shown_word(status))
    return _STATES.get(status)


def _hangup_cause(reason: str, ended_by: str) -> str:
    """VoIPBin's own words, such as `busy by remote`."""
    words = f"{shown_word(reason)} by {shown_word(ended_by)}" if ended_by else shown_word(reason)
    return sys.intern(words.strip())  # a handful of causes, kept for many calls


def _talk_seconds(details: Mapping[str, str]) -> int | None:
    answered_at, ended_at = _unix_time(details, "tm_progressing"), _unix_time(details, "tm_hangup")
    if answered_at is None or ended_at is None:
        return None
    return max(0, int(ended_at - answered_at))


def _reading_of(data: Mapping[str, Any]) -> int:
    reading = data.get("reading")
    if not isinstance(reading, int) or not 1 <= reading <= MAX_REPLAYS + 1:
        raise WebhookRejected("VoIPBin event has no number of a reading", status=400)
    return reading


def _unix_time(details: Mapping[str, str], name: str) -> float | None:
    """A time, in either of the two documented forms; None for one that is not set, which may be the year 9999."""
    text = details.get(name, "")
    if text.startswith("9999"):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
