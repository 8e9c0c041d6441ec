"""The simulated Plivo: account and REST API.

Documented on https://www.plivo.com/docs (voice/api, voice/concepts/account-limits, messaging/api).
Not simulated: calls to several numbers at once, requests with `callback_url`.
"""

import base64
import binascii
import hmac
import re
import secrets
import string
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.audio import AudioFiles
from simulator.call import Stage
from simulator.callbacks import unsigned
from simulator.callees import ApiTrouble
from simulator.clock import SimulatorClock
from simulator.network import Carrier
from simulator.phone import PhoneExchange
from simulator.plivo_call import PlivoCall, SigningTokens, callback_sender, v2_signer
from simulator.plivo_messages import Message, MessageDesk
from simulator.rest import NotAnObject, json_object, wait_for_disconnect
from simulator.xml_call import DETECTION_SECONDS, Url, XmlCallRequest

DEFAULT_RING_TIMEOUT_SECONDS = 120
DEFAULT_TIME_LIMIT_SECONDS = 14_400
MAX_PAGE = 20
MAX_TEXT = 1600

_NUMBER = re.compile(r"\+?[1-9][0-9]{6,14}")
_CALLBACK_NAMES = ("answer", "fallback", "ring", "hangup", "machine_detection")
_WHOLE_NUMBERS = {
    "ring_timeout": (0, 3600),
    "hangup_on_ring": (1, 3600),
    "time_limit": (1, 10**6),
    "machine_detection_time": (2000, 10_000),
    "machine_detection_maximum_speech_length": (1000, 6000),
    "machine_detection_initial_silence": (2000, 10_000),
    "machine_detection_maximum_words": (2, 10),
    "machine_detection_initial_greeting": (1000, 5000),
}
_CALL_PARAMETERS = (
    frozenset(_WHOLE_NUMBERS)
    | {f"{name}_{part}" for name in _CALLBACK_NAMES for part in ("url", "method")}
    | {"from", "to", "machine_detection", "caller_name", "send_digits", "send_on_preanswer", "sip_headers"}
    | {"parent_call_uuid", "error_if_parent_not_found"}
)
_MESSAGE_PARAMETERS = frozenset(
    {"src", "dst", "text", "type", "url", "method", "log", "trackable", "message_expiry"}
    | {"dlt_entity_id", "dlt_template_id", "dlt_template_category"}
)
_STAGES = {"live": (Stage.IN_PROGRESS,), "queued": (Stage.QUEUED, Stage.RINGING)}


@dataclass(frozen=True, slots=True)
class Account:
    """The customer's account, which may be below a main one. A limit of 0 is no limit.

    Over `calls_per_second` calls are queued; over `concurrent_calls` they are refused (documented for India).
    `other_tokens` are further active auth tokens, as while a token is being changed.
    """

    auth_id: str
    auth_token: str = field(repr=False)
    main_token: str = field(repr=False)
    from_number: str
    calls_per_second: int = 0
    concurrent_calls: int = 0
    other_tokens: tuple[str, ...] = field(default=(), repr=False)

    @property
    def signing_tokens(self) -> SigningTokens:
        return SigningTokens(self.auth_token, self.main_token, self.other_tokens)


def new_account(from_number: str, calls_per_second: int = 0, concurrent_calls: int = 0) -> Account:
    """An account with fresh random credentials. Documented: `MA` and 18 capitals or digits."""
    auth_id = "MA" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(18))
    token, main_token = secrets.token_urlsafe(30), secrets.token_urlsafe(30)
    return Account(auth_id, token, main_token, from_number, calls_per_second, concurrent_calls)


