"""Several processes on one port: real ones, which are killed, renewed and stopped while somebody asks."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.rolling import CONNECTIONS, REQUESTS_A_SECOND, Answers, WorkersLog, keep_asking, workers
from bench.sample_data import draw_codes
from bench.servers import carrier_settings, free_port, running, service
from tests.conftest import OTP_SECRET
from tests.redis_servers import RedisServer
from tests.test_server import program, wait_for_line
from workers import Supervisor

LEAST_ANSWERS = 200


def worker_in(line: str) -> int:
    pid: int = json.loads(line)["worker"]
    return pid


async def test_h1_a_rolling_restart_fails_no_request() -> None:
    answers, is_over = Answers(), asyncio.Event()
    async with workers() as (log, port):
        asking = asyncio.create_task(keep_asking(port, answers, REQUESTS_A_SECOND, is_over))
        await log.renew()
        is_over.set()
        await asking
    assert answers.failures == []
    assert len(answers.latencies) > LEAST_ANSWERS
    assert answers.last_ones > 0, "connections were ended, and their clients told so"


async def test_a_worker_that_dies_is_replaced_and_that_is_logged() -> None:
    async with workers() as (log, _):
        os.kill(await some_worker(log), signal.SIGKILL)
        (died,) = await log.wait_for("worker died")
        assert json.loads(died)["exit_status"] == -signal.SIGKILL
        (serves,) = await log.wait_for("worker serves")
        assert worker_in(serves) != worker_in(died)


async def test_settings_that_are_wrong_leave_the_old_workers_on_the_port(tmp_path: Path) -> None:
    async with workers(tmp_path) as (log, port):
        (tmp_path / ".env").write_text("CODE_TTL_SECONDS=soon", encoding="utf-8")
        log.process.send_signal(signal.SIGHUP)
        assert "CODE_TTL_SECONDS" in (await log.wait_for("voice-otp: "))[0]
        await log.wait_for("workers are not renewed")
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
        (tmp_path / ".env").write_text("CODE_TTL_SECONDS=60", encoding="utf-8")
        await log.renew()


async def some_worker(log: WorkersLog) -> int:
    """A worker's process id, out of its replacement by one that is one more."""
    log.process.send_signal(signal.SIGTTIN)
    return worker_in((await log.wait_for("worker serves"))[0])


async def test_workers_come_and_go_by_signal() -> None:
    async with workers() as (log, port):
        log.process.send_signal(signal.SIGTTIN)
        await log.wait_for("worker serves")
        for _ in range(2):
            log.process.send_signal(signal.SIGTTOU)
            await log.wait_for("worker ended")
        log.process.send_signal(signal.SIGTTOU)
        await log.wait_for("workers wanted: 1")
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/ready")).status_code == 200


async def test_a_stop_ends_all_workers_and_a_second_signal_at_once() -> None:
    async with workers() as (log, port):
        log.process.send_signal(signal.SIGTERM)
        await log.wait_for("worker ended", 2)
        assert await log.process.wait() == 0
    async with workers() as (log, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        log.process.send_signal(signal.SIGTERM)
        await log.wait_for("Waiting for connections to close")
        log.process.send_signal(signal.SIGTERM)
        assert await log.process.wait() == 1, "it did not end in order"
        writer.close()


async def test_workers_stop_when_their_parent_was_killed() -> None:
    async with workers() as (log, port):
        log.process.kill()
        assert await log.process.wait() == -signal.SIGKILL
        assert log.process.stderr is not None
        await log.process.stderr.read()  # ends when the last one that could write to it has gone
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))


@pytest.mark.parametrize("script", ["import sys; sys.exit(2)", "import sys; sys.stdin.close()"])
async def test_workers_that_do_not_come_to_serve_end_the_start(script: str) -> None:
    listener = socket.socket()
    assert await Supervisor([sys.executable, "-c", script], listener, 2, {}).run() == 1


# With Redis: the service as it is run


CALLS = 20
DONE = "answered_and_spoken"


