"""Where verifications live: the contract of a store, and the store in memory."""

from collections import OrderedDict, defaultdict
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

import verification as steps
from clock import Clock
from number_failures import NumberFailures
from phone_numbers import line_key
from sealing import Sealer
from sms_provider import MessageReport
from timer_wheel import TimerWheel
from verification import Call, Message, Mode, NewCall, NewMessage, Status, Verification, draw_verification_id
from voice_provider import CallEvent, CallState, EndReason


class StoreUnavailable(Exception):
    """The store cannot answer: nothing is sent and nothing is accepted."""


class StoreFull(StoreUnavailable):
    """As many verifications are under way as the store can hold."""


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
    others where codes are to be new, unless the running one is to be kept."""

    code: str
    is_backends_own: bool
    ttl_seconds: int
    reference: str | None = None
    keeps_running: bool = False
    mode: Mode = Mode.SPEAK

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


class OtpStore(Protocol):
    """Every method is one atomic step. A `key` is a phone number in E.164 or a verification id.

    A verification belongs to the client that began it, and is unknown to all others. What protects a number counts
    over all clients: its one live call, and its wrong codes.
    All methods raise StoreUnavailable when the store cannot answer.
    """

    async def begin(self, client: str, phone: str, new_code: NewCode, new_call: NewCall) -> Begun:
        """Reserve the one live call of a number: for a new verification, or for the client's one under way.

        A resend keeps the deadline and the attempts, and, unless codes are to be new, the code. An alert is never
        the number's newest verification: it is found by its id.
        Raises: StoreFull, NumberLocked, CallStillLive, OtherMode.
        """
        ...

    async def join(self, client: str, phone: str, new_code: NewCode) -> Verification | None:
        """The verification whose live call can stand for what is asked for; it is what `begin` would return."""
        ...

    async def find(self, client: str, key: str) -> Verification | None:
        """The client's newest verification of a number, or its one with this id."""
        ...

    async def find_by_id(self, verification_id: str) -> Verification | None:
        """A verification of any client, for what carries its own proof."""
        ...

    async def find_by_call_id(self, provider: str, call_id: str) -> Verification | None:
        """The verification whose live call has this carrier's call id."""
        ...

    async def check(self, client: str, key: str, candidate: str) -> Checked:
        """Count an attempt, compare, and consume the code when it is right.

        Raises: NumberLocked while wrong codes of the number are being waited out, OtherMode for a code that is
        typed on the phone; nothing is compared then.
        """
        ...

    async def check_typed(self, verification_id: str, call_number: int, attempt: int, typed: str) -> Checked:
        """The same for a code that was typed on the phone; nothing typed counts for nothing.

        `attempt` numbers what was waited for in this call: what comes twice is counted once.
        """
        ...

    async def take_keys(
        self, verification_id: str, call_number: int, attempt: int, *, is_right: bool
    ) -> Verification | None:
        """The keys that have to be pressed before a code is told were waited for."""
        ...

    async def acknowledge(self, verification_id: str, call_number: int) -> Verification | None:
        """The callee says that the alert was heard."""
        ...

    async def cancel(self, client: str, key: str) -> Verification | None:
        """Make the code worthless; None when there is none to cancel."""
        ...

    async def name_call(self, verification_id: str, call_number: int, call_id: str) -> Verification | None:
        """Keep the carrier's id of a call, as its answer to our request says; a callback's word counts less."""
        ...

    async def fail_call(
        self, verification_id: str, call_number: int, end_reason: EndReason, cause: str
    ) -> Verification | None:
        """End a call of which no callback will tell."""
        ...

    async def record_call_event(
        self, verification_id: str, call_number: int, event: CallEvent
    ) -> Verification | None:
        """Move a call on as its carrier reports, and keep the carrier's call id if it is not known yet.

        None when the call is not the verification's newest one. Raises: OtherCall.
        """
        ...

    async def read_code(self, verification_id: str, call_number: int, reading: int) -> str | None:
        """The code, to be spoken once more now; None when it must not be."""
        ...

    async def read_whole_code(self, verification_id: str, call_number: int) -> str | None:
        """The code, to be told to a carrier before it dials; None when the call is not wanted any more."""
        ...

    async def code_to_show(self, verification_id: str) -> str | None:
        """The running code of keypad mode, for whoever asked for its call; None for every other one."""
        ...

    async def dial_queued(self, verification_id: str, call_number: int) -> Verification | None:
        """A queued call's turn has come; None when it is not wanted any more."""
        ...

    async def next_call(
        self, verification_id: str, call_number: int, new_call: NewCall, why: str, *, is_certain: bool = True
    ) -> Verification | None:
        """Begin the next call in place of one that did not get through; None when none is wanted any more.

        `why` is `failed_over` or `redialing`. With `failed_over` the call before is still being placed, and it is
        given up; `is_certain` says that its carrier did not dial. With `redialing` it has ended.
        """
        ...

    async def begin_message(
        self, client: str, phone: str, new_code: NewCode, new_message: NewMessage
    ) -> tuple[Verification, str]:
        """Begin a text message, with a new verification or the client's one under way; also the code to be sent.

        Raises: StoreFull, NumberLocked, OtherMode, CallStillLive while a call reads another code than the
        backend's own.
        """
        ...

    async def name_message(
        self, verification_id: str, message_number: int, message_id: str
    ) -> Verification | None:
        """Keep the carrier's id of a message; None when it is not the verification's newest one."""
        ...

    async def record_report(
        self, verification_id: str, message_number: int, report: MessageReport
    ) -> Verification | None:
        """Move a message on as its carrier reports; None when it is not the verification's newest one."""
        ...

    async def find_by_message_id(self, provider: str, message_id: str) -> Verification | None:
        """The verification whose newest message has this carrier's message id."""
        ...

    async def resume_given_up(self, verification_id: str, call_number: int) -> Verification | None:
        """Wait again for the call that was given up last, in place of one that was not placed."""
        ...

    async def live_calls(self, provider: str) -> int:
        """How many calls a carrier has under way, not counting queued ones."""
        ...

    async def queued_calls(self, provider: str) -> int:
        """How many calls wait for a carrier."""
        ...

    async def record_reading_end(
        self,
        verification_id: str,
        call_number: int,
        reading: int,
        *,
        wrong_key: bool = False,
        silence: bool = False,
    ) -> Verification | None:
        """A reading was played to its end, perhaps followed by a key that means nothing, or by none."""
        ...

    async def expire(self, limit: int = 250) -> "Expired":
        """Let due deadlines take effect, at most `limit` of them."""
        ...

    async def take_overdue_calls(self, limit: int = 100) -> list[Verification]:
        """Calls without news for too long, each handed out once; given up if nothing is heard soon after."""
        ...


