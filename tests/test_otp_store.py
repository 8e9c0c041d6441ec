"""The memory store keeps the contract, and what it promises beyond it."""

import tracemalloc
from typing import Any

from otp_store import MemoryOtpStore, OtpStore
from tests.conftest import FakeTime
from tests.store_cases import NEW_CALL, SEALER, StoreCases, new_code
from voice_provider import CallEvent, CallState


class TestMemoryOtpStore(StoreCases):
    def make_store(self, time: FakeTime, **options: Any) -> OtpStore:
        return MemoryOtpStore(SEALER, time.clock, **options)


async def test_a_verification_takes_at_most_one_kilobyte_with_its_whole_call(fake_time: FakeTime) -> None:
    store = MemoryOtpStore(SEALER, fake_time.clock)
    count = 10_000
    numbers = [f"+1415{number:07d}" for number in range(count)]
    cause = "NORMAL_CLEARING 4000"
    events = [CallEvent("", state, hangup_cause=cause, talk_seconds=34) for state in CallState]
    tracemalloc.start()
    for number in numbers:
        record = (await store.begin(number, new_code(), NEW_CALL)).record
        await store.name_call(record.id, 1, f"5a9fd4a0-3d4c-11ef-bef9-{number[1:].zfill(12)}")
        for event in events:
            fake_time.advance(0.001)
            await store.record_call_event(record.id, 1, event)
            await store.read_code(record.id, 1, 1)
            await store.record_reading_end(record.id, 1, 1)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / count <= 1024, used / count


async def test_expiry_leaves_nothing_behind(fake_time: FakeTime) -> None:
    store = MemoryOtpStore(SEALER, fake_time.clock, retention_seconds=60)
    for number in range(500):
        await store.begin(f"+1415{number:07d}", new_code(ttl=30 + number % 50), NEW_CALL)
    for _ in range(200):
        fake_time.advance(1)
        while await store.expire():
            continue
        await store.take_overdue_calls(1000)
    left = {name: value for name, value in vars(store).items() if isinstance(value, dict) and value}
    assert left == {}
    assert store._deadlines.take(10**9, 1) == []


async def test_the_cost_of_expiry_does_not_grow_with_what_is_not_due(fake_time: FakeTime) -> None:
    """Counts the records that a tick looks at, which does not depend on the machine."""
    store = MemoryOtpStore(SEALER, fake_time.clock)
    for number in range(5000):
        await store.begin(f"+1415{number:07d}", new_code(ttl=600), NEW_CALL)
    await store.begin("+14165550000", new_code(ttl=30), NEW_CALL)
    looked_at: list[str] = []
    look = store._current
    store._current = lambda key, now: (looked_at.append(key), look(key, now))[1]  # type: ignore[method-assign,func-returns-value]
    fake_time.advance(31)
    await store.expire()
    assert len(looked_at) == 1
