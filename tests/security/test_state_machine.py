"""A2, A3, A4, A6, B1, B2, B3, C3, C6, D4, D6, D10, G6: what holds whatever happens, in whatever order."""

import os
from typing import Any, ClassVar

import pytest
from hypothesis import settings

from clock import Clock
from jobs import MemoryJobs
from number_page import StoreRules
from otp_store import MemoryOtpStore, OtpStore
from redis_clock import SharedClock
from redis_connection import Redis
from redis_guard_store import RedisGuardStore
from redis_link import RedisLimits
from redis_otp_store import RedisOtpStore
from redis_pages import RedisPages
from settings import Settings
from stores import Stores
from tests.conftest import FakeTime
from tests.redis_servers import RedisServer
from tests.security.service_machine import ServiceMachine
from tests.store_cases import SEALER
from tests.store_machine import StoreMachine

pytestmark = pytest.mark.untraced

IS_LONG = bool(os.environ.get("PROVE"))  # `make prove`


class MemoryStoreMachine(StoreMachine):
    def make_store(self, time: FakeTime, rules: StoreRules) -> OtpStore:
        return MemoryOtpStore(SEALER, time.clock, rules)


class TestMemoryStore(MemoryStoreMachine.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    settings = settings(
        derandomize=True, deadline=None, max_examples=2000 if IS_LONG else 150, stateful_step_count=50
    )


class TestService(ServiceMachine.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    settings = settings(
        derandomize=True, deadline=None, max_examples=500 if IS_LONG else 100, stateful_step_count=40
    )


class _OnRedis:
    """For machines: a real server, emptied before each example. After a "restart" another process goes on, which
    knows nothing of what the last one saw, or the one before it again, which knows what is old."""

    forgets_on_restart: ClassVar[bool] = False
    server: ClassVar[RedisServer]
    run: Any

    def _connect(self) -> Redis:
        with self.server.client() as client:
            client.flushall()
        self.redis = Redis(self.server.url, Clock(), RedisLimits(operation_seconds=20, connect_seconds=20))
        self.run(self.redis.open())
        return self.redis

    def _open_store(self, time: FakeTime, rules: StoreRules) -> OtpStore:
        pages = RedisPages(self.redis, SharedClock(self.redis, Clock()))
        pages.use_names(b"names" * 8)
        return RedisOtpStore(self.redis, pages, SEALER, time.clock, rules)

    def teardown(self) -> None:
        self.run(self.redis.close())
        super().teardown()  # type: ignore[misc]  # of the machine


class RedisStoreMachine(_OnRedis, StoreMachine):
    forgets_on_restart = False

    def make_store(self, time: FakeTime, rules: StoreRules) -> OtpStore:
        if not hasattr(self, "idle"):
            self._connect()
            self.idle, self.store = self._open_store(time, rules), self._open_store(time, rules)
        self.store, self.idle = self.idle, self.store
        return self.store


class RedisServiceMachine(_OnRedis, ServiceMachine):
    forgets_on_restart = False

    def make_stores(self, settings: Settings) -> Stores:
        if not hasattr(self, "redis"):
            self._connect()
        clock = self.time.clock
        rules = StoreRules(retention_seconds=settings.status_retention_seconds)
        guard = RedisGuardStore(self.redis, clock, b"guard")
        return Stores(clock, self._open_store(self.time, rules), guard, MemoryJobs(clock))


class TestRedisStore(RedisStoreMachine.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    settings = settings(
        derandomize=True, deadline=None, max_examples=1000 if IS_LONG else 50, stateful_step_count=50
    )

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        RedisStoreMachine.server = redis_server


class TestRedisService(RedisServiceMachine.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    settings = settings(
        derandomize=True, deadline=None, max_examples=200 if IS_LONG else 10, stateful_step_count=40
    )

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        RedisServiceMachine.server = redis_server
