"""`make prove`: the long form of every attack, one after another, and one table of what was promised and seen."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from bench import crashes, half_open, race, steady, voicemail
from bench.racers import PROCESSES
from bench.sample_data import SEED
from bench.servers import ROOT, cores
from connection_limits import raise_descriptor_limit

RIGHT_RACES, WRONG_RACES, EXPIRED_CODES = 500, 500, 100
CHECKS_WANTED = 100_000
SENDS, CEILING = 10_000, 100
SENDS_TO_ONE = 1000
HOSTILE_WEBHOOKS = 100_000
LONG_FORM = "PROVE"  # the environment variable that makes generated tests run their long form


@dataclass(frozen=True, slots=True)
class Proof:
    """One line of the table. `row` is the row of the requirements that the promise answers."""

    promise: str
    row: str
    wanted: str
    seen: str
    holds: bool


def code_races() -> Iterator[Proof]:
    races = race.race_for_codes(RIGHT_RACES, WRONG_RACES, EXPIRED_CODES)
    yield Proof(
        f"a code is right once, in {races.checks:,} racing checks",
        "A3",
        f"{RIGHT_RACES} successes of {RIGHT_RACES} codes",
        f"{races.successes}",
        races.successes == RIGHT_RACES and races.checks >= CHECKS_WANTED,
    )
    yield Proof(
        "guesses that are evaluated for one code",
        "B1",
        "at most 5",
        f"{races.most_evaluated}",
        races.most_evaluated == 5,
    )
    yield Proof(
        f"right codes accepted after five wrong ones, of {WRONG_RACES}",
        "B1",
        "0",
        f"{races.right_after_five}",
        races.right_after_five == 0,
    )
    yield Proof(
        f"checks evaluated after expiry, of {EXPIRED_CODES} codes",
        "A2",
        "0",
        f"{races.after_expiry}",
        races.after_expiry == 0,
    )
    seen = f"{len(races.broken)}" + (f": {races.broken[0]}" if races.broken else "")
    yield Proof(f"impossible histories, of {races.codes:,} codes", "A3, B1", "0", seen, not races.broken)


def money_race() -> Iterator[Proof]:
    spending = race.race_for_money(SENDS, CEILING)
    yield Proof(
        f"calls at the carrier, of {SENDS:,} parallel sends",
        "C6",
        f"exactly {CEILING}",
        f"{spending.called}",
        spending.called == spending.accepted == CEILING,
    )


def hostile_webhooks() -> Iterator[Proof]:
    webhooks = race.attack_webhooks(HOSTILE_WEBHOOKS)
    was_real = webhooks.hostile == HOSTILE_WEBHOOKS and webhooks.authentic == 2 * race.LIVE_CALLS
    yield Proof(
        f"codes revealed to {webhooks.hostile:,} hostile webhooks",
        "D1-D6",
        "0",
        f"{webhooks.revealed}",
        webhooks.revealed == 0 and was_real,
    )
    yield Proof(
        "server errors among their answers",
        "D1, E6",
        "0",
        f"{webhooks.server_errors}",
        webhooks.server_errors == 0,
    )


def races_over_two_services() -> Iterator[Proof]:
    races = race.race_for_codes(RIGHT_RACES // 5, WRONG_RACES // 5, processes=2)
    seen = f"{races.successes}; {races.most_evaluated}; {len(races.broken)}"
    yield Proof(
        f"two services, one Redis: successes; guesses of a code; impossible histories, {races.checks:,} checks",
        "A3, B1",
        f"{RIGHT_RACES // 5}; 5; 0",
        seen,
        seen == f"{RIGHT_RACES // 5}; 5; 0",
    )
    spending = race.race_for_money(SENDS, CEILING, processes=2, kills=True)
    yield Proof(
        f"calls at the carrier, of {SENDS:,} parallel sends over two services, one of which is killed",
        "C6, P5",
        f"at most {CEILING}",
        f"{spending.called}",
        spending.accepted <= spending.called <= CEILING,
    )
    one = race.race_for_one_call(SENDS_TO_ONE, processes=2)
    yield Proof(
        f"calls at the carrier, of {SENDS_TO_ONE:,} parallel sends to one number over two services",
        "C3",
        "1",
        f"{one.called} ({one.lost} were told to come again)",
        one.called == 1,
    )
    webhooks = race.attack_webhooks(HOSTILE_WEBHOOKS // 10, processes=2)
    yield Proof(
        f"codes revealed to {webhooks.hostile:,} hostile webhooks at a service that did not place the calls",
        "D1-D6",
        "0",
        f"{webhooks.revealed}",
        webhooks.revealed == webhooks.server_errors == 0 and webhooks.authentic == 2 * race.LIVE_CALLS,
    )


def killed_workers() -> Iterator[Proof]:
    kinds = {
        "in a request": crashes.crash_requests(crashes.SEND_POINTS, crashes.FAILOVER_POINTS),
        "with a queued call or a redial": crashes.crash_jobs(crashes.QUEUE_POINTS, crashes.REDIAL_POINTS),
    }
    for kind, found in kinds.items():
        yield Proof(
            f"calls for one request, at {found.crashes} points at which a worker is killed {kind}",
            "F2, P6",
            "at most 1",
            f"{found.most_calls} ({found.went_on} went on with another worker)"
            + (f": {found.broken[0]}" if found.broken else ""),
            found.most_calls == 1 and not found.broken,
        )


def steady_checks() -> Iterator[Proof]:
    one = steady.run()
    yield Proof(
        f"p99 of checks at {one.rate:,}/s, two workers and Redis here (load before: {one.other_load:.1f})",
        "-",
        "under 20 ms",
        f"{one.p99_ms:.1f} ms (p50 {one.p50_ms:.1f} ms)",
        one.p99_ms < 20 and not one.unexpected,
    )


def example_numbers() -> Iterator[Proof]:
    for regions in ("IN,US", "*"):
        examples = race.call_example_numbers(regions)
        yield Proof(
            f"calls outside the allowed set, of {examples.numbers:,} example numbers, regions {regions}",
            "C1, C2",
            "0",
            f"{examples.called_outside} (inside: {examples.called})",
            examples.called_outside == 0 and examples.called > 0,
        )


def answering_machines() -> Iterator[Proof]:
    for figure in voicemail.measured_figures():
        yield Proof(figure.what, "C9", figure.wanted, figure.seen, figure.holds)


def half_open_connections() -> Iterator[Proof]:
    raise_descriptor_limit()
    server_core, own_core = cores() or (None, None)
    held = half_open.measure_half_open(server_core, own_core)
    yield Proof(
        f"the longest life of {held.opened:,} half-open connections",
        "E4",
        "under 15 s",
        f"{held.longest_seconds:.1f} s",
        held.cut == held.opened == half_open.CONNECTIONS and held.longest_seconds < 15,
    )
    yield Proof(
        "p99 of other requests while all of them are open",
        "E4",
        f"under twice {held.p99_alone_ms:.1f} ms",
        f"{held.p99_holding_ms:.1f} ms",
        held.p99_holding_ms < 2 * held.p99_alone_ms and not held.unexpected,
    )


def generated_histories() -> Iterator[Proof]:
    yield _tests(
        "test_state_machine.py", "generated histories of store and service that break a promise", "A-D, G6"
    )


def generated_requests() -> Iterator[Proof]:
    yield _tests("test_openapi_fuzz.py", "generated requests that break the OpenAPI document", "E5, E6, C8")


def _tests(module: str, promise: str, row: str) -> Proof:
    """The long form of a test module."""
    path = ROOT / "tests" / "security" / module
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=3600", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, LONG_FORM: "1"}, capture_output=True, text=True, check=False
    )
    summary = done.stdout.strip().rpartition("\n")[2]
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    return Proof(
        promise, row, "0", "0" if done.returncode == 0 else "some", done.returncode == 0 and "passed" in summary
    )


# What is proven, in this order. Each entry yields its lines of the table; another proof is one more line here.
PROOFS: tuple[Callable[[], Iterator[Proof]], ...] = (
    code_races,
    money_race,
    hostile_webhooks,
    races_over_two_services,
    killed_workers,
    steady_checks,
    example_numbers,
    answering_machines,
    half_open_connections,
    generated_histories,
    generated_requests,
)


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    started = time.perf_counter()
    proofs: list[Proof] = []
    for prove in PROOFS:
        _progress(f"{prove.__name__.replace('_', ' ')} ...")
        try:
            found = list(prove())
        except Exception as error:  # one proof that cannot be made must not hide the others
            found = [
                Proof(prove.__name__.replace("_", " "), "-", "a figure", f"{type(error).__name__}: {error}", False)
            ]
        for proof in found:
            _progress(f"  {proof.promise}: {proof.seen}")
        proofs += found
    print(_table(proofs))
    print(
        f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {PROCESSES} attacking processes, "
        f"seed {SEED}, {time.perf_counter() - started:.0f} s"
    )
    return 0 if all(proof.holds for proof in proofs) else 1


def _stop(signal_number: int, _: FrameType | None) -> None:
    sys.exit(128 + signal_number)  # lets every server be stopped on the way out


def _progress(text: str) -> None:
    print(f"prove: {text}", file=sys.stderr, flush=True)


def _table(proofs: list[Proof]) -> str:
    headings = ("promise", "row", "wanted", "seen", "verdict")
    rows = [
        headings,
        *((one.promise, one.row, one.wanted, one.seen, "holds" if one.holds else "BROKEN") for one in proofs),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
