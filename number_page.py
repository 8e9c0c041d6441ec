"""All that is known of one phone number, and each step that may be taken with it.

A page is the unit in which stores keep things: a step sees one page as it is now, and what becomes of it is kept
as a whole or not at all. So the rules are written once, and every store has the same ones.
"""

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import msgspec

import verification_rules as steps
from number_failures import NO_FAILURES, NumberFailures
from sealing import Sealer
from sms_provider import MessageReport
from verification import NEWS_GRACE_SECONDS, Mode, NewCall, NewMessage, Status, Verification
from voice_provider import CallEvent, CallState, EndReason


class CallStillLive(Exception):
    """The live call of this number cannot stand for the one that was asked for.

    Either the verification that it belongs to has ended, or is another client's, or it reads another code than the
    backend's own.
    """

    def __init__(self, record: Verification) -> None:
        super().__init__("a call to this number is live")
        self.record = record


class OtherMode(Exception):
    """The code of a number is to be told, and not to be typed on the phone; or the other way round."""


class OtherCall(Exception):
    """A report names another call than the one that it is said to be about."""


class NewCode(msgspec.Struct, frozen=True):
    """The code of a new verification. A code that the backend brought replaces the one of a running one, and so do
    others where codes are to be new, unless the running one is to be kept. A marked request begins one call.
    """

    code: str
    is_backends_own: bool
    ttl_seconds: int
    reference: str | None = None
    keeps_running: bool = False
    mode: Mode = Mode.SPEAK
    mark: bytes = b""

    def __repr__(self) -> str:
        return f"NewCode(<{len(self.code)} characters>)"


class Begun(NamedTuple):
    record: Verification
    is_duplicate: bool
    """A call to this number is live: no second one was started."""


class Outcome(StrEnum):
    CORRECT = "correct"
    INCORRECT = "incorrect"
    NOT_FOUND = "expired_or_not_found"
    TOO_MANY_ATTEMPTS = "too_many_attempts"


class Checked(NamedTuple):
    outcome: Outcome
    record: Verification | None


class StoreRules(msgspec.Struct, frozen=True):
    """What an operator may set of a store's behaviour. `capacity` is that of a store in memory."""

    max_attempts: int = 5
    max_failures_per_number: int = 20
    replace_code_on_resend: bool = False
    retention_seconds: int = 3600
    capacity: int = 1_000_000


class NumberPage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Verifications in the order in which they were begun, of all clients, and the number's wrong codes in a row.

    `failures` are None where there were none of late.
    """

    records: tuple[Verification, ...] = ()
    failures: NumberFailures | None = None


EMPTY_PAGE = NumberPage()
SLACK_SECONDS = 60.0


class Moment(NamedTuple):
    """`now` in seconds of the store's clock, `wall` in Unix seconds."""

    now: float
    wall: float


class Timer(NamedTuple):
    """When a verification has to be looked at."""

    due_at: float
    verification_id: str


