"""What 10,000 half-open connections do to the service: `python -m bench.half_open`.

The service runs with its real limits. A client asks at a steady rate, first alone, then while another process
opens connections that send half a request head and fall silent. Latency counts from when a request was due, not
from when it could be sent, so that a stall is seen by every request that it held up.

As `python -m bench.half_open hold <port> <connections>` it is that other process: it prints, as JSON, when the
connections were open and when they were cut.
"""

import asyncio
import gc
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import uvloop

from bench import load
from bench.sample_data import phone_number
from bench.servers import ROOT, Server, cores, pin, service
from connection_limits import raise_descriptor_limit

CONNECTIONS = 10_000
CONNECTIONS_AN_ADDRESS = 20_000  # of the 28,000 ports that Linux gives out by itself
OPENED_A_SECOND = 5_000
REQUESTS_A_SECOND = 200
ALONE_SECONDS = 15.0
CUT_WITHIN_SECONDS = 15.0
HALF_HEAD = b"POST /verify-otp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Ty"


@dataclass(frozen=True, slots=True)
class Held:
    """What the opener of the connections saw; times in seconds on the system's monotonic clock.

    `longest_seconds` is the longest life of one connection.
    """

    opened: int
    refused: int
    cut: int
    timed_out_answers: int
    began_at: float
    opened_at: float
    last_cut_at: float
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """Figures of one run. Bytes are None where the system does not tell.

    `holding` has the requests that were due while all connections were open, `during` all from the first opening
    to the last cut.
    """

    opened: int
    cut: int
    timed_out_answers: int
    seconds_to_open: float
    seconds_until_last_cut: float
    longest_seconds: float
    p99_alone_ms: float
    p99_holding_ms: float
    p99_during_ms: float
    longest_alone_ms: float
    longest_during_ms: float
    stolen_seconds: float | None
    """CPU time that other machines on the same host took from this one; more than a little spoils a run."""
    unexpected: int
    bytes_before: int | None
    bytes_during: int | None
    bytes_after: int | None

    @property
    def is_within_target(self) -> bool:
        return (
            self.cut == self.opened == CONNECTIONS
            and self.longest_seconds <= CUT_WITHIN_SECONDS
            and self.p99_during_ms < 2 * self.p99_alone_ms
            and not self.unexpected
        )


@dataclass(slots=True)
class Answers:
    """(Due time, latency) of each request, in seconds."""

    taken: list[tuple[float, float]]
    unexpected: int = 0

    def between(self, start: float, end: float) -> list[float]:
        return sorted(latency for due, latency in self.taken if start <= due <= end)


def measure_half_open(
    server_core: int | None, own_core: int | None = None, connections: int = CONNECTIONS
) -> HalfOpen:
    """Start the service, and measure it alone and with half-open connections."""
    gc.collect()
    gc.disable()  # a collection here would show up as latency
    try:
        with service(server_core) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(server, own_core, connections))
    finally:
        gc.enable()


async def _measure(server: Server, own_core: int | None, connections: int) -> HalfOpen:
    client = _SteadyClient(server.port)
    await client.run_for(2)  # warms up
    bytes_before, stolen_before = server.resident_bytes(), _stolen_seconds()
    alone = await client.run_for(ALONE_SECONDS)
    asking = asyncio.create_task(client.run_until_told())
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.half_open", "hold", str(server.port), str(connections)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    pin(holder.pid, own_core)
    assert holder.stdout is not None
    await holder.stdout.readline()  # all are open
    await asyncio.sleep(1)
    bytes_during = server.resident_bytes()
    held = Held(**json.loads(await holder.stdout.readline()))
    await holder.wait()
    await asyncio.sleep(1)
    client.stop()
    during = await asking
    stolen = None if stolen_before is None else (_stolen_seconds() or 0) - stolen_before
    return _figures(held, alone, during, (bytes_before, bytes_during, server.resident_bytes()), stolen)


