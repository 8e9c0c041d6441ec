"""What happens when Redis stands still, dies, is full, is demoted or replaced: `python -m bench.faults`.

Services run in processes of their own, over real HTTP and a real Redis. Each function makes one kind of trouble
and gives what was seen; `bench.prove` says what of it was promised.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from bench.fault_world import AOF, Answer, Asker, NeverCame, World, world
from bench.sample_data import draw_codes, phone_number
from tests.fault_proxy import FaultProxy
from tests.redis_servers import RedisServer

WRONG = "000000"
ASK_EVERY_SECONDS = 0.25
OPERATOR_KEY = "bench-operator-key-of-no-value-0123456789"
BLOCKED = "prefix:+35799"


# Redis stands still


@dataclass
class StandStill:
    """`in_flight` is the right code that was on its way to Redis when it stopped."""

    in_flight: Answer
    while_down: list[Answer]
    calls: int
    recovery_seconds: float
    wrong_counted: int
    accepted_after: int

    @property
    def longest_seconds(self) -> float:
        return max(answer.seconds for answer in self.while_down)

    @property
    def longest_health_seconds(self) -> float:
        """What the machine itself was late by: this answer needs nothing but a turn."""
        return max(answer.seconds for answer in self.while_down if answer.route == "/health")

    @property
    def accepted(self) -> int:
        """How often the one right code was accepted in all."""
        return self.accepted_while_down + self.accepted_after

    @property
    def accepted_while_down(self) -> int:
        return sum(answer.is_accepted for answer in self.while_down)

    @property
    def strange(self) -> list[Answer]:
        """Answers that are not as promised while the store is down."""
        return [answer for answer in self.while_down if not _is_as_promised(answer)]


def _is_as_promised(answer: Answer) -> bool:
    match answer.route:
        case "/health":
            return answer.status == 200
        case "/answer" | "/otp-choice":
            return answer.is_document
        case _:
            return answer.is_unavailable


@dataclass(frozen=True, slots=True)
class _Sent:
    """Two codes that were sent, and the first one's call."""

    phone: str
    code: str
    other_phone: str
    other_code: str
    call_id: str
    token: str


async def _send_two(here: World, asker: Asker, first: int) -> _Sent:
    (phone, code), (other_phone, other_code) = draw_codes(first, 2).items()
    here.called()
    await asker.prepare(phone, code)
    await asker.prepare(other_phone, other_code)
    call_id, url = next((call_id, url) for call_id, url, to in here.called() if to.endswith(phone[1:]))
    return _Sent(phone, code, other_phone, other_code, call_id, urlsplit(url).path.rpartition("/")[2])


async def _ask_everything(asker: Asker, sent: _Sent, unused: int) -> list[Answer]:
    """Every route once, at the same time; the right code first."""
    form = {"CallUUID": sent.call_id, "Event": "StartApp"}
    return list(
        await asyncio.gather(
            asker.verify(sent.phone, sent.code),
            asker.verify(sent.phone, WRONG),
            asker.verify(sent.other_phone, sent.other_code),
            asker.send(phone_number(unused), "123456"),
            asker.status(sent.phone),
            asker.cancel(sent.other_phone),
            asker.callback(f"/answer/{sent.token}?n=1", **form),
            asker.callback(f"/otp-choice/{sent.token}?n=1", **form),
            asker.callback(f"/hangup/{sent.token}", **{**form, "Event": "Hangup"}),
            asker.ask("GET", "/ready"),
            asker.ask("GET", "/health"),
        )
    )


