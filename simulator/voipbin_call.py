"""One call of the simulated VoIPBin: it carries out a list of actions, and tells the account how it goes.

Sources: https://api.voipbin.net/docs/ (flow and call pages) and the code behind it in
https://github.com/voipbin/monorepo, as it stood in August 2026. Actions that no spoken code needs do nothing.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from xml.etree import ElementTree

import httpx

from simulator.call import MACHINE_DETECTION_SECONDS, CallEnded, CallRequest, Ending, SimulatedCall, speech
from simulator.lines import KeyWait, Sound
from simulator.voipbin_events import EventSender

logger = logging.getLogger(__name__)

NIL_ID = "00000000-0000-0000-0000-000000000000"
RING_TIMEOUT_SECONDS = 60.0
TIME_LIMIT_SECONDS = 3600.0
MAX_ACTIONS = 1000
MAX_DIGITS = 100  # where an action names no number of them
DIGITS = "voipbin.call.digits"
ACTION_TYPES = frozenset(
    {
        "ai_summary",
        "ai_talk",
        "ai_task",
        "amd",
        "answer",
        "beep",
        "block",
        "branch",
        "call",
        "condition_call_digits",
    }
    | {"condition_call_status", "condition_datetime", "condition_variable", "confbridge_join", "conference_join"}
    | {"connect", "conversation_send", "digits_receive", "digits_send", "echo", "email_send"}
    | {"external_media_start", "external_media_stop", "fetch", "fetch_flow", "goto", "hangup", "hold"}
    | {"message_send", "mute", "play", "queue_join", "recording_start", "recording_stop", "sleep", "stop"}
    | {"stream_echo", "talk", "transcribe_recording", "transcribe_start", "transcribe_stop", "variable_set"}
    | {"webhook_send"}
)
# Those that VoIPBin's flow carries out by itself: they are no event of the call.
_FLOW_TYPES = frozenset({"branch", "fetch", "goto", "webhook_send"})
_LANGUAGE = re.compile(r"[a-z]{2,3}-[A-Z]{2}")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


class _End(NamedTuple):
    """`last_status`: what VoIPBin passes through where it ends the call itself."""

    reason: str
    last_status: str = ""


# Where VoIPBin was ending the call, `local` hung up. A callee who rejects is no different from one who is away.
_ENDS = {
    Ending.CALLEE: _End("normal"),
    Ending.END_OF_SCRIPT: _End("normal", "terminating"),
    Ending.API_AFTER_ANSWER: _End("normal", "terminating"),
    Ending.API_BEFORE_ANSWER: _End("cancel", "canceling"),
    Ending.NO_ANSWER: _End("dialout", "canceling"),
    Ending.REJECTED: _End("noanswer"),
    Ending.BUSY: _End("busy"),
    Ending.UNALLOCATED: _End("failed"),
    Ending.MACHINE: _End("amd", "terminating"),
    Ending.TIME_LIMIT: _End("timeout", "terminating"),
}


@dataclass(frozen=True, slots=True)
class FlowRequest(CallRequest):
    """A request to call that brings all that shall happen."""

    customer_id: str
    anonymous: str
    actions: Sequence[Mapping[str, Any]]
    variables: Mapping[str, str]
    created_wall: float


@dataclass(eq=False)
class VoipbinCall(SimulatedCall):
    request: FlowRequest
    events: EventSender
    events_url: str
    activeflow_id: str

    status: str = field(default="dialing", init=False)
    hangup_by: str = field(default="", init=False)
    hangup_reason: str = field(default="", init=False)
    action: Mapping[str, Any] = field(default_factory=dict, init=False)
    variables: dict[str, str] = field(default_factory=dict, init=False)
    jumps: dict[int, int] = field(default_factory=dict, init=False)

    # Where the call is

    async def on_ringing(self) -> None:
        await self._tell("call_created")
        await self._move_to("ringing")

    async def report_end(self) -> None:
        end = _ENDS[Ending(self.ending)]
        if end.last_status:
            await self._move_to(end.last_status)
        self.status = "hangup"
        self.hangup_by = "local" if end.last_status else "remote"
        self.hangup_reason = end.reason
        if not self.customs.loses_hangup_callback:
            await self._tell("call_hangup")
        await self.events.flush()

    def is_being_ended(self) -> None:
        """The API was told to end it."""
        self.status = "terminating" if self.is_answered else "canceling"

    async def _move_to(self, status: str) -> None:
        self.status = status
        await self._tell(f"call_{status}")

    async def _tell(self, kind: str) -> None:
        await self.events.tell(self.events_url, kind, self.resource(), times=self._times)

    @property
    def _times(self) -> int:
        """How often each event is sent."""
        return 2 if self.customs.doubles_callbacks else 1

    def resource(self) -> dict[str, Any]:
        """The call as the API shows it. What is not set is left out; `action` shows what is being said."""
        request, created = self.request, self.request.created_wall
        answered = created + self.ring_seconds
        words = {"hangup_by": self.hangup_by, "hangup_reason": self.hangup_reason}
        times = {
            "tm_ringing": created if self.status != "dialing" else None,
            "tm_progressing": answered if self.is_answered else None,
            "tm_hangup": answered + self.talk_seconds if self.status == "hangup" else None,
        }
        return {
            "id": request.call_id,
            "customer_id": request.customer_id,
            "owner_type": "",
            "owner_id": NIL_ID,
            "flow_id": NIL_ID,
            "activeflow_id": self.activeflow_id,
            "type": "flow",
            "master_call_id": NIL_ID,
            "recording_id": NIL_ID,
            "groupcall_id": NIL_ID,
            "source": address(request.from_number),
            "destination": address(request.to),
            "status": self.status,
            "action": {"id": NIL_ID, "next_id": NIL_ID, "type": "", **self.action},
            "direction": "outgoing",
            "mute_direction": "",
            "tm_create": timestamp(created),
            "tm_update": timestamp(answered + self.talk_seconds),
            **{name: timestamp(at) for name, at in times.items() if at is not None},
            **{name: word for name, word in words.items() if word},
        }

    # What happens on it

    async def talk(self) -> None:
        await self._move_to("progressing")
        self.variables = {
            **self.request.variables,
            "voipbin.call.id": self.request.call_id,
            "voipbin.call.source.target": self.request.from_number,
            "voipbin.call.destination.target": self.request.to,
            "voipbin.call.direction": "outgoing",
            "voipbin.activeflow.id": self.activeflow_id,
        }
        await self._carry_out_all(list(self.request.actions))

    async def _carry_out_all(self, actions: list[Mapping[str, Any]]) -> None:
        place = 0
        for _ in range(MAX_ACTIONS):
            if place >= len(actions):
                return
            action = {**actions[place], "option": self._filled(actions[place].get("option") or {})}
            kind, option = str(action["type"]), action["option"]
            if kind not in _FLOW_TYPES:
                self.action = action
                await self._tell("call_updated")
            if kind == "fetch":
                actions[place + 1 : place + 1] = await self._fetch(option)
            target = await self._carry_out(kind, option, place)
            place = _place_of(target, actions) if target else place + 1

    async def _carry_out(self, kind: str, option: Mapping[str, Any], place: int) -> str:
        """Do what an action says; the id of the action that it leads to, "" for the next one."""
        match kind:
            case "talk":
                await self._talk(option)
            case "play":
                await self._play(option)
            case "sleep":
                await self.listen(Sound(_seconds(option)))
            case "digits_receive":
                await self._receive_digits(option)
            case "branch":
                digits = self.variables.pop(str(option.get("variable") or DIGITS), "")
                targets = option.get("target_ids") or {}
                return str(targets.get(digits) or option.get("default_target_id") or "")
            case "goto":
                self.jumps[place] = self.jumps.get(place, 0) + 1
                return str(option["target_id"]) if self.jumps[place] <= int(option.get("loop_count") or 0) else ""
            case "webhook_send":
                await self._send_webhook(option)
            case "amd":
                await self._detect(option)
            case "hangup":
                raise CallEnded(Ending.END_OF_SCRIPT)
        return ""

    async def _send_webhook(self, option: Mapping[str, Any]) -> None:
        for _ in range(self._times):
            await self.events.request(
                str(option.get("method") or "POST"),
                str(option.get("uri")),
                str(option.get("data_type") or "application/json"),
                str(option.get("data") or "").encode(),
            )

    async def _talk(self, option: Mapping[str, Any]) -> None:
        """What cannot be spoken is skipped, and the customer is not told."""
        sounds = _sounds_of(str(option.get("text") or ""), str(option.get("language") or ""))
        if sounds is None:
            logger.warning("simulated carrier: a talk action was skipped: its text cannot be spoken")
            return
        if option.get("digits_handle") == "next":
            self.variables[DIGITS] = await self.wait_for_key(sounds, 0) or self.variables.get(DIGITS, "")
            return
        for sound in sounds:
            await self.listen(sound)

    async def _play(self, option: Mapping[str, Any]) -> None:
        for url in option.get("stream_urls") or []:
            sound = await self.recording(str(url))
            if sound is not None:
                await self.listen(sound)

    async def _receive_digits(self, option: Mapping[str, Any]) -> None:
        """Keys that were pressed before count. There is one time for all of them; a key that ends it is kept."""
        length, end_keys = int(option.get("length") or 0), str(option.get("key") or "")
        known = self.variables.get(DIGITS, "")
        if (length and len(known) >= length) or set(known) & set(end_keys):
            return
        most = length - len(known) if length else MAX_DIGITS
        wait = KeyWait(_seconds(option), most, end_keys=end_keys)
        self.variables[DIGITS] = known + await self.wait_for_keys((), wait)

    async def _detect(self, option: Mapping[str, Any]) -> None:
        if not option.get("async"):
            await self.listen(Sound(MACHINE_DETECTION_SECONDS))
        if self.line.is_machine and option.get("machine_handle") == "hangup":
            raise CallEnded(Ending.MACHINE)

    async def _fetch(self, option: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Actions that the customer is asked for. Without any the line stays open, and nobody says a word."""
        body = {"activeflow_id": self.activeflow_id, "reference_id": self.request.call_id}
        try:
            method, url = str(option.get("event_method") or "POST"), str(option.get("event_url"))
            answer = await self.events.http.request(method, url, json=body)
            fetched = answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            fetched = None
        if not isinstance(fetched, list) or not all(isinstance(action, dict) for action in fetched):
            await self.listen(Sound(TIME_LIMIT_SECONDS))
            return []
        return fetched

    def _filled(self, option: Any) -> Any:
        """An option with its variables replaced; unknown ones become nothing."""
        if isinstance(option, str):
            return _VARIABLE.sub(lambda found: self.variables.get(found[1], ""), option)
        if isinstance(option, dict):
            return {name: self._filled(value) for name, value in option.items()}
        return [self._filled(value) for value in option] if isinstance(option, list) else option


