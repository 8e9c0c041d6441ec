"""How a verification changes.

Each rule takes a record and returns the next one, so what a caller was given stays true for the moment that it was
given, and every store applies the same rules.
"""

import msgspec

from sms_provider import MESSAGE_ENDS, MessageReport, MessageState
from verification import (
    KEY_TRIES,
    MARKS_KEPT,
    MAX_FETCHES_PER_READING,
    NEWS_GRACE_SECONDS,
    Call,
    Message,
    Mode,
    NewCall,
    NewMessage,
    Status,
    Verification,
)
from voice_provider import CallEvent, CallState, EndReason


def note(record: Verification, event: str, now: float) -> Verification:
    """Add an event to the timeline; a full timeline keeps its beginning."""
    return _replace(record, packed_timeline=record.timeline_with(event, now))


def mark_request(record: Verification, mark: bytes) -> Verification:
    """Remember which request begins a call, if it can come again."""
    return _replace(record, requests=(*record.requests, mark)[-MARKS_KEPT:]) if mark else record


def start_call(record: Verification, new: NewCall, now: float) -> Verification:
    """Begin the next call. A code that was heard once stays `delivered` while it is read again."""
    call = Call(
        number=record.call.number + 1 if record.call else 1,
        started_at=now,
        overdue_at=0,
        state=CallState.QUEUED if new.queue_seconds else CallState.DIALING,
        **msgspec.structs.asdict(new),
    )
    call = msgspec.structs.replace(call, overdue_at=now + new.queue_seconds + _silent_seconds(call))
    status = record.status if record.status is Status.DELIVERED else Status.CALLING
    return note(_replace(record, call=call, status=status), call.state.value, now)


def dial_queued(record: Verification, now: float) -> Verification:
    """A call's turn has come."""
    call = _call_of(record)
    overdue_at = now + _silent_seconds(call)
    return note(_with_call(record, state=CallState.DIALING, started_at=now, overdue_at=overdue_at), "dialing", now)


def next_call(
    record: Verification, new: NewCall, now: float, why: str, *, is_certain: bool = True
) -> Verification:
    """Begin the next call in place of one that did not get through; `why` is `failed_over` or `redialing`.

    Unless it is certain that the call before was not placed, what is heard of it later ends it.
    """
    before = _call_of(record)
    given_up = record.given_up if is_certain else (*record.given_up, before)
    redials = record.redials + (why == "redialing")
    return start_call(note(_replace(record, given_up=given_up, redials=redials), why, now), new, now)


def resume_given_up(record: Verification, now: float) -> Verification:
    """Wait again for the call that was given up last, as the one in its place was not placed."""
    *others, call = record.given_up
    call = msgspec.structs.replace(call, overdue_at=now + _silent_seconds(call))
    return _replace(record, call=call, given_up=tuple(others), status=Status.CALLING)


def _silent_seconds(call: Call) -> float:
    """How long the carrier may be silent about a call from when it is dialled."""
    talking = 0 if call.reports_progress else call.time_limit_seconds
    return call.ring_timeout_seconds + talking + NEWS_GRACE_SECONDS


def is_due(record: Verification, now: float, wall: float) -> bool:
    """Whether the deadline has passed by either clock: one that stood still or was set lengthens no life."""
    return now >= record.expires_at or wall >= record.created_wall + (record.expires_at - record.created_at)


def finish(record: Verification, status: Status, now: float) -> Verification:
    """Reach a final status, which erases the code. A status that is final already stays.

    An alert that was told, or could not be, stays so: it only cannot be told any more.
    """
    if record.is_final:
        return record
    if record.mode is Mode.ALERT and status is Status.EXPIRED and record.status in _TOLD:
        return _replace(record, sealed_code=b"")
    return note(_replace(record, status=status, sealed_code=b""), status.value, now)


_TOLD = (Status.DELIVERED, Status.UNDELIVERED)


def take_attempt(record: Verification) -> Verification:
    """Count one attempt. Done, and kept, before the code is compared."""
    return _replace(record, attempts_left=record.attempts_left - 1)


def fail_attempt(record: Verification, now: float) -> Verification:
    """Note a wrong code; the last one locks the verification."""
    record = note(record, "wrong_code", now)
    return finish(record, Status.LOCKED, now) if record.attempts_left <= 0 else record


def name_call(record: Verification, call_id: str) -> Verification:
    """Keep the carrier's id of the call."""
    return record if _call_of(record).call_id == call_id else _with_call(record, call_id=call_id)


