"""The rules of a call: events in any order, doubled or late, lead to the same end."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verification_rules as rules
from sms_provider import MESSAGE_ENDS, MessageReport, MessageState
from tests.store_cases import NEW_CALL
from verification import FINAL, MAX_TIMELINE_ENTRIES, Call, NewMessage, Status, Verification
from voice_provider import CallEvent, CallState, EndReason

RING = CallEvent("call-1", CallState.RINGING)
ANSWER = CallEvent("call-1", CallState.ANSWERED)
NORMAL_END = CallEvent("call-1", CallState.COMPLETED, None, "NORMAL_CLEARING 4000", talk_seconds=10)


def calling() -> Verification:
    record = Verification(
        id="vrf_" + "1" * 32,
        client="shop",
        phone="+14155550142",
        sealed_code=b"sealed",
        created_at=1000.0,
        created_wall=1_767_225_600.0,
        expires_at=1300.0,
        max_attempts=5,
        attempts_left=5,
    )
    return rules.start_call(rules.note(record, "created", 1000.0), NEW_CALL, 1000.0)


def call_of(record: Verification) -> Call:
    assert record.call is not None
    return record.call


def play(*events: CallEvent, spoken: bool = False, fetched: bool = False) -> Verification:
    record = calling()
    for seconds, event in enumerate(events, start=1001):
        record = rules.apply_event(record, event, float(seconds))
        if event is ANSWER and fetched:
            record = rules.begin_reading(record, 1, float(seconds))
        if event is ANSWER and spoken:
            record = rules.end_reading(rules.begin_reading(record, 1, float(seconds)), 1, float(seconds))
    return record


@pytest.mark.parametrize(
    ("record", "status", "end_reason"),
    [
        pytest.param(play(ANSWER, NORMAL_END, spoken=True), "delivered", "answered_and_spoken", id="heard"),
        pytest.param(play(ANSWER, NORMAL_END), "undelivered", "hung_up_early", id="hung up early"),
        pytest.param(play(ANSWER, NORMAL_END, fetched=True), "undelivered", "hung_up_early", id="not long enough"),
        pytest.param(
            play(ANSWER, CallEvent("call-1", CallState.COMPLETED, talk_seconds=25), fetched=True),
            "delivered",
            "answered_and_spoken",
            id="hung up in the second reading",
        ),
        pytest.param(
            play(ANSWER, CallEvent("call-1", CallState.COMPLETED, talk_seconds=25)),
            "undelivered",
            "hung_up_early",
            id="long, but the code was never fetched",
        ),
        pytest.param(
            play(RING, CallEvent("call-1", CallState.COMPLETED, EndReason.BUSY)), "undelivered", "busy", id="busy"
        ),
        pytest.param(
            play(ANSWER, CallEvent("call-1", CallState.COMPLETED, EndReason.FAILED), spoken=True),
            "delivered",
            "answered_and_spoken",
            id="failed after it was heard",
        ),
        pytest.param(play(RING, NORMAL_END), "undelivered", "hung_up_early", id="only the carrier saw an answer"),
        pytest.param(
            play(CallEvent("call-1", CallState.COMPLETED, talk_seconds=0)),
            "undelivered",
            "unknown",
            id="ended for no reason",
        ),
    ],
)
def test_the_end_of_a_call(record: Verification, status: str, end_reason: str) -> None:
    assert (record.status, call_of(record).end_reason) == (status, end_reason)


def test_a_cancelled_call_says_so() -> None:
    record = rules.finish(play(ANSWER), Status.CANCELLED, 1002.0)
    ended = rules.apply_event(record, NORMAL_END, 1003.0)
    assert (ended.status, call_of(ended).end_reason) == ("cancelled", "cancelled")


@pytest.mark.parametrize("order", list(itertools.permutations([RING, ANSWER, NORMAL_END])))
def test_out_of_order_events_end_the_call_all_the_same(order: tuple[CallEvent, ...]) -> None:
    record = play(*order)
    assert call_of(record).state is CallState.COMPLETED
    assert call_of(record).end_reason is EndReason.HUNG_UP_EARLY


@settings(derandomize=True, max_examples=200)
@given(st.lists(st.sampled_from([RING, ANSWER, NORMAL_END]), max_size=12))
def test_states_only_go_forward(events: list[CallEvent]) -> None:
    states = list(CallState)
    record, reached = calling(), CallState.DIALING
    for event in events:
        record = rules.apply_event(record, event, 1001.0)
        state = call_of(record).state
        assert states.index(state) >= states.index(reached)
        reached = state


@settings(derandomize=True, max_examples=200)
@given(st.lists(st.sampled_from(list(FINAL)), min_size=1, max_size=5))
def test_the_first_final_status_stays(ends: list[Status]) -> None:
    record = calling()
    for end in ends:
        record = rules.finish(record, end, 1001.0)
    assert record.status is ends[0]
    assert record.sealed_code == b""


def test_a_timeline_tells_what_happened_and_when() -> None:
    record = play(RING, ANSWER, NORMAL_END, spoken=True)
    events = [(round(at - 1_767_225_600.0, 3), event) for at, event in record.timeline()]
    assert events == [
        (0, "created"), (0, "dialing"), (1, "ringing"), (2, "answered"), (2, "code_requested"), (2, "code_spoken"),
        (3, "completed"),
    ]  # fmt: skip


def test_a_timeline_is_bounded_and_keeps_its_beginning() -> None:
    record = calling()
    for _ in range(100):
        record = rules.note(record, "wrong_key", 1001.0)
    entries = [event for _, event in record.timeline()]
    assert len(entries) == MAX_TIMELINE_ENTRIES
    assert entries[:2] == ["created", "dialing"]


def test_a_second_call_is_numbered_and_a_heard_code_stays_delivered() -> None:
    heard = play(ANSWER, NORMAL_END, spoken=True)
    again = rules.start_call(heard, NEW_CALL, 1100.0)
    assert (again.status, call_of(again).number) == ("delivered", 2)
    missed = rules.fail_call(again, EndReason.BUSY, "USER_BUSY 3010", 1101.0)
    assert (missed.status, call_of(missed).end_reason) == ("delivered", "busy")


def test_rules_for_calls_need_a_call() -> None:
    with pytest.raises(LookupError):
        rules.name_call(rules._replace(calling(), call=None), "call-1")


def test_late_keys_and_readings_change_nothing() -> None:
    ended = play(ANSWER, NORMAL_END)
    assert rules.count_wrong_key(ended, 1010.0) == ended
    assert rules.end_reading(ended, 1, 1010.0) == ended


NEW_MESSAGE = NewMessage("plivo", "+12025550100", "en")


def texting(*states: MessageState | None) -> Verification:
    record = rules.start_message(calling(), NEW_MESSAGE, 1001.0)
    record = rules.fail_call(record, EndReason.BUSY, "", 1002.0)
    record = rules.start_message(record, NEW_MESSAGE, 1003.0)
    for seconds, state in enumerate(states, start=1004):
        record = rules.apply_report(record, MessageReport("message-1", state), float(seconds))
    return record


@given(st.lists(st.sampled_from([*MessageState, None]), max_size=8))
def test_reports_in_any_order_move_a_message_forward_to_one_end(states: list[MessageState | None]) -> None:
    record = texting(*states)
    assert record.message is not None
    told = [state for state in states if state is not None]
    ends = [state for state in told if state in MESSAGE_ENDS]
    furthest = MessageState.SENT if MessageState.SENT in told else MessageState.QUEUED
    assert record.message.state is (ends[0] if ends else furthest)
    assert record.status.value == (ends[0].value if ends else "pending")
    events = [event for _, event in record.timeline() if event.startswith("message_")][2:]
    assert len(events) == len(set(events)), "what came twice is told once"


@pytest.mark.parametrize("state", sorted(MESSAGE_ENDS))
def test_a_message_leaves_the_status_to_a_call_that_is_live(state: MessageState) -> None:
    record = rules.start_message(calling(), NEW_MESSAGE, 1001.0)
    assert record.status is Status.CALLING
    record = rules.apply_report(record, MessageReport("message-1", state), 1002.0)
    assert record.status is (Status.DELIVERED if state is MessageState.DELIVERED else Status.CALLING)
