"""Where verifications live: what every store does, and the store in memory.

A store keeps one page per phone number (see `number_page`), takes each step on one page, and says when codes
expire and which calls fell silent. How pages are kept is all that differs between stores.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from clock import Clock
from number_failures import DAY_SECONDS
from number_page import (
    EMPTY_PAGE,
    Begun,
    Checked,
    Moment,
    NewCode,
    NumberPage,
    OpenPage,
    StoreRules,
)
from phone_numbers import line_key
from sealing import Sealer
from sms_provider import MessageReport
from timer_wheel import TimerWheel
from verification import Call, Message, NewCall, NewMessage, Verification
from voice_provider import CallEvent, CallState, EndReason

T = TypeVar("T")
Step = Callable[[OpenPage], T]


class StoreUnavailable(Exception):
    """The store cannot answer: nothing is sent and nothing is accepted."""


class StoreFull(StoreUnavailable):
    """As many verifications are under way as the store can hold."""


class Expired(NamedTuple):
    """Verifications whose code was still running at its deadline, each told once."""

    records: list[Verification]
    some_are_left: bool


class OtpStore(ABC):
    """Every method is one atomic step. A `key` is a phone number in E.164 or a verification id.

    A verification belongs to the client that began it, and is unknown to all others. What protects a number counts
    over all clients: its one live call, and its wrong codes.
    All methods raise StoreUnavailable when the store cannot answer.
    """

    def __init__(self, sealer: Sealer, clock: Clock, rules: StoreRules) -> None:
        self._sealer = sealer
        self._clock = clock
        self._rules = rules

    @abstractmethod
    async def _on_page(self, line: str, step: Step[T]) -> T:
        """Take a step on the page of a line, and keep what becomes of it, also when the step raises."""

    async def _on(self, key: str, step: Step[T]) -> T:
        # An id holds its number, encrypted, so that no index is needed to find the page.
        phone = self._sealer.phone_of(key) if key.startswith("vrf_") else key
        return step(self._open(EMPTY_PAGE)) if phone is None else await self._on_page(line_key(phone), step)

    def _line_of(self, verification_id: str) -> str:
        phone = self._sealer.phone_of(verification_id)
        if phone is None:
            raise LookupError("a verification id of another OTP_SECRET")
        return line_key(phone)

    def _open(self, page: NumberPage) -> OpenPage:
        return OpenPage(page, Moment(self._clock.now(), self._clock.wall()), self._sealer, self._rules)

    async def begin(self, client: str, phone: str, new_code: NewCode, new_call: NewCall) -> Begun:
        """Reserve the one live call of a number: for a new verification, or for the client's one under way.

        A resend keeps the deadline and the attempts, and, unless codes are to be new, the code. An alert is never
        the number's newest verification: it is found by its id.
        Raises: StoreFull, NumberLocked, CallStillLive, OtherMode.
        """
        return await self._on(phone, lambda page: page.begin(client, phone, new_code, new_call))

    async def join(self, client: str, phone: str, new_code: NewCode) -> Verification | None:
        """The verification of which the same request has begun a call; else the one whose live call can stand for
        what is asked for: it is what `begin` would return."""
        return await self._on(phone, lambda page: page.join(client, phone, new_code))

    async def find(self, client: str, key: str) -> Verification | None:
        """The client's newest verification of a number, or its one with this id."""
        return await self._on(key, lambda page: page.find(client, key))

    async def find_by_id(self, verification_id: str) -> Verification | None:
        """A verification of any client, for what carries its own proof."""
        return await self._on(verification_id, lambda page: page.find_by_id(verification_id))

    @abstractmethod
    async def find_by_call_id(self, provider: str, call_id: str) -> Verification | None:
        """The verification whose live call has this carrier's call id."""

    async def check(self, client: str, key: str, candidate: str, attempt: str = "") -> Checked:
        """Count an attempt, compare, and consume the code when it is right.

        The last attempt made again, by the name that its caller gave it, has the same outcome and counts no more.

        Raises: NumberLocked while wrong codes of the number are being waited out, OtherMode for a code that is
        typed on the phone; nothing is compared then.
        """
        return await self._on(key, lambda page: page.check(client, key, candidate, attempt))

    async def check_typed(self, verification_id: str, call_number: int, attempt: int, typed: str) -> Checked:
        """The same for a code that was typed on the phone; nothing typed counts for nothing.

        `attempt` numbers what was waited for in this call: what comes twice is counted once.
        """
        return await self._on(
            verification_id, lambda page: page.check_typed(verification_id, call_number, attempt, typed)
        )

    async def take_keys(
        self, verification_id: str, call_number: int, attempt: int, *, is_right: bool
    ) -> Verification | None:
        """The keys that have to be pressed before a code is told were waited for."""
        return await self._on(
            verification_id, lambda page: page.take_keys(verification_id, call_number, attempt, is_right=is_right)
        )

    async def acknowledge(self, verification_id: str, call_number: int) -> Verification | None:
        """The callee says that the alert was heard."""
        return await self._on(verification_id, lambda page: page.acknowledge(verification_id, call_number))

    async def cancel(self, client: str, key: str) -> Verification | None:
        """Make the code worthless; None when there is none to cancel."""
        return await self._on(key, lambda page: page.cancel(client, key))

    async def name_call(self, verification_id: str, call_number: int, call_id: str) -> Verification | None:
        """Keep the carrier's id of a call, as its answer to our request says; a callback's word counts less."""
        return await self._on(verification_id, lambda page: page.name_call(verification_id, call_number, call_id))

    async def fail_call(
        self, verification_id: str, call_number: int, end_reason: EndReason, cause: str
    ) -> Verification | None:
        """End a call of which no callback will tell."""
        return await self._on(
            verification_id, lambda page: page.fail_call(verification_id, call_number, end_reason, cause)
        )

    async def record_call_event(
        self, verification_id: str, call_number: int, event: CallEvent
    ) -> Verification | None:
        """Move a call on as its carrier reports, and keep the carrier's call id if it is not known yet.

        None when the call is not the verification's newest one. Raises: OtherCall.
        """
        return await self._on(
            verification_id, lambda page: page.record_call_event(verification_id, call_number, event)
        )

    async def read_code(self, verification_id: str, call_number: int, reading: int) -> str | None:
        """The code, to be spoken once more now; None when it must not be."""
        return await self._on(verification_id, lambda page: page.read_code(verification_id, call_number, reading))

    async def read_whole_code(self, verification_id: str, call_number: int) -> str | None:
        """The code, to be told to a carrier before it dials; None when the call is not wanted any more."""
        return await self._on(verification_id, lambda page: page.read_whole_code(verification_id, call_number))

    async def code_to_show(self, verification_id: str) -> str | None:
        """The running code of keypad mode, for whoever asked for its call; None for every other one."""
        return await self._on(verification_id, lambda page: page.code_to_show(verification_id))

    async def dial_queued(self, verification_id: str, call_number: int) -> Verification | None:
        """A queued call's turn has come; None when it is not wanted any more."""
        return await self._on(verification_id, lambda page: page.dial_queued(verification_id, call_number))

    async def next_call(
        self, verification_id: str, call_number: int, new_call: NewCall, why: str, *, is_certain: bool = True
    ) -> Verification | None:
        """Begin the next call in place of one that did not get through; None when none is wanted any more.

        `why` is `failed_over` or `redialing`. With `failed_over` the call before is still being placed, and it is
        given up; `is_certain` says that its carrier did not dial. With `redialing` it has ended.
        """
        return await self._on(
            verification_id,
            lambda page: page.next_call(verification_id, call_number, new_call, why, is_certain=is_certain),
        )

    async def begin_message(
        self, client: str, phone: str, new_code: NewCode, new_message: NewMessage
    ) -> tuple[Verification, str]:
        """Begin a text message, with a new verification or the client's one under way; also the code to be sent.

        Raises: StoreFull, NumberLocked, OtherMode, CallStillLive while a call reads another code than the
        backend's own.
        """
        return await self._on(phone, lambda page: page.begin_message(client, phone, new_code, new_message))

    async def name_message(
        self, verification_id: str, message_number: int, message_id: str
    ) -> Verification | None:
        """Keep the carrier's id of a message; None when it is not the verification's newest one."""
        return await self._on(
            verification_id, lambda page: page.name_message(verification_id, message_number, message_id)
        )

    async def record_report(
        self, verification_id: str, message_number: int, report: MessageReport
    ) -> Verification | None:
        """Move a message on as its carrier reports; None when it is not the verification's newest one."""
        return await self._on(
            verification_id, lambda page: page.record_report(verification_id, message_number, report)
        )

    @abstractmethod
    async def find_by_message_id(self, provider: str, message_id: str) -> Verification | None:
        """The verification whose newest message has this carrier's message id."""

    async def resume_given_up(self, verification_id: str, call_number: int) -> Verification | None:
        """Wait again for the call that was given up last, in place of one that was not placed."""
        return await self._on(verification_id, lambda page: page.resume_given_up(verification_id, call_number))

    @abstractmethod
    async def live_calls(self, provider: str) -> int:
        """How many calls a carrier has under way, not counting queued ones."""

    async def claim_live_call(self, provider: str, limit: int) -> bool:
        """Whether a carrier that takes so many calls at once has room for one that begins now."""
        return await self.live_calls(provider) < limit

    @abstractmethod
    async def queued_calls(self, provider: str) -> int:
        """How many calls wait for a carrier."""

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
        return await self._on(
            verification_id,
            lambda page: page.record_reading_end(
                verification_id, call_number, reading, wrong_key=wrong_key, silence=silence
            ),
        )

    @abstractmethod
    async def expire(self, limit: int = 250) -> "Expired":
        """Let due deadlines take effect, at most `limit` of them."""

    @abstractmethod
    async def take_overdue_calls(self, limit: int = 100) -> list[Verification]:
        """Calls without news for too long, each handed out once; given up if nothing is heard soon after."""


