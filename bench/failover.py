"""`python -m bench.failover`: what callers feel of carriers in trouble, over real HTTP, against what is promised.

Carriers in a process of their own take calls, refuse them, or hang. About a minute.
"""

import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

import httpx

from bench import load
from bench.sample_data import phone_number
from bench.servers import Server, carrier_settings, cores, free_port, pin, running, service
from bench.troubled_carrier import HANGS, REFUSAL_SECONDS, REFUSES
from carrier_line import PACE_SECONDS
from carrier_trouble import FAILURES_TO_OPEN

PROVEN_SENDS = 200
UNKNOWN_SENDS = FAILURES_TO_OPEN - 1  # at the same time; one more would take the carrier down
SENDS, PACE, CODE_LIFE_SECONDS = 5000, 3, 30
SENDS_WHILE_DOWN, CALLERS = 2000, 8  # few enough that an answer's time is its own, not that of a queue for the CPU
SHORT_DEADLINE_SECONDS = 1.0  # so that a hung carrier is found out soon


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    wanted: str
    seen: str
    holds: bool


class Answers(NamedTuple):
    """Of one load: how many came with each status, and the seconds that each of them took."""

    seconds: float
    latencies: dict[int, list[float]]

    @property
    def counts(self) -> str:
        return ", ".join(f"{len(found):,} x {status}" for status, found in sorted(self.latencies.items()))


@contextlib.contextmanager
def _world(providers: str, **settings: str) -> Iterator[tuple[Server, Server]]:
    """The service, and the carriers that it calls through."""
    chosen = cores()
    server_core, own_core = chosen or (None, None)
    carrier_port, port = free_port(), free_port()
    with running(
        "carrier", ["-m", "bench.troubled_carrier", str(carrier_port)], carrier_port, own_core
    ) as carrier:
        given = {
            **carrier_settings(carrier, port),
            "PROVIDERS": providers,
            "VOBIZ_API_URL": f"{carrier.url}/vobiz",
            "PLIVO_API_URL": f"{carrier.url}/plivo",
            "PLIVO_AUTH_ID": "MABENCH000",
            "PLIVO_AUTH_TOKEN": "bench-token-of-no-value",
            "PLIVO_CALLS_PER_SECOND": "0",
            **settings,
        }
        with service(server_core, "", port, **given) as ours:
            yield ours, carrier


def _trouble(carrier: Server, **trouble: str) -> None:
    httpx.post(f"{carrier.url}/trouble", json=trouble, trust_env=False).raise_for_status()


def _starts(carrier: Server) -> list[tuple[str, float]]:
    return [(name, at) for name, at in carrier.get("/starts").json()]


def _send(ours: Server, first: int, count: int, connections: int) -> Answers:
    """Send to so many numbers, each connection its next one upon an answer."""
    statuses: list[int] = []

    def keep(response: bytes) -> bool:
        statuses.append(int(response.split(b" ", 2)[1]))
        return True

    bodies = (json.dumps({"phone": phone_number(index)}).encode() for index in range(first, first + count))
    done = load.run(ours.port, (load.post("/send-otp", body) for body in bodies), keep, 60, connections)
    latencies: dict[int, list[float]] = {}
    for status, latency in zip(statuses, done.latencies, strict=True):
        latencies.setdefault(status, []).append(latency)
    return Answers(done.seconds, latencies)


def failover_on_proof() -> Iterator[Figure]:
    with _world("vobiz,plivo") as (ours, carrier):
        _trouble(carrier, vobiz=REFUSES)
        answers = _send(ours, 0, PROVEN_SENDS, connections=1)
        asked = Counter(name for name, _ in _starts(carrier))
    moved = answers.latencies.get(200, [0.0])
    beyond = [latency - REFUSAL_SECONDS for latency in moved]
    is_all = len(moved) == asked["vobiz"] == asked["plivo"] == PROVEN_SENDS
    yield Figure(
        f"failover on proof, beyond the carrier's own answer, {len(moved)} calls",
        "under 1 s",
        f"median {_ms(_quantile(beyond, 0.5))}, longest {_ms(max(beyond))}",
        is_all and max(beyond) < 1,
    )


