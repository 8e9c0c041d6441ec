"""Requests of a simulated carrier to its customer: signed, limited in time, tried again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlencode

import httpx

from simulator.answer_xml import BadXml, Document
from simulator.clock import SimulatorClock

logger = logging.getLogger(__name__)

XML_TYPES = ("application/xml", "text/xml")


class Unreachable(Exception):
    """No 2xx answer of the right type in time, in any try; the message says what came instead."""


class Purpose(StrEnum):
    """What a callback is for: to learn what to do next, or to report an event."""

    DOCUMENT = "document"
    NOTICE = "notice"


class Failure(StrEnum):
    """What can become of a try."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    BROKEN = "broken"
    REDIRECTED = "3xx"
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"


_BY_STATUS_CLASS = {3: Failure.REDIRECTED, 4: Failure.CLIENT_ERROR, 5: Failure.SERVER_ERROR}
_BY_ERROR: tuple[tuple[type[Exception], Failure], ...] = (
    (httpx.ConnectError, Failure.CONNECT),
    (httpx.ConnectTimeout, Failure.CONNECT),
    (httpx.TimeoutException, Failure.TIMEOUT),
    (TimeoutError, Failure.TIMEOUT),
)


class TryFailed(Exception):
    """One try of several brought no 2xx answer."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Tries:
    """How long each try may take, the pauses before further tries, and the failures that deserve one."""

    seconds: float
    pauses_seconds: tuple[float, ...] = ()
    repeat_on: frozenset[Failure] = frozenset(Failure)


async def deliver(
    send: Callable[[], Awaitable[httpx.Response]], tries: Tries, clock: SimulatorClock
) -> httpx.Response:
    """The first 2xx answer to a request that is sent until one comes. Raises: Unreachable."""
    made = 0
    while True:
        made += 1
        try:
            return await _try(send, tries.seconds)
        except TryFailed as error:
            if made > len(tries.pauses_seconds) or error.failure not in tries.repeat_on:
                raise Unreachable(f"{error} in {made} {'try' if made == 1 else 'tries'}") from None
        await clock.sleep(tries.pauses_seconds[made - 1])


async def _try(send: Callable[[], Awaitable[httpx.Response]], seconds: float) -> httpx.Response:
    try:
        async with asyncio.timeout(seconds):
            response = await send()
    except (httpx.HTTPError, TimeoutError) as error:
        failure = next((failure for kind, failure in _BY_ERROR if isinstance(error, kind)), Failure.BROKEN)
        raise TryFailed(failure, type(error).__name__) from None
    if response.is_success:
        return response
    failure = _BY_STATUS_CLASS.get(response.status_code // 100, Failure.BROKEN)
    raise TryFailed(failure, f"HTTP {response.status_code}")


Signer = Callable[[str, str, Mapping[str, str]], dict[str, str]]
"""Method, URL and fields of a callback to the headers that prove its sender."""


def unsigned(_method: str, _url: str, _fields: Mapping[str, str]) -> dict[str, str]:
    """The signer of a carrier, or an account, that signs nothing."""
    return {}


@dataclass(frozen=True, slots=True)
class CallbackRules:
    """How a carrier makes its callbacks, tries them (a URL may have a say), and reads the documents it gets."""

    user_agent: str
    read: Callable[[bytes], Document]
    tries: Callable[[str, Purpose], Tries]
    sign: Signer = unsigned


@dataclass(frozen=True, slots=True)
class CallbackSender:
    """Posts forms to the customer's URLs and reads the documents that it gets for them."""

    http: httpx.AsyncClient
    clock: SimulatorClock
    rules: CallbackRules

    async def fetch_document(self, url: str, fields: Mapping[str, str], method: str = "POST") -> Document:
        """The document that a URL answers with. Raises: Unreachable, BadXml."""
        response = await self._deliver(url, fields, method, Purpose.DOCUMENT)
        content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if content_type not in XML_TYPES:
            raise BadXml(f"the answer has the type {content_type or 'none'}, not {' or '.join(XML_TYPES)}")
        return self.rules.read(response.content)

    async def notify(self, url: str, fields: Mapping[str, str], method: str = "POST") -> None:
        """Report an event; the answer's body is ignored. A customer who cannot be reached is given up."""
        try:
            await self._deliver(url, fields, method, Purpose.NOTICE)
        except Unreachable as error:
            logger.warning("simulated carrier: %s callback was not taken: %s", fields.get("Event"), error)

    async def _deliver(self, url: str, fields: Mapping[str, str], method: str, purpose: Purpose) -> httpx.Response:
        async def send() -> httpx.Response:
            headers = {"User-Agent": self.rules.user_agent, **self.rules.sign(method, url, fields)}
            if method == "GET":
                # Behind the query that the URL has: httpx's `params` would take its place.
                return await self.http.get(httpx.URL(url).copy_merge_params(dict(fields)), headers=headers)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return await self.http.post(url, content=urlencode(fields), headers=headers)

        return await deliver(send, self.rules.tries(url, purpose), self.clock)
