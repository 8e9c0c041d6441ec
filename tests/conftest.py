"""Fixtures, and the watch over all output: a code, a number in clear or a secret in it fails the run."""

import asyncio
import contextlib
import dataclasses
import io
import logging
import math
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from carrier_settings import CarrierSettings
from clock import Clock
from connection_limits import ReceiveLimits
from http_client import open_http_client
from log_format import JsonFormatter
from server import Server, create_app
from settings import Settings, load_settings
from stores import open_stores
from tests.hearing import TEXTS, heard
from tests.redis_servers import _session_redis as _session_redis
from tests.redis_servers import redis_server as redis_server

VOBIZ_TOKEN = "vobiz-token-CANARY-0123456789"
OTP_SECRET = "otp-secret-CANARY-0123456789abcdef0123456789abcdef"

PATIENCE_SECONDS = 60.0

# Most tests have no key and call the same numbers over and over; those of access and limits set theirs.
NO_LIMITS = {
    "allow_anonymous": True,
    "allowed_regions": "*",
    "resend_after_seconds": 0,
    "sends_per_ten_minutes": 0,
    "sends_per_day": 0,
    "region_sends_per_hour": 0,
    "client_sends_per_hour": 0,
    "prefix_sends_per_hour": 0,
    "client_wrong_codes_per_hour": 0,
    "status_reads_per_minute": 0,
    "conversion_monitor": "off",
    **{f"{name}_calls_per_second": 0 for name in CarrierSettings.REQUIRED},
}

# Whatever a test says or hears that no output may hold. Tests add to it with `keep_secret`. Each process of a
# parallel run has a set of its own: what test modules name is in all of them, and a service outlives no test.
_secrets: set[str] = {VOBIZ_TOKEN, OTP_SECRET}
_searched: set[str] = set(_secrets)


def keep_secret(text: str) -> str:
    """Fail the run if this text turns up in a log line or on stdout or stderr."""
    if text == _PUBLISHED_PHONE:
        return text
    _secrets.add(text)
    if not (text.isdigit() or _NUMBER_OR_TOKEN.fullmatch(text)):
        _searched.add(text)
    return text


_PUBLISHED_PHONE = "+14155550100"  # the example in messages and documents of ours
# Tens of thousands of numbers and tokens have been kept by the end of a run: what a text holds is looked up in the
# set of them, and only the few secrets of another form are searched for one by one.
_NUMBER_OR_TOKEN = re.compile(r"\+[0-9]{7,15}|[0-9a-f]{68}")
_STANDALONE_DIGITS = re.compile(r"(?<![0-9a-f])[0-9]+(?![0-9a-f])")


def leaks_in(text: str) -> list[str]:
    """The secrets that a text holds. Codes of digits count only where they stand alone."""
    if not text:
        return []
    found = _secrets & {*_STANDALONE_DIGITS.findall(text), *_NUMBER_OR_TOKEN.findall(text)}
    return [*found, *(secret for secret in _searched if secret in text)]


@pytest.fixture(autouse=True)
def _watch_over_logs() -> Iterator[None]:
    """Every log line of a test, as the program would write it; one secret in it fails the test."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    level = logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # as set_up_logging does
    yield
    logging.root.removeHandler(handler)
    logging.root.setLevel(level)
    assert leaks_in(written.getvalue()) == [], "a secret, a code or a number was written to the log"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The same for what was written to stdout and stderr."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    leaks = leaks_in(report.capstdout + report.capstderr)
    if leaks and report.passed:
        report.outcome = "failed"
        report.longrepr = f"{len(leaks)} secrets, codes or numbers were written to the terminal"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Tests that are marked `untraced` run at full speed also under coverage: it would take most of their time.

    pytest-cov's own mark, `no_cover`, has no effect in the workers of pytest-xdist: each of them starts two
    collectors, and when one stops, the other takes over.
    """
    tracer = sys.gettrace()
    if item.get_closest_marker("untraced"):
        sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


# More rounds of the event loop than any step takes from a wake-up to its next sleep, without real input.
SETTLING_ROUNDS = 25


class FakeTime:
    """A clock that stands still until it is told to move on."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.wall_seconds = 1_767_225_600.0  # 2026-01-01T00:00:00Z
        self.clock = Clock(now=lambda: self.seconds, wall=lambda: self.wall_seconds, sleep=self._sleep)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall_seconds += seconds
        for wakes_at, sleeper in self._sleepers:
            if wakes_at <= self.seconds and not sleeper.done():
                sleeper.set_result(None)
        self._sleepers = [one for one in self._sleepers if not one[1].done()]

    async def pass_by(self, seconds: float) -> None:
        """Move on from one sleeper's wake-up to the next, and let each do its work before time goes on."""
        until = self.seconds + seconds
        await self.settle()
        while (wakes_at := min((at for at, _ in self._sleepers), default=math.inf)) <= until:
            self.advance(max(0.0, wakes_at - self.seconds))
            await self.settle()
        self.advance(until - self.seconds)
        await self.settle()

    @staticmethod
    async def settle() -> None:
        """Let everything run that waits for nothing but its turn."""
        for _ in range(SETTLING_ROUNDS):
            await asyncio.sleep(0)

    async def _sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.seconds + seconds, sleeper))
        try:
            await sleeper
        finally:
            self._sleepers = [one for one in self._sleepers if one[1] is not sleeper]