class ApiError(Exception):
    """An error answer in the documented shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def response(self) -> JSONResponse:
        return JSONResponse({"api_id": str(uuid.uuid4()), "error": str(self)}, self.status)


class PlivoCarrier(Carrier[PlivoCall]):
    """The carrier, with its customer's account.

    `fails_after_accepting`: a call is placed, but something between answers 502, as a gateway in trouble may.
    """

    def __init__(
        self,
        account: Account,
        http: httpx.AsyncClient,
        clock: SimulatorClock,
        phones: PhoneExchange,
        *,
        is_signing: bool = True,
        is_first: bool = True,
    ) -> None:
        super().__init__(clock, phones, is_first=is_first)
        self.account = account
        self.fails_after_accepting = False
        self._http = http
        self.audio = AudioFiles(http)
        tokens = account.signing_tokens
        self.callbacks = callback_sender(http, clock, tokens if is_signing else None)
        self.desk = MessageDesk(http, clock, v2_signer(tokens) if is_signing else unsigned, phones)

    def place(self, order: XmlCallRequest) -> bool:
        """Start the call that was asked for, or let it wait for its turn; whether it waits. Raises: ApiError."""
        limit = self.account.concurrent_calls
        if limit and len(self.calls) >= limit:
            raise ApiError(403, "concurrent call limit reached")  # seen in third-party notes only
        customs = self.customs_for(order, is_own_caller_id=order.from_number == self.account.from_number)
        wait = self._seconds_to_wait()
        account_id = self.account.auth_id
        line = self.line_for(order)
        self.start(PlivoCall(order, line, self.clock, customs, self.callbacks, account_id, queue_seconds=wait))
        return wait > 0

    def _seconds_to_wait(self) -> float:
        """Until the second comes in which the account may start one more call."""
        now, limit = self.clock.now(), self.account.calls_per_second
        while self.starts and self.starts[0] <= now - 1:
            self.starts.popleft()
        start = now if not limit or len(self.starts) < limit else self.starts[-limit] + 1
        self.starts.append(start)
        return start - now

    async def close(self) -> None:
        await super().close()
        await self.desk.close()
        await self._http.aclose()


Endpoint = Callable[[Request], Awaitable[Response]]


def routes(carrier: PlivoCarrier) -> list[Route]:
    """The API below its base URL. Every path ends with a slash, as documented."""
    account_path = "/Account/{auth_id}"
    call_path = f"{account_path}/Call/{{call_uuid}}/"

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            try:
                _authenticate(request, carrier.account)
                return await endpoint(request)
            except ApiError as error:
                return error.response()

        return checked

    return [
        Route(f"{account_path}/Call/", guarded(_create_call(carrier)), methods=["POST"]),
        Route(f"{account_path}/Call/", guarded(_list_calls(carrier)), methods=["GET"]),
        Route(call_path, guarded(_hang_up(carrier)), methods=["DELETE"]),
        Route(call_path, guarded(_show_call(carrier)), methods=["GET"]),
        Route(f"{account_path}/Message/", guarded(_create_message(carrier)), methods=["POST"]),
        Route(f"{account_path}/Message/{{message_uuid}}/", guarded(_show_message(carrier)), methods=["GET"]),
        Route("/{path:path}", _unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


def _authenticate(request: Request, account: Account) -> None:
    """HTTP Basic with auth id and token (documented). Raises: ApiError."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        given_id, _, given_token = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        given_id = given_token = ""
    is_right_token = hmac.compare_digest(given_token.encode(), account.auth_token.encode())
    if scheme != "Basic" or given_id != account.auth_id or not is_right_token:
        raise ApiError(401, "authentication failed")
    if request.path_params["auth_id"] != account.auth_id:
        raise ApiError(404, "account not found")


async def _unknown(_: Request) -> Response:
    return ApiError(404, "not found").response()


# Calls


def _create_call(carrier: PlivoCarrier) -> Endpoint:
    async def create(request: Request) -> Response:
        carrier.requests += 1
        order = _read_call_request(await _json_object(request))
        trouble = carrier.trouble_with(order.to)
        _raise_trouble(trouble)
        is_queued = carrier.place(order)
        if trouble is ApiTrouble.SLOW:
            await wait_for_disconnect(request)
        if carrier.fails_after_accepting:
            return Response("<html><h1>502 Bad Gateway</h1></html>", 502, media_type="text/html")
        message = "call queued" if is_queued else "call fired"
        return _answer({"message": message, "request_uuid": order.call_id}, 201)

    return create


def _hang_up(carrier: PlivoCarrier) -> Endpoint:
    async def hang_up(request: Request) -> Response:
        if not carrier.hang_up(request.path_params["call_uuid"]):
            raise ApiError(404, "call not found")
        return Response(status_code=204)

    return hang_up


def _list_calls(carrier: PlivoCarrier) -> Endpoint:
    """Documented: ids of live or queued calls, else the records of ended ones, newest first."""

    async def list_calls(request: Request) -> Response:
        query = request.query_params
        if "status" in query:
            stages = _stages(request)
            return _answer({"calls": [id_ for id_, call in carrier.calls.items() if call.stage in stages]})
        limit, offset = _in_range(query, "limit", 1, MAX_PAGE, MAX_PAGE), _in_range(query, "offset", 0, 10**6, 0)
        ended_after = _time(query.get("end_time__gte"))
        found = [
            _record(call, carrier.account)
            for call in reversed(carrier.records.values())
            if call.request.to.removeprefix("+").startswith(query.get("to_number", "").removeprefix("+"))
            and _ended_wall(call) >= ended_after
        ]
        meta = {"limit": limit, "offset": offset, "total_count": len(found), "next": None, "previous": None}
        return _answer({"meta": meta, "objects": found[offset : offset + limit]})

    return list_calls


