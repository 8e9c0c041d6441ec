"""What attackers and their victims have in common: many requests at once, keys, numbers, limits that are on."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from settings import Settings
from simulator.callees import SCRIPTED_CALLEES, ScriptedCallee
from tests.conftest import NO_LIMITS, RunningService, keep_secret

SHOP_KEY = keep_secret("shop-key-CANARY-a-0123456789abcdef")
SHOP_NEW_KEY = keep_secret("shop-key-CANARY-b-0123456789abcdef")
BANK_KEY = keep_secret("bank-key-CANARY-c-0123456789abcdef")
OPERATOR_KEY = keep_secret("operator-key-CANARY-0123456789abcdef")
KEYS: dict[str, Any] = {
    "api_keys": f"shop:{SHOP_KEY},shop:{SHOP_NEW_KEY},bank:{BANK_KEY}",
    "operator_keys": OPERATOR_KEY,
}

# Every limit as it is by default, where most other tests have none.
DEFAULTS: dict[str, Any] = {
    name: Settings.model_fields[name].default for name in NO_LIMITS if name not in ("allow_anonymous",)
}

BUSY = SCRIPTED_CALLEES["+14155550105"]
LISTENER = SCRIPTED_CALLEES["+14155550101"]
UNALLOCATED = SCRIPTED_CALLEES["+14155550114"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def numbers(prefix: str, count: int, digits: int = 4) -> list[str]:
    """Consecutive numbers of one prefix; the watch over all output knows some of them."""
    found = [f"{prefix}{index:0{digits}d}" for index in range(count)]
    for phone in {found[0], found[-1]}:
        keep_secret(phone)
    return found


def let_callees_be(service: RunningService, callee: ScriptedCallee) -> None:
    """Every number without a script of its own does as this one; else it would ring for ever."""
    service.carrier.stand_in = callee


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None


class Post(NamedTuple):
    path: str
    body: dict[str, Any]
    headers: Mapping[str, str] = MappingProxyType({})

    def bytes(self) -> bytes:
        content = json.dumps(self.body).encode()
        headers = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = [f"{name}: {value}" for name, value in {**headers, **self.headers}.items()]
        return "\r\n".join([f"POST {self.path} HTTP/1.1", *lines, "", ""]).encode() + content


async def flood(service: RunningService, posts: Sequence[Post], connections: int = 100) -> list[Answer]:
    """Send requests over many connections at once, all of them open before the first byte; answers in order.

    Bare sockets: an HTTP client would take longer than the service does.
    """
    answers: dict[int, Answer] = {}
    waiting = list(enumerate(posts))[::-1]
    port = service.settings.http_port
    connections = min(connections, len(posts))
    sockets = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while waiting:
            index, post = waiting.pop()
            writer.write(post.bytes())
            answers[index] = await _read_answer(reader)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(work(*pair) for pair in sockets))
    return [answers[index] for index in range(len(posts))]


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(head[0].split()[1]), headers, json.loads(body) if body else None)


def sends(phones: Sequence[str], key: str | None = None, **fields: Any) -> list[Post]:
    headers = bearer(key) if key else {}
    return [Post("/send-otp", {"phone": phone, **fields}, headers) for phone in phones]