@contextmanager
def carrier_and_redis(redis_server: RedisServer) -> Iterator[dict[str, str]]:
    """Settings that all processes share, and a carrier in a process of its own, whose callees answer quickly."""
    port = free_port()
    command = ["-m", "bench.simulated_carrier", str(port), "50", str(CONNECTIONS + CALLS)]
    with running("carrier", command, port, None) as carrier:
        api = carrier_settings(carrier, port)
        del api["PUBLIC_URL"]
        yield {**api, "OTP_SECRET": OTP_SECRET, "REDIS_URL": redis_server.url}


@asynccontextmanager
async def backend(port: int) -> AsyncIterator["Backend"]:
    """Each of its requests is on a new connection, so that any process may get it."""
    limits = httpx.Limits(max_keepalive_connections=0)
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30, limits=limits) as client:
        yield Backend(client)


class Backend:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        answer = await self._client.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def send(self, phone: str, code: str) -> None:
        await self.ask("POST", "/send-otp", {"phone": phone, "code": code})

    async def wait_for_end(self, phone: str) -> str:
        reason = None
        while reason is None:
            reason = (await self.ask("GET", f"/otp-status/{phone}"))["call"]["end_reason"]
        return str(reason)

    async def verify(self, phone: str, code: str) -> bool:
        return bool((await self.ask("POST", "/verify-otp", {"phone": phone, "otp": code}))["valid"])


async def test_h1_calls_outlive_the_workers_that_placed_them(redis_server: RedisServer) -> None:
    codes = draw_codes(CONNECTIONS, CALLS)  # of other numbers than those that are asked about besides
    answers, is_over = Answers(), asyncio.Event()
    with carrier_and_redis(redis_server) as shared:
        async with workers(settings=shared) as (log, port), backend(port) as ours:
            asking = asyncio.create_task(keep_asking(port, answers, REQUESTS_A_SECOND, is_over))
            await asyncio.gather(*(ours.send(*pair) for pair in codes.items()))
            await log.renew()
            assert set(await asyncio.gather(*map(ours.wait_for_end, codes))) == {DONE}
            assert all(await asyncio.gather(*(ours.verify(*pair) for pair in codes.items())))
            is_over.set()
            await asking
    assert answers.failures == []


async def test_one_machine_calls_and_another_one_gets_the_callbacks(redis_server: RedisServer) -> None:
    ((phone, code),) = draw_codes(0, 1).items()
    first, second = free_port(), free_port()
    with carrier_and_redis(redis_server) as shared:
        shared["PUBLIC_URL"] = f"http://127.0.0.1:{second}"
        with service(None, port=first, **shared), service(None, port=second, **shared):
            async with backend(first) as one, backend(second) as other:
                await one.send(phone, code)
                assert await other.wait_for_end(phone) == await one.wait_for_end(phone) == DONE
                assert await one.verify(phone, code)
                assert (await other.ask("GET", f"/otp-status/{phone}"))["status"] == "verified"


# One process


def ask(port: int, path: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=10) as client:
        return client.get(f"http://127.0.0.1:{port}{path}")


def test_h1_before_it_stops_it_serves_on_and_says_that_it_is_not_ready(tmp_path: Path) -> None:
    with program(tmp_path, HTTP_PORT="0", STOP_DELAY_SECONDS="120") as process:
        port = int(wait_for_line(process, "startup complete")[1].rpartition(":")[2].split("/")[0])
        process.send_signal(signal.SIGTERM)
        while ask(port, "/ready").status_code == 200:
            pass
        assert ask(port, "/ready").json()["code"] == "not_ready"
        assert ask(port, "/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with program(tmp_path, HTTP_PORT="0") as process:
        port = int(wait_for_line(process, "startup complete")[1].rpartition(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(number)
            wait_for_line(process, "Waiting for connections to close")
            process.send_signal(number)
            assert process.wait(timeout=30) == -number


def test_ctrl_c_waits_for_no_idle_connection(tmp_path: Path) -> None:
    with program(tmp_path, HTTP_PORT="0") as process:
        port = int(wait_for_line(process, "startup complete")[1].rpartition(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as idle:
            process.send_signal(signal.SIGINT)
            with suppress(ConnectionResetError):
                assert idle.recv(1) == b""
            assert process.wait(timeout=30) == 0
