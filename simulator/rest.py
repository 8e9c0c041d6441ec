"""What the REST APIs of simulated carriers have in common."""

from typing import Any

from starlette.requests import Request


class NotAnObject(Exception):
    """The body of a request holds no JSON object; the message says what is wrong."""


async def json_object(request: Request) -> dict[str, Any]:
    """The body of a request. Raises: NotAnObject."""
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        raise NotAnObject("the body is not JSON") from None
    if not isinstance(body, dict):
        raise NotAnObject("the body is not an object")
    return body


async def wait_for_disconnect(request: Request) -> None:
    """Hold the answer back until the customer has given up waiting."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