def _stolen_seconds() -> float | None:
    """Since boot, over all cores; None without /proc."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def _figures(
    held: Held,
    alone: Answers,
    during: Answers,
    resident: tuple[int | None, int | None, int | None],
    stolen: float | None,
) -> HalfOpen:
    before = alone.between(0, float("inf"))
    meanwhile = during.between(held.began_at, held.last_cut_at)
    holding = during.between(held.opened_at, held.began_at + 9)
    return HalfOpen(
        opened=held.opened,
        cut=held.cut,
        timed_out_answers=held.timed_out_answers,
        seconds_to_open=held.opened_at - held.began_at,
        seconds_until_last_cut=held.last_cut_at - held.began_at,
        longest_seconds=held.longest_seconds,
        p99_alone_ms=_p99_ms(before),
        p99_holding_ms=_p99_ms(holding),
        p99_during_ms=_p99_ms(meanwhile),
        longest_alone_ms=before[-1] * 1000,
        longest_during_ms=meanwhile[-1] * 1000,
        stolen_seconds=stolen,
        unexpected=alone.unexpected + during.unexpected,
        bytes_before=resident[0],
        bytes_during=resident[1],
        bytes_after=resident[2],
    )


def _p99_ms(latencies: list[float]) -> float:
    return latencies[int(len(latencies) * 0.99)] * 1000


class _SteadyClient:
    """Asks to verify a code of an unknown number, at a fixed rate over a few keep-alive connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_stopped = False
        body = json.dumps({"phone": phone_number(0), "otp": "123456"}).encode()
        self._request = load.post("/verify-otp", body)

    def stop(self) -> None:
        self._is_stopped = True

    async def run_for(self, seconds: float) -> Answers:
        return await self._run(time.monotonic() + seconds)

    async def run_until_told(self) -> Answers:
        return await self._run(float("inf"))

    async def _run(self, end: float) -> Answers:
        answers = Answers([])
        free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        for _ in range(load.CONNECTIONS):
            free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))
        asked: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while due < end and not self._is_stopped:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(free, answers, due))
            asked.add(task)
            task.add_done_callback(asked.discard)
            due += 1 / REQUESTS_A_SECOND
        await asyncio.gather(*asked)
        while not free.empty():
            free.get_nowait()[1].close()
        return answers

    async def _ask(
        self,
        free: "asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]",
        answers: Answers,
        due: float,
    ) -> None:
        reader, writer = await free.get()
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        body = await reader.readexactly(int(length.partition(b":")[2]))
        answers.taken.append((due, time.monotonic() - due))
        answers.unexpected += not (head.startswith(b"HTTP/1.1 400") and b'"valid":false' in body)
        free.put_nowait((reader, writer))


# The other process


def hold(port: int, connections: int) -> Held:
    """Open the connections at a steady rate, say so, and wait until all are cut."""
    os.nice(19)  # the client that measures may share this core, and must not wait for it
    raise_descriptor_limit()
    held: dict[int, tuple[socket.socket, float]] = {}
    poll = select.poll()
    refused = 0
    began_at = time.monotonic()
    for number, source in enumerate(_sources(connections)):
        time.sleep(max(0.0, began_at + number / OPENED_A_SECOND - time.monotonic()))
        try:
            connection = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        except OSError:
            refused += 1
            continue
        connection.send(HALF_HEAD)
        held[connection.fileno()] = (connection, time.monotonic())
        poll.register(connection, select.POLLIN)
    opened, opened_at = len(held), time.monotonic()
    print("open", flush=True)
    longest, answers = _wait_until_cut(held, poll)
    return Held(
        opened=opened,
        refused=refused,
        cut=opened - len(held),
        timed_out_answers=answers,
        began_at=began_at,
        opened_at=opened_at,
        last_cut_at=time.monotonic(),
        longest_seconds=longest,
    )


def _wait_until_cut(held: dict[int, tuple[socket.socket, float]], poll: select.poll) -> tuple[float, int]:
    """The longest life of a connection, and how many were answered with 408."""
    longest, answers = 0.0, 0
    give_up_at = time.monotonic() + 4 * CUT_WITHIN_SECONDS
    while held and time.monotonic() < give_up_at:
        for descriptor, _ in poll.poll(1000):
            connection, opened_at = held[descriptor]
            received = connection.recv(4096)
            if received:
                answers += received.startswith(b"HTTP/1.1 408")
                continue
            longest = max(longest, time.monotonic() - opened_at)
            poll.unregister(descriptor)
            connection.close()
            del held[descriptor]
    return longest, answers


def _sources(connections: int) -> Iterator[str]:
    """An address of this machine for each connection, another one when its ports run short."""
    return (f"127.0.0.{2 + number // CONNECTIONS_AN_ADDRESS}" for number in range(connections))


# Printing


def main(arguments: list[str], out: IO[str] = sys.stdout) -> int:
    if arguments[:1] == ["hold"]:
        print(json.dumps(asdict(hold(int(arguments[1]), int(arguments[2])))), file=out, flush=True)
        return 0
    raise_descriptor_limit()
    server_core, own_core = cores() or (None, None)
    pin(0, own_core)
    figures = measure_half_open(server_core, own_core)
    print(_report(figures), file=out)
    return 0 if figures.is_within_target else 1


def _report(one: HalfOpen) -> str:
    lines = [
        f"{one.opened:,} half-open connections, opened in {one.seconds_to_open:.1f} s; {one.cut:,} were cut, "
        f"{one.timed_out_answers:,} of them with a 408",
        f"the last one was cut {one.seconds_until_last_cut:.1f} s after the first was opened; the longest lived "
        f"{one.longest_seconds:.1f} s",
        f"POST /verify-otp at {REQUESTS_A_SECOND}/s: p99 {one.p99_alone_ms:.2f} ms alone, "
        f"{one.p99_holding_ms:.2f} ms while all are open, {one.p99_during_ms:.2f} ms with opening and cutting",
        f"longest {one.longest_alone_ms:.1f} ms alone, {one.longest_during_ms:.1f} ms with opening and cutting",
        f"memory: {_megabytes(one.bytes_before)} before, {_megabytes(one.bytes_during)} while they are open, "
        f"{_megabytes(one.bytes_after)} after",
    ]
    if one.stolen_seconds is not None:
        lines.append(f"CPU time taken away by the host meanwhile: {one.stolen_seconds:.2f} s")
    return "\n".join(lines)


def _megabytes(size: int | None) -> str:
    return "n/a" if size is None else f"{size / 2**20:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
