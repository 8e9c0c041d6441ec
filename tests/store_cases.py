"""What every store must do with codes, calls and messages.

A store's test module says how to make one, in a class of these cases and of those in `mode_cases.py`.
"""

import asyncio
import contextlib
from typing import Any

import pytest
from msgspec.structs import replace

from call_script import Manner
from number_failures import NumberLocked
from number_page import CallStillLive, NewCode, OtherCall, Outcome
from otp_store import OtpStore, StoreFull
from sealing import Sealer
from sms_provider import MessageReport, MessageState
from tests.conftest import FakeTime
from verification import Call, Message, Mode, NewCall, NewMessage, Status, Verification
from voice_provider import CallEvent, CallState, EndReason

CLIENT = "shop"
PHONE = "+14155550142"
OTHER_PHONE = "+14155550143"
CODE = "012345"
SEALER = Sealer(["a secret that is only used in tests"])
NEW_CALL = NewCall(
    provider="vobiz",
    from_number="+12025550100",
    manner=Manner("en-US"),
    ring_timeout_seconds=30,
    time_limit_seconds=150,
    first_reading_seconds=20,
)

QUEUED_CALL = replace(NEW_CALL, queue_seconds=60)
OTHER_CARRIERS_CALL = replace(NEW_CALL, provider="plivo", from_number="+12025550101")
NEW_MESSAGE = NewMessage(provider="plivo", from_number="+12025550101", language="en")


def new_code(code: str = CODE, *, own: bool = False, ttl: int = 300, mode: Mode = Mode.SPEAK) -> NewCode:
    return NewCode(code, own, ttl, mode=mode)


def call_of(record: Verification) -> Call:
    assert record.call is not None
    return record.call


def message_of(record: Verification) -> Message:
    assert record.message is not None
    return record.message


def events_of(record: Verification) -> list[str]:
    return [event for _, event in record.timeline()]


class StoreUnderTest:
    def make_store(self, time: FakeTime, **options: Any) -> OtpStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self, fake_time: FakeTime) -> OtpStore:
        return self.make_store(fake_time)

    async def begin(
        self, store: OtpStore, phone: str = PHONE, new_call: NewCall = NEW_CALL, **code: Any
    ) -> Verification:
        return (await store.begin(CLIENT, phone, new_code(**code), new_call)).record

    async def end_call(self, store: OtpStore, record: Verification) -> None:
        await store.fail_call(record.id, self.number(record), EndReason.NO_ANSWER, "")

    async def answer_call(self, store: OtpStore, record: Verification) -> None:
        event = CallEvent("call-1", CallState.ANSWERED)
        await store.record_call_event(record.id, self.number(record), event)

    @staticmethod
    def number(record: Verification) -> int:
        assert record.call is not None
        return record.call.number


