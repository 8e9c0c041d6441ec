"""What two workers and Redis on this machine make of a steady rate of checks: `python -m bench.steady [rate]`.

Open model: requests are due at a constant rate, whether the last ones were answered or not, and latency counts
from when each was due. Each is the right code of a live verification, so each is counted, compared, and written.
"""

import asyncio
import gc
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import httpx
import uvloop

from bench import load
from bench.rolling import Answers, Client, workers
from bench.sample_data import phone_number
from bench.servers import carrier_settings, free_port, running
from tests.redis_servers import RedisServer

REQUESTS_A_SECOND, SECONDS, WARM_UP_SECONDS = 1000, 20, 3
CONNECTIONS, SENDERS = 40, 8
CODE = "610389"
SECRET = "secret-of-the-benchmark-of-no-value-at-all"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Steady:
    rate: int
    answered: int
    unexpected: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    answers_a_second: float
    sends_a_second: float
    workers_cpu_ms: float
    """CPU time of both workers for one check; Redis takes its own."""
    other_load: float
    """Of the machine, over a minute, before the checks."""


async def measure(rate: int, binary: str) -> Steady:
    port = free_port()
    count = rate * (SECONDS + WARM_UP_SECONDS)
    server = RedisServer(binary=binary, appendonly="yes", appendfsync="everysec")
    with server as redis, running("carrier", ["-m", "bench.fake_carrier", str(port)], port, None) as carrier:
        settings = {**carrier_settings(carrier, 80), "REDIS_URL": redis.url, "OTP_SECRET": SECRET}
        async with workers(settings=settings) as (log, public):
            reading = asyncio.create_task(log.process.stderr.read()) if log.process.stderr else None
            sends_a_second = await _send_all(public, count)
            other_load = os.getloadavg()[0]
            warm_up = Answers()
            await _check_all(public, range(rate * WARM_UP_SECONDS), rate, warm_up)
            answers, began, cpu_before = Answers(), time.perf_counter(), _cpu_seconds(log.process.pid)
            await _check_all(public, range(rate * WARM_UP_SECONDS, count), rate, answers)
            seconds, cpu = time.perf_counter() - began, _cpu_seconds(log.process.pid) - cpu_before
            verified = await _count_verified(public, count)
        if reading is not None:
            await reading
    latencies = sorted(answers.latencies)
    cuts = quantiles(latencies, n=100)
    return Steady(
        rate=rate,
        answered=len(latencies),
        unexpected=len(answers.failures) + verified,
        p50_ms=cuts[49] * 1000,
        p99_ms=cuts[98] * 1000,
        longest_ms=latencies[-1] * 1000,
        answers_a_second=len(latencies) / seconds,
        sends_a_second=sends_a_second,
        workers_cpu_ms=cpu * 1000 / len(latencies),
        other_load=other_load,
    )


def _cpu_seconds(parent: int) -> float:
    """Used so far by the workers of a process."""
    workers_of_it = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in workers_of_it]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


async def _send_all(port: int, count: int) -> float:
    body = {"code": CODE, "ttl_seconds": 600}
    requests = (
        load.post("/send-otp", json.dumps({"phone": phone_number(index), **body}).encode())
        for index in range(count)
    )
    sent = await load._run(port, requests, lambda response: b"call_initiated" in response, 600, SENDERS)
    if sent.unexpected:
        print(f"steady: {sent.unexpected} codes were not sent: this machine does something else", file=sys.stderr)
    return count / sent.seconds


async def _check_all(port: int, numbers: range, rate: int, answers: Answers) -> None:
    bodies = (json.dumps({"phone": phone_number(number), "otp": CODE}).encode() for number in numbers)
    requests = [load.post("/verify-otp", body) for body in bodies]
    gc.collect()
    gc.disable()  # a collection would show up as latency
    starts_at = time.perf_counter() + 0.1

    async def ask(place: int) -> None:
        client = Client(port, answers)
        for turn in range(place, len(requests), CONNECTIONS):
            due = starts_at + turn / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await client.ask(requests[turn], due)
        client.close()

    try:
        await asyncio.gather(*(ask(place) for place in range(CONNECTIONS)))
    finally:
        gc.enable()


async def _count_verified(port: int, count: int) -> int:
    """Of a sample: those that are not verified."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        answers = [await client.get(f"/otp-status/{phone_number(index)}") for index in range(0, count, 997)]
    return sum(answer.json()["status"] != "verified" for answer in answers)


def run(rate: int = REQUESTS_A_SECOND, binary: str = "") -> Steady:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(rate, binary or os.environ.get("REDIS_SERVER_BINARY") or "redis-server"))


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS_A_SECOND))
