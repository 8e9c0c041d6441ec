"""G: the memory store and its clocks. Bounded, one process, and no life is ever lengthened."""

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_store import MemoryGuardStore
from limit_rules import Charge, Window, rule
from number_failures import NumberLocked
from number_page import Outcome, StoreRules
from otp_store import MemoryOtpStore, StoreFull
from settings import BadSettings, load_settings
from tests.conftest import FakeTime
from tests.security.hand_carrier import CODE, VOBIZ, HandCarrier, run_vobiz, start_call
from tests.store_cases import NEW_CALL, SEALER, new_code
from voice_provider import EndReason

VICTIM = "+14155550142"


# G5: one process, bounded


def test_g5_more_than_one_worker_is_one_clear_line() -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(workers=2, **VOBIZ)
    line = "REDIS_URL is not set, but WORKERS is more than 1: the store in memory serves one process"
    assert line in refused.value.problems


async def send_to_many(store: MemoryOtpStore, time: FakeTime, first: int, count: int) -> None:
    """Whole verifications of ever new numbers: some verified, some cancelled, some left to expire."""
    for number in range(first, first + count):
        phone = f"+1415{number:07d}"
        record = (await store.begin("shop", phone, new_code(ttl=30), NEW_CALL)).record
        if number % 3 == 0:
            await store.check("shop", phone, "012345")
        if number % 3 == 1:
            await store.cancel("shop", phone)
        await store.fail_call(record.id, 1, EndReason.NO_ANSWER, "")
        time.advance(0.1)
        if number % 100 == 0:
            while (await store.expire()).some_are_left:
                continue
            await store.take_overdue_calls()


@pytest.mark.untraced
async def test_g5_memory_stays_flat_over_many_sends_and_counters_stay(fake_time: FakeTime) -> None:
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules(capacity=1000, retention_seconds=60))
    for _ in range(4):
        await store.begin("shop", VICTIM, new_code(ttl=600), NEW_CALL)
        await store.check("shop", VICTIM, "999999")
    await send_to_many(store, fake_time, 0, 3000)  # up to its working size
    tracemalloc.start()
    await send_to_many(store, fake_time, 3000, 1000)
    after_some, _ = tracemalloc.get_traced_memory()
    await send_to_many(store, fake_time, 4000, 9000)
    after_many, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after_many < after_some + 1000 * 1024, f"{after_some} to {after_many} bytes"
    assert store._records <= 1000
    record = (await store.begin("shop", VICTIM, new_code(), NEW_CALL)).record
    await store.check("shop", VICTIM, "999999")
    await store.fail_call(record.id, 1, EndReason.NO_ANSWER, "")
    with pytest.raises(NumberLocked):
        await store.begin("shop", VICTIM, new_code(), NEW_CALL)


async def test_g5_a_full_store_refuses_new_ones_and_serves_those_under_way(fake_time: FakeTime) -> None:
    carrier = HandCarrier()
    async with run_vobiz(carrier, fake_time.clock, store_capacity=3) as service:
        for number in range(3):
            await start_call(service, carrier, f"+141555501{number:02d}")
        for _ in range(5):
            answer = await service.send("+14155550199")
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert answer.headers["retry-after"] == "1"
        assert carrier.calls == 3
        assert (await service.verify("+14155550100", CODE)).json()["valid"] is True


async def test_g5_limits_are_bounded_and_none_is_evicted_by_a_flood_of_others(fake_time: FakeTime) -> None:
    store = MemoryGuardStore(fake_time.clock, capacity=1000)
    once = rule("number", Window(1, 600))
    for number in range(1000):
        assert not isinstance(await store.reserve([Charge(once, str(number))]), list)
    for number in range(1000, 1200):
        with pytest.raises(StoreFull):
            await store.reserve([Charge(once, str(number))])
    assert all([isinstance(await store.reserve([Charge(once, str(number))]), list) for number in range(1000)])
    fake_time.advance(601)
    while await store.expire():
        continue
    assert store._logs == {}
    assert not isinstance(await store.reserve([Charge(once, "new")]), list)


async def test_g5_deadlines_pass_without_any_traffic(fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)
    carrier = HandCarrier()
    async with run_vobiz(carrier, fake_time.clock) as service:
        await start_call(service, carrier, VICTIM)
        fake_time.advance(301)
        await service.app.state.timekeeper.expire()
        (page,) = service.app.state.service._store._pages.values()
        (record,) = page.records
        assert (record.status, record.sealed_code) == ("expired", b"")


# G6: clocks

MOVES = st.tuples(st.floats(0, 400), st.floats(-7200, 7200))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(MOVES, min_size=1, max_size=8), st.sampled_from([30, 300, 600]))
async def test_g6_no_jump_of_any_clock_lengthens_a_life(moves: list[tuple[float, float]], ttl: int) -> None:
    """The boot clock only goes forward; the other one is set at will. Either of them can end the code."""
    time = FakeTime()
    store = MemoryOtpStore(SEALER, time.clock, StoreRules())
    begun, begun_wall = time.seconds, time.wall_seconds
    await store.begin("shop", VICTIM, new_code(ttl=ttl), NEW_CALL)
    is_over = False
    for boot, wall in moves:
        time.seconds += boot
        time.wall_seconds += wall
        is_over = is_over or time.seconds >= begun + ttl or time.wall_seconds >= begun_wall + ttl
        found = await store.find("shop", VICTIM)
        assert found is not None
        assert found.is_final == is_over
    outcome = (await store.check("shop", VICTIM, "012345")).outcome
    assert outcome is (Outcome.NOT_FOUND if is_over else Outcome.CORRECT)


@pytest.mark.parametrize(
    ("boot", "wall", "is_right"),
    [
        pytest.param(10, -3600, True, id="clock set back an hour, in time"),
        pytest.param(601, -3600, False, id="clock set back an hour, too late"),
        pytest.param(10, 3600, False, id="clock set forward an hour"),
        pytest.param(1200, 1200, False, id="the machine slept for 20 minutes"),
        pytest.param(1200, 0, False, id="the wall clock stood still"),
    ],
)
async def test_g6_a_code_of_ten_minutes_is_never_right_for_longer(
    fake_time: FakeTime, boot: float, wall: float, is_right: bool
) -> None:
    carrier = HandCarrier()
    async with run_vobiz(carrier, fake_time.clock) as service:
        await start_call(service, carrier, VICTIM, ttl_seconds=600)
        fake_time.seconds += boot
        fake_time.wall_seconds += wall
        assert (await service.verify(VICTIM, CODE)).json()["valid"] is is_right


def test_g6_no_more_than_ten_minutes_can_be_set() -> None:
    with pytest.raises(BadSettings, match="CODE_TTL_SECONDS"):
        load_settings(code_ttl_seconds=601)


async def test_g6_limits_are_not_shortened_by_a_clock_that_is_set(fake_time: FakeTime) -> None:
    carrier = HandCarrier()
    async with run_vobiz(carrier, fake_time.clock, resend_after_seconds=30) as service:
        call = await start_call(service, carrier, VICTIM)
        await call.post("/hangup/{token}", Event="Hangup", HangupCauseCode="3010")
        fake_time.wall_seconds += random.Random(6).uniform(30, 250)  # noqa: S311 - no secret
        assert (await service.send(VICTIM)).status_code == 429
        fake_time.seconds += 30
        assert (await service.send(VICTIM)).status_code == 200
