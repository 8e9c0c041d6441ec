"""The call of a carrier that asks its customer what to say, and is answered with XML documents: Vobiz, Plivo.

What the two have in common is here. A carrier's subclass says what is its own: `causes`, `key_timeouts`, fields of
its callbacks, further elements.
"""

import math
from abc import ABC
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import repeat
from typing import ClassVar, NamedTuple

from simulator.answer_xml import BadXml, Document, Element
from simulator.audio import AUDIO_SECONDS as AUDIO_SECONDS
from simulator.call import CallEnded, CallRequest, SimulatedCall, speech
from simulator.callbacks import CallbackSender, Unreachable
from simulator.hangup_causes import Cause
from simulator.lines import KEYS, KeyWait, Sound

DETECTION_SECONDS = 5.0  # documented: what holds where no time for machine detection is named
AUTO_SECONDS = 2.0  # between keys, *inferred*: no page says how long "auto" is
MAX_DOCUMENTS = 50  # a customer who redirects for ever must not keep a call for ever


@dataclass(frozen=True, slots=True)
class Url:
    url: str
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class XmlCallRequest(CallRequest):
    """A request to call that names the URLs to ask and to tell; `machine` is told whether a machine answered."""

    answer: Url
    fallback: Url | None
    ring: Url | None
    hangup: Url | None
    machine: Url | None = None
    detection_seconds: float = DETECTION_SECONDS


class KeyTimeout(NamedTuple):
    """How long an element waits for a key: the attribute that says it, and what holds without it.

    The same for the next keys, and how many it takes where `numDigits` does not say so.
    """

    attribute: str
    default_seconds: float
    between_attribute: str = "digitEndTimeout"
    most_keys: int = 1


