"""What Redis must be like before codes are entrusted to it: looked at before the start, and evictions ever after.

Keys with a lifetime are what an eviction policy throws out first, and all of ours have one: with every policy but
`noeviction` a Redis that is full forgets limits, blocks and codes in use, and lets in what they kept out.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from clock import Clock
from otp_store import StoreUnavailable

logger = logging.getLogger(__name__)

OLDEST_VERSION = (6, 2)
CLOCK_WARN_SECONDS, CLOCK_REFUSE_SECONDS = 2.0, 30.0
START_PATIENCE_SECONDS = 10.0  # a Redis that starts together with us
ASK_AGAIN_SECONDS = 0.25
WATCH_SECONDS = 30.0


class RedisConnection(Protocol):
    """What is needed of a connection: raw RESP2 replies. Raises: StoreUnavailable."""

    async def open(self) -> None: ...

    async def call(self, key: bytes | None, *command: bytes) -> Any: ...

    async def close(self) -> None: ...


class Severity(StrEnum):
    REFUSE = "refuse"
    """The service does not start."""
    ALARM = "alarm"
    """It starts, but a promise was broken."""
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    text: str


async def look(redis: RedisConnection, clock: Clock) -> list[Finding]:
    """All that is wrong with a Redis, the worst first. Raises: StoreUnavailable."""
    info = _fields(await redis.call(None, b"INFO"))
    config = await _config(redis)
    findings = [
        *_version(info),
        *_role(info),
        *_eviction(info),
        *_persistence(info, config),
        *await _clock_difference(redis, clock),
    ]
    if info.get("cluster_enabled") == "1":
        findings.append(Finding(Severity.WARN, "it is a cluster, of which one node was looked at"))
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))


async def look_patiently(connect: Callable[[], RedisConnection], clock: Clock) -> list[Finding]:
    """The same, of a Redis that may just be starting. Raises: StoreUnavailable after ten seconds of it."""
    gives_up_at = clock.now() + START_PATIENCE_SECONDS
    while True:
        redis = connect()
        try:
            await redis.open()
            return await look(redis, clock)
        except StoreUnavailable:
            if clock.now() >= gives_up_at:
                raise
        finally:
            await redis.close()
        await clock.sleep(ASK_AGAIN_SECONDS)


async def watch_evictions(redis: RedisConnection, clock: Clock) -> None:
    """Raise an alarm whenever keys have been evicted since the last look; runs until it is cancelled."""
    known: int | None = None
    while True:
        with contextlib.suppress(StoreUnavailable):  # which each request finds out by itself
            evicted = _number(_fields(await redis.call(None, b"INFO", b"stats")), "evicted_keys")
            if known is not None and evicted > known:
                report(_evicted(evicted - known))
            known = evicted
        await clock.sleep(WATCH_SECONDS)


def report(finding: Finding) -> None:
    """Log what the service starts with all the same."""
    level = logging.WARNING if finding.severity is Severity.WARN else logging.ERROR
    logger.log(level, "Redis: %s", finding.text)


def _version(info: Mapping[str, str]) -> list[Finding]:
    """Valkey, too, tells a version of Redis: the one that it is compatible with."""
    version = info.get("redis_version", "")
    try:
        is_old = tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION
    except ValueError:
        is_old = True
    return (
        [Finding(Severity.REFUSE, f"it is version {version}: 6.2 or newer is needed, or Valkey")] if is_old else []
    )


def _role(info: Mapping[str, str]) -> list[Finding]:
    if info.get("role") == "master":
        return []
    return [Finding(Severity.REFUSE, "it is a replica, which takes no writes: set REDIS_URL to the primary")]


def _eviction(info: Mapping[str, str]) -> list[Finding]:
    findings = []
    policy = info.get("maxmemory_policy", "")
    if policy != "noeviction":
        does = f"maxmemory-policy is {policy}, which throws out codes, limits and blocks when memory is full"
        if _number(info, "maxmemory"):
            findings.append(Finding(Severity.REFUSE, f"{does}: set it to noeviction"))
        else:
            findings.append(Finding(Severity.WARN, f"{does}; maxmemory is not set, so it is not yet in use"))
    if evicted := _number(info, "evicted_keys"):
        findings.append(_evicted(evicted))
    return findings


def _evicted(count: int) -> Finding:
    text = f"{count} keys were evicted: codes, limits or blocks are lost; set noeviction and give it more memory"
    return Finding(Severity.ALARM, text)


def _persistence(info: Mapping[str, str], config: Mapping[str, str] | None) -> list[Finding]:
    if config is None:
        findings = [Finding(Severity.WARN, "it does not tell its configuration: appendfsync was not looked at")]
    else:
        findings = []
    snapshots = config is None or bool(config.get("save"))
    if info.get("aof_enabled") == "1":
        if config is not None and config.get("appendfsync") == "no":
            text = "appendfsync is no: when its machine fails, what the last 30 seconds or so brought is lost"
            findings.append(Finding(Severity.WARN, f"{text}; set it to everysec"))
        return findings
    lost = f"all since the last snapshot (save {config['save']})" if config and snapshots else "all that it holds"
    text = f"appendonly is off: when it ends, {lost} is lost, codes, limits and blocks; set it to yes"
    findings.append(Finding(Severity.WARN, text))
    if not snapshots and _number(info, "connected_slaves"):
        text = "it keeps nothing on disk and has replicas: if it starts again, empty, they empty themselves, too"
        findings.append(Finding(Severity.WARN, text))
    return findings


async def _clock_difference(redis: RedisConnection, clock: Clock) -> list[Finding]:
    """Deadlines are kept by Redis's clock and shown by ours."""
    sent_at = clock.wall()
    seconds, microseconds = await redis.call(None, b"TIME")
    half_round_trip = (clock.wall() - sent_at) / 2
    difference = abs(int(seconds) + int(microseconds) / 1e6 - sent_at - half_round_trip) - half_round_trip
    if difference <= CLOCK_WARN_SECONDS:
        return []
    severity = Severity.REFUSE if difference > CLOCK_REFUSE_SECONDS else Severity.WARN
    text = f"its clock and ours are {difference:.1f} seconds apart: let both machines keep time by NTP"
    return [Finding(severity, text)]


async def _config(redis: RedisConnection) -> dict[str, str] | None:
    """What `CONFIG GET` says of persistence; None where it is forbidden, as managed services do."""
    found = {}
    for name in (b"appendfsync", b"save"):
        try:
            reply = await redis.call(None, b"CONFIG", b"GET", name)
        except StoreUnavailable:
            return None
        if not isinstance(reply, list) or len(reply) != 2:
            return None
        found[name.decode()] = bytes(reply[1]).decode()
    return found


def _fields(reply: Any) -> dict[str, str]:
    """INFO as a table. Raises: StoreUnavailable for what is no such reply."""
    if not isinstance(reply, bytes):
        raise StoreUnavailable("the store does not tell what it is")
    return dict(line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line)


def _number(info: Mapping[str, str], name: str) -> int:
    return int(info.get(name, "0"))
