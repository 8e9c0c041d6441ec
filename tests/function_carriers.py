"""Several carriers that are functions: each takes every call, or does what a test tells it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx

from clock import Clock
from tests.conftest import RunningService, keep_secret, run_service

PLIVO_TOKEN = keep_secret("plivo-token-CANARY-0123456789")
CM_TOKEN = keep_secret("cm-token-CANARY-0123456789")
VOBIZ_TOKEN = keep_secret("vobiz-token-CANARY-9876543210")
SETTINGS: dict[str, Any] = {
    "vobiz_auth_id": "MA_TEST",
    "vobiz_auth_token": VOBIZ_TOKEN,
    "plivo_auth_id": "MATEST0000",
    "plivo_auth_token": PLIVO_TOKEN,
    "cm_product_token": CM_TOKEN,
    "from_number": "+12025550100",
    "public_url": "https://otp.example.com",
    "call_prices": "max=0",
}
SLOW = httpx.ReadTimeout("no answer in time")
REFUSED = httpx.ConnectError("connection refused")


def call_id(number: int) -> str:
    return f"5a9fd4a0-3d4c-11ef-bef9-{number:012d}"


_ACCEPTED: Mapping[str, Callable[[str, str], Any]] = {
    "vobiz": lambda uuid, to: {"request_uuid": uuid},
    "plivo": lambda uuid, to: {"request_uuid": uuid, "message": "call fired", "api_id": uuid},
    "cm": lambda uuid, to: {"type": "call-queued", "success": True, "call-id": uuid, "callee": to},
}
_HOSTS = {"api.vobiz.ai": "vobiz", "api.plivo.com": "plivo", "api.cm.com": "cm"}


class FunctionCarrier:
    """`trouble` is what it answers to a request to call, or raises; `on_order` hears of each one before that.

    `find` answers questions about calls; without one it knows of none.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.orders: list[dict[str, Any]] = []
        self.was_asked = asyncio.Event()
        self.asked: list[str] = []
        self.hung_up: list[str] = []
        self.trouble: Exception | httpx.Response | None = None
        self.on_order: Callable[[], None] = lambda: None
        self.find: Callable[[httpx.Request], httpx.Response] = lambda request: httpx.Response(404)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.hung_up.append(request.url.path)
            return httpx.Response(204)
        if request.method == "GET":
            self.asked.append(str(request.url))
            return self.find(request)
        order = json.loads(request.content)
        self.orders.append(order)
        self.was_asked.set()
        self.on_order()
        if isinstance(self.trouble, Exception):
            raise self.trouble
        if self.trouble is not None:
            return self.trouble
        to = order.get("to") or order["callee"]
        return httpx.Response(201, json=_ACCEPTED[self.name](call_id(len(self.orders)), to))

    @property
    def requests(self) -> int:
        """How often it was asked to call."""
        return len(self.orders)

    @property
    def callees(self) -> list[str]:
        return [order.get("to") or order["callee"] for order in self.orders]


class FunctionCarriers:
    """One of each; `placed` has who was asked to call, in order."""

    def __init__(self) -> None:
        self.placed: list[str] = []
        self.vobiz, self.plivo, self.cm = (self._carrier(name) for name in ("vobiz", "plivo", "cm"))

    def _carrier(self, name: str) -> FunctionCarrier:
        carrier = FunctionCarrier(name)
        carrier.on_order = lambda: self.placed.append(name)
        return carrier

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        carrier: FunctionCarrier = getattr(self, _HOSTS[request.url.host])
        return await carrier(request)


@contextlib.asynccontextmanager
async def run_carriers(
    carriers: FunctionCarriers, providers: str, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[RunningService]:
    """The service with these carriers in this order; everything else is real."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(carriers))
    async with run_service(clock, http, **{**SETTINGS, "providers": providers, **settings}) as service:
        yield service
