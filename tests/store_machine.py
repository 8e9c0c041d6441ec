"""Any history of a store, generated: what must hold after each step, and what each answer must have been.

A store's test module subclasses `StoreMachine` and says how to make one; the machine keeps a model of its own,
written from what is promised and not from how any store does it.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from number_failures import NumberLocked
from number_page import CallStillLive, Checked, NewCode, OtherCall, OtherMode, Outcome, StoreRules
from otp_store import OtpStore
from sms_provider import MESSAGE_ENDS, MessageReport, MessageState
from tests.conftest import FakeTime
from tests.mode_cases import LOCKED_CALL
from tests.store_cases import NEW_CALL, NEW_MESSAGE, OTHER_CARRIERS_CALL, QUEUED_CALL, call_of
from verification import FINAL, KEY_TRIES, NEWS_GRACE_SECONDS, Call, Message, Mode, NewCall, Status, Verification
from voice_provider import CallEvent, CallState, EndReason

T = TypeVar("T")

CLIENTS = ("shop", "bank")
PHONES = ("+14155550142", "+14155550143")
# A short retention, so that what ended is forgotten while other things still go on.
RULES = StoreRules(max_failures_per_number=8, retention_seconds=10)
# Wrong codes in a row, and the seconds that each one from the fifth on costs; the eighth locks for a day.
WAITS = {5: 30, 6: 60, 7: 120}
DAY = 24 * 3600
LONGEST_LIFE = 600

CALLS = (NEW_CALL, OTHER_CARRIERS_CALL)
MESSAGE_IDS = ("", "message-1", "message-2")
TYPED = ("right", "WRONG", "")

clients = st.sampled_from(CLIENTS)
new_calls = st.sampled_from([*CALLS, QUEUED_CALL, LOCKED_CALL])
modes = st.sampled_from([Mode.SPEAK, Mode.SPEAK, *Mode])
phones = st.sampled_from(PHONES)
lives = st.sampled_from([30, 300, LONGEST_LIFE])
waits = st.sampled_from([0.5, 10, 29.5, 30, 31, 60, 120, 300, 599.5, 600, 3600, DAY])
jumps = st.sampled_from([-DAY, -3600, -300, -1, 1, 300, 599, 600, 3600, DAY])
readings = st.integers(1, 5)
attempts = st.one_of(st.none(), st.integers(0, 3))  # mostly the one that is waited for
picks = st.one_of(st.just(0), st.integers(0, 20))  # mostly the newest
calls_ago = st.one_of(st.just(0), st.integers(0, 2))


@dataclass
class Issued:
    """What the model knows of a verification."""

    client: str
    phone: str
    code: str
    ttl: int
    created: float
    created_wall: float
    mode: Mode
    seen: Verification
    evaluated: int = 0
    successes: int = 0
    ended_at: float | None = None
    # By call number.
    fetches: dict[int, int] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)
    machines: set[int] = field(default_factory=set)

    def may_be_told(self, call: Call) -> bool:
        is_open = not call.manner.keys_first or call.number in self.opened
        return self.mode is not Mode.KEYPAD and is_open and call.number not in self.machines

    def is_old(self, time: FakeTime) -> bool:
        return max(time.seconds - self.created, time.wall_seconds - self.created_wall) >= self.ttl


class StoreMachine(RuleBasedStateMachine):
    """Send, resend, text, fail over, redial, verify, type, acknowledge, report, wait, jump, restart, in any order,
    over two clients and two numbers."""

    forgets_on_restart: ClassVar[bool] = True

    def make_store(self, time: FakeTime, rules: StoreRules) -> OtpStore:
        """A store on its own, or the same one again after a restart of its process."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = FakeTime()
        self.store = self.make_store(self.time, RULES)
        self.issued: dict[str, Issued] = {}
        self.newest: dict[tuple[str, str], str] = {}
        self.dead_codes: list[str] = []
        self.in_a_row = dict.fromkeys(PHONES, 0)
        self.wait_until = dict.fromkeys(PHONES, 0.0)
        self.last_failure = dict.fromkeys(PHONES, 0.0)
        self.codes_drawn = 0

    def teardown(self) -> None:
        self.runner.close()

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def pick(self, number: int) -> tuple[str, Issued] | None:
        items = list(self.issued.items())
        return items[-1 - number % len(items)] if items else None

    def is_waiting(self, phone: str) -> bool:
        return self.time.seconds < self.wait_until[phone]

    # What a backend does

    @rule(
        client=clients,
        phone=phones,
        ttl=lives,
        is_own=st.booleans(),
        after_hangup=st.booleans(),
        new_call=new_calls,
        mode=modes,
    )
    def send(
        self, client: str, phone: str, ttl: int, is_own: bool, after_hangup: bool, new_call: NewCall, mode: Mode
    ) -> None:
        if after_hangup:
            self.hang_up(phone)
        self.codes_drawn += 1
        code = f"CODE{self.codes_drawn:04d}"
        live = [one for one in self.issued.values() if one.phone == phone and one.seen.live_call]
        must_be_refused = mode is not Mode.ALERT and self.runs_in_other_mode(client, phone, mode)
        try:
            begun = self.run(self.store.begin(client, phone, NewCode(code, is_own, ttl, mode=mode), new_call))
        except NumberLocked:
            assert self.is_waiting(phone)
            return
        except OtherMode:
            assert must_be_refused, "refused for the mode of a code that does not run"
            return
        except CallStillLive:
            assert live, "refused for a live call where there is none"
            return
        assert not self.is_waiting(phone), "called while wrong codes are waited out"
        if begun.is_duplicate:
            assert [one.seen.id for one in live] == [begun.record.id]
            assert live[0].client == client, "a client was given another one's call"
            assert live[0].mode is mode, "a call stands for one of another mode"
            return
        assert not live, "two live calls to one number"
        assert not must_be_refused, "a code is both told and asked for"
        self.on_sent(begun.record, code, is_own, ttl)

    @rule(client=clients, phone=phones, ttl=lives, is_own=st.booleans())
    def text(self, client: str, phone: str, ttl: int, is_own: bool) -> None:
        self.codes_drawn += 1
        code = f"CODE{self.codes_drawn:04d}"
        one = self.issued.get(self.newest.get((client, phone), ""))
        is_read_out = one is not None and one.ended_at is None and one.seen.live_call is not None
        must_be_refused = is_own and is_read_out
        is_asked_for = self.runs_in_other_mode(client, phone, Mode.SPEAK)
        try:
            texted = self.store.begin_message(client, phone, NewCode(code, is_own, ttl), NEW_MESSAGE)
            record, told = self.run(texted)
        except NumberLocked:
            assert self.is_waiting(phone)
            return
        except CallStillLive:
            assert must_be_refused, "refused although no call reads another code"
            return
        except OtherMode:
            assert is_asked_for
            return
        assert not is_asked_for, "a code that is asked for was texted"
        assert not must_be_refused, "a call reads a code that is dead"
        assert not self.is_waiting(phone), "texted while wrong codes are waited out"
        self.on_sent(record, code, is_own, ttl)
        assert told == self.issued[record.id].code, "a dead code was texted"

    def runs_in_other_mode(self, client: str, phone: str, mode: Mode) -> bool:
        one = self.issued.get(self.newest.get((client, phone), ""))
        return one is not None and one.ended_at is None and one.mode is not mode

    def hang_up(self, phone: str) -> None:
        for verification_id, one in self.issued.items():
            call = one.seen.live_call
            if one.phone == phone and call is not None:
                self.run(self.store.fail_call(verification_id, call.number, EndReason.NO_ANSWER, ""))
        self.look_at_every_verification()

    def on_sent(self, record: Verification, code: str, is_own: bool, ttl: int) -> None:
        before = self.issued.get(record.id)
        if before is None:
            client, phone = record.client, record.phone
            self.issued[record.id] = Issued(
                client, phone, code, ttl, self.time.seconds, self.time.wall_seconds, record.mode, record
            )
            if record.mode is not Mode.ALERT:
                self.newest[client, phone] = record.id
        elif is_own or record.mode is Mode.KEYPAD:  # whose newest answer shows the code
            self.dead_codes.append(before.code)
            before.code = code

    @rule(number=picks, by_id=st.booleans())
    def verify_right(self, number: int, by_id: bool) -> None:
        picked = self.pick(number)
        if picked is not None:
            self.check(picked[1].client, picked[0] if by_id else picked[1].phone, picked[1].code)

    @rule(number=picks, by_id=st.booleans(), guesses=st.integers(1, 6))
    def verify_wrong(self, number: int, by_id: bool, guesses: int) -> None:
        picked = self.pick(number)
        if picked is not None:
            self.guess(picked[1].client, picked[0] if by_id else picked[1].phone, guesses)

    @rule(phone=phones, guesses=st.integers(1, 6))
    def verify_wrong_for_each_client(self, phone: str, guesses: int) -> None:
        for client in CLIENTS:
            self.guess(client, phone, guesses)

    def guess(self, client: str, key: str, guesses: int) -> None:
        for _ in range(guesses):
            self.check(client, key, "WRONG")
            self.look_at_every_verification()

    @rule(client=clients, number=picks, by_id=st.booleans())
    def verify_as_another_client(self, client: str, number: int, by_id: bool) -> None:
        picked = self.pick(number)
        if picked is not None and picked[1].client != client:
            self.check(client, picked[0] if by_id else picked[1].phone, picked[1].code)

    @rule(client=clients, phone=phones, number=picks)
    def verify_with_a_dead_code(self, client: str, phone: str, number: int) -> None:
        if self.dead_codes:
            self.check(client, phone, self.dead_codes[number % len(self.dead_codes)])

    def check(self, client: str, key: str, code: str) -> None:
        one = self.issued.get(key if key.startswith("vrf_") else self.newest.get((client, key), ""))
        one = one if one is not None and one.client == client else None
        is_live = one is not None and one.ended_at is None
        try:
            checked = self.run(self.store.check(client, key, code))
        except OtherMode:
            assert one is not None
            assert is_live
            assert one.mode is Mode.KEYPAD
            return
        except NumberLocked:
            assert one is not None
            assert is_live
            assert self.is_waiting(one.phone)
            return
        if one is None or not is_live:
            is_locked = one is not None and one.seen.status is Status.LOCKED
            assert checked.outcome is (Outcome.TOO_MANY_ATTEMPTS if is_locked else Outcome.NOT_FOUND)
            return
        assert one.mode is not Mode.KEYPAD, "a code that is shown was taken from whom it is shown to"
        if one.mode is Mode.ALERT:
            assert checked.outcome is Outcome.NOT_FOUND
            return
        assert not self.is_waiting(one.phone), "evaluated while wrong codes are waited out"
        self.on_evaluated(one, code, checked)

    def on_evaluated(self, one: Issued, code: str, checked: Checked) -> None:
        assert checked.outcome is (Outcome.CORRECT if code == one.code else Outcome.INCORRECT)
        one.evaluated += 1
        phone, now = one.phone, self.time.seconds
        if checked.outcome is Outcome.CORRECT:
            one.successes += 1
            self.in_a_row[phone] = 0
            return
        if now >= self.last_failure[phone] + 30 * DAY:
            self.in_a_row[phone] = 0
        self.in_a_row[phone] += 1
        self.last_failure[phone] = now
        wait = DAY if self.in_a_row[phone] >= 8 else WAITS.get(self.in_a_row[phone], 0)
        self.wait_until[phone] = now + wait

    @rule(client=clients, number=picks, by_id=st.booleans())
    def cancel(self, client: str, number: int, by_id: bool) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        key = verification_id if by_id else one.phone
        target = self.issued.get(verification_id if by_id else self.newest.get((client, one.phone), ""))
        is_own = target is not None and target.client == client and target.ended_at is None
        cancelled = self.run(self.store.cancel(client, key))
        assert (cancelled is not None) == is_own

    # What a callee does; with calls of their own, as few of the others are such calls

    @rule(client=clients, phone=phones, typed=st.lists(st.tuples(attempts, st.sampled_from(TYPED)), max_size=4))
    def call_that_asks(self, client: str, phone: str, typed: list[tuple[int | None, str]]) -> None:
        place = self.place_of_call(client, phone, NEW_CALL, Mode.KEYPAD)
        for attempt, text in typed:
            self.type_code(place, 0, attempt, text)
            self.look_at_every_verification()
            self.fetch_code(place, 1, 0)

    @rule(client=clients, phone=phones, pressed=st.lists(st.tuples(attempts, st.booleans()), max_size=3))
    def call_with_keys_first(self, client: str, phone: str, pressed: list[tuple[int | None, bool]]) -> None:
        place = self.place_of_call(client, phone, LOCKED_CALL, Mode.SPEAK)
        for attempt, is_right in pressed:
            self.press_keys(place, 0, attempt, is_right)
            self.look_at_every_verification()
            self.fetch_code(place, 1, 0)

    @rule(client=clients, phone=phones, is_read=st.booleans())
    def alert(self, client: str, phone: str, is_read: bool) -> None:
        place = self.place_of_call(client, phone, NEW_CALL, Mode.ALERT)
        if is_read:
            self.fetch_code(place, 1, 0)
            self.read_to_its_end(place, 1, False, False)

    def place_of_call(self, client: str, phone: str, new_call: NewCall, mode: Mode) -> int:
        """Send, and the number by which `pick` finds what is called then."""
        self.look_at_every_verification()
        self.send(client, phone, 300, False, True, new_call, mode)
        self.look_at_every_verification()
        live = [place for place, one in enumerate(reversed(self.issued.values())) if one.seen.live_call]
        return live[0] if live else 0

    @rule(number=picks, call_number=calls_ago, attempt=attempts, typed=st.sampled_from(TYPED))
    def type_code(self, number: int, call_number: int, attempt: int | None, typed: str) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        code = one.code if typed == "right" else typed
        tries = one.tries.get(asked, 0)
        attempt = tries if attempt is None else attempt
        is_waited_for = one.mode is Mode.KEYPAD and self.is_live_call(one, asked) and attempt == tries < KEY_TRIES
        try:
            checked = self.run(self.store.check_typed(verification_id, asked, attempt, code))
        except NumberLocked:
            assert code
            assert is_waited_for
            assert self.is_waiting(one.phone)
            return
        if not is_waited_for:
            assert checked.outcome is Outcome.NOT_FOUND
            return
        one.tries[asked] = tries + 1
        if not code:
            assert checked.outcome is Outcome.INCORRECT
            return
        assert not self.is_waiting(one.phone), "evaluated while wrong codes are waited out"
        self.on_evaluated(one, code, checked)

    @rule(number=picks, call_number=calls_ago, attempt=attempts, is_right=st.booleans())
    def press_keys(self, number: int, call_number: int, attempt: int | None, is_right: bool) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        tries = one.tries.get(asked, 0)
        attempt = tries if attempt is None else attempt
        call = one.seen.live_call
        is_locked = call is not None and call.number == asked and call.manner.keys_first > 0
        self.run(self.store.take_keys(verification_id, asked, attempt, is_right=is_right))
        if is_locked and asked not in one.opened and attempt == tries < KEY_TRIES:
            one.tries[asked] = tries + 1
            if is_right:
                one.opened.add(asked)

    @rule(number=picks, call_number=calls_ago)
    def acknowledge(self, number: int, call_number: int) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        may_be = one.mode is Mode.ALERT and self.is_live_call(one, asked)
        was = one.seen.is_acknowledged
        self.run(self.store.acknowledge(verification_id, asked))
        now = self.run(self.store.find_by_id(verification_id))
        if now is not None:
            assert now.is_acknowledged == (was or may_be)
            assert now.is_final == (one.ended_at is not None or may_be)

    @staticmethod
    def is_live_call(one: Issued, number: int) -> bool:
        """Whether this is the live call of a verification that can still be right."""
        call = one.seen.live_call
        return one.ended_at is None and call is not None and call.number == number

    # What becomes of a call before its carrier has it

    @rule(number=picks, call_number=calls_ago)
    def turn_comes(self, number: int, call_number: int) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        is_wanted = self.newest_live_call_is(one, asked, CallState.QUEUED)
        dialled = self.run(self.store.dial_queued(verification_id, asked))
        assert (dialled is not None) == is_wanted

    @rule(number=picks, call_number=calls_ago, is_certain=st.booleans(), new_call=new_calls)
    def fail_over(self, number: int, call_number: int, is_certain: bool, new_call: NewCall) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        states = (CallState.QUEUED, CallState.DIALING)
        is_begun = any(self.newest_live_call_is(one, asked, state) for state in states)
        is_placing = is_begun and call_of(one.seen).call_id == ""  # a carrier has what it has named
        step = self.store.next_call(verification_id, asked, new_call, "failed_over", is_certain=is_certain)
        moved = self.run(step)
        assert (moved is not None) == is_placing
        if moved is not None:
            before = [call.number for call in one.seen.given_up]
            assert [call.number for call in moved.given_up] == (before if is_certain else [*before, asked])

    @rule(number=picks, call_number=calls_ago, new_call=new_calls)
    def redial(self, number: int, call_number: int, new_call: NewCall) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        is_newest = one.seen.call is not None and one.seen.call.number == asked
        is_busy = any(other.phone == one.phone and other.seen.live_call for other in self.issued.values())
        again = self.run(self.store.next_call(verification_id, asked, new_call, "redialing"))
        assert (again is not None) == (is_newest and one.ended_at is None and not is_busy)
        assert again is None or again.redials == one.seen.redials + 1

    @staticmethod
    def newest_live_call_is(one: Issued, number: int, state: CallState) -> bool:
        call = one.seen.live_call
        return one.ended_at is None and call is not None and call.number == number and call.state is state

    @rule(number=picks, call_number=calls_ago)
    def hand_out_whole_code(self, number: int, call_number: int) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        may_be_told = self.is_live_call(one, asked)
        told = self.run(self.store.read_whole_code(verification_id, asked))
        assert told == (one.code if may_be_told else None)

    # What a carrier reports, of the newest calls and of old ones, in order or not

    @rule(number=picks, state=st.sampled_from(CallState), call_number=calls_ago)
    def report(self, number: int, state: CallState, call_number: int) -> None:
        picked = self.pick(number)
        if picked is not None:
            reported = self.call_number(picked[1], call_number)
            event = CallEvent(f"call-{picked[0]}-{reported}", state, talk_seconds=10)
            self.run(self.store.record_call_event(picked[0], reported, event))

    @rule(number=picks, call_number=calls_ago)
    def machine_answers(self, number: int, call_number: int) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        call = one.seen.live_call
        event = CallEvent(f"call-{verification_id}-{asked}", CallState.ANSWERED, is_machine=True)
        self.run(self.store.record_call_event(verification_id, asked, event))
        if call is not None and call.number == asked:
            one.machines.add(asked)

    @rule(number=picks)
    def report_of_another_call(self, number: int) -> None:
        picked = self.pick(number)
        if picked is None or picked[1].seen.live_call is None or not picked[1].seen.live_call.call_id:
            return
        event = CallEvent("call-of-a-stranger", CallState.COMPLETED)
        try:
            self.run(self.store.record_call_event(picked[0], picked[1].seen.live_call.number, event))
        except OtherCall:
            return
        raise AssertionError("a call was ended by the report of another one")

    @rule(number=picks, call_number=calls_ago)
    def carrier_refuses(self, number: int, call_number: int) -> None:
        picked = self.pick(number)
        if picked is not None:
            reported = self.call_number(picked[1], call_number)
            self.run(self.store.fail_call(picked[0], reported, EndReason.FAILED, ""))

    @rule(number=picks, reading=readings, call_number=calls_ago)
    def fetch_code(self, number: int, reading: int, call_number: int) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        asked = self.call_number(one, call_number)
        call = one.seen.live_call
        may_be_spoken = self.is_live_call(one, asked) and call is not None and one.may_be_told(call)
        spoken = self.run(self.store.read_code(verification_id, asked, reading))
        if spoken is None:
            is_first = reading == 1 and asked not in one.fetches
            assert not (may_be_spoken and is_first), "the code of a live call was not spoken"
            return
        assert may_be_spoken, "a code was spoken outside its live call, after its end, or to a machine"
        assert spoken == one.code, "a dead code was spoken"
        one.fetches[asked] = one.fetches.get(asked, 0) + 1
        assert one.fetches[asked] <= 3 * (1 + NEW_CALL.manner.max_replays)

    @rule(number=picks, reading=readings, wrong_key=st.booleans(), silence=st.booleans())
    def read_to_its_end(self, number: int, reading: int, wrong_key: bool, silence: bool) -> None:
        picked = self.pick(number)
        if picked is not None:
            call_number = self.call_number(picked[1], 0)
            end = self.store.record_reading_end(
                picked[0], call_number, reading, wrong_key=wrong_key, silence=silence
            )
            self.run(end)

    @rule(
        number=picks,
        state=st.sampled_from([*MessageState, None]),
        message=st.sampled_from(MESSAGE_IDS),
        is_newest=st.booleans(),
    )
    def report_of_a_message(self, number: int, state: MessageState | None, message: str, is_newest: bool) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        verification_id, one = picked
        known = one.seen.message
        is_about_it = known is not None and is_newest and (not message or known.message_id in ("", message))
        asked = (known.number if known is not None else 1) - (not is_newest)
        moved = self.run(self.store.record_report(verification_id, asked, MessageReport(message, state)))
        assert (moved is not None) == is_about_it

    @rule(number=picks, message=st.sampled_from(MESSAGE_IDS[1:]))
    def carrier_names_a_message(self, number: int, message: str) -> None:
        picked = self.pick(number)
        if picked is None:
            return
        message_id = f"{message}-of-{picked[0]}"
        known = picked[1].seen.message
        asked = known.number if known is not None else 1
        named = self.run(self.store.name_message(picked[0], asked, message_id))
        assert (named is not None) == (known is not None)
        found = self.run(self.store.find_by_message_id(NEW_MESSAGE.provider, message_id))
        assert found == named

    @staticmethod
    def call_number(one: Issued, calls_ago: int) -> int:
        newest = one.seen.call.number if one.seen.call is not None else 1
        return max(1, newest - calls_ago)

    # What time does

    @rule(seconds=waits, with_tick=st.booleans())
    def wait(self, seconds: float, with_tick: bool) -> None:
        self.time.advance(seconds)
        if with_tick:
            self.tick()

    @rule(seconds=jumps)
    def wall_clock_jumps(self, seconds: float) -> None:
        self.time.wall_seconds += seconds

    @rule(seconds=waits)
    def boot_clock_jumps(self, seconds: float) -> None:
        """As after a sleep of the machine that the wall clock has not caught up with."""
        self.time.seconds += seconds

    @rule()
    def tick(self) -> None:
        while self.run(self.store.expire()).some_are_left:
            continue
        self.run(self.store.take_overdue_calls())

    @rule()
    def restart(self) -> None:
        self.store = self.make_store(self.time, RULES)
        if not self.forgets_on_restart:
            return
        for verification_id, one in self.issued.items():
            assert self.run(self.store.find_by_id(verification_id)) is None
            checked = self.run(self.store.check(one.client, verification_id, one.code))
            assert checked.outcome is Outcome.NOT_FOUND, "a code outlived a restart"
            self.dead_codes.append(one.code)
        self.issued.clear()
        self.newest.clear()
        for phone in PHONES:
            self.in_a_row[phone], self.wait_until[phone] = 0, 0.0

    # What must hold after each step

    @invariant()
    def promises_hold(self) -> None:
        self.look_at_every_verification()
        for one in self.issued.values():
            assert one.successes <= 1
            assert one.evaluated <= RULES.max_attempts
            assert one.seen.attempts_left == RULES.max_attempts - one.evaluated
        for phone in PHONES:
            live = [one for one in self.issued.values() if one.phone == phone and one.seen.live_call]
            assert len(live) <= 1
        for new_call in CALLS:
            calls = [one.seen.live_call for one in self.issued.values() if one.seen.live_call]
            with_carrier = [call for call in calls if call.provider == new_call.provider]
            dialled = [call for call in with_carrier if call.state is not CallState.QUEUED]
            assert self.run(self.store.live_calls(new_call.provider)) == len(dialled)

    def look_at_every_verification(self) -> None:
        for verification_id, one in list(self.issued.items()):
            now = self.run(self.store.find_by_id(verification_id))
            if now is None:
                self.may_be_forgotten(one)
                del self.issued[verification_id]
                continue
            moved_forward(one.seen, now)
            if one.ended_at is None and (now.is_final or one.is_old(self.time)):
                one.ended_at = self.time.seconds
            assert now.is_final == (one.ended_at is not None), "a code outlived its deadline"
            assert (now.status is Status.VERIFIED) == (one.successes == 1)
            assert (now.sealed_code == b"") == now.is_final
            one.seen = now

    def may_be_forgotten(self, one: Issued) -> None:
        assert one.ended_at is not None, "a running verification was forgotten"
        assert self.time.seconds >= one.ended_at + RULES.retention_seconds
        call = one.seen.live_call
        if call is not None:
            given_up_at = call.overdue_at + NEWS_GRACE_SECONDS
            assert self.time.seconds >= given_up_at, "a live call was forgotten: its number could ring twice"


