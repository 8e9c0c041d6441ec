"""A call of the simulated CM.com: told everything when it is placed, and reported once, at its end.

Documented on https://developers.cm.com/voice (docs/the-apps, reference/callbacks) are the prompts, the replays and
the result codes. Inferred: the order of the prompts, that a key other than 1 asks for nothing, and SIP's part of a
result.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import httpx

from simulator.call import CallRequest, Ending, SimulatedCall, speech
from simulator.callbacks import Tries, Unreachable, deliver
from simulator.lines import Sound

logger = logging.getLogger(__name__)

AUDIO_SECONDS = 3.0  # length of any played file: the simulator has none
KEY_SECONDS = 5.0  # not found: how long the key 1 is waited for
CALLBACK_SECONDS = 10.0  # not found: how long an answer to the callback is waited for, and whether it is repeated
REPLAY_KEY = "1"


class PromptType(StrEnum):
    FILE = "File"
    TTS = "TTS"
    TTS_SSML = "TTS_SSML"


class Prompt(NamedTuple):
    """A text to say, or the path of a file below the account's files."""

    type: PromptType
    text: str


@dataclass(frozen=True, slots=True)
class OtpRequest(CallRequest):
    """An instruction for one callee that was accepted. Without a callback URL nothing is ever told."""

    instruction_id: str | None
    callback_url: str | None
    intro: Prompt | None
    code_prompt: Prompt | None
    code: str
    code_type: str
    replay: Prompt | None
    outro: Prompt | None
    max_replays: int
    auto_replay: bool
    locale: str


class Result(NamedTuple):
    """A row of the result codes, and how the SIP leg ended."""

    code: int
    description: str
    sip_code: str
    sip_reason: str


_FINISHED = Result(10, "Finished successfully", "BYE", "")
_FAILED = Result(11, "Failed", "500", "Server Internal Error")

RESULTS: dict[str, Result] = {
    Ending.END_OF_SCRIPT: _FINISHED,
    Ending.CALLEE: _FINISHED,
    Ending.TIME_LIMIT: _FINISHED,
    Ending.NO_ANSWER: Result(9, "Cancelled", "487", "Request Terminated"),
    Ending.BUSY: Result(11, "Failed", "486", "Busy Here"),
    Ending.UNALLOCATED: Result(11, "Failed", "404", "Not Found"),
    Ending.REJECTED: Result(12, "Call rejected", "603", "Decline"),
    Ending.UNKNOWN_CALLER_ID: Result(12, "Call rejected", "403", "Forbidden"),
}


@dataclass(slots=True)
class CallbackHabits:
    """What the documentation leaves open about callbacks."""

    type: str = "otp-finished"
    is_list: bool = False
    has_instruction_id: bool = True
    has_call_id: bool = True
    delay_seconds: float = 0.0


@dataclass(eq=False)
class CmCall(SimulatedCall):
    request: OtpRequest
    caller: str
    http: httpx.AsyncClient
    habits: CallbackHabits

    @property
    def result(self) -> Result:
        return RESULTS.get(self.ending, _FAILED)

    @property
    def ending_name(self) -> str:
        return self.result.description

    async def on_ringing(self) -> None:
        """The customer is told of the end only."""

    async def talk(self) -> None:
        order = self.request
        await self._say(order.intro)
        await self._read_code()
        for _ in range(order.max_replays):
            if not order.auto_replay and await self._ask_for_replay() != REPLAY_KEY:
                break
            await self._read_code()
        await self._say(order.outro)

    async def _say(self, prompt: Prompt | None) -> None:
        if prompt is not None:
            await self.listen(self._sound_of(prompt))

    async def _read_code(self) -> None:
        await self._say(self.request.code_prompt)
        for character in self.request.code:
            await self.listen(speech(character, self.request.locale))

    async def _ask_for_replay(self) -> str:
        prompt = (self._sound_of(self.request.replay),) if self.request.replay else ()
        return await self.wait_for_key(prompt, KEY_SECONDS)

    def _sound_of(self, prompt: Prompt) -> Sound:
        if prompt.type is PromptType.FILE:
            return Sound(AUDIO_SECONDS, url=prompt.text)
        return speech(prompt.text, self.request.locale)

    async def report_end(self) -> None:
        if self.request.callback_url is None or self.customs.loses_hangup_callback:
            return
        await self.clock.sleep(self.habits.delay_seconds)
        event = self._event()
        for _ in range(2 if self.customs.doubles_callbacks else 1):
            await self._post(self.request.callback_url, [event] if self.habits.is_list else event)

    def _event(self) -> dict[str, Any]:
        result = self.result
        event: dict[str, Any] = {
            "type": self.habits.type,
            "call-id": self.request.call_id,
            "instruction-id": self.request.instruction_id,
            "caller": self.caller,
            "callee": self.request.to,
            "result": {
                "code": result.code,
                "description": result.description,
                "sip-disconnect-code": result.sip_code,
                "sip-disconnect-reason": result.sip_reason,
            },
        }
        if not self.habits.has_instruction_id or self.request.instruction_id is None:
            del event["instruction-id"]
        if not self.habits.has_call_id:
            del event["call-id"]
        return event

    async def _post(self, url: str, body: Mapping[str, Any] | list[Any]) -> None:
        async def send() -> httpx.Response:
            return await self.http.post(url, json=body)

        try:
            await deliver(send, Tries(CALLBACK_SECONDS), self.clock)
        except Unreachable as error:
            logger.warning("simulated CM.com: callback was not taken: %s", error)
