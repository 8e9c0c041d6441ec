"""The record of one verification. It never changes in place: `verification_rules` makes the next one of it."""

import re
import secrets
import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import msgspec

from call_script import Manner
from sms_provider import MessageState
from voice_provider import CallState, EndReason

VERIFICATION_ID = re.compile(r"vrf_[0-9a-f]{32}")


def draw_code(length: int) -> str:
    """A uniformly random code of decimal digits; leading zeros are part of it."""
    return f"{secrets.randbelow(10**length):0{length}d}"


def short_id(verification_id: str) -> str:
    """What a log line may say of an id: enough to find it again, too little to use it."""
    return verification_id[:16]


class CallRef(NamedTuple):
    """One call of one verification: what a call token stands for."""

    verification_id: str
    number: int


class MessageRef(NamedTuple):
    """One text message of one verification: what a message token stands for."""

    verification_id: str
    number: int


class Mode(StrEnum):
    """What a call is for: to tell a code, to have one typed on the phone, or to tell something else."""

    SPEAK = "speak"
    KEYPAD = "keypad"
    ALERT = "alert"


class Status(StrEnum):
    PENDING = "pending"
    CALLING = "calling"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    VERIFIED = "verified"
    EXPIRED = "expired"
    LOCKED = "locked"
    CANCELLED = "cancelled"


FINAL = frozenset({Status.VERIFIED, Status.EXPIRED, Status.LOCKED, Status.CANCELLED})

# A timeline keeps the index of a name, so new names go to the end.
_EVENT_NAMES = (
    "created", "dialing", "ringing", "answered", "code_requested", "code_spoken", "wrong_key", "completed",
    "wrong_code", "code_replaced", "verified", "expired", "locked", "cancelled",
    "queued", "failed_over", "redialing", "code_handed_over",
    "message_queued", "message_sent", "message_delivered", "message_undelivered",
    "machine_detected", "keys_pressed", "wrong_keys", "code_asked_for", "acknowledged",
)  # fmt: skip
_EVENT_NUMBERS = {name: number for number, name in enumerate(_EVENT_NAMES)}
_TIMELINE_ENTRY = struct.Struct("<BI")  # which event, and milliseconds since the creation: 5 bytes
MAX_TIMELINE_ENTRIES = 24

# A carrier repeats a request that it got no answer to, three times at the most; documented for Vobiz.
MAX_FETCHES_PER_READING = 3

# How often keys are asked for in a call: before a code is told, or for a code that is typed on the phone.
KEY_TRIES = 2

# A redial that leaves less than this of a code's life is of no use.
LEAST_SECONDS_TO_USE_A_CODE = 30

# Requests that are known again: few are sent while one of them lasts.
MARKS_KEPT, MARKS_KEPT_SECONDS = 4, 24 * 3600

# A carrier may still report, and repeat its reports, for this long after a call has ended.
TOKEN_GRACE_SECONDS = 60

# How long the carrier may stay silent in each state beyond what the call was given, before we ask it.
NEWS_GRACE_SECONDS = 15


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call of a verification. Times are seconds of the store's clock; durations are seconds.

    A pinned call was asked for through this carrier. `queue_seconds` is how long it may wait for its turn. A
    carrier that does not report progress is silent until the call has ended.
    `readings` is the highest reading of the code that the carrier fetched, `fetches` how often it fetched that
    one, `times_spoken` the highest reading that was played to its end. Readings only grow, which absorbs repeated
    and late callbacks. `key_tries` is how often keys were waited for to their end, or to the timeout. Stores keep
    fields by their position: new ones come last.
    """

    number: int
    provider: str
    from_number: str
    manner: Manner
    started_at: float
    overdue_at: float
    ring_timeout_seconds: int
    time_limit_seconds: int
    first_reading_seconds: float
    code_length: int = 6
    hide_caller_id: bool = False
    is_pinned: bool = False
    queue_seconds: float = 0
    reports_progress: bool = True
    state: CallState = CallState.DIALING
    call_id: str = ""
    end_reason: EndReason | None = None
    hangup_cause: str = ""
    ring_seconds: int | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    talk_seconds: int | None = None
    readings: int = 0
    fetches: int = 0
    times_spoken: int = 0
    wrong_keys: int = 0
    silences: int = 0
    key_tries: int = 0
    is_unlocked: bool = False
    is_machine: bool = False
    was_looked_up: bool = False
    has_typed: bool = False

    @property
    def language(self) -> str:
        return self.manner.language

    @property
    def is_locked(self) -> bool:
        """Whether keys have to be pressed before anything is told."""
        return self.manner.keys_first > 0 and not self.is_unlocked

    @property
    def is_live(self) -> bool:
        return self.state is not CallState.COMPLETED

    def takes_callbacks(self, now: float) -> bool:
        """Whether its token is still good."""
        return self.ended_at is None or now < self.ended_at + TOKEN_GRACE_SECONDS


class NewMessage(msgspec.Struct, frozen=True):
    """What a text message is sent with."""

    provider: str
    from_number: str
    language: str


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest text message of a verification. `started_at` is in seconds of the store's clock."""

    provider: str
    from_number: str
    language: str
    started_at: float
    number: int = 1
    state: MessageState = MessageState.QUEUED
    message_id: str = ""
    cause: str = ""