async def stand_still(here: World, seconds: float = 0, first: int = 0) -> StandStill:
    """SIGSTOP for so long, at least until every route has answered; then SIGCONT."""
    async with here.asker() as asker:
        sent = await _send_two(here, asker, first)
        here.redis.pause()
        ends_at = time.perf_counter() + seconds
        try:
            answers = await _ask_everything(asker, sent, first + 2)
            in_flight = answers[0]
            while time.perf_counter() < ends_at:
                await asyncio.sleep(ASK_EVERY_SECONDS)
                answers += await _ask_everything(asker, sent, first + 2)
        finally:
            here.redis.resume()
        recovery = await asker.until(lambda answer: answer.status == 200, "GET", f"/otp-status/{sent.phone}")
        calls = len(here.called())
        known = json.loads((await asker.status(sent.phone)).body)
        after = [await asker.verify(sent.phone, sent.code) for _ in range(2)]
        return StandStill(
            in_flight,
            answers,
            calls,
            recovery,
            known["max_attempts"] - known["attempts_left"]
            if "max_attempts" in known
            else 5 - known["attempts_left"],
            sum(answer.is_accepted for answer in after),
        )


# Redis is slow


async def slow_down(latency_seconds: float, first: int = 70_000) -> list[Answer]:
    """The routes of a call and its check one after another, with replies of Redis that come so much later."""
    async with contextlib.AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        way = await stack.enter_async_context(FaultProxy(redis.port))
        here = await stack.enter_async_context(_world_apart(redis, way.url))
        asker = await stack.enter_async_context(here.asker())
        sent = await _send_two(here, asker, first)
        way.to_client.latency_seconds = latency_seconds
        form = {"CallUUID": sent.call_id, "Event": "StartApp"}
        return [
            await asker.callback(f"/answer/{sent.token}?n=1", **form),
            await asker.callback(f"/otp-choice/{sent.token}?n=1", **form),
            await asker.verify(sent.phone, sent.code),
            await asker.status(sent.phone),
            await asker.send(phone_number(first + 2), "123456"),
        ]


# Redis is killed


@dataclass
class Crash:
    """`sent`, `used` and `guessed` are what was acknowledged before the kill; the rest is what was lost of it."""

    sent: int = 0
    used: int = 0
    guessed: int = 0
    lost: int = 0
    used_again: int = 0
    guesses_forgotten: int = 0
    is_block_lost: bool = False
    recovery_seconds: float = 0.0
    seconds_to_503: float = 0.0
    strange: list[Answer] = field(default_factory=list)


@dataclass
class _Known:
    """What callers were told of each code."""

    codes: dict[str, str]
    sent: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    attempts_left: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    half_sent: asyncio.Event = field(default_factory=asyncio.Event)


async def crash(here: World, codes: int, callers: int = 12, first: int = 10_000) -> Crash:
    """kill -9 once half of the codes were sent, with all callers at it; then a new start."""
    known = _Known(draw_codes(first, codes))
    is_killed = asyncio.Event()
    seen = Crash()
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    async with here.asker() as asker:
        assert (await asker.ask("PUT", f"/blocks/{BLOCKED}", headers=operator)).status == 200
        waiting = iter(list(known.codes))

        async def call() -> None:
            for phone in waiting:
                if is_killed.is_set():
                    return
                await _use(asker, known, phone, int(phone[-8:]))

        callers_at_work = asyncio.gather(*(call() for _ in range(callers)))
        await known.half_sent.wait()
        here.redis.kill()
        is_killed.set()
        seen.seconds_to_503 = await asker.until(lambda answer: answer.is_unavailable, "GET", "/ready")
        await callers_at_work
        here.redis.restart()
        seen.recovery_seconds = await asker.until_ready()
        blocks = await asker.ask("GET", "/blocks", headers=operator)
        seen.is_block_lost = BLOCKED.encode() not in blocks.body
        await _count_losses(asker, known, seen)
        seen.strange = [answer for answer in asker.answers if answer.status not in (200, 400, 404, 503)]
    return seen


