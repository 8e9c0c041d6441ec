"""What every guard store must do. A store's test module subclasses `GuardStoreCases` and says how to make one."""

import asyncio
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from guard_store import COHORT_SECONDS, SHARE_WINDOW_SECONDS, STRIKE_MEMORY_SECONDS, Block, GuardStore, Share
from limit_rules import Charge, Exceeded, Reservation, Rule, Window, rule
from otp_store import StoreFull
from tests.conftest import FakeTime

FEW = rule("few", Window(3, 60))
MANY = rule("many", Window(200, 600))  # more than are kept one by one
TWO_WINDOWS = rule("two", Window(1, 30), Window(4, 600))
MANY_IN_TWO = rule("many in two", Window(70, 60), Window(200, 600))
MONEY = rule("money", Window(1_000_000, 3600))
GRACE = 120.0


def charge(rule: Rule, amount: int = 1, subject: str = "+14155550142") -> Charge:
    return Charge(rule, subject, amount)


class Counted(NamedTuple):
    at: float
    amount: int


class Model:
    """What a sliding window means, spelled out: every amount that was let in, with its time.

    Times are multiples of an eighth of a second here, which floating point holds exactly.
    """

    def __init__(self) -> None:
        self.counted: list[Counted] = []

    def used(self, now: float, seconds: float) -> int:
        """What was let in during the last `seconds`: a window that begins just after an entry leaves it out."""
        return sum(one.amount for one in self.counted if now - one.at < seconds)