class Verification(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A code on its way to one phone, for one client. `sealed_code` is empty once it can no longer be right.

    An alert is kept as a code is, with its values in the place of one; it ends once they are erased.
    `last_attempt` is a mark of the last check, by which it is known again when it comes twice.
    `over_at` is when nothing could happen any more. `given_up` are calls of which nothing was heard before another
    carrier was tried; one that turns up is ended. `requests` are marks of those that began
    a call. Kept in stores by position: new fields go to the end.
    """

    id: str
    client: str
    phone: str
    sealed_code: bytes
    created_at: float
    created_wall: float
    expires_at: float
    max_attempts: int
    attempts_left: int
    mode: Mode = Mode.SPEAK
    reference: str | None = None
    status: Status = Status.PENDING
    call: Call | None = None
    packed_timeline: bytes = b""
    given_up: tuple[Call, ...] = ()
    redials: int = 0
    message: Message | None = None
    over_at: float | None = None
    last_attempt: bytes = b""
    requests: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"Verification({short_id(self.id)}, {self.status})"

    @property
    def is_final(self) -> bool:
        return self.status in FINAL or not self.sealed_code

    def is_begun_by(self, mark: bytes, now: float) -> bool:
        """Whether this request has begun a call of late, which may have been dialled."""
        call = self.call
        if call is None or now >= self.created_at + MARKS_KEPT_SECONDS:
            return False
        is_undialled = call.end_reason is EndReason.FAILED and not call.call_id
        return mark in self.requests and not is_undialled

    @property
    def is_over(self) -> bool:
        """Whether nothing can happen any more: a code that has ended may still have a phone ringing."""
        return self.is_final and self.live_call is None

    @property
    def live_call(self) -> Call | None:
        return self.call if self.call is not None and self.call.is_live else None

    @property
    def is_acknowledged(self) -> bool:
        """Whether an alert was told for certain: nothing else erases it before its time."""
        return self.mode is Mode.ALERT and self.has("acknowledged")

    def has(self, event: str) -> bool:
        """Whether the timeline has an event of this name."""
        return any(entry.event == event for entry in self.timeline())

    @property
    def channel(self) -> str:
        """By which the code was sent last: `voice` or `sms`."""
        if self.message is None:
            return "voice"
        return "sms" if self.call is None or self.message.started_at >= self.call.started_at else "voice"

    def timeline_with(self, event: str, now: float) -> bytes:
        """The packed timeline with one more event, if there is room."""
        if len(self.packed_timeline) >= MAX_TIMELINE_ENTRIES * _TIMELINE_ENTRY.size:
            return self.packed_timeline
        return self.packed_timeline + _TIMELINE_ENTRY.pack(
            _EVENT_NUMBERS[event], int((now - self.created_at) * 1000)
        )

    def timeline(self) -> Iterator["TimelineEntry"]:
        for number, milliseconds in _TIMELINE_ENTRY.iter_unpack(self.packed_timeline):
            yield TimelineEntry(self.created_wall + milliseconds / 1000, _EVENT_NAMES[number])


class TimelineEntry(NamedTuple):
    at: float
    """Unix seconds."""
    event: str


class NewCall(msgspec.Struct, frozen=True):
    """What a call is placed with."""

    provider: str
    from_number: str
    manner: Manner
    ring_timeout_seconds: int
    time_limit_seconds: int
    first_reading_seconds: float
    code_length: int = 6
    hide_caller_id: bool = False
    is_pinned: bool = False
    queue_seconds: float = 0
    reports_progress: bool = True
