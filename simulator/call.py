"""One simulated call, whatever its carrier: it rings, is talked on until its time is up, and ends for a reason."""

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum

from simulator.audio import AUDIO_SECONDS, AudioFiles
from simulator.callees import Reaction
from simulator.clock import SimulatorClock
from simulator.lines import CalleeHungUp, KeyWait, Line, Sound

logger = logging.getLogger(__name__)

SPEECH_CHARACTERS_PER_SECOND = 15
SPEECH_LEAD_SECONDS = 0.3
MACHINE_DETECTION_SECONDS = 4.0


class Stage(StrEnum):
    QUEUED = "queued"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    ENDED = "ended"


class Ending(StrEnum):
    """Why a call ended, as far as every network knows it. Protocols add keys of their own."""

    CALLEE = "callee"
    END_OF_SCRIPT = "end_of_script"  # all that the customer wanted is said and done
    BUSY = "busy"
    REJECTED = "rejected"
    NO_ANSWER = "no_answer"
    UNALLOCATED = "unallocated"
    UNKNOWN_CALLER_ID = "unknown_caller_id"
    MACHINE = "machine"
    TIME_LIMIT = "time_limit"
    API_BEFORE_ANSWER = "api_before_answer"
    API_AFTER_ANSWER = "api_after_answer"


_UNANSWERED = {
    Reaction.BUSY: Ending.BUSY,
    Reaction.REJECT: Ending.REJECTED,
    Reaction.IGNORE: Ending.NO_ANSWER,
    Reaction.UNREACHABLE: Ending.UNALLOCATED,
}


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A request to call that was accepted. Numbers are E.164; durations are seconds."""

    call_id: str
    from_number: str
    to: str
    ring_timeout: float
    time_limit: float
    hang_up_on_machine: bool


@dataclass(frozen=True, slots=True)
class Customs:
    """What a scripted callee, or the account, makes of a call apart from what is heard on it."""

    loses_hangup_callback: bool = False
    doubles_callbacks: bool = False
    is_own_caller_id: bool = True


class CallEnded(Exception):
    """The call is over: for an `Ending`, or one that its protocol adds. `reason`: what the customer did wrong."""

    def __init__(self, ending: str, reason: str = "") -> None:
        super().__init__(ending)
        self.ending = ending
        self.reason = reason


@dataclass(eq=False)
class SimulatedCall(ABC):
    """The engine of a call. A protocol says in its subclass what is told to the customer, and what is said."""

    request: CallRequest
    line: Line
    clock: SimulatorClock
    customs: Customs

    stage: Stage = field(default=Stage.QUEUED, init=False)
    is_answered: bool = field(default=False, init=False)
    ring_seconds: float = field(default=0.0, init=False)
    talk_seconds: float = field(default=0.0, init=False)
    started_wall: float = field(default=0.0, init=False)
    spoken: list[str] = field(default_factory=list, init=False)
    ending: str = field(default="", init=False)
    failure_reason: str = field(default="", init=False)
    audio: AudioFiles | None = field(default=None, init=False)

    # What a protocol adds

    @abstractmethod
    async def on_ringing(self) -> None:
        """Tell the customer that the phone rings."""

    @abstractmethod
    async def talk(self) -> None:
        """Carry out what the customer wants said, until nothing is left. Raises: CallEnded, CalleeHungUp."""

    @abstractmethod
    async def report_end(self) -> None:
        """Tell the customer how the call ended."""

    @property
    def ending_code(self) -> str:
        """The ending as the carrier's records have it."""
        return self.ending

    @property
    def ending_name(self) -> str:
        """The ending in words."""
        return self.ending.replace("_", " ")

    # What a protocol uses

    async def listen(self, sound: Sound) -> None:
        """Let the callee hear a sound to its end, or to the call's. Raises: CallEnded, CalleeHungUp."""
        if sound.text:
            self.spoken.append(sound.text)
        left = self.request.time_limit - self.talk_seconds
        if sound.seconds >= left:
            await self.line.listen(Sound(left))
            self._advance(left)
            raise CallEnded(Ending.TIME_LIMIT)
        await self.line.listen(sound)
        self._advance(sound.seconds)

    async def recording(self, url: str) -> Sound | None:
        """A file as it sounds. None for one that cannot be played: it is skipped (documented by Vobiz)."""
        seconds = await self.audio.seconds_of(url) if self.audio else AUDIO_SECONDS
        return Sound(seconds, url=url) if seconds else None

    async def wait_for_keys(self, prompt: tuple[Sound, ...], wait: KeyWait) -> str:
        """The keys that were pressed during a prompt or in time after it, or "". Raises: as `listen`."""
        self.spoken += [sound.text for sound in prompt if sound.text]
        keys, seconds = await self.line.wait_for_keys(prompt, wait)
        self._advance(seconds)
        return keys

    async def wait_for_key(self, prompt: tuple[Sound, ...], timeout_seconds: float) -> str:
        """The same for one key."""
        return await self.wait_for_keys(prompt, KeyWait(timeout_seconds))

    # The course of a call

    async def run(self) -> None:
        """Live the whole call. Cancel the task to hang up as the API does."""
        self.started_wall = self.clock.wall()
        try:
            await self._ring()
            await self._detect_machine()
            await self.talk()
            self._end(Ending.END_OF_SCRIPT)
        except CallEnded as end:
            self._end(end.ending, end.reason)
        except CalleeHungUp as hung_up:
            self.talk_seconds = min(self.talk_seconds + hung_up.seconds, self.request.time_limit)
            self._end(Ending.CALLEE)
        except asyncio.CancelledError:
            self._end(Ending.API_AFTER_ANSWER if self.is_answered else Ending.API_BEFORE_ANSWER)
        self.stage = Stage.ENDED
        await self.line.ended(self.failure_reason or self.ending_name)
        await self.report_end()

    async def _ring(self) -> None:
        if not self.customs.is_own_caller_id:
            raise CallEnded(Ending.UNKNOWN_CALLER_ID)
        self.stage = Stage.RINGING
        await self.on_ringing()
        reaction, self.ring_seconds = await self.line.ring(self.request.from_number, self.request.ring_timeout)
        if reaction in _UNANSWERED:
            raise CallEnded(_UNANSWERED[reaction])
        self.stage = Stage.IN_PROGRESS
        self.is_answered = True

    async def _detect_machine(self) -> None:
        if not self.request.hang_up_on_machine:
            return
        await self.listen(Sound(MACHINE_DETECTION_SECONDS))
        if self.line.is_machine:
            raise CallEnded(Ending.MACHINE)

    def _advance(self, seconds: float) -> None:
        self.talk_seconds += seconds
        if self.talk_seconds >= self.request.time_limit:
            self.talk_seconds = self.request.time_limit
            raise CallEnded(Ending.TIME_LIMIT)

    def _end(self, ending: str, reason: str = "") -> None:
        self.ending = ending
        self.failure_reason = reason
        if reason:
            logger.warning("simulated carrier: call failed with %s: %s", self.ending_code, reason)


def speech(text: str, language: str) -> Sound:
    """A text as it is spoken; how long that takes is an estimate."""
    return Sound(SPEECH_LEAD_SECONDS + len(text) / SPEECH_CHARACTERS_PER_SECOND, text, language)
