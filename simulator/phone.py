"""The phone page's side of the network: calls to numbers that no script owns ring in the browser."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from simulator import speech
from simulator.callees import SCRIPTED_CALLEES, Reaction
from simulator.clock import SimulatorClock
from simulator.hearing import character_of, keys_asked_for
from simulator.lines import KEYS, CalleeHungUp, KeyWait, Rung, Sound, Typed

MAX_UNREAD_EVENTS = 500
KEEP_ALIVE_SECONDS = 15.0  # a page notices by it that the server is gone
KEPT_TEXTS = 5


class PhoneExchange:
    """The lines that ring in the browser, and the pages that watch them."""

    def __init__(self, clock: SimulatorClock) -> None:
        self._clock = clock
        self.has_speech = speech.is_available()
        self.lines: dict[str, PhoneLine] = {}
        self.texts: deque[dict[str, Any]] = deque(maxlen=KEPT_TEXTS)
        self._pages: set[asyncio.Queue[dict[str, Any]]] = set()

    def line(self, call_uuid: str, to: str) -> "PhoneLine":
        line = PhoneLine(self, self._clock, call_uuid, to)
        self.lines[call_uuid] = line
        return line

    def take_text(self, sender: str, to: str, text: str) -> None:
        """A text message reaches a handset: those of numbers that no script owns are in the browser."""
        if to not in SCRIPTED_CALLEES:
            self.texts.append({"event": "text", "from": sender, "to": to, "text": text})
            self.tell(self.texts[-1])

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to every page; the stream of one that has stopped reading ends, and it connects anew."""
        for page in list(self._pages):
            if page.full():
                self._finish(page)
            else:
                page.put_nowait(event)

    async def watch(self) -> AsyncIterator[dict[str, Any] | None]:
        """Events for one page: first what is going on now, then what happens; None after a quiet while."""
        page: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MAX_UNREAD_EVENTS)
        self._pages.add(page)
        try:
            yield {"event": "hello", "audio": self.has_speech}
            for event in [*self.texts, *(line.last_event for line in self.lines.values() if line.last_event)]:
                yield event
            while (event_or_end := await _next(page)) is not _END:
                yield event_or_end
        finally:
            self._pages.discard(page)

    def close(self) -> None:
        """End every page's event stream, so that the server can stop."""
        for page in list(self._pages):
            self._finish(page)

    def _finish(self, page: "asyncio.Queue[dict[str, Any]]") -> None:
        self._pages.discard(page)
        while not page.empty():
            page.get_nowait()
        page.put_nowait(_END)


_END: dict[str, Any] = {}


async def _next(page: "asyncio.Queue[dict[str, Any]]") -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(KEEP_ALIVE_SECONDS):
            return await page.get()
    except TimeoutError:
        return None