class MemoryOtpStore(OtpStore):
    """The store of a single process. Nothing in it awaits, so each method is one step of the event loop.

    Holds at most `capacity` verifications. Ones that are over are kept for `retention_seconds` for status queries,
    and make room first when it is full; ones under way, or with a live call, are never evicted, and neither are
    wrong codes that still count.
    """

    def __init__(self, sealer: Sealer, clock: Clock, rules: StoreRules) -> None:
        super().__init__(sealer, clock, rules)
        self._pages: dict[str, NumberPage] = {}  # by line key
        self._records = 0
        self._over: OrderedDict[str, float] = OrderedDict()  # in the order of their ends, with the time of each
        self._by_live_call: defaultdict[str, dict[str, str]] = defaultdict(dict)  # provider, call id
        self._by_message: defaultdict[str, dict[str, str]] = defaultdict(dict)  # provider, message id
        self._live_calls: defaultdict[str, int] = defaultdict(int)  # provider, without queued ones
        self._queued_calls: defaultdict[str, int] = defaultdict(int)  # provider
        self._lines_with_failures = 0
        self._deadlines: TimerWheel[str] = TimerWheel()
        self._watches: TimerWheel[str] = TimerWheel()
        self._forgettable: TimerWheel[str] = TimerWheel()  # lines with failures

    async def _on_page(self, line: str, step: Step[T]) -> T:
        return self._take(line, step)

    def _take(self, line: str, step: Step[T]) -> T:
        before = self._pages.get(line, EMPTY_PAGE)
        page = self._open(before)
        try:
            result = step(page)
        except Exception:
            self._keep(line, before, page)  # an attempt that was counted before something broke
            raise
        if page.created is not None:
            self._make_room(page)
        self._keep(line, before, page)
        return result

    def _make_room(self, page: OpenPage) -> None:
        """Forget what ended first, here or on another page. Raises: StoreFull."""
        if self._lines_with_failures >= self._rules.capacity:
            raise StoreFull("wrong codes are remembered for as many numbers as the store can hold")
        if self._records < self._rules.capacity:
            return
        if not self._over:
            raise StoreFull(f"{self._rules.capacity} verifications are under way")
        ended_first = next(iter(self._over))
        if ended_first in page:
            page.forget(ended_first)
        else:
            self._forget(ended_first)

    def _keep(self, line: str, before: NumberPage, page: OpenPage) -> None:
        for timer in page.deadlines:
            self._deadlines.add(timer.due_at, timer.verification_id)
        for timer in page.watches:
            self._watches.add(timer.due_at, timer.verification_id)
        if not (page.is_changed or page.is_outdated):
            return
        after = page.page()
        gone = {record.id: record for record in before.records}
        for record in after.records:
            was = gone.pop(record.id, None)
            if was is not record:
                self._index(was, record)
        for record in gone.values():
            self._unindex(record)
        self._count_failures(line, before, after)
        if after == EMPTY_PAGE:
            self._pages.pop(line, None)
        else:
            self._pages[line] = after

    def _index(self, before: Verification | None, record: Verification) -> None:
        if before is None:
            self._records += 1
        if record.over_at is not None and record.id not in self._over:
            self._over[record.id] = record.over_at
        self._index_call(record.id, before.call if before else None, record.call)
        self._index_message(record.id, before.message if before else None, record.message)

    def _unindex(self, record: Verification) -> None:
        self._records -= 1
        self._over.pop(record.id, None)
        self._index_call(record.id, record.call, None)
        self._index_message(record.id, record.message, None)

    def _index_call(self, verification_id: str, before: Call | None, call: Call | None) -> None:
        if before is call:
            return
        if before is not None and before.is_live:
            self._by_live_call[before.provider].pop(before.call_id, None)
            self._calls_like(before)[before.provider] -= 1
        if call is not None and call.is_live:
            self._calls_like(call)[call.provider] += 1
            if call.call_id:
                self._by_live_call[call.provider][call.call_id] = verification_id

    def _calls_like(self, call: Call) -> defaultdict[str, int]:
        return self._queued_calls if call.state is CallState.QUEUED else self._live_calls

    def _index_message(self, verification_id: str, before: Message | None, message: Message | None) -> None:
        if before is message:
            return
        if before is not None:
            self._by_message[before.provider].pop(before.message_id, None)
        if message is not None and message.message_id:
            self._by_message[message.provider][message.message_id] = verification_id

    def _count_failures(self, line: str, before: NumberPage, after: NumberPage) -> None:
        if before.failures is None and after.failures is not None:
            self._lines_with_failures += 1
            self._forgettable.add(self._clock.now() + DAY_SECONDS, line)
        elif before.failures is not None and after.failures is None:
            self._lines_with_failures -= 1

    async def find_by_call_id(self, provider: str, call_id: str) -> Verification | None:
        verification_id = self._by_live_call[provider].get(call_id)
        return await self.find_by_id(verification_id) if verification_id is not None else None

    async def find_by_message_id(self, provider: str, message_id: str) -> Verification | None:
        verification_id = self._by_message[provider].get(message_id)
        return await self.find_by_id(verification_id) if verification_id is not None else None

    async def live_calls(self, provider: str) -> int:
        return self._live_calls[provider]

    async def queued_calls(self, provider: str) -> int:
        return self._queued_calls[provider]

    async def expire(self, limit: int = 250) -> Expired:
        now = self._clock.now()
        due = self._deadlines.take(now, limit)
        expired = [record for verification_id in due if (record := self._expire(verification_id)) is not None]
        forgiven = self._forget_failures(now, limit)
        forgotten = self._forget_over(now - self._rules.retention_seconds, limit)
        return Expired(expired, max(len(due), forgiven, forgotten) >= limit)

    def _expire(self, verification_id: str) -> Verification | None:
        return self._take(self._line_of(verification_id), lambda page: page.expire(verification_id))

    def _forget_failures(self, now: float, limit: int) -> int:
        """Forget what is old, at most `limit` numbers; how many came due. Each has one timer, a daily one."""
        due = self._forgettable.take(now, limit)
        for line in due:
            failures = self._pages[line].failures
            if failures is None or failures.are_forgotten(now):
                self._take(line, lambda page: page.forget_failures())
            else:
                self._forgettable.add(min(failures.forget_at, now + DAY_SECONDS), line)
        return len(due)

    def _forget_over(self, ended_before: float, limit: int) -> int:
        forgotten = 0
        while self._over and forgotten < limit:
            verification_id, ended_at = next(iter(self._over.items()))
            if ended_at > ended_before:
                break
            self._forget(verification_id)
            forgotten += 1
        return forgotten

    def _forget(self, verification_id: str) -> None:
        self._take(self._line_of(verification_id), lambda page: page.forget(verification_id))

    async def take_overdue_calls(self, limit: int = 100) -> list[Verification]:
        now = self._clock.now()
        overdue: list[Verification] = []
        while len(overdue) < limit and (due := self._watches.take(now, limit - len(overdue))):
            overdue += [
                taken for verification_id in due if (taken := self._look_after(verification_id)) is not None
            ]
        return overdue

    def _look_after(self, verification_id: str) -> Verification | None:
        return self._take(self._line_of(verification_id), lambda page: page.take_overdue_call(verification_id))
