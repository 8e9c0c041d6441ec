"""Each hot route against the bare app, in interleaved rounds on verifications that the same round has sent."""

import contextlib
import hmac
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from bench import load
from bench.load import Check, Load
from bench.sample_data import draw_codes
from bench.servers import AUTH_TOKEN, Server, carrier_settings, free_port, running, service
from vobiz_client import sign

ROUNDS = 3
SENDS_A_ROUND = 12_000
WRONG_CODES_EACH = 4  # of the five attempts; the fifth is for the right code
STATUS_QUERIES_EACH = 2
BARE_REQUESTS = 60_000
PHASE_SECONDS = 6.0  # no phase takes longer, however slow the machine
SLICES = 6  # in which services take turns: a machine that others use, too, changes its speed within seconds

BARE = "bare ASGI"
NOTHING_MORE: Mapping[str, Mapping[str, str]] = {}
Around = Callable[[str], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One phase of one round. `cpu_us` is the server's CPU time per request in microseconds; None: unknown."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    generator_busy: float
    count: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A verification under way: its number and code, and where its call is answered."""

    phone: str
    code: str
    call_id: str
    answer_url: str


class WrongAnswers(Exception):
    """The service answered something else than what was to be measured."""


def measure_routes(
    core: int | None, more: Mapping[str, Mapping[str, str]] = NOTHING_MORE, around: Around = contextlib.nullcontext
) -> Iterator[tuple[int, str, Measurement]]:
    """Round, subject and measurement, as they come; with settings by name also of services that have these.

    `around` is entered with the subject while that one is measured.
    """
    with contextlib.ExitStack() as stack:
        bare_port = free_port()
        bare = stack.enter_context(running("bare", ["-m", "bench.bare_app", str(bare_port)], bare_port, core))
        services = {name: _with_carrier(stack, core, given) for name, given in {"": {}, **more}.items()}
        for round_number in range(ROUNDS):
            yield round_number, BARE, _bare(bare)
            codes = draw_codes(round_number * SENDS_A_ROUND, SENDS_A_ROUND)
            phases = [_phases(name, *service, codes) for name, service in services.items()]
            for of_each in zip(*phases, strict=True):
                for phase, measurement in zip(of_each, _measure_in_turns(of_each, around), strict=True):
                    yield round_number, phase.subject, measurement


def _with_carrier(
    stack: contextlib.ExitStack, core: int | None, settings: Mapping[str, str]
) -> tuple[Server, Server]:
    """A service, and its carrier, which shares the generator's core: this process and its children without a core
    keep to that."""
    carrier_port, port = free_port(), free_port()
    command = ["-m", "bench.fake_carrier", str(carrier_port)]
    carrier = stack.enter_context(running("carrier", command, carrier_port, None))
    return stack.enter_context(service(core, port=port, **carrier_settings(carrier, port), **settings)), carrier


def _bare(bare: Server) -> Measurement:
    phase = Phase(BARE, bare, [load.get("/")] * BARE_REQUESTS, _has(b"attempts_left"))
    return _measure_in_turns([phase], contextlib.nullcontext)[0]


class Phase(NamedTuple):
    subject: str
    server: Server
    requests: Sequence[bytes]
    check: Check


def _phases(name: str, ours: Server, carrier: Server, codes: dict[str, str]) -> Iterator[Phase]:
    """Each is to be measured before the next one is asked for, which goes on with what it left."""
    sends = [_send(phone, code) for phone, code in codes.items()]
    carrier.get("/calls")
    yield Phase(f"send{name}", ours, sends, _has(b"call_initiated"))
    ready = _prepared(carrier, codes)
    half = len(ready) // 2
    status = [load.get(f"/otp-status/{one.phone}") for one in ready] * STATUS_QUERIES_EACH
    yield Phase(f"status{name}", ours, status, _has(b'"dialing"'))
    yield Phase(f"answer{name}", ours, [_answer(one) for one in ready[:half]], _has(b"<Gather"))
    yield Phase(f"answer, full{name}", ours, [_full_answer(one) for one in ready[half:]], _has(b"<Gather"))
    wrong = [_verify(one.phone, _other_code(one.code)) for one in ready] * WRONG_CODES_EACH
    yield Phase(f"verify, wrong{name}", ours, wrong, _has(b'"incorrect"'))
    right = [_verify(one.phone, one.code) for one in ready]
    yield Phase(f"verify, right{name}", ours, right, _has(b'"valid":true'))


def _measure_in_turns(phases: Sequence[Phase], around: Around) -> list[Measurement]:
    """A phase of each server, a slice of the one after a slice of the other."""
    loads: list[list[Load]] = [[] for _ in phases]
    for number in range(SLICES):
        for phase, slices in zip(phases, loads, strict=True):
            requests, seconds, server = phase.requests[number::SLICES], PHASE_SECONDS / SLICES, phase.server
            with around(phase.subject):
                made = load.run(server.port, requests, phase.check, seconds, cpu_seconds=server.cpu_seconds)
            slices.append(made)
    return [_measurement(slices) for slices in loads]


def _measurement(slices: Sequence[Load]) -> Measurement:
    latencies = sorted(itertools.chain.from_iterable(one.latencies for one in slices))
    if not latencies or any(one.unexpected for one in slices):
        strange = next((one for one in slices if one.unexpected), slices[0])
        raise WrongAnswers(f"{strange.unexpected} of {strange.count}: {strange.first_unexpected[:500]!r}")
    seconds = sum(one.seconds for one in slices)
    cpu_seconds = [one.cpu_seconds for one in slices if one.cpu_seconds is not None]
    return Measurement(
        requests_per_second=len(latencies) / seconds,
        p50_ms=percentile(latencies, 0.50) * 1000,
        p99_ms=percentile(latencies, 0.99) * 1000,
        cpu_us=sum(cpu_seconds) / len(latencies) * 1e6 if cpu_seconds else None,
        generator_busy=sum(one.generator_busy * one.seconds for one in slices) / seconds,
        count=len(latencies),
    )


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median_of(measurements: list[Measurement]) -> Measurement:
    cpus = [one.cpu_us for one in measurements if one.cpu_us is not None]
    return Measurement(
        requests_per_second=statistics.median(one.requests_per_second for one in measurements),
        p50_ms=statistics.median(one.p50_ms for one in measurements),
        p99_ms=statistics.median(one.p99_ms for one in measurements),
        cpu_us=statistics.median(cpus) if cpus else None,
        generator_busy=statistics.median(one.generator_busy for one in measurements),
    )


def _has(text: bytes) -> Check:
    return lambda response: text in response


def _prepared(carrier: Server, codes: dict[str, str]) -> list[Prepared]:
    """The calls that reached the carrier; fewer than were wanted if sending them took too long."""
    return [
        Prepared(to, codes[to], call_id, answer_url) for call_id, answer_url, to in carrier.get("/calls").json()
    ]


def _send(phone: str, code: str) -> bytes:
    return load.post("/send-otp", json.dumps({"phone": phone, "code": code, "ttl_seconds": 600}).encode())


def _verify(phone: str, code: str) -> bytes:
    return load.post("/verify-otp", json.dumps({"phone": phone, "otp": code}).encode())


def _other_code(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06d}"


def _answer(one: Prepared) -> bytes:
    """The least that a carrier may post: unsigned, the two fields that are read."""
    body = urlencode({"CallUUID": one.call_id, "Event": "StartApp"}).encode()
    return load.post(_path(one.answer_url), body, "application/x-www-form-urlencoded")


def _full_answer(one: Prepared) -> bytes:
    """What Vobiz posts: every documented field, signed twice (V3 and V2, of which only V3 is looked at)."""
    fields = {
        "CallUUID": one.call_id,
        "RequestUUID": one.call_id,
        "ALegRequestUUID": one.call_id,
        "ALegUUID": one.call_id,
        "Direction": "outbound",
        "From": "12025550100",
        "To": one.phone[1:],
        "CallStatus": "in-progress",
        "SessionStart": "2026-03-01 09:30:00.125000",
        "STIRAttestation": "",
        "STIRVerification": "Not Applicable",
        "ParentAuthID": "MA_BENCH000",
        "Event": "StartApp",
    }
    nonce = "12345678901234567890"
    return load.post(
        _path(one.answer_url),
        urlencode(fields).encode(),
        "application/x-www-form-urlencoded",
        User_Agent="Vobiz",
        X_Vobiz_Signature_V2="unused=",
        X_Vobiz_Signature_V2_Nonce=nonce,
        X_Vobiz_Signature_V3=_signature(one.answer_url.partition("?")[0], nonce),
        X_Vobiz_Signature_V3_Nonce=nonce,
    )


def _signature(url: str, nonce: str) -> str:
    return sign(hmac.new(AUTH_TOKEN.encode(), digestmod=sha256), url, nonce)


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"