async def _use(asker: Asker, known: _Known, phone: str, number: int) -> None:
    """Send a code; of three, one is then used, one is guessed at, and one is left."""
    if (await asker.send(phone, known.codes[phone])).status != 200:
        return
    known.sent.add(phone)
    if len(known.sent) >= len(known.codes) / 2:
        known.half_sent.set()
    if number % 3 == 0:
        if (await asker.verify(phone, known.codes[phone])).is_accepted:
            known.used.add(phone)
        else:
            known.unknown.add(phone)
    elif number % 3 == 1:
        for _ in range(2):
            answer = await asker.verify(phone, WRONG)
            if answer.status == 400:
                known.attempts_left[phone] = json.loads(answer.body)["attempts_left"]


async def _count_losses(asker: Asker, known: _Known, seen: Crash) -> None:
    seen.sent, seen.used, seen.guessed = len(known.sent), len(known.used), len(known.attempts_left)
    for phone in sorted(known.sent):
        if phone in known.attempts_left:
            status = await asker.status(phone)
            left = json.loads(status.body).get("attempts_left", 5) if status.status == 200 else 5
            seen.guesses_forgotten += left > known.attempts_left[phone]
        is_right = (await asker.verify(phone, known.codes[phone])).is_accepted
        if phone in known.used:
            seen.used_again += is_right
        elif phone not in known.unknown:
            seen.lost += not is_right


# Redis is full


@dataclass
class Flood:
    """`strange` are the answers while it was full that are not 503."""

    uncounted: int
    """Guesses that were evaluated and are not among the attempts that were used up."""
    accepted: int
    """Of the right code, while it was full and after it."""
    calls: int
    recovery_seconds: float
    strange: list[Answer]


async def flood(here: World, guesses: int = 200, first: int = 20_000) -> Flood:
    """Fill Redis with other keys to its maxmemory; then wrong codes, the right one, and a send."""
    admin = here.redis.client()
    async with here.asker() as asker:
        sent = await _send_two(here, asker, first)
        _fill(admin)
        try:
            answers = [await asker.verify(sent.phone, f"{guess:07d}") for guess in range(guesses)]
            answers.append(await asker.verify(sent.phone, sent.code))
            sending = await asker.send(phone_number(first + 2), "123456")
            calls = len(here.called())
        finally:
            admin.config_set("maxmemory", 0)
        admin.delete(*admin.keys("filler:*"))
        recovery = await asker.until(lambda one: one.status == 200, "GET", f"/otp-status/{sent.phone}")
        left = json.loads((await asker.status(sent.phone)).body)["attempts_left"]
        evaluated = sum(b'"incorrect"' in answer.body for answer in answers)
        was_accepted = answers[-1].is_accepted
        after = await asker.verify(sent.phone, sent.code)
        return Flood(
            max(0, evaluated - (5 - left)),
            was_accepted + after.is_accepted,
            calls,
            recovery,
            [one for one in [*answers, sending] if not one.is_unavailable],
        )


def _fill(admin: Any) -> None:
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 4 * 2**20)
    for size in (100_000, 1_000, 10):
        with contextlib.suppress(redis_py.OutOfMemoryError):
            for number in range(10**6):
                admin.set(f"filler:{size}:{number}", b"x" * size)
    # Else there is room now and then: buffers of connections count, too.
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] - 2**20)


# Other trouble


Step = Callable[[RedisServer], Awaitable[None]]


@dataclass
class Trouble:
    """`statuses` are of all answers while it lasted."""

    statuses: Counter[int]
    longest_seconds: float
    accepted: int
    recovery_seconds: float

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status not in (200, 400, 503))


ADMIN = {"username": "admin", "password": "bench-admin-of-no-value"}


async def _nothing(_: RedisServer) -> None:
    return


async def _demote(redis: RedisServer) -> None:
    redis.client().execute_command("REPLICAOF", "127.0.0.1", 1)  # nobody is there: its data stays


async def _promote(redis: RedisServer) -> None:
    redis.client().execute_command("REPLICAOF", "NO", "ONE")


