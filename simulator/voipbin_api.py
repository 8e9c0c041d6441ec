"""The simulated VoIPBin: account and REST API.

Sources: https://api.voipbin.net/docs/ (restful_api_errors, call, message, outbound_config) and, where the code
behind it decides otherwise, https://github.com/voipbin/monorepo as it stood in August 2026. Like the real one, it
ignores fields that it does not know.
"""

import asyncio
import hmac
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import phonenumbers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.audio import AudioFiles
from simulator.callees import SCRIPTED_CALLEES, ApiTrouble, Reaction
from simulator.clock import SimulatorClock
from simulator.network import Carrier, LimitReached
from simulator.phone import PhoneExchange
from simulator.rest import NotAnObject, json_object, wait_for_disconnect
from simulator.voipbin_call import (
    ACTION_TYPES,
    RING_TIMEOUT_SECONDS,
    TIME_LIMIT_SECONDS,
    FlowRequest,
    VoipbinCall,
    address,
    timestamp,
)
from simulator.voipbin_events import EventSender

MAX_VARIABLES = 100
MAX_MESSAGES = 10_000
MAX_PAGE = 100
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


@dataclass(frozen=True, slots=True)
class Account:
    """The customer's account, with what a call needs of it. A limit of 0 is no limit.

    `destination_whitelist` holds ISO 3166 countries in lower case; None stands for all of them. `says_why`:
    answers 400 and 402 as documented, where the code that serves the API says 500.
    """

    access_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    webhook_url: str
    from_number: str
    customer_id: str
    is_verified: bool = True
    is_active: bool = True
    has_balance: bool = True
    destination_whitelist: frozenset[str] | None = None
    says_why: bool = False
    calls_per_second: int = 0
    concurrent_calls: int = 0


def new_account(from_number: str, webhook_url: str = "", **details: Any) -> Account:
    """An account with fresh random credentials; `details` are fields of it."""
    access_key, secret = f"vb_{secrets.token_urlsafe(24)}", secrets.token_urlsafe(24)
    return Account(access_key, secret, webhook_url, from_number, str(uuid.uuid4()), **details)


