"""The look at Redis before the start: real servers in many configurations, and what is said of each."""

import asyncio
import logging
from typing import Any

import pytest

import redis_checks
import server
from banner import banner
from clock import Clock
from otp_store import StoreUnavailable
from redis_checks import Finding, look, look_patiently, watch_evictions
from redis_connection import Redis
from settings import BadSettings, load_settings
from tests.conftest import OTP_SECRET, FakeTime, keep_secret
from tests.redis_servers import RedisCluster, RedisServer

CLOCK = Clock()
KEPT: dict[str, Any] = {"appendonly": "yes", "appendfsync": "everysec"}
FULL = {**KEPT, "maxmemory": "100mb"}
PASSWORD = keep_secret("redis-password-CANARY")


async def found(url: str) -> list[Finding]:
    return await look_patiently(lambda: Redis(url, CLOCK), CLOCK)


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    """Each finding's severity and its first words."""
    return [(finding.severity.value, " ".join(finding.text.split()[:3])) for finding in findings]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({**FULL, "maxmemory_policy": "noeviction"}, [], id="as it should be"),
        pytest.param(KEPT, [], id="without a bound"),
        pytest.param(
            {**FULL, "maxmemory_policy": "allkeys-lru"},
            [("refuse", "maxmemory-policy is allkeys-lru,")],
            id="evicts all",
        ),
        pytest.param(
            {**FULL, "maxmemory_policy": "volatile-ttl"},
            [("refuse", "maxmemory-policy is volatile-ttl,")],
            id="evicts ours",
        ),
        pytest.param(
            {**KEPT, "maxmemory_policy": "volatile-lru"},
            [("warn", "maxmemory-policy is volatile-lru,")],
            id="would evict",
        ),
        pytest.param({"save": (3600, 1)}, [("warn", "appendonly is off:")], id="snapshots only"),
        pytest.param({}, [("warn", "appendonly is off:")], id="nothing on disk"),
        pytest.param(
            {"appendonly": "yes", "appendfsync": "no"}, [("warn", "appendfsync is no:")], id="no fsync"
        ),
        pytest.param(
            {**KEPT, "rename_command": ("CONFIG", "")}, [("warn", "it does not")], id="managed, without CONFIG"
        ),
    ],
)  # fmt: skip
async def test_g3_each_configuration_has_its_verdict(
    options: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    with RedisServer(**options) as server:
        assert said(await found(server.url)) == expected


async def test_g3_a_cluster_is_looked_at_in_part() -> None:
    with RedisCluster(primaries=1, **KEPT) as cluster:
        await cluster.settled()
        assert said(await found(cluster.url)) == [("warn", "it is a")]


async def test_g3_what_is_lost_is_said() -> None:
    with RedisServer(save=(60, 5)) as server:
        (finding,) = await found(server.url)
        assert "all since the last snapshot (save 60 5) is lost" in finding.text
        server.client().config_set("save", "")
        (finding,) = await found(server.url)
        assert "all that it holds is lost" in finding.text


class Told:
    """A Redis that tells of itself what it is told to."""

    def __init__(self, **info: object) -> None:
        self.info: dict[str, object] = {
            "redis_version": "7.2.4",
            "role": "master",
            "maxmemory_policy": "noeviction",
            "aof_enabled": 1,
            **info,
        }
        self.seconds_ahead = 0.0

    async def call(self, key: bytes | None, *command: bytes) -> Any:
        if command[0] == b"INFO":
            return "\r\n".join(f"{name}:{value}" for name, value in self.info.items()).encode()
        if command[0] == b"TIME":
            seconds, _, rest = f"{CLOCK.wall() + self.seconds_ahead:.6f}".partition(".")
            return [seconds.encode(), rest.encode()]
        return [command[2], b"everysec" if command[2] == b"appendfsync" else b""]

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        pytest.param({"server_name": "valkey", "valkey_version": "9.0.1"}, [], id="Valkey"),
        pytest.param({"redis_version": "6.0.16"}, [("refuse", "it is version")], id="too old"),
        pytest.param({"redis_version": "unknown"}, [("refuse", "it is version")], id="no version"),
        pytest.param({"redis_version": "6.2.0"}, [], id="just new enough"),
        pytest.param({"redis_version": "10.0.0"}, [], id="much newer"),
        pytest.param({"evicted_keys": 3}, [("alarm", "3 keys were")], id="evicted"),
        pytest.param(
            {"aof_enabled": 0, "connected_slaves": 1},
            [("warn", "appendonly is off:"), ("warn", "it keeps nothing")],
            id="empties its replicas",
        ),
    ],
)
async def test_g3_what_no_server_here_can_be(info: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert said(await look(Told(**info), CLOCK)) == expected


@pytest.mark.parametrize(
    ("seconds_ahead", "expected"),
    [(1.0, []), (-5.0, [("warn", "its clock and")]), (60.0, [("refuse", "its clock and")])],
)
async def test_g3_clocks_that_differ(seconds_ahead: float, expected: list[tuple[str, str]]) -> None:
    connection = Told()
    connection.seconds_ahead = seconds_ahead
    assert said(await look(connection, CLOCK)) == expected


async def test_g3_a_slow_answer_is_no_wrong_clock() -> None:
    walls = iter([0.0, 50.0])
    connection = Told()
    connection.seconds_ahead = 27.0 - CLOCK.wall()  # its clock was read somewhere on the way
    assert await look(connection, Clock(wall=lambda: next(walls))) == []


async def test_g3_evictions_raise_an_alarm_when_they_grow(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Told(evicted_keys=2)
    watch = asyncio.create_task(watch_evictions(connection, fake_time.clock))
    await fake_time.pass_by(redis_checks.WATCH_SECONDS)
    assert caplog.records == [], "these were told at the start"
    connection.info["evicted_keys"] = 7
    await fake_time.pass_by(redis_checks.WATCH_SECONDS)
    connection.info["evicted_keys"] = 0  # it was started again
    await fake_time.pass_by(redis_checks.WATCH_SECONDS)
    watch.cancel()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("Redis: 5 keys were evicted")


async def test_a_redis_that_is_starting_is_waited_for(fake_time: FakeTime) -> None:
    class Late(Told):
        async def open(self) -> None:
            if fake_time.seconds < 1005:
                fake_time.advance(1)
                raise StoreUnavailable

    clock = Clock(now=fake_time.clock.now, wall=CLOCK.wall, sleep=lambda _: _at_once())
    assert await look_patiently(Late, clock) == []
    fake_time.seconds = 0
    with pytest.raises(StoreUnavailable):
        await look_patiently(Late, clock)


async def _at_once() -> None: ...


# The program


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_checks, "START_PATIENCE_SECONDS", 0)


def settings_for(port: int) -> Any:
    return load_settings(redis_url=f"redis://:{PASSWORD}@127.0.0.1:{port}", otp_secret=OTP_SECRET)


def refusals(settings: Any) -> list[str]:
    """What the start says of Redis when it refuses it, without the words that are always there."""
    with pytest.raises(BadSettings) as bad:
        server._check_redis(settings)
    assert PASSWORD not in str(bad.value) + banner(settings)
    start = f"REDIS_URL: the Redis at {settings.redis_address} cannot be used: "
    assert all(problem.startswith(start) for problem in bad.value.problems)
    return [problem.removeprefix(start) for problem in bad.value.problems]


@pytest.mark.usefixtures("_impatient")
def test_g3_the_start_is_refused_with_one_line_for_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_checks, "OLDEST_VERSION", (99, 0))
    with RedisServer(requirepass=PASSWORD, **FULL, maxmemory_policy="allkeys-lfu") as redis:
        old, evicts = refusals(settings_for(redis.port))
    assert old.startswith("it is version")
    assert evicts.startswith("maxmemory-policy is allkeys-lfu")


