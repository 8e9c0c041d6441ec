"""`python -m bench.voicemail`: whether answering machines hear codes that come after a key press. About a minute.

The service calls through the simulated Vobiz, Plivo and VoIPBin, over real HTTP. Codes are of letters, so that no
key that is announced can be taken for a part of one.
"""

import asyncio
import contextlib
import random
import socket
import string
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import cycle
from math import perm
from typing import Any, NamedTuple

import httpx

from bench.sample_data import phone_number, seeded
from bench.servers import WIDE_LIMITS
from http_client import open_http_client
from server import Server, create_app
from settings import load_settings
from simulator.callees import SCRIPTED_CALLEES
from simulator.hearing import Sound, character_of, keys_asked_for
from simulator.network import Carrier
from verification import KEY_TRIES

CARRIERS = ("vobiz", "plivo", "voipbin")
SETTINGS: Mapping[str, Any] = {
    "simulate": True,
    "providers": ",".join(CARRIERS),
    "simulator_speed": float("inf"),
    "require_keypress": True,
    "keypress_digits": 2,
    "provider_deadline_seconds": 60,
    **{f"{carrier}_calls_per_second": 0 for carrier in CARRIERS},
}
SILENT, BEEPING, ONE_TONE, ALL_TONES = "+14155550109", "+14155550121", "+14155550122", "+14155550123"
PERSON = "+14155550119"
TYPED = {ALL_TONES: "01"}  # what the network makes of the tones, where two keys are waited for
CALLS = {SILENT: 200, BEEPING: 200, ONE_TONE: 300, ALL_TONES: 300, PERSON: 60}
AT_ONCE = 50
SIGMAS = 4  # by which luck may pass what is expected


class Meeting(NamedTuple):
    """One call: whether the callee heard any of its code, and the keys that were asked for before."""

    carrier: str
    has_heard: bool
    asked_for: tuple[str, ...]


class Figure(NamedTuple):
    what: str
    wanted: str
    seen: str
    holds: bool


def chance(digits: int) -> float:
    """That someone who presses keys without listening presses the right ones in one of the tries."""
    return float(1 - (1 - 1 / perm(10, digits)) ** KEY_TRIES)


async def meet(
    client: httpx.AsyncClient, carriers: Mapping[str, Carrier[Any]], callee: str, first: int, count: int
) -> list[Meeting]:
    """Call so many numbers, at each of which a callee is that does as the scripted one, and see what was heard."""
    for carrier in carriers.values():
        carrier.stand_in = SCRIPTED_CALLEES[callee]
    rng, gate = seeded(first), asyncio.Semaphore(AT_ONCE)

    async def place(phone: str, code: str, carrier: str) -> str:
        async with gate:
            body = {"phone": phone, "code": code, "provider": carrier}
            answer = (await client.post("/send-otp", json=body)).raise_for_status().json()
        return str(answer["call_uuid"])

    codes = {phone_number(index): _letters(rng) for index in range(first, first + count)}
    names = [name for name, _ in zip(cycle(carriers), codes, strict=False)]
    placed = zip(codes.items(), names, strict=True)
    call_ids = await asyncio.gather(*(place(phone, code, name) for (phone, code), name in placed))
    for carrier in carriers.values():
        while carrier.tasks:
            await asyncio.gather(*carrier.tasks.values())
    return [
        _meeting(name, carriers[name].records[call_id].spoken, code)
        for call_id, name, code in zip(call_ids, names, codes.values(), strict=True)
    ]


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_uppercase, k=6))


def _meeting(carrier: str, spoken: Sequence[str], code: str) -> Meeting:
    heard = [Sound(0, text, "en") for text in spoken]
    keys = "".join(keys_asked_for((sound,)) for sound in heard)
    digits = SETTINGS["keypress_digits"]
    asked_for = tuple(keys[place : place + digits] for place in range(0, KEY_TRIES * digits, digits))
    return Meeting(carrier, any(character_of(sound) in code for sound in heard if character_of(sound)), asked_for)


def figures(meetings: Mapping[str, Sequence[Meeting]]) -> list[Figure]:
    """What was seen, by callee, against what is promised."""
    found = []
    for callee, met in meetings.items():
        told = sum(one.has_heard for one in met)
        what = f"codes heard in {len(met)} calls to someone who {SCRIPTED_CALLEES[callee].description}"
        if callee == PERSON:
            found.append(Figure(what, f"{len(met)}", f"{told}", told == len(met)))
        elif callee in TYPED:
            expected = chance(SETTINGS["keypress_digits"])
            most = len(met) * expected + SIGMAS * (len(met) * expected * (1 - expected)) ** 0.5
            by_luck = sum(TYPED[callee] in one.asked_for for one in met)
            wanted = f"{len(met) * expected:.1f} by chance ({expected:.2%}), {int(most)} at the most"
            seen = f"{told}, of which {by_luck} had been asked for the keys {TYPED[callee]}"
            found.append(Figure(what, wanted, seen, told == by_luck <= most))
        else:
            found.append(Figure(what, "0", f"{told}", told == 0))
    return found


@contextlib.asynccontextmanager
async def _service() -> AsyncIterator[tuple[httpx.AsyncClient, Mapping[str, Carrier[Any]]]]:
    limits = {name.lower(): value for name, value in WIDE_LIMITS.items()}
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from here on requests wait for the server
        port = listener.getsockname()[1]
        app = create_app(load_settings(**limits, **SETTINGS, http_port=port))
        server = Server(app)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with open_http_client(30) as client:
            client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
            yield client, app.state.carriers
        server.stop()
        await serving


async def measure() -> dict[str, list[Meeting]]:
    async with _service() as (client, carriers):
        meetings, first = {}, 0
        for callee, count in CALLS.items():
            print(f"voicemail: {SCRIPTED_CALLEES[callee].description} ...", file=sys.stderr, flush=True)
            meetings[callee] = await meet(client, carriers, callee, first, count)
            first += count
        return meetings


def measured_figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # settings are also read from a `.env`
        return figures(asyncio.run(measure()))


def main() -> int:
    started = time.perf_counter()
    found = measured_figures()
    for figure in found:
        verdict = "holds" if figure.holds else "MISSED"
        print(f"{figure.what}\n    {figure.seen}; wanted: {figure.wanted}: {verdict}")
    print(f"{', '.join(CARRIERS)}; {time.perf_counter() - started:.0f} s")
    return 0 if all(figure.holds for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
