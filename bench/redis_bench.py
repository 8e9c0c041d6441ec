"""`make bench-redis`: what Redis costs each hot route, as a ratio to the same route with the store in memory, and
what each request costs Redis.

Both are measured in the same rounds. Redis shares the core of the load generator, as it is no part of our process.
"""

import contextlib
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from bench.routes_bench import BARE, SENDS_A_ROUND, Measurement, measure_routes, median_of
from bench.sample_data import SEED
from bench.servers import cores, pin
from tests.redis_servers import RedisServer

WANTED = 0.7
WITH_REDIS = ", Redis"
ROUTES = ("verify, wrong", "verify, right", "status", "answer", "answer, full", "send")
HOT_ROUTES = ROUTES[:-1]
OTP_SECRET = "0123456789abcdef" * 4
SAMPLED_KEYS = 20_000
# What begins how, in `redis_pages`, `redis_otp_store`, `redis_guard_store`.
KINDS = {b"otp:{": "pages and timers", b"otp:call:": "calls by their carrier's id", b"otp:live": "calls under way"}


class RedisMeter:
    """What the server spends while its service is at work."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()
        self._cpu = self._commands = 0.0

    @contextlib.contextmanager
    def around(self, subject: str) -> Iterator[None]:
        before = self._used()
        yield
        if subject.endswith(WITH_REDIS):
            cpu, commands = self._used()
            self._cpu, self._commands = self._cpu + cpu - before[0], self._commands + commands - before[1]

    def _used(self) -> tuple[float, float]:
        info = self._client.info()
        return (info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6, info["total_commands_processed"]

    def take(self) -> tuple[float, float]:
        """Microseconds of CPU, and commands, since the last time."""
        spent = self._cpu, self._commands
        self._cpu = self._commands = 0.0
        return spent

    def used_bytes(self) -> int:
        return int(self._client.info("memory")["used_memory"])

    def bytes_by_kind(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for number, key in enumerate(self._client.scan_iter(count=1000)):
            if number == SAMPLED_KEYS:
                break
            found[_kind_of(key)] += self._client.memory_usage(key)
        return found


def _kind_of(key: bytes) -> str:
    return next((kind for prefix, kind in KINDS.items() if key.startswith(prefix)), "limits and the rest")


def main() -> int:
    server_core, own_core = cores() or (None, None)
    pin(0, own_core)
    rounds: defaultdict[str, list[Measurement]] = defaultdict(list)
    spent: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    grown: list[float] = []
    kinds: Counter[str] = Counter()
    with RedisServer(appendonly="yes") as redis:
        meter = RedisMeter(redis)
        before = meter.used_bytes()
        for number, subject, measurement in measure_routes(
            server_core, {WITH_REDIS: {"REDIS_URL": redis.url, "OTP_SECRET": OTP_SECRET}}, meter.around
        ):
            print(f"round {number + 1}: {subject}: {measurement.requests_per_second:,.0f}/s", file=sys.stderr)
            rounds[subject].append(measurement)
            if subject.endswith(WITH_REDIS):
                microseconds, commands = meter.take()
                spent[subject].append((microseconds / measurement.count, commands / measurement.count))
            if subject == f"send{WITH_REDIS}":
                grown.append((meter.used_bytes() - before) / measurement.count)
                kinds = meter.bytes_by_kind()
            if subject == f"{ROUTES[1]}{WITH_REDIS}":
                before = meter.used_bytes()
    medians = {subject: median_of(measured) for subject, measured in rounds.items()}
    print(
        f"bare ASGI: {medians[BARE].requests_per_second:,.0f} requests/s; rounds of {SENDS_A_ROUND:,}; seed {SEED}"
    )
    ratios = _print_routes(medians, spent)
    _print_memory(statistics.median(grown), kinds)
    return 0 if min(ratios[route] for route in HOT_ROUTES) >= WANTED else 1


def _print_routes(medians: dict[str, Measurement], spent: Any) -> dict[str, float]:
    """Each route's ratio by CPU."""
    print(f"{'':14}{'requests/s':^24}{'our cpu us':^24}{'p99 ms':>8}{'Redis, each':>22}")
    print(
        f"{'route':14}{'memory':>8}{'Redis':>8}{'ratio':>8}{'memory':>8}{'Redis':>8}{'ratio':>8}{'Redis':>8}"
        f"{'cpu us':>12}{'commands':>10}"
    )
    ratios: dict[str, float] = {}
    for route in ROUTES:
        memory, redis = medians[route], medians[route + WITH_REDIS]
        ratios[route] = (memory.cpu_us or 0) / (redis.cpu_us or 1)
        cpu, commands = (statistics.median(column) for column in zip(*spent[route + WITH_REDIS], strict=True))
        print(
            f"{route:14}{memory.requests_per_second:8,.0f}{redis.requests_per_second:8,.0f}"
            f"{redis.requests_per_second / memory.requests_per_second:8.2f}"
            f"{memory.cpu_us or 0:8.0f}{redis.cpu_us or 0:8.0f}{ratios[route]:8.2f}{redis.p99_ms:8.1f}"
            f"{cpu:12.1f}{commands:10.1f}"
        )
    return ratios


def _print_memory(bytes_each: float, kinds: Counter[str]) -> None:
    print(f"memory of Redis per verification that was just sent: {bytes_each:.0f} bytes, of which")
    total = sum(kinds.values())
    for kind, used in kinds.most_common():
        print(f"  {kind}: {used / total:.0%}")


if __name__ == "__main__":
    sys.exit(main())
