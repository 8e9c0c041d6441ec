"""The callee's end of a call: what a call needs of it, and the scripted kind."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from simulator.callees import Reaction, ScriptedCallee
from simulator.clock import SimulatorClock


class Rung(NamedTuple):
    """How ringing ended, and after how many seconds."""

    reaction: Reaction
    seconds: float


class KeyPress(NamedTuple):
    """A key, or an empty string when none was pressed, and the seconds that were waited for it."""

    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Sound:
    """What is heard for some seconds: a spoken text, an audio file, or nothing."""

    seconds: float
    text: str = ""
    language: str = ""
    url: str = ""


class CalleeHungUp(Exception):
    """The callee ended the call, `seconds` into what was going on."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Line(Protocol):
    is_machine: bool

    async def ring(self, caller_id: str, timeout_seconds: float) -> Rung: ...

    async def listen(self, sound: Sound) -> None:
        """Hear a sound to its end. Raises: CalleeHungUp."""
        ...

    async def wait_for_key(self, prompt: tuple[Sound, ...], timeout_seconds: float) -> KeyPress:
        """Hear a prompt, which a key interrupts, and wait for a key. Raises: CalleeHungUp."""
        ...

    async def ended(self, reason: str) -> None: ...


class ScriptedLine:
    """A callee that follows a script; time passes on the simulator's clock only."""

    def __init__(self, callee: ScriptedCallee, clock: SimulatorClock) -> None:
        self.is_machine = callee.is_machine
        self._callee = callee
        self._clock = clock
        self._keys = list(callee.keys)
        self._heard_seconds = 0.0

    async def ring(self, caller_id: str, timeout_seconds: float) -> Rung:
        callee = self._callee
        if callee.reaction is Reaction.IGNORE or callee.ring_seconds > timeout_seconds:
            await self._clock.sleep(timeout_seconds)
            return Rung(Reaction.IGNORE, timeout_seconds)
        await self._clock.sleep(callee.ring_seconds)
        return Rung(callee.reaction, callee.ring_seconds)

    async def listen(self, sound: Sound) -> None:
        await self._pass(sound.seconds)

    async def wait_for_key(self, prompt: tuple[Sound, ...], timeout_seconds: float) -> KeyPress:
        prompt_seconds = sum(sound.seconds for sound in prompt)
        if self._keys:
            await self._pass(prompt_seconds)
            return KeyPress(self._keys.pop(0), prompt_seconds)
        await self._pass(prompt_seconds + timeout_seconds)
        return KeyPress("", prompt_seconds + timeout_seconds)

    async def ended(self, reason: str) -> None:
        """Scripted callees do not mind."""

    async def _pass(self, seconds: float) -> None:
        patience = self._callee.hangs_up_after_seconds
        if patience is not None and self._heard_seconds + seconds >= patience:
            remaining = max(0.0, patience - self._heard_seconds)
            await self._clock.sleep(remaining)
            raise CalleeHungUp(remaining)
        self._heard_seconds += seconds
        await self._clock.sleep(seconds)
