"""The service, but it dies at a named point, or lives later: nothing of it is known to the service itself.

CRASH_AT is the name of one of POINTS. With SECONDS_AHEAD its clock is as far ahead, so that what takes that long
is over. Jobs come due at once, and a worker that died is missed after a second.
"""

import os
import signal
import sys
from typing import Any, NamedTuple

import redis_jobs
import server
from call_placer import CallPlacer
from dialer import Dialer
from jobs import Job
from otp_service import OtpService
from redialer import Redialer
from redis_clock import SharedClock
from redis_jobs import RedisJobs
from redis_otp_store import RedisOtpStore
from vobiz_client import VobizClient


class Point(NamedTuple):
    """Before or after a step."""

    owner: type
    step: str
    is_after: bool = False


POINTS = {
    "before the intent is kept": Point(RedisOtpStore, "begin"),
    "after the intent is kept": Point(RedisOtpStore, "begin", is_after=True),
    "before the request": Point(VobizClient, "place_call"),
    "after the carrier's answer": Point(VobizClient, "place_call", is_after=True),
    "after the call's id is kept": Point(RedisOtpStore, "name_call", is_after=True),
    "before the answer to the backend": Point(OtpService, "send", is_after=True),
    "before a failover is kept": Point(RedisOtpStore, "next_call"),
    "after a failover is kept": Point(RedisOtpStore, "next_call", is_after=True),
    "before a queued call's job": Point(RedisJobs, "plan"),
    "while a queued call waits": Point(Dialer, "wait_for_turn"),
    "after a queued call's turn": Point(RedisOtpStore, "dial_queued", is_after=True),
    "before a redial": Point(Redialer, "redial"),
    "before a redial is kept": Point(RedisOtpStore, "next_call"),
    "after a redial is kept": Point(RedisOtpStore, "next_call", is_after=True),
    "before a redial's request": Point(CallPlacer, "_dial_apart"),
}


def crash_at(point: Point) -> None:
    step = getattr(point.owner, point.step)

    async def crashing(*args: Any, **options: Any) -> None:
        if point.is_after:
            await step(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    def crashing_at_once(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(point.owner, point.step, crashing_at_once if point.step == "_dial_apart" else crashing)


def live_later(seconds: float) -> None:
    now = SharedClock.now
    setattr(SharedClock, "now", lambda clock: now(clock) + seconds)  # noqa: B010 - mypy lets no method be assigned


def hurry() -> None:
    plan = RedisJobs.plan

    async def plan_soon(jobs: RedisJobs, job: Job, after_seconds: float = 0) -> None:
        await plan(jobs, job)

    setattr(RedisJobs, "plan", plan_soon)  # noqa: B010 - as above
    redis_jobs.DEAD_AFTER_SECONDS, redis_jobs.BEAT_SECONDS = 1, 0.2  # type: ignore[assignment]  # whole numbers there


if __name__ == "__main__":
    hurry()
    if point := os.environ.get("CRASH_AT"):
        crash_at(POINTS[point])
    live_later(float(os.environ.get("SECONDS_AHEAD", "0")))
    sys.exit(server.main())
