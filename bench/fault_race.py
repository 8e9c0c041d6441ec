"""Races for codes over two services, while their Redis is paused, killed and full at moments that a seed draws."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import redis as redis_py

from bench import race
from bench.fault_world import AOF, world
from bench.history import CORRECT, DEAD, INCORRECT, LOCKED, UNKNOWN, Check, violations
from bench.racers import Racers, racers
from bench.sample_data import seeded
from tests.redis_servers import RedisServer

SERVICES = 2
ROUNDS_A_CODE = 40
QUIET_SECONDS = (0.3, 3.0)
TROUBLE_SECONDS = (0.1, 1.5)


@dataclass
class FaultRace:
    """`broken` says what was wrong with a history; it stays empty."""

    checks: int = 0
    unknown: int = 0
    """Answered with 503."""
    codes: int = 0
    successes: int = 0
    unheard: int = 0
    """Codes that were used up by a check whose answer was 503."""
    most_evaluated: int = 0
    after_expiry: int = 0
    strange: Counter[str] = field(default_factory=Counter)
    """Answers that are neither a word on the code nor that the store is lost."""
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def take(self, checks: Sequence[Check], dead_from: float) -> None:
        self.checks += len(checks)
        self.unknown += sum(check.outcome == UNKNOWN for check in checks)
        evaluated = sum(check.is_evaluated for check in checks)
        successes = sum(check.outcome == CORRECT for check in checks)
        self.successes += successes
        self.unheard += not successes and any(check.outcome == DEAD for check in checks)
        self.most_evaluated = max(self.most_evaluated, evaluated)
        self.broken += violations(checks, dead_from)
        known = (CORRECT, INCORRECT, DEAD, LOCKED, UNKNOWN)
        self.strange.update(check.outcome for check in checks if check.outcome not in known)


class _Faults:
    """One fault after another, with pauses, until it is told to stop; then all is well again."""

    def __init__(self, redis: RedisServer, rng: Random) -> None:
        self._redis = redis
        self._rng = rng
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.made: Counter[str] = Counter()

    def _run(self) -> None:
        while not self._is_over.wait(self._rng.uniform(*QUIET_SECONDS)):
            kind = self._rng.choice(("paused", "killed", "full"))
            seconds = self._rng.uniform(*TROUBLE_SECONDS)
            getattr(self, f"_{kind}")(seconds)
            self.made[kind] += 1

    def _paused(self, seconds: float) -> None:
        self._redis.pause()
        self._is_over.wait(seconds)
        self._redis.resume()

    def _killed(self, seconds: float) -> None:
        self._redis.kill()
        self._is_over.wait(seconds)
        self._redis.restart()

    def _full(self, seconds: float) -> None:
        admin: Any = self._redis.client()
        with contextlib.suppress(redis_py.RedisError):
            admin.config_set("maxmemory", 1)
            self._is_over.wait(seconds)
            admin.config_set("maxmemory", 0)

    def __enter__(self) -> "_Faults":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def race_under_faults(right_races: int, wrong_races: int, expired: int = 0, seed: int = 0) -> FaultRace:
    """Race a hundred checks at a time for each code, until one of them had an answer; one more when all is well.

    With right codes all guesses are right, with wrong ones none is, but the last one.
    """
    seen = FaultRace(codes=right_races + wrong_races)
    with RedisServer(**AOF) as redis, world(redis, SERVICES) as here:
        ours = here.services[0]
        codes = race._codes(right_races + wrong_races)
        dead_from = race._send_all(ours, list(codes.items()), race.LONGEST_LIFE)
        short_lived = race._codes(expired, first=len(codes))
        dead_soon = race._send_all(ours, list(short_lived.items()), race.SHORTEST_LIFE)
        histories: dict[str, list[Check]] = {}
        began_at = time.monotonic()
        with racers([one.port for one in here.services]) as racing:
            with _Faults(redis, seeded(seed)) as faults:
                for number, (phone, code) in enumerate(codes.items()):
                    wrong = race._wrong_codes(code, number)
                    guesses = [code] * race.CHECKS_A_CODE if number < right_races else wrong
                    histories[phone] = list(_race_on(racing, phone, code, guesses))
                if short_lived:
                    time.sleep(max(0.0, dead_soon - time.monotonic()))
                    for phone, code in short_lived.items():
                        late = race._race(racing, phone, code, [code, *race._wrong_codes(code, 0)[:3]])
                        seen.checks += len(late)
                        seen.after_expiry += sum(check.is_evaluated for check in late)
            seen.faults = faults.made
            seen.seconds = time.monotonic() - began_at
            _wait_until_ready(here.services)
            for phone, code in codes.items():
                last = race._race(racing, phone, code, [code])
                seen.take(histories[phone] + last, dead_from)
    return seen


def _race_on(racing: Racers, phone: str, code: str, guesses: Sequence[str]) -> Iterator[Check]:
    for _ in range(ROUNDS_A_CODE):
        checks = race._race(racing, phone, code, guesses)
        yield from checks
        if any(check.outcome != UNKNOWN for check in checks):
            return


def _wait_until_ready(services: Sequence[Any]) -> None:
    for one in services:
        while one.get("/ready").status_code != 200:
            time.sleep(0.02)
