"""A Redis of one's own on a free port, and the plainest connection to one."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otp_store import StoreUnavailable

TRIES = 20


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[int]:
    """A server with options such as `--appendonly yes`; gives its port. Its files are in the folder."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server here")
    port, process = next(filter(None, (_start(program, folder, options) for _ in range(TRIES))))
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def _start(program: str, folder: Path, options: tuple[str, ...]) -> "tuple[int, subprocess.Popen[str]] | None":
    """A server that is ready, or None if its port was just taken, or is too high for the bus of a cluster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        if any("Ready to accept connections" in line for line in said):
            return port, process
    process.wait()
    return None


class RawRedis:
    """One command at a time. Error replies are StoreUnavailable, too."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        try:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            raise StoreUnavailable from None

    async def call(self, key: bytes | None, *command: bytes) -> Any:
        assert self._writer is not None
        parts = [b"$%d\r\n%s\r\n" % (len(part), part) for part in command]
        self._writer.write(b"*%d\r\n%s" % (len(parts), b"".join(parts)))
        return await self._reply()

    async def _reply(self) -> Any:
        line = (await self._reader.readline()).strip().decode()
        kind, text = line[:1], line[1:]
        if kind == "-":
            raise StoreUnavailable
        if kind == "$":
            return (await self._reader.readexactly(int(text) + 2))[:-2]
        if kind == "*":
            return [await self._reply() for _ in range(int(text))]
        return int(text) if kind == ":" else text.encode()

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()