class OpenPage:
    """A page at one moment, to take a step with. The steps are those of `OtpStore`, where they are described.

    A store keeps `page()` if `is_changed`. A change that time alone has made (`is_outdated`) may be kept or not:
    it is found again. `deadlines` and `watches` are timers that the step asks for: to let a code expire, and to
    look after a call of which nothing was heard.
    """

    def __init__(self, page: NumberPage, moment: Moment, sealer: Sealer, rules: StoreRules) -> None:
        self._now, self._wall = moment
        self._sealer = sealer
        self._rules = rules
        self._records = {record.id: record for record in page.records}
        self._failures = page.failures
        self.is_changed = False
        self.is_outdated = False
        self.created: Verification | None = None
        self.deadlines: list[Timer] = []
        self.watches: list[Timer] = []

    def page(self) -> NumberPage:
        return NumberPage(tuple(self._records.values()), self._failures)

    # Sending

    def begin(self, client: str, phone: str, new_code: NewCode, new_call: NewCall) -> Begun:
        self._refuse_waiting()
        live = self._with_live_call()
        if live is not None:
            if not self._can_stand_for(live, client, phone, new_code):
                raise CallStillLive(live)
            return Begun(live, is_duplicate=True)
        record = self._running(client, phone, new_code)
        record = self._with_new_code(record, new_code) if record else self._create(client, phone, new_code)
        record = steps.mark_request(record, new_code.mark)
        record = self._save(steps.start_call(record, new_call, self._now))
        self._watch_call(record)
        return Begun(record, is_duplicate=False)

    def join(self, client: str, phone: str, new_code: NewCode) -> Verification | None:
        for record in self._all():
            if record.client == client and record.is_begun_by(new_code.mark, self._now):
                return record
        live = self._with_live_call()
        return live if live is not None and self._can_stand_for(live, client, phone, new_code) else None

    def begin_message(
        self, client: str, phone: str, new_code: NewCode, new_message: NewMessage
    ) -> tuple[Verification, str]:
        self._refuse_waiting()
        record = self._running(client, phone, new_code)
        if record is not None:
            if record.live_call is not None and self._is_another_code(record, new_code):
                raise CallStillLive(record)
            record = self._with_new_code(record, new_code)
        else:
            record = self._create(client, phone, new_code)
        record = self._save(steps.start_message(record, new_message, self._now))
        return record, self._sealer.unseal(record.sealed_code, record.id)

    def _running(self, client: str, phone: str, new_code: NewCode) -> Verification | None:
        """The verification that a new call, or message, is for; None when it is for a new one."""
        if new_code.mode is Mode.ALERT:
            return None
        record = self.find(client, phone)
        if record is None or record.is_final:
            return None
        if record.mode is not new_code.mode:
            raise OtherMode
        return record

    def _with_live_call(self) -> Verification | None:
        return next((record for record in self._all() if record.live_call is not None), None)

    def _can_stand_for(self, live: Verification, client: str, phone: str, new_code: NewCode) -> bool:
        is_own = live.client == client and live.phone == phone and live.mode is new_code.mode
        return is_own and not live.is_final and not self._is_another_code(live, new_code)

    def _create(self, client: str, phone: str, new_code: NewCode) -> Verification:
        verification_id = self._sealer.draw_id(phone)
        record = Verification(
            id=verification_id,
            client=client,
            phone=phone,
            sealed_code=self._sealer.seal(new_code.code, verification_id),
            created_at=self._now,
            created_wall=self._wall,
            expires_at=self._now + new_code.ttl_seconds,
            max_attempts=self._rules.max_attempts,
            attempts_left=self._rules.max_attempts,
            mode=new_code.mode,
            reference=new_code.reference,
        )
        self.created = record
        self.deadlines.append(Timer(record.expires_at, verification_id))
        return steps.note(record, "created", self._now)

    def _is_another_code(self, record: Verification, new_code: NewCode) -> bool:
        return new_code.is_backends_own and not self._sealer.matches(record.sealed_code, record.id, new_code.code)

    def _with_new_code(self, record: Verification, new_code: NewCode) -> Verification:
        # In keypad mode the newest answer shows the code, so it has to be the one of that answer.
        is_new = self._rules.replace_code_on_resend or record.mode is Mode.KEYPAD
        is_new = is_new and not new_code.keeps_running
        # What a live call reads, or was told to read, has to stay right.
        is_replaced = new_code.is_backends_own or (is_new and record.live_call is None)
        if not is_replaced or self._sealer.matches(record.sealed_code, record.id, new_code.code):
            return record
        sealed = self._sealer.seal(new_code.code, record.id)
        return steps.note(msgspec.structs.replace(record, sealed_code=sealed), "code_replaced", self._now)

    # Finding

    def find(self, client: str, key: str) -> Verification | None:
        if key in self._records:
            record = self.find_by_id(key)
            return record if record is not None and record.client == client else None
        return next((record for record in self._newest_first() if _is_found_by(record, client, key)), None)

    def find_by_id(self, verification_id: str) -> Verification | None:
        record = self._records.get(verification_id)
        return self._up_to_date(record) if record is not None else None

    def with_newest_call(self, verification_id: str, call_number: int) -> Verification | None:
        record = self.find_by_id(verification_id)
        is_newest = record is not None and record.call is not None and record.call.number == call_number
        return record if is_newest else None

    def with_newest_message(self, verification_id: str, message_number: int) -> Verification | None:
        record = self.find_by_id(verification_id)
        message = record.message if record is not None else None
        return record if message is not None and message.number == message_number else None

    def _all(self) -> list[Verification]:
        return [self._up_to_date(record) for record in list(self._records.values())]

    def _newest_first(self) -> Iterator[Verification]:
        return reversed(self._all())

    # Checking

    def check(self, client: str, key: str, candidate: str, attempt: str) -> Checked:
        record = self.find(client, key)
        mark = self._sealer.mark_attempt(attempt, candidate) if attempt else b""
        if record is not None and attempt and record.last_attempt == mark:
            return Checked(Outcome.CORRECT if record.status is Status.VERIFIED else Outcome.INCORRECT, record)
        if record is None or record.is_final:
            self._sealer.pretend_to_match(candidate)  # so that this takes as long as a comparison
            is_locked = record is not None and record.status is Status.LOCKED
            return Checked(Outcome.TOO_MANY_ATTEMPTS if is_locked else Outcome.NOT_FOUND, record)
        if record.mode is Mode.KEYPAD:
            raise OtherMode  # its code is shown to whoever asked for it: knowing it proves nothing
        if record.mode is Mode.ALERT:
            return Checked(Outcome.NOT_FOUND, record)
        return self._check(msgspec.structs.replace(record, last_attempt=mark), candidate)

    def check_typed(self, verification_id: str, call_number: int, attempt: int, typed: str) -> Checked:
        record = self.with_newest_call(verification_id, call_number)
        if record is None or not steps.is_typing(record, attempt):
            return Checked(Outcome.NOT_FOUND, record)
        if typed:
            self._refuse_waiting()
        record = self._save(steps.count_typing(record, self._now, has_typed=bool(typed)))
        return self._check(record, typed) if typed else Checked(Outcome.INCORRECT, record)

    def _check(self, record: Verification, candidate: str) -> Checked:
        self._refuse_waiting()
        record = self._save(steps.take_attempt(record))
        if self._sealer.matches(record.sealed_code, record.id, candidate):
            if self._failures is not None:
                self._failures = NO_FAILURES
            return Checked(Outcome.CORRECT, self._finish(record, Status.VERIFIED))
        failures = self._failures or NO_FAILURES
        self._failures = failures.one_more(self._rules.max_failures_per_number, self._now)
        return Checked(Outcome.INCORRECT, self._save(steps.fail_attempt(record, self._now)))

    def _refuse_waiting(self) -> None:
        if self._failures is not None:
            self._failures.refuse_waiting(self._now)

    def cancel(self, client: str, key: str) -> Verification | None:
        record = self.find(client, key)
        return None if record is None or record.is_final else self._finish(record, Status.CANCELLED)

    def _finish(self, record: Verification, status: Status) -> Verification:
        return self._save(steps.finish(record, status, self._now))

    # Calls

    def take_keys(
        self, verification_id: str, call_number: int, attempt: int, *, is_right: bool
    ) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None:
            return None
        return self._save(steps.take_keys(record, attempt, self._now, is_right=is_right))

    def acknowledge(self, verification_id: str, call_number: int) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        return self._save(steps.acknowledge(record, self._now)) if record is not None else None

    def name_call(self, verification_id: str, call_number: int, call_id: str) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        return self._save(steps.name_call(record, call_id)) if record is not None else None

    def fail_call(
        self, verification_id: str, call_number: int, end_reason: EndReason, cause: str
    ) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        return self._save(steps.fail_call(record, end_reason, cause, self._now)) if record is not None else None

    def record_call_event(self, verification_id: str, call_number: int, event: CallEvent) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None or record.call is None:
            return None
        if event.call_id and record.call.call_id not in ("", event.call_id):
            raise OtherCall("the carrier's call id belongs to another call")
        named = record if record.call.call_id else steps.name_call(record, event.call_id)
        return self._save(steps.apply_event(named, event, self._now))

    def read_code(self, verification_id: str, call_number: int, reading: int) -> str | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None or not steps.may_speak(record, reading):
            return None
        code = self._sealer.unseal(record.sealed_code, record.id)
        self._save(steps.begin_reading(record, reading, self._now))
        return code

    def read_whole_code(self, verification_id: str, call_number: int) -> str | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None or record.is_final or record.live_call is None:
            return None
        code = self._sealer.unseal(record.sealed_code, record.id)
        self._save(steps.hand_out_whole_call(record, self._now))
        return code

    def code_to_show(self, verification_id: str) -> str | None:
        record = self.find_by_id(verification_id)
        if record is None or record.mode is not Mode.KEYPAD or record.is_final:
            return None
        return self._sealer.unseal(record.sealed_code, record.id)

    def record_reading_end(
        self, verification_id: str, call_number: int, reading: int, *, wrong_key: bool, silence: bool
    ) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None:
            return None
        record = steps.end_reading(record, reading, self._now)
        if wrong_key:
            record = steps.count_wrong_key(record, self._now)
        return self._save(steps.count_silence(record) if silence else record)

    def dial_queued(self, verification_id: str, call_number: int) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None or record.is_final or record.call is None or record.call.state is not CallState.QUEUED:
            return None
        return self._watch_call(self._save(steps.dial_queued(record, self._now)))

    def next_call(
        self, verification_id: str, call_number: int, new_call: NewCall, why: str, *, is_certain: bool
    ) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None or record.call is None or record.is_final:
            return None
        is_placing = record.call.state in (CallState.QUEUED, CallState.DIALING) and not record.call.call_id
        if why == "failed_over" and not is_placing:
            return None  # it has got through after all
        live = self._with_live_call()
        if live is not None and (why == "redialing" or live.id != record.id):
            return None
        return self._watch_call(
            self._save(steps.next_call(record, new_call, self._now, why, is_certain=is_certain))
        )

    def resume_given_up(self, verification_id: str, call_number: int) -> Verification | None:
        record = self.with_newest_call(verification_id, call_number)
        if record is None or not record.given_up or record.is_final:
            return None
        return self._watch_call(self._save(steps.resume_given_up(record, self._now)))

    # Text messages

    def name_message(self, verification_id: str, message_number: int, message_id: str) -> Verification | None:
        record = self.with_newest_message(verification_id, message_number)
        return self._save(steps.name_message(record, message_id)) if record is not None else None

    def record_report(
        self, verification_id: str, message_number: int, report: MessageReport
    ) -> Verification | None:
        record = self.with_newest_message(verification_id, message_number)
        if record is None or record.message is None:
            return None
        if report.message_id and record.message.message_id not in ("", report.message_id):
            return None  # of a message that is not ours
        return self._save(steps.apply_report(record, report, self._now))

    # The passing of time

    def expire(self, verification_id: str) -> Verification | None:
        """The verification if its code ran to its deadline."""
        record = self.find_by_id(verification_id)
        self.is_changed = self.is_changed or self.is_outdated
        return record if record is not None and record.status is Status.EXPIRED else None

    def take_overdue_call(self, verification_id: str) -> Verification | None:
        """The verification if nothing was heard of its call for too long, and nobody has taken it yet."""
        record = self.find_by_id(verification_id)
        self.is_changed = self.is_changed or self.is_outdated
        call = record.live_call if record is not None else None
        if record is None or call is None:
            return None
        is_taken = self._now >= call.overdue_at and not call.was_looked_up
        record = self._save(steps.mark_looked_up(record, self._now)) if is_taken else record
        self._watch_call(record)
        return record if is_taken else None

    def __contains__(self, verification_id: str) -> bool:
        return verification_id in self._records

    def forget(self, verification_id: str) -> None:
        del self._records[verification_id]
        self.is_changed = True

    def forget_failures(self) -> None:
        self._failures = None
        self.is_changed = True

    def forget_old(self) -> None:
        """Drop what has been over for longer than it is kept; time alone has done that."""
        for record in list(self._records.values()):
            if record.over_at is not None and self._now >= record.over_at + self._rules.retention_seconds:
                del self._records[record.id]
                self.is_outdated = True
        if self._failures is not None and self._failures.are_forgotten(self._now):
            self._failures = None
            self.is_outdated = True

    def lifetime_seconds(self) -> float:
        """How long the page has to be kept, if nothing more happens."""
        ends = [self._now]  # nobody has looked for long at what is past
        ends += [self._end_of(record) + self._rules.retention_seconds for record in self._records.values()]
        if self._failures is not None:
            ends.append(self._failures.forget_at)
        return max(ends) + SLACK_SECONDS - self._now

    @staticmethod
    def _end_of(record: Verification) -> float:
        if record.over_at is not None:
            return record.over_at
        call = record.live_call
        return record.expires_at if call is None else max(record.expires_at, call.overdue_at)

    def _up_to_date(self, record: Verification) -> Verification:
        """The record as it is now: deadlines count also when nobody has looked at it since they passed.

        Each counts from its own moment: whoever looks, and whenever, finds the same.
        """
        before, call = record, record.live_call
        is_due = not record.is_final and steps.is_due(record, self._now, self._wall)
        ends_at = min(self._now, record.expires_at)
        given_up_at = call.overdue_at + NEWS_GRACE_SECONDS if call is not None else math.inf
        if is_due and ends_at <= given_up_at:
            record = steps.finish(record, Status.EXPIRED, ends_at)
        if self._now >= given_up_at:
            record = steps.fail_call(record, EndReason.UNKNOWN, "", given_up_at)
        if is_due:
            record = steps.finish(record, Status.EXPIRED, ends_at)
        # By the wall clock alone: it may be set back, and what has ended stays so.
        self.is_changed = self.is_changed or (is_due and self._now < record.expires_at)
        if record is not before:
            self.is_outdated = True
            self._put(record)
        return self._records[record.id]

    def _save(self, record: Verification) -> Verification:
        if record is not self._records.get(record.id):
            self.is_changed = True
            self._put(record)
        return self._records[record.id]

    def _put(self, record: Verification) -> None:
        if record.is_over and record.over_at is None:
            record = msgspec.structs.replace(record, over_at=self._now)
        self._records[record.id] = record

    def _watch_call(self, record: Verification) -> Verification:
        call = record.live_call
        if call is not None:
            is_past = call.overdue_at <= self._now  # somebody looks after it, or it is given up
            due_at = call.overdue_at + (NEWS_GRACE_SECONDS if is_past else 0)
            self.watches.append(Timer(due_at, record.id))
        return record


def _is_found_by(record: Verification, client: str, phone: str) -> bool:
    return record.client == client and record.phone == phone and record.mode is not Mode.ALERT