async def _flush_scripts(redis: RedisServer) -> None:
    redis.client().script_flush()


async def _kill_clients(redis: RedisServer) -> None:
    redis.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def _pause_writes(redis: RedisServer) -> None:
    redis.client().execute_command("CLIENT", "PAUSE", 60_000, "WRITE")


async def _pause_all(redis: RedisServer) -> None:
    redis.client().execute_command("CLIENT", "PAUSE", 2_000, "ALL")


async def _end_pause(redis: RedisServer) -> None:
    await asyncio.to_thread(redis.client().execute_command, "CLIENT", "UNPAUSE")


async def _refuse_all(redis: RedisServer) -> None:
    admin = redis.client()
    admin.execute_command("ACL", "SETUSER", ADMIN["username"], "on", f">{ADMIN['password']}", "~*", "&*", "+@all")
    admin.execute_command("ACL", "SETUSER", "default", "-@all")


async def _change_password(redis: RedisServer) -> None:
    await _refuse_all(redis)
    admin = redis.client(**ADMIN)
    admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">another-of-no-value", "+@all")
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def _allow_all(redis: RedisServer) -> None:
    redis.client(**ADMIN).execute_command("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")


async def _restart_slowly(redis: RedisServer) -> None:
    """As a server with much data: for seconds it answers that it is loading."""
    admin = redis.client()
    for number in range(300):
        admin.set(f"filler:{number}", secrets.token_bytes(10_000))
    admin.bgrewriteaof()
    while admin.info("persistence")["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - Redis tells nobody
        await asyncio.sleep(0.02)
    redis.kill()
    _starting.append(asyncio.create_task(asyncio.to_thread(redis.restart)))
    while not await asyncio.to_thread(_listens, redis):  # noqa: ASYNC110 - nor of this
        await asyncio.sleep(0.02)


_starting: list[asyncio.Task[None]] = []
LOADING = {**AOF, "key_load_delay": 10_000}


def _listens(redis: RedisServer) -> bool:
    try:
        redis.client(retry=Retry(NoBackoff(), 0)).ping()
    except (redis_py.BusyLoadingError, redis_py.TimeoutError):  # an older one answers rarely while it loads
        return True
    except redis_py.ConnectionError:
        return False
    return True


async def _loaded(_: RedisServer) -> None:
    await _starting.pop()


TROUBLES: dict[str, tuple[Step, Step]] = {
    "REPLICAOF": (_demote, _promote),
    "SCRIPT FLUSH": (_flush_scripts, _nothing),
    "CLIENT KILL": (_kill_clients, _nothing),
    "CLIENT PAUSE ... WRITE": (_pause_writes, _end_pause),
    "CLIENT PAUSE ... ALL": (_pause_all, _end_pause),
    "all permissions taken away": (_refuse_all, _allow_all),
    "another password": (_change_password, _allow_all),
    "a restart that loads for seconds": (_restart_slowly, _loaded),
}


async def trouble(here: World, name: str, times: int = 3, first: int = 30_000) -> Trouble:
    """Make it, ask every route so many times, and end it; the right code is then accepted once."""
    begin, end = TROUBLES[name]
    async with here.asker() as asker:
        sent = await _send_two(here, asker, first)
        asker.answers.clear()
        await begin(here.redis)
        for number in range(times):
            await asyncio.gather(
                asker.verify(sent.phone, sent.code),
                asker.status(sent.phone),
                asker.send(phone_number(first + 2 + number), "123456"),
                asker.ask("GET", "/ready"),
            )
        while_it_lasts = list(asker.answers)
        await end(here.redis)
        recovery = await asker.until_ready()
        await asker.verify(sent.phone, sent.code)
        await asker.verify(sent.phone, sent.code)
        return Trouble(
            Counter(answer.status for answer in while_it_lasts),
            max(answer.seconds for answer in while_it_lasts),
            sum(answer.is_accepted for answer in asker.answers),
            recovery,
        )


# Another server takes over


@dataclass
class Failover:
    used: int
    used_unreplicated: int
    """Accepted after the replica heard no more."""
    refused: int
    """Checks that were answered with 503 meanwhile."""
    wait_says: int
    """How many replicas had acknowledged the last of it, by WAIT."""
    used_again: int = 0
    after_deadline: int = 0
    recovery_seconds: float = 0.0


LIFE_SECONDS = 30


async def fail_over(
    codes: int,
    seconds_unheard: float = 0.0,
    first: int = 40_000,
    *,
    until_deadline: bool = True,
    **options: Any,
) -> Failover:
    """Half of the codes are used and replicated, half of them used just before the primary is killed.

    `seconds_unheard`: how long the replica has heard nothing when the second half is used.
    """
    all_codes = draw_codes(first, codes)
    replicated = dict(list(all_codes.items())[: codes // 2])
    unreplicated = {phone: code for phone, code in all_codes.items() if phone not in replicated}
    async with contextlib.AsyncExitStack() as stack:
        primary = stack.enter_context(RedisServer(**{**AOF, **options}))
        way = await stack.enter_async_context(FaultProxy(primary.port))
        replication = await stack.enter_async_context(FaultProxy(primary.port))
        replica = stack.enter_context(RedisServer(**AOF))
        replica.client().execute_command("REPLICAOF", "127.0.0.1", replication.port)
        await _replicates(primary)
        here = await stack.enter_async_context(_world_apart(primary, way.url))
        asker = await stack.enter_async_context(here.asker())
        for phone, code in all_codes.items():
            await asker.prepare(phone, code, ttl_seconds=LIFE_SECONDS)
        sent_at = time.perf_counter()
        used = {phone for phone, code in replicated.items() if (await asker.verify(phone, code)).is_accepted}
        await _replicates(primary)
        replication.black_hole()
        await asyncio.sleep(seconds_unheard)
        answers = [await asker.verify(phone, code) for phone, code in unreplicated.items()]
        late = {phone for phone, answer in zip(unreplicated, answers, strict=True) if answer.is_accepted}
        seen = Failover(
            len(used), len(late), sum(answer.is_unavailable for answer in answers), _wait(primary.client())
        )
        primary.kill()
        replication.reset()
        replica.client().execute_command("REPLICAOF", "NO", "ONE")
        way.target_port = replica.port
        way.reset()
        seen.recovery_seconds = await asker.until_ready()
        again = [(await asker.verify(phone, all_codes[phone])).is_accepted for phone in used | late]
        seen.used_again = sum(again)
        if not until_deadline:
            return seen
        await asyncio.sleep(max(0.0, sent_at + LIFE_SECONDS - time.perf_counter()))
        at_last = [(await asker.verify(phone, code)).is_accepted for phone, code in all_codes.items()]
        seen.after_deadline = sum(at_last)
    return seen


def _wait(admin: Any) -> int:
    with contextlib.suppress(redis_py.ResponseError):  # NOREPLICAS
        admin.set("filler:last", b"")
    return int(admin.execute_command("WAIT", 1, 100))


@contextlib.asynccontextmanager
async def _world_apart(redis: RedisServer, url: str) -> AsyncIterator[World]:
    """Started by another thread: the proxy to its Redis is served by this one."""
    worlds = contextlib.ExitStack()
    try:
        yield await asyncio.to_thread(worlds.enter_context, world(redis, redis_url=url))
    finally:
        await asyncio.to_thread(worlds.close)


async def _replicates(primary: RedisServer) -> None:
    """Returns when a replica has all that the primary has."""
    for _ in range(1000):
        info = primary.client().info("replication")
        replica = info.get("slave0", {})
        if replica.get("state") == "online" and replica["offset"] == info["master_repl_offset"]:
            return
        await asyncio.sleep(0.02)
    raise NeverCame("the replica does not follow")