def apply_event(record: Verification, event: CallEvent, now: float) -> Verification:
    """Move the call on. States only go forward: late, doubled and out-of-order events change nothing."""
    call = _call_of(record)
    if event.is_machine and call.is_live and not call.is_machine:
        record = note(_with_call(record, is_machine=True), "machine_detected", now)
        call = _call_of(record)
    if event.is_without_keys and call.is_live and call.is_locked and not call.key_tries:
        record = note(_with_call(record, key_tries=1), "wrong_keys", now)
        call = _call_of(record)
    if event.state is None or not call.is_live:
        return record
    if _rank(event.state) <= _rank(call.state):
        return _extend(record, now) if call.was_looked_up else record
    match event.state:
        case CallState.RINGING:
            overdue_at = now + call.ring_timeout_seconds + NEWS_GRACE_SECONDS
            record = _with_call(record, state=event.state, overdue_at=overdue_at)
        case CallState.ANSWERED:
            overdue_at = now + call.time_limit_seconds + NEWS_GRACE_SECONDS
            ring_seconds = int(now - call.started_at)
            record = _with_call(
                record, state=event.state, overdue_at=overdue_at, answered_at=now, ring_seconds=ring_seconds
            )
        case CallState.COMPLETED:
            return _end_call(record, event, now)
    return note(record, event.state.value, now)


def _end_call(record: Verification, event: CallEvent, now: float) -> Verification:
    call = _call_of(record)
    spoken = call.times_spoken
    if not spoken and _was_long_enough(call, event, now):
        spoken = 1  # hung up during the second reading: the first one was long over
    ended_unanswered = call.answered_at is None and not event.was_answered
    call = msgspec.structs.replace(
        call,
        state=CallState.COMPLETED,
        times_spoken=spoken,
        talk_seconds=_talk_seconds(call, event, now),
        ring_seconds=int(now - call.started_at) if ended_unanswered else call.ring_seconds,
        hangup_cause=event.hangup_cause,
        end_reason=EndReason.ANSWERED_AND_SPOKEN
        if _has_served(record, spoken)
        else _end_reason(record, event, now),
        # Needed no more, and a million records are kept.
        overdue_at=call.started_at,
        answered_at=None,
        ended_at=now,
    )
    ended = note(_replace(record, call=call), "completed", now)
    if ended.is_final or ended.status is Status.DELIVERED:
        return ended
    return _replace(ended, status=Status.DELIVERED if spoken else Status.UNDELIVERED)


def _has_served(record: Verification, spoken: int) -> bool:
    """Whether the call did what it was for: a code was heard, or one was typed, if only a wrong one."""
    return spoken > 0 or _call_of(record).has_typed


def _was_long_enough(call: Call, event: CallEvent, now: float) -> bool:
    """Whether the code was begun, and the callee listened for as long as one reading takes."""
    if not call.readings or (call.is_locked and call.key_tries):
        return False
    return _least_talk_seconds(call, event, now) >= call.first_reading_seconds


def _talk_seconds(call: Call, event: CallEvent, now: float) -> int | None:
    if event.talk_seconds is not None or event.end_reason is EndReason.UNKNOWN:
        return event.talk_seconds  # the silence before a call is given up is no talk
    return int(now - call.answered_at) if call.answered_at is not None else None


def _least_talk_seconds(call: Call, event: CallEvent, now: float) -> float:
    """The callee listened for so long, at least: where only the end is reported, it may have rung to the limit."""
    talk_seconds = _talk_seconds(call, event, now)
    if talk_seconds is None and event.was_answered:
        return now - call.started_at - call.ring_timeout_seconds
    return talk_seconds or 0


def _end_reason(record: Verification, event: CallEvent, now: float) -> EndReason:
    """Why a call ended in which the code is not known to have been heard."""
    call = _call_of(record)
    if record.status is Status.CANCELLED:
        return EndReason.CANCELLED
    if event.end_reason is not None:
        return event.end_reason
    if call.is_machine:
        return EndReason.VOICEMAIL
    if call.key_tries and not (call.is_unlocked or call.has_typed):
        return EndReason.NO_KEYPRESS
    if call.answered_at is not None or _talk_seconds(call, event, now):
        return EndReason.HUNG_UP_EARLY
    is_too_short = now - call.started_at < call.first_reading_seconds
    return EndReason.HUNG_UP_EARLY if event.was_answered and is_too_short else EndReason.UNKNOWN


def fail_call(record: Verification, end_reason: EndReason, cause: str, now: float) -> Verification:
    """End a call that was never placed, or that nothing more will be heard of."""
    ended = CallEvent(_call_of(record).call_id, CallState.COMPLETED, end_reason, hangup_cause=cause)
    return apply_event(record, ended, now)


def may_speak(record: Verification, reading: int) -> bool:
    """Whether the code may be read in this call now: live, unverified, and a bounded number of times."""
    call = record.live_call
    return (
        call is not None
        and not record.is_final
        and record.mode is not Mode.KEYPAD
        and not call.is_locked
        and not call.is_machine
        and 1 <= reading <= min(call.readings, call.manner.max_replays) + 1
        and (reading > call.readings or call.fetches < MAX_FETCHES_PER_READING)
    )


def begin_reading(record: Verification, reading: int, now: float) -> Verification:
    """Count a fetch of the code."""
    call = _call_of(record)
    if reading > call.readings:
        return _with_call(note(record, "code_requested", now), readings=reading, fetches=1)
    return _with_call(record, fetches=call.fetches + 1)


def hand_out_whole_call(record: Verification, now: float) -> Verification:
    """The carrier is told the code before it dials, with all its replays."""
    call = _call_of(record)
    return _with_call(note(record, "code_handed_over", now), readings=1 + call.manner.max_replays)


