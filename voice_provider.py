"""The provider contract: what every carrier client offers, takes, reports and raises.

Errors of an outgoing request are named by what may be done next:

    ProviderError
    ├── CallRejected          the carrier said no and dialled nothing; it would say no to the same request again
    │   └── AccountRefused        ... and to any other: credentials, credit or permission are missing
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

from call_script import CallScript, WholeCall


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


class AccountRefused(CallRejected):
    pass


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"
    retry_after_seconds = 5


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


class MachineDetection(StrEnum):
    """What becomes of a call that a machine answers: nothing else, its end, or no code is told in it."""

    OFF = "off"
    HANGUP = "hangup"
    NO_CODE = "no_code"


@dataclass(frozen=True, slots=True)
class CallUrls:
    """The absolute URLs that a carrier may call for one call; each holds the call token in its path."""

    answer: str = field(repr=False)
    fallback: str = field(repr=False)
    choice: str = field(repr=False)
    hangup: str = field(repr=False)
    ring: str = field(repr=False)
    events: str = field(repr=False)


USUAL_VOICES = ("female", "male")  # which any carrier may have, beside those with names


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a carrier can do; docs/providers.md shows all of them side by side.

    `languages` are BCP 47 tags, the best one of each language first. A carrier that does not fetch what to say is
    told all of it when the call is placed. One that does not report progress tells of a call's end only, or of
    nothing; of one that cannot be asked, nothing else can be known. `silence_is_proof`: it tells of a ringing
    phone at the call's own URL, so a call of which nothing is heard within seconds was not dialled, even if its
    id never came. One that `detects_machines` can end their calls; if it can tell of them instead, it has done
    so `verdict_seconds` after the answer. One that `chooses_voice` has a woman's and a man's, and those of
    `voices` by name. `asks_for_keys`: before the code is told; one that `takes_codes` lets the callee type one.
    `proves_speaking` is False where only talk time can tell whether the code was heard.
    """

    languages: tuple[str, ...]
    fetches_script: bool = True
    reports_progress: bool = True
    silence_is_proof: bool = True
    can_be_asked: bool = True
    hangs_up: bool = True
    detects_machines: bool = False
    verdict_seconds: float = 0
    hides_caller_id: bool = False
    limits_call: bool = True
    chooses_voice: bool = False
    voices: tuple[str, ...] = ()
    plays_audio: bool = False
    proves_speaking: bool = True
    asks_for_keys: bool = True
    takes_codes: bool = True
    tells_alerts: bool = True
    max_replays: int = 3
    callback_methods: tuple[str, ...] = ("POST",)


@dataclass(frozen=True, slots=True)
class CallOrder:
    """Everything that a carrier needs to place one call. Numbers are E.164.

    `reference` names the call in the carrier's own records; it is no secret. `script` is what to say, for carriers
    that do not fetch it. Carriers that cannot tell of a machine end its call also where no code is to be told.
    """

    to: str = field(repr=False)
    from_number: str = field(repr=False)
    urls: CallUrls = field(repr=False)
    ring_timeout_seconds: int
    time_limit_seconds: int
    machine_detection: MachineDetection = MachineDetection.OFF
    hide_caller_id: bool = False
    reference: str = ""
    script: WholeCall | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RawWebhook:
    """A callback as it came in: nothing in it is trusted yet.

    `urls` are our public URLs of the route, without query, any of which the carrier may have been told: scheme and
    host come from PUBLIC_URL and FALLBACK_PUBLIC_URL, never from the request. Header names are lower case; `query`
    is as it was sent, percent-encoded and without question mark.
    """

    urls: tuple[str, ...] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"
    query: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What a carrier told about a call, translated.

    `state` is None where the carrier's word for it is unknown. `end_reason` is None where the carrier reports
    an ordinary end: what was spoken then decides. `talk_seconds` counts from answer to hangup. `was_answered` is
    for carriers that tell so at the end only. `reading` is the number of a reading of the code that was played to
    its end, where the event says so. `is_machine`: an answering machine took the call, and goes on with it.
    `is_without_keys`: the keys that come before the code were not pressed, as a carrier says that was told them.
    """

    call_id: str
    state: CallState | None = None
    end_reason: EndReason | None = None
    hangup_cause: str = ""
    talk_seconds: int | None = None
    digits: str = field(default="", repr=False)
    was_answered: bool = False
    reading: int = 0
    is_machine: bool = False
    is_without_keys: bool = False


class VoiceProvider(Protocol):
    """A carrier. `callback_schema` describes its callbacks for the OpenAPI document.

    One that does not fetch scripts gets no call of `render`, one that cannot be asked none of `look_up` and
    `find_call`, and one that cannot hang up none of `hang_up`.
    """

    name: str
    from_number: str
    capabilities: Capabilities
    callback_schema: Mapping[str, Any]

    async def place_call(self, order: CallOrder) -> str:
        """Ask the carrier to call, once; its call id. Raises: ProviderError."""
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

    def parse_event(self, webhook: RawWebhook, expected: CallState | None) -> CallEvent:
        """Translate a callback. Where it does not say what happened, it is what its route is for.

        `expected` is None on routes that take any event. Raises: WebhookRejected.
        """
        ...

    def render(self, script: CallScript, urls: CallUrls) -> bytes:
        """The script in the carrier's own language, as the body of an answer with type `application/xml`."""
        ...


@dataclass(frozen=True, slots=True)
class Providers:
    """The configured carriers by name, in the order in which they are tried."""

    by_name: Mapping[str, VoiceProvider] = field(default_factory=dict)
