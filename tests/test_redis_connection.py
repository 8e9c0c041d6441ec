"""The connection to Redis against real servers: in order, lost and found again, and never a request sent twice."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from clock import Clock
from otp_store import StoreFull, StoreUnavailable
from redis_connection import Redis, Script
from redis_link import RedisLimits
from tests.conftest import keep_secret
from tests.hand_server import Handler, behind_tls, listening
from tests.redis_servers import RedisCluster, RedisServer, free_port

PASSWORD = keep_secret("redis-password-CANARY-0123")
KEY = keep_secret("key-CANARY-0123").encode()
ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
# Most tests must not be hurried, as the machine may be busy; some are about a store that says nothing.
PATIENT = RedisLimits(operation_seconds=20.0, connect_seconds=20.0)
IMPATIENT = PATIENT._replace(operation_seconds=0.5)


@asynccontextmanager
async def opened(url: str, limits: RedisLimits = PATIENT) -> AsyncIterator[Redis]:
    redis = Redis(url, Clock(), limits)
    await redis.open()
    try:
        yield redis
    finally:
        await redis.close()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with opened(redis_server.url) as redis:
        yield redis


class LogLines(logging.Handler):
    """What is logged, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._changed.set()

    async def seen(self, line: str, times: int = 1) -> None:
        while self.lines.count(line) < times:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
def log() -> Iterator[LogLines]:
    handler = LogLines()
    loggers = [logging.getLogger(name) for name in ("redis_link", "redis_cluster")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)


LOST, BACK = "the store is lost", "the store is back"


# Requests and replies


async def test_many_at_once_get_each_its_own_reply(redis: Redis) -> None:
    await asyncio.gather(*(redis.call(b"%d" % n, "SET", b"%d" % n, n) for n in range(1000)))
    assert await asyncio.gather(*(redis.call(b"%d" % n, "GET", b"%d" % n) for n in range(1000))) == [
        b"%d" % n for n in range(1000)
    ]


async def test_replies_come_as_redis_sends_them(redis: Redis) -> None:
    assert await redis.call(b"k", "SET", b"k", b"\x00\xff") == b"OK"
    assert await redis.call(b"k", "MGET", b"k", b"unknown") == [b"\x00\xff", None]
    assert await redis.call(b"n", "INCR", b"n") == 1
    assert await redis.call(b"f", "SET", b"f", 0.1 + 0.2) == b"OK"
    assert float(await redis.call(b"f", "GET", b"f")) == 0.1 + 0.2


async def test_one_that_goes_away_shifts_no_reply(redis: Redis) -> None:
    calls = [asyncio.create_task(redis.call(b"n", "INCR", b"n")) for _ in range(30)]
    await asyncio.sleep(0)  # each has sent its request
    for call in calls[::3]:
        call.cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert [reply for reply in replies if isinstance(reply, int)] == [n for n in range(1, 31) if n % 3 != 1]
    assert await redis.call(b"n", "GET", b"n") == b"30"


async def test_a_script_runs_also_when_the_server_has_forgotten_it(
    redis: Redis, redis_server: RedisServer
) -> None:
    assert await redis.run(ADD, [b"n"], 5) == 5
    redis_server.client().script_flush()
    assert await asyncio.gather(*(redis.run(ADD, [b"n"], 1) for _ in range(10))) == list(range(6, 16))


async def test_more_than_can_wait_is_refused(redis_server: RedisServer) -> None:
    async with opened(redis_server.url, PATIENT._replace(waiting=10)) as redis:
        replies = await asyncio.gather(
            *(redis.call(b"n", "INCR", b"n") for _ in range(15)), return_exceptions=True
        )
        assert replies[:10] == list(range(1, 11))
        assert all(isinstance(reply, StoreUnavailable) for reply in replies[10:])
        assert await redis.call(b"n", "INCR", b"n") == 11


# Where and who


async def test_password_database_and_name(redis_server: RedisServer) -> None:
    with RedisServer(requirepass=PASSWORD) as server:
        for user in ("", "default"):
            async with opened(f"redis://{user}:{PASSWORD}@127.0.0.1:{server.port}/3") as redis:
                await redis.call(b"k", "SET", b"k", user)
                assert server.client(db=3, password=PASSWORD).get("k") == user.encode()
                assert await redis.call(None, "CLIENT", "GETNAME") == b"voice-otp"
        for url in (server.url, f"redis://:{PASSWORD}-not@127.0.0.1:{server.port}"):
            with pytest.raises(StoreUnavailable, match="check REDIS_URL") as caught:
                await Redis(url, Clock(), PATIENT).open()
            assert PASSWORD not in str(caught.value)