class PhoneLine:
    """A callee in a browser. A person is waited for in real time, whatever the simulator's speed."""

    is_machine = False

    def __init__(self, exchange: PhoneExchange, clock: SimulatorClock, call_uuid: str, to: str) -> None:
        self.sounds: list[Sound] = []
        self.last_event: dict[str, Any] = {}
        self._exchange = exchange
        self._clock = clock
        self._call_uuid = call_uuid
        self._numbers = {"from": "", "to": to}
        self._picked_up: asyncio.Future[Reaction] = asyncio.get_running_loop().create_future()
        self._hung_up = asyncio.Event()
        self._keys: asyncio.Queue[str] = asyncio.Queue(32)
        self._wanted = ""

    def answer(self) -> None:
        self._pick_up(Reaction.ANSWER)

    def decline(self) -> None:
        self._pick_up(Reaction.REJECT)

    def _pick_up(self, reaction: Reaction) -> None:
        if not self._picked_up.done():
            self._picked_up.set_result(reaction)

    def hang_up(self) -> None:
        self._hung_up.set()

    def press(self, key: str) -> None:
        if not self._keys.full():
            self._keys.put_nowait(key)

    async def ring(self, caller_id: str, timeout_seconds: float) -> Rung:
        started = time.monotonic()
        self._numbers["from"] = caller_id
        self._tell("ringing")
        try:
            async with asyncio.timeout(timeout_seconds):
                reaction = await asyncio.shield(self._picked_up)
        except TimeoutError:
            return Rung(Reaction.IGNORE, timeout_seconds)
        if reaction is Reaction.ANSWER:
            self._tell("answered")
        return Rung(reaction, time.monotonic() - started)

    async def listen(self, sound: Sound) -> None:
        self._tell_sound(sound)
        started = time.monotonic()
        if await _happens(self._hung_up.wait(), sound.seconds / self._clock.speed):
            raise CalleeHungUp((time.monotonic() - started) * self._clock.speed)
        while not self._keys.empty():
            self._keys.get_nowait()  # pressed while no key was asked for: a real network drops it, too
        self._wanted = ""

    async def wait_for_keys(self, prompt: tuple[Sound, ...], wait: KeyWait) -> Typed:
        started = time.monotonic()
        self._wanted = keys_asked_for(prompt) if prompt else self._wanted
        keys, prompt_seconds = "", 0.0
        for sound in prompt:
            began = time.monotonic()
            self._tell_sound(sound, self._asked(wait, ""))
            keys = await self._next_key(sound.seconds / self._clock.speed, started)
            prompt_seconds += min(sound.seconds, (time.monotonic() - began) * self._clock.speed)
            if keys:
                break
        began = time.monotonic()
        ends_at = began + wait.first_seconds
        while not wait.is_over(keys):
            if keys and wait.between_seconds is not None:
                ends_at = time.monotonic() + wait.between_seconds
            left = max(0.0, ends_at - time.monotonic())
            self._tell("waiting_for_key", seconds=left, asked=self._asked(wait, keys))
            key = await self._next_key(left, started)
            if not key:
                break
            keys += key
        self._wanted = self._wanted[len(keys) :]
        return Typed(keys, prompt_seconds + time.monotonic() - began)

    def _asked(self, wait: KeyWait, typed: str) -> dict[str, Any]:
        """What the page shows of a wait: how many keys it takes, which are there, and which are still to come."""
        wanted = self._wanted if len(self._wanted) >= wait.most else ""
        return {"keys": wait.most, "typed": typed, "wanted": wanted[len(typed) :]}

    async def _next_key(self, seconds: float, started: float) -> str:
        """The next key, or "" when none is pressed in time. Raises: CalleeHungUp."""
        key = asyncio.create_task(self._keys.get())
        hung_up = asyncio.create_task(self._hung_up.wait())
        try:
            await asyncio.wait({key, hung_up}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if self._hung_up.is_set():
                raise CalleeHungUp(time.monotonic() - started)
            return key.result() if key.done() else ""
        finally:
            key.cancel()
            hung_up.cancel()

    async def ended(self, reason: str) -> None:
        self._tell("ended", reason=reason)
        self._exchange.lines.pop(self._call_uuid, None)

    def _tell_sound(self, sound: Sound, asked: dict[str, Any] | None = None) -> None:
        """A sound of a prompt comes with what is asked for: keys may interrupt it."""
        if sound.url:
            self._tell("playing", seconds=sound.seconds, audio_url=sound.url, asked=asked)
        elif not sound.text:
            self._tell("silence", seconds=sound.seconds)
        else:
            self._tell("speaking", **self._speech(sound), asked=asked)

    def _speech(self, sound: Sound) -> dict[str, Any]:
        self.sounds.append(sound)
        audio = f"/simulator/phone/calls/{self._call_uuid}/speech/{len(self.sounds) - 1}"
        return {
            "text": sound.text,
            "character": character_of(sound),
            "language": sound.language,
            "seconds": sound.seconds,
            "audio_url": audio if self._exchange.has_speech else None,
        }

    def _tell(self, event: str, **details: Any) -> None:
        self.last_event = {"event": event, "call": self._call_uuid, **self._numbers, **details}
        self._exchange.tell(self.last_event)


async def _happens(event: Any, timeout_seconds: float) -> bool:
    try:
        async with asyncio.timeout(timeout_seconds):
            await event
    except TimeoutError:
        return False
    return True


def routes(exchange: PhoneExchange) -> list[BaseRoute]:
    """The page's event stream, and what its buttons do."""

    async def callees(_: Request) -> Response:
        known = [
            {"phone": number, "description": callee.description} for number, callee in SCRIPTED_CALLEES.items()
        ]
        return JSONResponse(known)

    async def events(_: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            async for event in exchange.watch():
                yield f"data: {json.dumps(event)}\n\n" if event else ": still here\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def act(request: Request) -> Response:
        line = exchange.lines.get(request.path_params["call_uuid"])
        if line is None:
            return _gone()
        match request.path_params["action"]:
            case "answer":
                line.answer()
            case "decline":
                line.decline()
            case "hang-up":
                line.hang_up()
            case _:
                return _gone()
        return Response(status_code=204)

    async def press(request: Request) -> Response:
        line = exchange.lines.get(request.path_params["call_uuid"])
        key = request.path_params["key"]
        if line is None or len(key) != 1 or key not in KEYS:
            return _gone()
        line.press(key)
        return Response(status_code=204)

    async def say(request: Request) -> Response:
        line = exchange.lines.get(request.path_params["call_uuid"])
        number = request.path_params["number"]
        if line is None or number >= len(line.sounds):
            return _gone()
        sound = line.sounds[number]
        try:
            audio = await speech.synthesize(sound.text, sound.language)
        except (OSError, TimeoutError, ValueError):
            return _gone()
        return Response(audio, media_type="audio/wav", headers={"Cache-Control": "no-store"})

    call = "/simulator/phone/calls/{call_uuid}"
    return [
        Route("/simulator/phone/callees", callees),
        Route("/simulator/phone/events", events),
        Route(call + "/keys/{key}", press, methods=["POST"]),
        Route(call + "/speech/{number:int}", say),
        Route(call + "/{action}", act, methods=["POST"]),
    ]


def _gone() -> Response:
    return JSONResponse({"detail": "this call is over"}, 404)
