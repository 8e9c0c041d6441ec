"""Several processes on one port: real ones, which are killed, renewed and stopped while somebody asks."""

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bench.rolling import REQUESTS_A_SECOND, Answers, WorkersLog, keep_asking, workers
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
