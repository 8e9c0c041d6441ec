"""The callee's end of a call: what a call needs of it, and the scripted kind."""

from typing import NamedTuple, Protocol

from simulator.callees import Reaction, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.hearing import Sound as Sound
from simulator.hearing import keys_asked_for

KEYS = "1234567890*#"
KEY_SECONDS = 0.4  # from one key to the next


class Rung(NamedTuple):
    """How ringing ended, and after how many seconds."""

    reaction: Reaction
    seconds: float


class KeyWait(NamedTuple):
    """A wait for keys: it ends with the last of `most` keys, with one of `end_keys`, or when a time is over.

    The first key is waited for until `first_seconds` after the prompt, each further one for `between_seconds`;
    None: there is one time for all of them.
    """

    first_seconds: float
    most: int = 1
    between_seconds: float | None = None
    end_keys: str = ""

    def is_over(self, keys: str) -> bool:
        """Whether it ends with the last of these keys."""
        return len(keys) >= self.most or (keys != "" and keys[-1] in self.end_keys)

    def take(self, pressed: str) -> str:
        """The keys that it takes of those that are pressed."""
        counts = range(1, len(pressed) + 1)
        return next((pressed[:count] for count in counts if self.is_over(pressed[:count])), pressed)


class Typed(NamedTuple):
    """The keys that were pressed in a wait, and how long it lasted. A key that ended it is the last of them."""

    keys: str
    seconds: float


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

    async def wait_for_keys(self, prompt: tuple[Sound, ...], wait: KeyWait) -> Typed:
        """Hear a prompt, which a key interrupts, and wait for keys. Raises: CalleeHungUp."""
        ...

    async def ended(self, reason: str) -> None: ...


class ScriptedLine:
    """A callee that follows a script; time passes on the simulator's clock only."""

    def __init__(self, callee: ScriptedCallee, clock: SimulatorClock) -> None:
        self.is_machine = callee.is_machine
        self._callee = callee
        self._clock = clock
        self._keys = list(callee.keys)
        self._half_typed = ""
        self._heard_seconds = 0.0

    async def ring(self, caller_id: str, timeout_seconds: float) -> Rung:
        callee = self._callee
        if callee.reaction is Reaction.IGNORE or callee.ring_seconds > timeout_seconds:
            await self._clock.sleep(timeout_seconds)
            return Rung(Reaction.IGNORE, timeout_seconds)
        await self._clock.sleep(callee.ring_seconds)
        return Rung(callee.reaction, callee.ring_seconds)

    async def listen(self, sound: Sound) -> None:
        self._half_typed = ""  # while no key is waited for, a network drops what is pressed
        await self._pass(sound.seconds)

    async def wait_for_keys(self, prompt: tuple[Sound, ...], wait: KeyWait) -> Typed:
        prompt_seconds = sum(sound.seconds for sound in prompt)
        seconds = 0.0 if self._half_typed or self._callee.tones else prompt_seconds
        pressed = self._half_typed or self._presses(prompt, wait)
        keys = wait.take(pressed)
        self._half_typed = pressed[len(keys) :]
        seconds += KEY_SECONDS * max(0, len(keys) - 1)
        if not wait.is_over(keys):
            if keys and wait.between_seconds is not None:
                seconds += wait.between_seconds
            else:
                seconds = prompt_seconds + wait.first_seconds
        await self._pass(seconds)
        return Typed(keys, seconds)

    def _presses(self, prompt: tuple[Sound, ...], wait: KeyWait) -> str:
        """What the callee would press at a wait, and go on with where it takes fewer keys."""
        callee = self._callee
        if callee.tones:  # a beep is no key
            return "".join(tone for tone in callee.tones if tone in KEYS) * wait.most
        if callee.presses_what_is_asked:
            asked = keys_asked_for(prompt)
            return asked if len(asked) >= wait.most else ""
        return self._keys.pop(0) if self._keys else ""

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