def _show_call(carrier: PlivoCarrier) -> Endpoint:
    async def show_call(request: Request) -> Response:
        call_id = request.path_params["call_uuid"]
        if "status" in request.query_params:
            live = carrier.calls.get(call_id)
            if live is None or live.stage not in _stages(request):
                raise ApiError(404, "call not found")
            return _answer(_live_call(live))
        ended = carrier.records.get(call_id)
        if ended is None:
            raise ApiError(404, "call not found")
        return _answer(_record(ended, carrier.account))

    return show_call


def _stages(request: Request) -> tuple[Stage, ...]:
    """Not documented: where a ringing call is listed. Here it is among the queued ones."""
    status = request.query_params["status"]
    if status not in _STAGES:
        raise ApiError(400, "status parameter is invalid")
    return _STAGES[status]


def _in_range(query: Mapping[str, str], name: str, low: int, high: int, default: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch("[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise ApiError(400, f"{name} parameter is invalid")
    return int(text)


def _time(text: str | None) -> float:
    """Documented: UTC, `YYYY-MM-DD HH:MM[:ss[.uuuuuu]]`."""
    if text is None:
        return 0.0
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ApiError(400, "end_time parameter is invalid") from None


def _raise_trouble(trouble: ApiTrouble) -> None:
    match trouble:
        case ApiTrouble.DOWN:
            raise ApiError(503, "service unavailable")
        case ApiTrouble.THROTTLED:
            raise ApiError(429, "too many requests")
        case ApiTrouble.OUT_OF_CREDIT:
            raise ApiError(402, "insufficient credit")


def _read_call_request(body: Mapping[str, Any]) -> XmlCallRequest:
    """Raises: ApiError 400."""
    for name in ("from", "to", "answer_url"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise ApiError(400, f"{name} parameter is missing")
    checks = {
        **{name: _NUMBER.fullmatch(body[name]) is not None for name in ("from", "to")},
        **{name: _is_whole_number(body, name) for name in _WHOLE_NUMBERS},
        **{f"{name}_url": _is_url(body.get(f"{name}_url")) for name in _CALLBACK_NAMES},
        **{f"{name}_method": _is_method(body.get(f"{name}_method")) for name in _CALLBACK_NAMES},
        "machine_detection": body.get("machine_detection", "true") in ("true", "hangup"),
    }
    _check(body, _CALL_PARAMETERS, checks)
    if _with_plus(body["from"]) == _with_plus(body["to"]):
        raise ApiError(400, "from and to are the same number")
    limits = [int(body[name]) for name in ("ring_timeout", "hangup_on_ring") if name in body]
    return XmlCallRequest(
        call_id=str(uuid.uuid4()),
        from_number=_with_plus(body["from"]),
        to=_with_plus(body["to"]),
        answer=Url(body["answer_url"], body.get("answer_method", "POST")),
        fallback=_url_of(body, "fallback"),
        ring=_url_of(body, "ring"),
        hangup=_url_of(body, "hangup"),
        ring_timeout=min(limits, default=DEFAULT_RING_TIMEOUT_SECONDS),
        time_limit=int(body.get("time_limit", DEFAULT_TIME_LIMIT_SECONDS)),
        hang_up_on_machine=body.get("machine_detection") == "hangup",
        machine=_url_of(body, "machine_detection") if body.get("machine_detection") == "true" else None,
        detection_seconds=int(body.get("machine_detection_time", 1000 * DETECTION_SECONDS)) / 1000,
    )


def _check(body: Mapping[str, Any], known: frozenset[str], checks: Mapping[str, bool]) -> None:
    """A mistyped parameter would be silently ignored by the real API; here it is refused. Raises: ApiError 400."""
    wrong = [name for name in body if name not in known] + [
        name for name, is_right in checks.items() if not is_right
    ]
    if wrong:
        raise ApiError(400, f"{wrong[0]} parameter is invalid")


def _is_whole_number(body: Mapping[str, Any], name: str) -> bool:
    """Numbers may come as numbers or as strings."""
    if name not in body:
        return True
    lowest, highest = _WHOLE_NUMBERS[name]
    return re.fullmatch("[0-9]{1,7}", str(body[name])) is not None and lowest <= int(body[name]) <= highest


def _is_url(url: Any) -> bool:
    return url is None or (isinstance(url, str) and re.match(r"https?://[^/\s]+", url) is not None)


def _is_method(method: Any) -> bool:
    return method is None or method in ("GET", "POST")


def _url_of(body: Mapping[str, Any], name: str) -> Url | None:
    url = body.get(f"{name}_url")
    return Url(url, body.get(f"{name}_method", "POST")) if url else None


def _with_plus(number: str) -> str:
    return "+" + number.removeprefix("+")


def _live_call(call: PlivoCall) -> dict[str, Any]:
    request = call.request
    return {
        "call_status": "in-progress" if call.stage is Stage.IN_PROGRESS else "queued",
        "call_uuid": request.call_id,
        "caller_name": request.from_number,
        "direction": "outbound",
        "from": request.from_number.removeprefix("+"),
        "to": request.to.removeprefix("+"),
        "request_uuid": request.call_id,
        "session_start": _shown(call.started_wall),
    }


def _record(call: PlivoCall, account: Account) -> dict[str, Any]:
    cause = call.cause
    answered = call.started_wall + call.ring_seconds if call.is_answered else None
    talk_seconds = int(call.talk_seconds)
    return {
        "answer_time": _shown(answered),
        "bill_duration": talk_seconds,
        "billed_duration": -(-talk_seconds // 60) * 60,
        "call_direction": "outbound",
        "call_duration": talk_seconds,
        "call_state": "ANSWER" if call.is_answered else "NO_ANSWER",
        "call_uuid": call.request.call_id,
        "conference_uuid": None,
        "end_time": _shown(_ended_wall(call)),
        "from_number": call.request.from_number.removeprefix("+"),
        "hangup_cause_code": cause.code if cause else None,
        "hangup_cause_name": cause.name if cause else None,
        "hangup_source": cause.source if cause else None,
        "initiation_time": _shown(call.started_wall),
        "parent_call_uuid": None,
        "resource_uri": f"/v1/Account/{account.auth_id}/Call/{call.request.call_id}/",
        "stir_verification": "Not Applicable",
        "to_number": call.request.to.removeprefix("+"),
        "total_amount": "0.00000",
        "total_rate": "0.00000",
    }


def _ended_wall(call: PlivoCall) -> float:
    return call.started_wall + call.ring_seconds + call.talk_seconds


def _shown(wall: float | None) -> str | None:
    """Documented: `2022-10-12 21:57:47+05:30`, in the console's time zone; ours is UTC."""
    return datetime.fromtimestamp(wall, UTC).isoformat(" ", "seconds") if wall is not None else None


# Messages


def _create_message(carrier: PlivoCarrier) -> Endpoint:
    async def create(request: Request) -> Response:
        message = _read_message(await _json_object(request), carrier.clock)
        _raise_trouble(carrier.trouble_with(message.dst))
        carrier.desk.accept(message)
        return _answer({"message": "message(s) queued", "message_uuid": [message.message_id]}, 202)

    return create


def _show_message(carrier: PlivoCarrier) -> Endpoint:
    async def show(request: Request) -> Response:
        message = carrier.desk.messages.get(request.path_params["message_uuid"])
        if message is None:
            raise ApiError(404, "message not found")
        return _answer(message.record())

    return show


def _read_message(body: Mapping[str, Any], clock: SimulatorClock) -> Message:
    """Raises: ApiError 400."""
    for name in ("src", "dst", "text"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise ApiError(400, f"{name} parameter is missing")
    categories = ("transactional", "promotional", "service_implicit", "service_explicit")
    expiry = body.get("message_expiry", 10_800)
    checks = {
        "dst": _NUMBER.fullmatch(body["dst"]) is not None and _with_plus(body["dst"]) != _with_plus(body["src"]),
        "text": len(body["text"]) <= MAX_TEXT,
        "type": body.get("type", "sms") == "sms",
        "url": _is_url(body.get("url")),
        "method": _is_method(body.get("method")),
        "log": body.get("log", "true") in ("true", "false", "content_only", "number_only"),
        "message_expiry": isinstance(expiry, int) and 5 <= expiry <= 10_800,
        "dlt_template_category": body.get("dlt_template_category", categories[0]) in categories,
    }
    _check(body, _MESSAGE_PARAMETERS, checks)
    return Message(
        message_id=str(uuid.uuid4()),
        src=body["src"],
        dst=_with_plus(body["dst"]),
        text=body["text"],
        url=body.get("url", ""),
        method=body.get("method", "POST"),
        is_logged=body.get("log", "true") in ("true", "number_only"),
        accepted_wall=clock.wall(),
    )


def _answer(body: Mapping[str, Any], status: int = 200) -> Response:
    return JSONResponse({"api_id": str(uuid.uuid4()), **body}, status)


async def _json_object(request: Request) -> dict[str, Any]:
    """Documented: bodies are `application/json`. Raises: ApiError."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise ApiError(400, "the body must be application/json")
    try:
        return await json_object(request)
    except NotAnObject as error:
        raise ApiError(400, str(error)) from None