class Expired(NamedTuple):
    """Verifications whose code was still running at its deadline, each told once."""

    records: list[Verification]
    some_are_left: bool


class StoreRules(msgspec.Struct, frozen=True):
    """What an operator may set of a store's behaviour, whichever store it is."""

    max_attempts: int = 5
    max_failures_per_number: int = 20
    replace_code_on_resend: bool = False
    retention_seconds: int = 3600
    capacity: int = 1_000_000


class MemoryOtpStore:
    """The store of a single process. Nothing in it awaits, so each method is one step of the event loop.

    Holds at most `capacity` verifications. Ones that are over are kept for `retention_seconds` for status queries,
    and make room first when it is full; ones under way, or with a live call, are never evicted.
    """

    def __init__(self, sealer: Sealer, clock: Clock, rules: StoreRules) -> None:
        self._sealer = sealer
        self._clock = clock
        self._rules = rules
        self._by_id: dict[str, Verification] = {}
        self._newest: defaultdict[str, dict[str, str]] = defaultdict(dict)  # client, phone
        self._called: dict[str, str] = {}  # the verification whose call is live, by line key
        self._by_live_call: defaultdict[str, dict[str, str]] = defaultdict(dict)  # provider, call id
        self._by_message: defaultdict[str, dict[str, str]] = defaultdict(dict)  # provider, message id
        self._live_calls: defaultdict[str, int] = defaultdict(int)  # provider, without queued ones
        self._queued_calls: defaultdict[str, int] = defaultdict(int)  # provider
        self._over: OrderedDict[str, float] = OrderedDict()  # in the order of their ends, with the time of each
        self._failures = NumberFailures(rules.max_failures_per_number)
        self._deadlines: TimerWheel[str] = TimerWheel()
        self._overdue: TimerWheel[str] = TimerWheel()

    async def begin(self, client: str, phone: str, new_code: NewCode, new_call: NewCall) -> Begun:
        now = self._clock.now()
        self._failures.refuse_waiting(phone, now)
        live = self._with_live_call(phone, now)
        if live is not None:
            if not self._can_stand_for(live, client, phone, new_code):
                raise CallStillLive(live)
            return Begun(live, is_duplicate=True)
        record = self._running(client, phone, new_code, now)
        if record is not None:
            record = self._with_new_code(record, new_code, now)
        else:
            record = self._create(client, phone, new_code, now)
        record = self._save(steps.start_call(record, new_call, now))
        self._watch_call(record, now)
        return Begun(record, is_duplicate=False)

    async def join(self, client: str, phone: str, new_code: NewCode) -> Verification | None:
        live = self._with_live_call(phone, self._clock.now())
        return live if live is not None and self._can_stand_for(live, client, phone, new_code) else None

    def _running(self, client: str, phone: str, new_code: NewCode, now: float) -> Verification | None:
        """The verification that a new call, or message, is for; None when it is for a new one."""
        if new_code.mode is Mode.ALERT:
            return None
        record = self._current(client, phone, now)
        if record is None or record.is_final:
            return None
        if record.mode is not new_code.mode:
            raise OtherMode
        return record

    def _with_live_call(self, phone: str, now: float) -> Verification | None:
        verification_id = self._called.get(line_key(phone))
        record = self._up_to_date(self._by_id.get(verification_id), now) if verification_id is not None else None
        return record if record is not None and record.live_call is not None else None

    def _can_stand_for(self, live: Verification, client: str, phone: str, new_code: NewCode) -> bool:
        is_own = live.client == client and live.phone == phone and live.mode is new_code.mode
        return is_own and not live.is_final and not self._is_another_code(live, new_code)

    def _create(self, client: str, phone: str, new_code: NewCode, now: float) -> Verification:
        self._make_room()
        verification_id = draw_verification_id()
        record = Verification(
            id=verification_id,
            client=client,
            phone=phone,
            sealed_code=self._sealer.seal(new_code.code, verification_id),
            created_at=now,
            created_wall=self._clock.wall(),
            expires_at=now + new_code.ttl_seconds,
            max_attempts=self._rules.max_attempts,
            attempts_left=self._rules.max_attempts,
            mode=new_code.mode,
            reference=new_code.reference,
        )
        if new_code.mode is not Mode.ALERT:
            self._newest[client][phone] = verification_id
        self._deadlines.add(record.expires_at, verification_id)
        return steps.note(record, "created", now)

    def _make_room(self) -> None:
        if len(self._failures) >= self._rules.capacity:
            raise StoreFull("wrong codes are remembered for as many numbers as the store can hold")
        if len(self._by_id) < self._rules.capacity:
            return
        if not self._over:
            raise StoreFull(f"{self._rules.capacity} verifications are under way")
        self._forget(next(iter(self._over)))

    def _is_another_code(self, record: Verification, new_code: NewCode) -> bool:
        return new_code.is_backends_own and not self._sealer.matches(record.sealed_code, record.id, new_code.code)

    def _with_new_code(self, record: Verification, new_code: NewCode, now: float) -> Verification:
        # In keypad mode the newest answer shows the code, so it has to be the one of that answer.
        is_new = self._rules.replace_code_on_resend or record.mode is Mode.KEYPAD
        is_new = is_new and not new_code.keeps_running
        # What a live call reads, or was told to read, has to stay right.
        is_replaced = new_code.is_backends_own or (is_new and record.live_call is None)
        if not is_replaced or self._sealer.matches(record.sealed_code, record.id, new_code.code):
            return record
        sealed = self._sealer.seal(new_code.code, record.id)
        return steps.note(msgspec.structs.replace(record, sealed_code=sealed), "code_replaced", now)

    async def find(self, client: str, key: str) -> Verification | None:
        return self._current(client, key, self._clock.now())

    async def find_by_id(self, verification_id: str) -> Verification | None:
        return self._up_to_date(self._by_id.get(verification_id), self._clock.now())

    async def find_by_call_id(self, provider: str, call_id: str) -> Verification | None:
        verification_id = self._by_live_call[provider].get(call_id)
        return await self.find_by_id(verification_id) if verification_id is not None else None

    async def check(self, client: str, key: str, candidate: str) -> Checked:
        now = self._clock.now()
        record = self._current(client, key, now)
        if record is None or record.is_final:
            self._sealer.pretend_to_match(candidate)  # so that this takes as long as a comparison
            is_locked = record is not None and record.status is Status.LOCKED
            return Checked(Outcome.TOO_MANY_ATTEMPTS if is_locked else Outcome.NOT_FOUND, record)
        if record.mode is Mode.KEYPAD:
            raise OtherMode  # its code is shown to whoever asked for it: knowing it proves nothing
        if record.mode is Mode.ALERT:
            return Checked(Outcome.NOT_FOUND, record)
        return self._check(record, candidate, now)

    async def check_typed(self, verification_id: str, call_number: int, attempt: int, typed: str) -> Checked:
        now = self._clock.now()
        record = self._with_newest_call(verification_id, call_number)
        if record is None or not steps.is_typing(record, attempt):
            return Checked(Outcome.NOT_FOUND, record)
        if typed:
            self._failures.refuse_waiting(record.phone, now)
        record = self._save(steps.count_typing(record, now, has_typed=bool(typed)))
        return self._check(record, typed, now) if typed else Checked(Outcome.INCORRECT, record)

    def _check(self, record: Verification, candidate: str, now: float) -> Checked:
        self._failures.refuse_waiting(record.phone, now)
        record = self._save(steps.take_attempt(record))
        if self._sealer.matches(record.sealed_code, record.id, candidate):
            self._failures.forgive(record.phone, now)
            return Checked(Outcome.CORRECT, self._save(steps.finish(record, Status.VERIFIED, now)))
        self._failures.count(record.phone, now)
        return Checked(Outcome.INCORRECT, self._save(steps.fail_attempt(record, now)))

    async def take_keys(
        self, verification_id: str, call_number: int, attempt: int, *, is_right: bool
    ) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None:
            return None
        return self._save(steps.take_keys(record, attempt, self._clock.now(), is_right=is_right))

    async def acknowledge(self, verification_id: str, call_number: int) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        return self._save(steps.acknowledge(record, self._clock.now())) if record is not None else None

    async def cancel(self, client: str, key: str) -> Verification | None:
        now = self._clock.now()
        record = self._current(client, key, now)
        if record is None or record.is_final:
            return None
        return self._save(steps.finish(record, Status.CANCELLED, now))

    async def name_call(self, verification_id: str, call_number: int, call_id: str) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        return self._save(steps.name_call(record, call_id)) if record is not None else None

    async def fail_call(
        self, verification_id: str, call_number: int, end_reason: EndReason, cause: str
    ) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None:
            return None
        return self._save(steps.fail_call(record, end_reason, cause, self._clock.now()))

    async def record_call_event(
        self, verification_id: str, call_number: int, event: CallEvent
    ) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None or record.call is None:
            return None
        if event.call_id and record.call.call_id not in ("", event.call_id):
            raise OtherCall("the carrier's call id belongs to another call")
        named = record if record.call.call_id else steps.name_call(record, event.call_id)
        return self._save(steps.apply_event(named, event, self._clock.now()))

    async def read_code(self, verification_id: str, call_number: int, reading: int) -> str | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None or not steps.may_speak(record, reading):
            return None
        code = self._sealer.unseal(record.sealed_code, record.id)
        self._save(steps.begin_reading(record, reading, self._clock.now()))
        return code

    async def read_whole_code(self, verification_id: str, call_number: int) -> str | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None or record.is_final or record.live_call is None:
            return None
        code = self._sealer.unseal(record.sealed_code, record.id)
        self._save(steps.hand_out_whole_call(record, self._clock.now()))
        return code

    async def code_to_show(self, verification_id: str) -> str | None:
        record = await self.find_by_id(verification_id)
        if record is None or record.mode is not Mode.KEYPAD or record.is_final:
            return None
        return self._sealer.unseal(record.sealed_code, record.id)

    async def dial_queued(self, verification_id: str, call_number: int) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None or record.is_final or record.call is None or record.call.state is not CallState.QUEUED:
            return None
        now = self._clock.now()
        record = self._save(steps.dial_queued(record, now))
        self._watch_call(record, now)
        return record

    async def next_call(
        self, verification_id: str, call_number: int, new_call: NewCall, why: str, *, is_certain: bool = True
    ) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None or record.call is None or record.is_final:
            return None
        now = self._clock.now()
        is_placing = record.call.state in (CallState.QUEUED, CallState.DIALING) and not record.call.call_id
        if why == "failed_over" and not is_placing:
            return None  # it has got through after all
        live = self._with_live_call(record.phone, now)
        if live is not None and (why == "redialing" or live.id != record.id):
            return None
        record = self._save(steps.next_call(record, new_call, now, why, is_certain=is_certain))
        self._watch_call(record, now)
        return record

    async def begin_message(
        self, client: str, phone: str, new_code: NewCode, new_message: NewMessage
    ) -> tuple[Verification, str]:
        now = self._clock.now()
        self._failures.refuse_waiting(phone, now)
        record = self._running(client, phone, new_code, now)
        if record is not None:
            if record.live_call is not None and self._is_another_code(record, new_code):
                raise CallStillLive(record)
            record = self._with_new_code(record, new_code, now)
        else:
            record = self._create(client, phone, new_code, now)
        record = self._save(steps.start_message(record, new_message, now))
        return record, self._sealer.unseal(record.sealed_code, record.id)

    async def name_message(
        self, verification_id: str, message_number: int, message_id: str
    ) -> Verification | None:
        record = self._with_newest_message(verification_id, message_number)
        return self._save(steps.name_message(record, message_id)) if record is not None else None

    async def record_report(
        self, verification_id: str, message_number: int, report: MessageReport
    ) -> Verification | None:
        record = self._with_newest_message(verification_id, message_number)
        if record is None or record.message is None:
            return None
        if report.message_id and record.message.message_id not in ("", report.message_id):
            return None  # of a message that is not ours
        return self._save(steps.apply_report(record, report, self._clock.now()))

    async def find_by_message_id(self, provider: str, message_id: str) -> Verification | None:
        verification_id = self._by_message[provider].get(message_id)
        return await self.find_by_id(verification_id) if verification_id is not None else None

    def _with_newest_message(self, verification_id: str, message_number: int) -> Verification | None:
        record = self._up_to_date(self._by_id.get(verification_id), self._clock.now())
        message = record.message if record is not None else None
        return record if message is not None and message.number == message_number else None

    async def resume_given_up(self, verification_id: str, call_number: int) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None or not record.given_up or record.is_final:
            return None
        now = self._clock.now()
        record = self._save(steps.resume_given_up(record, now))
        self._watch_call(record, now)
        return record

    async def live_calls(self, provider: str) -> int:
        return self._live_calls[provider]

    async def queued_calls(self, provider: str) -> int:
        return self._queued_calls[provider]

    async def record_reading_end(
        self,
        verification_id: str,
        call_number: int,
        reading: int,
        *,
        wrong_key: bool = False,
        silence: bool = False,
    ) -> Verification | None:
        record = self._with_newest_call(verification_id, call_number)
        if record is None:
            return None
        now = self._clock.now()
        record = steps.end_reading(record, reading, now)
        if wrong_key:
            record = steps.count_wrong_key(record, now)
        return self._save(steps.count_silence(record) if silence else record)

    async def expire(self, limit: int = 250) -> Expired:
        now = self._clock.now()
        due = self._deadlines.take(now, limit)
        records = [self._up_to_date(self._by_id.get(verification_id), now) for verification_id in due]
        forgiven = self._failures.expire(now, limit)
        forgotten = self._forget_over(now - self._rules.retention_seconds, limit)
        expired = [record for record in records if record is not None and record.status is Status.EXPIRED]
        return Expired(expired, max(len(due), forgiven, forgotten) >= limit)

    def _forget_over(self, ended_before: float, limit: int) -> int:
        forgotten = 0
        while self._over and forgotten < limit:
            verification_id, ended_at = next(iter(self._over.items()))
            if ended_at > ended_before:
                break
            self._forget(verification_id)
            forgotten += 1
        return forgotten

    async def take_overdue_calls(self, limit: int = 100) -> list[Verification]:
        now = self._clock.now()
        overdue: list[Verification] = []
        while len(overdue) < limit and (due := self._overdue.take(now, limit - len(overdue))):
            for verification_id in due:
                record = self._up_to_date(self._by_id.get(verification_id), now)
                if record is None or record.live_call is None:
                    continue
                if record.live_call.overdue_at <= now and not record.live_call.was_looked_up:
                    record = self._save(steps.mark_looked_up(record, now))
                    overdue.append(record)
                self._watch_call(record, now)
        return overdue

    def _current(self, client: str, key: str, now: float) -> Verification | None:
        if not key.startswith("vrf_"):
            key = self._newest[client].get(key, "")
        record = self._by_id.get(key)
        return self._up_to_date(record, now) if record is not None and record.client == client else None

    def _up_to_date(self, record: Verification | None, now: float) -> Verification | None:
        """The record as it is now: deadlines count also when nobody has called `expire` since they passed."""
        if record is None:
            return None
        if not record.is_final and steps.is_due(record, now, self._clock.wall()):
            record = self._save(steps.finish(record, Status.EXPIRED, now))
        call = record.live_call
        if call is not None and now >= call.overdue_at + steps.NEWS_GRACE_SECONDS:
            record = self._save(steps.fail_call(record, EndReason.UNKNOWN, "", now))
        return record

    def _with_newest_call(self, verification_id: str, call_number: int) -> Verification | None:
        record = self._up_to_date(self._by_id.get(verification_id), self._clock.now())
        is_newest = record is not None and record.call is not None and record.call.number == call_number
        return record if is_newest else None

    def _save(self, record: Verification) -> Verification:
        before = self._by_id.get(record.id)
        self._by_id[record.id] = record
        if record.is_over and (before is None or not before.is_over):
            self._over[record.id] = self._clock.now()
        self._index_call(record, before.call if before else None, record.call)
        self._index_message(record.id, before.message if before else None, record.message)
        return record

    def _index_call(self, record: Verification, before: Call | None, call: Call | None) -> None:
        if before is call:
            return
        if before is not None and before.is_live:
            self._by_live_call[before.provider].pop(before.call_id, None)
            self._called.pop(line_key(record.phone), None)
            self._calls_like(before)[before.provider] -= 1
        if call is not None and call.is_live:
            self._called[line_key(record.phone)] = record.id
            self._calls_like(call)[call.provider] += 1
            if call.call_id:
                self._by_live_call[call.provider][call.call_id] = record.id

    def _calls_like(self, call: Call) -> defaultdict[str, int]:
        return self._queued_calls if call.state is CallState.QUEUED else self._live_calls

    def _index_message(self, verification_id: str, before: Message | None, message: Message | None) -> None:
        if before is message:
            return
        if before is not None:
            self._by_message[before.provider].pop(before.message_id, None)
        if message is not None and message.message_id:
            self._by_message[message.provider][message.message_id] = verification_id

    def _watch_call(self, record: Verification, now: float) -> None:
        if record.call is not None:
            self._overdue.add(max(record.call.overdue_at, now), record.id)

    def _forget(self, verification_id: str) -> None:
        record = self._by_id.pop(verification_id, None)
        self._over.pop(verification_id, None)
        if record is None:
            return
        if self._newest[record.client].get(record.phone) == verification_id:
            del self._newest[record.client][record.phone]
        self._index_call(record, record.call, None)
        self._index_message(record.id, record.message, None)