class GuardStoreCases:
    def make_store(self, time: FakeTime) -> GuardStore:
        """An empty one."""
        raise NotImplementedError

    async def close_stores(self) -> None:
        """Those that were made in this event loop, which ends now."""

    @pytest.fixture
    def store(self, fake_time: FakeTime) -> GuardStore:
        return self.make_store(fake_time)

    # Limits

    async def count(self, store: GuardStore, *charges: Charge) -> Reservation:
        answer = await store.reserve(charges)
        assert isinstance(answer, Reservation), answer
        return answer

    async def refusal(self, store: GuardStore, *charges: Charge) -> Exceeded:
        answer = await store.reserve(charges)
        assert not isinstance(answer, Reservation), "this charge must not fit"
        return answer[0]

    async def test_a_limit_is_reached_exactly(self, store: GuardStore) -> None:
        for _ in range(3):
            await self.count(store, charge(FEW))
        refusal = await self.refusal(store, charge(FEW))
        assert (refusal.window, refusal.retry_after_seconds) == (Window(3, 60), 60)

    async def test_of_many_at_once_as_many_fit_as_the_limit_says(self, store: GuardStore) -> None:
        answers = await asyncio.gather(*(store.reserve([charge(MANY)]) for _ in range(1000)))
        assert sum(isinstance(answer, Reservation) for answer in answers) == 200

    async def test_subjects_and_rules_are_counted_apart(self, store: GuardStore) -> None:
        other_rule = rule("other", Window(3, 60))
        for _ in range(3):
            await self.count(store, charge(FEW))
        await self.count(store, charge(FEW, subject="+14155550143"))
        await self.count(store, charge(other_rule))

    @pytest.mark.parametrize("limits", [FEW, MANY, MONEY], ids=lambda limits: str(limits.name))
    async def test_a_charge_above_the_limit_never_fits(self, store: GuardStore, limits: Rule) -> None:
        refusal = await self.refusal(store, charge(limits, limits.windows[0].limit + 1))
        assert refusal.retry_after_seconds is None
        await self.count(store, charge(limits, limits.windows[0].limit))

    async def test_all_charges_are_counted_or_none(self, store: GuardStore) -> None:
        for _ in range(3):
            await self.count(store, charge(FEW, subject="full"))
        for _ in range(5):
            answer = await store.reserve([charge(FEW), charge(MANY), charge(FEW, subject="full")])
            assert isinstance(answer, list)
            assert [one.charge.subject for one in answer] == ["full"]
        assert await store.room(charge(FEW)) == (3, 0)
        assert await store.room(charge(MANY)) == (200, 0)

    async def test_every_charge_that_does_not_fit_is_named(self, store: GuardStore) -> None:
        for _ in range(3):
            await self.count(store, charge(FEW), charge(FEW, subject="b"))
        answer = await store.reserve([charge(FEW), charge(MANY), charge(FEW, subject="b")])
        assert isinstance(answer, list)
        assert [one.charge.subject for one in answer] == ["+14155550142", "b"]

    async def test_of_several_windows_the_one_that_takes_longest_is_told(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        for _ in range(4):
            await self.count(store, charge(TWO_WINDOWS))
            fake_time.advance(30)
        assert (await self.refusal(store, charge(TWO_WINDOWS))).retry_after_seconds == 600 - 4 * 30
        fake_time.advance(600 - 4 * 30)
        await self.count(store, charge(TWO_WINDOWS))
        assert (await self.refusal(store, charge(TWO_WINDOWS))).window == Window(1, 30)

    async def test_a_told_wait_is_enough_whatever_the_clock_shows(self, fake_time: FakeTime) -> None:
        """1000.1 + 30 - 1005.1 is not 25 in floating point."""
        for tenths in range(200):
            fake_time.seconds = 1000 + tenths / 10 + tenths * 0.007
            store = self.make_store(fake_time)
            one_each_half_minute = rule("cooldown", Window(1, 30))
            await self.count(store, charge(one_each_half_minute))
            fake_time.seconds += 5
            wait = (await self.refusal(store, charge(one_each_half_minute))).retry_after_seconds
            assert wait is not None
            fake_time.seconds += math.ceil(wait)
            await self.count(store, charge(one_each_half_minute))

    @pytest.mark.parametrize("limits", [FEW, MANY, TWO_WINDOWS, MANY_IN_TWO], ids=lambda limits: str(limits.name))
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_no_window_is_ever_passed_and_every_told_wait_is_true(
        self, fake_time: FakeTime, limits: Rule, data: st.DataObject
    ) -> None:
        """Against a model that keeps every entry: at most `limit` in any window, no refusal without a reason."""
        steps = data.draw(
            st.lists(
                st.tuples(
                    st.sampled_from(["count", "count", "count", "refund", "expire"]),
                    st.integers(1, max(1, limits.windows[-1].limit // 3)),
                    st.integers(0, int(4 * limits.windows[0].seconds)).map(lambda quarters: quarters / 8),
                ),
                max_size=60,
            ),
            label="(step, amount, seconds to wait before it)",
        )

        async def play() -> None:
            store, model = self.make_store(fake_time), Model()
            made: list[tuple[Reservation, Counted]] = []
            for step, amount, seconds in steps:
                fake_time.advance(seconds)
                now = fake_time.seconds
                if step == "expire":
                    await store.expire()
                elif step == "refund" and made:
                    reservation, counted = made.pop(amount % len(made))
                    await store.refund(reservation)
                    model.counted.remove(counted)
                elif step == "count":
                    answer = await store.reserve([charge(limits, amount)])
                    if isinstance(answer, Reservation):
                        counted = Counted(now, amount)
                        model.counted.append(counted)
                        made.append((answer, counted))
                        assert all(model.used(now, one.seconds) <= one.limit for one in limits.windows)
                    else:
                        await self._must_be_right(store, model, answer[0], now)
            note(f"{len(model.counted)} entries were let in")
            await self.close_stores()

        fake_time.seconds = 1000.0
        asyncio.run(play())

    async def _must_be_right(self, store: GuardStore, model: Model, refusal: Exceeded, now: float) -> None:
        """A refusal has a full window behind it; half a second before the told time it does not fit, either."""
        limits, amount = refusal.charge.rule, refusal.charge.amount
        if refusal.retry_after_seconds is None:
            assert any(amount > window.limit for window in limits.windows)
            return
        resolution = limits.resolution_seconds
        assert any(
            model.used(now, window.seconds + resolution) + amount > window.limit for window in limits.windows
        )
        free_at = now + refusal.retry_after_seconds
        assert all(model.used(free_at, window.seconds) + amount <= window.limit for window in limits.windows), (
            "who waits as long as told must not find the window full"
        )
        just_before = free_at - 1 / 16
        if just_before > now:
            assert any(
                model.used(just_before, window.seconds + resolution) + amount > window.limit
                for window in limits.windows
            ), "nobody is told to wait longer than needed"

    async def test_a_told_wait_is_true_to_the_store_itself(self, fake_time: FakeTime) -> None:
        for limits in (FEW, MANY, TWO_WINDOWS, MANY_IN_TWO, MONEY):
            store = self.make_store(fake_time)
            amount = max(1, limits.windows[-1].limit // 7)
            for _ in range(40):
                fake_time.advance(3.625)
                answer = await store.reserve([charge(limits, amount)])
                if isinstance(answer, Reservation):
                    continue
                wait = answer[0].retry_after_seconds
                assert wait is not None
                fake_time.advance(wait - 0.125)
                assert isinstance(await store.reserve([charge(limits, amount)]), list), limits.name
                fake_time.advance(0.125)
                assert isinstance(await store.reserve([charge(limits, amount)]), Reservation), limits.name

    # Refunds

    @pytest.mark.parametrize("limits", [FEW, MANY, MONEY], ids=lambda limits: str(limits.name))
    async def test_a_refund_takes_back_exactly_what_was_counted(
        self, store: GuardStore, fake_time: FakeTime, limits: Rule
    ) -> None:
        third = limits.windows[0].limit // 3
        first = await self.count(store, charge(limits, third))
        second = await self.count(store, charge(limits, third))  # at the same moment: they share an entry
        fake_time.advance(limits.windows[0].seconds / 7)
        await self.count(store, charge(limits, third))
        left_over = limits.windows[0].limit - 3 * third
        assert (await store.room(charge(limits)))[0] == left_over
        await store.refund(first)
        assert (await store.room(charge(limits)))[0] == left_over + third
        await store.refund(second)
        assert (await store.room(charge(limits)))[0] == left_over + 2 * third
        await self.count(store, charge(limits, third), charge(limits, 1, subject="b"))

    async def test_a_refund_after_the_window_has_passed_changes_nothing(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        old = await self.count(store, charge(FEW))
        fake_time.advance(61)
        await self.count(store, charge(FEW))
        await store.refund(old)
        assert (await store.room(charge(FEW)))[0] == 2
        await store.expire()
        await store.refund(old)
        assert (await store.room(charge(FEW)))[0] == 2

    async def test_what_was_taken_back_costs_no_waiting(self, store: GuardStore, fake_time: FakeTime) -> None:
        await self.count(store, charge(FEW))
        fake_time.advance(10)
        await store.refund(await self.count(store, charge(FEW)))
        assert await store.room(charge(FEW)) == (2, 50)

    # What is left

    async def test_room_tells_what_is_left_and_when_all_of_it_is_free_again(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        assert await store.room(charge(FEW)) == (3, 0)
        await self.count(store, charge(FEW))
        fake_time.advance(20)
        await self.count(store, charge(FEW))
        assert await store.room(charge(FEW)) == (1, 60)
        fake_time.advance(40)
        assert await store.room(charge(FEW)) == (2, 20), "the first one is over without anyone counting anew"
        fake_time.advance(20)
        assert await store.room(charge(FEW)) == (3, 0)

    # Blocks and strikes

    async def test_blocks_stand_until_they_end_or_are_lifted(self, store: GuardStore, fake_time: FakeTime) -> None:
        for_ever = Block("all", "operator")
        for_a_minute = Block("region:XK", "velocity", fake_time.seconds + 60)
        await store.block(for_ever)
        await store.block(for_a_minute)
        assert await store.blocks_among(["region:XK", "region:US", "all"]) == [for_a_minute, for_ever]
        assert await store.blocks_among(["region:US"]) == []
        fake_time.advance(59.9)
        assert len(await store.blocks()) == 2
        fake_time.advance(0.1)
        assert await store.blocks_among(["region:XK", "all"]) == [for_ever]
        assert await store.blocks() == [for_ever]
        assert await store.unblock("all")
        assert not await store.unblock("all")
        assert await store.blocks_among(["all"]) == []

    async def test_each_further_strike_blocks_for_twice_as_long_up_to_a_week(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        lengths = []
        for _ in range(6):
            block = await store.strike("prefix:+1415", "velocity", 43_200)
            assert block.until is not None
            lengths.append(block.until - fake_time.seconds)
            fake_time.seconds = block.until
            await store.expire()
            assert await store.blocks() == []
        assert lengths == [43_200, 86_400, 172_800, 345_600, STRIKE_MEMORY_SECONDS, STRIKE_MEMORY_SECONDS]
        fake_time.advance(STRIKE_MEMORY_SECONDS)
        await store.expire()
        block = await store.strike("prefix:+1415", "velocity", 43_200)
        assert block.until == fake_time.seconds + 43_200, "a week without one, and it begins anew"

    async def test_many_strikes_at_once_are_one(self, store: GuardStore, fake_time: FakeTime) -> None:
        blocks = await asyncio.gather(*(store.strike("prefix:+1415", "velocity", 100) for _ in range(50)))
        assert {block.until for block in blocks} == {fake_time.seconds + 100}
        fake_time.advance(100)
        assert (await store.strike("prefix:+1415", "velocity", 100)).until == fake_time.seconds + 200

    async def test_a_strike_does_not_put_an_end_to_an_operators_block(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        await store.block(Block("prefix:+1415", "operator"))
        await store.strike("prefix:+1415", "velocity", 60)
        fake_time.advance(61)
        assert await store.blocks_among(["prefix:+1415"]) == [Block("prefix:+1415", "operator")]

    async def test_lifting_a_block_forgives_its_strikes(self, store: GuardStore, fake_time: FakeTime) -> None:
        await store.strike("prefix:+1415", "velocity", 60)
        assert await store.unblock("prefix:+1415")
        assert (await store.strike("prefix:+1415", "velocity", 60)).until == fake_time.seconds + 60

    # Shares

    async def test_what_was_reserved_is_refunded_with_the_share(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        reserved = await self.count(store, charge(FEW, amount=2))
        await store.tally(["a"], fake_time.seconds, verified=1, refund=reserved)
        assert await store.room(charge(FEW)) == (FEW.smallest_limit, 0)
        fake_time.advance(GRACE + COHORT_SECONDS)
        assert await store.shares(["a"], GRACE) == [Share(0, 1)]

    async def test_a_share_is_of_the_last_hour_without_the_youngest(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        fake_time.seconds = begun_at = 60_000.0
        for _ in range(10):
            await store.tally(["a", "b"], begun_at, begun=1)
        for _ in range(4):
            await store.tally(["a"], begun_at, verified=1)
        fake_time.seconds = begun_at + GRACE
        assert await store.shares(["a"], GRACE) == [Share(0, 0)], "hearing and typing takes time"
        fake_time.seconds = begun_at + GRACE + COHORT_SECONDS
        assert await store.shares(["c", "a", "b"], GRACE) == [Share(0, 0), Share(10, 4), Share(10, 0)]
        await store.tally(["a"], begun_at, begun=-3)
        assert await store.shares(["a"], GRACE) == [Share(7, 4)]
        fake_time.seconds = begun_at + SHARE_WINDOW_SECONDS - 1
        assert await store.shares(["a"], GRACE) == [Share(7, 4)]
        fake_time.seconds = begun_at + SHARE_WINDOW_SECONDS + COHORT_SECONDS
        assert await store.shares(["a"], GRACE) == [Share(0, 0)]

    # What is remembered

    async def test_the_first_value_stands_until_its_time_is_over(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        assert await store.remember("key", b"first", 60) is None
        assert await store.remember("key", b"second", 60) == b"first"
        assert await store.remember("other", b"second", 60) is None
        fake_time.advance(59.9)
        assert await store.remember("key", b"second", 60) == b"first", "asking does not lengthen it"
        assert await store.recall("key") == b"first"
        fake_time.advance(0.1)
        assert await store.recall("key") is None
        assert await store.remember("key", b"third", 60) is None

    async def test_of_many_at_once_one_is_the_first(self, store: GuardStore) -> None:
        answers = await asyncio.gather(*(store.remember("key", b"%d" % number, 60) for number in range(100)))
        assert answers.count(None) == 1
        assert len({answer for answer in answers if answer is not None}) == 1

    async def test_replacing_gives_a_new_value_and_a_new_time(
        self, store: GuardStore, fake_time: FakeTime
    ) -> None:
        await store.remember("key", b"running", 60)
        await store.replace("key", b"done", 600)
        fake_time.advance(90)
        await store.expire()
        assert await store.recall("key") == b"done"
        assert await store.remember("key", b"again", 60) == b"done"
        await store.forget("key")
        assert await store.recall("key") is None
        assert await store.remember("key", b"again", 60) is None
        await store.forget("unknown")


class BoundedGuardStoreCases(GuardStoreCases):
    """What a store does besides that counts its entries, and drops them by itself."""

    def make_store(self, time: FakeTime, capacity: int = 1000) -> GuardStore:
        raise NotImplementedError

    async def test_a_full_store_refuses_and_keeps_what_it_has(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, capacity=3)
        for subject in "abc":
            for _ in range(3):
                await self.count(store, charge(FEW, subject=subject))
        for charges in ([charge(FEW, subject="d")], [charge(MANY, subject="a"), charge(FEW, subject="d")]):
            with pytest.raises(StoreFull):
                await store.reserve(charges)
        for subject in "abc":
            await self.refusal(store, charge(FEW, subject=subject))
        fake_time.advance(62)
        await store.expire()
        await self.count(store, charge(MANY, subject="d"), charge(FEW, subject="d"), charge(FEW, subject="e"))

    async def test_refusals_fill_no_store(self, fake_time: FakeTime) -> None:
        """A client that is over its quota must not use up the room of all others with ever new numbers."""
        store = self.make_store(fake_time, capacity=10)
        for _ in range(3):
            await self.count(store, charge(FEW, subject="client"))
        for index in range(100):
            await self.refusal(store, charge(FEW, subject="client"), charge(MANY, subject=f"number {index}"))
        await self.count(store, charge(MANY, subject="number 1"))

    async def test_a_full_memory_refuses_what_is_new(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, capacity=2)
        for key in "ab":
            await store.remember(key, b"1", 60)
        with pytest.raises(StoreFull):
            await store.remember("c", b"1", 60)
        assert await store.remember("a", b"2", 60) == b"1"
        fake_time.advance(62)
        await store.expire()
        assert await store.remember("c", b"1", 60) is None

    async def test_a_full_store_refuses_new_blocks_and_destinations(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, capacity=2)
        for target in ("region:US", "region:GB"):
            await store.block(Block(target, "operator"))
            await store.tally([target], fake_time.seconds, begun=1)
        with pytest.raises(StoreFull):
            await store.strike("region:FR", "velocity", 60)
        with pytest.raises(StoreFull):
            await store.tally(["region:FR"], fake_time.seconds, begun=1)
        await store.block(Block("region:US", "operator"))

    async def test_expiry_works_in_batches_and_says_whether_more_is_due(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time)
        for index in range(7):
            await self.count(store, charge(FEW, subject=str(index)))
        fake_time.advance(62)
        assert [await store.expire(3) for _ in range(3)] == [True, True, False]


def everything_once(store: GuardStore, time: FakeTime, index: int) -> Any:
    """One of each thing that a store keeps, under keys of its own."""

    async def do() -> None:
        reservation = await store.reserve([charge(FEW, subject=f"{index}"), charge(MANY, subject=f"{index}")])
        assert isinstance(reservation, Reservation)
        if index % 2:
            await store.refund(reservation)
        await store.tally([f"prefix:+{index}"], time.seconds, begun=1)
        await store.remember(f"{index}", b"1", 600)
        await store.replace(f"{index}", b"2", 900)
        await store.strike(f"prefix:+{index}", "velocity", 60)
        await store.block(Block(f"region:{index}", "velocity", time.seconds + 60))

    return do()
