"""Calls that are placed once more by themselves, after a busy or unanswered one."""

from typing import NamedTuple

from clock import Clock
from sms_provider import MessageState
from timer_wheel import TimerWheel
from verification import CallRef, Verification

MAX_AT_ONCE = 100
LEAST_SECONDS_TO_USE_A_CODE = 30


class RedialPolicy(NamedTuple):
    """After which end reasons, how often, how many seconds after the end, and through whom: same, next or sms."""

    reasons: frozenset[str] = frozenset()
    times: int = 1
    after_seconds: float = 30
    through: str = "next"


class Redials:
    """Which calls are to be placed once more, and when. What is due is looked at again before it is done."""

    def __init__(self, policy: RedialPolicy, clock: Clock) -> None:
        self.policy = policy
        self._clock = clock
        self._due: TimerWheel[CallRef] = TimerWheel()

    def plan(self, record: Verification) -> None:
        """A call is over: note it if it is to be placed once more while its code can still be used."""
        due_at = self._clock.now() + self.policy.after_seconds
        if self.is_wanted(record) and due_at + LEAST_SECONDS_TO_USE_A_CODE <= record.expires_at:
            assert record.call is not None  # noqa: S101 - it is wanted for its call
            self._due.add(due_at, CallRef(record.id, record.call.number))

    def is_wanted(self, record: Verification) -> bool:
        call = record.call
        if call is None or call.is_live or call.end_reason is None or record.is_final or _was_texted(record):
            return False
        return call.end_reason.value in self.policy.reasons and record.redials < self.policy.times

    def take_due(self) -> list[CallRef]:
        return self._due.take(self._clock.now(), MAX_AT_ONCE)


def _was_texted(record: Verification) -> bool:
    """Whether a text message took the place of the last call, and may arrive yet."""
    message = record.message
    return record.channel == "sms" and message is not None and message.state is not MessageState.UNDELIVERED
