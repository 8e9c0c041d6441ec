"""A carrier's trouble, shared by the workers that share a guard store: in memory, and in Redis."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from carrier_line import REFRESH_SECONDS, CarrierLine, LineLimits, LineState
from carrier_trouble import FAILURES_TO_OPEN, OPEN_SECONDS
from clock import Clock
from guard_store import GuardStore, MemoryGuardStore
from limit_rules import Reservation
from otp_store import StoreUnavailable
from redis_connection import Redis
from redis_guard_store import RedisGuardStore
from redis_link import RedisLimits
from tests.conftest import FakeTime
from tests.redis_servers import RedisServer
from tests.test_carrier_line import UNAVAILABLE, LiveCalls
from voice_provider import ProviderThrottled


@pytest.fixture(params=["memory", "redis"])
async def store(
    request: pytest.FixtureRequest, fake_time: FakeTime, redis_server: RedisServer
) -> AsyncIterator[GuardStore]:
    if request.param == "memory":
        yield MemoryGuardStore(fake_time.clock, 1000)
        return
    redis = Redis(redis_server.url, Clock(), RedisLimits(operation_seconds=20, connect_seconds=20))
    await redis.open()
    yield RedisGuardStore(redis, fake_time.clock, b"key")
    await redis.close()


def lines(store: GuardStore, time: FakeTime, count: int = 2) -> list[CarrierLine]:
    """The same carrier in several workers."""
    calls: Any = LiveCalls()
    return [CarrierLine("vobiz", LineLimits(), calls, store, time.clock) for _ in range(count)]


async def fail(line: CarrierLine) -> None:
    line.note_failure(UNAVAILABLE)
    await line.told()


async def succeed(line: CarrierLine) -> None:
    line.note_success()
    await line.told()


async def gives_turns(line: CarrierLine) -> bool:
    """Whether a call gets through; it is over at once, and tells nothing."""
    turn = await line.take_turn()
    if turn is not None:
        await line.give_back(turn)
        await line.told()
    return turn is not None


async def go_down(workers: list[CarrierLine], time: FakeTime) -> None:
    for index in range(FAILURES_TO_OPEN):
        await fail(workers[index % len(workers)])
    time.advance(REFRESH_SECONDS)


async def test_five_failures_over_all_workers_take_a_carrier_down_for_all(
    store: GuardStore, fake_time: FakeTime
) -> None:
    workers = lines(store, fake_time, 3)
    for index in range(FAILURES_TO_OPEN - 1):
        await fail(workers[index % 2])
    assert [await gives_turns(line) for line in workers] == [True] * 3
    await fail(workers[0])
    assert not await gives_turns(workers[0])
    fake_time.advance(REFRESH_SECONDS)
    assert [await gives_turns(line) for line in workers] == [False] * 3
    assert {line.health().state for line in workers} == {LineState.DOWN}
    assert {line.health().retry_after_seconds for line in workers} == {OPEN_SECONDS - REFRESH_SECONDS}


async def test_a_success_of_any_worker_ends_the_count(store: GuardStore, fake_time: FakeTime) -> None:
    one, other = lines(store, fake_time)
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            await fail(one)
        fake_time.advance(REFRESH_SECONDS)
        assert await gives_turns(other)
        await succeed(other)
        one.breaker.succeed()  # what it counts for itself
    assert await gives_turns(one)


async def test_one_worker_probes_and_its_success_is_everybodys(store: GuardStore, fake_time: FakeTime) -> None:
    workers = lines(store, fake_time, 4)
    await go_down(workers, fake_time)
    assert [await gives_turns(line) for line in workers] == [False] * 4
    fake_time.advance(OPEN_SECONDS)
    turns = [await line.take_turn() for line in workers for _ in range(3)]
    probing = [turn is not None for turn in turns]
    assert probing == [True] + [False] * 11
    await succeed(workers[0])
    fake_time.advance(REFRESH_SECONDS)
    assert [await gives_turns(line) for line in workers] == [True] * 4
    assert {line.health().state for line in workers} == {LineState.UP}


async def test_a_probe_that_fails_keeps_the_carrier_closed_for_all(store: GuardStore, fake_time: FakeTime) -> None:
    one, other = lines(store, fake_time)
    await go_down([one, other], fake_time)
    assert not await gives_turns(other)
    for _ in range(3):
        fake_time.advance(OPEN_SECONDS)
        assert await one.take_turn() is not None
        await fail(one)
        assert not await gives_turns(other)
        fake_time.advance(OPEN_SECONDS - 0.1)
        assert not await gives_turns(one)
        assert not await gives_turns(other)
        fake_time.advance(0.1)
        assert await other.take_turn() is not None
        assert await one.take_turn() is None
        await fail(other)


async def test_a_probe_that_was_given_back_is_the_next_ones(store: GuardStore, fake_time: FakeTime) -> None:
    one, other = lines(store, fake_time)
    await go_down([one, other], fake_time)
    assert not await gives_turns(other)
    fake_time.advance(OPEN_SECONDS)
    turn = await one.take_turn()
    assert isinstance(turn, Reservation)
    assert not await gives_turns(other)
    await one.give_back(turn)
    await one.told()
    assert await gives_turns(other)


async def test_a_worker_that_dies_while_it_probes_holds_nobody_up_for_ever(
    store: GuardStore, fake_time: FakeTime
) -> None:
    one, other = lines(store, fake_time)
    await go_down([one, other], fake_time)
    assert not await gives_turns(other)
    fake_time.advance(OPEN_SECONDS)
    assert await one.take_turn() is not None
    assert not await gives_turns(other)
    fake_time.advance(OPEN_SECONDS)
    assert await gives_turns(other)


async def test_after_429_all_workers_leave_the_carrier_alone(store: GuardStore, fake_time: FakeTime) -> None:
    one, other = lines(store, fake_time)
    one.note_failure(ProviderThrottled("slowly", 20))
    one.note_failure(ProviderThrottled("slowly", 5))
    await one.told()
    other.note_failure(ProviderThrottled("slowly", 5))
    await other.told()
    assert [await gives_turns(line) for line in (one, other)] == [False, False]
    assert other.health().state is LineState.PAUSED
    fake_time.advance(19.9)
    assert not await gives_turns(other)
    fake_time.advance(0.1)
    assert [await gives_turns(line) for line in (one, other)] == [True, True]


async def test_without_the_store_each_workers_breaker_is_its_own(fake_time: FakeTime) -> None:
    gone = RedisGuardStore(Redis("redis://127.0.0.1:1", Clock()), fake_time.clock, b"key")
    one, other = lines(gone, fake_time)
    for _ in range(FAILURES_TO_OPEN):
        await fail(one)
    assert [await gives_turns(line) for line in (one, other)] == [False, True]
    fake_time.advance(OPEN_SECONDS)
    assert await one.take_turn() is not None
    assert await one.take_turn() is None, "a probe is on its way"
    await succeed(one)
    assert await gives_turns(one)
    one.note_failure(ProviderThrottled("slowly", 20))
    assert not await gives_turns(one)
    await one.close()
    with pytest.raises(StoreUnavailable):
        await gone.recall("anything")
