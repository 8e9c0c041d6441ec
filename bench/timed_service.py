"""The service, unchanged but for a stopwatch around its `/answer` routes; GET /bench/answers reads it.

A time starts when the request's headers were read and ends when its answer was handed to the socket.
"""

import json
import sys
import time
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

import server

_create_app = server.create_app


class Stopwatch:
    """ASGI middleware. `seconds` holds one time for each answered call."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seconds: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if path == "/bench/answers":
            await self._report(send)
            return
        started = time.perf_counter()
        await self._app(scope, receive, send)
        if path.startswith("/answer/"):
            self._seconds.append(time.perf_counter() - started)

    async def _report(self, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(self._seconds).encode()})


def create_app(*arguments: Any, **options: Any) -> FastAPI:
    app = _create_app(*arguments, **options)
    app.add_middleware(Stopwatch)
    return app


if __name__ == "__main__":
    server.create_app = create_app
    sys.exit(server.main())
