"""Two carriers in one process, Vobiz at /vobiz and Plivo at /plivo, which take every call or get into trouble.

POST /trouble sets what becomes of requests to call from now on: {"vobiz": "refuses" | "hangs" | ""}. GET /starts
gives [carrier, seconds of the system's monotonic clock] of each such request since it was last asked. Neither
knows of any call when it is asked for one.
"""

import asyncio
import json
import sys
import time

from starlette.types import Receive, Scope, Send

from bench.bare_app import serve
from bench.fake_carrier import answer, read_body

REFUSES, HANGS = "refuses", "hangs"
REFUSAL_SECONDS = 0.1  # what a carrier may take for its own answer


class TroubledCarrier:
    """An ASGI app."""

    def __init__(self) -> None:
        self._trouble: dict[str, str] = {}
        self._starts: list[tuple[str, float]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        carrier, is_post = scope["path"].split("/")[1], scope["method"] == "POST"
        if carrier in ("vobiz", "plivo") and is_post:
            await read_body(receive)
            await self._place(carrier, send)
        elif carrier == "trouble":
            self._trouble = json.loads(await read_body(receive))
            await answer(send, 200, {})
        elif carrier == "starts":
            starts, self._starts = self._starts, []
            await answer(send, 200, starts)
        else:
            await answer(send, 200 if carrier == "ready" else 404, {})

    async def _place(self, carrier: str, send: Send) -> None:
        self._starts.append((carrier, time.monotonic()))
        match self._trouble.get(carrier):
            case "refuses":
                await asyncio.sleep(REFUSAL_SECONDS)
                await answer(send, 400, {"error": "the call is refused"})
            case "hangs":
                await asyncio.sleep(600)
            case _:
                call_id = f"00000000-0000-4000-8000-{len(self._starts):012x}"
                await answer(send, 201, {"request_uuid": call_id, "message": "call fired"})


if __name__ == "__main__":
    serve(TroubledCarrier(), int(sys.argv[1]))