def test_g3_what_is_not_refused_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(requirepass=PASSWORD) as redis:
        server._check_redis(settings_for(redis.port))
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()[:27]) == (logging.WARNING, "Redis: appendonly is off: w")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"replicaof": ("127.0.0.1", 1)}, "the store is a replica", id="replica"),
        pytest.param({"requirepass": "another"}, "the store refused user name or password", id="another password"),
    ],
)
def test_g3_a_redis_that_refuses_us_is_refused_in_its_words(options: dict[str, Any], reason: str) -> None:
    with RedisServer(**{"requirepass": PASSWORD, **options}) as redis:
        assert refusals(settings_for(redis.port))[0].startswith(reason)


@pytest.mark.usefixtures("_impatient")
def test_g3_a_password_that_is_missing_is_asked_for() -> None:
    with RedisServer(requirepass=PASSWORD) as redis:
        settings = load_settings(redis_url=redis.url, otp_secret=OTP_SECRET)
        assert refusals(settings) == ["the store asks for a password: check REDIS_URL"]


@pytest.mark.usefixtures("_impatient")
def test_g3_without_an_answer_the_start_is_refused() -> None:
    assert refusals(settings_for(1)) == ["the store cannot be reached"]


def test_a_redis_that_belongs_to_another_secret_is_refused(redis_server: RedisServer) -> None:
    server._check_redis(load_settings(redis_url=redis_server.url, otp_secret=OTP_SECRET))
    with pytest.raises(BadSettings, match="another OTP_SECRET"):
        server._check_redis(load_settings(redis_url=redis_server.url, otp_secret=OTP_SECRET[::-1]))
