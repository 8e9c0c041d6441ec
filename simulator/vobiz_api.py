"""The simulated carrier's REST API, as documented on https://docs.vobiz.ai (call/*, cdr/*, errors)."""

import asyncio
import hmac
import re
import secrets
import uuid
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.call import CallRequest, Customs, SimulatedCall, Stage, Url
from simulator.callbacks import CallbackSender
from simulator.callees import SCRIPTED_CALLEES, ApiTrouble, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.lines import Line, ScriptedLine
from simulator.phone import PhoneExchange

DEFAULT_RING_TIMEOUT_SECONDS = 120
DEFAULT_TIME_LIMIT_SECONDS = 14_400
MAX_RECORDS = 10_000
_NUMBER = re.compile(r"\+?[1-9][0-9]{6,14}")
_CALLBACK_NAMES = ("answer", "fallback", "ring", "hangup")
_WHOLE_NUMBERS = {
    "ring_timeout": (1, 3600),
    "hangup_on_ring": (1, 3600),
    "time_limit": (1, 10**6),
    "machine_detection_time": (2000, 10_000),
    "machine_detection_maximum_speech_length": (1000, 6000),
    "machine_detection_initial_silence": (2000, 10_000),
    "machine_detection_maximum_words": (2, 10),
    "machine_detection_initial_greeting": (1000, 5000),
}
_OTHER_PARAMETERS = frozenset(
    {"from", "to", "machine_detection", "machine_detection_url", "machine_detection_method", "caller_name"}
    | {"send_digits", "send_on_preanswer", "sip_headers"}
)
_KNOWN_PARAMETERS = (
    _OTHER_PARAMETERS
    | frozenset(_WHOLE_NUMBERS)
    | {f"{name}_{part}" for name in _CALLBACK_NAMES for part in ("url", "method")}
)


@dataclass(frozen=True, slots=True)
class Account:
    """The customer's account. A limit of 0 is no limit."""

    auth_id: str
    auth_token: str = field(repr=False)
    from_number: str
    calls_per_second: int = 0
    concurrent_calls: int = 0


def new_account(from_number: str, calls_per_second: int = 0, concurrent_calls: int = 0) -> Account:
    """An account with fresh random credentials."""
    auth_id = f"MA_{secrets.token_hex(4).upper()}"
    return Account(auth_id, secrets.token_urlsafe(24), from_number, calls_per_second, concurrent_calls)


class ApiError(Exception):
    """An error answer in the documented envelope."""

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details or {}

    def response(self) -> JSONResponse:
        envelope = {
            "status": "error",
            "error": {"code": self.code, "message": str(self), "details": self.details},
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestId": f"req_{secrets.token_hex(8)}",
        }
        headers = {"Retry-After": str(self.details["retryAfter"])} if "retryAfter" in self.details else None
        return JSONResponse(envelope, self.status, headers=headers)


