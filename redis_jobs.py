"""Jobs that outlive the worker that planned them: in Redis, through SAQ.

Each lane is a queue of SAQ's. A worker holds few jobs of a lane at once, and keeps telling that it lives; what a
dead one held goes back to the head of its lane. Of SAQ's queue three steps are done otherwise here, because our
handlers may run twice, but no job may get lost, or lose its place:
 - one connection per lane waits for jobs, and not one for each that can be done at once;
 - the sweep gives a job back in one step; SAQ's takes it out first, and waits for its worker to confirm;
 - what is given back goes to the head of the lane, not to its end.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from saq import Job as SaqJob
from saq import Worker
from saq.job import Status
from saq.queue.redis import RedisQueue
from saq.types import Context, WorkerInfo

from jobs import J, Job
from log_format import log_unexpected
from otp_store import StoreUnavailable

logger = logging.getLogger(__name__)

COMMAND_SECONDS = 0.5
OPEN_SECONDS = 5.0
WAIT_FOR_JOBS_SECONDS = 5.0
PAUSE_SECONDS = 1.0
# The next one stands in the carrier's line already when the first one's turn comes.
JOBS_AT_ONCE = 2
BEAT_SECONDS = 2
DEAD_AFTER_SECONDS = 6
SWEEP_SECONDS = 2
STOP_SECONDS = 2.0
CANCEL_AGAIN_SECONDS = 0.1
NEVER_SECONDS = 86_400
_TROUBLES = (RedisError, RedisClusterException, OSError, TimeoutError)


class _Outage:
    """Tells once that the store is lost, and once that it is back."""

    def __init__(self) -> None:
        self._is_on = False

    def begin(self, error: BaseException) -> None:
        if not self._is_on:
            logger.error("background work waits for the store", extra={"trouble": type(error).__name__})
        self._is_on = True

    def end(self) -> None:
        if self._is_on:
            logger.warning("background work goes on")
        self._is_on = False


def _decode(payload: bytes | str) -> Any:
    return msgspec.msgpack.decode(cast(bytes, payload))


class _Lane(RedisQueue):
    def __init__(self, name: str, commands: Any, waiting: Any, outage: _Outage) -> None:
        # In braces: all keys of a lane are in one slot of a cluster.
        super().__init__(commands, name=f"{{{name}}}", dump=msgspec.msgpack.encode, load=_decode)
        self._waiting_redis = waiting
        self._outage = outage
        self._one_at_a_time = asyncio.Lock()
        self._suspects: set[bytes] = set()

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> SaqJob | None:  # noqa: ASYNC109 - as in SAQ
        async with self._one_at_a_time:
            try:
                job_id = await self._wait_for_job()
                job = await self._get_job_by_id(job_id) if job_id is not None else None
            except _TROUBLES as error:
                self._outage.begin(error)
                await asyncio.sleep(PAUSE_SECONDS)
                return None
            self._outage.end()
            return job

    async def _wait_for_job(self) -> bytes | None:
        popping: asyncio.Task[bytes | None] = asyncio.create_task(
            self._waiting_redis.blmove(self._queued, self._active, WAIT_FOR_JOBS_SECONDS, "LEFT", "RIGHT")
        )
        try:
            await asyncio.wait({popping})
        except asyncio.CancelledError:
            while not popping.done():  # before Python 3.12 a cancellation can get lost in asyncio.wait_for
                popping.cancel()
                await asyncio.wait({popping}, timeout=CANCEL_AGAIN_SECONDS)
            await asyncio.gather(popping, return_exceptions=True)
            raise  # what it may have taken yet is given back by the next sweep
        return popping.result()

    def deserialize(
        self, payload: dict[str, Any] | str | bytes | None, status: Status | str | None = None
    ) -> SaqJob | None:
        """None also for what cannot be read, which the sweep takes away: it must not stop those behind it."""
        try:
            return super().deserialize(payload, status)
        except (msgspec.DecodeError, ValueError, TypeError, LookupError) as error:
            log_unexpected(error, "reading of a job")
            return None

    async def beat(self, job: SaqJob) -> None:
        """Tell that the job's worker lives. Never brings back a job that somebody else has finished."""
        job.touched = int(time.time() * 1000)
        await self.redis.set(job.id, self.serialize(job), xx=True)

    async def notify(self, job: SaqJob) -> None:
        """Nobody waits for a job to end."""

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        """For SAQ's own dashboard, which nobody opens here."""

    async def schedule(self, lock: int = 1) -> list[str]:
        try:
            return await super().schedule(lock)
        except _TROUBLES as error:
            self._outage.begin(error)
            return []

    async def sweep(self, lock: int = SWEEP_SECONDS, abort: float = 0.0) -> list[str]:
        """Give back what dead workers held; of all workers one looks, every `lock` seconds."""
        try:
            if await self.redis.set(self._sweep, 1, nx=True, ex=lock):
                await self._give_back_dead()
        except _TROUBLES as error:
            self._outage.begin(error)
        except Exception as error:
            log_unexpected(error, "sweep of jobs")
        return []

    async def _give_back_dead(self) -> None:
        redis: Any = self.redis
        held: list[bytes] = await redis.lrange(self._active, 0, -1)
        found = await redis.mget(held) if held else []
        suspects = set()
        for job_id, payload in zip(held, found, strict=True):
            job = self.deserialize(payload)
            if job is None:
                await redis.lrem(self._active, 0, job_id)
            elif job.status is Status.ACTIVE and not job.stuck:
                continue
            elif job.status is Status.ACTIVE or job_id in self._suspects:
                logger.warning("work of a lost worker goes on", extra={"job": job.function})
                await self.retry(job, None)
            else:  # just taken, or its worker died in this very moment: the next look tells
                suspects.add(job_id)
        self._suspects = suspects

    async def _retry(self, job: SaqJob, error: str | None) -> None:
        job.error = None  # a trace could quote anything
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.lrem(self._active, 0, job.id)
            pipe.lrem(self._queued, 0, job.id)
            pipe.zadd(self._incomplete, {job.id: 0})
            pipe.lpush(self._queued, job.id)
            pipe.set(job.id, self.serialize(job))
            await pipe.execute()