def end_reading(record: Verification, reading: int, now: float) -> Verification:
    """A reading was played to its end; the first one makes the verification `delivered`."""
    call = record.live_call
    if call is None or not call.times_spoken < reading <= call.readings:
        return record
    record = note(_with_call(record, times_spoken=reading), "code_spoken", now)
    return record if record.is_final else _replace(record, status=Status.DELIVERED)


def count_wrong_key(record: Verification, now: float) -> Verification:
    call = record.live_call
    if call is None:
        return record
    return note(_with_call(record, wrong_keys=call.wrong_keys + 1), "wrong_key", now)


def count_silence(record: Verification) -> Verification:
    """The offer to hear the code again was met with silence."""
    call = record.live_call
    return record if call is None else _with_call(record, silences=call.silences + 1)


def take_keys(record: Verification, attempt: int, now: float, *, is_right: bool) -> Verification:
    """Keys were waited for: the right ones, wrong ones or none. An earlier attempt changes nothing."""
    call = record.live_call
    if call is None or not call.is_locked or attempt != call.key_tries or attempt >= KEY_TRIES:
        return record
    record = note(record, "keys_pressed" if is_right else "wrong_keys", now)
    return _with_call(record, key_tries=attempt + 1, is_unlocked=is_right)


def is_typing(record: Verification, attempt: int) -> bool:
    """Whether this is the attempt to type a code on the phone that is waited for."""
    call = record.live_call
    if call is None or record.mode is not Mode.KEYPAD or record.is_final:
        return False
    return attempt == call.key_tries < KEY_TRIES


def count_typing(record: Verification, now: float, *, has_typed: bool) -> Verification:
    """A code was waited for to its last key, or to the timeout."""
    call = _call_of(record)
    record = record if call.key_tries else note(record, "code_asked_for", now)
    return _with_call(record, key_tries=call.key_tries + 1, has_typed=call.has_typed or has_typed)


def acknowledge(record: Verification, now: float) -> Verification:
    """The callee pressed a key to say that the alert was heard."""
    if record.mode is not Mode.ALERT or record.is_final or not record.live_call:
        return record
    return _replace(note(record, "acknowledged", now), sealed_code=b"", status=Status.DELIVERED)


def mark_looked_up(record: Verification, now: float) -> Verification:
    """Give the carrier's answer to a look-up time to arrive before the call is given up."""
    return _with_call(record, was_looked_up=True, overdue_at=now + NEWS_GRACE_SECONDS)


def _extend(record: Verification, now: float) -> Verification:
    """The carrier was asked and says that the call goes on: wait for news again, though not for ever."""
    call = _call_of(record)
    if now >= call.started_at + 2 * (call.ring_timeout_seconds + call.time_limit_seconds):
        return record
    return _with_call(record, was_looked_up=False, overdue_at=now + NEWS_GRACE_SECONDS)


def start_message(record: Verification, new: NewMessage, now: float) -> Verification:
    """Begin a text message with the code. One that was delivered stays `delivered`, a live call `calling`."""
    number = record.message.number + 1 if record.message else 1
    message = Message(new.provider, new.from_number, new.language, now, number)
    is_settled = record.status is Status.DELIVERED or record.live_call is not None
    status = record.status if is_settled else Status.PENDING
    return note(_replace(record, message=message, status=status), "message_queued", now)


def name_message(record: Verification, message_id: str) -> Verification:
    return _with_message(record, message_id=message_id)


def apply_report(record: Verification, report: MessageReport, now: float) -> Verification:
    """Move the message on. As with calls, late and doubled reports change nothing, and an end is an end."""
    message = _message_of(record)
    if report.state is None or message.state in MESSAGE_ENDS:
        return record
    if _MESSAGE_RANKS[report.state] <= _MESSAGE_RANKS[message.state]:
        return record
    message_id = message.message_id or report.message_id
    record = _with_message(record, state=report.state, cause=report.cause, message_id=message_id)
    record = note(record, f"message_{report.state.value}", now)
    if record.is_final or record.status is Status.DELIVERED:
        return record
    match report.state:
        case MessageState.DELIVERED:
            return _replace(record, status=Status.DELIVERED)
        case MessageState.UNDELIVERED if record.status is Status.PENDING:
            return _replace(record, status=Status.UNDELIVERED)
    return record


def _with_message(record: Verification, **changes: object) -> Verification:
    return _replace(record, message=msgspec.structs.replace(_message_of(record), **changes))


def _message_of(record: Verification) -> Message:
    if record.message is None:
        raise LookupError("no text message was begun for this verification")
    return record.message


def _with_call(record: Verification, **changes: object) -> Verification:
    return _replace(record, call=msgspec.structs.replace(_call_of(record), **changes))


def _call_of(record: Verification) -> Call:
    if record.call is None:
        raise LookupError("no call was started for this verification")
    return record.call


def _replace(record: Verification, **changes: object) -> Verification:
    return msgspec.structs.replace(record, **changes)


_RANKS = {state: rank for rank, state in enumerate(CallState)}
_MESSAGE_RANKS = {state: rank for rank, state in enumerate(MessageState)}


def _rank(state: CallState) -> int:
    return _RANKS[state]
