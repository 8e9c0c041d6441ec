"""The store in Redis keeps the contract, and what it promises beyond it, on a real server."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clock import Clock
from number_page import StoreRules
from otp_store import OtpStore
from redis_clock import SharedClock
from redis_connection import Redis
from redis_link import Part
from redis_otp_store import CLAIM_SECONDS, RedisOtpStore
from redis_pages import RedisPages
from tests.conftest import FakeTime
from tests.mode_cases import ModeCases
from tests.redis_servers import RedisServer
from tests.store_cases import CLIENT, NEW_CALL, PHONE, SEALER, StoreCases, new_code
from voice_provider import CallEvent, CallState, EndReason

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
        pages = RedisPages(self.redis, shared)
        pages.use_names(secrets.token_bytes(32))
        return RedisOtpStore(self.redis, pages, SEALER, time.clock, StoreRules(**options))


@pytest.fixture
def stores(redis: Redis, fake_time: FakeTime) -> list[RedisOtpStore]:
    """Those of two processes."""
    pages = RedisPages(redis, SharedClock(redis, Clock()))
    stores = [RedisOtpStore(redis, pages, SEALER, fake_time.clock, StoreRules()) for _ in range(2)]
    for store in stores:
        store.use_names(b"names" * 8)
    return stores


async def test_a_carrier_that_takes_so_many_calls_is_never_given_more_by_all_together(
    stores: list[RedisOtpStore], fake_time: FakeTime
) -> None:
    claims = await asyncio.gather(*(stores[number % 2].claim_live_call("vobiz", 3) for number in range(20)))
    assert claims.count(True) == 3
    for number, store in enumerate((stores[0], stores[1], stores[0])):
        await store.begin(CLIENT, f"+1415555{number:04d}", new_code(), NEW_CALL)
    assert await stores[0].live_calls("vobiz") == 3, "each call took the place that was kept for it"
    fake_time.advance(CLAIM_SECONDS)
    assert await stores[1].live_calls("vobiz") == 3
    assert not await stores[1].claim_live_call("vobiz", 3)


async def test_a_call_whose_first_try_came_too_late_takes_one_place(
    stores: list[RedisOtpStore], fake_time: FakeTime
) -> None:
    here, there = stores
    first = (await here.begin(CLIENT, PHONE, new_code(), NEW_CALL)).record
    await here.fail_call(first.id, 1, EndReason.BUSY, "")
    await there.check(CLIENT, PHONE, "000000")  # what `here` remembers of the number is outdated
    assert [await here.claim_live_call("vobiz", 2) for _ in range(2)] == [True, True]
    await here.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    assert await there.live_calls("vobiz") == 2, "the call, and the place that is kept for another one"
    fake_time.advance(CLAIM_SECONDS)
    assert await there.live_calls("vobiz") == 1


async def test_a_place_that_was_never_used_is_not_redeemed_for_another_one(
    stores: list[RedisOtpStore], fake_time: FakeTime
) -> None:
    here, there = stores
    assert await here.claim_live_call("vobiz", 2), "and then there was nothing to call for"
    fake_time.advance(CLAIM_SECONDS)
    assert await here.claim_live_call("vobiz", 2)
    await here.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    assert await there.live_calls("vobiz") == 1, "the call has the place that was kept for it, and no other"


async def test_a_call_that_ended_elsewhere_is_not_counted_again(
    stores: list[RedisOtpStore], redis: Redis, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = stores
    record = (await here.begin(CLIENT, PHONE, new_code(), NEW_CALL)).record
    call = redis.call

    async def call_late(key: bytes | None, *command: Part) -> Any:
        if command[0] == "ZADD":  # the call ends at another process before this arrives
            monkeypatch.undo()
            await there.fail_call(record.id, 1, EndReason.BUSY, "")
        return await call(key, *command)

    monkeypatch.setattr(redis, "call", call_late)
    await here.record_call_event(record.id, 1, CallEvent("the-carriers-id", CallState.ANSWERED))
    assert await there.live_calls("vobiz") == 0


async def test_what_leads_from_a_carriers_id_to_a_call_goes_with_the_call(
    stores: list[RedisOtpStore], redis: Redis
) -> None:
    here, there = stores
    record = (await here.begin(CLIENT, PHONE, new_code(), NEW_CALL)).record
    await here.name_call(record.id, 1, "the-carriers-id")
    assert await there.find_by_call_id("vobiz", "the-carriers-id") is not None
    assert len(await redis.call(None, "KEYS", "otp:call:*")) == 1
    await there.fail_call(record.id, 1, EndReason.BUSY, "")
    assert await here.find_by_call_id("vobiz", "the-carriers-id") is None
    assert await redis.call(None, "KEYS", "otp:call:*") == []
