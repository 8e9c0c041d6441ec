"""The store in Redis.

A step is taken here, on a page as it was seen last, and takes effect only if nobody has changed the page since;
else it is taken again on the page as it is now. That costs one round trip where this process saw the page last,
and two where another one did; one more when a call begins, gets its carrier's id, or ends.
"""

import asyncio
import itertools
import secrets
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Coroutine, Iterator
from hashlib import blake2b
from typing import Any

from clock import Clock
from number_page import Checked, NumberPage, OpenPage, StoreRules
from otp_store import Expired, OtpStore, Step, StoreUnavailable, T
from redis_connection import Redis, Script
from redis_pages import DueSlot, RedisPages, Seen, Timers, raw_id
from sealing import Sealer
from verification import NEWS_GRACE_SECONDS, Call, Message, Verification
from voice_provider import CallState

# With the time that its last write may take, a step ends within a second.
STEP_SECONDS = 0.5
PAGES_REMEMBERED = 16_384  # about a kilobyte each
DUE_AT_ONCE = 50

# A place among a carrier's calls is kept for so long for a call that is about to begin.
CLAIM_SECONDS = 2.0
MAX_CLAIMS = 1000

Command = Coroutine[Any, Any, Any]

# KEYS: calls under way, by the time until which they may be. ARGV: now, how many there may be, until when a place
# is kept, and for whom. Gives 1 when it is.
_CLAIM = Script("""
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
return redis.call('ZADD', KEYS[1], ARGV[3], ARGV[4])
""")


