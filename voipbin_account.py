"""What VoIPBin's calls and text messages share: the account, requests to its API, their errors, signed events.

Sources of the protocol facts. *Documented*: https://api.voipbin.net/docs/ (restful_api_errors, call, flow,
message, outbound_config). *Source*: read in the public code that serves the API,
https://github.com/voipbin/monorepo, as it stood in August 2026. Nothing was seen on a live account;
docs/voipbin.md says where documents and code disagree.
"""

import hmac
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import httpx

from callback_bodies import json_of
from carrier_request import Answer, ask, refusal
from voice_provider import CallRejected, ProviderError, RawWebhook, SignaturePolicy, WebhookRejected

logger = logging.getLogger(__name__)

SIGNATURE_HEADER = "x-voipbin-signature"
# Source: between the API's gateway and the service that dials, a request is given up after 3 s, which the gateway
# reports as INTERNAL like any other error without a name. The service goes on.
GATEWAY_PATIENCE_SECONDS = 3.0
# Answers to a question about something that exists no more; documented, 409 for what was deleted.
GONE = frozenset({404, 409})

_REASON = re.compile(r"[A-Z_]{1,40}")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_NIL_ID = "00000000-0000-0000-0000-000000000000"  # documented: stands for an id that is not set


@dataclass(frozen=True, slots=True)
class VoipbinConfig:
    """`webhook_secret` is the account's own, shown by `GET /v1.0/customer`; without it no event can be checked."""

    access_key: str = field(repr=False)
    from_number: str = field(repr=False)
    api_url: str
    webhook_secret: str = field(default="", repr=False)
    signature_policy: SignaturePolicy = SignaturePolicy.WHEN_PRESENT
    request_deadline_seconds: float = 10


class Event(NamedTuple):
    """An event of the account. Its data may hold codes and numbers, and is never logged."""

    type: str
    data: Mapping[str, Any]


class VoipbinAccount:
    """Requests in the name of an account, and the check of its events."""

    def __init__(
        self, config: VoipbinConfig, http: httpx.AsyncClient, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._http = http
        self._now = now
        self._api_url = config.api_url.rstrip("/")
        # Source: a Bearer header is read as a login's JWT and hides the access key; a query ends up in logs.
        self._credentials = {"Cookie": f"accesskey={config.access_key}"}
        self._has_warned = False
        self._mac = hmac.new(config.webhook_secret.encode(), digestmod=sha256)

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        gone: Collection[int] = (),
        internal: str = "",
    ) -> Answer:
        """Ask once. An answer with a status in `gone` comes back like one that is a success.

        `internal` says what the operator can check where the API does not say what is wrong; without it, nothing
        was to be dialled or sent.
        Raises: ProviderError.
        """
        asked_at = self._now()
        answer = await ask(
            self._http,
            "VoIPBin",
            self._config.request_deadline_seconds,
            method,
            self._api_url + path,
            json=body,
            headers=self._credentials,
        )
        if answer.is_success or answer.status in gone:
            return answer
        raise _error_of(answer, self._now() - asked_at, internal)

    def check_signature(self, webhook: RawWebhook, *, must_be_signed: bool) -> None:
        """Check `sha256=` and the hex HMAC-SHA256 of the raw body under the webhook secret.

        Source: bin-webhook-manager; it signs the account's events and those that a call's `webhook_send` sends,
        once the account has a secret. No time and no nonce is signed.
        Raises: WebhookRejected.
        """
        given = webhook.headers.get(SIGNATURE_HEADER)
        is_strict = must_be_signed or self._config.signature_policy is SignaturePolicy.REQUIRED
        if not self._config.webhook_secret:
            if is_strict:
                raise WebhookRejected("VoIPBin event cannot be checked: VOIPBIN_WEBHOOK_SECRET is not set")
            self._warn("VOIPBIN_WEBHOOK_SECRET is not set")
        elif given is None:
            if is_strict:
                raise WebhookRejected("VoIPBin event is not signed: give the account a webhook secret")
            self._warn("they come unsigned")
        elif not hmac.compare_digest(given.encode(), self._signature(webhook.body).encode()):
            raise WebhookRejected("VoIPBin event has a wrong signature: check VOIPBIN_WEBHOOK_SECRET")

    def _signature(self, body: bytes) -> str:
        mac = self._mac.copy()
        mac.update(body)
        return f"sha256={mac.hexdigest()}"

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("VoIPBin events are not checked, as %s; their call tokens let them in", why)