class StoreCases(StoreUnderTest):
    # Codes and attempts

    async def test_the_right_code_is_accepted_once(self, store: OtpStore) -> None:
        await self.begin(store)
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.NOT_FOUND

    async def test_of_many_checks_at_once_one_succeeds(self, store: OtpStore) -> None:
        await self.begin(store)
        checks = await asyncio.gather(*(store.check(CLIENT, PHONE, CODE) for _ in range(200)))
        assert [check.outcome for check in checks].count(Outcome.CORRECT) == 1

    async def test_the_fifth_wrong_code_locks_and_the_right_one_is_refused_then(self, store: OtpStore) -> None:
        await self.begin(store)
        left = []
        for _ in range(5):
            checked = await store.check(CLIENT, PHONE, "999999")
            assert checked.outcome is Outcome.INCORRECT
            assert checked.record is not None
            left.append(checked.record.attempts_left)
        assert left == [4, 3, 2, 1, 0]
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.TOO_MANY_ATTEMPTS
        record = await store.find(CLIENT, PHONE)
        assert record is not None
        assert record.status is Status.LOCKED

    async def test_of_many_wrong_codes_at_once_five_are_compared(self, store: OtpStore) -> None:
        await self.begin(store)
        checks = await asyncio.gather(*(store.check(CLIENT, PHONE, "999999") for _ in range(200)))
        assert [check.outcome for check in checks].count(Outcome.INCORRECT) == 5

    async def test_a_code_belongs_to_its_number(self, store: OtpStore) -> None:
        await self.begin(store, code="111111")
        await self.begin(store, OTHER_PHONE, code="222222")
        assert (await store.check(CLIENT, PHONE, "222222")).outcome is Outcome.INCORRECT

    async def test_a_verification_is_found_by_its_id_too(self, store: OtpStore) -> None:
        record = await self.begin(store)
        assert (await store.check(CLIENT, record.id, CODE)).outcome is Outcome.CORRECT

    async def test_nothing_is_known_of_other_numbers_and_ids(self, store: OtpStore) -> None:
        await self.begin(store)
        assert (await store.check(CLIENT, OTHER_PHONE, CODE)).outcome is Outcome.NOT_FOUND
        assert await store.find(CLIENT, "vrf_" + "0" * 32) is None

    async def test_a_code_with_other_characters_than_ascii_is_just_wrong(self, store: OtpStore) -> None:
        await self.begin(store)
        assert (await store.check(CLIENT, PHONE, "٠١٢٣٤٥")).outcome is Outcome.INCORRECT

    async def test_a_code_is_sealed_and_erased_once_it_is_worthless(self, store: OtpStore) -> None:
        record = await self.begin(store)
        assert CODE.encode() not in record.sealed_code
        verified = (await store.check(CLIENT, PHONE, CODE)).record
        assert verified is not None
        assert verified.sealed_code == b""

    async def test_an_attempt_that_is_made_again_has_the_same_outcome_and_counts_once(
        self, store: OtpStore
    ) -> None:
        await self.begin(store)
        for name, left in (("one", 4), ("one", 4), ("two", 3), ("two", 3)):
            checked = await store.check(CLIENT, PHONE, "999999", name)
            assert checked.record is not None
            assert (checked.outcome, checked.record.attempts_left) == (Outcome.INCORRECT, left)
        for _ in range(3):
            assert (await store.check(CLIENT, PHONE, CODE, "three")).outcome is Outcome.CORRECT
        assert (await store.check(CLIENT, PHONE, CODE, "four")).outcome is Outcome.NOT_FOUND
        assert (await store.check(CLIENT, PHONE, "999999", "three")).outcome is Outcome.NOT_FOUND, "another code"
        assert (await store.check("bank", PHONE, CODE, "three")).outcome is Outcome.NOT_FOUND

    # Time

    async def test_a_code_is_right_until_its_deadline_and_not_after(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time)
        await self.begin(store, ttl=300)
        fake_time.advance(299.9)
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT
        await self.begin(store, OTHER_PHONE, ttl=300)
        fake_time.advance(300)
        assert (await store.check(CLIENT, OTHER_PHONE, CODE)).outcome is Outcome.NOT_FOUND

    async def test_a_deadline_needs_no_traffic(self, store: OtpStore, fake_time: FakeTime) -> None:
        record = await self.begin(store, ttl=30)
        fake_time.advance(31)
        assert not (await store.expire()).some_are_left
        expired = await store.find(CLIENT, record.id)
        assert expired is not None
        assert (expired.status, expired.sealed_code) == (Status.EXPIRED, b"")

    async def test_an_ended_verification_is_forgotten_after_its_retention(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, retention_seconds=60)
        record = await self.begin(store, ttl=30)
        await self.end_call(store, record)
        for seconds in (31, 58):
            fake_time.advance(seconds)
            await store.expire()
            assert await store.find(CLIENT, record.id) is not None
        fake_time.advance(3)
        await store.expire()
        assert await store.find(CLIENT, record.id) is None
        assert await store.find(CLIENT, PHONE) is None

    async def test_an_ended_verification_is_remembered_as_long_as_its_call_is_live(
        self, fake_time: FakeTime
    ) -> None:
        store = self.make_store(fake_time, retention_seconds=60)
        record = await self.begin(store)
        await self.answer_call(store, record)
        await store.check(CLIENT, PHONE, CODE)
        fake_time.advance(61)
        await store.expire()
        with pytest.raises(CallStillLive):
            await self.begin(store)

    async def test_forgetting_an_old_verification_leaves_the_newer_one_of_its_number(
        self, fake_time: FakeTime
    ) -> None:
        store = self.make_store(fake_time, retention_seconds=60)
        first = await self.begin(store, ttl=30)
        await store.check(CLIENT, PHONE, CODE)
        await self.end_call(store, first)
        fake_time.advance(59)
        second = await self.begin(store, ttl=300)
        fake_time.advance(2)
        await store.expire()
        assert await store.find(CLIENT, first.id) is None
        newest = await store.find(CLIENT, PHONE)
        assert newest is not None
        assert newest.id == second.id

    async def test_expiry_works_in_batches_and_says_whether_more_is_due(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, retention_seconds=0)
        for number in range(10):
            await self.begin(store, f"+1415555{number:04d}", ttl=30)
        fake_time.advance(40)
        assert (await store.expire(limit=4)).some_are_left
        assert (await store.expire(limit=4)).some_are_left
        assert not (await store.expire(limit=4)).some_are_left

    # Resend

    async def test_one_call_at_a_time_for_a_number(self, store: OtpStore) -> None:
        first = await store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
        second = await store.begin(CLIENT, PHONE, new_code("999999"), NEW_CALL)
        assert (first.is_duplicate, second.is_duplicate) == (False, True)
        assert second.record.id == first.record.id

    async def test_of_many_sends_at_once_one_starts_a_call(self, store: OtpStore) -> None:
        begun = await asyncio.gather(*(store.begin(CLIENT, PHONE, new_code(), NEW_CALL) for _ in range(200)))
        assert [one.is_duplicate for one in begun].count(False) == 1

    async def test_a_resend_keeps_code_deadline_and_attempts(self, store: OtpStore, fake_time: FakeTime) -> None:
        first = await self.begin(store)
        await store.check(CLIENT, PHONE, "999999")
        await self.end_call(store, first)
        fake_time.advance(100)
        again = await self.begin(store, code="888888")
        assert (again.id, again.expires_at, again.attempts_left) == (first.id, first.expires_at, 4)
        assert self.number(again) == 2
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def test_a_code_that_the_backend_brings_replaces_the_old_one(self, store: OtpStore) -> None:
        first = await self.begin(store)
        await store.check(CLIENT, PHONE, "999999")
        await self.end_call(store, first)
        again = await self.begin(store, code="888888", own=True)
        assert (again.id, again.attempts_left) == (first.id, 4)
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.INCORRECT
        assert (await store.check(CLIENT, PHONE, "888888")).outcome is Outcome.CORRECT

    async def test_a_code_that_is_brought_again_is_not_said_to_be_replaced(self, store: OtpStore) -> None:
        for _ in range(2):
            record = await self.begin(store, own=True)
            await self.end_call(store, record)
        assert "code_replaced" not in events_of(record)
        assert "code_replaced" in events_of(await self.begin(store, code="888888", own=True))

    async def test_new_codes_on_resend_kill_the_old_one_at_once(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, replace_code_on_resend=True)
        first = await self.begin(store)
        await self.end_call(store, first)
        await self.begin(store, code="888888")
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.INCORRECT
        assert (await store.check(CLIENT, PHONE, "888888")).outcome is Outcome.CORRECT

    async def test_a_verification_that_ended_is_followed_by_a_new_one(self, store: OtpStore) -> None:
        first = await self.begin(store)
        await store.check(CLIENT, PHONE, CODE)
        await self.end_call(store, first)
        second = await self.begin(store, code="888888")
        assert second.id != first.id
        newest = await store.find(CLIENT, PHONE)
        assert newest is not None
        assert newest.id == second.id

    @pytest.mark.parametrize("end", ["verified", "locked", "cancelled", "expired"])
    async def test_the_live_call_of_an_ended_verification_keeps_a_second_one_from_starting(
        self, store: OtpStore, fake_time: FakeTime, end: str
    ) -> None:
        first = await self.begin(store, ttl=40)
        for _ in range(5 if end == "locked" else 0):
            await store.check(CLIENT, PHONE, "999999")
        if end == "locked":
            fake_time.advance(30)  # the wait that the fifth wrong code costs
        elif end == "verified":
            await store.check(CLIENT, PHONE, CODE)
        elif end == "cancelled":
            await store.cancel(CLIENT, PHONE)
        elif end == "expired":
            fake_time.advance(40)
        with pytest.raises(CallStillLive) as live:
            await self.begin(store)
        assert (live.value.record.id, live.value.record.status) == (first.id, end)
        await self.end_call(store, first)
        assert (await self.begin(store)).id != first.id

    async def test_a_backends_own_code_is_not_dropped_silently_while_another_one_is_read(
        self, store: OtpStore
    ) -> None:
        await self.begin(store, own=True)
        assert (await store.begin(CLIENT, PHONE, new_code(own=True), NEW_CALL)).is_duplicate
        with pytest.raises(CallStillLive):
            await store.begin(CLIENT, PHONE, new_code("888888", own=True), NEW_CALL)
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    # Failures over all codes of a number

    async def test_wrong_codes_are_counted_over_all_codes_and_clients_of_a_number(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        evaluated = 0
        for client in ("shop", "bank") * 15:
            fake_time.advance(3600)  # the longest wait
            with contextlib.suppress(NumberLocked):
                record = (await store.begin(client, PHONE, new_code(), NEW_CALL)).record
                evaluated += (await store.check(client, PHONE, "999999")).outcome is Outcome.INCORRECT
                await self.end_call(store, record)
        assert evaluated == 20

    async def test_each_wrong_code_from_the_fifth_on_costs_a_longer_wait(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        record = await self.begin(store)
        for _ in range(5):
            await store.check(CLIENT, PHONE, "999999")
        await self.end_call(store, record)
        waits = []
        for _ in range(8):
            with pytest.raises(NumberLocked) as locked:
                await self.begin(store)
            waits.append(locked.value.retry_after_seconds)
            fake_time.advance(waits[-1])
            record = await self.begin(store)
            assert (await store.check(CLIENT, PHONE, "999999")).outcome is Outcome.INCORRECT
            await self.end_call(store, record)
        assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600]

    async def test_a_running_code_is_not_compared_during_a_wait(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, max_failures_per_number=3)
        await self.begin(store)
        for _ in range(3):
            await store.check(CLIENT, PHONE, "999999")
        for candidate in (CODE, "999999"):
            with pytest.raises(NumberLocked):
                await store.check(CLIENT, PHONE, candidate)
        record = await store.find(CLIENT, PHONE)
        assert record is not None
        assert record.attempts_left == 2, "nothing was counted either"

    async def test_a_new_code_forgives_nothing(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, max_failures_per_number=8)
        for waits in ((0, 0, 0, 0), (30, 60, 120, 0)):
            record = await self.begin(store)
            for wait in waits:
                await store.check(CLIENT, PHONE, "999999")
                fake_time.advance(wait)
            await store.cancel(CLIENT, PHONE)
            await self.end_call(store, record)
        with pytest.raises(NumberLocked):
            await self.begin(store)

    async def test_a_success_forgives_the_failures(self, store: OtpStore) -> None:
        for _ in range(6):
            record = await self.begin(store)
            for _ in range(4):
                await store.check(CLIENT, PHONE, "999999")
            assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT
            await self.end_call(store, record)

    async def test_a_number_with_all_its_failures_has_one_guess_a_day_and_a_hundred_at_the_most(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        evaluated, waits = 0, [0]
        while waits[-1] < 30 * 24 * 3600:
            fake_time.advance(waits[-1])
            record = await self.begin(store)
            while (await store.check(CLIENT, PHONE, "999999")).outcome is Outcome.INCORRECT:
                evaluated += 1
                if evaluated >= 5:
                    break
            await store.cancel(CLIENT, PHONE)
            await self.end_call(store, record)
            await store.expire()
            with pytest.raises(NumberLocked) as locked:
                await self.begin(store)
            waits.append(locked.value.retry_after_seconds)
        assert evaluated == 100
        assert waits[-3:] == [24 * 3600, 24 * 3600, 30 * 24 * 3600]

    async def test_failures_are_forgotten_thirty_days_after_the_last_one(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        await self.fail(store, times=5)
        for _ in range(29):
            fake_time.advance(24 * 3600)
            await store.expire()
        await self.fail(store, times=1)
        with pytest.raises(NumberLocked):  # for a minute: it was the sixth
            await self.begin(store)
        for _ in range(31):
            fake_time.advance(24 * 3600)
            await store.expire()
        await self.fail(store, times=4)
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def fail(self, store: OtpStore, times: int) -> None:
        record = await self.begin(store)
        for _ in range(times):
            assert (await store.check(CLIENT, PHONE, "999999")).outcome is Outcome.INCORRECT
        await self.end_call(store, record)

    # Clients

    async def test_a_verification_is_its_clients_own(self, store: OtpStore) -> None:
        record = await self.begin(store)
        for key in (PHONE, record.id):
            assert await store.find("bank", key) is None
            assert (await store.check("bank", key, CODE)).outcome is Outcome.NOT_FOUND
            assert await store.cancel("bank", key) is None
        found = await store.find_by_id(record.id)
        assert found is not None
        assert (found.client, found.attempts_left) == (CLIENT, 5)
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def test_two_clients_have_a_code_each_for_one_number(self, store: OtpStore) -> None:
        first = await self.begin(store)
        await self.end_call(store, first)
        other = (await store.begin("bank", PHONE, new_code("888888"), NEW_CALL)).record
        assert other.id != first.id
        assert (await store.check("bank", PHONE, CODE)).outcome is Outcome.INCORRECT
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT
        assert (await store.check("bank", PHONE, "888888")).outcome is Outcome.CORRECT

    async def test_a_number_has_one_live_call_whoever_asked_for_it(self, store: OtpStore) -> None:
        first = await self.begin(store)
        with pytest.raises(CallStillLive):
            await store.begin("bank", PHONE, new_code(), NEW_CALL)
        await self.end_call(store, first)
        assert not (await store.begin("bank", PHONE, new_code(), NEW_CALL)).is_duplicate

    async def test_two_spellings_of_one_line_share_its_one_live_call(self, store: OtpStore) -> None:
        await self.begin(store, "+5491123456789")
        with pytest.raises(CallStillLive):
            await self.begin(store, "+541123456789")

    async def test_joining_finds_what_beginning_would_return(self, store: OtpStore) -> None:
        assert await store.join(CLIENT, PHONE, new_code()) is None
        record = await self.begin(store, own=True)
        joined = await store.join(CLIENT, PHONE, new_code(own=True))
        assert joined is not None
        assert joined.id == record.id
        assert await store.join("bank", PHONE, new_code()) is None
        assert await store.join(CLIENT, PHONE, new_code("888888", own=True)) is None
        await self.end_call(store, record)
        assert await store.join(CLIENT, PHONE, new_code()) is None

    # Clocks that are set or stand still

    @pytest.mark.parametrize(("boot", "wall"), [(0, 300), (300, -3600), (1200, 0)])
    async def test_no_clock_lengthens_the_life_of_a_code(
        self, store: OtpStore, fake_time: FakeTime, boot: float, wall: float
    ) -> None:
        await self.begin(store, ttl=300)
        fake_time.seconds += boot
        fake_time.wall_seconds += wall
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.NOT_FOUND

    # Cancelling

    async def test_a_cancelled_code_is_worthless(self, store: OtpStore) -> None:
        await self.begin(store)
        cancelled = await store.cancel(CLIENT, PHONE)
        assert cancelled is not None
        assert (cancelled.status, cancelled.sealed_code) == (Status.CANCELLED, b"")
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.NOT_FOUND
        assert await store.cancel(CLIENT, PHONE) is None

    # Calls

    async def test_a_live_call_is_found_by_the_carriers_id_until_it_ends(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await store.name_call(record.id, 1, "call-1")
        await store.name_call(record.id, 1, "call-2")
        with pytest.raises(OtherCall):
            await store.record_call_event(record.id, 1, CallEvent("call-1", CallState.COMPLETED))
        found = await store.find_by_call_id("vobiz", "call-2")
        assert found is not None
        assert found.id == record.id
        assert await store.find_by_call_id("vobiz", "call-1") is None, "what the carrier said last is its id"
        assert await store.find_by_call_id("plivo", "call-2") is None, "another carrier's call of the same id"
        await self.end_call(store, record)
        assert await store.find_by_call_id("vobiz", "call-2") is None

    async def test_the_code_is_read_in_a_live_call_a_bounded_number_of_times(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await self.answer_call(store, record)
        assert await store.read_code(record.id, 1, 3) is None, "no reading may be skipped"
        for reading in (1, 2, 3, 4):
            fetched = [await store.read_code(record.id, 1, reading) for _ in range(5)]
            assert fetched == [CODE, CODE, CODE, None, None], "a carrier tries three times"
        assert await store.read_code(record.id, 1, 5) is None
        assert await store.read_code(record.id, 1, 1) is None

    async def test_the_code_is_not_read_in_another_call_nor_after_the_end(self, store: OtpStore) -> None:
        record = await self.begin(store)
        assert await store.read_code(record.id, 2, 1) is None
        await self.end_call(store, record)
        assert await store.read_code(record.id, 1, 1) is None

    @pytest.mark.parametrize("end", ["verified", "cancelled", "expired"])
    async def test_the_code_is_not_read_once_it_is_worthless(
        self, store: OtpStore, fake_time: FakeTime, end: str
    ) -> None:
        record = await self.begin(store, ttl=30)
        await self.answer_call(store, record)
        if end == "locked":
            fake_time.advance(30)  # the wait that the fifth wrong code costs
        elif end == "verified":
            await store.check(CLIENT, PHONE, CODE)
        elif end == "cancelled":
            await store.cancel(CLIENT, PHONE)
        else:
            fake_time.advance(31)
        assert await store.read_code(record.id, 1, 1) is None

    async def test_a_reading_that_was_played_to_its_end_makes_it_delivered(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await self.answer_call(store, record)
        await store.record_reading_end(record.id, 1, 1)
        unread = await store.find(CLIENT, record.id)
        assert unread is not None
        assert unread.status is Status.CALLING, "nothing was fetched yet"
        await store.read_code(record.id, 1, 1)
        for _ in range(3):  # repeated callbacks count once
            read = await store.record_reading_end(record.id, 1, 1)
        assert read is not None
        assert read.call is not None
        assert (read.status, read.call.times_spoken) == (Status.DELIVERED, 1)

    async def test_wrong_keys_are_counted(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await self.answer_call(store, record)
        await store.read_code(record.id, 1, 1)
        await store.record_reading_end(record.id, 1, 1, wrong_key=True)
        noted = await store.record_reading_end(record.id, 1, 1, wrong_key=True)
        assert noted is not None
        assert noted.call is not None
        assert noted.call.wrong_keys == 2

    async def test_events_of_an_unknown_call_change_nothing(self, store: OtpStore) -> None:
        record = await self.begin(store)
        event = CallEvent("call-1", CallState.COMPLETED)
        assert await store.record_call_event(record.id, 2, event) is None
        assert await store.record_call_event("vrf_" + "0" * 32, 1, event) is None
        assert await store.name_call(record.id, 2, "x") is None
        assert await store.fail_call(record.id, 2, EndReason.FAILED, "") is None
        assert await store.record_reading_end(record.id, 2, 1) is None
        assert await store.find(CLIENT, record.id) == record

    async def test_any_number_of_silent_calls_is_handed_out_at_once(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        for number in range(50):
            record = await self.begin(store, f"+1415555{number:04d}")
            if number % 2:
                await self.end_call(store, record)
        fake_time.advance(46)
        assert len(await store.take_overdue_calls(limit=100)) == 25

    async def test_a_silent_call_is_handed_out_once_and_then_given_up(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        record = await self.begin(store)
        fake_time.advance(30 + 14)
        assert await store.take_overdue_calls() == []
        fake_time.advance(2)
        assert [overdue.id for overdue in await store.take_overdue_calls()] == [record.id]
        assert await store.take_overdue_calls() == []
        fake_time.advance(31)
        given_up = await store.find(CLIENT, record.id)
        assert given_up is not None
        assert given_up.call is not None
        assert (given_up.status, given_up.call.end_reason) == (Status.UNDELIVERED, EndReason.UNKNOWN)
        assert await store.take_overdue_calls() == []

    async def test_a_call_that_its_carrier_says_goes_on_is_waited_for_again_but_not_for_ever(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        record = await self.begin(store, ttl=600)
        still_queued = CallEvent("call-1", CallState.DIALING)
        asked = 0
        for _ in range(600):
            fake_time.advance(1)
            for overdue in await store.take_overdue_calls():
                asked += 1
                await store.record_call_event(overdue.id, 1, still_queued)
        found = await store.find(CLIENT, record.id)
        assert found is not None
        assert found.call is not None
        assert found.call.end_reason is EndReason.UNKNOWN
        assert asked in (21, 22), "for 2 x (30 + 150) s, each 15 s; a second is the finest that a store may tell"

    async def test_a_call_that_moves_on_is_not_overdue(self, store: OtpStore, fake_time: FakeTime) -> None:
        record = await self.begin(store)
        fake_time.advance(20)
        await self.answer_call(store, record)
        fake_time.advance(100)
        assert await store.take_overdue_calls() == []
        fake_time.advance(70)
        assert len(await store.take_overdue_calls()) == 1

    # Calls that wait for their turn

    async def test_a_queued_call_is_the_one_live_call_of_its_number(self, store: OtpStore) -> None:
        queued = (await store.begin(CLIENT, PHONE, new_code(), QUEUED_CALL)).record
        assert call_of(queued).state is CallState.QUEUED
        assert (await store.begin(CLIENT, PHONE, new_code(), NEW_CALL)).is_duplicate
        with pytest.raises(CallStillLive):
            await store.begin("bank", PHONE, new_code(), NEW_CALL)
        assert events_of(queued) == ["created", "queued"]

    async def test_a_queued_call_is_dialled_once(self, store: OtpStore, fake_time: FakeTime) -> None:
        queued = (await store.begin(CLIENT, PHONE, new_code(), QUEUED_CALL)).record
        fake_time.advance(20)
        dialled = [await store.dial_queued(queued.id, 1) for _ in range(3)]
        assert dialled[0] is not None
        call = call_of(dialled[0])
        assert (call.state, call.started_at) == (CallState.DIALING, fake_time.seconds), "it rings from now on"
        assert events_of(dialled[0]) == ["created", "queued", "dialing"]
        assert dialled[1:] == [None, None]

    @pytest.mark.parametrize("end", ["verified", "cancelled", "expired", "call failed", "other call"])
    async def test_a_queued_call_that_is_not_wanted_any_more_is_not_dialled(
        self, store: OtpStore, fake_time: FakeTime, end: str
    ) -> None:
        queued = (await store.begin(CLIENT, PHONE, new_code(ttl=30), QUEUED_CALL)).record
        if end == "verified":
            await store.check(CLIENT, PHONE, CODE)
        elif end == "cancelled":
            await store.cancel(CLIENT, PHONE)
        elif end == "expired":
            fake_time.advance(30)
        elif end == "call failed":
            await store.fail_call(queued.id, 1, EndReason.FAILED, "queue_timeout")
        assert await store.dial_queued(queued.id, 2 if end == "other call" else 1) is None

    async def test_a_call_that_waits_is_not_overdue_before_it_could_have_rung(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        queued = (await store.begin(CLIENT, PHONE, new_code(), QUEUED_CALL)).record
        fake_time.advance(60 + 30 + 14)
        assert await store.take_overdue_calls() == []
        assert await store.dial_queued(queued.id, 1) is not None
        fake_time.advance(30 + 14)
        assert await store.take_overdue_calls() == []
        fake_time.advance(2)
        assert [overdue.id for overdue in await store.take_overdue_calls()] == [queued.id]

    async def test_live_calls_are_counted_by_carrier_and_without_queued_ones(self, store: OtpStore) -> None:
        async def counts() -> tuple[int, int]:
            return await store.live_calls("vobiz"), await store.live_calls("plivo")

        first = await self.begin(store)
        queued = (await store.begin(CLIENT, OTHER_PHONE, new_code(), QUEUED_CALL)).record
        await store.begin("bank", "+14155550144", new_code(), OTHER_CARRIERS_CALL)
        assert await counts() == (1, 1)
        await store.dial_queued(queued.id, 1)
        assert await counts() == (2, 1)
        await store.next_call(first.id, 1, OTHER_CARRIERS_CALL, "failed_over")
        assert await counts() == (1, 2)
        for verification_id, number in ((first.id, 2), (first.id, 2), (queued.id, 1)):
            await store.fail_call(verification_id, number, EndReason.FAILED, "")
        assert await counts() == (0, 1)
        waiting = (await store.begin(CLIENT, PHONE, new_code(), QUEUED_CALL)).record
        await store.fail_call(waiting.id, self.number(waiting), EndReason.FAILED, "")
        assert await counts() == (0, 1)

    async def test_a_call_that_is_given_up_for_its_silence_is_counted_no_more(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        record = await self.begin(store)
        fake_time.advance(30 + 15 + 16)
        await store.find_by_id(record.id)
        assert await store.live_calls("vobiz") == 0

    # The next call in place of one that did not get through

    @pytest.mark.parametrize("is_certain", [True, False])
    async def test_a_call_that_is_still_being_placed_moves_on_to_another_carrier(
        self, store: OtpStore, fake_time: FakeTime, is_certain: bool
    ) -> None:
        record = await self.begin(store)
        fake_time.advance(3)
        moved = await store.next_call(record.id, 1, OTHER_CARRIERS_CALL, "failed_over", is_certain=is_certain)
        assert moved is not None
        call = call_of(moved)
        assert (call.number, call.provider, call.state) == (2, "plivo", CallState.DIALING)
        assert (moved.id, moved.expires_at, moved.redials) == (record.id, record.expires_at, 0)
        assert [(call.number, call.provider) for call in moved.given_up] == ([] if is_certain else [(1, "vobiz")])
        assert events_of(moved) == ["created", "dialing", "failed_over", "dialing"]
        assert await store.record_call_event(record.id, 1, CallEvent("late", CallState.RINGING)) is None
        assert await store.name_call(record.id, 1, "late") is None
        await store.name_call(record.id, 2, "call-2")
        assert await store.find_by_call_id("plivo", "call-2") is not None
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def test_of_many_next_calls_at_once_one_is_begun(self, store: OtpStore) -> None:
        record = await self.begin(store)
        moves = (store.next_call(record.id, 1, OTHER_CARRIERS_CALL, "failed_over") for _ in range(100))
        moved = await asyncio.gather(*moves)
        assert [one is not None for one in moved].count(True) == 1

    @pytest.mark.parametrize("got", ["an id", "ringing", "answered", "ended"])
    async def test_a_call_that_got_through_after_all_is_not_moved_on(self, store: OtpStore, got: str) -> None:
        record = (await store.begin(CLIENT, PHONE, new_code(), NEW_CALL)).record
        if got == "an id":
            await store.name_call(record.id, 1, "call-1")
        elif got == "ended":
            await self.end_call(store, record)
        else:
            await store.record_call_event(record.id, 1, CallEvent("", CallState(got)))
        before = await store.find_by_id(record.id)
        assert await store.next_call(record.id, 1, OTHER_CARRIERS_CALL, "failed_over") is None
        assert await store.find_by_id(record.id) == before

    async def test_a_queued_call_moves_on_to_another_carrier(self, store: OtpStore) -> None:
        record = (await store.begin(CLIENT, PHONE, new_code(), QUEUED_CALL)).record
        moved = await store.next_call(record.id, 1, OTHER_CARRIERS_CALL, "failed_over")
        assert moved is not None
        assert moved.call is not None
        assert (moved.call.number, moved.call.state) == (2, CallState.DIALING)

    async def test_a_call_that_was_given_up_is_waited_for_again(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await store.next_call(record.id, 1, OTHER_CARRIERS_CALL, "failed_over", is_certain=False)
        await store.fail_call(record.id, 2, EndReason.FAILED, "provider_unavailable")
        resumed = await store.resume_given_up(record.id, 2)
        assert resumed is not None
        assert resumed.live_call is not None
        assert (resumed.live_call.number, resumed.given_up, resumed.status) == (1, (), Status.CALLING)
        assert await store.resume_given_up(record.id, 1) is None
        assert await store.read_code(record.id, 1, 1) == CODE

    @pytest.mark.parametrize("why", ["failed_over", "redialing"])
    @pytest.mark.parametrize("end", ["verified", "cancelled", "expired", "locked", "other call"])
    async def test_no_next_call_is_begun_for_a_code_that_has_ended(
        self, store: OtpStore, fake_time: FakeTime, why: str, end: str
    ) -> None:
        record = await self.begin(store, ttl=30)
        if why == "redialing":
            await self.end_call(store, record)
        if end == "verified":
            await store.check(CLIENT, PHONE, CODE)
        elif end == "cancelled":
            await store.cancel(CLIENT, PHONE)
        elif end == "expired":
            fake_time.advance(30)
        for _ in range(5 if end == "locked" else 0):
            await store.check(CLIENT, PHONE, "999999")
        before = await store.find_by_id(record.id)
        number = 2 if end == "other call" else 1
        assert await store.next_call(record.id, number, OTHER_CARRIERS_CALL, why) is None
        assert await store.find_by_id(record.id) == before

    @pytest.mark.parametrize("new_call", [OTHER_CARRIERS_CALL, replace(OTHER_CARRIERS_CALL, queue_seconds=60)])
    async def test_a_call_that_has_ended_is_redialled(self, store: OtpStore, new_call: NewCall) -> None:
        record = await self.begin(store)
        await self.end_call(store, record)
        again = await store.next_call(record.id, 1, new_call, "redialing")
        assert again is not None
        state = CallState.QUEUED if new_call.queue_seconds else CallState.DIALING
        assert (call_of(again).number, call_of(again).state) == (2, state)
        assert (again.status, again.redials, again.given_up) == (Status.CALLING, 1, ())
        assert events_of(again)[3:] == ["redialing", state.value]
        assert await store.next_call(record.id, 1, new_call, "redialing") is None, (
            "the call before is not the last"
        )
        assert (await store.begin(CLIENT, PHONE, new_code(), NEW_CALL)).is_duplicate

    async def test_a_live_call_is_not_redialled(self, store: OtpStore) -> None:
        record = await self.begin(store)
        assert await store.next_call(record.id, 1, NEW_CALL, "redialing") is None

    async def test_a_number_is_not_redialled_while_another_clients_call_to_it_is_live(
        self, store: OtpStore
    ) -> None:
        record = await self.begin(store)
        await self.end_call(store, record)
        other = (await store.begin("bank", PHONE, new_code(), NEW_CALL)).record
        assert await store.next_call(record.id, 1, NEW_CALL, "redialing") is None
        await self.end_call(store, other)
        assert await store.next_call(record.id, 1, NEW_CALL, "redialing") is not None

    # Carriers that are told the code before they dial

    async def test_the_whole_code_is_handed_out_for_a_live_call(self, store: OtpStore) -> None:
        record = await self.begin(store)
        assert await store.read_whole_code(record.id, 2) is None, "another call"
        assert await store.read_whole_code(record.id, 1) == CODE
        event = CallEvent("call-1", CallState.COMPLETED, talk_seconds=25)
        ended = await store.record_call_event(record.id, 1, event)
        assert ended is not None
        assert (ended.status, call_of(ended).end_reason) == (Status.DELIVERED, EndReason.ANSWERED_AND_SPOKEN)
        assert "code_handed_over" in events_of(ended)
        assert await store.read_whole_code(record.id, 1) is None, "the call is over"

    @pytest.mark.parametrize("end", ["verified", "cancelled", "expired"])
    async def test_the_whole_code_is_not_handed_out_once_it_is_worthless(
        self, store: OtpStore, fake_time: FakeTime, end: str
    ) -> None:
        record = await self.begin(store, ttl=30)
        if end == "verified":
            await store.check(CLIENT, PHONE, CODE)
        elif end == "cancelled":
            await store.cancel(CLIENT, PHONE)
        else:
            fake_time.advance(30)
        before = await store.find_by_id(record.id)
        assert await store.read_whole_code(record.id, 1) is None
        assert await store.find_by_id(record.id) == before

    # Text messages

    async def text(self, store: OtpStore, phone: str = PHONE, **code: Any) -> tuple[Verification, str]:
        return await store.begin_message(CLIENT, phone, new_code(**code), NEW_MESSAGE)

    async def test_a_message_begins_a_verification_and_brings_the_code_to_send(self, store: OtpStore) -> None:
        record, code = await self.text(store)
        assert code == CODE
        assert (record.status, record.channel, record.call) == (Status.PENDING, "sms", None)
        message = message_of(record)
        assert (message.provider, message.state, message.message_id) == ("plivo", MessageState.QUEUED, "")
        assert events_of(record) == ["created", "message_queued"]
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def test_a_message_keeps_code_deadline_and_attempts_of_the_verification_under_way(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        first = await self.begin(store)
        await store.check(CLIENT, PHONE, "999999")
        await self.end_call(store, first)
        fake_time.advance(100)
        record, code = await self.text(store, code="888888")
        assert (code, record.id, record.expires_at, record.attempts_left) == (CODE, first.id, first.expires_at, 4)
        fake_time.advance(1)
        again = await self.begin(store)
        assert (again.id, self.number(again), again.channel) == (first.id, 2, "voice")
        assert message_of(again).provider == "plivo"

    async def test_a_message_can_bring_a_new_code(self, store: OtpStore, fake_time: FakeTime) -> None:
        record, _ = await self.text(store)
        own, own_code = await self.text(store, code="888888", own=True)
        assert (own.id, own_code) == (record.id, "888888")
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.INCORRECT
        renewing = self.make_store(fake_time, replace_code_on_resend=True)
        await self.text(renewing)
        _, renewed = await self.text(renewing, code="777777")
        assert renewed == "777777"
        assert (await renewing.check(CLIENT, PHONE, CODE)).outcome is Outcome.INCORRECT
        assert (await renewing.check(CLIENT, PHONE, "777777")).outcome is Outcome.CORRECT

    async def test_no_message_replaces_the_code_that_a_live_call_reads(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, replace_code_on_resend=True)
        called = await self.begin(store)
        assert await store.read_whole_code(called.id, self.number(called)) == CODE
        before = await store.find_by_id(called.id)
        with pytest.raises(CallStillLive):
            await self.text(store, code="888888", own=True)
        assert await store.find_by_id(called.id) == before
        for is_own, code in ((True, CODE), (False, "888888")):
            assert (await self.text(store, code=code, own=is_own))[1] == CODE
        await self.end_call(store, called)
        assert (await self.text(store, code="888888", own=True))[1] == "888888"

    async def test_a_running_code_can_be_kept_where_resends_have_a_new_one(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, replace_code_on_resend=True)
        await self.text(store)
        kept = NewCode("888888", is_backends_own=False, ttl_seconds=300, keeps_running=True)
        _, code = await store.begin_message(CLIENT, PHONE, kept, NEW_MESSAGE)
        assert code == CODE

    async def test_a_verification_that_ended_is_followed_by_a_new_one_also_by_message(
        self, store: OtpStore
    ) -> None:
        first, _ = await self.text(store)
        await store.cancel(CLIENT, PHONE)
        second, code = await self.text(store, code="888888")
        assert (second.id != first.id, code) == (True, "888888")

    async def test_messages_to_one_number_are_each_clients_own(self, store: OtpStore) -> None:
        first, _ = await self.text(store)
        other, code = await store.begin_message("bank", PHONE, new_code("888888"), NEW_MESSAGE)
        assert (other.id != first.id, code) == (True, "888888")
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT
        assert (await store.check("bank", PHONE, "888888")).outcome is Outcome.CORRECT

    async def test_a_message_neither_is_a_live_call_nor_ends_one(self, store: OtpStore) -> None:
        await self.text(store)
        called = await store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
        assert not called.is_duplicate
        texted, _ = await self.text(store)
        assert texted.live_call == called.record.call
        assert (texted.status, await store.live_calls("vobiz")) == (Status.CALLING, 1)
        assert await store.read_code(texted.id, 1, 1) == CODE

    async def test_a_number_that_is_locked_is_sent_no_message(self, store: OtpStore) -> None:
        await self.text(store)
        for _ in range(5):
            await store.check(CLIENT, PHONE, "999999")
        with pytest.raises(NumberLocked):
            await self.text(store)

    async def test_a_message_is_found_by_the_carriers_id_while_it_is_the_newest(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, retention_seconds=60)
        record, _ = await self.text(store, ttl=30)
        assert await store.find_by_message_id("plivo", "") is None
        named = await store.name_message(record.id, 1, "message-1")
        assert named is not None
        found = await store.find_by_message_id("plivo", "message-1")
        assert found == named
        assert await store.find_by_message_id("cm", "message-1") is None, (
            "another carrier's message of the same id"
        )
        await self.text(store)
        assert await store.find_by_message_id("plivo", "message-1") is None
        await store.name_message(record.id, 2, "message-2")
        fake_time.advance(31)
        await store.expire()
        assert await store.find_by_message_id("plivo", "message-2") is not None, "reports may still come"
        fake_time.advance(60)
        await store.expire()
        assert await store.find_by_message_id("plivo", "message-2") is None
        assert await store.find_by_id(record.id) is None

    async def test_reports_move_a_message_on_and_the_code_with_it(self, store: OtpStore) -> None:
        record, _ = await self.text(store)
        seen = []
        for state in (MessageState.SENT, MessageState.SENT, MessageState.DELIVERED, MessageState.SENT):
            moved = await store.record_report(record.id, 1, MessageReport("message-1", state, state.value))
            assert moved is not None
            seen.append((moved.status.value, message_of(moved).state.value, message_of(moved).cause))
        assert seen == [
            ("pending", "sent", "sent"),
            ("pending", "sent", "sent"),
            ("delivered", "delivered", "delivered"),
            ("delivered", "delivered", "delivered"),
        ]
        assert moved is not None
        assert message_of(moved).message_id == "message-1", "the report was quicker than the carrier's answer"
        assert events_of(moved) == ["created", "message_queued", "message_sent", "message_delivered"]

    async def test_a_report_of_an_earlier_message_or_of_none_is_not_kept(self, store: OtpStore) -> None:
        record, _ = await self.text(store)
        await store.name_message(record.id, 1, "message-1")
        await self.text(store)
        for late in (
            MessageReport("message-1", MessageState.DELIVERED),
            MessageReport("", MessageState.DELIVERED),
        ):
            assert await store.record_report(record.id, 1, late) is None
            assert await store.name_message(record.id, 1, "message-1") is None
        named = await store.name_message(record.id, 2, "message-2")
        assert named is not None
        assert message_of(named).state is MessageState.QUEUED
        late = MessageReport("message-1", MessageState.DELIVERED)
        assert await store.record_report(record.id, 2, late) is None
        assert await store.find_by_id(record.id) == named
        called = await self.begin(store, OTHER_PHONE)
        for verification_id in (called.id, "vrf_" + "0" * 32):
            assert await store.record_report(verification_id, 1, late) is None
            assert await store.name_message(verification_id, 1, "message-1") is None

    @pytest.mark.parametrize("end", ["verified", "cancelled", "expired"])
    async def test_a_report_brings_no_code_back_to_life(
        self, store: OtpStore, fake_time: FakeTime, end: str
    ) -> None:
        record, _ = await self.text(store, ttl=30)
        if end == "verified":
            await store.check(CLIENT, PHONE, CODE)
        elif end == "cancelled":
            await store.cancel(CLIENT, PHONE)
        else:
            fake_time.advance(30)
        moved = await store.record_report(record.id, 1, MessageReport("", MessageState.DELIVERED))
        assert moved is not None
        assert (moved.status.value, moved.sealed_code) == (end, b"")
        assert message_of(moved).state is MessageState.DELIVERED
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.NOT_FOUND


class RoomCases(StoreUnderTest):
    """What a store does that has a capacity of its own."""

    async def test_a_full_store_refuses_new_verifications_and_keeps_running_ones(
        self, fake_time: FakeTime
    ) -> None:
        store = self.make_store(fake_time, capacity=2)
        await self.begin(store)
        await self.begin(store, OTHER_PHONE)
        with pytest.raises(StoreFull):
            await self.begin(store, "+14155550144")
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def test_a_full_store_makes_room_by_forgetting_what_has_ended(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, capacity=2)
        first = await self.begin(store)
        await self.begin(store, OTHER_PHONE)
        await store.check(CLIENT, PHONE, CODE)
        with pytest.raises(StoreFull):
            await self.begin(store, "+14155550144")
        await self.end_call(store, first)
        await self.begin(store, "+14155550144")
        assert await store.find(CLIENT, PHONE) is None
        assert await store.find(CLIENT, OTHER_PHONE) is not None

    async def test_remembered_failures_are_never_evicted(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, capacity=2, retention_seconds=0)
        for phone in (PHONE, OTHER_PHONE):
            await self.begin(store, phone, ttl=30)
            await store.check(CLIENT, phone, "999999")
        fake_time.advance(60)
        await store.expire()
        with pytest.raises(StoreFull):
            await self.begin(store, "+14155550144")

    async def test_a_full_store_takes_no_new_message(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, capacity=1)
        await store.begin_message(CLIENT, PHONE, new_code(), NEW_MESSAGE)
        with pytest.raises(StoreFull):
            await store.begin_message(CLIENT, OTHER_PHONE, new_code(), NEW_MESSAGE)
