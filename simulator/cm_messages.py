"""The simulated CM.com's message gateway: takes text messages, and reports on them to the account's one URL.

Documented on https://developers.cm.com/messaging (docs/integration, docs/incoming-status-report): fields, answers,
error codes and the report. Inferred: which HTTP status goes with a code, and what becomes of a message by who gets
it: one to a number that is not allocated is rejected by the operator, one to a phone that does not answer fails.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.callbacks import Tries, Unreachable, deliver
from simulator.callees import SCRIPTED_CALLEES, ApiTrouble, Reaction, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.cm_account import CmAccount
from simulator.phone import PhoneExchange
from simulator.rest import NotAnObject, json_object, wait_for_disconnect

logger = logging.getLogger(__name__)

MAX_MESSAGES = 10_000
REPORT_TRIES = Tries(10.0, (1.0, 2.0))  # documented: repeated for seven days; the simulator gives up sooner

ACCEPTED, REJECTED, DELIVERED, FAILED = "0", "1", "2", "3"
_ENDS = {Reaction.UNREACHABLE: REJECTED, Reaction.IGNORE: FAILED}
_ERROR_TEXTS = {REJECTED: ("8", "Unknown subscriber"), FAILED: ("5", "Message expired")}

_NUMBER = re.compile(r"(\+|00)?[1-9][0-9]{6,14}")
_SENDER = re.compile(r"[A-Za-z0-9 ]{1,11}|\+?[0-9]{3,16}")
_REFERENCE = re.compile(r"[A-Za-z0-9]{1,32}")
_VALIDITY = re.compile(r"[1-9][0-9]{0,3}[hm]")


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was accepted; `to` is E.164."""

    to: str
    sender: str
    text: str
    reference: str
    validity: str


