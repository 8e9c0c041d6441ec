"""Carriers of text messages that do what a test tells them, and the reports that a test writes in their names."""

import asyncio
import base64
import contextlib
import hmac
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import httpx

from clock import Clock
from tests.conftest import VOBIZ_TOKEN, RunningService, keep_secret, run_service

PUBLIC_URL = "https://otp.example.com"
PLIVO_TOKEN = keep_secret("plivo-token-CANARY-0123456789")
CM_TOKEN = keep_secret("cm-product-token-CANARY-0123456789")
VOIPBIN_KEY = keep_secret("voipbin-access-key-CANARY-0123456789")
VOIPBIN_SECRET = keep_secret("voipbin-webhook-secret-CANARY-0123456789")
TEXTERS = ("plivo", "cm", "voipbin")
SETTINGS: dict[str, Any] = {
    "providers": "vobiz",
    "vobiz_auth_id": "MA_TEST",
    "vobiz_auth_token": VOBIZ_TOKEN,
    "plivo_auth_id": "MAXXXXXXXXXXXXXXXXXX",
    "plivo_auth_token": PLIVO_TOKEN,
    "cm_product_token": CM_TOKEN,
    "voipbin_access_key": VOIPBIN_KEY,
    "voipbin_webhook_secret": VOIPBIN_SECRET,
    "from_number": "+12025550100",
    "public_url": PUBLIC_URL,
}
# One fact in each carrier's words; "odd" is one that none of them has.
WORDS = {
    "plivo": {"sent": "sent", "delivered": "delivered", "undelivered": "failed", "odd": "pigeonholed"},
    "cm": {"sent": "0", "delivered": "2", "undelivered": "3", "odd": "99"},
    "voipbin": {"sent": "sent", "delivered": "delivered", "undelivered": "failed", "odd": "pigeonholed"},
}
_HOSTS = {
    "api.plivo.com": "plivo",
    "gw.messaging.cm.com": "cm",
    "api.voipbin.net": "voipbin",
    "api.vobiz.ai": "vobiz",
}


@dataclass(frozen=True, slots=True)
class SentText:
    """A message as its carrier took it, or refused it. `token` is the message token, where one is told."""

    carrier: str
    message_id: str
    to: str
    text: str = field(repr=False)
    token: str = field(repr=False, default="")

    @property
    def code(self) -> str:
        return self.text.split(" ")[0]


Answer = httpx.Response | Exception


class HandTexters:
    """All carriers behind one transport. `troubles` is what a carrier answers, or raises, instead, by its name for
    messages and by `<name> calls` for calls; `before_answer` is awaited between taking a message and saying so."""

    def __init__(self) -> None:
        self.texts: list[SentText] = []
        self.calls: list[dict[str, Any]] = []
        self.troubles: dict[str, Answer] = {}
        self.before_answer: Callable[[SentText], Awaitable[None]] | None = None
        self._has_called = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        carrier = _HOSTS[request.url.host]
        if "/call" in request.url.path.lower():
            return self._call(carrier, request)
        text = _READERS[carrier](json.loads(request.content))
        keep_secret(text.code)
        if text.token:
            keep_secret(text.token)
        self.texts.append(text)
        if self.before_answer is not None:
            await self.before_answer(text)
        trouble = self.troubles.get(carrier)
        if isinstance(trouble, Exception):
            raise trouble
        return trouble or _ACCEPTED[carrier](text)

    def _call(self, carrier: str, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            return httpx.Response(404, json={})
        if isinstance(trouble := self.troubles.get(f"{carrier} calls"), Exception):
            raise trouble
        self.calls.append({"carrier": carrier, **json.loads(request.content)})
        self._has_called.set()
        return trouble or httpx.Response(201, json={"request_uuid": call_id(len(self.calls))})

    async def wait_for_calls(self, count: int) -> None:
        """Until carriers were asked for so many calls, which are placed while nobody waits for an answer."""
        while len(self.calls) < count:
            self._has_called.clear()
            await self._has_called.wait()

    @property
    def called(self) -> list[str]:
        """The carriers that took, or refused, a call, one after the other."""
        return [call["carrier"] for call in self.calls]

    @property
    def asked(self) -> list[str]:
        """The carriers that were asked to send a message, one after the other."""
        return [text.carrier for text in self.texts]


def call_id(number: int) -> str:
    return f"5a9fd4a0-3d4c-11ef-bef9-{number:012d}"


def _read_plivo(body: Mapping[str, Any]) -> SentText:
    token = re.sub(r".*/message/", "", body["url"])
    return SentText("plivo", str(uuid.uuid4()), body["dst"], body["text"], token)


def _read_cm(body: Mapping[str, Any]) -> SentText:
    (message,) = body["messages"]["msg"]
    to = re.sub("^00", "+", message["to"][0]["number"])
    return SentText("cm", "", to, message["body"]["content"], message["reference"])


def _read_voipbin(body: Mapping[str, Any]) -> SentText:
    return SentText("voipbin", str(uuid.uuid4()), body["destinations"][0]["target"], body["text"])


_READERS = {"plivo": _read_plivo, "cm": _read_cm, "voipbin": _read_voipbin}
_ACCEPTED: dict[str, Callable[[SentText], httpx.Response]] = {
    "plivo": lambda text: httpx.Response(202, json={"api_id": "a", "message_uuid": [text.message_id]}),
    "cm": lambda text: httpx.Response(
        200, json={"errorCode": 0, "messages": [{"status": "Accepted", "reference": text.token}]}
    ),
    "voipbin": lambda text: httpx.Response(200, json={"id": text.message_id, "targets": [{"status": "queued"}]}),
}


@dataclass(frozen=True, slots=True)
class Report:
    """A request with a report, as its carrier makes it; `path` is the part of the URL behind the host."""

    path: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str]


