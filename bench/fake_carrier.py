"""A carrier that accepts every call at once and makes none: what is left of a send is the service's own work."""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

from starlette.types import Receive, Scope, Send

from bench.bare_app import serve


class FakeCarrier:
    """An ASGI app. GET /calls gives [call id, answer URL, callee] of each call since it was last asked, GET /count
    how many there are."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, str, str]] = []
        self._ids: Iterator[int] = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await answer(send, 200, self._accept(json.loads(await read_body(receive))))
        elif scope["path"] == "/calls":
            calls, self._calls = self._calls, []
            await answer(send, 200, calls)
        elif scope["path"] == "/count":
            await answer(send, 200, len(self._calls))
        else:
            await answer(send, 200 if scope["path"] == "/ready" else 404, {})

    def _accept(self, order: dict[str, Any]) -> dict[str, str]:
        call_id = f"00000000-0000-4000-8000-{next(self._ids):012x}"
        self._calls.append((call_id, order["answer_url"], order["to"]))
        return {"api_id": call_id, "message": "Call fired", "request_uuid": call_id}


async def read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def answer(send: Send, status: int, content: object) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    serve(FakeCarrier(), int(sys.argv[1]))