@dataclass(slots=True)
class Carrier:
    """The network: its account, its calls under way and the records of those that ended.

    Numbers that no script owns ring in the browser, or get the `stand_in`. `requests` counts the create-call
    requests that reached it, also those that it refused.
    """

    account: Account
    callbacks: CallbackSender
    clock: SimulatorClock
    phones: PhoneExchange
    no_input_posts: bool = False
    stand_in: ScriptedCallee | None = None
    calls: dict[str, SimulatedCall] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    records: OrderedDict[str, SimulatedCall] = field(default_factory=OrderedDict)
    starts: deque[float] = field(default_factory=deque)
    requests: int = 0

    def start(self, request: CallRequest) -> SimulatedCall:
        callee = SCRIPTED_CALLEES.get(request.to, self.stand_in)
        customs = Customs(
            no_input_posts=self.no_input_posts,
            loses_hangup_callback=callee is not None and callee.loses_hangup_callback,
            doubles_callbacks=callee is not None and callee.doubles_callbacks,
            is_own_caller_id=request.from_number == self.account.from_number,
        )
        line = self._line(request, callee)
        call = SimulatedCall(request, line, self.callbacks, self.clock, self.account.auth_id, customs)
        self.calls[request.call_uuid] = call
        task = asyncio.create_task(self._live(call), name=f"simulated call {request.call_uuid}")
        self.tasks[request.call_uuid] = task
        return call

    def _line(self, request: CallRequest, callee: ScriptedCallee | None) -> Line:
        if callee is None:
            return self.phones.line(request.call_uuid, request.to)
        return ScriptedLine(callee, self.clock)

    async def _live(self, call: SimulatedCall) -> None:
        call_uuid = call.request.call_uuid
        try:
            await call.run()
        finally:
            del self.calls[call_uuid], self.tasks[call_uuid]
            self.records[call_uuid] = call
            while len(self.records) > MAX_RECORDS:
                self.records.popitem(last=False)

    def hang_up(self, call_uuid: str) -> bool:
        task = self.tasks.get(call_uuid)
        return task is not None and not task.cancelling() and task.cancel()

    def check_limits(self) -> None:
        """Raises: ApiError 429 when the account starts too many calls a second, or holds too many."""
        account, now = self.account, self.clock.now()
        while self.starts and self.starts[0] <= now - 1:
            self.starts.popleft()
        _check_limit("cps", account.calls_per_second, len(self.starts))
        _check_limit("concurrency", account.concurrent_calls, len(self.calls))
        self.starts.append(now)

    async def close(self) -> None:
        """Drop every call without a word, as a network that loses its power does."""
        for _ in range(2):  # the first cancellation of a call is taken for a hangup by the API
            for task in list(self.tasks.values()):
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.callbacks.http.aclose()


def _check_limit(limit_type: str, limit: int, current: int) -> None:
    if limit and current >= limit:
        details = {"limitType": limit_type, "limit": limit, "current": current, "retryAfter": 1}
        raise ApiError(429, "RATE_LIMIT_EXCEEDED", f"{limit_type} limit exceeded", details)


