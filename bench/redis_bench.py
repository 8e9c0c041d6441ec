"""`make bench-redis`: what Redis costs each hot route, as a ratio to the same route with the store in memory.

Both are measured in the same rounds. Redis shares the core of the load generator, as it is no part of our process.
"""

import sys
from collections import defaultdict

from bench.routes_bench import BARE, Measurement, measure_routes, median_of
from bench.sample_data import SEED
from bench.servers import cores, pin
from tests.redis_servers import RedisServer

WANTED = 0.7
WITH_REDIS = ", Redis"
ROUTES = ("verify, wrong", "verify, right", "status", "answer", "answer, full", "send")
OTP_SECRET = "0123456789abcdef" * 4


def main() -> int:
    server_core, own_core = cores() or (None, None)
    pin(0, own_core)
    rounds: defaultdict[str, list[Measurement]] = defaultdict(list)
    with RedisServer(appendonly="yes") as redis:
        more = {WITH_REDIS: {"REDIS_URL": redis.url, "OTP_SECRET": OTP_SECRET}}
        for number, subject, measurement in measure_routes(server_core, more):
            print(f"round {number + 1}: {subject}: {measurement.requests_per_second:,.0f}/s", file=sys.stderr)
            rounds[subject].append(measurement)
    medians = {subject: median_of(measured) for subject, measured in rounds.items()}
    print(f"bare ASGI: {medians[BARE].requests_per_second:,.0f} requests/s; seed {SEED}")
    print(f"{'route':15}{'memory':>9}{'Redis':>9}{'ratio':>7}{'memory':>9}{'Redis':>9}{'ratio':>7}{'p99 ms':>8}")
    print(f"{'':15}{'req/s':>9}{'req/s':>9}{'':>7}{'cpu us':>9}{'cpu us':>9}{'by cpu':>7}{'Redis':>8}")
    ratios = [_line(route, medians[route], medians[route + WITH_REDIS]) for route in ROUTES]
    return 0 if min(ratios[:-1]) >= WANTED else 1


def _line(route: str, memory: Measurement, redis: Measurement) -> float:
    ratio = redis.requests_per_second / memory.requests_per_second
    cpu = (memory.cpu_us or 0) / (redis.cpu_us or 1)
    print(
        f"{route:15}{memory.requests_per_second:9,.0f}{redis.requests_per_second:9,.0f}{ratio:7.2f}"
        f"{memory.cpu_us or 0:9.0f}{redis.cpu_us or 0:9.0f}{cpu:7.2f}{redis.p99_ms:8.1f}"
    )
    return cpu


if __name__ == "__main__":
    sys.exit(main())