class _Worker(Worker[Context]):
    SIGNALS = []  # noqa: RUF012 - as the library has it; signals are the server's

    async def process(self) -> bool:
        try:
            return await super().process()
        except _TROUBLES:  # the job stays marked as held, and the sweep gives it back
            await asyncio.sleep(PAUSE_SECONDS)
            return False


class RedisJobs:
    def __init__(self, url: str, command_seconds: float = COMMAND_SECONDS) -> None:
        # Its lines hold ids that can be used.
        logging.getLogger("saq").setLevel(logging.CRITICAL)
        self._url = url
        self._command_seconds = command_seconds
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {}
        self._lanes: dict[str, _Lane] = {}
        self._names: list[str] = []
        self._clients: list[Any] = []
        self._opening = asyncio.Lock()
        self._outage = _Outage()
        self._kinds: dict[str, type[Any]] = {}

    def on(self, kind: type[J], handler: Callable[[J], Awaitable[None]], lanes: Sequence[str]) -> None:
        self._kinds[kind.name], self._handlers[kind.name] = kind, handler
        self._names += lanes

    async def plan(self, job: Job, after_seconds: float = 0) -> None:
        try:
            async with asyncio.timeout(self._command_seconds if self._lanes else OPEN_SECONDS):
                lane = (await self._open())[job.lane]
                await lane.enqueue(self._in_saq(job, lane, after_seconds))
        except _TROUBLES as error:
            raise StoreUnavailable(f"the job could not be kept: {type(error).__name__}") from None

    @staticmethod
    def _in_saq(job: Job, lane: _Lane, after_seconds: float) -> SaqJob:
        return SaqJob(
            function=job.name,
            kwargs={"fields": msgspec.to_builtins(job)},
            key=f"{lane.name}{job.verification_id}-{job.call_number}",  # once, however often it is planned
            timeout=0,
            heartbeat=DEAD_AFTER_SECONDS,
            retries=1_000_000,
            ttl=-1,  # no result is kept
            scheduled=math.ceil(time.time() + after_seconds) if after_seconds else 0,
        )

    async def _open(self) -> dict[str, _Lane]:
        async with self._opening:
            if not self._lanes:
                commands = await self._connect(self._command_seconds)
                waiting = await self._connect(2 * WAIT_FOR_JOBS_SECONDS)
                self._lanes = {name: _Lane(name, commands, waiting, self._outage) for name in self._names}
        return self._lanes

    async def _connect(self, seconds: float) -> Any:
        options: dict[str, Any] = {
            "socket_timeout": seconds,
            "socket_connect_timeout": self._command_seconds,
            "retry": Retry(NoBackoff(), 0),
        }
        client: Any = Redis.from_url(self._url, **options)
        self._clients.append(client)
        if (await client.info("cluster")).get("cluster_enabled"):
            client = RedisCluster.from_url(self._url, **options)
            self._clients.append(client)
        return client

    async def work(self) -> None:
        workers = [
            _Worker(
                lane,
                [(name, self._do) for name in self._handlers],
                concurrency=JOBS_AT_ONCE,
                timers={
                    "schedule": 1,
                    "sweep": SWEEP_SECONDS,
                    "worker_info": NEVER_SECONDS,
                    "abort": NEVER_SECONDS,
                },
                cancellation_hard_deadline_s=STOP_SECONDS,
            )
            for lane in (await self._open_at_last()).values()
        ]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.start(), name="jobs of a lane")

    async def _open_at_last(self) -> dict[str, _Lane]:
        while True:
            try:
                return await self._open()
            except _TROUBLES as error:
                self._outage.begin(error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _do(self, context: Context, *, fields: Any) -> None:
        """Do a job, and tell all the while that this worker lives."""
        job = context["job"]
        lane = job.queue
        assert isinstance(lane, _Lane)  # noqa: S101 - there are no others here
        handling = asyncio.ensure_future(self._handle(job.function, fields))
        try:
            while not (await asyncio.wait({handling}, timeout=BEAT_SECONDS))[0]:
                with contextlib.suppress(*_TROUBLES):
                    await lane.beat(job)
            await handling
        except StoreUnavailable:
            await asyncio.sleep(PAUSE_SECONDS)
            raise  # SAQ gives it back
        except asyncio.CancelledError:
            handling.cancel()
            await asyncio.gather(handling, return_exceptions=True)
            raise
        except Exception as error:  # done all the same: it would go wrong again
            log_unexpected(error, job.function)

    async def _handle(self, name: str, fields: Any) -> None:
        await self._handlers[name](msgspec.convert(fields, self._kinds[name]))

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
