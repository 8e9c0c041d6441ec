"""What a rolling restart costs those who ask meanwhile: `python -m bench.rolling [seconds]`.

Clients on keep-alive connections ask at a steady rate, while all workers are renewed again and again. They repeat
nothing: a request that gets no whole answer below 500 has failed. Latency counts from when a request was due. With
REDIS_URL in the environment it is the service as installed; without, workers that share no store.
"""

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles

from bench import load
from bench.sample_data import phone_number
from bench.servers import AUTH_ID, AUTH_TOKEN, FROM_NUMBER, ROOT, WIDE_LIMITS, free_port

WORKERS = 2
REQUESTS_A_SECOND = 200
CONNECTIONS = 20
SECONDS = 20.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass
class Answers:
    """What clients saw. `latencies` are seconds, of what was answered."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    last_ones: int = 0
    """Answers that said that they were the last on their connection."""

    def p99_ms(self) -> float:
        return quantiles(self.latencies, n=100)[98] * 1000


class Client:
    """One keep-alive connection at a time; a new one where the server said that the last one has ended."""

    def __init__(self, port: int, answers: Answers) -> None:
        self._port = port
        self._answers = answers
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, due: float) -> None:
        try:
            head = await self._exchange(request)
        except (OSError, EOFError) as error:
            self._answers.failures.append(repr(error))
            self.close()
            return
        if head.startswith(b"HTTP/1.1 5"):
            self._answers.failures.append(str(head[:40]))
        self._answers.latencies.append(time.perf_counter() - due)
        if _CLOSES.search(head):
            self._answers.last_ones += 1
            self.close()

    async def _exchange(self, request: bytes) -> bytes:
        self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        await reader.readexactly(int(length[1]) if length else 0)
        return head

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def requests_of(seed: int) -> list[bytes]:
    """Requests that change nothing, so that it does not matter which worker gets them."""
    phone = phone_number(seed)
    check = f'{{"phone": "{phone}", "otp": "000000"}}'.encode()
    return [load.post("/verify-otp", check), load.get(f"/otp-status/{phone}"), load.get("/ready")]


async def keep_asking(port: int, answers: Answers, rate: float, is_over: asyncio.Event) -> None:
    """All clients, each at its share of the rate, until it is over."""
    await asyncio.gather(
        *(_ask_steadily(Client(port, answers), seed, rate / CONNECTIONS, is_over) for seed in range(CONNECTIONS))
    )


async def _ask_steadily(client: Client, seed: int, rate: float, is_over: asyncio.Event) -> None:
    started = time.perf_counter() + seed / CONNECTIONS / rate
    for number, request in enumerate(itertools.cycle(requests_of(seed))):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if is_over.is_set():
            break
        await client.ask(request, due)
    client.close()


class WorkersLog:
    """The process of the service, by what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def wait_for(self, event: str, count: int = 1) -> list[str]:
        """Read on until so many lines hold the event; gives these."""
        assert self.process.stderr is not None
        found: list[str] = []
        while len(found) < count:
            line = (await self.process.stderr.readline()).decode()
            if not line:
                raise RuntimeError(f"the service ended without saying {event!r}")
            found += [line] if event in line else []
        return found

    async def renew(self) -> None:
        """One rolling restart, until all old workers are gone."""
        self.process.send_signal(signal.SIGHUP)
        await self.wait_for("worker ended", WORKERS)


@asynccontextmanager
async def workers(**settings: str) -> AsyncIterator[tuple[WorkersLog, int]]:
    """The service with its workers up, and its port."""
    port = free_port()
    environment = {**WIDE_LIMITS, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LOG_FORMAT": "json"}
    environment |= {"HTTP_PORT": str(port), **settings}
    command = ["-m", "bench.memory_workers", str(WORKERS)]
    if "REDIS_URL" in settings:
        command = [str(ROOT / "server.py")]
        # Several workers take no simulated carrier; nobody is called here.
        account = {"VOBIZ_AUTH_ID": AUTH_ID, "VOBIZ_AUTH_TOKEN": AUTH_TOKEN, "FROM_NUMBER": FROM_NUMBER}
        here = f"http://127.0.0.1:{port}"
        account |= {"VOBIZ_API_URL": here, "PUBLIC_URL": here, "WORKERS": str(WORKERS)}
        environment = {**account, **environment}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
    )
    log = WorkersLog(process)
    try:
        await log.wait_for("worker serves", WORKERS)
        yield log, port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def measure(seconds: float, **settings: str) -> tuple[Answers, int]:
    """What clients saw, and how often all workers were renewed meanwhile."""
    answers, is_over, restarts = Answers(), asyncio.Event(), 0
    async with workers(**settings) as (log, port):
        asking = asyncio.create_task(keep_asking(port, answers, REQUESTS_A_SECOND, is_over))
        ends_at = time.perf_counter() + seconds
        while time.perf_counter() < ends_at:
            await log.renew()
            restarts += 1
        is_over.set()
        await asking
    return answers, restarts


def main() -> int:
    given = {name: os.environ[name] for name in ("REDIS_URL", "OTP_SECRET") if name in os.environ}
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    answers, restarts = asyncio.run(measure(seconds, **given))
    print(
        f"{restarts} rolling restarts of {WORKERS} workers under {REQUESTS_A_SECOND} requests/s: "
        f"{len(answers.failures)} failures in {len(answers.latencies)} requests, p99 {answers.p99_ms():.1f} ms, "
        f"{answers.last_ones} connections ended by their last answer"
    )
    for failure in answers.failures[:5]:
        print(f"  {failure}")
    return 1 if answers.failures else 0


if __name__ == "__main__":
    sys.exit(main())
