"""A carrier that judges: it counts what it was asked to call, and kills a worker in the middle of its request.

Paths begin with the carrier that is asked, /vobiz or /plivo. POST /plan {"refuses": [carriers], "fails":
[carriers], "kill": process id, "to": callee, "by": carrier, "takes": whether the call counts} says what becomes of
requests from now on. GET /asked gives how many there were, GET /orders [carrier, call id, answer URL, callee] of
each call that was taken. DELETE hangs up; GET /hung-up gives these call ids.
"""

import json
import os
import signal
import sys
from typing import Any

from starlette.types import Receive, Scope, Send

from bench.bare_app import serve
from bench.fake_carrier import answer, read_body


class Judge:
    """An ASGI app."""

    def __init__(self) -> None:
        self._plan: dict[str, Any] = {}
        self._orders: list[tuple[str, str, str, str]] = []
        self._hung_up: list[str] = []
        self._asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/plan":
            self._plan = json.loads(await read_body(receive))
            await answer(send, 200, {})
        elif method == "POST":
            await self._place(path.split("/")[1], json.loads(await read_body(receive)), send)
        elif method == "DELETE":
            self._hung_up.append(path.strip("/").rsplit("/", 1)[1])
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            known: dict[str, Any] = {
                "/orders": self._orders,
                "/asked": self._asked,
                "/hung-up": self._hung_up,
                "/ready": {},
            }
            await answer(send, 200 if path in known else 404, known.get(path, {}))

    async def _place(self, carrier: str, order: dict[str, Any], send: Send) -> None:
        to = "+" + order["to"].lstrip("+")
        self._asked += 1
        for trouble, status in (("refuses", 400), ("fails", 503)):
            if carrier in self._plan.get(trouble, ()):
                await answer(send, status, {"error": "the call is not placed"})
                return
        is_last = (to, carrier) == (self._plan.get("to"), self._plan.get("by"))
        call_id = f"00000000-0000-4000-8000-{len(self._orders) + 1:012x}"
        if not is_last or self._plan["takes"]:
            self._orders.append((carrier, call_id, order["answer_url"], to))
        if is_last:
            os.kill(self._plan["kill"], signal.SIGKILL)
        await answer(send, 201, {"api_id": call_id, "message": "call fired", "request_uuid": call_id})


if __name__ == "__main__":
    serve(Judge(), int(sys.argv[1]))
