"""A carrier's API in trouble, on real ports of loopback, in front of the simulated carrier that it belongs to."""

import asyncio
import contextlib
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from http_client import open_http_client
from tests.provider_cases import VoiceCase

RETRY_AFTER_SECONDS = 7
DRIP_SECONDS = 0.02
JUNK = b"<html>Sign in to the network</html>"


class Shape(StrEnum):
    """The ways to fail, by the words of the table in docs/providers.md."""

    REFUSED = "connection refused"
    UNKNOWN_HOST = "host name unknown"
    TLS = "certificate not valid"
    SILENT = "no answer, and nothing dialled"
    DIALS_SILENTLY = "no answer, but the phone rings"
    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    OUT_OF_CREDIT = "402"
    THROTTLED_FOR = "429 with `Retry-After`"
    THROTTLED = "429 without"
    OWN_500 = "500 in the API's own words"
    FOREIGN_500 = "500 of something in between"
    JUNK = "200 with junk"
    DRIP = "200 that drips in, byte by byte"


NEVER_SENT = frozenset({Shape.REFUSED, Shape.UNKNOWN_HOST, Shape.TLS})
_STATUSES = {
    Shape.BAD_REQUEST: 400,
    Shape.UNAUTHORIZED: 401,
    Shape.OUT_OF_CREDIT: 402,
    Shape.THROTTLED_FOR: 429,
    Shape.THROTTLED: 429,
    Shape.OWN_500: 500,
}


class Request(NamedTuple):
    """A request as it came in. `port` is that of the service, which plays the carrier behind this API."""

    head: bytes
    body: bytes
    port: int

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode()

    @property
    def is_create(self) -> bool:
        """Whether it asks for a call: of all that is posted, only that names a callee."""
        return self.head.startswith(b"POST ") and re.search(rb"14155550\d\d\d", self.body) is not None

    def without(self, field: str) -> "Request":
        """The same without a field of its JSON."""
        fields = json.loads(self.body)
        fields.pop(field, None)
        body = json.dumps(fields).encode()
        head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % len(body), self.head)
        return Request(head, body, self.port)


class FaultyApi:
    """Fails in the given shape; without one, requests pass, as do others than for calls if it `takes_questions`.

    `creates` are the requests for calls that arrived, `seen` the first lines of all requests.
    """

    def __init__(self, case: VoiceCase, http_port: int, tls_port: int, closed_port: int) -> None:
        self.shape: Shape | None = None
        self.takes_questions = False
        self.creates: list[Request] = []
        self.seen: list[str] = []
        self._case = case
        self._path = f"/simulator/{'api' if case.name == 'vobiz' else case.name}/"
        self._base_urls = {
            Shape.REFUSED: f"http://127.0.0.1:{closed_port}",
            Shape.UNKNOWN_HOST: "http://carrier.invalid",
            Shape.TLS: f"https://127.0.0.1:{tls_port}",
        }
        self._http_url = f"http://127.0.0.1:{http_port}"
        self._service_port = 0

    def open_http(self, deadline_seconds: float) -> httpx.AsyncClient:
        """The service's own client, except that this API is where the simulated carrier was."""
        http = open_http_client(deadline_seconds)
        http.event_hooks = {"request": [self._reroute]}
        return http

    async def _reroute(self, request: httpx.Request) -> None:
        if request.url.path.startswith(self._path):
            self._service_port = request.url.port or 80
            base_url = self._base_urls.get(self.shape, self._http_url) if self.shape else self._http_url
            request.url = httpx.URL(base_url).copy_with(raw_path=request.url.raw_path)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            request = Request(head, body, self._service_port)
            self.seen.append(request.line)
            if request.is_create:
                self.creates.append(request)
            await self._respond(request, reader, writer)

    async def _respond(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self.shape if request.is_create or not self.takes_questions else None:
            case None:
                writer.write(await pass_on(request))
            case Shape.SILENT:
                await reader.read()  # until the customer has given up
            case Shape.DIALS_SILENTLY:
                await pass_on(request)
                await reader.read()
            case Shape.DRIP:
                await _drip(writer)
            case Shape.JUNK:
                writer.write(_answer(200, JUNK))
            case Shape.FOREIGN_500:
                writer.write(_answer(500, JUNK))
            case Shape.THROTTLED_FOR:
                writer.write(_answer(429, b"", f"Retry-After: {RETRY_AFTER_SECONDS}"))
            case Shape.THROTTLED:
                writer.write(_answer(429, b""))
            case shape:
                status = _STATUSES[shape]
                writer.write(_answer(status, self._case.refusals[status]))
        await writer.drain()


def _answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers, "", "")
    return "\r\n".join(lines).encode() + body


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()  # raises once the customer has given up
        await asyncio.sleep(DRIP_SECONDS)


async def pass_on(request: Request) -> bytes:
    """The whole answer of the simulated carrier."""
    reader, writer = await asyncio.open_connection("127.0.0.1", request.port)
    with contextlib.closing(writer):
        writer.write(request.head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + request.body)
        return await reader.read()


@contextlib.asynccontextmanager
async def run_faulty_api(case: VoiceCase, certificates: Path) -> AsyncIterator[FaultyApi]:
    """The API on a port, on another one with a certificate that nobody trusts, and a port where nobody listens."""
    api: list[FaultyApi] = []
    handlers: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        await api[0].serve(reader, writer)

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and never listens, so that the port stays ours
        async with await _listen(serve) as plain, await _listen(serve, tls) as secure:
            ports = [one.getsockname()[1] for one in (plain.sockets[0], secure.sockets[0], closed)]
            api.append(FaultyApi(case, *ports))
            yield api[0]
            for handler in handlers:
                if handler is not None:
                    handler.cancel()


def _listen(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> Awaitable[asyncio.Server]:
    return asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)


def write_certificate(path: Path) -> None:
    """A key and the certificate that it signed for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