def event_of(webhook: RawWebhook) -> Event:
    """The event in a webhook: `{"type": ..., "data": {...}}` (documented). Raises: WebhookRejected."""
    document = json_of(webhook.body, "VoIPBin")
    kind, data = document.get("type"), document.get("data")
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise WebhookRejected("VoIPBin event has no type, or no data", status=400)
    return Event(kind, data)


def id_of(resource: object, name: str = "id") -> str:
    """An id in a resource; empty where there is none that could be one."""
    value = resource.get(name) if isinstance(resource, dict) else None
    return value if isinstance(value, str) and _ID.fullmatch(value) and value != _NIL_ID else ""


def tel(number: str) -> dict[str, str]:
    """A telephone number as an address (documented: E.164 with plus sign)."""
    return {"type": "tel", "target": number}


# What is wrong, and what the operator can do about it. Documented: the reasons, on restful_api_errors; source:
# which of them a request for a call or a message meets.
_BY_REASON = {
    "IDENTITY_VERIFICATION_REQUIRED": "VoIPBin has not verified the account's identity: ask its support to do so",
    "PERMISSION_DENIED": "this VoIPBin access key may not do this: its user must be customer admin or manager",
    "ACCOUNT_FROZEN": "the VoIPBin account is frozen: ask VoIPBin's support",
    "INSUFFICIENT_BALANCE": "the VoIPBin account has too little balance: top it up in the console",
    "INVALID_ACTION_TYPE": "VoIPBin does not know an action that calls are made of",
    "INVALID_VARIABLES": "VoIPBin refused the variables of the request",
}
# Whatever the destination is, these refuse it.
_ACCOUNT_REASONS = frozenset({"IDENTITY_VERIFICATION_REQUIRED", "PERMISSION_DENIED", "ACCOUNT_FROZEN"})
_BY_STATUS = {
    400: "VoIPBin found the request malformed: check VOIPBIN_FROM_NUMBER",
    401: "VoIPBin refused the access key: check VOIPBIN_ACCESS_KEY, and whether it has expired",
    402: _BY_REASON["INSUFFICIENT_BALANCE"],
    403: "VoIPBin does not allow this",
    404: "VoIPBin does not know this path: check VOIPBIN_API_URL, which ends in /v1.0",
    429: "VoIPBin allows no more requests now",
}
# With these the API says that it could not do what it was asked for; REQUEST_TIMEOUT and REQUEST_CANCELED say that
# it did not wait for the end.
_FAILED_REASONS = frozenset({"INTERNAL", "SERVICE_UNAVAILABLE"})


def _error_of(answer: Answer, seconds: float, internal: str) -> ProviderError:
    """The error for an answer that is no success, which came after so many seconds.

    Source: every precondition of a call but identity and permission fails as a nameless 500 INTERNAL; so does a
    service behind the gateway that takes more than 3 s, and may have dialled. A country off the whitelist is among
    the preconditions, so the nameless error is taken for a refusal of this destination, not for trouble of VoIPBin's.
    """
    error = answer.body.get("error")
    reason = error.get("reason") if isinstance(error, dict) else None
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        reason = ""
    known = _BY_REASON.get(reason) or _BY_STATUS.get(answer.status)
    is_own_error = reason in _FAILED_REASONS and seconds < GATEWAY_PATIENCE_SECONDS
    if is_own_error and reason == "INTERNAL" and internal:
        return CallRejected(f"{internal} ({answer.status} {reason})")
    reasons = {answer.status: known} if known else {}
    return refusal(
        answer,
        "VoIPBin",
        reasons,
        code=reason,
        is_own_error=is_own_error,
        is_about_account=reason in _ACCOUNT_REASONS,
    )
