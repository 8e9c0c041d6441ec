"""One simulated call: it rings, fetches what to say, carries that out in order, and ends with a cause."""

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from simulator.answer_xml import BadXml, Element
from simulator.callbacks import CallbackSender, Unreachable
from simulator.callees import Reaction
from simulator.clock import SimulatorClock
from simulator.lines import CalleeHungUp, Line, Sound

logger = logging.getLogger(__name__)

SPEECH_CHARACTERS_PER_SECOND = 15
SPEECH_LEAD_SECONDS = 0.3
AUDIO_SECONDS = 3.0  # length of any played file: the simulator does not fetch audio
MACHINE_DETECTION_SECONDS = 4.0
MAX_DOCUMENTS = 50  # a customer who redirects for ever must not keep a call for ever


class Cause(NamedTuple):
    """A row of the hangup cause table, and who ended the call."""

    code: int
    name: str
    text: str
    source: str


# Documented on concepts/hangup-causes; texts and sources of the first rows as seen in public captures.
CAUSES = {
    "callee": Cause(4000, "Normal Hangup", "NORMAL_CLEARING", "Callee"),
    "answer_xml": Cause(4000, "Normal Hangup", "NORMAL_CLEARING", "Answer XML"),
    "end_of_xml": Cause(4010, "End Of XML Instructions", "NORMAL_CLEARING", "Vobiz"),
    "busy": Cause(3010, "Busy Line", "USER_BUSY", "Carrier"),
    "rejected": Cause(3020, "Rejected", "CALL_REJECTED", "Carrier"),
    "unallocated": Cause(3050, "Unallocated number", "UNALLOCATED_NUMBER", "Carrier"),
    "unknown_caller_id": Cause(3030, "Unknown Caller ID", "CALL_REJECTED", "Carrier"),
    "no_answer": Cause(6010, "Ring Timeout Reached", "NO_ANSWER", "Vobiz"),
    "time_limit": Cause(6000, "Scheduled Hangup", "ALLOTTED_TIMEOUT", "Vobiz"),
    "machine": Cause(9100, "Machine Detected", "NORMAL_CLEARING", "Vobiz"),
    "api_before_answer": Cause(1000, "Canceled", "ORIGINATOR_CANCEL", "API Request"),
    "api_after_answer": Cause(4000, "Normal Hangup", "NORMAL_CLEARING", "API Request"),
    "answer_unreachable": Cause(7011, "Error Reaching Answer URL", "", "Error"),
    "action_unreachable": Cause(7012, "Error Reaching Action URL", "", "Error"),
    "redirect_unreachable": Cause(7014, "Error Reaching Redirect URL", "", "Error"),
    "answer_invalid": Cause(8011, "Invalid Answer XML", "", "Error"),
    "action_invalid": Cause(8012, "Invalid Action XML", "", "Error"),
    "redirect_invalid": Cause(8014, "Invalid Redirect XML", "", "Error"),
}


