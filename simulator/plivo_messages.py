"""Text messages of the simulated Plivo: what becomes of one, and the reports of it.

Documented: https://www.plivo.com/docs/messaging (api/messages, message-status-callbacks).
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

import httpx

from simulator.callbacks import Purpose, Signer, Unreachable, deliver
from simulator.callees import SCRIPTED_CALLEES, Reaction
from simulator.clock import SimulatorClock
from simulator.phone import PhoneExchange
from simulator.plivo_call import tries_for

logger = logging.getLogger(__name__)

MAX_MESSAGES = 10_000
SECONDS_TO_HANDSET = 2.0
_UNREACHED = ("undelivered", "30")  # inferred: which code; only 000, for delivered, is documented


@dataclass(slots=True)
class Message:
    """A message that was accepted. Numbers are E.164. `text` is what the handset shows."""

    message_id: str
    src: str
    dst: str
    text: str = field(repr=False)
    url: str = field(repr=False)
    method: str
    is_logged: bool
    accepted_wall: float
    state: str = "queued"
    error_code: str = ""

    def report(self) -> dict[str, str]:
        fields = {
            "MessageUUID": self.message_id,
            "From": self.src.removeprefix("+"),
            "To": self.dst.removeprefix("+"),
            "Type": "sms",
            "Status": self.state,
            "Units": "1",
            "TotalRate": "0.00000",
            "TotalAmount": "0.00000",
            "MCC": "310",
            "MNC": "012",
        }
        return {**fields, "ErrorCode": self.error_code} if self.error_code else fields

    def record(self) -> dict[str, object]:
        when = datetime.fromtimestamp(self.accepted_wall, UTC).isoformat(" ", "seconds")
        return {
            "message_uuid": self.message_id,
            "message_state": self.state,
            "message_direction": "outbound",
            "message_type": "sms",
            "message_time": when,
            "from_number": self.src if self.is_logged else "",
            "to_number": self.dst if self.is_logged else "",
            "units": 1,
            "total_rate": "0.00000",
            "total_amount": "0.00000",
            "error_code": self.error_code or None,
        }


class MessageDesk:
    """Messages under way and those that arrived. A number that no script owns gets its messages."""

    def __init__(
        self, http: httpx.AsyncClient, clock: SimulatorClock, sign: Signer, phones: PhoneExchange
    ) -> None:
        self.messages: dict[str, Message] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._http = http
        self._clock = clock
        self._sign = sign
        self._phones = phones

    def accept(self, message: Message) -> None:
        self.messages[message.message_id] = message
        if len(self.messages) > MAX_MESSAGES:
            del self.messages[next(iter(self.messages))]
        task = asyncio.create_task(self._carry(message))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _carry(self, message: Message) -> None:
        callee = SCRIPTED_CALLEES.get(message.dst)
        is_reached = callee is None or callee.reaction is not Reaction.UNREACHABLE
        await self._report(message)
        await self._move(message, "sent", "")
        await self._clock.sleep(SECONDS_TO_HANDSET)
        if is_reached:
            self._phones.take_text(message.src, message.dst, message.text)
        if callee is not None and callee.loses_hangup_callback:
            return  # many networks report no delivery (documented for the US and Canada)
        await self._move(message, *(("delivered", "000") if is_reached else _UNREACHED))

    async def _move(self, message: Message, state: str, error_code: str) -> None:
        message.state, message.error_code = state, error_code
        await self._report(message)

    async def _report(self, message: Message) -> None:
        callee = SCRIPTED_CALLEES.get(message.dst)
        for _ in range(2 if callee is not None and callee.doubles_callbacks else 1):
            await self._post(message.url, message.method, message.report())

    async def _post(self, url: str, method: str, fields: Mapping[str, str]) -> None:
        async def send() -> httpx.Response:
            headers = {"User-Agent": "Plivo", **self._sign(method, url, fields)}
            if method == "GET":
                return await self._http.get(httpx.URL(url).copy_merge_params(dict(fields)), headers=headers)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            return await self._http.post(url, content=urlencode(fields), headers=headers)

        if not url:
            return
        try:
            await deliver(send, tries_for(url, Purpose.NOTICE), self._clock)
        except Unreachable as error:
            logger.warning("simulated carrier: report of a message was not taken: %s", error)

    async def close(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
