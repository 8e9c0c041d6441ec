"""The one HTTP client for requests to carriers: httpx on top of aiohttp's connection pool.

httpx's own pool scans all its connections on every event and slows to a crawl with hundreds of requests in
flight. Measured on two busy cores, 256 in flight to a server that takes 100 ms: 65 requests/s at 15 ms of CPU each
with httpx's pool, 1,030 at 0.8 ms with this one. The bridge between them, httpx-aiohttp, reports nearly every
failure as `ConnectTimeout`, also those that happen after the request was sent. Whether a phone may be ringing
hangs on that difference, so this transport names failures by their cause.
"""

import ssl
from collections.abc import AsyncIterator
from functools import cache

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

MAX_CONNECTIONS = 500
# Less than servers usually have, from 5 seconds on: one that closes a connection at the moment at which a request
# leaves on it has lost a call of which nothing is known.
IDLE_SECONDS = 3.0
CONNECT_SECONDS = 3.0


class CarrierTransport(AiohttpTransport):
    """Raises httpx.ConnectError or httpx.PoolTimeout only where nothing was sent."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await super().handle_async_request(request)
        except httpx.ConnectTimeout as error:
            raise _by_cause(error) from error
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(f"unreadable answer: {type(error).__name__}") from error
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for the type checker
        response.stream = _Body(response.stream)
        return response


def _by_cause(error: httpx.ConnectTimeout) -> httpx.TransportError:
    match error.__cause__:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return httpx.ConnectError("no connection")
        case _:
            return httpx.ReadError("the connection broke after the request was sent")


class _Body(httpx.AsyncByteStream):
    """A body that breaks off is a broken body, whatever the bridge calls it."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except (httpx.ConnectTimeout, RuntimeError) as error:  # aiohttp: RuntimeError("Connection closed.")
            raise httpx.ReadError("the connection broke inside the answer") from error

    async def aclose(self) -> None:
        await self._stream.aclose()


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reading the certificate authorities takes a tenth of a second


def open_http_client(deadline_seconds: float) -> httpx.AsyncClient:
    """A pooled client, which the caller closes. Certificates are verified, redirects are not followed.

    Callers end a whole request after `deadline_seconds` themselves; a wait for a free connection ends a little
    earlier, while it is still certain that nothing was sent.
    """
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=IDLE_SECONDS)
    timeout = httpx.Timeout(
        deadline_seconds, connect=min(CONNECT_SECONDS, deadline_seconds), pool=0.9 * deadline_seconds
    )
    return httpx.AsyncClient(
        transport=CarrierTransport(verify=_tls(), limits=limits), timeout=timeout, follow_redirects=False
    )
