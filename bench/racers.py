"""Processes that send many requests at the same instant.

Each keeps its requests back to the last byte, waits for the others at a barrier, then lets them go. Threads of one
process would not do: its one event loop puts requests in a row, and hides races.
"""

import contextlib
import multiprocessing
import re
import socket
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import NamedTuple

PROCESSES = 4
PATIENCE_SECONDS = 60
_KEPT_SECONDS = 2.0  # the server closes what is idle for five
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    """An answer with its times; see `history.Check`. Empty, with status 0, where the server died meanwhile."""

    invoked: float
    returned: float
    response: bytes

    @property
    def status(self) -> int:
        return int(self.response[9:12] or 0)


class Racers:
    def __init__(self, pipes: Sequence["Connection[object, object]"]) -> None:
        self._pipes = pipes

    def volley(self, requests: Sequence[bytes]) -> list[Answer]:
        """Send all of them at once, dealt out over the processes; the answers in the order of the requests."""
        for number, pipe in enumerate(self._pipes):
            pipe.send(requests[number :: len(self._pipes)])
        answers: list[Answer | None] = [None] * len(requests)
        for number, pipe in enumerate(self._pipes):
            if not pipe.poll(PATIENCE_SECONDS):
                raise TimeoutError("a racing process has no answers")
            answers[number :: len(self._pipes)] = pipe.recv()  # type: ignore[call-overload]  # what _race sent
        return [answer for answer in answers if answer is not None]


@contextlib.contextmanager
def racers(ports: Sequence[int], processes: int = PROCESSES) -> Iterator[Racers]:
    """Each process sends to all of the ports alike."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    pairs = [context.Pipe() for _ in range(processes)]
    started = [context.Process(target=_race, args=(ports, theirs, barrier), daemon=True) for _, theirs in pairs]
    for process in started:
        process.start()
    try:
        yield Racers([ours for ours, _ in pairs])
    finally:
        for ours, theirs in pairs:
            with contextlib.suppress(OSError):
                ours.send(None)
            theirs.close()
        for process in started:
            process.join(5)
            if process.is_alive():
                process.terminate()
                process.join(5)
        for ours, _ in pairs:
            ours.close()


def _race(ports: Sequence[int], pipe: "Connection[object, object]", barrier: Barrier) -> None:
    connections: list[socket.socket] = []
    used_at = 0.0
    while isinstance(requests := pipe.recv(), list):
        if time.monotonic() > used_at + _KEPT_SECONDS:
            _close(connections)
        while len(connections) < len(requests):
            connections.append(_connect(ports[len(connections) % len(ports)]))
        for connection, request in zip(connections, requests, strict=False):
            connection.sendall(request[:-1])
        barrier.wait(PATIENCE_SECONDS)
        invoked = [_release(connection, last) for connection, last in zip(connections, requests, strict=False)]
        received = [(_read(connection), time.monotonic()) for connection in connections[: len(requests)]]
        pipe.send([Answer(at, until, body) for at, (body, until) in zip(invoked, received, strict=True)])
        used_at = time.monotonic()
    _close(connections)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
    connection.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # or the last byte waits for an acknowledgement
    return connection


def _release(connection: socket.socket, request: bytes) -> float:
    at = time.monotonic()
    with contextlib.suppress(ConnectionError):
        connection.sendall(request[-1:])
    return at


def _read(connection: socket.socket) -> bytes:
    """A whole answer; nothing from a server that died."""
    received = b""
    while True:
        head_end = received.find(b"\r\n\r\n")
        length = _LENGTH.search(received, 0, head_end + 2) if head_end >= 0 else None
        if length is not None and len(received) >= head_end + 4 + int(length[1]):
            return received
        try:
            data = connection.recv(65_536)
        except ConnectionError:
            data = b""
        if not data:
            return b""
        received += data


def _close(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()
    connections.clear()