class RedisOtpStore(OtpStore):
    """The store of any number of processes and machines. Its clock is one that they share."""

    def __init__(
        self,
        redis: Redis,
        pages: RedisPages,
        sealer: Sealer,
        clock: Clock,
        rules: StoreRules,
        limited: Collection[str] | None = None,
    ) -> None:
        """`limited` are the carriers whose calls under way are counted, as they take only so many; None: all."""
        super().__init__(sealer, clock, rules)
        self._limited = limited
        self._name, self._checks = secrets.token_hex(8), itertools.count()
        self._claims: defaultdict[str, deque[tuple[float, bytes]]] = defaultdict(lambda: deque(maxlen=MAX_CLAIMS))
        self._redis = redis
        self._pages = pages
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}  # of lines that are at work: who waits for them

    def use_names(self, key: bytes) -> None:
        self._pages.use_names(key)
        self._seen.clear()

    async def _on_page(self, line: str, step: Step[T]) -> T:
        give_up_at = time.monotonic() + STEP_SECONDS
        waiting = self._turns.get(line)
        if waiting is None:
            self._turns[line] = deque()
        else:  # steps of one process on one page would only get in each other's way
            await self._wait_for(line, waiting)
        try:
            return await self._take(line, step, give_up_at)
        finally:
            self._give_turn_on(line)

    async def _wait_for(self, line: str, waiting: "deque[asyncio.Future[None]]") -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self._give_turn_on(line)
            if isinstance(error, TimeoutError):
                raise StoreUnavailable("too many requests for one number at once") from None
            raise

    def _give_turn_on(self, line: str) -> None:
        waiting = self._turns[line]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._turns[line]

    async def _take(self, line: str, step: Step[T], give_up_at: float) -> T:
        seen = self._seen.pop(line, None)  # not remembered while it is unknown what becomes of it
        is_current = seen is None
        seen = seen or await self._pages.load(line)
        while True:
            page = self._open(seen.page)
            error: Exception | None = None
            try:
                result = step(page)
            except Exception as raised:  # what was counted before something broke is kept
                error = raised
            if page.is_changed or page.watches or not is_current:
                seen, is_current = await self._swap(line, seen, page)
            if is_current:
                self._remember(line, seen)
                if error is not None:
                    raise error
                return result
            is_current = True  # as the server has just said
            if time.monotonic() > give_up_at:
                raise StoreUnavailable("too many requests for one number at once")

    def _open(self, page: NumberPage) -> OpenPage:
        opened = super()._open(page)
        opened.forget_old()
        return opened

    def _remember(self, line: str, seen: Seen) -> None:
        self._seen[line] = seen
        if len(self._seen) > PAGES_REMEMBERED:
            self._seen.popitem(last=False)

    async def _swap(self, line: str, seen: Seen, page: OpenPage) -> tuple[Seen, bool]:
        """See RedisPages. What leads to a call or message, and counts it, follows a page that was kept.

        That is never proof: a call that is found so is looked for on its page, and a count heals by itself. Only
        the page is needed: without the rest a call is not found by its id alone, or not counted, or for too long.
        """
        after = page.page() if page.is_changed else seen.page
        kept, is_current = await self._pages.swap(line, seen, page, after)
        if is_current and after is not seen.page and (commands := list(self._index(seen.page, after))):
            await asyncio.gather(*commands, return_exceptions=True)
        return kept, is_current

    def _index(self, before: NumberPage, after: NumberPage) -> Iterator[Command]:
        known = {record.id: record for record in before.records}
        for record in after.records:
            was = known.get(record.id)
            if was is None or was.call is not record.call or was.message is not record.message:
                yield from self._index_call(record, was.call if was else None, record.call)
                yield from self._index_message(record, was.message if was else None, record.message)

    def _index_call(self, record: Verification, before: Call | None, call: Call | None) -> Iterator[Command]:
        yield from self._index_count(record, before, call)
        was_known_as, is_known_as = _carriers_id(before), _carriers_id(call)
        if was_known_as and was_known_as != is_known_as:
            key = _key_of("call", *was_known_as)
            yield self._redis.call(key, "DEL", key)
        if call is not None and is_known_as and was_known_as != is_known_as:
            longest_seconds = 2 * (call.ring_timeout_seconds + call.time_limit_seconds) + NEWS_GRACE_SECONDS
            yield self._lead_to(record, _key_of("call", *is_known_as), longest_seconds)

    def _index_count(self, record: Verification, before: Call | None, call: Call | None) -> Iterator[Command]:
        was_in, is_in = self._count_key(before), self._count_key(call)
        if was_in and was_in != is_in:
            yield self._redis.call(was_in, "ZREM", was_in, raw_id(record.id))
        if call is None or not is_in:
            return
        until = call.overdue_at + NEWS_GRACE_SECONDS
        if was_in != is_in:
            yield self._redis.call(is_in, "ZADD", is_in, until, raw_id(record.id))
            if is_in == _live_key(call.provider):
                yield from self._redeem_claim(call.provider)
        elif before is None or before.overdue_at != call.overdue_at:
            # Another process may have ended the call meanwhile: what it took away must not come back.
            yield self._redis.call(is_in, "ZADD", is_in, "XX", until, raw_id(record.id))

    def _count_key(self, call: Call | None) -> bytes | None:
        """Where a call is counted, if it is."""
        if call is None or not call.is_live:
            return None
        if call.state is CallState.QUEUED:
            return _queued_key(call.provider)
        is_counted = self._limited is None or call.provider in self._limited
        return _live_key(call.provider) if is_counted else None

    def _index_message(
        self, record: Verification, before: Message | None, message: Message | None
    ) -> Iterator[Command]:
        if message is None or not message.message_id or (before and before.message_id == message.message_id):
            return
        seconds = record.expires_at - self._clock.now() + self._rules.retention_seconds
        yield self._lead_to(record, _key_of("message", message.provider, message.message_id), seconds)

    def _lead_to(self, record: Verification, key: bytes, seconds: float) -> Command:
        return self._redis.call(key, "SET", key, raw_id(record.id), "PX", max(1, int(seconds * 1000)))

    async def check(self, client: str, key: str, candidate: str, attempt: str = "") -> Checked:
        # So that a check is known again if it has to be sent twice.
        return await super().check(client, key, candidate, attempt or f"{self._name}/{next(self._checks)}")

    async def find_by_call_id(self, provider: str, call_id: str) -> Verification | None:
        record = await self._led_to(_key_of("call", provider, call_id))
        call = record.live_call if record is not None else None
        is_it = call is not None and (call.provider, call.call_id) == (provider, call_id)
        return record if is_it else None

    async def find_by_message_id(self, provider: str, message_id: str) -> Verification | None:
        record = await self._led_to(_key_of("message", provider, message_id))
        message = record.message if record is not None else None
        is_it = message is not None and (message.provider, message.message_id) == (provider, message_id)
        return record if is_it else None

    async def _led_to(self, key: bytes) -> Verification | None:
        raw = await self._redis.call(key, "GET", key)
        return await self.find_by_id(f"vrf_{raw.hex()}") if raw is not None else None

    async def live_calls(self, provider: str) -> int:
        return await self._count(_live_key(provider))

    async def claim_live_call(self, provider: str, limit: int) -> bool:
        key, claim, now = _live_key(provider), secrets.token_bytes(16), self._clock.now()
        until = now + CLAIM_SECONDS
        is_ours = await self._redis.run(_CLAIM, [key], now, limit, until, claim)
        if is_ours:
            self._claims[provider].append((until, claim))
        return bool(is_ours)

    def _redeem_claim(self, provider: str) -> Iterator[Command]:
        """A call that begins takes a place that was kept: its own, or an older one, which is as good."""
        claims = self._claims[provider]
        while claims:
            until, claim = claims.popleft()
            if until > self._clock.now():
                key = _live_key(provider)
                yield self._redis.call(key, "ZREM", key, claim)
                return

    async def queued_calls(self, provider: str) -> int:
        return await self._count(_queued_key(provider))

    async def _count(self, key: bytes) -> int:
        now = self._clock.now()
        # What a process that died has left behind is long overdue.
        await self._redis.call(key, "ZREMRANGEBYSCORE", key, "-inf", now)
        return int(await self._redis.call(key, "ZCARD", key))

    async def expire(self, limit: int = 250) -> Expired:
        slots = await self._pages.take_due(Timers.DEADLINES, self._clock.now(), limit)
        records = await self._visit(slots, OpenPage.expire)
        return Expired(records, sum(len(slot.ids) for slot in slots) >= limit)

    async def take_overdue_calls(self, limit: int = 100) -> list[Verification]:
        overdue: list[Verification] = []
        while len(overdue) < limit:
            slots = await self._pages.take_due(Timers.WATCHES, self._clock.now(), limit - len(overdue))
            if not slots:
                break
            overdue += await self._visit(slots, OpenPage.take_overdue_call)
        return overdue

    async def _visit(
        self, slots: list[DueSlot], look: Callable[[OpenPage, str], Verification | None]
    ) -> list[Verification]:
        """What there is to be said of what is due. What a process was about to do, and did not, comes again."""
        places = asyncio.Semaphore(DUE_AT_ONCE)

        async def visit(verification_id: str) -> Verification | None:
            async with places:
                return await self._on(verification_id, lambda page: look(page, verification_id))

        found: list[Verification] = []
        for slot in slots:
            visits = (visit(verification_id) for verification_id in slot.ids)
            looked = await asyncio.gather(*visits, return_exceptions=True)
            found += [one for one in looked if isinstance(one, Verification)]
            failures = [one for one in looked if isinstance(one, BaseException)]
            if not failures:
                await self._pages.finish(slot)
            elif unexpected := next((one for one in failures if not isinstance(one, StoreUnavailable)), None):
                raise unexpected
        return found


def _key_of(kind: str, provider: str, its_id: str) -> bytes:
    return b"otp:%b:%b" % (kind.encode(), blake2b(f"{provider}/{its_id}".encode(), digest_size=12).digest())


def _carriers_id(call: Call | None) -> tuple[str, str] | None:
    """Carrier and its id of a call that is looked for by it: a live one."""
    return (call.provider, call.call_id) if call is not None and call.is_live and call.call_id else None


def _live_key(provider: str) -> bytes:
    return f"otp:live-calls:{provider}".encode()


def _queued_key(provider: str) -> bytes:
    return f"otp:queued-calls:{provider}".encode()