def failover_after_unknown() -> Iterator[Figure]:
    with _world("vobiz,plivo") as (ours, carrier):
        _trouble(carrier, vobiz=HANGS)
        answers = _send(ours, 0, UNKNOWN_SENDS, connections=UNKNOWN_SENDS)
        asked = Counter(name for name, _ in _starts(carrier))
    moved = answers.latencies.get(200, [0.0])
    is_all = len(moved) == asked["vobiz"] == asked["plivo"] == UNKNOWN_SENDS
    yield Figure(
        f"failover from a carrier that does not answer, {len(moved)} calls",
        "under 10 s",
        f"longest {max(moved):.2f} s",
        is_all and max(moved) < 10,
    )


def flood_at_a_pace() -> Iterator[Figure]:
    limits = {"VOBIZ_CALLS_PER_SECOND": str(PACE), "CODE_TTL_SECONDS": str(CODE_LIFE_SECONDS)}
    with _world("vobiz", **limits) as (ours, carrier):
        _send(ours, SENDS, 1, connections=1)  # what is loaded on first use is no growth
        before = ours.resident_bytes() or 0
        answers = _send(ours, 0, SENDS, load.CONNECTIONS)
        after = ours.resident_bytes() or 0
        time.sleep(CODE_LIFE_SECONDS / 2 + 1)
        starts = [at for _, at in _starts(carrier)]
        at_rest = ours.resident_bytes() or 0
    refused = answers.latencies.get(503, [60.0])
    most = max(sum(first <= at < first + 1 for at in starts) for first in starts)
    longest_queue = PACE * int(CODE_LIFE_SECONDS / 2 / PACE_SECONDS)
    yield Figure(
        f"{SENDS:,} sends in {answers.seconds:.1f} s at {PACE} calls a second: most calls in any second",
        f"{PACE}",
        f"{most} ({len(starts)} in all; {answers.counts})",
        most <= PACE and len(starts) <= 2 * PACE + longest_queue + PACE * answers.seconds,
    )
    yield Figure(
        "... refusals, p99",
        "under 100 ms",
        _spread(refused),
        _quantile(refused, 0.99) < 0.1,
    )
    yield Figure(
        "... memory of the service",
        "flat",
        f"{_mib(before)} before, {_mib(after)} after, {_mib(at_rest)} once the queue was empty",
        after - before < 10 * 2**20,
    )


def open_breaker() -> Iterator[Figure]:
    with _world("vobiz", PROVIDER_DEADLINE_SECONDS=str(SHORT_DEADLINE_SECONDS)) as (ours, carrier):
        _trouble(carrier, vobiz=HANGS)
        _send(ours, 0, FAILURES_TO_OPEN, connections=FAILURES_TO_OPEN)
        asked = len(_starts(carrier))
        answers = _send(ours, FAILURES_TO_OPEN, SENDS_WHILE_DOWN, CALLERS)
        asked_after = len(_starts(carrier))
    refused = answers.latencies.get(503, [60.0])
    yield Figure(
        f"a hung carrier whose breaker is open: {len(refused):,} answers",
        "under 50 ms",
        _spread(refused),
        len(refused) == SENDS_WHILE_DOWN and _quantile(refused, 0.99) < 0.05,
    )
    yield Figure(
        "... requests that reached it until then, and after",
        f"{FAILURES_TO_OPEN} and 0",
        f"{asked} and {asked_after}",
        asked == FAILURES_TO_OPEN and asked_after == 0,
    )


MEASUREMENTS = (failover_on_proof, failover_after_unknown, flood_at_a_pace, open_breaker)


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    chosen = cores()
    pin(0, chosen[1] if chosen else None)
    figures: list[Figure] = []
    for measure in MEASUREMENTS:
        print(f"failover: {measure.__name__.replace('_', ' ')} ...", file=sys.stderr, flush=True)
        figures += measure()
    for figure in figures:
        verdict = "holds" if figure.holds else "MISSED"
        print(f"{figure.what}\n    {figure.seen}; wanted: {figure.wanted}: {verdict}")
    return 0 if all(figure.holds for figure in figures) else 1


def _stop(signal_number: int, _: FrameType | None) -> None:
    sys.exit(128 + signal_number)  # lets every server be stopped on the way out


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _spread(values: list[float]) -> str:
    median, p99 = _quantile(values, 0.5), _quantile(values, 0.99)
    return f"p99 {_ms(p99)} (median {_ms(median)}, longest {_ms(max(values))})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