async def test_a_unix_socket(redis_server: RedisServer) -> None:
    async with opened(redis_server.unix_url) as redis:
        assert await redis.call(None, "PING") == b"PONG"


NO_URLS = [
    "", "http://localhost", "redis://", "redis://:pass@", "redis://localhost:99999", "redis://[::1", "redis://a..b",
    "redis://:pass#word@localhost", "redis://:pass/word@localhost", "redis://user:4711?pass@localhost",
    "redis://pass@localhost", "redis://localhost/1/2", "redis://localhost#pass", "redis://localhost ",
    " rediss://localhost", "REDISS://localhost", "unix://nowhere/redis.sock", "unix:///nowhere?db=-1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "why"),
    [
        *((url, "is not a Redis URL") for url in NO_URLS),
        ("redis://localhost?colour=red", "options"),
        ("redis://localhost?ssl_ca_certs=/nowhere", "options"),
        ("redis://localhost?path=/nowhere", "options"),
        ("rediss://localhost?connection_class=pass", "options"),
        ("rediss://localhost?ssl_cert_reqs=perhaps", "options"),
        ("rediss://localhost?ssl_check_hostname=false", "options"),
        ("unix:///nowhere?host=localhost", "options"),
        ("rediss://localhost?ssl_ca_certs=/nowhere", "files"),
        ("rediss://localhost?ssl_keyfile=/nowhere", "files"),
    ],
)
def test_a_bad_url_is_refused_without_being_repeated(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        Redis(url, Clock())
    assert not any(word in str(caught.value).replace("password", "") for word in ("pass", "localhost", "nowhere"))


async def test_tls_and_its_certificate_are_checked(redis_server: RedisServer, tmp_path: Path) -> None:
    async with behind_tls(redis_server.port, tmp_path) as (port, certificate):
        async with opened(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as redis:
            assert await redis.call(None, "PING") == b"PONG"
        async with opened(f"rediss://localhost:{port}?ssl_cert_reqs=none") as redis:
            assert await redis.call(None, "PING") == b"PONG"
        with pytest.raises(StoreUnavailable, match="certificate is not trusted"):
            await Redis(f"rediss://localhost:{port}", Clock(), PATIENT).open()
        with pytest.raises(StoreUnavailable, match="for another host"):
            await Redis(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}", Clock(), PATIENT).open()


async def test_a_server_without_tls_is_said_to_be_one() -> None:
    async def speak_in_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n")
        await silence(reader, writer)

    async with listening(speak_in_clear) as port:
        with pytest.raises(StoreUnavailable, match="TLS with the store failed"):
            await Redis(f"rediss://127.0.0.1:{port}", Clock(), PATIENT).open()


async def test_a_server_may_ask_for_a_certificate(redis_server: RedisServer, tmp_path: Path) -> None:
    async with behind_tls(redis_server.port, tmp_path, asks_for_certificate=True) as (port, certificate):
        url = f"rediss://localhost:{port}?ssl_ca_certs={certificate}"
        async with opened(f"{url}&ssl_certfile={certificate}&ssl_keyfile={tmp_path}/key.pem") as redis:
            assert await redis.call(None, "PING") == b"PONG"
        with pytest.raises(StoreUnavailable):
            await Redis(url, Clock(), PATIENT).open()


async def test_a_renewed_certificate_is_read_by_the_next_connection(
    redis_server: RedisServer, tmp_path: Path, log: LogLines
) -> None:
    async with (
        behind_tls(redis_server.port, tmp_path) as (port, certificate),
        opened(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as redis,
    ):
        good = certificate.read_bytes()
        certificate.write_bytes(b"")
        redis_server.client().client_kill_filter(_type="normal")
        await log.seen("the store is not back yet")
        certificate.write_bytes(good)
        await log.seen(BACK)
        assert await redis.call(None, "PING") == b"PONG"


# Trouble


async def test_a_store_that_is_not_there_cannot_be_opened() -> None:
    redis = Redis(f"redis://127.0.0.1:{free_port()}", Clock())
    with pytest.raises(StoreUnavailable):
        await redis.open()
    assert not redis.is_up
    with pytest.raises(StoreUnavailable):
        await redis.call(None, "PING")
    await redis.close()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def test_a_store_that_says_nothing_cannot_be_opened() -> None:
    async with listening(silence) as port:
        with pytest.raises(StoreUnavailable):
            await Redis(f"redis://127.0.0.1:{port}", Clock(), PATIENT._replace(connect_seconds=0.2)).open()


async def test_a_killed_store_is_found_again(log: LogLines) -> None:
    with RedisServer() as server:
        async with opened(server.url) as redis:
            await redis.call(b"k", "SET", b"k", 1)
            server.kill()
            await log.seen(LOST)
            assert not redis.is_up
            with pytest.raises(StoreUnavailable):
                await redis.call(b"k", "GET", b"k")
            server.restart()
            await log.seen(BACK)
            assert redis.is_up
            assert await redis.call(b"k", "GET", b"k") is None
    assert log.lines[:2] == [LOST, BACK]


async def test_what_was_under_way_when_the_store_stood_still_fails_and_is_not_sent_again(log: LogLines) -> None:
    with RedisServer() as server:
        async with opened(server.url, IMPATIENT) as redis:
            assert await redis.call(b"n", "INCR", b"n") == 1
            server.pause()
            replies = await asyncio.gather(
                *(redis.call(b"n", "INCR", b"n") for _ in range(5)), return_exceptions=True
            )
            assert [type(reply) for reply in replies] == [StoreUnavailable] * 5
            await log.seen(LOST)
            server.resume()
            await log.seen(BACK)
            count = await redis.call(b"n", "INCR", b"n")
            assert count in (2, 7), "each of the five was carried out once or never, all alike"


async def test_a_dead_link_is_found_while_nobody_asks(log: LogLines) -> None:
    with RedisServer() as server:
        async with opened(server.url, IMPATIENT._replace(idle_seconds=0.05)):
            server.pause()
            await log.seen(LOST)
            server.resume()
            await log.seen(BACK)


async def test_a_primary_that_was_demoted_is_left(log: LogLines) -> None:
    with RedisServer() as server, RedisServer() as other:
        async with opened(server.url) as redis:
            server.client().execute_command("REPLICAOF", "127.0.0.1", other.port)
            with pytest.raises(StoreUnavailable, match="replica"):
                await redis.run(ADD, [KEY], 1)
            await log.seen(LOST)
            server.client().execute_command("REPLICAOF", "NO", "ONE")
            await log.seen(BACK)
            assert await redis.run(ADD, [KEY], 1) == 1


async def test_a_full_store_says_so(redis: Redis, redis_server: RedisServer) -> None:
    admin = redis_server.client()
    admin.config_set("maxmemory", 1)
    try:
        for filling in (redis.call(KEY, "SET", KEY, 1), redis.run(ADD, [KEY], 1)):
            with pytest.raises(StoreFull) as caught:
                await filling
            assert KEY.decode() not in str(caught.value)
    finally:
        admin.config_set("maxmemory", 0)
    assert await redis.run(ADD, [KEY], 1) == 1


async def test_other_refusals_tell_neither_key_nor_value(redis: Redis, redis_server: RedisServer) -> None:
    await redis.call(KEY, "SET", KEY, KEY)
    bad_script = Script("return redis.call('INCR', KEYS[1])")
    own_error = Script("return redis.error_reply('MY ' .. KEYS[1])")
    for refused in (
        redis.call(KEY, "INCR", KEY),
        redis.run(bad_script, [KEY]),
        redis.run(own_error, [KEY]),
        redis.call(KEY, "NO-SUCH-COMMAND", KEY),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await refused
        assert str(caught.value) == "the store refused a command"


def answering(*replies: bytes) -> Handler:
    """A server that is ready, and then gives these replies, one to each request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = [b"+PONG\r\n", b"+OK\r\n", b"-ERR unknown command 'HELLO'\r\n"]
        for reply in [*greeting, *replies]:
            parts = int((await reader.readline())[1:])
            for _ in range(parts):
                length = int((await reader.readline())[1:])
                await reader.readexactly(length + 2)
            writer.write(reply)
        await silence(reader, writer)

    return handle


@pytest.mark.parametrize(
    "word",
    ["LOADING", "MISCONF", "BUSY", "CLUSTERDOWN", "NOREPLICAS", "MOVED", "ASK", "NOSCRIPT", "NOPERM", "ODD"],
)
async def test_every_error_is_one_kind(word: str) -> None:
    error = f"-{word} {KEY.decode()}\r\n".encode()
    async with (
        listening(answering(error, error, b"+fine\r\n")) as port,
        opened(f"redis://127.0.0.1:{port}") as redis,
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await redis.run(ADD, [KEY], 1)
        assert KEY.decode() not in str(caught.value)
        assert redis.is_up


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+one\r\n+one too many\r\n"])
async def test_what_is_no_reply_ends_the_connection(garbage: bytes, log: LogLines) -> None:
    async with listening(answering(garbage)) as port, opened(f"redis://127.0.0.1:{port}") as redis:
        await asyncio.gather(redis.call(KEY, "GET", KEY), return_exceptions=True)
        await log.seen(LOST)


# Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
async def on_cluster(cluster: RedisCluster) -> AsyncIterator[Redis]:
    await cluster.settled()
    async with opened(cluster.url) as redis:
        yield redis


async def test_each_key_goes_to_its_primary(on_cluster: Redis, cluster: RedisCluster) -> None:
    keys = [b"spread-%d" % n for n in range(200)]
    await asyncio.gather(*(on_cluster.run(ADD, [key], 7) for key in keys))
    assert await asyncio.gather(*(on_cluster.call(key, "GET", key) for key in keys)) == [b"7"] * 200
    assert all(int(server.client().dbsize()) for server in cluster.servers)
    assert on_cluster.is_up
    assert await on_cluster.call(None, "PING") == b"PONG"


async def test_a_cluster_cannot_be_reached_by_a_socket(on_cluster: Redis, cluster: RedisCluster) -> None:
    with pytest.raises(StoreUnavailable, match="by host and port"):
        await Redis(cluster.servers[0].unix_url, Clock(), PATIENT).open()


async def test_a_slot_that_moves_is_followed(on_cluster: Redis, cluster: RedisCluster) -> None:
    key = b"moving"
    slot = key_slot(key)
    old = cluster.owner(slot)
    new = next(server for server in cluster.servers if server is not old)
    ids = {server: server.client().execute_command("CLUSTER", "MYID") for server in (old, new)}

    def setslot(server: RedisServer, *state: Any) -> None:
        server.client().execute_command("CLUSTER", "SETSLOT", slot, *state)

    setslot(new, "IMPORTING", ids[old])
    setslot(old, "MIGRATING", ids[new])
    assert await on_cluster.run(ADD, [key], 1) == 1, "the old one says ASK"
    for server in (new, old):
        setslot(server, "NODE", ids[new])
    assert await asyncio.gather(*(on_cluster.run(ADD, [key], 1) for _ in range(20))) == list(range(2, 22))
    new.client().execute_command("DEL", key)
    for server in (old, new):
        setslot(server, "NODE", ids[old])
    assert await on_cluster.run(ADD, [key], 1) == 1


async def test_who_has_heard_nothing_of_a_move_is_not_asked_for_the_new_place() -> None:
    with RedisCluster(cluster_node_timeout=60_000) as cluster:
        await cluster.settled()
        deaf, old, new = cluster.servers
        key = next(key for n in range(100) if cluster.owner(key_slot(key := b"%d" % n)) is old)
        new_id = new.client().execute_command("CLUSTER", "MYID")
        async with opened(cluster.url) as redis:
            deaf.pause()
            for server in (new, old):
                server.client().execute_command("CLUSTER", "SETSLOT", key_slot(key), "NODE", new_id)
            assert await redis.run(ADD, [key], 1) == 1


async def test_without_one_primary_the_others_serve(log: LogLines) -> None:
    with RedisCluster(cluster_require_full_coverage="no") as cluster:
        await cluster.settled()
        async with opened(cluster.url) as redis:
            cluster.servers[2].kill()
            await log.seen(LOST)
            assert not redis.is_up
            by_owner = {cluster.owner(key_slot(b"%d" % n)): b"%d" % n for n in range(50)}
            for server, key in by_owner.items():
                if server is cluster.servers[2]:
                    with pytest.raises(StoreUnavailable):
                        await redis.run(ADD, [key], 1)
                else:
                    assert await redis.run(ADD, [key], 1) == 1
            cluster.servers[2].restart()
            await log.seen(BACK)


async def test_a_replica_that_takes_over_is_found(log: LogLines) -> None:
    options: dict[str, Any] = {"cluster_enabled": "yes", "cluster_node_timeout": 1500}
    with RedisCluster(**options) as cluster, RedisServer(**options) as replica:
        await cluster.settled()
        primary = cluster.servers[0]
        await cluster.follow(primary, replica)
        async with opened(cluster.servers[1].url) as redis:
            key = next(key for n in range(100) if cluster.owner(key_slot(key := b"%d" % n)) is primary)
            assert await redis.run(ADD, [key], 1) == 1
            assert await redis.call(key, "WAIT", 1, 0) == 1, "or the replica may not have it when it takes over"
            primary.kill()
            await log.seen(LOST)
            with pytest.raises(StoreUnavailable):
                await redis.run(ADD, [key], 1)
            await log.seen(BACK)
            assert redis.is_up
            assert await redis.run(ADD, [key], 1) == 2
