"""The guard store in Redis keeps the contract, on one server and on a cluster, and what it promises beyond it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from abuse_guard import MONEY, AbuseGuard, GuardPolicy, Monitor, SpendingLimitReached
from clock import Clock
from guard_store import Block, GuardStore, MemoryGuardStore
from limit_rules import Charge, Reservation, Window, rule
from otp_store import StoreFull, StoreUnavailable
from redis_connection import Redis
from redis_guard_store import RedisGuardStore
from redis_link import RedisLimits
from tests.conftest import FakeTime
from tests.guard_store_cases import (
    FEW,
    MANY,
    MANY_IN_TWO,
    TWO_WINDOWS,
    GuardStoreCases,
    charge,
    everything_once,
)
from tests.guard_store_cases import (
    MONEY as MONEY_RULE,
)
from tests.redis_servers import RedisCluster, RedisServer

PATIENT = RedisLimits(operation_seconds=20.0, connect_seconds=20.0)
KEY = b"guard-key-0123456789abcdef012345"
PER_NUMBER = rule("per number", Window(3, 60), has_many_subjects=True)


class OpeningRedis(Redis):
    """Connects when it is first used: a store is made outside of the event loop that uses it."""

    _opening: asyncio.Task[None] | None = None

    async def _send(self, key: bytes | None, command: Any) -> Any:
        await self.opened()
        return await super()._send(key, command)

    async def opened(self) -> None:
        if self._opening is None:
            self._opening = asyncio.create_task(self.open())
        await self._opening


class RedisCases(GuardStoreCases):
    servers: list[RedisServer]
    redis: list[OpeningRedis]

    @pytest.fixture(autouse=True)
    async def _close_stores_at_last(self) -> AsyncIterator[None]:
        self.redis = []
        yield
        await self.close_stores()

    def make_store(self, time: FakeTime) -> RedisGuardStore:
        for server in self.servers:
            with server.client() as client:
                client.flushall()
        self.redis.append(OpeningRedis(self.servers[0].url, time.clock, PATIENT))
        return RedisGuardStore(self.redis[-1], time.clock, KEY)

    async def close_stores(self) -> None:
        for redis in self.redis:
            await redis.close()
        self.redis.clear()


class TestRedisGuardStore(RedisCases):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.servers = [redis_server]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        asyncio.run(cluster.settled())
        yield cluster


class TestRedisGuardStoreOnACluster(RedisCases):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RedisCluster) -> None:
        self.servers = cluster.servers

    def make_store(self, time: FakeTime) -> RedisGuardStore:
        store = super().make_store(time)
        store.reserve = self._after_opening(store.reserve)  # type: ignore[method-assign]
        return store

    def _after_opening(self, method: Any) -> Any:
        """Whether it is a cluster is known once it is open."""
        redis = self.redis[-1]

        async def call(*arguments: Any) -> Any:
            await redis.opened()
            return await method(*arguments)

        return call

    async def test_over_several_slots_all_is_counted_or_nothing_and_all_that_is_full_is_named(
        self, store: GuardStore
    ) -> None:
        numbers = [Charge(PER_NUMBER, f"+1415555010{index}") for index in range(4)]
        for _ in range(3):
            await self.count(store, numbers[2])
            await self.count(store, charge(FEW, subject="client"))
        wanted = [numbers[0], charge(FEW, subject="client"), numbers[1], numbers[2], charge(MANY)]
        for _ in range(5):
            answer = await store.reserve(wanted)
            assert isinstance(answer, list)
            assert [one.charge for one in answer] == [wanted[1], wanted[3]]
        assert await store.room(numbers[0]) == await store.room(numbers[1]) == (3, 0)
        assert await store.room(charge(MANY)) == (200, 0)
        await self.count(store, numbers[0], numbers[1], charge(MANY))
        assert await store.room(numbers[0]) == (2, 60)

    async def test_numbers_are_spread(self, store: GuardStore, cluster: RedisCluster) -> None:
        for index in range(60):
            await self.count(store, Charge(PER_NUMBER, f"+141555501{index:02}"), charge(MANY))
        assert all(int(server.client().dbsize()) > 5 for server in cluster.servers)

    async def test_when_a_slot_cannot_answer_nothing_stays_counted_elsewhere(
        self, store: GuardStore, cluster: RedisCluster
    ) -> None:
        await store.room(charge(FEW))
        owner = cluster.owner(key_slot(b"{guard}"))
        elsewhere = [
            one
            for index in range(30)
            if cluster.owner(key_slot(store._key_of(one := Charge(PER_NUMBER, f"{index}")))) is not owner  # type: ignore[attr-defined]
        ]
        with owner.client() as client:
            client.config_set("maxmemory", 1)
            try:
                with pytest.raises(StoreFull):
                    await store.reserve([elsewhere[0], charge(FEW)])
            finally:
                client.config_set("maxmemory", 0)
        assert await store.room(elsewhere[0]) == (3, 0)


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    redis = Redis(redis_server.url, Clock(), PATIENT)
    await redis.open()
    yield redis
    await redis.close()


@pytest.fixture
def store(redis: Redis, fake_time: FakeTime) -> RedisGuardStore:
    return RedisGuardStore(redis, fake_time.clock, KEY)


async def test_nothing_that_was_counted_or_remembered_can_be_read_in_redis(
    store: RedisGuardStore, redis_server: RedisServer, fake_time: FakeTime
) -> None:
    phone, client_name, address = "+14155550177", "acme-corp", "203.0.113.77"
    await store.reserve(
        [Charge(PER_NUMBER, phone), charge(FEW, subject=client_name), charge(MANY, subject=address)]
    )
    await store.tally([f"prefix:{phone}"], fake_time.seconds, begun=1)
    await store.remember(f"idempotency/{client_name}", phone.encode(), 60)
    await store.replace(f"nonce/{address}", phone.encode(), 60)
    await store.block(Block(f"prefix:{phone}", "operator"))
    await store.strike(f"client:{client_name}", "velocity", 60)
    with redis_server.client() as client:
        kept = [client.dump(key) + key for key in client.scan_iter()]
        hashes = [client.hgetall(key) for key in client.scan_iter() if client.type(key) == b"hash"]
    assert len(kept) == 8
    text = b"".join(kept) + repr(hashes).encode()
    for secret in (phone, phone[2:], client_name, address):
        assert secret.encode() not in text


async def test_every_key_ends_by_itself_but_for_the_blocks(
    store: RedisGuardStore, redis_server: RedisServer, fake_time: FakeTime
) -> None:
    for index in range(4):
        await everything_once(store, fake_time, index)
    with redis_server.client() as client:
        lasting = [key for key in client.scan_iter() if client.pttl(key) < 0]
        assert [client.type(key) for key in lasting] == [b"hash"]
        fake_time.advance(600)
        await store.block(Block("region:US", "operator"))
        assert client.hlen(lasting[0]) == 1, "ended blocks are dropped when the next one is set"


async def test_without_charges_the_store_is_not_asked(fake_time: FakeTime) -> None:
    store = RedisGuardStore(Redis("redis://127.0.0.1:1", Clock()), fake_time.clock, KEY)
    assert await store.reserve([]) == Reservation([], 1000.0)
    with pytest.raises(StoreUnavailable):
        await store.reserve([charge(FEW)])


async def test_what_cannot_be_taken_back_stays_counted_and_fails_nobody(
    store: RedisGuardStore, redis_server: RedisServer
) -> None:
    reservation = await store.reserve([charge(FEW), charge(FEW, subject="b")])
    assert isinstance(reservation, Reservation)
    await store.reserve([charge(FEW)])
    with redis_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            await store.refund(reservation)
        finally:
            client.config_set("maxmemory", 0)
    assert await store.room(charge(FEW)) == (1, 60)
    await store.refund(reservation)
    assert await store.room(charge(FEW)) == (2, 60)


async def test_a_full_server_refuses_and_keeps_what_it_has(
    store: RedisGuardStore, redis_server: RedisServer, fake_time: FakeTime
) -> None:
    for _ in range(3):
        await store.reserve([charge(FEW)])
    await store.remember("key", b"first", 60)
    with redis_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            for refused in (
                store.reserve([charge(FEW, subject="new")]),
                store.remember("new", b"1", 60),
                store.replace("new", b"1", 60),
                store.block(Block("region:US", "operator")),
                store.strike("region:FR", "velocity", 60),
                store.tally(["region:FR"], fake_time.seconds, begun=1),
            ):
                with pytest.raises(StoreFull):
                    await refused
            assert isinstance(await store.reserve([charge(FEW)]), list), "what is over its limit is still told so"
            assert await store.remember("key", b"second", 60) == b"first"
            assert await store.blocks_among(["region:US"]) == []
        finally:
            client.config_set("maxmemory", 0)


async def test_entries_of_machines_whose_clocks_differ_stay_in_order(redis: Redis) -> None:
    one, other = FakeTime(), FakeTime()
    other.seconds -= 0.25
    stores = [RedisGuardStore(redis, time.clock, KEY) for time in (one, other)]
    reservations = []
    for _ in range(50):
        for store in stores:
            answer = await store.reserve([charge(MANY)])
            assert isinstance(answer, Reservation)
            reservations.append(answer)
        one.advance(0.5)
        other.advance(0.5)
    assert (await stores[0].room(charge(MANY)))[0] == 100
    raw = await redis.call(None, "GET", stores[0]._key_of(charge(MANY)))
    assert len(raw) <= 6 + 14 * 5, "one entry for ten seconds"
    for reservation in reservations:
        await stores[1].refund(reservation)
    assert await stores[0].room(charge(MANY)) == (200, 0)
    assert await redis.call(None, "DBSIZE") == 0


async def test_times_and_sums_are_kept_to_the_last_bit(redis: Redis, fake_time: FakeTime) -> None:
    fake_time.seconds = 1_790_000_000.1234567
    store = RedisGuardStore(redis, fake_time.clock, KEY)
    huge = rule("huge", Window(2**47, 3600))
    await store.reserve([charge(huge, 2**47 - 1), charge(FEW)])
    assert (await store.room(charge(huge)))[0] == 1
    refused = await store.reserve([charge(huge, 2)])
    assert isinstance(refused, list)
    fake_time.seconds += 60
    assert await store.room(charge(FEW)) == (3, 0)


async def test_many_stores_count_as_one(redis_server: RedisServer, fake_time: FakeTime) -> None:
    connections = [Redis(redis_server.url, Clock(), PATIENT) for _ in range(4)]
    for connection in connections:
        await connection.open()
    stores = [RedisGuardStore(connection, fake_time.clock, KEY) for connection in connections]
    answers = await asyncio.gather(*(stores[n % 4].reserve([charge(MANY), charge(FEW)]) for n in range(400)))
    assert sum(isinstance(answer, Reservation) for answer in answers) == 3
    assert await stores[0].room(charge(MANY)) == (197, 600 + 10)
    for connection in connections:
        await connection.close()


RULES = (FEW, MANY, TWO_WINDOWS, MANY_IN_TWO, MONEY_RULE, PER_NUMBER)
steps = st.one_of(
    st.tuples(
        st.just("count"), st.lists(st.integers(0, len(RULES) - 1), min_size=1, unique=True), st.integers(1, 80)
    ),
    st.tuples(st.just("refund"), st.integers(0, 100)),
    st.tuples(st.just("room"), st.integers(0, len(RULES) - 1)),
    st.tuples(st.just("tally"), st.floats(0, 4000), st.integers(-1, 1), st.integers(0, 1)),
    st.tuples(st.just("share"), st.sampled_from([0.0, 120.0])),
    st.tuples(st.just("strike"), st.floats(1, 10**6)),
    st.tuples(st.just("block"), st.one_of(st.none(), st.floats(0, 10**6))),
    st.tuples(st.just("unblock")),
    st.tuples(st.just("blocks")),
    st.tuples(st.sampled_from(["remember", "replace"]), st.binary(max_size=40), st.floats(0.1, 1000)),
    st.tuples(st.sampled_from(["recall", "forget"])),
)
pauses = st.one_of(st.just(0.0), st.floats(0, 100), st.floats(0, 5000))


class Twin:
    """One of two stores that are told the same: what it answers to each step."""

    def __init__(self, store: GuardStore, time: FakeTime) -> None:
        self._store = store
        self._time = time
        self._made: list[Reservation] = []

    async def do(self, step: str, *values: Any) -> Any:
        store, now = self._store, self._time.seconds
        match step:
            case "count":
                answer = await store.reserve([charge(RULES[index], values[1]) for index in values[0]])
                if isinstance(answer, Reservation):
                    self._made.append(answer)
                return answer
            case "refund":
                if self._made:
                    await store.refund(self._made.pop(values[0] % len(self._made)))
                return None
            case "room":
                return await store.room(charge(RULES[values[0]]))
            case "tally":
                begun_at = max(0.0, now - values[0])
                return await store.tally(["a", "b"], begun_at, begun=values[1], verified=values[2])
            case "share":
                return await store.shares(["a"], values[0])
            case "strike":
                return await store.strike("region:US", "velocity", values[0])
            case "block":
                until = None if values[0] is None else now + values[0]
                return await store.block(Block("region:US", "operator", until))
            case "unblock":
                await store.unblock("region:US")  # an ended block that nobody asked for may be gone, or not
                return None
            case "blocks":
                return [await store.blocks(), await store.blocks_among(["region:FR", "region:US"])]
            case "remember" | "replace":
                return await getattr(store, step)("key", *values)
            case _:
                return await getattr(store, step)("key")


@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(
    plan=st.lists(st.tuples(st.one_of(st.just(0.0), st.floats(0, 100), st.floats(0, 5000)), steps), max_size=50)
)
def test_it_answers_as_memory_does_to_the_last_bit(
    redis_server: RedisServer, plan: list[tuple[float, tuple[Any, ...]]]
) -> None:
    async def play() -> None:
        with redis_server.client() as client:
            client.flushall()
        redis, time = Redis(redis_server.url, Clock(), PATIENT), FakeTime()
        time.seconds = 1_790_000_000.1234567
        await redis.open()
        in_memory = Twin(MemoryGuardStore(time.clock, 10**6), time)
        in_redis = Twin(RedisGuardStore(redis, time.clock, KEY), time)
        try:
            for seconds, step in plan:
                time.advance(seconds)
                assert await in_redis.do(*step) == await in_memory.do(*step), step
        finally:
            await redis.close()

    asyncio.run(play())


async def test_of_many_sends_at_once_as_many_pass_as_the_money_allows(redis_server: RedisServer) -> None:
    """Over several processes, that is: each store has a connection of its own."""
    connections = [Redis(redis_server.url, Clock(), PATIENT) for _ in range(4)]
    for connection in connections:
        await connection.open()
    policy = GuardPolicy(
        spend_per_hour=100 * MONEY,
        prefix_sends_per_hour=0,
        region_sends_per_hour=0,
        client_sends_per_hour=0,
        conversion_monitor=Monitor.OFF,
    )
    guards = [AbuseGuard(RedisGuardStore(one, Clock(), KEY), policy, Clock()) for one in connections]
    sends = [guards[index % 4].reserve("client", f"+1415555{index:04}") for index in range(400)]
    answers = await asyncio.gather(*sends, return_exceptions=True)
    assert sum(isinstance(answer, Reservation) for answer in answers) == 100
    assert sum(isinstance(answer, SpendingLimitReached) for answer in answers) == 300
    for connection in connections:
        await connection.close()


async def test_a_guard_asks_of_it_what_it_asks_of_memory(store: RedisGuardStore, fake_time: FakeTime) -> None:
    guard = AbuseGuard(store, GuardPolicy(spend_per_hour=2 * MONEY, cooldown_seconds=0), fake_time.clock)
    first = await guard.reserve("client", "+14155550142")
    await guard.reserve("client", "+14155550142")
    with pytest.raises(Exception, match="spending-hour"):
        await guard.reserve("client", "+14155550142")
    await guard.refund(first)
    await guard.reserve("client", "+14155550142")
