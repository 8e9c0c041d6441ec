"""The processes that are measured: started on free loopback ports, pinned to a core, always stopped again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0
AUTH_ID, AUTH_TOKEN, FROM_NUMBER = "MA_BENCH000", "bench-token-of-no-value", "+12025550100"


# Every limit is on, as they cost time, but so wide that a benchmark does not meet it.
_PLENTY = "1000000000"
WIDE_LIMITS = {
    "RESEND_AFTER_SECONDS": "0",
    "SENDS_PER_TEN_MINUTES": _PLENTY,
    "SENDS_PER_DAY": _PLENTY,
    "PREFIX_SENDS_PER_HOUR": _PLENTY,
    "REGION_SENDS_PER_HOUR": _PLENTY,
    "CLIENT_SENDS_PER_HOUR": _PLENTY,
    "CLIENT_WRONG_CODES_PER_HOUR": _PLENTY,
    "WRONG_CODES_PER_DAY": _PLENTY,
    "STATUS_READS_PER_MINUTE": _PLENTY,
    "CALL_PRICES": "max=0.01",
    "SPEND_PER_HOUR": "1000000",
    "SPEND_PER_DAY": "1000000",
    "CLIENT_SPEND_PER_HOUR": "1000000",
    "CLIENT_SPEND_PER_DAY": "1000000",
    "CONVERSION_MONITOR": "record",
    "CONVERSION_MIN_SHARE": "0",
    "ALLOWED_REGIONS": "*",
    "ALLOW_ANONYMOUS": "true",
}


class NotStarted(Exception):
    """A server ended or stayed silent; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `started_in` is seconds from its spawn to its first 200."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started_in: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> httpx.Response:
        return _http().get(self.url + path)

    def cpu_seconds(self) -> float | None:
        """CPU time used so far, user and system, in steps of a clock tick (10 ms); None without /proc."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int | None:
        """Memory that the process holds in RAM; None without /proc."""
        return resident_bytes(str(self.process.pid))


@cache
def _http() -> httpx.Client:
    """One for all: a client takes 50 ms to make, as it reads the certificates that it may need."""
    return httpx.Client(timeout=10, trust_env=False)


def resident_bytes(pid: str = "self") -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def cores() -> tuple[int, int] | None:
    """The core for servers and the one for the load generator; None where they cannot be chosen."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


def pin(pid: int, core: int | None) -> None:
    """Keep a process (0: this one) on one core; None leaves it free."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def service(core: int | None, module: str = "", port: int | None = None, **settings: str) -> Iterator[Server]:
    """The service as installed (`python server.py`), or wrapped by a module of this folder."""
    port = port or free_port()
    command = ["-m", module] if module else [str(ROOT / "server.py")]
    with running("service", command, port, core, **{**WIDE_LIMITS, "HTTP_PORT": str(port), **settings}) as server:
        yield server


def carrier_settings(carrier: Server, port: int) -> dict[str, str]:
    """Settings that make the service at a port call through a carrier of ours.

    With the longest ring timeout the service does not begin to ask about calls whose callbacks stay away.
    """
    return {
        "VOBIZ_API_URL": f"{carrier.url}/api/v1",
        "VOBIZ_AUTH_ID": AUTH_ID,
        "VOBIZ_CALLS_PER_SECOND": "0",
        "VOBIZ_AUTH_TOKEN": AUTH_TOKEN,
        "FROM_NUMBER": FROM_NUMBER,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "RING_TIMEOUT_SECONDS": "120",
    }


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, core: int | None, **environment: str) -> Iterator[Server]:
    """Start `python <command>` in an empty folder with no environment but the given one; wait until it is ready.

    Raises: NotStarted.
    """
    with tempfile.TemporaryDirectory(prefix="voice-otp-bench-") as folder:
        log = Path(folder) / "log"
        started = time.perf_counter()
        with log.open("wb") as log_file:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,  # settings are also read from a `.env` in the working folder
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
            )
        try:
            pin(process.pid, core)
            _wait_until_ready(process, port, log)
            yield Server(name, process, port, log, time.perf_counter() - started)
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.perf_counter() + START_SECONDS
    while time.perf_counter() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if _http().get(f"http://127.0.0.1:{port}/ready", timeout=2).status_code == 200:
                return
        time.sleep(0.005)
    raise NotStarted(log.read_text(errors="replace")[-2000:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # a service that gets SIGTERM waits for those who may still send
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