class MessageGateway:
    """Takes messages for an account. `has_flat_reports`: a template that the customer edited."""

    def __init__(
        self,
        account: CmAccount,
        http: httpx.AsyncClient,
        clock: SimulatorClock,
        phones: PhoneExchange,
        report_url: str | None,
    ) -> None:
        self.account = account
        self.report_url = report_url
        self.has_flat_reports = False
        self.messages: deque[Message] = deque(maxlen=MAX_MESSAGES)
        self.tasks: set[asyncio.Task[None]] = set()
        self._http = http
        self._clock = clock
        self._phones = phones

    def accept(self, message: Message) -> None:
        """Keep a message, and report on it from now on."""
        self.messages.append(message)
        task = asyncio.create_task(self._carry(message))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        """Stop reporting."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _carry(self, message: Message) -> None:
        callee = SCRIPTED_CALLEES.get(message.to, ScriptedCallee("takes messages"))
        for status in (ACCEPTED, _ENDS.get(callee.reaction, DELIVERED)):
            await self._clock.sleep(1)
            if status == DELIVERED:
                self._phones.take_text(re.sub("^00", "+", message.sender), message.to, message.text)
            if not callee.loses_hangup_callback:
                await self._report(message, status, times=2 if callee.doubles_callbacks else 1)

    def _report_of(self, message: Message, status: str) -> dict[str, Any]:
        error_code, error_text = _ERROR_TEXTS.get(status, ("", ""))
        if self.has_flat_reports:
            return {"Reference": message.reference, "StatusCode": int(status), "ErrorCode": error_code}
        report = {
            "received": datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "to": "00" + message.to.removeprefix("+"),
            "reference": message.reference,
            "status": {"code": status, "errorCode": error_code, "errorDescription": error_text},
            "operator": "310410",
        }
        return {"messages": {"msg": report}}

    async def _report(self, message: Message, status: str, times: int) -> None:
        url, body = self.report_url, self._report_of(message, status)

        async def send() -> httpx.Response:
            return await self._http.post(str(url), json=body)

        for _ in range(times if url is not None else 0):
            try:
                await deliver(send, REPORT_TRIES, self._clock)
            except Unreachable as error:
                logger.warning("simulated CM.com: status report was not taken: %s", error)


def routes(gateway: MessageGateway) -> list[Route]:
    """The gateway below its base URL, which ends in its version."""

    async def send(request: Request) -> Response:
        if not gateway.account.has_sent(request):
            return _failed(401, 103, "Invalid product token.")
        try:
            items = _items_of(await json_object(request))
        except NotAnObject as error:
            return _failed(400, 202, str(error))
        if not items:
            return _failed(400, 203, "messages.msg is missing")
        trouble = _trouble_with(items[0])
        if trouble in _TROUBLES:
            return _failed(*_TROUBLES[trouble])
        answers = [_take(gateway, item) for item in items]
        if trouble is ApiTrouble.SLOW:
            await wait_for_disconnect(request)
        accepted = [answer for answer in answers if answer["status"] == "Accepted"]
        details = f"Created {len(accepted)} message(s)"
        error_code = 0 if len(accepted) == len(answers) else 201
        return JSONResponse(
            {"details": details, "errorCode": error_code, "messages": answers}, 200 if accepted else 400
        )

    return [Route("/message", send, methods=["POST"])]


_TROUBLES = {
    ApiTrouble.DOWN: (503, 500, "Service unavailable"),
    ApiTrouble.THROTTLED: (429, 999, "Too many requests"),
    ApiTrouble.OUT_OF_CREDIT: (402, 102, "No account balance"),
}


def _failed(status: int, error_code: int, details: str) -> Response:
    return JSONResponse({"details": details, "errorCode": error_code, "messages": []}, status)


def _items_of(body: Mapping[str, Any]) -> list[Any]:
    messages = body.get("messages")
    items = messages.get("msg") if isinstance(messages, dict) else None
    return items if isinstance(items, list) and all(isinstance(item, dict) for item in items) else []


def _trouble_with(item: Mapping[str, Any]) -> ApiTrouble:
    number = _number_of(item)
    return SCRIPTED_CALLEES[number].api_trouble if number in SCRIPTED_CALLEES else ApiTrouble.NONE


def _number_of(item: Mapping[str, Any]) -> str:
    """The one recipient in E.164, or nothing. The simulator knows no lists of them."""
    to = item.get("to")
    number = to[0].get("number") if isinstance(to, list) and len(to) == 1 and isinstance(to[0], dict) else None
    is_number = isinstance(number, str) and _NUMBER.fullmatch(number) is not None
    return "+" + re.sub(r"^(\+|00)", "", str(number)) if is_number else ""


def _take(gateway: MessageGateway, item: Mapping[str, Any]) -> dict[str, Any]:
    """Accept or reject one message; what is answered about it."""
    error_code = _error_of(item)
    message = Message(
        to=_number_of(item),
        sender=str(item.get("from", "")),
        text=str(_content_of(item)),
        reference=str(item.get("reference", "")),
        validity=str(item.get("validity", "")),
    )
    if not error_code:
        gateway.accept(message)
    return {
        "to": "00" + message.to.removeprefix("+"),
        "status": "Rejected" if error_code else "Accepted",
        "reference": message.reference,
        "parts": 0 if error_code else 1,
        "messageDetails": _MESSAGE_ERRORS[error_code] if error_code else None,
        "messageErrorCode": error_code,
    }


_MESSAGE_ERRORS = {301: "Invalid from", 303: "Invalid number", 304: "Invalid body", 305: "Invalid field"}


def _error_of(item: Mapping[str, Any]) -> int:
    content = _content_of(item)
    has_bad_field = (
        ("reference" in item and not _REFERENCE.fullmatch(str(item["reference"])))
        or ("validity" in item and not _VALIDITY.fullmatch(str(item["validity"])))
        or item.get("allowedChannels", ["SMS"]) != ["SMS"]
    )
    checks = {
        301: _SENDER.fullmatch(str(item.get("from", ""))) is None,
        303: not _number_of(item),
        304: not isinstance(content, str) or not content,
        305: has_bad_field,
    }
    return next((code for code, is_wrong in checks.items() if is_wrong), 0)


def _content_of(item: Mapping[str, Any]) -> Any:
    body = item.get("body")
    is_text = isinstance(body, dict) and str(body.get("type", "auto")).lower() in ("auto", "text")
    return body.get("content") if isinstance(body, dict) and is_text else None
