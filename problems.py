"""Errors as RFC 9457 problem documents: a stable `code`, what is wrong, what to do. No value is ever repeated."""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from abuse_guard import DestinationNotAllowed, LimitReached, Quota, SendingStopped, SpendingLimitReached
from access import AddressLocked, KeyMissing
from idempotency import KeyReused, StillRunning
from log_format import log_unexpected
from number_failures import NumberLocked
from number_page import CallStillLive, OtherMode
from otp_store import StoreUnavailable
from voice_provider import CallRejected, ProviderThrottled, ProviderUnavailable

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
STORE_RETRY_SECONDS = 1

_TITLES = {
    "unauthorized": "An API key is needed",
    "rate_limited": "Too many requests",
    "destination_not_allowed": "This number may not be called",
    "spending_limit_reached": "The spending limit is reached",
    "sending_stopped": "No calls are placed right now",
    "idempotency_conflict": "The Idempotency-Key belongs to another request",
    "idempotency_in_progress": "The request with this Idempotency-Key is still running",
    "invalid_request": "The request is not valid",
    "invalid_phone": "The phone number is not valid",
    "unsupported_option": "The option is not available",
    "not_found": "Nothing is known under this name",
    "method_not_allowed": "The route does not take this method",
    "payload_too_large": "The body is too large",
    "unsupported_media_type": "The body is not of the right type",
    "too_many_failures": "Too many wrong codes for this number",
    "call_in_progress": "Another call to this number is live",
    "other_mode": "The code of this number is for another way of checking it",
    "call_rejected": "The carrier refused the call",
    "provider_throttled": "The carrier takes no more calls right now",
    "provider_unavailable": "The carrier cannot be reached",
    "store_unavailable": "Codes cannot be stored or checked right now",
    "not_ready": "The service is not ready",
    "internal_error": "Something went wrong here",
}
_NO_COUNTRY = "has no country code: write it as E.164, for example +14155550100"
_LIVE = "a call to this number is live and cannot be replaced: wait until it has ended, or cancel it"
_OTHER_MODE = (
    "a code that is typed on the phone is neither checked here nor told, and one that is told is not typed there: "
    "wait until it has ended, or cancel it"
)
_NO_STORE = "codes cannot be stored or checked right now: try again"
_UNEXPECTED = "an unexpected error; the log of this service says where"
_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


class FieldError(NamedTuple):
    field: str
    message: str


