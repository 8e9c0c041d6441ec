"""Real sockets: a failure is named by whether the carrier can have heard the request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from http_client import open_http_client

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def saying(answer: bytes) -> Handler:
    """Read the request, say this, and close."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return handler


async def post(url: str) -> httpx.Response:
    async with open_http_client(10) as client:
        return await client.post(url, json={})


async def test_a_refused_connection_is_a_connect_error() -> None:
    async with listening(saying(b"")) as url:
        pass
    with pytest.raises(httpx.ConnectError):
        await post(url)


async def test_an_unknown_host_is_a_connect_error() -> None:
    with pytest.raises(httpx.ConnectError):
        await post("http://carrier.invalid/")


async def test_a_failed_tls_handshake_is_a_connect_error() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no TLS here\r\n")
        await writer.drain()

    async with listening(handler) as url:
        with pytest.raises(httpx.ConnectError):
            await post(url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="closed without an answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", id="body cut off"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", id="chunk cut off"),
        pytest.param(b"220 smtp.example.com ESMTP\r\n\r\n", id="another protocol"),
    ],
)
async def test_whatever_breaks_after_the_request_is_no_connect_error(answer: bytes) -> None:
    async with listening(saying(answer)) as url:
        with pytest.raises(httpx.TransportError) as raised:
            await post(url)
    assert not isinstance(raised.value, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))


async def test_silence_is_a_read_timeout() -> None:
    silent = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()

    async with listening(handler) as url, open_http_client(10) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(url, json={}, timeout=httpx.Timeout(1, read=0.05))
        silent.set()


async def test_redirects_are_not_followed() -> None:
    async with listening(
        saying(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    ) as url:
        assert (await post(url)).status_code == 302


async def test_connections_are_kept_and_bodies_arrive() -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(3):
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with listening(handler) as url, open_http_client(10) as client:
        for _ in range(3):
            assert (await client.post(url, json={})).text == "ok"
    assert connections == 1
