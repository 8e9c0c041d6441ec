"""What the service remembers and still has to do: in one process, or shared by many through Redis."""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import redis_checks
from clock import Clock
from guard_store import GuardStore, MemoryGuardStore
from jobs import Jobs, MemoryJobs
from number_page import StoreRules
from otp_store import MemoryOtpStore, OtpStore, StoreUnavailable
from redis_clock import SharedClock
from redis_connection import Redis
from redis_guard_store import RedisGuardStore
from redis_jobs import RedisJobs
from redis_otp_store import RedisOtpStore
from redis_pages import RedisPages
from sealing import PageSealer, Sealer, derive_key
from settings import ResendCode, Settings

CONNECT_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Stores:
    """`clock` is the one by which lifetimes are told in them."""

    clock: Clock
    otp: OtpStore
    guard: GuardStore
    jobs: Jobs
    redis: Redis | None = None
    shared_clock: SharedClock | None = None

    async def open(self) -> None:
        """Connect. With a Redis that is lost just now we start all the same: requests say so until it is back."""
        with contextlib.suppress(StoreUnavailable):
            await self._connect()

    async def _connect(self) -> None:
        if self.redis is not None and self.shared_clock is not None:
            await self.redis.open()
            await self.shared_clock.sync()

    async def keep(self) -> None:
        """What has to go on all the time; runs until it is cancelled."""
        tasks: list[Coroutine[Any, Any, None]] = [self.jobs.work()]
        if self.redis is not None and self.shared_clock is not None:
            tasks += [
                self._connect_at_last(self.redis),
                self.shared_clock.keep_in_sync(),
                redis_checks.watch_evictions(self.redis, self.clock),
            ]
        await asyncio.gather(*tasks)

    async def _connect_at_last(self, redis: Redis) -> None:
        """Where Redis was lost at the start; a connection that was up once is kept by itself."""
        while not redis.is_open:
            await self.clock.sleep(CONNECT_AGAIN_SECONDS)
            with contextlib.suppress(StoreUnavailable):
                await self._connect()

    async def close(self) -> None:
        await self.jobs.close()
        if self.redis is not None:
            await self.redis.close()


def open_stores(settings: Settings, clock: Clock) -> Stores:
    """In Redis where REDIS_URL says so. Nothing is connected yet."""
    rules = StoreRules(
        max_attempts=settings.max_attempts,
        max_failures_per_number=settings.max_failures_per_number,
        replace_code_on_resend=settings.resend_code is ResendCode.NEW,
        retention_seconds=settings.status_retention_seconds,
        capacity=settings.store_capacity,
    )
    sealer = Sealer(settings.otp_secrets)
    url = settings.redis_url.get_secret_value()
    if not url:
        guard = MemoryGuardStore(clock, 2 * settings.store_capacity)  # a call counts for its number and prefix
        return Stores(clock, MemoryOtpStore(sealer, clock, rules), guard, MemoryJobs(clock))
    redis = Redis(url, clock)
    shared_clock = SharedClock(redis, clock)
    clock = Clock(now=shared_clock.now, wall=clock.wall, sleep=clock.sleep)
    pages = RedisPages(redis, shared_clock, PageSealer(settings.otp_secrets))
    otp = RedisOtpStore(redis, pages, sealer, clock, rules)
    # The older secret while one is replaced, so that what was counted still counts.
    guard_key = derive_key(settings.otp_secrets[-1], b"guard store")
    guard_store = RedisGuardStore(redis, clock, guard_key, shared_clock)
    return Stores(clock, otp, guard_store, RedisJobs(url), redis, shared_clock)
