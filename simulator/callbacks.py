"""Callbacks of the simulated carrier: form posts with every documented field, signed, repeated, time-limited."""

import asyncio
import base64
import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import urlencode, urlsplit

import httpx

from simulator import answer_xml
from simulator.answer_xml import BadXml, Element
from simulator.clock import SimulatorClock

logger = logging.getLogger(__name__)

TRIES = 3
BACK_OFF_SECONDS = (1.0, 2.0)
DOCUMENT_SECONDS = 10.0  # documented: "within 10 s" (applications)
NOTICE_SECONDS = 3.0  # documented: 200 within 3 s
XML_TYPES = ("application/xml", "text/xml")


class Unreachable(Exception):
    """No 2xx answer of the right type in time, in three tries; the message says what came instead."""


@dataclass(frozen=True, slots=True)
class CallbackSender:
    """Posts to the customer's URLs, signed with `auth_token` (V3 and V2, as documented) unless that is None."""

    http: httpx.AsyncClient
    clock: SimulatorClock
    auth_token: str | None = field(repr=False)

    async def fetch_document(
        self, url: str, fields: Mapping[str, str], method: str = "POST"
    ) -> tuple[Element, ...]:
        """The document that a URL answers with. Raises: Unreachable, BadXml."""
        response = await self._try_repeatedly(url, fields, method, DOCUMENT_SECONDS)
        content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if content_type not in XML_TYPES:
            raise BadXml(f"the answer has the type {content_type or 'none'}, not {' or '.join(XML_TYPES)}")
        return answer_xml.read(response.content)

    async def notify(self, url: str, fields: Mapping[str, str], method: str = "POST") -> None:
        """Report an event; the answer's body is ignored. A customer who cannot be reached is given up."""
        try:
            await self._try_repeatedly(url, fields, method, NOTICE_SECONDS)
        except Unreachable as error:
            logger.warning("simulated carrier: %s callback was not taken: %s", fields.get("Event"), error)

    async def _try_repeatedly(
        self, url: str, fields: Mapping[str, str], method: str, seconds: float
    ) -> httpx.Response:
        problem = ""
        for number in range(TRIES):
            if number:
                await self.clock.sleep(BACK_OFF_SECONDS[number - 1])
            try:
                async with asyncio.timeout(seconds):
                    response = await self._post(url, fields, method)
            except (httpx.HTTPError, TimeoutError) as error:
                problem = type(error).__name__
                continue
            if response.is_success:
                return response
            problem = f"HTTP {response.status_code}"
        raise Unreachable(f"{problem} in {TRIES} tries")

    async def _post(self, url: str, fields: Mapping[str, str], method: str) -> httpx.Response:
        headers = {"User-Agent": "Vobiz", **self._signatures(url)}
        if method == "GET":
            return await self.http.get(url, params=dict(fields), headers=headers)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return await self.http.post(url, content=urlencode(fields), headers=headers)

    def _signatures(self, url: str) -> dict[str, str]:
        if self.auth_token is None:
            return {}
        parts = urlsplit(url)
        base = f"{parts.scheme}://{parts.netloc}{parts.path}"
        nonce_v2, nonce_v3 = _nonce(), _nonce()
        return {
            "X-Vobiz-Signature-V2": _hmac_base64(self.auth_token, base + nonce_v2),
            "X-Vobiz-Signature-V2-Nonce": nonce_v2,
            "X-Vobiz-Signature-V3": _hmac_base64(self.auth_token, f"{base}.{nonce_v3}"),
            "X-Vobiz-Signature-V3-Nonce": nonce_v3,
        }


def _nonce() -> str:
    return f"{secrets.randbelow(10**20):020d}"


def _hmac_base64(key: str, message: str) -> str:
    return base64.b64encode(hmac.digest(key.encode(), message.encode(), sha256)).decode()