def moved_forward(before: Verification, now: Verification) -> None:
    """A later record of a verification takes nothing back that an earlier one said."""
    assert now.expires_at <= before.expires_at
    assert now.attempts_left <= before.attempts_left
    assert now.redials >= before.redials
    assert now.packed_timeline.startswith(before.packed_timeline)
    if before.status in FINAL:
        assert now.status is before.status
    if before.status is Status.DELIVERED:
        assert now.status in FINAL | {Status.DELIVERED}
    if before.status is Status.UNDELIVERED and now.call == before.call and now.message == before.message:
        assert now.status in FINAL | {Status.UNDELIVERED}
    if before.call is not None:
        call_moved_forward(before.call, now.call)
    if before.message is not None:
        message_moved_forward(before.message, now.message)


def call_moved_forward(before: Call, now: Call | None) -> None:
    assert now is not None
    assert now.number >= before.number
    if now.number > before.number:
        return
    states = list(CallState)
    assert states.index(now.state) >= states.index(before.state)
    assert now.readings >= before.readings
    assert now.times_spoken >= before.times_spoken
    assert now.key_tries >= before.key_tries
    assert now.is_unlocked >= before.is_unlocked
    assert now.has_typed >= before.has_typed
    assert now.is_machine >= before.is_machine
    assert before.is_live or now == replace(before, call_id=now.call_id)


def message_moved_forward(before: Message, now: Message | None) -> None:
    assert now is not None
    assert now.started_at >= before.started_at
    if now.started_at > before.started_at or now.state is MessageState.QUEUED:
        return  # a newer one, perhaps of the same moment
    states = list(MessageState)
    assert states.index(now.state) >= states.index(before.state)
    assert before.state not in MESSAGE_ENDS or now == replace(before, message_id=now.message_id)
