"""The simulated Vobiz: account and REST API, as documented on https://docs.vobiz.ai (call/*, cdr/*, errors)."""

import hmac
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.audio import AudioFiles
from simulator.call import Stage
from simulator.callbacks import CallbackSender
from simulator.callees import ApiTrouble
from simulator.clock import SimulatorClock
from simulator.network import Carrier, LimitReached
from simulator.phone import PhoneExchange
from simulator.rest import NotAnObject, json_object, wait_for_disconnect
from simulator.vobiz_call import VobizCall
from simulator.xml_call import DETECTION_SECONDS, Url, XmlCallRequest

DEFAULT_RING_TIMEOUT_SECONDS = 120
DEFAULT_TIME_LIMIT_SECONDS = 14_400
_NUMBER = re.compile(r"\+?[1-9][0-9]{6,14}")
_CALLBACK_NAMES = ("answer", "fallback", "ring", "hangup", "machine_detection")
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
    {"from", "to", "machine_detection", "caller_name", "send_digits", "send_on_preanswer", "sip_headers"}
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


class VobizCarrier(Carrier[VobizCall]):
    """The carrier, with its customer's account."""

    def __init__(
        self,
        account: Account,
        callbacks: CallbackSender,
        clock: SimulatorClock,
        phones: PhoneExchange,
        *,
        no_input_posts: bool = False,
        is_first: bool = True,
    ) -> None:
        super().__init__(clock, phones, is_first=is_first)
        self.account = account
        self.callbacks = callbacks
        self.audio = AudioFiles(callbacks.http)
        self.no_input_posts = no_input_posts

    def place(self, order: XmlCallRequest) -> None:
        """Start the call that was asked for."""
        customs = self.customs_for(order, is_own_caller_id=order.from_number == self.account.from_number)
        line, account_id = self.line_for(order), self.account.auth_id
        self.start(VobizCall(order, line, self.clock, customs, self.callbacks, account_id, self.no_input_posts))

    def check_limits(self) -> None:
        """Raises: ApiError 429 when the account starts too many calls a second, or holds too many."""
        try:
            self.count_start(self.account.calls_per_second, self.account.concurrent_calls)
        except LimitReached as reached:
            raise _throttled(reached) from None

    async def close(self) -> None:
        await super().close()
        await self.callbacks.http.aclose()


def _throttled(reached: LimitReached) -> ApiError:
    limit = {"limitType": reached.limit_type, "limit": reached.limit, "current": reached.current}
    return ApiError(429, "RATE_LIMIT_EXCEEDED", str(reached), {**limit, "retryAfter": 1})


def routes(carrier: VobizCarrier) -> list[Route]:
    """The API below its base URL. Paths are case-sensitive: a wrong case answers 401, as documented."""

    async def create(request: Request) -> Response:
        carrier.requests += 1
        order = _read_call_request(await _json_object(request))
        trouble = carrier.trouble_with(order.to)
        _raise_trouble(trouble)
        carrier.check_limits()
        carrier.place(order)
        if trouble is ApiTrouble.SLOW:
            await wait_for_disconnect(request)
        return JSONResponse({"api_id": str(uuid.uuid4()), "message": "Call fired", "request_uuid": order.call_id})

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
            raise _throttled(LimitReached("cps", limit=1, current=1))
        case ApiTrouble.OUT_OF_CREDIT:
            details = {"required": 1.0, "available": 0.2, "currency": "INR", "shortfall": 0.8}
            raise ApiError(402, "INSUFFICIENT_BALANCE", "insufficient balance", details)


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        return await json_object(request)
    except NotAnObject as error:
        raise ApiError(400, "INVALID_REQUEST", str(error)) from None


def _read_call_request(body: dict[str, Any]) -> XmlCallRequest:
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
    return XmlCallRequest(
        call_id=str(uuid.uuid4()),
        from_number=_with_plus(body["from"]),
        to=_with_plus(body["to"]),
        answer=Url(body["answer_url"], body["answer_method"]),
        fallback=_url_of(body, "fallback"),
        ring=_url_of(body, "ring"),
        hangup=_url_of(body, "hangup"),
        ring_timeout=min(limits, default=DEFAULT_RING_TIMEOUT_SECONDS),
        time_limit=int(body.get("time_limit", DEFAULT_TIME_LIMIT_SECONDS)),
        hang_up_on_machine=body.get("machine_detection") == "hangup",
        machine=_url_of(body, "machine_detection") if body.get("machine_detection") == "true" else None,
        detection_seconds=int(body.get("machine_detection_time", 1000 * DETECTION_SECONDS)) / 1000,
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


def _live_call(call: VobizCall) -> dict[str, Any]:
    request = call.request
    return {
        "api_id": str(uuid.uuid4()),
        "call_status": "in-progress" if call.stage is Stage.IN_PROGRESS else "queued",
        "call_uuid": request.call_id,
        "request_uuid": request.call_id,
        "caller_name": "",
        "direction": "outbound",
        "from": request.from_number,
        "to": request.to,
    }


def _record(call: VobizCall, account: Account) -> dict[str, Any]:
    cause = call.cause
    return {
        "uuid": call.request.call_id,
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