@dataclass(eq=False)
class XmlCall(SimulatedCall, ABC):
    """`no_input_posts`: whether the action URL is asked, with no digits, although no key was pressed."""

    causes: ClassVar[Mapping[str, Cause]]
    key_timeouts: ClassVar[Mapping[str, KeyTimeout]]
    """By the name of each element that waits for keys."""

    request: XmlCallRequest
    callbacks: CallbackSender
    account_id: str
    no_input_posts: bool = False

    has_told_verdict: bool = field(default=False, init=False)

    @property
    def cause(self) -> Cause | None:
        return self.causes[self.ending] if self.ending else None

    @property
    def ending_code(self) -> str:
        return str(self.causes[self.ending].code)

    @property
    def ending_name(self) -> str:
        return self.causes[self.ending].name

    async def on_ringing(self) -> None:
        if self.request.ring:
            await self._notify(self.request.ring, self.fields("Ring", "ringing"))

    async def report_end(self) -> None:
        if self.request.hangup and not self.customs.loses_hangup_callback:
            await self._notify(self.request.hangup, self.hangup_fields(self.causes[self.ending]))

    # Machines

    async def listen(self, sound: Sound) -> None:
        await super().listen(sound)
        await self._tell_verdict()

    async def wait_for_keys(self, prompt: tuple[Sound, ...], wait: KeyWait) -> str:
        keys = await super().wait_for_keys(prompt, wait)
        await self._tell_verdict()
        return keys

    async def _tell_verdict(self) -> None:
        """Asynchronous detection: once its time is over, and before anything else is asked."""
        url = self.request.machine
        if url is None or self.has_told_verdict or self.talk_seconds < self.request.detection_seconds:
            return
        self.has_told_verdict = True
        await self._notify(url, self.machine_fields())

    def machine_fields(self) -> dict[str, str]:
        """What the URL for machine detection is told."""
        fields = self.fields("MachineDetection", "in-progress")
        for name in ("SessionStart", "STIRAttestation"):
            del fields[name]
        return {**fields, "Machine": str(self.line.is_machine).lower(), "IfMachine": "continue"}

    # Documents

    async def talk(self) -> None:
        document = await self._first_document()
        for _ in range(MAX_DOCUMENTS):
            following = await self._carry_out_all(document)
            if following is None:
                return
            document = following
        raise CallEnded("redirect_invalid", f"more than {MAX_DOCUMENTS} documents in one call")

    async def _first_document(self) -> Document:
        fields = self.fields("StartApp", "in-progress")
        try:
            return await self._document(self.request.answer, fields)
        except (Unreachable, BadXml) as error:
            cause = "answer_invalid" if isinstance(error, BadXml) else "answer_unreachable"
            if self.request.fallback is None:
                raise CallEnded(cause, str(error)) from None
        return await self._fetch(self.request.fallback, fields, "answer")

    async def _fetch(self, url: Url, fields: Mapping[str, str], kind: str) -> Document:
        try:
            return await self._document(url, fields)
        except Unreachable as error:
            raise CallEnded(f"{kind}_unreachable", str(error)) from None
        except BadXml as error:
            raise CallEnded(f"{kind}_invalid", str(error)) from None

    async def _document(self, url: Url, fields: Mapping[str, str]) -> Document:
        fetched = await self.callbacks.fetch_document(url.url, fields, url.method)
        if self.customs.doubles_callbacks:
            return await self.callbacks.fetch_document(url.url, fields, url.method)
        return fetched

    async def _notify(self, url: Url, fields: Mapping[str, str]) -> None:
        for _ in range(2 if self.customs.doubles_callbacks else 1):
            await self.callbacks.notify(url.url, fields, url.method)

    # Elements

    async def _carry_out_all(self, document: Document) -> Document | None:
        for element in document:
            following = await self.carry_out(element)
            if following is not None:
                return following
        return None

    async def carry_out(self, element: Element) -> Document | None:
        """Do what an element says; the document that replaces the rest of its own, if any."""
        if element.name in self.key_timeouts:
            return await self._gather(element)
        match element.name:
            case "Speak" | "Play" | "Wait":
                for sound in await self._sounds_of(element):
                    await self.listen(sound)
            case "Redirect":
                url = Url(element.text, element.attributes.get("method", "POST"))
                return await self._fetch(url, self.fields("Redirect", "in-progress"), "redirect")
            case "Hangup":
                raise CallEnded("answer_xml")
        return None

    async def _gather(self, element: Element) -> Document | None:
        keys = await self._ask_for_keys(element)
        if not keys and not self.no_input_posts:
            return None
        attributes = element.attributes
        action = Url(attributes["action"], attributes.get("method", "POST"))
        document = await self._fetch(action, self.key_fields(element, keys), "action")
        return document if attributes.get("redirect", "true") == "true" else None

    async def _ask_for_keys(self, element: Element) -> str:
        """The keys without the one that finishes them, or "" when there were none.

        Plivo's elements may ask several times, and for certain keys only. *Inferred*: `retries` counts the first
        time, and a key that is not asked for uses one up.
        """
        attributes = element.attributes
        wait = self._key_wait(element)
        prompt = tuple([sound for child in element.children for sound in await self._sounds_of(child)])
        for _ in range(int(attributes.get("retries", "1"))):
            keys = (await self.wait_for_keys(prompt, wait)).removesuffix(wait.end_keys)
            if keys and set(keys) <= set(attributes.get("validDigits", KEYS)):
                return keys
            if keys and "invalidDigitsSound" in attributes:
                refusal = await self.recording(attributes["invalidDigitsSound"])
                await self.listen(refusal or Sound(0))
        return ""

    async def _sounds_of(self, element: Element) -> Iterable[Sound]:
        """What is heard of Speak, Play or Wait, as often as it is to be repeated."""
        sound = await self.recording(element.text) if element.name == "Play" else _sound_of(element)
        return repeat(sound, _repeats(element)) if sound else ()

    def _key_wait(self, element: Element) -> KeyWait:
        attributes, timeout = element.attributes, self.key_timeouts[element.name]
        between = attributes.get(timeout.between_attribute, "auto")
        finish_key = attributes.get("finishOnKey", "#")
        return KeyWait(
            first_seconds=float(attributes.get(timeout.attribute, timeout.default_seconds)),
            most=int(attributes.get("numDigits", timeout.most_keys)),
            between_seconds=AUTO_SECONDS if between == "auto" else float(between),
            end_keys="" if finish_key == "none" else finish_key,
        )

    # Fields of callbacks

    def fields(self, event: str, call_status: str) -> dict[str, str]:
        """The standard fields; numbers arrive without their plus sign, as in public captures."""
        fields = {
            "CallUUID": self.request.call_id,
            "RequestUUID": self.request.call_id,
            "ALegRequestUUID": self.request.call_id,
            "Direction": "outbound",
            "From": self.request.from_number.removeprefix("+"),
            "To": self.request.to.removeprefix("+"),
            "CallStatus": call_status,
            "SessionStart": _utc(self.started_wall),
            "STIRAttestation": "",
        }
        if event:
            fields["Event"] = event
        if event != "Ring":
            fields["ALegUUID"] = self.request.call_id
        return fields

    def key_fields(self, element: Element, keys: str) -> dict[str, str]:
        """What the action URL of an element is told."""
        return {
            **self.fields("", "in-progress"),
            "InputType": "dtmf",
            "Digits": keys,
            "Speech": "",
            "SpeechConfidenceScore": "0.0",
            "BilledAmount": "0.00000",
        }

    def hangup_fields(self, cause: Cause) -> dict[str, str]:
        """What the hangup URL is told: the standard fields, the cause, and what was billed, in whole minutes."""
        answered_wall = self.started_wall + self.ring_seconds
        talk_seconds = math.floor(self.talk_seconds)
        return {
            **self.fields("Hangup", "completed"),
            "StartTime": _local(self.started_wall),
            "AnswerTime": _local(answered_wall) if self.is_answered else "",
            "EndTime": _local(answered_wall + self.talk_seconds),
            "HangupCause": cause.text,
            "HangupCauseCode": str(cause.code),
            "HangupCauseName": cause.name,
            "HangupSource": cause.source,
            "Duration": str(talk_seconds),
            "BillDuration": str(math.ceil(talk_seconds / 60) * 60),
            "TotalCost": "0.00000",
            "BillRate": "0.00000",
        }


def _sound_of(element: Element) -> Sound:
    """What is heard of Speak or Wait."""
    if element.name == "Wait":
        return Sound(float(element.attributes.get("length", "1")))
    return speech(element.text, element.attributes.get("language", "en-US"))


def _repeats(element: Element) -> int:
    """How often a sound is played; 0 means for ever, which the time limit ends."""
    return int(element.attributes.get("loop", "1")) or 10**9


def _utc(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _local(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S")
