"""Calls that are placed once more by themselves, after a busy or unanswered one."""

import logging
from typing import NamedTuple

from call_log import log_call
from clock import Clock
from jobs import Jobs, Redial
from otp_store import StoreUnavailable
from sms_provider import MessageState
from verification import LEAST_SECONDS_TO_USE_A_CODE, Verification


class RedialPolicy(NamedTuple):
    """After which end reasons, how often, how many seconds after the end, and through whom: same, next or sms."""

    reasons: frozenset[str] = frozenset()
    times: int = 1
    after_seconds: float = 30
    through: str = "next"


class Redials:
    """Which calls are to be placed once more, and when. What is due is looked at again before it is done."""

    def __init__(self, policy: RedialPolicy, jobs: Jobs, clock: Clock) -> None:
        self.policy = policy
        self._jobs = jobs
        self._clock = clock

    async def plan(self, record: Verification) -> None:
        """A call is over: note it if it is to be placed once more while its code can still be used."""
        due_at = self._clock.now() + self.policy.after_seconds
        if not self.is_wanted(record) or due_at + LEAST_SECONDS_TO_USE_A_CODE > record.expires_at:
            return
        assert record.call is not None  # noqa: S101 - it is wanted for its call
        try:
            await self._jobs.plan(Redial(record.id, record.call.number), self.policy.after_seconds)
        except StoreUnavailable as error:  # what the carrier reported stands without it
            log_call(logging.WARNING, f"call not to be placed once more: {error}", record, record.call)

    def is_wanted(self, record: Verification) -> bool:
        call = record.call
        if call is None or call.is_live or call.end_reason is None or record.is_final or _was_texted(record):
            return False
        return call.end_reason.value in self.policy.reasons and record.redials < self.policy.times


def _was_texted(record: Verification) -> bool:
    """Whether a text message took the place of the last call, and may arrive yet."""
    message = record.message
    return record.channel == "sms" and message is not None and message.state is not MessageState.UNDELIVERED
