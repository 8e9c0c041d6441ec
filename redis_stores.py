"""The stores in Redis, put together."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis_checks
from clock import Clock
from log_format import log_unexpected
from number_page import StoreRules
from otp_store import StoreUnavailable
from redis_clock import SYNC_SECONDS, SharedClock
from redis_connection import Redis
from redis_guard_store import RedisGuardStore
from redis_jobs import RedisJobs
from redis_names import LOOK_SECONDS, NameKey
from redis_otp_store import RedisOtpStore
from redis_pages import RedisPages
from sealing import PageSealer, Sealer
from settings import Settings
from stores import Stores

CONNECT_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class RedisStores(Stores):
    redis: Redis
    shared_clock: SharedClock
    names: NameKey

    async def open(self) -> None:
        """With a Redis that is lost just now we start all the same: requests say so until it is back."""
        with contextlib.suppress(StoreUnavailable):
            await self._connect()

    async def _connect(self) -> None:
        if not self.redis.is_open:
            await self.redis.open()
        await self.shared_clock.sync()
        await self.names.load()

    async def keep(self) -> None:
        await asyncio.gather(
            _on_and_on("jobs", self.jobs.work, CONNECT_AGAIN_SECONDS),
            self._connect_at_last(),
            _on_and_on("clock", self.shared_clock.sync, SYNC_SECONDS),
            _on_and_on("names", self.names.load, LOOK_SECONDS),
            _on_and_on(
                "evictions",
                lambda: redis_checks.watch_evictions(self.redis, self.clock),
                CONNECT_AGAIN_SECONDS,
            ),
        )

    async def _connect_at_last(self) -> None:
        """Where Redis was lost at the start; a connection that was up once is kept by itself."""
        while not self.names.are_known:
            await self.clock.sleep(CONNECT_AGAIN_SECONDS)
            with contextlib.suppress(StoreUnavailable):
                await self._connect()

    async def close(self) -> None:
        await self.jobs.close()
        await self.redis.close()


async def _on_and_on(name: str, work: Callable[[], Awaitable[object]], pause_seconds: float) -> None:
    """What is unexpected in one of these must end neither it nor the others."""
    while True:
        try:
            await work()
        except StoreUnavailable:
            pass  # the connection has told of it
        except Exception as error:
            log_unexpected(error, name)
        await asyncio.sleep(pause_seconds)


def open_redis_stores(settings: Settings, clock: Clock, rules: StoreRules, sealer: Sealer) -> RedisStores:
    """Nothing is connected yet."""
    url = settings.redis_url.get_secret_value()
    redis = Redis(url, clock)
    shared_clock = SharedClock(redis, clock)
    clock = Clock(now=shared_clock.now, wall=clock.wall, sleep=clock.sleep)
    pages = RedisPages(redis, shared_clock)
    limited = [name for name in settings.provider_names if settings.of_carrier(name, "concurrent_calls")]
    otp = RedisOtpStore(redis, pages, sealer, clock, rules, limited)
    guard = RedisGuardStore(redis, clock, shared=shared_clock)

    def use_names(key: bytes) -> None:
        otp.use_names(key)
        guard.use_names(key)

    names = NameKey(redis, PageSealer(settings.otp_secrets), use_names)
    return RedisStores(clock, otp, guard, RedisJobs(url), redis, shared_clock, names)


async def check_names(settings: Settings) -> None:
    """Whether what is in Redis was written with our OTP_SECRET. Raises: StoreUnavailable."""
    redis = Redis(settings.redis_url.get_secret_value(), Clock())
    await redis.open()
    try:
        await NameKey(redis, PageSealer(settings.otp_secrets), lambda _: None).load()
    finally:
        await redis.close()
