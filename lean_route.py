"""Routes that stay in FastAPI's OpenAPI document but skip its request machinery.

FastAPI's usual path (middleware, router, dependencies, response models) costs several times what a request to
this service takes by itself. A LeanRoute is described by its endpoint's signature like any other route; at run
time a LeanApp looks it up in a table, and the route reads the body, lets pydantic check it, awaits the endpoint
and sends the bytes.
"""

import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeVar, get_type_hints

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope, Send

import problems
from access import Access, Caller
from problems import FieldError, Problem

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024
# Of a caller's own ids only UUIDs are kept: anything freer could hold a phone number, and is logged.
_REQUEST_ID = re.compile(rb"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

Model = TypeVar("Model", bound=BaseModel)


class Reply(NamedTuple):
    """An answer, ready to be sent."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = {}
    cache_control: str = "no-store"


Endpoint = Callable[..., Awaitable[Reply]]


class LeanRequest(Request):
    """A request to a LeanRoute. `caller` is set where the route has an Access; `notes` go into its log line."""

    caller: Caller

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self.notes: dict[str, object] = {}
        self.request_id = _request_id(scope)


def _request_id(scope: Scope) -> str:
    """The caller's own `X-Request-ID`, so that its log and ours can be read together; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return secrets.token_hex(8)


def json_reply(status: int, model: BaseModel, *, with_nulls: bool = False) -> Reply:
    """A model as JSON; fields that are None are left out unless asked for."""
    # What model_dump_json and model_validate do, without their detours: half the time of a small model.
    body = model.__pydantic_serializer__.to_json(model, exclude_none=not with_nulls, by_alias=True)
    return Reply(status, body)


class LeanRoute(APIRoute):
    """A route whose endpoint takes `request`, path parameters as `str`, `body` as a model, and gives a Reply.

    With an `access` only its clients are let in, before anything is read of the request. Whatever is raised is
    answered with a problem document. Each request is one log line; `is_quiet` keeps it to the level DEBUG.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        access: Access | None = None,
        is_quiet: bool = False,
        **options: Any,
    ) -> None:
        if access is not None and not access.is_open:
            options = {**options, "openapi_extra": {**options.get("openapi_extra", {}), "security": [{"key": []}]}}
        super().__init__(path, endpoint, response_model=None, **options)
        self.app = _asgi_app(path, endpoint, access, logging.DEBUG if is_quiet else logging.INFO)


class LeanApp(FastAPI):
    """A FastAPI app that hands a request for a LeanRoute straight to it; all others go FastAPI's way.

    Lean paths are fixed, or end in one parameter. Middleware that is added to the app does not see lean requests:
    wrap the app in what must see all of them. Requests to what begins with one of `quiet_paths` are not logged.
    """

    def __init__(self, *, routes: Sequence[BaseRoute], quiet_paths: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(routes=list(routes), **options)
        self._quiet_paths = quiet_paths
        self._lean_routes: dict[tuple[str, str], LeanRoute] = {}
        for route in routes:
            if isinstance(route, LeanRoute):
                self._lean_routes.update(
                    {(method, route.path.split("{")[0]): route for method in route.methods or ()}
                )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method, path = scope["method"], scope["path"]
            if (route := self._lean_routes.get((method, path))) and not route.param_convertors:
                scope["path_params"] = {}
                return await route.app(scope, receive, send)
            prefix, slash, value = path.rpartition("/")
            if value and (route := self._lean_routes.get((method, prefix + slash))):
                scope["path_params"] = {next(iter(route.param_convertors)): value}
                return await route.app(scope, receive, send)
            if not path.startswith(self._quiet_paths):
                return await self._serve_other(scope, receive, send)
        await super().__call__(scope, receive, send)

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve pages, and what does not exist. A path that is not ours may hold anything and is not logged."""
        started = perf_counter()
        status = 500

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await super().__call__(scope, receive, watched_send)
        _log(logging.INFO, scope["method"], "other", status, started, _request_id(scope), {})


def _asgi_app(
    path: str, endpoint: Endpoint, access: Access | None, level: int
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    hints = get_type_hints(endpoint)
    body_model: type[BaseModel] | None = hints.get("body")
    wants_request = "request" in hints

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        request = LeanRequest(scope, receive)
        try:
            if access is not None:
                request.caller = await access.admit(scope)
                request.notes["client"] = request.caller.client
            arguments: dict[str, Any] = dict(scope["path_params"])
            if wants_request:
                arguments["request"] = request
            if body_model is not None:
                arguments["body"] = parse_json(body_model, await _read_json(scope, receive))
            reply = await endpoint(**arguments)
        except Exception as error:
            problem = problems.problem_of(error)
            request.notes["outcome"] = problem.code
            reply = Reply(problem.status, problem.document(), problems.MEDIA_TYPE, problem.headers())
        await _send(reply, request.request_id, send)
        _log(level, scope["method"], path, reply.status, started, request.request_id, request.notes)

    return app


def _log(
    level: int, method: str, path: str, status: int, started: float, request_id: str, notes: Mapping[str, object]
) -> None:
    """One line for one request; `path` is the route's, so that it holds no number and no token."""
    if logger.isEnabledFor(level):
        milliseconds = round((perf_counter() - started) * 1000, 2)
        details = {"method": method, "route": path, "status": status, "ms": milliseconds, "request_id": request_id}
        outcome = "ok" if status < 400 else "refused"
        logger.log(level, "request", extra={**details, "outcome": outcome, **notes})


async def _send(reply: Reply, request_id: str, send: Send) -> None:
    headers = [
        (b"content-type", reply.media_type.encode()),
        (b"cache-control", reply.cache_control.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", request_id.encode()),
        *((name.encode(), value.encode()) for name, value in reply.headers.items()),
    ]
    if reply.status != 304:  # whose length would be that of the body which it stands for
        headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _read_json(scope: Scope, receive: Receive) -> bytes:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if content_type.split(b";")[0].strip().lower() != b"application/json":
        # Also keeps web pages out: a form on a foreign page cannot send this type.
        raise Problem(415, "unsupported_media_type", "send JSON with the header Content-Type: application/json")
    return await read_body(receive)


async def read_body(receive: Receive) -> bytes:
    """The whole body.

    Raises: Problem 413 as soon as it is longer than 16 KiB, Problem 400 when the sender leaves in its middle.
    """
    body: bytes = b""
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "invalid_request", "the body was cut off")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise Problem(413, "payload_too_large", f"a body may have at most {MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return body


def parse_json(model: type[Model], body: bytes) -> Model:
    """A model out of strict JSON: UTF-8, one object, no name twice, no type conversion.

    Raises: Problem 400 for what is not such JSON, Problem 422 that lists each wrong field.
    """
    try:
        document = _STRICT_JSON.decode(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, _DuplicateName) else "the body is not JSON"
        raise Problem(400, "invalid_request", reason) from None
    try:
        parsed: Model = model.__pydantic_validator__.validate_python(document, strict=True)
        return parsed
    except ValidationError as error:
        raise _invalid_fields(model, error) from None


class _DuplicateName(ValueError):
    pass


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _DuplicateName("the JSON object has a name twice")
    return document


_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique_names)


def _invalid_fields(model: type[BaseModel], error: ValidationError) -> Problem:
    """Say per field what is expected. Nothing of the request is repeated: field names are ours."""
    details = error.errors(include_input=False, include_url=False, include_context=False)
    errors = list(dict.fromkeys(_field_error(model, detail) for detail in details))
    code = "invalid_phone" if [one.field for one in errors] == ["phone"] else "invalid_request"
    summary = "; ".join(f"{field} {message}".strip() for field, message in errors)
    return Problem(422, code, summary, errors=errors)


def _field_error(model: type[BaseModel], detail: Any) -> FieldError:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "value_error":  # raised by a validator of ours, with words of ours
        return FieldError(name, detail["msg"].removeprefix("Value error, "))
    if name not in model.model_fields:
        return FieldError(
            "", f"the body must be an object with these fields only: {', '.join(model.model_fields)}"
        )
    if detail["type"] == "missing":
        return FieldError(name, "is required")
    return FieldError(name, f"must be {model.model_fields[name].description}")
