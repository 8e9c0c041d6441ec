"""The memory store keeps the contract, and what it promises beyond it."""

import tracemalloc
from typing import Any

import pytest

from number_page import NumberPage, OpenPage, StoreRules
from otp_store import MemoryOtpStore, OtpStore
from sealing import Sealer
from tests.conftest import FakeTime
from tests.mode_cases import ModeCases
from tests.store_cases import NEW_CALL, SEALER, RoomCases, StoreCases, new_code
from timer_wheel import TimerWheel
from voice_provider import CallEvent, CallState, EndReason


class TestMemoryOtpStore(StoreCases, ModeCases, RoomCases):
    def make_store(self, time: FakeTime, **options: Any) -> OtpStore:
        return MemoryOtpStore(SEALER, time.clock, StoreRules(**options))


@pytest.mark.untraced
async def test_a_verification_takes_at_most_one_kilobyte_with_its_whole_call(fake_time: FakeTime) -> None:
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    count = 3000
    numbers = [f"+1415{number:07d}" for number in range(count)]
    cause = "NORMAL_CLEARING 4000"
    states = list(CallState)
    tracemalloc.start()
    for number in numbers:
        record = (await store.begin("shop", number, new_code(), NEW_CALL)).record
        call_id = f"5a9fd4a0-3d4c-11ef-bef9-{number[1:].zfill(12)}"
        for state in states:
            fake_time.advance(0.001)
            event = CallEvent(call_id, state, hangup_cause=cause, talk_seconds=34)
            await store.record_call_event(record.id, 1, event)
            await store.read_code(record.id, 1, 1)
            await store.record_reading_end(record.id, 1, 1)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / count <= 1024, used / count


async def test_an_attempt_is_kept_before_the_code_is_compared(fake_time: FakeTime) -> None:
    class BrokenSealer(Sealer):
        def matches(self, *_: Any) -> bool:
            raise RuntimeError("broken")

    store = MemoryOtpStore(BrokenSealer(["secret"]), fake_time.clock, StoreRules())
    await store.begin("shop", "+14155550142", new_code(), NEW_CALL)
    with pytest.raises(RuntimeError):
        await store.check("shop", "+14155550142", "012345")
    record = await store.find("shop", "+14155550142")
    assert record is not None
    assert record.attempts_left == 4


async def test_expiry_leaves_nothing_behind(fake_time: FakeTime) -> None:
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules(retention_seconds=60))
    for number in range(500):
        await store.begin("shop", f"+1415{number:07d}", new_code(ttl=30 + number % 50), NEW_CALL)
    for _ in range(200):
        fake_time.advance(1)
        while (await store.expire()).some_are_left:
            continue
        await store.take_overdue_calls(1000)
    for by_first in (store._by_live_call, store._live_calls, store._by_message):
        assert not any(by_first.values())
        by_first.clear()
    assert [name for name, value in vars(store).items() if isinstance(value, dict) and value] == []
    for wheel in (store._deadlines, store._watches, store._forgettable):
        assert vars(wheel) == {"_slots": {}, "_seconds": []}


async def test_a_number_has_one_timer_for_its_failures_however_often_it_is_forgiven(fake_time: FakeTime) -> None:
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    for _ in range(50):
        record = (await store.begin("shop", "+14155550142", new_code(), NEW_CALL)).record
        await store.check("shop", "+14155550142", "999999")
        await store.check("shop", "+14155550142", "012345")
        await store.fail_call(record.id, 1, EndReason.FAILED, "")
    assert sum(map(len, store._forgettable._slots.values())) == 1


def test_a_tick_looks_at_what_is_due_and_at_nothing_else() -> None:
    """Counts the slots that are looked at, which does not depend on the machine."""

    class CountingDict(dict[int, list[int]]):
        looked_at = 0

        def __getitem__(self, key: int) -> list[int]:
            self.looked_at += 1
            return super().__getitem__(key)

        def __iter__(self) -> Any:
            raise AssertionError("a scan over all slots")

    wheel: TimerWheel[int] = TimerWheel()
    for second in range(86_400):
        wheel.add(second, second)
    counting = wheel._slots = CountingDict(wheel._slots.items())
    assert wheel.take(0.5, 10) == []
    assert wheel.take(3.5, 10) == [0, 1, 2]
    assert counting.looked_at <= 6
    assert wheel.take(86_400, 2) == [3, 4]


async def test_the_cost_of_expiry_does_not_grow_with_what_is_not_due(fake_time: FakeTime) -> None:
    """Counts the pages that a tick looks at, which does not depend on the machine."""
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    for number in range(5000):
        await store.begin("shop", f"+1415{number:07d}", new_code(ttl=600), NEW_CALL)
    await store.begin("shop", "+14165550000", new_code(ttl=30), NEW_CALL)
    looked_at: list[NumberPage] = []
    look = store._open

    def counting_look(page: NumberPage) -> OpenPage:
        looked_at.append(page)
        return look(page)

    store._open = counting_look  # type: ignore[method-assign]
    fake_time.advance(31)
    await store.expire()
    assert len(looked_at) == 1
