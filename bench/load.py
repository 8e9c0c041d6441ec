"""The load generator: keep-alive connections in a closed loop, each sending its next request upon an answer.

It is Python too, on one core, so it can be the slower side: `Load.generator_busy` near 1 says that requests/s is
its limit and not the server's. CPU time per request of the server does not depend on it.
"""

import asyncio
import gc
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import uvloop

CONNECTIONS = 32
# Making a connection is no part of what a request costs: the server has this long to take on all of them.
TAKEN_ON_SECONDS = 0.05
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Check = Callable[[bytes], bool]
"""Whether a whole response, head and body, is the expected one."""


class LoadFailed(Exception):
    """The server closed a connection, or did not answer in time."""


@dataclass(slots=True)
class Load:
    """What one run measured. `latencies` are seconds, in the order of the answers."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float | None = None
    """What the server used, without taking on the connections."""
    generator_busy: float = 0.0
    """CPU time of the generator per second of the run."""
    unexpected: int = 0
    first_unexpected: bytes = b""

    @property
    def count(self) -> int:
        return len(self.latencies)


def get(path: str) -> bytes:
    """A GET request, ready to be sent."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """A POST request, ready to be sent. Underscores in header names become dashes."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def body_of(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


def run(
    port: int,
    requests: Iterable[bytes],
    check: Check,
    seconds_limit: float,
    connections: int = CONNECTIONS,
    cpu_seconds: Callable[[], float | None] = lambda: None,
) -> Load:
    """Send the requests to 127.0.0.1, at most for so many seconds. `cpu_seconds` tells what the server has used.

    Raises: LoadFailed.
    """
    gc.collect()
    gc.disable()  # nothing here makes cycles, and a collection would show up as latency
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(port, iter(requests), check, seconds_limit, connections, cpu_seconds))
    finally:
        gc.enable()


async def _run(
    port: int,
    requests: Iterator[bytes],
    check: Check,
    seconds_limit: float,
    connections: int,
    cpu_seconds: Callable[[], float | None] = lambda: None,
) -> Load:
    loop = asyncio.get_running_loop()
    load = Load()
    made = [
        await loop.create_connection(lambda: _Connection(requests, check, load), "127.0.0.1", port)
        for _ in range(connections)
    ]
    protocols = [protocol for _, protocol in made]
    await asyncio.sleep(TAKEN_ON_SECONDS)
    cpu_before = cpu_seconds()
    started, cpu_started = time.perf_counter(), time.process_time()
    for protocol in protocols:
        protocol.start(started + seconds_limit)
    try:
        async with asyncio.timeout(seconds_limit + 15):
            await asyncio.gather(*(protocol.finished for protocol in protocols))
    except TimeoutError:
        raise LoadFailed(f"no answer for 15 seconds after {load.count} answers") from None
    finally:
        for transport, _ in made:
            transport.close()
    load.seconds = time.perf_counter() - started
    cpu_after = cpu_seconds()
    if cpu_before is not None and cpu_after is not None:
        load.cpu_seconds = cpu_after - cpu_before
    load.generator_busy = (time.process_time() - cpu_started) / load.seconds
    return load


class _Connection(asyncio.Protocol):
    """One client. Reads just enough of an answer to know where it ends."""

    def __init__(self, requests: Iterator[bytes], check: Check, load: Load) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._check = check
        self._load = load
        self._deadline = 0.0
        self._sent_at = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_exception(LoadFailed("the server closed a connection"))

    def start(self, deadline: float) -> None:
        self._deadline = deadline
        self._send_next(time.perf_counter())

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        head_end = received.find(b"\r\n\r\n")
        length = _LENGTH.search(received) if head_end >= 0 else None
        if length is None or len(received) < head_end + 4 + int(length[1]):
            self._received = received
            return
        self._received = b""
        now = time.perf_counter()
        load = self._load
        load.latencies.append(now - self._sent_at)
        if not self._check(received):
            load.unexpected += 1
            load.first_unexpected = load.first_unexpected or received
        self._send_next(now)

    def _send_next(self, now: float) -> None:
        request = next(self._requests, None) if now < self._deadline else None
        if request is not None:
            self._sent_at = now
            self._transport.write(request)
        elif not self.finished.done():
            self.finished.set_result(None)
