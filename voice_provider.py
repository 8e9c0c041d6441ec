"""The provider contract: what every carrier client offers, takes, reports and raises.

Errors of an outgoing request are named by what may be done next:

    ProviderError
    ├── CallRejected          the carrier said no and dialled nothing; the same request would fail again
    ├── ProviderUnavailable   nothing was dialled; another carrier, or this one later, may be tried
    │   └── ProviderThrottled     ... after `retry_after_seconds`
    └── CallOutcomeUnknown    the request may have been carried out: wait for a callback or look the call up,
                              never place a second call

    WebhookRejected           a callback is not authentic, or not well-formed
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from call_script import CallScript


class CallState(StrEnum):
    """Where a call is. The order of the members is the only direction in which a call moves."""

    QUEUED = "queued"
    DIALING = "dialing"
    RINGING = "ringing"
    ANSWERED = "answered"
    COMPLETED = "completed"


class EndReason(StrEnum):
    """Why a call ended. The carrier's own word is kept beside it as the hangup cause."""

    ANSWERED_AND_SPOKEN = "answered_and_spoken"
    HUNG_UP_EARLY = "hung_up_early"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    REJECTED = "rejected"
    VOICEMAIL = "voicemail"
    NO_KEYPRESS = "no_keypress"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class ProviderError(Exception):
    """Base of everything that goes wrong when a carrier is asked for something."""

    code: ClassVar[str] = "provider_error"


class CallRejected(ProviderError):
    code = "call_rejected"


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"


class ProviderThrottled(ProviderUnavailable):
    code = "provider_throttled"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class CallOutcomeUnknown(ProviderError):
    code = "call_outcome_unknown"


class WebhookRejected(Exception):
    """A callback that must change nothing and learn nothing. `status` is the HTTP status to refuse it with."""

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


class SignaturePolicy(StrEnum):
    """What to do with a callback that carries no signature. A wrong one is always refused."""

    WHEN_PRESENT = "when_present"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class CallUrls:
    """The absolute URLs that a carrier may call for one call; each holds the call token in its path."""

    answer: str
    fallback: str
    choice: str
    hangup: str
    ring: str


@dataclass(frozen=True, slots=True)
class CallOrder:
    """Everything that a carrier needs to place one call. Numbers are E.164."""

    to: str
    from_number: str
    urls: CallUrls
    ring_timeout_seconds: int
    time_limit_seconds: int
    hang_up_on_machine: bool = False


@dataclass(frozen=True, slots=True)
class RawWebhook:
    """A callback as it came in: nothing in it is trusted yet.

    `urls` are our public URLs of the route, without query, any of which the carrier may have been told: scheme and
    host come from PUBLIC_URL and FALLBACK_PUBLIC_URL, never from the request. Header names are lower case.
    """

    urls: tuple[str, ...]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What a carrier told about a call, translated.

    `state` is None where the carrier's word for it is unknown. `end_reason` is None where the carrier reports
    an ordinary end: what was spoken then decides. `talk_seconds` counts from answer to hangup.
    """

    call_id: str
    state: CallState | None = None
    end_reason: EndReason | None = None
    hangup_cause: str = ""
    talk_seconds: int | None = None
    digits: str = ""


class VoiceProvider(Protocol):
    """A carrier.

    `languages` are the BCP 47 tags that it can speak, best one of each language first; `callback_schema` describes
    its callbacks for the OpenAPI document.
    """

    name: str
    from_number: str
    languages: tuple[str, ...]
    callback_schema: Mapping[str, Any]

    async def place_call(self, order: CallOrder) -> str:
        """Ask the carrier to call; its call id. Raises: ProviderError."""
        ...

    async def hang_up(self, call_id: str) -> bool:
        """End a call; False when the carrier no longer knows it as live. Raises: ProviderError."""
        ...

    async def look_up(self, call_id: str) -> CallEvent | None:
        """What the carrier knows of a call now; None when it does not know it. Raises: ProviderError."""
        ...

    async def find_call(self, to: str, placed_after: float) -> CallEvent | None:
        """A call to a number whose id is not known, and what became of it; None when there is none.

        `placed_after` is Unix time. Raises: ProviderError.
        """
        ...

    def check_webhook(self, webhook: RawWebhook, *, must_be_signed: bool = False) -> str | None:
        """Check the signature of a callback; its nonce, or None for an unsigned one that the policy lets pass.

        `must_be_signed` overrides such a policy.
        Raises: WebhookRejected.
        """
        ...

    def parse_event(self, webhook: RawWebhook, expected: CallState) -> CallEvent:
        """Translate a callback. Where it does not say what happened, it is what its route is for.

        Raises: WebhookRejected.
        """
        ...

    def render(self, script: CallScript, urls: CallUrls) -> bytes:
        """The script in the carrier's own language, as the body of an answer with type `application/xml`."""
        ...


@dataclass(frozen=True, slots=True)
class Providers:
    """The configured carriers by name; the first one is used unless a request pins another."""

    by_name: Mapping[str, VoiceProvider] = field(default_factory=dict)

    @property
    def default(self) -> VoiceProvider:
        return next(iter(self.by_name.values()))
