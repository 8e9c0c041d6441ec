"""The service, unchanged but for a stopwatch around its `/answer` routes; GET /bench/answers reads it.

A time starts when the request's headers were read and ends when its answer was handed to the socket.
"""

import json
import sys
import time
from typing import Any

from starlette.types import Receive, Scope, Send

import server
from lean_route import LeanApp


class TimedApp(LeanApp):
    """`answer_seconds` holds one time for each answered call."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answer_seconds: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if path == "/bench/answers":
            await self._report(send)
            return
        started = time.perf_counter()
        await super().__call__(scope, receive, send)
        if path.startswith("/answer/"):
            self.answer_seconds.append(time.perf_counter() - started)

    async def _report(self, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(self.answer_seconds).encode()})


if __name__ == "__main__":
    setattr(server, "LeanApp", TimedApp)  # noqa: B010 - the name is final to the type checker
    sys.exit(server.main())