def report_of(text: SentText, fact: str) -> Report:
    """A report on a message; `fact` is a key of WORDS."""
    return _REPORTS[text.carrier](text, WORDS[text.carrier][fact])


def _plivo_report(text: SentText, word: str) -> Report:
    return plivo_report(f"/message/{text.token}", text.message_id, word)


def plivo_report(path: str, message_id: str, word: str, token: str = PLIVO_TOKEN) -> Report:
    """Signed with `token`. Documented: V2 covers the URL and the nonce, not the fields."""
    nonce = "05429567804466091622"
    signature = base64.b64encode(hmac.digest(token.encode(), f"{PUBLIC_URL}{path}{nonce}".encode(), sha256))
    headers = {
        "X-Plivo-Signature-V2": signature.decode(),
        "X-Plivo-Signature-V2-Nonce": nonce,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return Report(path, f"MessageUUID={message_id}&Status={word}&ErrorCode=000".encode(), headers)


def _cm_report(text: SentText, word: str) -> Report:
    return cm_report(text.token, word)


def cm_report(reference: str, word: str, path: str = "/message/cm") -> Report:
    message = {"reference": reference, "status": {"code": word, "errorCode": "", "errorDescription": ""}}
    return Report(path, json.dumps({"messages": {"msg": message}}).encode(), {"Content-Type": "application/json"})


def _voipbin_report(text: SentText, word: str) -> Report:
    return voipbin_report(text.message_id, word)


def voipbin_report(
    message_id: str, word: str, path: str = "/events/voipbin", secret: str = VOIPBIN_SECRET
) -> Report:
    event = {"type": "message_updated", "data": {"id": message_id, "targets": [{"status": word}]}}
    body = json.dumps(event).encode()
    signature = hmac.new(secret.encode(), body, sha256).hexdigest()
    return Report(path, body, {"Content-Type": "application/json", "X-Voipbin-Signature": f"sha256={signature}"})


_REPORTS: Mapping[str, Callable[[SentText, str], Report]] = {
    "plivo": _plivo_report,
    "cm": _cm_report,
    "voipbin": _voipbin_report,
}


class TextingService:
    """The service, and what a test does with it."""

    def __init__(self, service: RunningService, carriers: HandTexters) -> None:
        self.service = service
        self.carriers = carriers

    async def text(self, phone: str, **fields: Any) -> SentText:
        """Have a code sent as a text message; the message as its carrier took it."""
        answer = await self.service.send(phone, channel="sms", **fields)
        assert (answer.status_code, answer.json()["status"]) == (200, "message_sent"), answer.text
        return self.carriers.texts[-1]

    async def state(self, phone: str) -> dict[str, Any]:
        """A status without the one field that changes by itself."""
        status = await self.service.status(phone)
        del status["expires_in"]
        return status

    async def report(self, report: Report) -> int:
        """The HTTP status that a report is answered with."""
        answer = await self.service.client.post(report.path, content=report.body, headers=dict(report.headers))
        assert answer.content == b""
        return answer.status_code

    async def end_call(self, cause: str, number: int | None = None) -> int:
        """A call, by default the newest one, ends with a hangup cause code of Vobiz and Plivo; the HTTP status."""
        number = number or len(self.carriers.calls)
        path = re.sub(".*/hangup/", "/hangup/", self.carriers.calls[number - 1]["hangup_url"])
        keep_secret(path.split("/")[-1])
        form = {"CallUUID": call_id(number), "Event": "Hangup", "HangupCauseCode": cause}
        return (await self.service.client.post(path, data=form)).status_code


@contextlib.asynccontextmanager
async def run_texters(
    sms_providers: str, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[TextingService]:
    """The service with Vobiz for calls, unless PROVIDERS says more, and all three carriers of messages set up."""
    carriers = HandTexters()
    http = httpx.AsyncClient(transport=httpx.MockTransport(carriers))
    async with run_service(clock, http, **{**SETTINGS, "sms_providers": sms_providers, **settings}) as service:
        yield TextingService(service, carriers)