def routes(carrier: Carrier) -> list[Route]:
    """The API below its base URL. Paths are case-sensitive: a wrong case answers 401, as documented."""

    async def create(request: Request) -> Response:
        carrier.requests += 1
        order = _read_call_request(await _json_object(request))
        trouble = SCRIPTED_CALLEES[order.to].api_trouble if order.to in SCRIPTED_CALLEES else ApiTrouble.NONE
        _raise_trouble(trouble)
        carrier.check_limits()
        carrier.start(order)
        if trouble is ApiTrouble.SLOW:
            await _wait_for_disconnect(request)
        return JSONResponse(
            {"api_id": str(uuid.uuid4()), "message": "Call fired", "request_uuid": order.call_uuid}
        )

    async def hang_up(request: Request) -> Response:
        if not carrier.hang_up(request.path_params["call_uuid"]):
            return _not_found("call not found")
        return Response(status_code=204)

    async def list_calls(request: Request) -> Response:
        stages = _stages(request)
        found = [call_uuid for call_uuid, call in carrier.calls.items() if call.stage in stages]
        return JSONResponse({"api_id": str(uuid.uuid4()), "calls": found})

    async def show_call(request: Request) -> Response:
        call = carrier.calls.get(request.path_params["call_uuid"])
        if call is None or call.stage not in _stages(request):
            return _not_found("call not found")
        return JSONResponse(_live_call(call))

    async def show_record(request: Request) -> Response:
        call = carrier.records.get(request.path_params["call_uuid"])
        if call is None:
            return _not_found("CDR not found")
        return JSONResponse({"data": _record(call, carrier.account), "success": True})

    async def list_records(request: Request) -> Response:
        found = [_record(call, carrier.account) for call in reversed(carrier.records.values())]
        to_number = request.query_params.get("to_number")
        if to_number is not None:
            found = [record for record in found if record["destination_number"] == to_number]
        page = found[: int(request.query_params.get("per_page", "20"))]
        account_id = carrier.account.auth_id
        return JSONResponse({"account_id": account_id, "count": len(page), "data": page, "success": True})

    async def show_concurrency(_: Request) -> Response:
        calls, limit = len(carrier.calls), carrier.account.concurrent_calls
        body = {"account_id": carrier.account.auth_id, "concurrent_calls": calls, "max_concurrent": limit}
        return JSONResponse({**body, "utilization_pct": round(100 * calls / limit, 1) if limit else 0.0})

    async def unknown(request: Request) -> Response:
        path = request.url.path.lower()
        if re.search(r"/account/[^/]+/(call|cdr)(/|$)", path) and not path.endswith("/call"):
            return ApiError(401, "UNAUTHORIZED", "authentication failed").response()
        return JSONResponse({"message": "Not Found"}, 404)

    def guarded(endpoint: Any) -> Any:
        async def checked(request: Request) -> Response:
            try:
                _authenticate(request, carrier.account)
                response: Response = await endpoint(request)
                return response
            except ApiError as error:
                return error.response()

        return checked

    call_path = "/Account/{auth_id}/Call/{call_uuid}"
    return [
        Route("/Account/{auth_id}/Call/", guarded(create), methods=["POST"]),
        Route("/Account/{auth_id}/Call/", guarded(list_calls), methods=["GET"]),
        Route("/Account/{auth_id}/Call", guarded(list_calls), methods=["GET"]),
        Route(call_path + "/", guarded(hang_up), methods=["DELETE"]),
        Route(call_path, guarded(hang_up), methods=["DELETE"]),
        Route(call_path + "/", guarded(show_call), methods=["GET"]),
        Route(call_path, guarded(show_call), methods=["GET"]),
        Route("/Account/{auth_id}/cdr", guarded(list_records), methods=["GET"]),
        Route("/Account/{auth_id}/cdr/{call_uuid}", guarded(show_record), methods=["GET"]),
        Route("/Account/{auth_id}/concurrency", guarded(show_concurrency), methods=["GET"]),
        Route("/{path:path}", unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


def _authenticate(request: Request, account: Account) -> None:
    given_id = request.headers.get("x-auth-id", "")
    given_token = request.headers.get("x-auth-token", "")
    is_right_token = hmac.compare_digest(given_token.encode(), account.auth_token.encode())
    if given_id != account.auth_id or not is_right_token:
        raise ApiError(401, "UNAUTHORIZED", "authentication failed")
    if request.path_params["auth_id"] != account.auth_id:
        raise ApiError(404, "NOT_FOUND", "account not found")


def _raise_trouble(trouble: ApiTrouble) -> None:
    match trouble:
        case ApiTrouble.DOWN:
            raise ApiError(503, "SERVICE_UNAVAILABLE", "service unavailable")
        case ApiTrouble.THROTTLED:
            _check_limit("cps", limit=1, current=1)
        case ApiTrouble.OUT_OF_CREDIT:
            details = {"required": 1.0, "available": 0.2, "currency": "INR", "shortfall": 0.8}
            raise ApiError(402, "INSUFFICIENT_BALANCE", "insufficient balance", details)


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        raise ApiError(400, "INVALID_REQUEST", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ApiError(400, "INVALID_REQUEST", "the body is not an object")
    return body


def _read_call_request(body: dict[str, Any]) -> CallRequest:
    """Raises: ApiError 400 for what is missing or malformed, 422 for values out of range or unknown parameters."""
    for name in ("from", "to", "answer_url", "answer_method"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise ApiError(400, "INVALID_REQUEST", f"{name} is missing or no string")
    if "<" in body["to"] or not _NUMBER.fullmatch(body["to"]) or not _NUMBER.fullmatch(body["from"]):
        raise ApiError(400, "INVALID_REQUEST", "from and to must each be one E.164 number")
    errors = [_error(name, "unknown parameter") for name in body if name not in _KNOWN_PARAMETERS]
    errors += [_error(name, "out of range") for name in _WHOLE_NUMBERS if not _is_in_range(body, name)]
    errors += [_error(f"{name}_url", "not an absolute URL") for name in _CALLBACK_NAMES if not _is_url(body, name)]
    if body.get("machine_detection", "false") not in ("true", "false", "hangup"):
        errors.append(_error("machine_detection", "must be true or hangup"))
    if errors:
        raise ApiError(422, "VALIDATION_ERROR", "validation failed", {"errors": errors})
    limits = [int(body[name]) for name in ("ring_timeout", "hangup_on_ring") if name in body]
    return CallRequest(
        call_uuid=str(uuid.uuid4()),
        from_number=_with_plus(body["from"]),
        to=_with_plus(body["to"]),
        answer=Url(body["answer_url"], body["answer_method"]),
        fallback=_url_of(body, "fallback"),
        ring=_url_of(body, "ring"),
        hangup=_url_of(body, "hangup"),
        ring_timeout=min(limits, default=DEFAULT_RING_TIMEOUT_SECONDS),
        time_limit=int(body.get("time_limit", DEFAULT_TIME_LIMIT_SECONDS)),
        hang_up_on_machine=body.get("machine_detection") == "hangup",
    )


def _error(name: str, message: str) -> dict[str, str]:
    return {"field": name, "message": message, "code": "INVALID", "value": ""}


def _is_in_range(body: Mapping[str, Any], name: str) -> bool:
    """Numbers may come as numbers or as strings: the documentation's own example sends strings."""
    if name not in body:
        return True
    lowest, highest = _WHOLE_NUMBERS[name]
    return re.fullmatch("[0-9]{1,7}", str(body[name])) is not None and lowest <= int(body[name]) <= highest


def _is_url(body: Mapping[str, Any], name: str) -> bool:
    url, method = body.get(f"{name}_url"), body.get(f"{name}_method", "POST")
    is_absolute = isinstance(url, str) and re.match(r"https?://[^/\s]+", url) is not None
    return url is None or (is_absolute and method in ("GET", "POST"))


def _url_of(body: Mapping[str, Any], name: str) -> Url | None:
    url = body.get(f"{name}_url")
    return Url(url, body.get(f"{name}_method", "POST")) if url else None


def _with_plus(number: str) -> str:
    return "+" + number.removeprefix("+")


def _stages(request: Request) -> tuple[Stage, ...]:
    """Documented: `status` selects live or queued calls; without it an unfinished call is not found."""
    match request.query_params.get("status"):
        case "live":
            return (Stage.IN_PROGRESS,)
        case "queued":
            return (Stage.QUEUED, Stage.RINGING)
        case _:
            return ()


def _live_call(call: SimulatedCall) -> dict[str, Any]:
    request = call.request
    return {
        "api_id": str(uuid.uuid4()),
        "call_status": "in-progress" if call.stage is Stage.IN_PROGRESS else "queued",
        "call_uuid": request.call_uuid,
        "request_uuid": request.call_uuid,
        "caller_name": "",
        "direction": "outbound",
        "from": request.from_number,
        "to": request.to,
    }


def _record(call: SimulatedCall, account: Account) -> dict[str, Any]:
    cause = call.cause
    return {
        "uuid": call.request.call_uuid,
        "account_id": account.auth_id,
        "call_direction": "outbound",
        "caller_id_number": call.request.from_number,
        "destination_number": call.request.to.removeprefix("+"),
        "start_time": datetime.fromtimestamp(call.started_wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "duration": int(call.ring_seconds + call.talk_seconds),
        "billsec": int(call.talk_seconds),
        "ring_time": int(call.ring_seconds),
        "hangup_cause": cause.text if cause else "",
        "hangup_cause_code": cause.code if cause else 0,
        "hangup_cause_name": cause.name if cause else "",
        "hangup_source": cause.source if cause else "",
        "failure_reason": call.failure_reason,
    }


def _not_found(message: str) -> Response:
    return JSONResponse({"api_id": str(uuid.uuid4()), "error": message}, 404)


async def _wait_for_disconnect(request: Request) -> None:
    """Hold the answer back until the customer has given up waiting."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
