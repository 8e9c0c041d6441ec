"""A carrier that does what a test tells it, and callbacks that a test writes, with true signatures."""

import base64
import contextlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from typing import Any

import httpx

from clock import Clock
from simulator import vobiz_call
from tests.conftest import VOBIZ_TOKEN, RunningService, keep_secret, run_service
from tests.hearing import heard

PUBLIC_URL = "https://otp.example.com"
VOBIZ: dict[str, Any] = {
    "vobiz_auth_id": "MA_TEST",
    "vobiz_auth_token": VOBIZ_TOKEN,
    "from_number": "+12025550100",
    "public_url": PUBLIC_URL,
    "call_prices": "max=0",
}
CODE = keep_secret("CANARY610")
HANGUP = "<Response><Hangup/></Response>"
Headers = Mapping[str, str] | Mapping[str, str | bytes]
NORMAL_END: dict[str, Any] = {
    "Event": "Hangup",
    "HangupCause": "NORMAL_CLEARING",
    "HangupCauseCode": "4000",
    "Duration": "34",
}


class HandCarrier:
    """Takes every call, and keeps what it was asked for; `trouble` is what it answers, or raises, instead."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.hung_up: list[str] = []
        self.looked_up: list[str] = []
        self.trouble: Exception | httpx.Response | None = None
        self.record: Mapping[str, Any] | None = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.hung_up.append(request.url.path)
            return httpx.Response(204)
        if request.method == "GET":
            self.looked_up.append(str(request.url))
            is_record = "/cdr/" in request.url.path and self.record is not None
            return httpx.Response(200, json={"data": self.record}) if is_record else httpx.Response(404)
        self.orders.append(json.loads(request.content))
        if isinstance(self.trouble, Exception):
            raise self.trouble
        return self.trouble or httpx.Response(200, json={"request_uuid": call_uuid(len(self.orders))})

    @property
    def calls(self) -> int:
        """How often it was asked to call."""
        return len(self.orders)


def call_uuid(number: int) -> str:
    return f"5a9fd4a0-3d4c-11ef-bef9-{number:012d}"


@contextlib.asynccontextmanager
async def run_vobiz(
    carrier: HandCarrier, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[RunningService]:
    """The service with Vobiz, who is a function; everything else is real."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(carrier))
    async with run_service(clock, http, **{**VOBIZ, **settings}) as service:
        yield service


class Call:
    """The newest call of a carrier, as the carrier sees it, or someone who wants to be taken for it."""

    _nonces = itertools.count(10**19)

    def __init__(self, service: RunningService, carrier: HandCarrier, phone: str) -> None:
        self.service = service
        self.phone = phone
        self.uuid = call_uuid(carrier.calls)
        self.token = keep_secret(carrier.orders[-1]["answer_url"].split("/")[-1].split("?")[0])

    async def post(self, path: str, headers: Headers | None = None, **fields: str) -> httpx.Response:
        """`{token}` in the path is the call's; `CallUUID`, too, unless the fields name another."""
        body = {"CallUUID": self.uuid, **fields}
        given: Any = headers
        return await self.service.client.post(path.format(token=self.token), data=body, headers=given)

    async def post_signed(self, path: str, nonce: str | None = None, **fields: str) -> httpx.Response:
        return await self.post(path, self.signature(path, nonce), **fields)

    def signature(self, path: str, nonce: str | None = None) -> dict[str, str]:
        nonce = nonce or str(next(self._nonces))
        return {"X-Vobiz-Signature-V3": signature_of(path.format(token=self.token), nonce), **nonce_header(nonce)}

    async def status(self) -> dict[str, Any]:
        return await self.service.status(self.phone)


def signature_of(path: str, nonce: str) -> str:
    signed = f"{PUBLIC_URL}{path.split('?')[0]}.{nonce}"
    return base64.b64encode(hmac.digest(VOBIZ_TOKEN.encode(), signed.encode(), sha256)).decode()


def nonce_header(nonce: str) -> dict[str, str]:
    return {"X-Vobiz-Signature-V3-Nonce": nonce}


async def start_call(service: RunningService, carrier: HandCarrier, phone: str, **fields: Any) -> Call:
    """`code=None` lets the service draw one."""
    given = {"code": CODE, **fields}
    sent = await service.send(phone, **{name: value for name, value in given.items() if value is not None})
    assert sent.status_code in (200, 202), sent.text
    return Call(service, carrier, phone)


def spoken(answer: httpx.Response) -> str:
    """The characters that a document has read out; the answer must be XML that a carrier takes."""
    assert answer.headers["content-type"] == "application/xml"
    return heard(one.text for one in vobiz_call.read(answer.content) if one.name == "Speak")


TWICE = CODE * 2