def most_in_a_second(times: Sequence[float]) -> int:
    """Of starts in order: the most within any second."""
    most, oldest = 0, 0
    for newest, at in enumerate(times):
        while times[oldest] <= at - 1:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No test sees the settings of the machine that it runs on."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


class RunningService:
    """The app under a real uvicorn on a free port of loopback, in the test's own event loop."""

    def __init__(self, app: FastAPI, settings: Settings, client: httpx.AsyncClient, server: Server) -> None:
        self.app = app
        self.server = server
        self.settings = settings
        self.client = client

    @property
    def carrier(self) -> Any:
        return self.app.state.carrier

    def provider(self, name: str | None = None) -> Any:
        """The client of a carrier, by default of the first one."""
        return self.app.state.service._router.provider(name or self.settings.provider_names[0])

    async def send(self, phone: str, **fields: Any) -> httpx.Response:
        keep_secret(phone)
        if "code" in fields:
            keep_secret(fields["code"])
        return await self.client.post("/send-otp", json={"phone": phone, **fields})

    async def verify(self, phone: str, otp: str) -> httpx.Response:
        return await self.client.post("/verify-otp", json={"phone": phone, "otp": otp})

    async def status(self, key: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.client.get(f"/otp-status/{key}")).json()
        return answer

    async def calls_over(self) -> None:
        """Wait until every simulated call has ended."""
        while self.carrier.tasks:
            await asyncio.gather(*self.carrier.tasks.values(), return_exceptions=True)


@pytest.fixture(autouse=True)
def _patient_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process plays carrier, service and backend here: the carrier is as patient as a busy machine needs."""
    monkeypatch.setattr("simulator.vobiz_call.NOTICE_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("simulator.vobiz_call.DOCUMENT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr("http_client.CONNECT_SECONDS", PATIENCE_SECONDS)
    # Also the wait for one of 500 connections.
    monkeypatch.setattr("server.LONGEST_CALLBACK_SECONDS", PATIENCE_SECONDS)


class PromptUvicorn(uvicorn.Server):
    """uvicorn without its pauses: two of a tenth of a second for each service that a test starts."""

    def __init__(self, config: uvicorn.Config) -> None:
        # Or a busy loop closes connections at the moment at which the same loop sends requests on them.
        config.timeout_keep_alive = int(PATIENCE_SECONDS)
        super().__init__(config)
        self.is_to_stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the date of all answers
        await self.is_to_stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for _ in range(5):  # turns of the loop, in which idle ones close
            await asyncio.sleep(0)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await self.lifespan.shutdown()


class AnnouncedServer(Server, PromptUvicorn):
    """Says when it has started."""

    def __init__(self, app: FastAPI) -> None:
        # Sweeps come from tests only: a slow machine must not cut a test's own connections.
        super().__init__(app, ReceiveLimits(sweep_seconds=3600), drain_seconds=5)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    def stop(self) -> None:
        super().stop()
        self.is_to_stop.set()


@contextlib.asynccontextmanager
async def run_service(
    clock: Clock | None = None, http: httpx.AsyncClient | None = None, **settings: Any
) -> AsyncIterator[RunningService]:
    """`jobs` and `otp` among the settings are what is shared with other services."""
    shared = {name: settings.pop(name) for name in ("jobs", "otp") if name in settings}
    # With its protocol named, asyncio sends small answers at once: without, each one waits 40 ms (Nagle).
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", settings.get("http_port", 0)))
    port = listener.getsockname()[1]
    patience = {} if clock else {"provider_deadline_seconds": PATIENCE_SECONDS}
    given = load_settings(
        **{"simulator_speed": float("inf"), "http_port": port, **patience, **NO_LIMITS, **settings}
    )
    stores = dataclasses.replace(open_stores(given, clock or Clock()), **shared) if shared else None
    app = create_app(given, clock, http, stores)
    server = AnnouncedServer(app)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.has_started.wait()
    try:
        async with open_http_client(60) as client:
            client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
            yield RunningService(app, given, client, server)
    finally:
        keep_secrets_of_calls(app)
        server.stop()
        await serving


_CALL_TOKEN = re.compile(r"[0-9a-f]{68}")


def keep_secrets_of_calls(app: FastAPI) -> None:
    """Codes that the service drew, and call tokens, as the simulated carriers came to know them."""
    for carrier in app.state.carriers.values():
        for call in [*carrier.calls.values(), *carrier.records.values()]:
            keep_secret(call.request.to)
            for token in _CALL_TOKEN.findall(str(dataclasses.asdict(call.request))):
                keep_secret(token)
            for spelled in (heard(call.spoken, language) for language in TEXTS):
                if len(spelled) >= 12 and spelled[:6].isdigit():  # a code that was drawn, and read twice
                    keep_secret(spelled[:6])


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    """The service with the simulator, at the highest speed."""
    async with run_service() as running:
        yield running
