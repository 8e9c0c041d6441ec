"""A Redis, services that share it, and their carrier, each a process; and an asker who times all answers."""

import asyncio
import contextlib
import secrets
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.servers import Server, carrier_settings, free_port, running, service
from tests.redis_servers import RedisServer

AOF: dict[str, Any] = {"appendonly": "yes", "appendfsync": "everysec"}
PATIENCE_SECONDS = 30.0
ASK_AGAIN_SECONDS = 0.02


class NeverCame(Exception):
    """What was waited for did not happen."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and how long it took; status 0: there was none."""

    route: str
    status: int
    seconds: float
    body: bytes = b""
    retry_after: str = ""

    @property
    def is_unavailable(self) -> bool:
        return self.status == 503 and b"store_unavailable" in self.body and bool(self.retry_after)

    @property
    def is_accepted(self) -> bool:
        return self.status == 200 and b'"valid":true' in self.body

    @property
    def is_document(self) -> bool:
        return self.status == 200 and ET.fromstring(self.body).tag == "Response"  # noqa: S314 - our own


@dataclass
class Asker:
    """One HTTP client of a service; keeps all answers."""

    port: int
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=200)
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=PATIENCE_SECONDS, limits=limits
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, **content: Any) -> Answer:
        route = "/" + path.split("/")[1].partition("?")[0]
        began_at = time.perf_counter()
        try:
            reply = await self._http.request(method, path, **content)
        except httpx.TransportError as error:
            answer = Answer(route, 0, time.perf_counter() - began_at, repr(error).encode())
        else:
            seconds = time.perf_counter() - began_at
            answer = Answer(route, reply.status_code, seconds, reply.content, reply.headers.get("retry-after", ""))
        self.answers.append(answer)
        return answer

    async def send(self, phone: str, code: str, **fields: Any) -> Answer:
        return await self.ask("POST", "/send-otp", json={"phone": phone, "code": code, **fields})

    async def prepare(self, phone: str, code: str, **fields: Any) -> None:
        """Send a code before anything is tested: again, if a busy machine had no time. Raises: NeverCame."""
        body = {"phone": phone, "code": code, **fields}
        await self.until(lambda answer: answer.status == 200, "POST", "/send-otp", json=body)

    async def verify(self, phone: str, otp: str, **headers: str) -> Answer:
        return await self.ask("POST", "/verify-otp", json={"phone": phone, "otp": otp}, headers=headers)

    async def status(self, phone: str) -> Answer:
        return await self.ask("GET", f"/otp-status/{phone}")

    async def cancel(self, phone: str) -> Answer:
        return await self.ask("POST", "/cancel-otp", json={"phone": phone})

    async def callback(self, path: str, **fields: str) -> Answer:
        return await self.ask("POST", path, data=fields)

    async def until(self, is_it: Callable[[Answer], bool], method: str, path: str, **content: Any) -> float:
        """Ask until the answer is that; seconds until it was. Raises: NeverCame."""
        began_at = time.perf_counter()
        while True:
            answer = await self.ask(method, path, **content)
            seconds = time.perf_counter() - began_at
            if is_it(answer):
                return seconds
            if seconds > PATIENCE_SECONDS:
                raise NeverCame(f"{path}: {answer.status} {answer.body[:200]!r}")
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def until_ready(self) -> float:
        return await self.until(lambda answer: answer.status == 200, "GET", "/ready")


@dataclass(frozen=True, slots=True)
class World:
    redis: RedisServer
    carrier: Server
    services: tuple[Server, ...]

    def called(self) -> list[tuple[str, str, str]]:
        """[call id, answer URL, callee] of each call at the carrier since this was last asked."""
        return [(call_id, url, to) for call_id, url, to in self.carrier.get("/calls").json()]

    @contextlib.asynccontextmanager
    async def asker(self, number: int = 0) -> AsyncIterator[Asker]:
        asker = Asker(self.services[number].port)
        try:
            yield asker
        finally:
            await asker.close()


@contextlib.contextmanager
def world(redis: RedisServer, services: int = 1, redis_url: str | None = None, **settings: str) -> Iterator[World]:
    """Services over a Redis that runs already, perhaps through a proxy at `redis_url`."""
    carrier_port = free_port()
    shared = {"REDIS_URL": redis_url or redis.url, "OTP_SECRET": secrets.token_urlsafe(32)}
    with contextlib.ExitStack() as stack:
        command = ["-m", "bench.fake_carrier", str(carrier_port)]
        carrier = stack.enter_context(running("carrier", command, carrier_port, None))
        started = []
        for _ in range(services):
            port = free_port()
            given = {**carrier_settings(carrier, port), **shared, **settings}
            started.append(stack.enter_context(service(None, port=port, **given)))
        yield World(redis, carrier, tuple(started))
