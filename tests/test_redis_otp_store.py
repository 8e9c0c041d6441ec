"""The store in Redis keeps the contract, and what it promises beyond it, on a real server."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clock import Clock
from number_page import StoreRules
from otp_store import OtpStore
from redis_clock import SharedClock
from redis_connection import Redis
from redis_otp_store import RedisOtpStore
from redis_pages import RedisPages
from sealing import PageSealer
from tests.conftest import FakeTime
from tests.mode_cases import ModeCases
from tests.redis_servers import RedisServer
from tests.store_cases import SEALER, StoreCases

SECRET = "a secret that is only used in tests"


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    redis = Redis(redis_server.url, Clock())
    await redis.open()
    yield redis
    await redis.close()


class TestRedisOtpStore(StoreCases, ModeCases):
    @pytest.fixture(autouse=True)
    def _connect(self, redis: Redis) -> None:
        self.redis = redis

    def make_store(self, time: FakeTime, **options: Any) -> OtpStore:
        shared = SharedClock(self.redis, Clock())
        pages = RedisPages(self.redis, shared, PageSealer([SECRET]))
        pages.use_names(secrets.token_bytes(32))
        return RedisOtpStore(self.redis, pages, SEALER, time.clock, StoreRules(**options))
