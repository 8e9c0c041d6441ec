"""A carrier's line: its pace, its queue and its breaker, on a clock that only the tests move."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrier_line import (
    LOOK_AGAIN_SECONDS,
    MAX_WAITING,
    PACE_SECONDS,
    Breaker,
    CarrierLine,
    LineLimits,
    LineState,
)
from carrier_trouble import FAILURE_MEMORY_SECONDS, FAILURES_TO_OPEN, OPEN_SECONDS
from guard_store import MemoryGuardStore
from limit_rules import Charge, Reservation
from otp_store import StoreUnavailable
from tests.conftest import FakeTime, most_in_a_second
from voice_provider import (
    AccountRefused,
    CallOutcomeUnknown,
    CallRejected,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
)


class LiveCalls:
    """What a line asks the store of verifications for."""

    count = 0
    queued = 0

    async def live_calls(self, provider: str) -> int:
        return self.count

    async def claim_live_call(self, provider: str, limit: int) -> bool:
        return self.count < limit

    async def queued_calls(self, provider: str) -> int:
        return self.queued


class BrokenNow(MemoryGuardStore):
    """A guard store that cannot answer while it is broken."""

    is_broken = False

    async def reserve(self, charges: Sequence[Charge]) -> Any:
        if self.is_broken:
            raise StoreUnavailable("gone")
        return await super().reserve(charges)


class World:
    """A line and what stands around it. `turns` has who got one, and when, in order."""

    def __init__(self, calls_per_second: int = 0, concurrent_calls: int = 0) -> None:
        self.time = FakeTime()
        self.calls = LiveCalls()
        self.guard_store = BrokenNow(self.time.clock, capacity=1000)
        limits = LineLimits(calls_per_second, concurrent_calls)
        store: Any = self.calls
        self.line = CarrierLine("vobiz", limits, store, self.guard_store, self.time.clock)
        self.turns: list[tuple[float, object]] = []
        self.sent_away: list[tuple[float, object]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def queue(self, name: object, within_seconds: float = 1e6) -> asyncio.Task[None]:
        async def wait() -> None:
            has_turn = isinstance(await self.line.wait_for_turn(within_seconds), Reservation)
            (self.turns if has_turn else self.sent_away).append((self.time.seconds, name))

        task = asyncio.create_task(wait())
        self.tasks.append(task)
        return task

    async def take(self, name: object) -> Reservation | None:
        turn = await self.line.take_turn()
        if turn is not None:
            self.turns.append((self.time.seconds, name))
        return turn

    async def close(self) -> None:
        await self.line.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def names(self) -> list[object]:
        return [name for _, name in self.turns]

    @property
    def queued(self) -> int:
        return self.line.health().queued


UNAVAILABLE = ProviderUnavailable("down")
REJECTED = CallRejected("no")


async def go_down(world: World) -> None:
    for _ in range(FAILURES_TO_OPEN):
        world.line.note_failure(UNAVAILABLE)
    await world.time.settle()


# Pace


async def test_turns_are_taken_at_once_up_to_the_pace() -> None:
    world = World(calls_per_second=3)
    for name in range(5):
        await world.take(name)
    assert world.names == [0, 1, 2]
    world.time.advance(PACE_SECONDS)
    assert await world.take("later") is not None


async def test_without_a_pace_every_turn_is_taken_at_once() -> None:
    world = World()
    for name in range(500):
        assert await world.take(name) is not None


async def test_the_queue_moves_at_the_pace() -> None:
    world = World(calls_per_second=2)
    for name in range(7):
        world.queue(name)
    await world.time.pass_by(60)
    seconds = [round(at - 1000, 2) for at, _ in world.turns]
    assert seconds == [0, 0, 1.05, 1.05, 2.1, 2.1, 3.15]


arrivals = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 0.2), st.floats(0.9, 1.2)),  # seconds since the one before
        st.sampled_from(["take", "take", "queue", "take and give back", "queue and go"]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls_per_second=st.integers(1, 4), pattern=arrivals)
def test_no_second_has_more_starts_than_the_pace_however_calls_arrive(
    calls_per_second: int, pattern: list[tuple[float, str]]
) -> None:
    async def live() -> None:
        world = World(calls_per_second)
        queued: list[object] = []
        gone: set[object] = set()
        for name, (gap, way) in enumerate(pattern):
            await world.time.pass_by(gap)
            if way == "take":
                await world.take(name)
            elif way == "take and give back":
                turn = await world.line.take_turn()
                if turn is not None:
                    await world.line.give_back(turn)
            else:
                queued.append(name)
                task = world.queue(name)
                await world.time.settle()
                if way == "queue and go" and task.cancel():
                    gone.add(name)
                    await world.time.settle()
        last_arrival = world.time.seconds
        await world.time.pass_by(100)
        times = [at for at, _ in world.turns]
        assert times == sorted(times)
        assert most_in_a_second(times) <= calls_per_second
        served = [name for name in world.names if name in queued]
        assert served == [name for name in queued if name not in gone], "all of them, first come, first served"
        busy_seconds = math.ceil(len(queued) / calls_per_second + 1) * PACE_SECONDS
        assert not times or times[-1] <= last_arrival + busy_seconds, "no turn is left unused"
        await world.close()

    asyncio.run(live())


async def test_two_lines_that_share_a_store_keep_the_pace_together() -> None:
    world = World(calls_per_second=3)
    store: Any = world.calls
    twin = CarrierLine("vobiz", LineLimits(3), store, world.guard_store, world.time.clock)
    taken = [await line.take_turn() for _ in range(4) for line in (world.line, twin)]
    assert sum(turn is not None for turn in taken) == 3


async def test_other_carriers_have_a_pace_of_their_own() -> None:
    world = World(calls_per_second=1)
    store: Any = world.calls
    other = CarrierLine("plivo", LineLimits(1), store, world.guard_store, world.time.clock)
    assert await world.line.take_turn() is not None
    assert await other.take_turn() is not None


# The queue


async def test_nobody_overtakes_those_who_wait() -> None:
    world = World(calls_per_second=1)
    await world.take("first")
    world.queue("second")
    await world.time.settle()
    world.time.advance(PACE_SECONDS)  # a turn is free, and the queue has not moved yet
    assert await world.line.take_turn() is None
    await world.time.pass_by(0)
    assert world.names == ["first", "second"]
    await world.time.pass_by(PACE_SECONDS)
    assert await world.take("third") is not None


async def test_a_wait_has_an_end() -> None:
    world = World(calls_per_second=1)
    await world.take("first")
    world.queue("patient", within_seconds=10)
    world.queue("impatient", within_seconds=2)
    world.queue("late", within_seconds=3)
    await world.time.pass_by(60)
    assert [(round(at - 1000, 2), name) for at, name in world.turns] == [
        (0, "first"),
        (1.05, "patient"),
        (2.1, "late"),
    ]
    assert world.sent_away == [(1002.0, "impatient")]
    assert world.queued == 0


async def test_who_goes_away_leaves_no_turn_unused() -> None:
    world = World(calls_per_second=1)
    await world.take("first")
    gone = world.queue("gone")
    world.queue("next")
    await world.time.settle()
    gone.cancel()
    await world.time.pass_by(PACE_SECONDS)
    assert world.names == ["first", "next"]


async def test_a_turn_for_which_nobody_waits_any_more_is_given_back() -> None:
    world = World(calls_per_second=1)
    await world.take("first")
    world.queue("gone", within_seconds=0.5)
    await world.time.pass_by(PACE_SECONDS)
    assert await world.line.take_turn() is not None


async def test_a_turn_that_is_given_back_is_the_next_ones() -> None:
    world = World(calls_per_second=1)
    turn = await world.take("first")
    assert turn is not None
    assert await world.line.take_turn() is None
    await world.line.give_back(turn)
    assert await world.line.take_turn() is not None


async def test_the_expected_wait_grows_with_the_queue_and_with_a_pause() -> None:
    world = World(calls_per_second=2)
    assert await world.line.expected_wait_seconds() == pytest.approx(PACE_SECONDS)
    for name in range(5):
        world.queue(name)
    await world.time.settle()
    assert world.queued == 3
    assert await world.line.expected_wait_seconds() == pytest.approx(4 * PACE_SECONDS / 2)
    world.line.note_failure(ProviderThrottled("slowly", 7))
    assert await world.line.expected_wait_seconds() == pytest.approx(7 + 4 * PACE_SECONDS / 2)
    await world.close()


async def test_a_call_counts_as_waiting_from_when_it_is_on_record_as_queued() -> None:
    world = World(calls_per_second=2)
    world.calls.queued = 7
    assert await world.line.expected_wait_seconds() == pytest.approx(8 * PACE_SECONDS / 2)


async def test_nobody_waits_longer_than_was_expected() -> None:
    world = World(calls_per_second=3)
    expected = []
    for name in range(20):
        expected.append(world.time.seconds + await world.line.expected_wait_seconds())
        world.queue(name)
        await world.time.settle()
    await world.time.pass_by(60)
    assert all(at <= latest for (at, _), latest in zip(world.turns, expected, strict=True))


async def test_the_queue_is_bounded_also_where_there_is_no_pace() -> None:
    world = World(concurrent_calls=1)
    world.calls.count = 1
    for name in range(MAX_WAITING - 1):
        world.queue(name)
    await world.time.settle()
    assert math.isfinite(await world.line.expected_wait_seconds())
    world.queue("last")
    await world.time.settle()
    assert math.isinf(await world.line.expected_wait_seconds())
    await world.close()


async def test_no_call_starts_above_the_limit_of_calls_at_once() -> None:
    world = World(concurrent_calls=2)
    for name in "abc":
        if await world.take(name) is None:
            world.queue(name)
        else:
            world.calls.count += 1
    await world.time.pass_by(30)
    assert world.names == ["a", "b"]
    world.calls.count -= 1
    await world.time.pass_by(LOOK_AGAIN_SECONDS)
    assert world.names == ["a", "b", "c"]


async def test_the_queue_stands_while_the_store_cannot_answer() -> None:
    world = World(calls_per_second=1)
    await world.take("first")
    world.queue("second")
    await world.time.settle()
    world.guard_store.is_broken = True
    await world.time.pass_by(30)
    assert world.names == ["first"]
    world.guard_store.is_broken = False
    await world.time.pass_by(LOOK_AGAIN_SECONDS)
    assert world.names == ["first", "second"]
    await world.close()


# What the carrier answers


async def test_after_429_the_carrier_is_left_alone_for_as_long_as_it_said() -> None:
    world = World(calls_per_second=5)
    world.line.note_failure(ProviderThrottled("slowly", 20))
    assert await world.line.take_turn() is None
    world.queue("waits")
    await world.time.pass_by(19.9)
    assert world.names == []
    await world.time.pass_by(0.1)
    assert world.names == ["waits"]
    assert world.line.health().state is LineState.UP, "it works: it only asked for less"


async def test_a_queue_that_is_under_way_stops_for_429() -> None:
    world = World(calls_per_second=1)
    for name in range(3):
        world.queue(name)
    await world.time.pass_by(0)
    world.line.note_failure(ProviderThrottled("slowly", 10))
    await world.time.pass_by(60)
    assert [round(at - 1000, 2) for at, _ in world.turns] == [0, 10, 11.05]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(UNAVAILABLE, id="unavailable"),
        pytest.param(CallOutcomeUnknown("?"), id="unknown"),
        pytest.param(AccountRefused("no credit"), id="account refused"),
    ],
)
async def test_five_failures_in_thirty_seconds_take_a_carrier_down(error: ProviderError) -> None:
    world = World()
    for _ in range(FAILURES_TO_OPEN - 1):
        world.line.note_failure(error)
        world.time.advance(FAILURE_MEMORY_SECONDS / (FAILURES_TO_OPEN - 1))
    assert await world.line.take_turn() is not None
    world.line.note_failure(error)
    assert await world.line.take_turn() is None
    health = world.line.health()
    assert (health.state, health.trouble, health.retry_after_seconds) == (LineState.DOWN, error.code, OPEN_SECONDS)


async def test_failures_that_are_further_apart_take_no_carrier_down() -> None:
    world = World()
    for _ in range(3 * FAILURES_TO_OPEN):
        world.line.note_failure(UNAVAILABLE)
        world.time.advance(FAILURE_MEMORY_SECONDS / (FAILURES_TO_OPEN - 1) + 0.1)
    assert world.line.health().state is LineState.UP


@pytest.mark.parametrize("answer", [None, REJECTED, ProviderThrottled("slowly", 0)], ids=["ok", "400", "429"])
async def test_any_answer_that_says_that_it_works_ends_the_count(answer: ProviderError | None) -> None:
    world = World()
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            world.line.note_failure(UNAVAILABLE)
        if answer is None:
            world.line.note_success()
        else:
            world.line.note_failure(answer)
    assert world.line.health().state is LineState.UP
    assert await world.line.take_turn() is not None


async def test_what_a_carrier_refuses_of_single_requests_never_takes_it_down() -> None:
    world = World()
    for _ in range(100):
        world.line.note_failure(REJECTED)
    assert await world.line.take_turn() is not None


async def test_one_probe_is_let_through_when_the_time_is_over() -> None:
    world = World()
    await go_down(world)
    world.time.advance(OPEN_SECONDS - 0.1)
    assert await world.line.take_turn() is None
    world.time.advance(0.1)
    assert await world.line.take_turn() is not None
    world.line.breaker.begin()
    assert world.line.health().state is LineState.PROBING
    assert [await world.line.take_turn() for _ in range(50)] == [None] * 50


async def test_a_probe_that_succeeds_brings_the_carrier_back() -> None:
    world = World()
    await go_down(world)
    world.time.advance(OPEN_SECONDS)
    world.line.breaker.begin()
    world.line.note_success()
    assert (world.line.health().state, world.line.health().trouble) == (LineState.UP, None)
    for _ in range(FAILURES_TO_OPEN - 1):
        world.line.note_failure(UNAVAILABLE)
    assert await world.line.take_turn() is not None, "earlier failures are forgotten"


async def test_a_probe_that_fails_takes_it_down_again_for_as_long() -> None:
    world = World()
    await go_down(world)
    for _ in range(3):
        world.time.advance(OPEN_SECONDS)
        world.line.breaker.begin()
        world.line.note_failure(UNAVAILABLE)
        assert world.line.health().state is LineState.DOWN
        world.time.advance(OPEN_SECONDS - 0.1)
        assert await world.line.take_turn() is None
        world.time.advance(0.1)
        assert world.line.breaker.admits


async def test_a_probe_that_was_abandoned_makes_room_for_another_one() -> None:
    world = World()
    await go_down(world)
    world.time.advance(OPEN_SECONDS)
    world.line.breaker.begin()
    assert not world.line.breaker.admits
    world.line.breaker.abandon()
    assert world.line.health().state is LineState.DOWN
    assert await world.line.take_turn() is not None


async def test_an_abandoned_request_of_a_working_carrier_says_nothing() -> None:
    breaker = Breaker(FakeTime().clock)
    breaker.begin()
    breaker.abandon()
    assert (breaker.state, breaker.admits) == (LineState.UP, True)


async def test_those_who_wait_are_sent_away_when_the_carrier_goes_down() -> None:
    world = World(calls_per_second=1)
    await world.take("first")
    for name in "ab":
        world.queue(name)
    await world.time.settle()
    await go_down(world)
    assert world.sent_away == [(1000.0, "a"), (1000.0, "b")]
    assert world.queued == 0


async def test_those_who_wait_for_a_probe_are_sent_away_when_it_fails() -> None:
    world = World(calls_per_second=1)
    await go_down(world)
    world.time.advance(OPEN_SECONDS)
    world.line.breaker.begin()
    world.queue("waits")
    await world.time.pass_by(5)
    assert (world.names, world.sent_away) == ([], [])
    world.line.note_failure(UNAVAILABLE)
    await world.time.settle()
    assert world.sent_away == [(1035.0, "waits")]


async def test_those_who_wait_for_a_probe_go_on_when_it_succeeds() -> None:
    world = World(calls_per_second=1)
    await go_down(world)
    world.time.advance(OPEN_SECONDS)
    world.line.breaker.begin()
    world.queue("waits")
    await world.time.pass_by(5)
    world.line.note_success()
    await world.time.pass_by(LOOK_AGAIN_SECONDS)
    assert world.names == ["waits"]


async def test_a_failure_of_a_carrier_that_is_down_already_sends_nobody_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(calls_per_second=1)
    await go_down(world)
    world.queue("waits for its return")
    await world.time.settle()
    world.line.note_failure(UNAVAILABLE)  # of a request that was under way
    await world.time.settle()
    assert world.sent_away == []
    assert [record.message for record in caplog.records] == ["carrier is left alone for a while"]
    await world.close()


async def test_a_closed_line_sends_away_who_waits_and_gives_no_more_turns() -> None:
    world = World(calls_per_second=1)
    await world.take("first")
    world.queue("waits")
    await world.time.settle()
    await world.line.close()
    await world.time.settle()
    assert world.sent_away == [(1000.0, "waits")]
    world.queue("comes back")
    await world.time.pass_by(60)
    assert world.names == ["first"]
    await world.close()


async def test_a_line_that_was_never_used_can_be_closed() -> None:
    await World().line.close()


def test_health_is_what_operators_see() -> None:
    world = World()
    assert tuple(world.line.health()) == ("vobiz", LineState.UP, 0, None, 0.0)


def test_the_most_in_a_second_is_counted_over_every_second() -> None:
    times = [0, 0.5, 0.99, 1.0, 1.2, 5]
    by_hand = max(sum(start <= at < start + 1 for at in times) for start in times)
    assert most_in_a_second(times) == by_hand == 4
