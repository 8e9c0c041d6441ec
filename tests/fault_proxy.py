"""A TCP proxy whose network fails as its test says: slow, narrow, in pieces, silent, cut, or gone unheard."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

_AT_ONCE = 65_536
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: what closes is not waited for, and told by a reset


class Flow:
    """What becomes of bytes in one direction, of all connections, from now on."""

    def __init__(self) -> None:
        self.latency_seconds = 0.0
        self.bytes_per_second = 0.0
        """0: no limit."""
        self.slice_bytes = 0
        """How many bytes travel together; 0: as they come."""
        self.is_black_hole = False
        """What comes is swallowed, and nobody is told."""
        self._swallowed = asyncio.Event()

    async def swallowed(self) -> None:
        """Returns when something was swallowed since this was last waited for."""
        await self._swallowed.wait()
        self._swallowed.clear()

    def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[Coroutine[Any, Any, None]]:
        """Two halves, so that what comes meanwhile is not held up twice by the same latency."""
        on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        return [self._take_in(reader, on_its_way), self._deliver(on_its_way, writer)]

    async def _take_in(self, reader: asyncio.StreamReader, on_its_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            data = await reader.read(_AT_ONCE)
            on_its_way.put_nowait((asyncio.get_running_loop().time() + self.latency_seconds, data))

    async def _deliver(self, on_its_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await on_its_way.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            if not data:
                break
            step = self.slice_bytes or len(data)
            for start in range(0, len(data), step):
                await self._pass_on(data[start : start + step], writer)
        writer.close()

    async def _pass_on(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        if self.bytes_per_second:
            await asyncio.sleep(len(piece) / self.bytes_per_second)
        if self.is_black_hole:
            self._swallowed.set()
            return
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # or the pieces would leave together


class _Pair:
    """One connection of a client, and ours to the server for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)
        self.carrying: asyncio.Future[Any] | None = None

    async def carry(self, *ways: Coroutine[Any, Any, None]) -> None:
        self.carrying = asyncio.gather(*ways)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self.carrying

    def stop(self) -> None:
        if self.carrying is not None:
            self.carrying.cancel()


class FaultProxy:
    """Listens on loopback, and carries what comes to the target's port and back."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        """Where new connections lead: another server may take over."""
        self.to_server, self.to_client = Flow(), Flow()
        self.refuses = False
        """New connections are reset."""
        self.port = 0
        self._pairs: set[_Pair] = set()
        self._silent: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.reset()
        for writer in self._silent:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            _reset(writer)
            return
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            _reset(writer)
            return
        pair = _Pair(writer, server)
        self._pairs.add(pair)
        await pair.carry(*self.to_server.carry(reader, server), *self.to_client.carry(from_server, writer))
        self._pairs.discard(pair)
        for end in pair.ends:
            if end not in self._silent:
                end.close()

    def reset(self) -> None:
        """Cut all connections with a reset, at both ends."""
        for pair in self._pairs:
            for end in pair.ends:
                _reset(end)
            pair.stop()

    def half_open(self) -> None:
        """The server is gone without a word: clients keep connections on which nothing ever comes."""
        for pair in self._pairs:
            client, server = pair.ends
            self._silent.append(client)
            _reset(server)
            pair.stop()

    def black_hole(self, *, is_on: bool = True) -> None:
        self.to_server.is_black_hole = self.to_client.is_black_hole = is_on


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
