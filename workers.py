"""Several processes on one listening socket: replaced when they die, renewed one by one without a gap.

Each worker has a line to its parent, a socket in the place of its stdin. Down it come the settings that all
workers share, and later one order; up it comes one word, when the worker serves. When the line breaks, the parent
is gone, and the worker stops in order. Workers are in process groups of their own: a Ctrl+C is for the parent.

uvicorn's supervisor (0.54) is not used: it makes servers of its own class in four places, hears no signal while it
renews its workers, has no way to end at once, and leaves its workers on the port when it is killed.
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

logger = logging.getLogger(__name__)

WORKER_FLAG = "--worker"
START_SECONDS = 60  # from the start of a worker to its word that it serves
PAUSE_SECONDS = 1  # before another worker is tried in the place of one that did not come to serve
_SERVING = b"serving\n"


class Order(StrEnum):
    """RETIRE: another worker is on the port already, so new connections need no more care."""

    STOP = "stop"
    RETIRE = "retire"


class ParentLine:
    """A worker's end of the line."""

    def __init__(self) -> None:
        self._line = socket.socket(fileno=sys.stdin.fileno())
        told = json.loads(self._first_line())
        self.settings: dict[str, Any] = told["settings"]
        """What the parent decided for all workers; it wins over the environment."""
        self.listener = socket.socket(fileno=told["listener"])

    def _first_line(self) -> bytes:
        text = b""
        while not text.endswith(b"\n") and (
            byte := self._line.recv(1)
        ):  # no more than the line: an order may follow
            text += byte
        return text

    async def serve_until_ordered(self) -> Order:
        """Say that this worker serves, and wait for what comes next."""
        reader, writer = await asyncio.open_connection(sock=self._line)
        writer.write(_SERVING)
        with contextlib.suppress(ConnectionError):
            if await reader.readline() == b"retire\n":
                return Order.RETIRE
        return Order.STOP


class _Worker:
    """The parent's end of the line, and the process."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.has_served = False
        self._reader = reader
        self._writer = writer

    def send(self, line: str) -> None:
        self._writer.write(line.encode() + b"\n")  # to a worker that has gone, it is lost without a word

    async def comes_to_serve(self) -> bool:
        try:
            async with asyncio.timeout(START_SECONDS):
                return await self._reader.readline() == _SERVING
        except ConnectionError:
            return False
        except TimeoutError:
            self.kill()
            return False

    async def gone(self) -> int:
        code = await self.process.wait()
        self._writer.close()
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class Supervisor:
    """Runs `command` with WORKER_FLAG, `count` times.

    SIGTERM and SIGINT stop in order, and a second one at once; SIGHUP renews all workers, SIGTTIN and SIGTTOU make
    it one worker more or less.
    """

    def __init__(
        self, command: Sequence[str], listener: socket.socket, count: int, settings: Mapping[str, Any]
    ) -> None:
        self._command = (*command, WORKER_FLAG)
        self._listener = listener
        self._told = json.dumps({"listener": listener.fileno(), "settings": settings})
        self._wanted = count
        self._serving: list[_Worker] = []  # the oldest first
        self._outdated: list[_Worker] = []
        self._watches: dict[_Worker, asyncio.Task[int]] = {}  # of all processes that live
        self._news = asyncio.Event()
        self._is_to_stop = asyncio.Event()

    async def run(self) -> int:
        """Keep the workers up until a signal comes. Gives the exit status: 0 after an orderly stop."""
        self._hear_signals()
        tending = asyncio.create_task(self._tend())
        stopping = asyncio.create_task(self._is_to_stop.wait())
        await asyncio.wait({tending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        has_failed = tending.done()
        for task in (tending, stopping):
            task.cancel()
        self._listener.close()  # or connections would wait in its queue for workers that do not come
        self._is_to_stop.set()
        for worker in self._watches:
            worker.send(Order.STOP)
        statuses = await asyncio.gather(*self._watches.values())
        return 1 if has_failed or any(statuses) else 0

    def _hear_signals(self) -> None:
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._renew_all,
            signal.SIGTTIN: lambda: self._want(self._wanted + 1),
            signal.SIGTTOU: lambda: self._want(max(1, self._wanted - 1)),
        }
        for number, handle in handlers.items():
            asyncio.get_running_loop().add_signal_handler(number, handle)

    def _stop(self) -> None:
        if self._is_to_stop.is_set():
            for worker in self._watches:
                worker.kill()
        self._is_to_stop.set()

    def _renew_all(self) -> None:
        logger.info("workers are renewed")
        self._outdated = list(self._serving)
        self._news.set()

    def _want(self, count: int) -> None:
        logger.info("workers wanted: %d", count)
        self._wanted = count
        self._news.set()

    async def _tend(self) -> None:
        """Bring workers up, replace and renew them. Returns if the first ones do not come to serve."""
        if not all(await asyncio.gather(*(self._start() for _ in range(self._wanted)))):
            return
        while True:
            self._news.clear()
            if len(self._serving) < self._wanted:
                if not await self._start():
                    await asyncio.sleep(PAUSE_SECONDS)
            elif len(self._serving) > self._wanted:
                self._retire(self._serving[0])
            elif self._outdated:
                await self._renew(self._outdated.pop(0))
            else:
                await self._news.wait()

    async def _renew(self, worker: _Worker) -> None:
        if worker not in self._serving:
            return  # it died, and was replaced
        if await self._start():
            self._retire(worker)
        else:
            self._outdated.clear()
            logger.error("workers are not renewed: the old ones go on")

    async def _start(self) -> bool:
        """Start one worker; tells whether it came to serve."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=theirs.fileno(), pass_fds=[self._listener.fileno()], process_group=0
            )
        worker = _Worker(process, *await asyncio.open_connection(sock=ours))
        self._watches[worker] = asyncio.create_task(self._watch(worker))
        worker.send(self._told)
        if not await worker.comes_to_serve():
            return False
        self._serving.append(worker)
        worker.has_served = True
        logger.info("worker serves", extra={"worker": process.pid})
        return True

    def _retire(self, worker: _Worker) -> None:
        self._serving.remove(worker)
        worker.send(Order.RETIRE)

    async def _watch(self, worker: _Worker) -> int:
        status = await worker.gone()
        del self._watches[worker]
        details = {"worker": worker.process.pid, "exit_status": status}
        if worker in self._serving and not self._is_to_stop.is_set():
            self._serving.remove(worker)
            logger.error("worker died", extra=details)
        elif worker.has_served or self._is_to_stop.is_set():
            logger.info("worker ended", extra=details)
        else:
            logger.error("worker did not come to serve", extra=details)
        self._news.set()
        return status