class ApiError(Exception):
    """An error answer in the documented envelope."""

    def __init__(self, http_status: int, status: str, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.http_status = http_status
        self.status = status
        self.reason = reason
        self.details = details

    def response(self) -> JSONResponse:
        error = {
            "status": self.status,
            "reason": self.reason,
            "message": self.reason.replace("_", " ").lower(),
            "request_id": str(uuid.uuid4()),
            **({"details": [self.details]} if self.details else {}),
        }
        headers = {"Retry-After": "1"} if self.http_status == 429 else None
        return JSONResponse({"error": error}, self.http_status, headers=headers)


def _malformed(reason: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", reason)


def _unauthenticated(reason: str) -> ApiError:
    return ApiError(401, "UNAUTHENTICATED", reason)


def _not_found(reason: str) -> ApiError:
    return ApiError(404, "NOT_FOUND", reason)


def _internal() -> ApiError:
    return ApiError(500, "INTERNAL", "INTERNAL")


def _throttled() -> ApiError:
    return ApiError(429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED", limited_by="customer")


class VoipbinCarrier(Carrier[VoipbinCall]):
    """The carrier, with its customer's account. `messages` are resources as the API shows them."""

    def __init__(
        self,
        account: Account,
        events: EventSender,
        clock: SimulatorClock,
        phones: PhoneExchange,
        *,
        is_first: bool = True,
    ) -> None:
        super().__init__(clock, phones, is_first=is_first)
        self.account = account
        self.events = events
        self.audio = AudioFiles(events.http)
        self.messages: dict[str, dict[str, Any]] = {}
        self.sending: set[asyncio.Task[None]] = set()

    def place(self, order: FlowRequest) -> VoipbinCall:
        """Start the call that was asked for."""
        call = VoipbinCall(
            order,
            self.line_for(order),
            self.clock,
            self.customs_for(order),
            self.events,
            self.account.webhook_url,
            str(uuid.uuid4()),
        )
        self.start(call)
        return call

    def find(self, call_id: str) -> VoipbinCall | None:
        return self.calls.get(call_id) or self.records.get(call_id)

    def send(self, message: dict[str, Any]) -> None:
        """Start a message on its way."""
        while len(self.messages) >= MAX_MESSAGES:
            del self.messages[next(iter(self.messages))]
        self.messages[message["id"]] = message
        task = asyncio.create_task(self._deliver(message))
        self.sending.add(task)
        task.add_done_callback(self.sending.discard)

    async def _deliver(self, message: dict[str, Any]) -> None:
        callee = SCRIPTED_CALLEES.get(message["targets"][0]["destination"]["target"])
        is_reached = callee is None or callee.reaction is not Reaction.UNREACHABLE
        await self.events.tell(self.account.webhook_url, "message_created", message)
        for status in ("sent", "delivered") if is_reached else ("failed",):
            await self.clock.sleep(1)
            if status == "delivered":
                number = message["targets"][0]["destination"]["target"]
                self.phones.take_text(message["source"]["target"], number, message["text"])
            message["targets"][0].update(status=status, tm_update=timestamp(self.clock.wall()))
            await self.events.tell(self.account.webhook_url, "message_updated", message)
        await self.events.flush()

    async def close(self) -> None:
        await super().close()
        for task in list(self.sending):
            task.cancel()
        await asyncio.gather(*self.sending, return_exceptions=True)
        await self.events.http.aclose()


def routes(carrier: VoipbinCarrier) -> list[Route]:
    """The API below its base URL, which ends in /v1.0."""

    async def create_call(request: Request) -> Response:
        carrier.requests += 1
        _check_identity(carrier.account)
        order = _read_call(await _object(request), carrier.account, carrier.clock.wall())
        trouble = _trouble(carrier, order.to)
        _count_start(carrier)
        call = carrier.place(order)
        if trouble is ApiTrouble.SLOW:
            await wait_for_disconnect(request)
        return JSONResponse({"calls": [call.resource()], "groupcalls": []})

    async def list_calls(request: Request) -> Response:
        latest = [*carrier.records.values(), *carrier.calls.values()]
        latest.sort(key=lambda call: call.request.created_wall, reverse=True)
        size = request.query_params.get("page_size", "")
        page = latest[: min(int(size), MAX_PAGE) if size.isdigit() else MAX_PAGE]
        token = timestamp(page[-1].request.created_wall) if page else ""
        return JSONResponse({"result": [call.resource() for call in page], "next_page_token": token})

    async def show_call(request: Request) -> Response:
        return JSONResponse(_call(request).resource())

    async def hang_up(request: Request) -> Response:
        call = _call(request)
        if carrier.hang_up(call.request.call_id):
            call.is_being_ended()
        return JSONResponse(call.resource())

    async def create_message(request: Request) -> Response:
        carrier.requests += 1
        body = await _object(request)
        message = _read_message(body, carrier.account, timestamp(carrier.clock.wall()))
        if not carrier.account.is_verified or not carrier.account.has_balance:
            raise _internal()
        trouble = _trouble(carrier, message["targets"][0]["destination"]["target"])
        carrier.send(message)
        if trouble is ApiTrouble.SLOW:
            await wait_for_disconnect(request)
        return JSONResponse(message)

    async def show_message(request: Request) -> Response:
        message = carrier.messages.get(request.path_params["message_id"])
        if message is None:
            raise _not_found("MESSAGE_NOT_FOUND")
        return JSONResponse(message)

    async def unknown(_: Request) -> Response:
        raise _not_found("ROUTE_NOT_FOUND")

    def _call(request: Request) -> VoipbinCall:
        call = carrier.find(request.path_params["call_id"])
        if call is None:
            raise _not_found("CALL_NOT_FOUND")
        return call

    def guarded(endpoint: Any, *, is_open: bool = False) -> Any:
        async def checked(request: Request) -> Response:
            try:
                if not is_open:
                    _authenticate(request, carrier.account)
                response: Response = await endpoint(request)
                return response
            except ApiError as error:
                return error.response()

        return checked

    every_method = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return [
        Route("/calls", guarded(create_call), methods=["POST"]),
        Route("/calls", guarded(list_calls), methods=["GET"]),
        Route("/calls/{call_id}", guarded(show_call), methods=["GET"]),
        Route("/calls/{call_id}", guarded(hang_up), methods=["DELETE"]),
        Route("/calls/{call_id}/hangup", guarded(hang_up), methods=["POST"]),
        Route("/messages", guarded(create_message), methods=["POST"]),
        Route("/messages/{message_id}", guarded(show_message), methods=["GET"]),
        Route("/{path:path}", guarded(unknown, is_open=True), methods=every_method),
    ]


def _authenticate(request: Request, account: Account) -> None:
    """Source: whatever could be a login's token is taken for one, and hides the access key."""
    is_bearer = request.headers.get("authorization", "").startswith("Bearer ")
    if is_bearer or "token" in request.cookies or "token" in request.query_params:
        raise _unauthenticated("INVALID_CREDENTIALS")
    given = request.cookies.get("accesskey") or request.query_params.get("accesskey")
    if not given:
        raise _unauthenticated("AUTHENTICATION_REQUIRED")
    if not hmac.compare_digest(given.encode(), account.access_key.encode()):
        raise _unauthenticated("INVALID_CREDENTIALS")


def _check_identity(account: Account) -> None:
    if not account.is_verified:
        raise ApiError(403, "PERMISSION_DENIED", "IDENTITY_VERIFICATION_REQUIRED")


def _trouble(carrier: VoipbinCarrier, to: str) -> ApiTrouble:
    """Raises: ApiError for trouble that shows at once."""
    trouble = carrier.trouble_with(to)
    match trouble:
        case ApiTrouble.DOWN:
            raise ApiError(503, "UNAVAILABLE", "SERVICE_UNAVAILABLE")
        case ApiTrouble.THROTTLED:
            raise _throttled()
        case ApiTrouble.OUT_OF_CREDIT:
            raise _out_of_credit(carrier.account)
    return trouble


def _out_of_credit(account: Account) -> ApiError:
    return ApiError(402, "PAYMENT_REQUIRED", "INSUFFICIENT_BALANCE") if account.says_why else _internal()


def _count_start(carrier: VoipbinCarrier) -> None:
    try:
        carrier.count_start(carrier.account.calls_per_second, carrier.account.concurrent_calls)
    except LimitReached:
        raise _throttled() from None


async def _object(request: Request) -> dict[str, Any]:
    try:
        return await json_object(request)
    except NotAnObject:
        raise _malformed("INVALID_JSON_BODY") from None


def _read_call(body: Mapping[str, Any], account: Account, wall: float) -> FlowRequest:
    """The call that is wanted, in the order in which the real one looks. Raises: ApiError."""
    actions, variables = _actions_in(body), _variables_in(body)
    if not account.is_active:
        raise _internal()
    if not account.has_balance:
        raise _out_of_credit(account)
    # The first destination only: the service calls one phone at a time.
    to = next((number for number in _numbers_in(body.get("destinations")) if _may_call(number, account)), None)
    if to is None:
        raise _malformed("INVALID_ARGUMENT") if account.says_why else _internal()
    if _number_in(body.get("source")) != account.from_number:
        raise _internal()
    return FlowRequest(
        call_id=str(uuid.uuid4()),
        from_number=account.from_number,
        to=to,
        ring_timeout=RING_TIMEOUT_SECONDS,
        time_limit=TIME_LIMIT_SECONDS,
        hang_up_on_machine=False,  # an action does that
        customer_id=account.customer_id,
        anonymous=str(body.get("anonymous") or "auto"),
        actions=actions,
        variables=variables,
        created_wall=wall,
    )


def _actions_in(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    actions = body.get("actions") or []
    if not isinstance(actions, list) or not all(isinstance(action, dict) for action in actions):
        raise _malformed("INVALID_JSON_BODY")
    if any(action.get("type") not in ACTION_TYPES for action in actions):
        raise _malformed("INVALID_ACTION_TYPE")
    return actions


def _variables_in(body: Mapping[str, Any]) -> dict[str, str]:
    given = body.get("variables") or {}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise _malformed("INVALID_JSON_BODY")
    if len(given) > MAX_VARIABLES:
        raise _malformed("INVALID_VARIABLES")
    return {name: value for name, value in given.items() if not name.startswith("voipbin.")}


def _numbers_in(addresses: object) -> list[str]:
    listed = addresses if isinstance(addresses, list) else []
    return [number for number in map(_number_in, listed) if number]


def _number_in(given: object) -> str:
    """The number of an address of type tel; empty for any other."""
    number = given.get("target") if isinstance(given, dict) and given.get("type") == "tel" else None
    return number if isinstance(number, str) and _E164.fullmatch(number) else ""


def _may_call(number: str, account: Account) -> bool:
    if account.destination_whitelist is None:
        return True
    region = phonenumbers.region_code_for_number(phonenumbers.parse(number))
    return (region or "").lower() in account.destination_whitelist


def _read_message(body: Mapping[str, Any], account: Account, now: str) -> dict[str, Any]:
    """Raises: ApiError 400 for what is missing."""
    numbers, text = _numbers_in(body.get("destinations")), body.get("text")
    if not numbers or not isinstance(text, str) or not text:
        raise _malformed("INVALID_ARGUMENT")
    if _number_in(body.get("source")) != account.from_number:
        raise _internal()
    target = {"destination": address(numbers[0]), "status": "queued", "parts": 1, "tm_update": now}
    return {
        "id": str(uuid.uuid4()),
        "customer_id": account.customer_id,
        "type": "sms",
        "source": address(account.from_number),
        "targets": [target],
        "text": text,
        "direction": "outbound",
        "tm_create": now,
    }