class Problem(Exception):
    """Raise it anywhere below a route; the route answers with the document."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_seconds: int | None = None,
        extra_headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after_seconds = retry_after_seconds
        self.extra_headers = extra_headers

    def document(self) -> bytes:
        document: dict[str, Any] = {
            "type": f"urn:voice-otp:problem:{self.code}",
            "title": _TITLES[self.code],
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [error._asdict() for error in self.errors]
        return msgspec.json.encode(document)

    def headers(self) -> dict[str, str]:
        waiting = {} if self.retry_after_seconds is None else {"retry-after": str(self.retry_after_seconds)}
        return {**waiting, **self.extra_headers}


def rate_limit_headers(quota: Quota | None) -> dict[str, str]:
    """What is left of a limit, as draft-ietf-httpapi-ratelimit-headers-10 writes it."""
    if quota is None:
        return {}
    return {
        "ratelimit-policy": f'"{quota.name}";q={quota.limit};w={quota.window_seconds}',
        "ratelimit": f'"{quota.name}";r={quota.remaining};t={quota.reset_seconds}',
    }


class ProblemDocument(BaseModel):
    """The shape of every error answer, for the OpenAPI document."""

    type: str = Field(examples=["urn:voice-otp:problem:invalid_phone"])
    title: str = Field(examples=["The phone number is not valid"])
    status: int = Field(examples=[422])
    code: str = Field(examples=["invalid_phone"], description="stable, for programs")
    detail: str = Field(examples=[f"phone {_NO_COUNTRY}"])
    errors: list["ProblemField"] | None = None


class ProblemField(BaseModel):
    field: str = Field(examples=["phone"])
    message: str = Field(examples=[_NO_COUNTRY])


def problem_of(error: Exception) -> Problem:
    """The problem that a caller is told when this error ended its request; what an operator must know is logged.

    What a carrier or the store said stays in the log: it may name settings, which are no caller's business.
    """
    match error:
        case Problem():
            return error
        case KeyMissing():
            detail = "send one of this service's keys with the header Authorization: Bearer <key>"
            return Problem(401, "unauthorized", detail, extra_headers={"www-authenticate": "Bearer"})
        case AddressLocked():
            detail = "too many wrong API keys came from this address: try again later"
            return Problem(429, "rate_limited", detail, retry_after_seconds=error.retry_after_seconds)
        case DestinationNotAllowed():
            return Problem(403, "destination_not_allowed", "calls to this number are not allowed here")
        case SendingStopped():
            return Problem(503, "sending_stopped", "the operator of this service has stopped its calls")
        case LimitReached():
            return _limit_problem(error)
        case KeyReused():
            detail = "an earlier request with this Idempotency-Key had another body: use a new key"
            return Problem(422, "idempotency_conflict", detail)
        case StillRunning():
            detail = "the first request with this Idempotency-Key has no answer yet: try again"
            return Problem(409, "idempotency_in_progress", detail, retry_after_seconds=1)
        case NumberLocked():
            detail = "too many wrong codes in a row for this number: try again later"
            return Problem(429, "too_many_failures", detail, retry_after_seconds=error.retry_after_seconds)
        case CallStillLive():
            return Problem(
                409, "call_in_progress", _LIVE, retry_after_seconds=ProviderUnavailable.retry_after_seconds
            )
        case OtherMode():
            return Problem(409, "other_mode", _OTHER_MODE)
        case StoreUnavailable():
            logger.warning("the store cannot answer: %s", error)
            return Problem(503, "store_unavailable", _NO_STORE, retry_after_seconds=STORE_RETRY_SECONDS)
        case ProviderThrottled():
            detail = "the carrier takes no more calls right now: try again"
            return Problem(503, error.code, detail, retry_after_seconds=error.retry_after_seconds)
        case ProviderUnavailable():
            detail = "the carrier cannot be reached, and no phone was called: try again"
            return Problem(503, error.code, detail, retry_after_seconds=error.retry_after_seconds)
        case CallRejected():
            return Problem(502, error.code, "the carrier refused the call; the log of this service says why")
        case _:
            log_unexpected(error, "request")
            return Problem(500, "internal_error", _UNEXPECTED)


# What a caller may know of a limit; of those of a destination no more than that there is one.
_LIMIT_DETAILS = {
    "number": "this number was called a moment ago, or too often: try again later",
    "client": "this client has used up its calls per hour: try again later",
    "client-wrong-codes": "this client has checked too many wrong codes: try again later",
    "address-wrong-codes": "too many wrong codes came from this address: try again later",
    "status-reads": "this status was read too often: try again later",
}


def _limit_problem(error: LimitReached) -> Problem:
    quota = error.quota
    if isinstance(error, SpendingLimitReached):
        code, detail = "spending_limit_reached", "this service has reached its limit of spending on calls"
    else:
        name = quota.name if quota is not None else ""
        code, detail = "rate_limited", _LIMIT_DETAILS.get(name, "too many requests of this kind: try again later")
    return Problem(
        429,
        code,
        detail,
        retry_after_seconds=error.retry_after_seconds,
        extra_headers=rate_limit_headers(quota if quota is not None and quota.name in _LIMIT_DETAILS else None),
    )


class _Answer(NamedTuple):
    """An error status in the OpenAPI document: what it means on every route, and a problem that has it."""

    meaning: str
    example: Problem


_ANSWERS = {
    400: _Answer(
        "this is no request: the body is not JSON, or a header is malformed",
        Problem(400, "invalid_request", "the body is not JSON"),
    ),
    401: _Answer("no API key, or one that is not known", problem_of(KeyMissing())),
    403: _Answer("this number may not be called", problem_of(DestinationNotAllowed(()))),
    404: _Answer(
        "nothing is known under this name",
        Problem(404, "not_found", "no verification is known for this number or id"),
    ),
    409: _Answer("another call or request stands in the way", Problem(409, "call_in_progress", _LIVE)),
    413: _Answer(
        "the body is longer than 16 KiB",
        Problem(413, "payload_too_large", "a body may have at most 16384 bytes"),
    ),
    415: _Answer(
        "the body is not sent as `application/json`",
        Problem(415, "unsupported_media_type", "send JSON with the header Content-Type: application/json"),
    ),
    422: _Answer(
        "a value is not valid; where it is a field, `errors` says which and why",
        Problem(422, "invalid_phone", f"phone {_NO_COUNTRY}", errors=[FieldError("phone", _NO_COUNTRY)]),
    ),
    429: _Answer("a limit is reached: wait for as long as `Retry-After` says", problem_of(LimitReached((), 30))),
    500: _Answer("an unexpected error", Problem(500, "internal_error", _UNEXPECTED)),
    502: _Answer("the carrier refused the call", problem_of(CallRejected())),
    503: _Answer("not possible right now: `code` says why", Problem(503, "store_unavailable", _NO_STORE)),
}


def responses(*statuses: int, examples: Sequence[Problem] = ()) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for its OpenAPI entry; `examples` fit it better than those of all routes."""
    shown = {problem.status: problem for problem in examples}
    return {
        status: _response(_ANSWERS[status].meaning, shown.get(status, _ANSWERS[status].example))
        for status in statuses
    }


def _response(meaning: str, example: Problem) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    document = msgspec.json.decode(example.document())
    return {"description": meaning, "content": {MEDIA_TYPE: {"schema": schema, "example": document}}}


def install(app: FastAPI) -> None:
    """Problem documents for what FastAPI itself answers, and their shape in the OpenAPI document."""

    async def http_error(_: Request, error: Exception) -> Response:
        status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
        code = _CODE_OF_STATUS.get(status, "invalid_request")
        problem = Problem(status, code, _TITLES[code])
        return Response(problem.document(), status, headers=headers, media_type=MEDIA_TYPE)

    app.add_exception_handler(HTTPException, http_error)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _describe_problems(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # how FastAPI's documentation extends the document


def _describe_problems(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas["ProblemDocument"] = schema
    scheme = {"type": "http", "scheme": "bearer", "description": "one of API_KEYS, or of OPERATOR_KEYS"}
    document["components"]["securitySchemes"] = {"key": scheme}
    # FastAPI adds a 422 of its own to every route with a parameter; these routes never send it.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for methods in document["paths"].values():
        for route in methods.values():
            if "HTTPValidationError" in str(route["responses"].get("422")):
                del route["responses"]["422"]
