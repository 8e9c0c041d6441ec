"""`make bench`: prints what the service can take, as ratios to a bare app that was measured in the same run."""

import os
import platform
import signal
import sys
import time
from collections import defaultdict
from types import FrameType

from bench.calls_bench import (
    CALLS_A_WAVE,
    PARALLEL_CALLS,
    PARALLEL_SPEED,
    WAVE_SPEED,
    WAVES,
    AnswerTimes,
    ParallelCalls,
    measure_answers,
    measure_parallel_calls,
)
from bench.footprint import Footprint, measure_footprint
from bench.guard_cost import GuardCost, measure_guard_cost
from bench.load import CONNECTIONS
from bench.routes_bench import BARE, ROUNDS, SENDS_A_ROUND, Measurement, measure_routes, median_of
from bench.sample_data import SEED
from bench.script_cost import ScriptCost, measure_script_cost
from bench.servers import cores, pin

SATURATED = 0.95

_HEADINGS = ("subject", "req/s", "of bare", "p50 ms", "p99 ms", "cpu us", "of bare by cpu", "generator busy")
_ROWS = (BARE, "verify, wrong", "verify, right", "status", "answer", "answer, full", "send")


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    started = time.perf_counter()
    chosen = cores()
    server_core, own_core = chosen or (None, None)
    pin(0, own_core)
    _print_conditions(chosen)
    print(_routes_table(_measured_routes(server_core)), flush=True)
    _progress(f"{WAVES * CALLS_A_WAVE:,} simulated calls, {CALLS_A_WAVE} at a time")
    print(_answer_line(measure_answers(server_core)), flush=True)
    _progress(f"{PARALLEL_CALLS:,} simulated calls at once")
    parallel = measure_parallel_calls(server_core)
    print(_calls_line(parallel), flush=True)
    _progress("abuse protection")
    print(_guard_line(measure_guard_cost()))
    print(_script_line(measure_script_cost()))
    _progress("start-up time and memory")
    print(_footprint_lines(measure_footprint(server_core)))
    print(f"\nmeasured in {time.perf_counter() - started:.0f} s")
    return 0 if parallel.calls.verified == parallel.calls.sent else 1


def _stop(signal_number: int, _: FrameType | None) -> None:
    sys.exit(128 + signal_number)  # lets every server be stopped on the way out


def _progress(text: str) -> None:
    print(f"bench: {text} ...", file=sys.stderr, flush=True)


def _print_conditions(chosen: tuple[int, int] | None) -> None:
    pinned = f"server on core {chosen[0]}, generator and carrier on core {chosen[1]}" if chosen else "not pinned"
    load_average = f", load average before: {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {pinned}{load_average}")
    print(
        f"{CONNECTIONS} connections in a closed loop, medians of {ROUNDS} interleaved rounds of {SENDS_A_ROUND:,} "
        f"verifications each, seed {SEED}"
    )


def _measured_routes(core: int | None) -> dict[str, Measurement]:
    rounds: defaultdict[str, list[Measurement]] = defaultdict(list)
    for number, subject, measurement in measure_routes(core):
        _progress(f"round {number + 1} of {ROUNDS}: {subject}: {measurement.requests_per_second:,.0f} requests/s")
        rounds[subject].append(measurement)
    return {subject: median_of(measurements) for subject, measurements in rounds.items()}


def _routes_table(measured: dict[str, Measurement]) -> str:
    bare = measured[BARE]
    rows = [_HEADINGS, *(_row(subject, measured[subject], bare) for subject in _ROWS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(_padded(row, widths)) for row in rows]
    return "\n".join(["", *lines, "", *_notes(measured), ""])


def _padded(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _row(subject: str, one: Measurement, bare: Measurement) -> tuple[str, ...]:
    return (
        subject,
        f"{one.requests_per_second:,.0f}",
        f"{one.requests_per_second / bare.requests_per_second:.2f}",
        f"{one.p50_ms:.2f}",
        f"{one.p99_ms:.2f}",
        f"{one.cpu_us:.1f}" if one.cpu_us else "n/a",
        f"{bare.cpu_us / one.cpu_us:.2f}" if bare.cpu_us and one.cpu_us else "n/a",
        f"{one.generator_busy:.0%}",
    )


def _notes(measured: dict[str, Measurement]) -> list[str]:
    saturated = [subject for subject in _ROWS if measured[subject].generator_busy >= SATURATED]
    notes = [
        "cpu us: CPU microseconds of the server process per request (in clock ticks of 10 ms over the phase).",
        "verify: each verification gets four wrong codes, then the right one. status: while the call is dialled.",
        "answer: the first fetch of each call, with its change of state and log line; the least form, unsigned.",
        "answer, full: the same with every field that Vobiz documents, and its signature checked.",
        "send: to a carrier that answers at once, in a process of its own on the generator's core.",
        "Every check, limit and log line is on; logs go to a file.",
    ]
    if saturated:
        notes.append(
            f"The generator was the slower side for: {'; '.join(saturated)}. Their requests/s are its limit; a "
            "ratio by requests/s to such a bare row flatters the service: read the one by CPU."
        )
    return notes


def _answer_line(times: AnswerTimes) -> str:
    return (
        f"/answer with {times.most_at_once} simulated calls at once (x{WAVE_SPEED:g} speed): longest time in the "
        f"service {times.longest * 1000:.1f} ms, median {times.median * 1000:.2f} ms, over {times.calls} calls; "
        f"{times.lost} lost"
    )


def _calls_line(parallel: ParallelCalls) -> str:
    calls = parallel.calls
    return (
        f"{calls.sent:,} simulated calls in parallel (x{PARALLEL_SPEED:g} speed, {parallel.most_at_once:,} at "
        f"once at the carrier): {calls.spoken:,} answered_and_spoken, {calls.verified:,} verified, "
        f"{calls.sent - calls.verified or 'none'} lost, in {calls.seconds:.1f} s "
        f"(CPU: service {_seconds(parallel.service_cpu)}, simulated carrier {_seconds(parallel.carrier_cpu)})"
    )


def _guard_line(cost: GuardCost) -> str:
    return (
        f"abuse protection, all rules on: {cost.microseconds:.0f} us of CPU per send beyond number parsing, over "
        f"{cost.sends:,} sends"
    )


def _script_line(cost: ScriptCost) -> str:
    shown = ", ".join(f"{name} {microseconds:.0f} us" for name, microseconds in cost.microseconds.items())
    return f"a code's script and its XML: {shown} of CPU each, over {cost.documents:,} documents"


def _footprint_lines(footprint: Footprint) -> str:
    return (
        f"start-up, spawn to /ready 200: {footprint.start_seconds:.2f} s; "
        f"memory at rest with the simulator: {_megabytes(footprint.idle_bytes)}\n"
        f"memory per stored verification: {_bytes(footprint.bytes_under_way)} while its call is dialled, "
        f"{_bytes(footprint.bytes_after_call)} after a whole call"
    )


def _seconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds:.1f} s"


def _megabytes(size: int | None) -> str:
    return "n/a" if size is None else f"{size / 2**20:.0f} MiB"


def _bytes(size: int | None) -> str:
    return "n/a" if size is None else f"{size:,} bytes"


if __name__ == "__main__":
    sys.exit(main())
