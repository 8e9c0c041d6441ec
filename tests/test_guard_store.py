"""The guard store in memory keeps the contract, and what it promises beyond it."""

from guard_store import STRIKE_MEMORY_SECONDS, GuardStore, MemoryGuardStore
from limit_rules import Window, rule
from tests.conftest import FakeTime
from tests.guard_store_cases import FEW, MANY, BoundedGuardStoreCases, charge, everything_once


class TestMemoryGuardStore(BoundedGuardStoreCases):
    def make_store(self, time: FakeTime, capacity: int = 1000) -> GuardStore:
        return MemoryGuardStore(time.clock, capacity)


def items_in(store: MemoryGuardStore) -> dict[str, int]:
    """How many items each part of a store holds, timers among them."""
    counts = {}
    for name, part in vars(store).items():
        if name not in ("_clock", "_capacity"):
            kept = part if isinstance(part, dict) else part._slots
            counts[name] = sum(map(len, kept.values())) if kept is not part else len(kept)
    return counts


async def test_expiry_leaves_nothing_behind(fake_time: FakeTime) -> None:
    store = MemoryGuardStore(fake_time.clock, 1000)
    for index in range(100):
        await everything_once(store, fake_time, index)
        fake_time.advance(1)
    assert all(items_in(store).values())
    for _ in range(4):  # a timer that comes early is set anew
        fake_time.advance(STRIKE_MEMORY_SECONDS)
        while await store.expire():
            pass
    assert set(items_in(store).values()) == {0}, items_in(store)


async def test_what_is_taken_back_again_and_again_takes_no_room(fake_time: FakeTime) -> None:
    """Each right code takes back what was counted against guessing before it was compared."""
    store = MemoryGuardStore(fake_time.clock, 1000)
    for limits in (FEW, MANY):
        for _ in range(1000):
            fake_time.advance(0.01)
            reservation = await store.reserve([charge(limits)])
            assert not isinstance(reservation, list)
            await store.refund(reservation)
    assert {key: log.entries for key, log in store._logs.items()} == {
        "few/+14155550142": [],
        "many/+14155550142": [],
    }
    assert items_in(store)["_idle_logs"] == 2


async def test_a_busy_key_has_one_timer_and_a_bounded_number_of_entries(fake_time: FakeTime) -> None:
    store = MemoryGuardStore(fake_time.clock, 1000)
    busy = rule("busy", Window(10**9, 600))
    for _ in range(20_000):
        fake_time.advance(0.25)
        await store.reserve([charge(busy)])
        await store.expire()
    assert len(store._logs["busy/+14155550142"].entries) <= 62
    assert items_in(store)["_idle_logs"] == 1
