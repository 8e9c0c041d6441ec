"""The stores in Redis, put together."""

import asyncio
import contextlib
from dataclasses import dataclass

import redis_checks
from clock import Clock
from number_page import StoreRules
from otp_store import StoreUnavailable
from redis_clock import SharedClock
from redis_connection import Redis
from redis_guard_store import RedisGuardStore
from redis_jobs import RedisJobs
from redis_otp_store import RedisOtpStore
from redis_pages import RedisPages
from sealing import PageSealer, Sealer, derive_key
from settings import Settings
from stores import Stores


@dataclass(frozen=True, slots=True)
class RedisStores(Stores):
    redis: Redis
    shared_clock: SharedClock

    async def open(self) -> None:
        """With a Redis that is lost just now we start all the same: requests say so until it is back."""
        with contextlib.suppress(StoreUnavailable):
            await self.redis.open()
            await self.shared_clock.sync()

    async def keep(self) -> None:
        watch = redis_checks.watch_evictions(self.redis, self.clock)
        await asyncio.gather(self.jobs.work(), self.shared_clock.keep_in_sync(), watch)

    async def close(self) -> None:
        await self.redis.close()


def open_redis_stores(settings: Settings, clock: Clock, rules: StoreRules, sealer: Sealer) -> RedisStores:
    """Nothing is connected yet."""
    url = settings.redis_url.get_secret_value()
    redis = Redis(url, clock)
    shared_clock = SharedClock(redis, clock)
    clock = Clock(now=shared_clock.now, wall=clock.wall, sleep=clock.sleep)
    pages = RedisPages(redis, shared_clock, PageSealer(settings.otp_secrets))
    otp = RedisOtpStore(redis, pages, sealer, clock, rules)
    # The older secret while one is replaced, so that what was counted still counts.
    guard_key = derive_key(settings.otp_secrets[-1], b"guard store")
    return RedisStores(clock, otp, RedisGuardStore(redis, clock, guard_key), RedisJobs(url), redis, shared_clock)
