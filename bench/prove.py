"""`make prove`: the long form of every attack, one after another, and one table of what was promised and seen.

`python -m bench.prove redis_is_killed failovers` makes only the named proofs.
"""

import asyncio
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from bench import crashes, fault_race, faults, half_open, race, steady, voicemail
from bench.fault_world import AOF, world
from bench.racers import PROCESSES
from bench.sample_data import SEED
from bench.servers import ROOT, cores
from connection_limits import raise_descriptor_limit
from tests.redis_servers import RedisServer

RIGHT_RACES, WRONG_RACES, EXPIRED_CODES = 500, 500, 100
CHECKS_WANTED = 100_000
SENDS, CEILING = 10_000, 100
SENDS_TO_ONE = 1000
HOSTILE_WEBHOOKS = 100_000
PAUSES_SECONDS = (1, 6, 12, 26)
CODES_AT_A_CRASH, CODES_AT_A_FAILOVER = 2000, 40
FAULT_RIGHT_RACES, FAULT_WRONG_RACES, FAULT_EXPIRED_CODES = 250, 250, 20
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
        f"two services, one Redis: successes; guesses of a code; impossible histories, {races.checks:,} checks "
        f"({races.unavailable} of them 503)",
        "A3, B1",
        f"{RIGHT_RACES // 5}; 5; 0",
        seen,
        not races.broken and races.most_evaluated == 5 and races.successes >= RIGHT_RACES // 5 - races.unavailable,
    )
    spending = race.race_for_money(SENDS, CEILING, processes=2, kills=True)
    yield Proof(
        f"calls at the carrier, of {SENDS:,} parallel sends over two services, one of which is killed",
        "C6, P5",
        f"at most {CEILING}",
        f"{spending.called}",
        spending.is_sound and spending.called <= CEILING,
    )
    one = race.race_for_one_call(SENDS_TO_ONE, processes=2)
    yield Proof(
        f"calls at the carrier, of {SENDS_TO_ONE:,} parallel sends to one number over two services",
        "C3",
        "1",
        f"{one.called} ({one.unavailable} were told to come again)",
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


def redis_stands_still() -> Iterator[Proof]:
    with RedisServer(**AOF) as redis, world(redis) as here:
        for number, seconds in enumerate(PAUSES_SECONDS):
            seen = asyncio.run(faults.stand_still(here, seconds, first=10 * number))
            what = f"Redis stands still for {seconds} s"
            yield Proof(
                f"{what}: {len(seen.while_down)} answers of all routes",
                "B7, G2, H1, D8",
                "as promised, within 1 s",
                f"{len(seen.strange)} others, longest {seen.longest_seconds:.2f} s "
                f"(/health: {seen.longest_health_seconds:.2f} s)",
                not seen.strange and seen.longest_seconds <= 1,
            )
            yield Proof(
                f"{what}: calls placed, codes accepted, normal again",
                "B7",
                "0, 0, within 2 s",
                f"{seen.calls}, {seen.accepted_while_down}, {seen.recovery_seconds:.2f} s",
                seen.calls == seen.accepted_while_down == 0 and seen.recovery_seconds <= 2,
            )
            yield Proof(
                f"{what}: the right code in flight",
                "G1",
                "accepted once, no attempt counted for it",
                f"{seen.accepted} times, {seen.wrong_counted} counted",
                seen.accepted == 1 and seen.wrong_counted == 0,
            )


def redis_is_slow() -> Iterator[Proof]:
    for seconds in (0.1, 0.4, 2.0):
        answers = asyncio.run(faults.slow_down(seconds))
        documents, others = answers[:2], answers[2:]
        yield Proof(
            f"each reply of Redis comes {seconds} s late: the longest that a document takes",
            "D8",
            "well-formed, 2.5 s",
            f"{max(one.seconds for one in documents):.2f} s; "
            + ", ".join(f"{one.route} {one.status} in {one.seconds:.2f} s" for one in others),
            all(one.is_document and one.seconds <= 2.5 for one in documents),
        )


def redis_is_killed() -> Iterator[Proof]:
    for options, is_kept in ((AOF, True), ({}, False)):
        with RedisServer(**options) as redis, world(redis, OPERATOR_KEYS=faults.OPERATOR_KEY) as here:
            seen = asyncio.run(faults.crash(here, CODES_AT_A_CRASH))
        lost = seen.lost + seen.used_again + seen.guesses_forgotten + seen.is_block_lost
        yield Proof(
            f"kill -9 of Redis, {'AOF everysec' if is_kept else 'nothing on disk'}: lost of {seen.sent} codes "
            f"sent, {seen.used} used, {seen.guessed} guessed at, 1 block",
            "G4, P14",
            "0" if is_kept else "what is not on disk (said in the docs)",
            f"{seen.lost}, {seen.used_again}, {seen.guesses_forgotten}, {int(seen.is_block_lost)}",
            lost == 0 if is_kept else True,
        )
        yield Proof(
            "... 503 after, normal again after its start",
            "B7",
            "1 s, 2 s",
            f"{seen.seconds_to_503:.2f} s, {seen.recovery_seconds:.2f} s",
            seen.seconds_to_503 <= 1 and seen.recovery_seconds <= 2 and not seen.strange,
        )


def redis_in_trouble() -> Iterator[Proof]:
    with RedisServer(**faults.LOADING) as redis, world(redis) as here:
        flood = asyncio.run(faults.flood(here))
        yield Proof(
            "200 wrong codes, a right one, a send to a full Redis: not 503, uncounted, calls, accepted in all",
            "B6, M7",
            "0, 0, 0, 1",
            f"{len(flood.strange)}, {flood.uncounted}, {flood.calls}, {flood.accepted}",
            not flood.strange and flood.uncounted == flood.calls == 0 and flood.accepted == 1,
        )
        for number, name in enumerate(faults.TROUBLES):
            seen = asyncio.run(faults.trouble(here, name, first=30_000 + 100 * number))
            statuses = ", ".join(f"{count} x {status}" for status, count in sorted(seen.statuses.items()))
            yield Proof(
                f"{name}: server errors, longest answer, right code accepted, normal again",
                "G2",
                "0, 1 s, once, 2 s",
                f"{seen.server_errors}, {seen.longest_seconds:.2f} s, {seen.accepted}, "
                f"{seen.recovery_seconds:.2f} s ({statuses})",
                seen.server_errors == 0
                and seen.accepted == 1
                and seen.longest_seconds <= 1
                and seen.recovery_seconds <= 2,
            )


def failovers() -> Iterator[Proof]:
    with_replicas: dict[str, Any] = {"min_replicas_to_write": 1, "min_replicas_max_lag": 2}
    for options, seconds in (({}, 0), (with_replicas, 4)):
        seen = asyncio.run(faults.fail_over(CODES_AT_A_FAILOVER, seconds, **options))
        config = "min-replicas-to-write 1, max-lag 2, 4 s unheard" if options else "asynchronous replication"
        yield Proof(
            f"failover, {config}: used codes that are right again, of {seen.used} replicated "
            f"and {seen.used_unreplicated} not",
            "G4",
            "those not replicated (stated loss window)",
            f"{seen.used_again}; WAIT 1 100 says {seen.wait_says} replicas; {seen.refused} checks refused before",
            seen.used_again <= seen.used_unreplicated,
        )
        yield Proof(
            "... past their deadline; normal again",
            "G4",
            "0, 2 s",
            f"{seen.after_deadline}, {seen.recovery_seconds:.2f} s",
            seen.after_deadline == 0 and seen.recovery_seconds <= 2,
        )


def races_under_faults() -> Iterator[Proof]:
    seen = fault_race.race_under_faults(FAULT_RIGHT_RACES, FAULT_WRONG_RACES, FAULT_EXPIRED_CODES, SEED)
    made = ", ".join(f"{count} x {kind}" for kind, count in sorted(seen.faults.items()))
    yield Proof(
        f"a code is right at most once, in {seen.checks:,} racing checks over {fault_race.SERVICES} services "
        f"({seen.checks / seen.seconds:,.0f}/s) while Redis is {made}",
        "P1, A3, B1",
        "0 impossible histories",
        f"{len(seen.broken)}" + (f": {seen.broken[0]}" if seen.broken else ""),
        not seen.broken,
    )
    yield Proof(
        "... answered with 503; other errors; codes used up of which nobody was told",
        "B7, G1",
        "any, 0, those with a 503",
        f"{seen.unknown:,}, {sum(seen.strange.values())}, {seen.unheard}",
        not seen.strange,
    )
    yield Proof(
        f"... most guesses evaluated for a code; checks evaluated after expiry, of {FAULT_EXPIRED_CODES} codes",
        "B1, A2",
        "5, 0",
        f"{seen.most_evaluated}, {seen.after_expiry}",
        seen.most_evaluated <= 5 and seen.after_expiry == 0,
    )


REDIS_PROOFS = (
    redis_stands_still,
    redis_is_slow,
    redis_is_killed,
    redis_in_trouble,
    failovers,
    races_under_faults,
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
    *REDIS_PROOFS,
    generated_histories,
    generated_requests,
)


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    started = time.perf_counter()
    proofs: list[Proof] = []
    wanted = sys.argv[1:]
    for prove in PROOFS:
        if wanted and prove.__name__ not in wanted:
            continue
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
