"""One request to a carrier's API, and what its failures mean. No client but through this sees HTTP's errors.

What may be done after a failure hangs on whether a phone may be ringing: a request is sent once, and only what
proves that nothing was dialled is called so.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from voice_provider import (
    AccountRefused,
    CallOutcomeUnknown,
    CallRejected,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
)

MAX_ANSWER_BYTES = 256 * 1024
# Not 403: carriers say so, too, of one country that an account may not call, or of too many calls at once.
ACCOUNT_STATUSES = frozenset({401, 402})
LONGEST_RETRY_AFTER_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Answer:
    """A carrier's whole answer. `document` is its JSON, None for anything else or for more than 256 KiB."""

    status: int
    document: Any
    retry_after: str | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def body(self) -> Mapping[str, Any]:
        """The document where it is an object, else an empty one."""
        return self.document if isinstance(self.document, dict) else {}


async def ask(
    http: httpx.AsyncClient, carrier: str, deadline_seconds: float, method: str, url: str, **request: Any
) -> Answer:
    """Ask a carrier once; `request` is what httpx takes (json, headers, auth, params).

    The deadline is over connecting, sending and reading together, so that a carrier that drips bytes cannot hold a
    request. Raises: ProviderUnavailable where nothing was sent, CallOutcomeUnknown where no whole answer came.
    """
    try:
        async with asyncio.timeout(deadline_seconds), http.stream(method, url, **request) as response:
            content = await _read_bounded(response)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol):
        raise ProviderUnavailable(f"{carrier} could not be reached; nothing was dialled") from None
    except (httpx.HTTPError, TimeoutError):
        raise CallOutcomeUnknown(
            f"{carrier} did not answer in time; the request may have been carried out"
        ) from None
    return Answer(response.status_code, _json(content), response.headers.get("retry-after"))


def refusal(
    answer: Answer,
    carrier: str,
    reasons: Mapping[int, str],
    *,
    code: str = "",
    is_own_error: bool = False,
    is_about_account: bool = False,
) -> ProviderError:
    """The error for an answer that is no success; of its text only `code`, a word checked by the client, is shown.

    `reasons` says for a status what is wrong and what the operator can do about it. `is_own_error` means that the
    carrier's own API says, in the shape of its errors, that it placed no call; any other 5xx may come from a
    gateway that did not wait for an API which goes on. `is_about_account` means that the carrier's own reason says
    that it refuses the account, whatever the status.
    """
    suffix = f" ({answer.status}{' ' + code if code else ''})"
    status = answer.status
    if status == 429:
        seconds = retry_after_seconds(answer.retry_after)
        return ProviderThrottled(reasons.get(429, f"{carrier} allows no more calls now") + suffix, seconds)
    text = reasons.get(status, f"{carrier} refused the request") + suffix
    if status in ACCOUNT_STATUSES or (is_about_account and 400 <= status < 500):
        return AccountRefused(text)
    if 400 <= status < 500 and status != 408:  # a request time-out says nothing about the call
        return CallRejected(text)
    if is_own_error and status >= 500:
        return ProviderUnavailable(reasons.get(status, f"{carrier} is in trouble") + suffix)
    return CallOutcomeUnknown(f"{carrier} failed; the request may have been carried out" + suffix)


def retry_after_seconds(*given: object) -> int:
    """The first of the given values that is a number of seconds, from 1 to 3600; 1 if none is."""
    for value in given:
        if re.fullmatch("[0-9]{1,6}", str(value)):
            return max(1, min(int(str(value)), LONGEST_RETRY_AFTER_SECONDS))
    return 1


async def _read_bounded(response: httpx.Response) -> bytes:
    """The body; nothing at all of one that is too long to be an answer."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            return b""
    return bytes(content)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