def address(number: str) -> dict[str, str]:
    return {"type": "tel", "target": number, "target_name": "", "name": "", "detail": ""}


def timestamp(wall: float) -> str:
    """RFC 3339 as Go writes it."""
    return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _place_of(target: str, actions: Sequence[Mapping[str, Any]]) -> int:
    """Where an action is; a target that is nowhere ends the flow."""
    return next((place for place, action in enumerate(actions) if action.get("id") == target), len(actions))


def _sounds_of(text: str, language: str) -> tuple[Sound, ...] | None:
    """What is heard of a text, plain or SSML; None where no engine speaks it."""
    document = _document_of(text)
    if document is None:
        document = _document_of(f"<speak>{text}</speak>")
    if document is None or document.tag != "speak" or not _LANGUAGE.fullmatch(language):
        return None
    return tuple(_heard(document, language)) or None


def _heard(element: ElementTree.Element, language: str) -> Iterator[Sound]:
    if element.tag == "break":
        yield Sound(_break_seconds(element.get("time", "1s")))
    for text, child in [(element.text, None), *((child.tail, child) for child in element)]:
        if child is not None:
            yield from _heard(child, language)
        if text and text.strip():
            yield speech(text.strip(), language)


def _document_of(text: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - our own service's, inside a bounded request
    except ElementTree.ParseError:
        return None


def _break_seconds(time: str) -> float:
    found = re.fullmatch(r"([0-9.]{1,6})(ms|s)", time)
    return float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0


def _seconds(option: Mapping[str, Any]) -> float:
    return float(option.get("duration") or 0) / 1000