class Stage(StrEnum):
    QUEUED = "queued"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Url:
    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A create-call request that was accepted. Numbers are E.164; durations are seconds."""

    call_uuid: str
    from_number: str
    to: str
    answer: Url
    fallback: Url | None
    ring: Url | None
    hangup: Url | None
    ring_timeout: float
    time_limit: float
    hang_up_on_machine: bool


@dataclass(frozen=True, slots=True)
class Customs:
    """Behaviour that the documentation leaves open, or that a scripted callee asks for."""

    no_input_posts: bool = False
    loses_hangup_callback: bool = False
    doubles_callbacks: bool = False
    is_own_caller_id: bool = True


class CallEnded(Exception):
    """The call is over, for a cause of the table."""

    def __init__(self, cause: str, reason: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.reason = reason


@dataclass(slots=True)
class SimulatedCall:
    request: CallRequest
    line: Line
    callbacks: CallbackSender
    clock: SimulatorClock
    account_id: str
    customs: Customs = field(default_factory=Customs)

    stage: Stage = Stage.QUEUED
    ring_seconds: float = 0.0
    talk_seconds: float = 0.0
    cause: Cause | None = None
    failure_reason: str = ""
    started_wall: float = 0.0
    spoken: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Live the whole call. Cancel the task to hang up as the API does."""
        self.started_wall = self.clock.wall()
        try:
            await self._ring()
            await self._talk()
        except CallEnded as end:
            self._end(end.cause, end.reason)
        except CalleeHungUp as hung_up:
            self.talk_seconds = min(self.talk_seconds + hung_up.seconds, self.request.time_limit)
            self._end("callee")
        except asyncio.CancelledError:
            self._end("api_after_answer" if self.stage is Stage.IN_PROGRESS else "api_before_answer")
        await self._report_end()

    async def _ring(self) -> None:
        if not self.customs.is_own_caller_id:
            raise CallEnded("unknown_caller_id")
        self.stage = Stage.RINGING
        if self.request.ring:
            await self._notify(self.request.ring, self._fields("Ring", "ringing"))
        reaction, self.ring_seconds = await self.line.ring(self.request.from_number, self.request.ring_timeout)
        match reaction:
            case Reaction.BUSY:
                raise CallEnded("busy")
            case Reaction.REJECT:
                raise CallEnded("rejected")
            case Reaction.IGNORE:
                raise CallEnded("no_answer")
            case Reaction.UNREACHABLE:
                raise CallEnded("unallocated")
        self.stage = Stage.IN_PROGRESS
        if self.request.hang_up_on_machine:
            await self._listen(Sound(MACHINE_DETECTION_SECONDS))
            if self.line.is_machine:
                raise CallEnded("machine")

    async def _talk(self) -> None:
        document = await self._first_document()
        for _ in range(MAX_DOCUMENTS):
            following = await self._carry_out(document)
            if following is None:
                raise CallEnded("end_of_xml")
            document = following
        raise CallEnded("redirect_invalid", f"more than {MAX_DOCUMENTS} documents in one call")

    async def _first_document(self) -> tuple[Element, ...]:
        fields = self._fields("StartApp", "in-progress")
        try:
            return await self._document(self.request.answer, fields)
        except (Unreachable, BadXml) as error:
            cause = "answer_invalid" if isinstance(error, BadXml) else "answer_unreachable"
            if self.request.fallback is None:
                raise CallEnded(cause, str(error)) from None
        return await self._fetch(self.request.fallback, fields, "answer")

    async def _fetch(self, url: Url, fields: Mapping[str, str], kind: str) -> tuple[Element, ...]:
        try:
            return await self._document(url, fields)
        except Unreachable as error:
            raise CallEnded(f"{kind}_unreachable", str(error)) from None
        except BadXml as error:
            raise CallEnded(f"{kind}_invalid", str(error)) from None

    async def _document(self, url: Url, fields: Mapping[str, str]) -> tuple[Element, ...]:
        fetched = await self.callbacks.fetch_document(url.url, fields, url.method)
        if self.customs.doubles_callbacks:
            return await self.callbacks.fetch_document(url.url, fields, url.method)
        return fetched

    async def _carry_out(self, document: tuple[Element, ...]) -> tuple[Element, ...] | None:
        """Do what a document says; the document that follows it, or None at its end."""
        for element in document:
            match element.name:
                case "Speak" | "Play" | "Wait":
                    for _ in range(_repeats(element)):
                        await self._listen(_sound_of(element))
                case "Gather":
                    replacement = await self._gather(element)
                    if replacement is not None:
                        return replacement
                case "Redirect":
                    url = Url(element.text, element.attributes.get("method", "POST"))
                    return await self._fetch(url, self._fields("Redirect", "in-progress"), "redirect")
                case "Hangup":
                    raise CallEnded("answer_xml")
        return None

    async def _gather(self, element: Element) -> tuple[Element, ...] | None:
        attributes = element.attributes
        prompt = tuple(_sound_of(child) for child in element.children for _ in range(_repeats(child)))
        self.spoken += [sound.text for sound in prompt if sound.text]
        timeout = float(attributes.get("executionTimeout", "15"))
        key, seconds = await self.line.wait_for_key(prompt, timeout)
        self._advance(seconds)
        if not key and not self.customs.no_input_posts:
            return None
        fields = {
            **self._fields("", "in-progress"),
            "InputType": "dtmf",
            "Digits": key,
            "Speech": "",
            "SpeechConfidenceScore": "0.0",
            "BilledAmount": "0.00000",
        }
        document = await self._fetch(Url(attributes["action"], attributes.get("method", "POST")), fields, "action")
        return document if attributes.get("redirect", "true") == "true" else None

    async def _listen(self, sound: Sound) -> None:
        if sound.text:
            self.spoken.append(sound.text)
        left = self.request.time_limit - self.talk_seconds
        if sound.seconds >= left:
            await self.line.listen(Sound(left))
            self._advance(left)
            raise CallEnded("time_limit")
        await self.line.listen(sound)
        self._advance(sound.seconds)

    def _advance(self, seconds: float) -> None:
        self.talk_seconds += seconds
        if self.talk_seconds >= self.request.time_limit:
            self.talk_seconds = self.request.time_limit
            raise CallEnded("time_limit")

    def _end(self, cause: str, reason: str = "") -> None:
        self.cause = CAUSES[cause]
        self.failure_reason = reason
        if reason:
            logger.warning("simulated carrier: call failed with %d: %s", self.cause.code, reason)

    async def _report_end(self) -> None:
        was_answered = self.stage is Stage.IN_PROGRESS
        self.stage = Stage.ENDED
        await self.line.ended(self.failure_reason or (self.cause.name if self.cause else ""))
        if self.request.hangup and not self.customs.loses_hangup_callback:
            await self._notify(self.request.hangup, self._hangup_fields(was_answered))

    async def _notify(self, url: Url, fields: Mapping[str, str]) -> None:
        for _ in range(2 if self.customs.doubles_callbacks else 1):
            await self.callbacks.notify(url.url, fields, url.method)

    def _fields(self, event: str, call_status: str) -> dict[str, str]:
        """The standard fields; numbers arrive without their plus sign, as in public captures."""
        fields = {
            "CallUUID": self.request.call_uuid,
            "RequestUUID": self.request.call_uuid,
            "ALegRequestUUID": self.request.call_uuid,
            "Direction": "outbound",
            "From": self.request.from_number.removeprefix("+"),
            "To": self.request.to.removeprefix("+"),
            "CallStatus": call_status,
            "SessionStart": _utc(self.started_wall),
            "STIRAttestation": "",
            "ParentAuthID": self.account_id,
        }
        if event:
            fields["Event"] = event
        if event in ("StartApp", "Hangup"):
            fields["STIRVerification"] = "Not Applicable"
        if event != "Ring":
            fields["ALegUUID"] = self.request.call_uuid
        return fields

    def _hangup_fields(self, was_answered: bool) -> dict[str, str]:
        cause = self.cause or CAUSES["callee"]
        answered_wall = self.started_wall + self.ring_seconds
        talk_seconds = math.floor(self.talk_seconds)
        return {
            **self._fields("Hangup", "completed"),
            "StartTime": _local(self.started_wall),
            "AnswerTime": _local(answered_wall) if was_answered else "",
            "EndTime": _local(answered_wall + self.talk_seconds),
            "HangupCause": cause.text,
            "HangupCauseCode": str(cause.code),
            "HangupCauseName": cause.name,
            "HangupSource": cause.source,
            "Duration": str(talk_seconds),
            "BillDuration": str(math.ceil(talk_seconds / 60) * 60),
            "TotalCost": "0.00000",
            "BillRate": "0.00000",
            "CountryCode": "",
            "RouteType": "Not_Domestic",
        }


def _sound_of(element: Element) -> Sound:
    if element.name == "Wait":
        return Sound(float(element.attributes.get("length", "1")))
    if element.name == "Play":
        return Sound(AUDIO_SECONDS, url=element.text)
    seconds = SPEECH_LEAD_SECONDS + len(element.text) / SPEECH_CHARACTERS_PER_SECOND
    return Sound(seconds, element.text, element.attributes.get("language", "en-US"))


def _repeats(element: Element) -> int:
    """How often a sound is played; 0 means for ever, which the time limit ends."""
    return int(element.attributes.get("loop", "1")) or 10**9


def _utc(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _local(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S")
