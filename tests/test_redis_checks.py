"""The look at Redis before the start: real servers in many configurations, and what is said of each."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import redis_checks
import server
from banner import banner
from clock import Clock
from otp_store import StoreUnavailable
from redis_checks import Finding, look, look_patiently, watch_evictions
from settings import BadSettings, load_settings
from tests.conftest import OTP_SECRET, FakeTime, keep_secret
from tests.raw_redis import RawRedis, redis_server

CLOCK = Clock()
KEPT = ("--appendonly", "yes", "--appendfsync", "everysec")
FULL = ("--maxmemory", "100mb", "--maxmemory-policy")
PASSWORD = keep_secret("redis-password-CANARY")


@asynccontextmanager
async def redis(folder: Path, *options: str) -> AsyncIterator[RawRedis]:
    with redis_server(folder, *options) as port:
        connection = RawRedis(port)
        await connection.open()
        yield connection
        await connection.close()


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    """Each finding's severity and its first words."""
    return [(finding.severity.value, " ".join(finding.text.split()[:3])) for finding in findings]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param((*KEPT, *FULL, "noeviction"), [], id="as it should be"),
        pytest.param(KEPT, [], id="without a bound"),
        pytest.param(
            (*KEPT, *FULL, "allkeys-lru"), [("refuse", "maxmemory-policy is allkeys-lru,")], id="evicts all"
        ),
        pytest.param(
            (*KEPT, *FULL, "volatile-ttl"), [("refuse", "maxmemory-policy is volatile-ttl,")], id="evicts ours"
        ),
        pytest.param(
            (*KEPT, "--maxmemory-policy", "volatile-lru"),
            [("warn", "maxmemory-policy is volatile-lru,")],
            id="would evict",
        ),
        pytest.param((), [("warn", "appendonly is off:")], id="snapshots only"),
        pytest.param(("--save", ""), [("warn", "appendonly is off:")], id="nothing on disk"),
        pytest.param(
            ("--appendonly", "yes", "--appendfsync", "no"), [("warn", "appendfsync is no:")], id="no fsync"
        ),
        pytest.param(
            (*KEPT, "--rename-command", "CONFIG", ""), [("warn", "it does not")], id="managed, without CONFIG"
        ),
        pytest.param(
            (*KEPT, "--replicaof", "127.0.0.1", "1"), [("refuse", "it is a")], id="replica"
        ),
        pytest.param((*KEPT, "--cluster-enabled", "yes"), [("warn", "it is a")], id="cluster"),
    ],
)  # fmt: skip
async def test_g3_each_configuration_has_its_verdict(
    tmp_path: Path, options: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    async with redis(tmp_path, *options) as connection:
        assert said(await look(connection, CLOCK)) == expected


async def test_g3_what_is_lost_is_said(tmp_path: Path) -> None:
    async with redis(tmp_path, "--save", "60", "5") as connection:
        (finding,) = await look(connection, CLOCK)
        assert "all since the last snapshot (save 60 5) is lost" in finding.text
        await connection.call(None, b"CONFIG", b"SET", b"save", b"")
        (finding,) = await look(connection, CLOCK)
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
def _wired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of the tests', as long as the service has none of its own."""
    monkeypatch.setattr(
        server, "_connect_to_redis", lambda settings, _: RawRedis(int(settings.redis_address.split(":")[1]))
    )
    monkeypatch.setattr(redis_checks, "START_PATIENCE_SECONDS", 0)


def settings_for(port: int) -> Any:
    return load_settings(redis_url=f"redis://:{PASSWORD}@127.0.0.1:{port}", otp_secret=OTP_SECRET)


@pytest.mark.usefixtures("_wired")
def test_g3_the_start_is_refused_with_one_line_for_each_reason(tmp_path: Path) -> None:
    options = (*FULL, "allkeys-lfu", "--replicaof", "127.0.0.1", "1")
    with redis_server(tmp_path, *options) as port, pytest.raises(BadSettings) as bad:
        server._check_redis(settings_for(port))
    start = f"REDIS_URL: the Redis at 127.0.0.1:{port} cannot be used: "
    replica, evicts = bad.value.problems
    assert replica.startswith(start + "it is a replica")
    assert evicts.startswith(start + "maxmemory-policy is allkeys-lfu")
    assert PASSWORD not in str(bad.value)


@pytest.mark.usefixtures("_wired")
def test_g3_what_is_not_refused_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(tmp_path) as port:
        server._check_redis(settings_for(port))
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()[:27]) == (logging.WARNING, "Redis: appendonly is off: w")


@pytest.mark.usefixtures("_wired")
@pytest.mark.parametrize("options", [None, ("--requirepass", "another")])
def test_g3_without_an_answer_the_start_is_refused(tmp_path: Path, options: tuple[str, ...] | None) -> None:
    with redis_server(tmp_path, *(options or ())) as port:
        settings = settings_for(port if options else 1)
        with pytest.raises(BadSettings) as bad:
            server._check_redis(settings)
    assert str(bad.value).startswith(f"REDIS_URL: no Redis at {settings.redis_address} that answers")
    assert PASSWORD not in str(bad.value) + banner(settings)
