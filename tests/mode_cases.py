"""What every store must do beyond telling codes: keys before them, codes that are typed, alerts, machines."""

import asyncio

import pytest
from msgspec.structs import replace

from call_script import Manner
from number_failures import NumberLocked
from number_page import CallStillLive, OtherMode, Outcome
from otp_store import OtpStore
from tests.conftest import FakeTime
from tests.store_cases import (
    CLIENT,
    CODE,
    NEW_CALL,
    NEW_MESSAGE,
    OTHER_CARRIERS_CALL,
    PHONE,
    StoreUnderTest,
    call_of,
    events_of,
    new_code,
)
from verification import KEY_TRIES, Mode, Status, Verification
from voice_provider import CallEvent, CallState, EndReason

LOCKED_CALL = replace(NEW_CALL, manner=Manner("en-US", keys_first=2))
ALERT = "what an alert says"
WRONG = "999999"
MACHINE = CallEvent("call-1", CallState.ANSWERED, is_machine=True)
HANGUP = CallEvent("call-1", CallState.COMPLETED, talk_seconds=10)


class ModeCases(StoreUnderTest):
    async def ask(self, store: OtpStore, code: str = CODE, *, own: bool = False) -> Verification:
        """Begin a call that asks for the code, and answer it."""
        record = await self.begin(store, code=code, own=own, mode=Mode.KEYPAD)
        await self.answer_call(store, record)
        return record

    async def alert(self, store: OtpStore, text: str = ALERT, ttl: int = 300) -> Verification:
        record = await self.begin(store, code=text, own=True, ttl=ttl, mode=Mode.ALERT)
        await self.answer_call(store, record)
        return record

    async def hang_up(self, store: OtpStore, record: Verification) -> Verification:
        ended = await store.record_call_event(record.id, self.number(record), HANGUP)
        assert ended is not None
        return ended

    # A code is either told or asked for

    @pytest.mark.parametrize(("first", "second"), [(Mode.SPEAK, Mode.KEYPAD), (Mode.KEYPAD, Mode.SPEAK)])
    async def test_a_code_that_is_running_keeps_its_mode(self, store: OtpStore, first: Mode, second: Mode) -> None:
        record = await self.begin(store, mode=first)
        assert await store.join(CLIENT, PHONE, new_code(mode=second)) is None
        with pytest.raises(CallStillLive):
            await self.begin(store, mode=second)
        await self.end_call(store, record)
        before = await store.find_by_id(record.id)
        with pytest.raises(OtherMode):
            await self.begin(store, mode=second)
        assert await store.find_by_id(record.id) == before
        await store.cancel(CLIENT, PHONE)
        assert (await self.begin(store, mode=second)).mode is second

    async def test_the_mode_of_another_clients_code_is_its_own(self, store: OtpStore) -> None:
        await self.end_call(store, await self.begin(store, mode=Mode.KEYPAD))
        assert not (await store.begin("bank", PHONE, new_code(), NEW_CALL)).is_duplicate

    async def test_a_code_that_is_asked_for_is_in_no_text_message(self, store: OtpStore) -> None:
        await self.ask(store)
        with pytest.raises(OtherMode):
            await store.begin_message(CLIENT, PHONE, new_code(), NEW_MESSAGE)

    # A code that is typed on the phone

    async def test_a_code_that_is_asked_for_is_told_to_nobody(self, store: OtpStore) -> None:
        record = await self.ask(store)
        assert await store.read_code(record.id, 1, 1) is None

    async def test_knowing_a_code_that_is_asked_for_proves_nothing(self, store: OtpStore) -> None:
        record = await self.ask(store)
        for key in (PHONE, record.id):
            for candidate in (CODE, WRONG):
                with pytest.raises(OtherMode):
                    await store.check(CLIENT, key, candidate)
            assert (await store.check("bank", key, CODE)).outcome is Outcome.NOT_FOUND
        found = await store.find_by_id(record.id)
        assert found is not None
        assert (found.status, found.attempts_left) == (Status.CALLING, 5)

    async def test_the_right_code_verifies_when_it_is_typed(self, store: OtpStore) -> None:
        record = await self.ask(store)
        checked = await store.check_typed(record.id, 1, 0, CODE)
        assert checked.outcome is Outcome.CORRECT
        assert checked.record is not None
        assert (checked.record.status, checked.record.sealed_code) == (Status.VERIFIED, b"")
        assert events_of(checked.record)[-2:] == ["code_asked_for", "verified"]
        assert (await store.check_typed(record.id, 1, 1, CODE)).outcome is Outcome.NOT_FOUND
        ended = await self.hang_up(store, record)
        assert (ended.status, call_of(ended).end_reason) == (Status.VERIFIED, EndReason.ANSWERED_AND_SPOKEN)

    async def test_what_is_typed_counts_once_for_each_time_it_was_waited_for(self, store: OtpStore) -> None:
        record = await self.ask(store)
        checks = await asyncio.gather(*(store.check_typed(record.id, 1, 0, WRONG) for _ in range(50)))
        assert [check.outcome for check in checks].count(Outcome.INCORRECT) == 1
        assert (await store.check_typed(record.id, 1, 0, CODE)).outcome is Outcome.NOT_FOUND
        assert (await store.check_typed(record.id, 1, 2, CODE)).outcome is Outcome.NOT_FOUND, "not waited for yet"
        found = await store.find_by_id(record.id)
        assert found is not None
        assert (found.attempts_left, call_of(found).key_tries) == (4, 1)
        assert (await store.check_typed(record.id, 1, 1, CODE)).outcome is Outcome.CORRECT

    async def test_nothing_typed_is_no_attempt(self, store: OtpStore) -> None:
        record = await self.ask(store)
        for number in (0, 0, 1):
            assert (await store.check_typed(record.id, 1, number, "")).outcome is not Outcome.CORRECT
        found = await store.find_by_id(record.id)
        assert found is not None
        assert (found.attempts_left, call_of(found).key_tries) == (5, 2)
        assert events_of(found).count("code_asked_for") == 1
        ended = await self.hang_up(store, record)
        assert (ended.status, call_of(ended).end_reason) == (Status.UNDELIVERED, EndReason.NO_KEYPRESS)

    async def test_the_last_wrong_code_that_is_typed_locks(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, max_attempts=KEY_TRIES)
        record = await self.ask(store)
        for number in range(KEY_TRIES):
            assert (await store.check_typed(record.id, 1, number, WRONG)).outcome is Outcome.INCORRECT
        assert (await store.check_typed(record.id, 1, KEY_TRIES, CODE)).outcome is Outcome.NOT_FOUND
        found = await store.find_by_id(record.id)
        assert found is not None
        assert (found.status, found.sealed_code) == (Status.LOCKED, b"")

    async def test_what_is_typed_during_a_wait_is_not_compared(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, max_failures_per_number=1)
        record = await self.ask(store)
        await store.check_typed(record.id, 1, 0, WRONG)
        for _ in range(3):
            with pytest.raises(NumberLocked):
                await store.check_typed(record.id, 1, 1, CODE)
        found = await store.find_by_id(record.id)
        assert found is not None
        assert (found.attempts_left, call_of(found).key_tries) == (4, 1), "nothing was counted either"

    async def test_a_success_on_the_phone_forgives_the_failures_of_the_number(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, max_failures_per_number=2)
        for _ in range(3):
            record = await self.ask(store)
            await store.check_typed(record.id, self.number(record), 0, WRONG)
            typed = await store.check_typed(record.id, self.number(record), 1, CODE)
            assert typed.outcome is Outcome.CORRECT
            await self.end_call(store, record)

    async def test_a_code_is_typed_in_the_live_call_that_asks_for_it_and_nowhere_else(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        record = await self.ask(store)
        for verification_id, number in ((record.id, 2), ("vrf_" + "0" * 32, 1)):
            checked = await store.check_typed(verification_id, number, 0, CODE)
            assert checked == (Outcome.NOT_FOUND, None)
        await self.end_call(store, record)
        assert (await store.check_typed(record.id, 1, 0, CODE)).outcome is Outcome.NOT_FOUND
        late = await self.ask(store)
        fake_time.advance(300)
        assert (await store.check_typed(late.id, 2, 0, CODE)).outcome is Outcome.NOT_FOUND

    async def test_a_code_that_is_told_is_not_typed_on_the_phone(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await self.answer_call(store, record)
        for typed in (CODE, WRONG, ""):
            assert (await store.check_typed(record.id, 1, 0, typed)).outcome is Outcome.NOT_FOUND
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def test_the_newest_call_asks_for_the_code_that_its_answer_shows(self, store: OtpStore) -> None:
        first = await self.ask(store)
        await store.check_typed(first.id, 1, 0, WRONG)
        await self.end_call(store, first)
        again = await self.ask(store, "888888")
        assert (again.id, again.attempts_left) == (first.id, 4)
        assert (await store.check_typed(again.id, 2, 0, CODE)).outcome is Outcome.INCORRECT
        assert (await store.check_typed(again.id, 2, 1, "888888")).outcome is Outcome.CORRECT

    # Keys before the code

    async def test_a_locked_call_hands_out_no_code_until_its_keys_are_pressed(self, store: OtpStore) -> None:
        record = await self.begin(store, new_call=LOCKED_CALL)
        await self.answer_call(store, record)
        assert await store.read_code(record.id, 1, 1) is None
        wrong = await store.take_keys(record.id, 1, 0, is_right=False)
        assert wrong is not None
        assert await store.read_code(record.id, 1, 1) is None
        right = await store.take_keys(record.id, 1, 1, is_right=True)
        assert right is not None
        assert events_of(right)[-2:] == ["wrong_keys", "keys_pressed"]
        assert await store.read_code(record.id, 1, 1) == CODE

    async def test_each_time_that_keys_were_waited_for_counts_once(self, store: OtpStore) -> None:
        record = await self.begin(store, new_call=LOCKED_CALL)
        await self.answer_call(store, record)
        for attempt in (0, 0, 0, 2):
            tried = await store.take_keys(record.id, 1, attempt, is_right=False)
        assert tried is not None
        assert call_of(tried).key_tries == 1
        late = await store.take_keys(record.id, 1, 0, is_right=True)
        assert late == tried, "what was asked for first is over"
        early = await store.take_keys(record.id, 1, 2, is_right=True)
        assert early == tried
        assert await store.read_code(record.id, 1, 1) is None

    async def test_wrong_keys_lock_no_call_that_is_open(self, store: OtpStore) -> None:
        record = await self.begin(store, new_call=LOCKED_CALL)
        await self.answer_call(store, record)
        opened = await store.take_keys(record.id, 1, 0, is_right=True)
        for attempt in (0, 1):
            assert await store.take_keys(record.id, 1, attempt, is_right=False) == opened
        assert await store.read_code(record.id, 1, 1) == CODE

    async def test_keys_mean_nothing_where_none_are_asked_for(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await self.answer_call(store, record)
        before = await store.find_by_id(record.id)
        assert await store.take_keys(record.id, 1, 0, is_right=True) == before
        assert await store.take_keys(record.id, 2, 0, is_right=True) is None
        await self.end_call(store, record)
        ended = await store.find_by_id(record.id)
        assert await store.take_keys(record.id, 1, 0, is_right=True) == ended

    async def test_a_call_whose_keys_nobody_pressed_says_so(self, store: OtpStore) -> None:
        record = await self.begin(store, new_call=LOCKED_CALL)
        await self.answer_call(store, record)
        for attempt in (0, 1):
            await store.take_keys(record.id, 1, attempt, is_right=False)
        ended = await self.hang_up(store, record)
        assert (ended.status, call_of(ended).end_reason) == (Status.UNDELIVERED, EndReason.NO_KEYPRESS)

    async def test_a_carrier_that_was_told_the_keys_says_that_they_were_not_pressed(self, store: OtpStore) -> None:
        record = await self.begin(store, new_call=LOCKED_CALL)
        assert await store.read_whole_code(record.id, 1) == CODE, "it asks for the keys itself"
        event = CallEvent("call-1", CallState.ANSWERED, is_without_keys=True)
        for _ in range(2):
            told = await store.record_call_event(record.id, 1, event)
        assert told is not None
        assert events_of(told).count("wrong_keys") == 1
        ended = await self.hang_up(store, record)
        assert (ended.status, call_of(ended).end_reason) == (Status.UNDELIVERED, EndReason.NO_KEYPRESS)

    async def test_the_next_call_is_locked_again(self, store: OtpStore) -> None:
        record = await self.begin(store, new_call=LOCKED_CALL)
        await store.take_keys(record.id, 1, 0, is_right=True)
        await self.end_call(store, record)
        locked = replace(OTHER_CARRIERS_CALL, manner=LOCKED_CALL.manner)
        again = await store.next_call(record.id, 1, locked, "redialing")
        assert again is not None
        assert call_of(again).is_locked
        assert await store.read_code(record.id, 2, 1) is None

    # Machines

    async def test_a_machine_is_told_no_code(self, store: OtpStore) -> None:
        record = await self.begin(store)
        for _ in range(2):
            found = await store.record_call_event(record.id, 1, MACHINE)
        assert found is not None
        assert events_of(found).count("machine_detected") == 1
        assert await store.read_code(record.id, 1, 1) is None
        ended = await self.hang_up(store, record)
        assert (ended.status, call_of(ended).end_reason) == (Status.UNDELIVERED, EndReason.VOICEMAIL)

    async def test_a_machine_that_is_noticed_late_is_told_no_more(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await self.answer_call(store, record)
        assert await store.read_code(record.id, 1, 1) == CODE
        await store.record_call_event(record.id, 1, MACHINE)
        for reading in (1, 2):
            assert await store.read_code(record.id, 1, reading) is None

    async def test_keys_unlock_nothing_for_a_machine(self, store: OtpStore) -> None:
        record = await self.begin(store, new_call=LOCKED_CALL)
        await store.record_call_event(record.id, 1, MACHINE)
        await store.take_keys(record.id, 1, 0, is_right=True)
        assert await store.read_code(record.id, 1, 1) is None

    # Silence

    async def test_silence_after_a_reading_is_counted(self, store: OtpStore) -> None:
        record = await self.begin(store)
        await self.answer_call(store, record)
        await store.read_code(record.id, 1, 1)
        for silent in (True, False, True):
            noted = await store.record_reading_end(record.id, 1, 1, silence=silent)
        assert noted is not None
        assert (call_of(noted).silences, call_of(noted).wrong_keys) == (2, 0)
        ended = await self.hang_up(store, record)
        assert await store.record_reading_end(record.id, 1, 1, silence=True) == ended

    # Alerts

    async def test_an_alert_is_never_the_newest_verification_of_its_number(self, store: OtpStore) -> None:
        alert = await self.alert(store)
        assert await store.find(CLIENT, PHONE) is None
        assert (await store.check(CLIENT, PHONE, ALERT)).outcome is Outcome.NOT_FOUND
        assert await store.cancel(CLIENT, PHONE) is None
        await self.end_call(store, alert)
        code = await self.begin(store)
        await self.end_call(store, code)
        second = await self.alert(store)
        assert len({alert.id, code.id, second.id}) == 3
        newest = await store.find(CLIENT, PHONE)
        assert newest is not None
        assert newest.id == code.id
        assert (await store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT

    async def test_an_alert_is_found_by_its_id_and_by_its_client_only(self, store: OtpStore) -> None:
        alert = await self.alert(store)
        found = await store.find(CLIENT, alert.id)
        assert found is not None
        assert (found.id, found.mode) == (alert.id, Mode.ALERT)
        assert await store.find("bank", alert.id) is None
        cancelled = await store.cancel(CLIENT, alert.id)
        assert cancelled is not None
        assert (cancelled.status, cancelled.sealed_code) == (Status.CANCELLED, b"")

    async def test_an_alert_is_no_code_to_guess(self, store: OtpStore) -> None:
        alert = await self.alert(store)
        for _ in range(10):
            assert (await store.check(CLIENT, alert.id, WRONG)).outcome is Outcome.NOT_FOUND
        assert (await store.check(CLIENT, alert.id, ALERT)).outcome is Outcome.NOT_FOUND
        found = await store.find_by_id(alert.id)
        assert found is not None
        assert (found.status, found.attempts_left) == (Status.CALLING, 5)

    async def test_alerts_and_codes_share_the_one_live_call_of_a_number(self, store: OtpStore) -> None:
        alert = await self.alert(store)
        with pytest.raises(CallStillLive):
            await self.begin(store)
        assert (
            await store.begin(CLIENT, PHONE, new_code(ALERT, own=True, mode=Mode.ALERT), NEW_CALL)
        ).is_duplicate
        other = new_code("something else", own=True, mode=Mode.ALERT)
        assert await store.join(CLIENT, PHONE, other) is None
        with pytest.raises(CallStillLive):
            await store.begin(CLIENT, PHONE, other, NEW_CALL)
        await self.end_call(store, alert)
        await self.begin(store)
        with pytest.raises(CallStillLive):
            await self.alert(store)

    async def test_an_alert_is_told_like_a_code(self, store: OtpStore) -> None:
        alert = await self.alert(store)
        assert ALERT.encode() not in alert.sealed_code
        assert await store.read_code(alert.id, 1, 1) == ALERT
        told = await store.record_reading_end(alert.id, 1, 1)
        assert told is not None
        assert (told.status, told.is_acknowledged) == (Status.DELIVERED, False)

    async def test_an_alert_that_was_told_stays_so_when_its_time_is_up(
        self, store: OtpStore, fake_time: FakeTime
    ) -> None:
        alert = await self.alert(store, ttl=30)
        await store.read_code(alert.id, 1, 1)
        await store.record_reading_end(alert.id, 1, 1)
        fake_time.advance(31)
        assert (await store.expire()).records == []
        over = await store.find_by_id(alert.id)
        assert over is not None
        assert (over.status, over.sealed_code, over.is_final) == (Status.DELIVERED, b"", True)
        assert await store.read_code(alert.id, 1, 2) is None

    async def test_an_alert_that_nobody_heard_in_time_expires(self, store: OtpStore, fake_time: FakeTime) -> None:
        alert = await self.alert(store, ttl=30)
        fake_time.advance(31)
        assert [record.id for record in (await store.expire()).records] == [alert.id]
        assert await store.read_code(alert.id, 1, 1) is None

    async def test_an_alert_is_acknowledged_once(self, store: OtpStore) -> None:
        alert = await self.alert(store)
        await store.read_code(alert.id, 1, 1)
        first = await store.acknowledge(alert.id, 1)
        assert first is not None
        assert (first.status, first.is_acknowledged, first.sealed_code) == (Status.DELIVERED, True, b"")
        assert await store.acknowledge(alert.id, 1) == first
        assert await store.read_code(alert.id, 1, 2) is None
        ended = await self.hang_up(store, alert)
        assert (ended.status, ended.is_acknowledged) == (Status.DELIVERED, True)

    async def test_only_a_live_alert_is_acknowledged(self, store: OtpStore) -> None:
        alert = await self.alert(store)
        assert await store.acknowledge(alert.id, 2) is None
        await self.end_call(store, alert)
        ended = await store.find_by_id(alert.id)
        assert await store.acknowledge(alert.id, 1) == ended
        code = await self.begin(store)
        before = await store.find_by_id(code.id)
        assert await store.acknowledge(code.id, 1) == before

    async def test_forgetting_an_alert_leaves_the_code_of_its_number(self, fake_time: FakeTime) -> None:
        store = self.make_store(fake_time, retention_seconds=60)
        alert = await self.alert(store, ttl=30)
        await self.end_call(store, alert)
        code = await self.begin(store, ttl=600)
        fake_time.advance(31)
        await store.expire()
        fake_time.advance(61)
        await store.expire()
        assert await store.find_by_id(alert.id) is None
        newest = await store.find(CLIENT, PHONE)
        assert newest is not None
        assert newest.id == code.id
