"""Whole simulated calls: how long `/answer` takes while many are under way, and whether any gets lost."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench import load
from bench.sample_data import draw_codes
from bench.servers import Server, carrier_settings, free_port, running, service

WAVES, CALLS_A_WAVE, WAVE_SPEED = 8, 100, 50.0
PARALLEL_CALLS, PARALLEL_SPEED = 1000, 10.0
POLL_SECONDS = 0.25
CALLS_SECONDS = 40.0  # a wave that takes longer has lost calls


@dataclass(frozen=True, slots=True)
class Calls:
    """How a number of calls that were sent at once ended. `seconds` lasts from the first send to the last end."""

    sent: int
    placed: int
    spoken: int
    verified: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ParallelCalls:
    """Calls, and what they cost. CPU is in seconds, from the start of each process on; None: unknown."""

    calls: Calls
    most_at_once: int
    service_cpu: float | None
    carrier_cpu: float | None


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """Seconds that `/answer` took in the service."""

    calls: int
    most_at_once: int
    lost: int
    median: float
    longest: float


def measure_answers(core: int | None) -> AnswerTimes:
    """Waves of calls, each sent at once when the last one is over."""
    with _simulated_world(core, WAVE_SPEED, WAVES * CALLS_A_WAVE) as (ours, carrier):
        lost = 0
        for wave in range(WAVES):
            calls = _carry_out(ours, wave * CALLS_A_WAVE, CALLS_A_WAVE)
            lost += calls.sent - calls.verified
        seconds = sorted(ours.get("/bench/answers").json())
        return AnswerTimes(
            calls=WAVES * CALLS_A_WAVE,
            most_at_once=carrier.get("/peak").json(),
            lost=lost,
            median=seconds[len(seconds) // 2],
            longest=seconds[-1],
        )


def measure_parallel_calls(core: int | None) -> ParallelCalls:
    """Many calls, all sent as fast as the service takes them."""
    with _simulated_world(core, PARALLEL_SPEED, PARALLEL_CALLS) as (ours, carrier):
        calls = _carry_out(ours, 0, PARALLEL_CALLS)
        return ParallelCalls(calls, carrier.get("/peak").json(), ours.cpu_seconds(), carrier.cpu_seconds())


@contextlib.contextmanager
def _simulated_world(core: int | None, speed: float, callees: int) -> Iterator[tuple[Server, Server]]:
    carrier_port, port = free_port(), free_port()
    arguments = ["-m", "bench.simulated_carrier", str(carrier_port), str(speed), str(callees)]
    with contextlib.ExitStack() as stack:
        carrier = stack.enter_context(running("carrier", arguments, carrier_port, None))
        settings = carrier_settings(carrier, port)
        yield stack.enter_context(service(core, "bench.timed_service", port, **settings)), carrier


def _carry_out(ours: Server, first: int, count: int) -> Calls:
    """Send to each callee, wait for the ends of the calls, verify what was spoken."""
    codes = draw_codes(first, count)
    started = time.perf_counter()
    sent = _post(ours, "/send-otp", [{"phone": phone, "code": code} for phone, code in codes.items()])
    ended = _wait_for_ends(ours, [answer["phone"] for answer in sent if answer.get("call_uuid")])
    seconds = time.perf_counter() - started
    spoken = [phone for phone, end_reason in ended.items() if end_reason == "answered_and_spoken"]
    verified = _post(ours, "/verify-otp", [{"phone": phone, "otp": codes[phone]} for phone in spoken])
    return Calls(
        sent=count,
        placed=sum("call_uuid" in answer for answer in sent),
        spoken=len(spoken),
        verified=sum(answer.get("valid") is True for answer in verified),
        seconds=seconds,
    )


def _wait_for_ends(ours: Server, phones: list[str]) -> dict[str, str]:
    """End reason by number, for the calls that ended in time."""
    ended: dict[str, str] = {}
    give_up_at = time.perf_counter() + CALLS_SECONDS
    while len(ended) < len(phones) and time.perf_counter() < give_up_at:
        time.sleep(POLL_SECONDS)
        running_calls = [phone for phone in phones if phone not in ended]
        for answer in _exchange(ours, [load.get(f"/otp-status/{phone}") for phone in running_calls]):
            end_reason = (answer.get("call") or {}).get("end_reason")
            if end_reason:
                ended[answer["phone"]] = end_reason
    return ended


def _post(ours: Server, path: str, bodies: list[dict[str, str]]) -> list[Mapping[str, Any]]:
    return _exchange(ours, [load.post(path, json.dumps(body).encode()) for body in bodies])


def _exchange(ours: Server, requests: list[bytes]) -> list[Mapping[str, Any]]:
    """The answers to all requests, in the order in which they came."""
    answers: list[Mapping[str, Any]] = []

    def keep(response: bytes) -> bool:
        answers.append(json.loads(load.body_of(response)))
        return True

    load.run(ours.port, requests, keep, CALLS_SECONDS)
    return answers
