"""What pages in Redis promise beyond the contract: between processes, late, twice, altered, and read by others."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from clock import Clock
from number_page import Outcome, StoreRules
from otp_store import StoreUnavailable
from redis_clock import SharedClock
from redis_connection import Redis
from redis_otp_store import RedisOtpStore
from redis_pages import LEASE_SECONDS, SHARDS, RedisPages, Timers, encode_page
from tests.conftest import FakeTime
from tests.redis_servers import RedisCluster, RedisServer
from tests.store_cases import CLIENT, CODE, NEW_CALL, OTHER_PHONE, PHONE, SEALER, call_of, new_code
from voice_provider import CallEvent, CallState

SECRET = "a secret that is only used in tests"
NAMES = secrets.token_bytes(32)


class Process:
    """What one process has of a store that many share."""

    def __init__(self, url: str, time: FakeTime) -> None:
        self.redis = Redis(url, Clock())
        self.shared = SharedClock(self.redis, Clock())
        self.pages = RedisPages(self.redis, self.shared)
        self.store = RedisOtpStore(self.redis, self.pages, SEALER, time.clock, StoreRules())

    async def open(self) -> None:
        await self.redis.open()
        await self.shared.sync()
        self.store.use_names(NAMES)


@pytest.fixture
async def processes(redis_server: RedisServer, fake_time: FakeTime) -> AsyncIterator[list[Process]]:
    processes = [Process(redis_server.url, fake_time) for _ in range(2)]
    for process in processes:
        await process.open()
    yield processes
    for process in processes:
        await process.redis.close()


@pytest.fixture
def one(processes: list[Process]) -> Process:
    return processes[0]


@pytest.fixture
def other(processes: list[Process]) -> Process:
    return processes[1]


# Several processes


async def test_every_process_sees_what_another_one_did_last(one: Process, other: Process) -> None:
    begun = await one.store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    for writer, reader, state in ((one, other, CallState.RINGING), (other, one, CallState.ANSWERED)):
        await writer.store.record_call_event(begun.record.id, 1, CallEvent("call-1", state))
        for store in (reader.store, writer.store):
            found = await store.find(CLIENT, PHONE)
            assert found is not None
            assert call_of(found).state is state
    assert await one.store.read_code(begun.record.id, 1, 1) == CODE
    assert (await other.store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT
    assert (await one.store.check(CLIENT, PHONE, CODE)).outcome is Outcome.NOT_FOUND
    assert await one.store.read_code(begun.record.id, 1, 1) is None


async def test_of_many_processes_at_once_one_begins_and_one_checks(processes: list[Process]) -> None:
    begun = await asyncio.gather(
        *(process.store.begin(CLIENT, PHONE, new_code(), NEW_CALL) for process in processes * 20)
    )
    assert [one.is_duplicate for one in begun].count(False) == 1
    checks = await asyncio.gather(*(process.store.check(CLIENT, PHONE, CODE) for process in processes * 20))
    assert [check.outcome for check in checks].count(Outcome.CORRECT) == 1


async def test_an_expired_code_is_told_once_and_by_whoever_is_there(
    one: Process, other: Process, fake_time: FakeTime
) -> None:
    for phone in (PHONE, OTHER_PHONE):
        await one.store.begin(CLIENT, phone, new_code(ttl=30), NEW_CALL)
    fake_time.advance(31)
    told = await asyncio.gather(one.store.expire(), other.store.expire())
    assert sum(len(expired.records) for expired in told) == 2
    assert (await one.store.expire()).records == []


async def test_what_a_process_took_and_did_not_do_is_done_by_another_one(
    one: Process, other: Process, fake_time: FakeTime
) -> None:
    await one.store.begin(CLIENT, PHONE, new_code(ttl=30), NEW_CALL)
    fake_time.advance(31)
    assert len(await one.pages.take_due(Timers.DEADLINES, fake_time.seconds, 100)) == 1
    assert (await other.store.expire()).records == [], "it has its time"
    fake_time.advance(LEASE_SECONDS)
    assert len((await other.store.expire()).records) == 1
    assert (await one.store.expire()).records == []


async def test_what_waits_for_its_turn_gives_way_when_it_is_cancelled(one: Process) -> None:
    await one.store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    checks = [asyncio.create_task(one.store.check(CLIENT, PHONE, "999999")) for _ in range(20)]
    await asyncio.sleep(0)
    for check in checks[::2]:
        check.cancel()
    await asyncio.gather(*checks, return_exceptions=True)
    assert (await one.store.find(CLIENT, PHONE)) is not None
    assert one.store._turns == {}


# Late and twice


async def test_a_write_that_comes_too_late_changes_nothing(one: Process, other: Process) -> None:
    await one.store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    before = await other.store.find(CLIENT, PHONE)
    one.shared._ahead -= 60  # it believes that there is time left until a minute ago
    with pytest.raises(StoreUnavailable):
        await one.store.check(CLIENT, PHONE, CODE)
    assert await other.store.find(CLIENT, PHONE) == before
    assert (await one.store.check(CLIENT, PHONE, CODE)).outcome is Outcome.CORRECT, "it has looked at the clock"


async def test_a_write_that_comes_twice_counts_once(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    run = one.redis.run

    async def run_twice(*args: object) -> object:
        first = await run(*args)  # type: ignore[arg-type]
        assert await run(*args) == first  # type: ignore[arg-type]
        return first

    await one.store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    monkeypatch.setattr(one.redis, "run", run_twice)
    checked = await one.store.check(CLIENT, PHONE, "999999")
    assert checked.record is not None
    assert checked.record.attempts_left == 4


# What others see, and do


async def test_nothing_in_redis_tells_a_code_a_number_or_a_client(one: Process, redis_server: RedisServer) -> None:
    begun = await one.store.begin("the-client", PHONE, new_code("CANARY12"), NEW_CALL)
    await one.store.record_call_event(begun.record.id, 1, CallEvent("call-1", CallState.ANSWERED))
    await one.store.read_code(begun.record.id, 1, 1)
    with redis_server.client() as client:
        kept = b"\n".join(key + (client.dump(key) or b"") for key in client.scan_iter())
        pages = [client.get(key) for key in client.scan_iter() if client.type(key) == b"string"]
    everything = kept + b"".join(pages)
    for secret in (b"CANARY12", PHONE[1:].encode(), b"the-client", b"12025550100"):
        assert secret not in everything


async def test_an_altered_page_is_no_page(one: Process, other: Process, redis_server: RedisServer) -> None:
    await one.store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    _, key = one.pages._place(PHONE)
    with redis_server.client() as client:
        client.setrange(key, 20, b"x")
    with pytest.raises(StoreUnavailable, match="altered"):
        await other.store.check(CLIENT, PHONE, CODE)


async def test_a_page_of_another_number_is_no_page(
    one: Process, other: Process, redis_server: RedisServer
) -> None:
    for phone in (PHONE, OTHER_PHONE):
        await one.store.begin(CLIENT, phone, new_code(), NEW_CALL)
    with redis_server.client() as client:
        client.set(one.pages._place(PHONE)[1], client.get(one.pages._place(OTHER_PHONE)[1]))
    with pytest.raises(StoreUnavailable, match="altered"):
        await other.store.check(CLIENT, PHONE, CODE)


async def test_everything_ends_by_itself(one: Process, redis_server: RedisServer, fake_time: FakeTime) -> None:
    """All that a verification leaves is a page with a lifetime, once its timers have come."""
    begun = await one.store.begin(CLIENT, PHONE, new_code(ttl=30), NEW_CALL)
    await one.store.name_call(begun.record.id, 1, "call-1")
    for _ in range(200):
        fake_time.advance(1)
        await one.store.expire()
        await one.store.take_overdue_calls()
    assert await one.store.live_calls("vobiz") == 0
    with redis_server.client() as client:
        assert [key for key in client.scan_iter() if client.pttl(key) < 0] == []


# A cluster


async def test_a_cluster_shares_the_numbers_out(fake_time: FakeTime) -> None:
    with RedisCluster(primaries=3) as cluster:
        await cluster.settled()
        processes = [Process(cluster.url, fake_time) for _ in range(2)]
        for process in processes:
            await process.open()
        one, other = processes
        for number in range(60):
            phone = f"+1415555{number:04d}"
            begun = await one.store.begin(CLIENT, phone, new_code(ttl=30), NEW_CALL)
            await one.store.name_call(begun.record.id, 1, f"call-{number}")
            if number % 2:
                assert (await other.store.check(CLIENT, phone, CODE)).outcome is Outcome.CORRECT
        found = await other.store.find_by_call_id("vobiz", "call-7")
        assert found is not None
        assert await other.store.live_calls("vobiz") == 60
        fake_time.advance(31)
        assert len((await other.store.expire()).records) == 30
        pages = []
        for server in cluster.servers:
            with server.client() as client:
                pages.append(
                    sum(client.type(key) == b"string" and client.pttl(key) > 0 for key in client.keys("otp:{*"))
                )
        assert min(pages) > 5
        for process in processes:
            await process.redis.close()


def pages_of(server: RedisServer) -> int:
    with server.client() as client:
        return sum(client.pttl(key) > 0 for key in client.keys("otp:{*"))


def test_shards_have_equal_shares_of_the_slots(redis_server: RedisServer, fake_time: FakeTime) -> None:
    shards = Process(redis_server.url, fake_time).pages._shards
    assert len(set(shards)) == SHARDS


async def test_a_page_of_newer_code_is_read_by_older_code(one: Process) -> None:
    """New fields go to the end: what does not know them skips them."""
    from msgspec import msgpack

    from redis_pages import decode_page

    begun = await one.store.begin(CLIENT, PHONE, new_code(), NEW_CALL)
    page = (await one.pages.load(PHONE)).page
    kept = msgpack.decode(encode_page(page))
    kept[1][0][0].append("new")
    kept[1].append("new")
    kept.append("new")
    assert decode_page(msgpack.encode(kept)).records == (begun.record,)
