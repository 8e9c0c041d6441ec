"""Events of the simulated VoIPBin: signed, tried again, and out of order where a test wants it.

Source: bin-webhook-manager of https://github.com/voipbin/monorepo, as it stood in August 2026.
"""

import hmac
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import httpx

from simulator.callbacks import Failure, Tries, Unreachable, deliver
from simulator.clock import SimulatorClock

logger = logging.getLogger(__name__)

# What answers with a status below 500 has taken the event, whatever it thinks of it.
TRIES = Tries(
    seconds=30.0,
    pauses_seconds=(1.0, 1.0),
    repeat_on=frozenset({Failure.CONNECT, Failure.TIMEOUT, Failure.BROKEN, Failure.SERVER_ERROR}),
)


@dataclass(slots=True)
class EventSender:
    """Posts to the customer's URLs, signed with the account's secret unless that is empty.

    `swaps`: each event of the account arrives after the one that followed it, as it may with a carrier that sends
    all of them side by side.
    """

    http: httpx.AsyncClient
    clock: SimulatorClock
    secret: str = field(repr=False)
    swaps: bool = False
    held_back: tuple[str, bytes] | None = field(default=None, repr=False)

    async def tell(self, url: str, kind: str, data: Mapping[str, Any], *, times: int = 1) -> None:
        """Report an event to the account's URL; without one, nobody is told."""
        if not url:
            return
        body = json.dumps({"type": kind, "data": data}).encode()
        for _ in range(times):
            if self.swaps and self.held_back is None:
                self.held_back = url, body
                continue
            await self._post(url, body)
            await self.flush()

    async def flush(self) -> None:
        """Let out the event that was held back."""
        if self.held_back is not None:
            (url, body), self.held_back = self.held_back, None
            await self._post(url, body)

    async def request(self, method: str, url: str, content_type: str, body: bytes) -> None:
        """What a call's `webhook_send` asks for. A customer who cannot be reached is given up."""

        async def send() -> httpx.Response:
            headers = {"Content-Type": content_type, "User-Agent": "Go-http-client/1.1", **self._signature(body)}
            return await self.http.request(method, url, content=body, headers=headers)

        try:
            await deliver(send, TRIES, self.clock)
        except Unreachable as error:
            logger.warning("simulated carrier: an event was not taken: %s", error)

    async def _post(self, url: str, body: bytes) -> None:
        await self.request("POST", url, "application/json", body)

    def _signature(self, body: bytes) -> dict[str, str]:
        if not self.secret:
            return {}
        digest = hmac.new(self.secret.encode(), body, sha256).hexdigest()
        return {"X-Voipbin-Signature": f"sha256={digest}"}
