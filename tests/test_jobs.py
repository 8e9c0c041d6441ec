"""Work after the answer: one set of cases for both ways, then what only shared work has to hold."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from carrier_line import PACE_SECONDS
from carrier_trouble import FAILURES_TO_OPEN
from clock import Clock
from jobs import Dial, Job, Jobs, MemoryJobs, Redial, dial_lane
from number_page import StoreRules
from otp_store import MemoryOtpStore, StoreUnavailable
from redis_jobs import JOBS_AT_ONCE, RedisJobs
from sealing import Sealer
from tests.conftest import OTP_SECRET, FakeTime, RunningService, keep_secret, leaks_in
from tests.function_carriers import SLOW, FunctionCarrier, FunctionCarriers, call_id, run_carriers
from tests.hand_server import behind_tls
from tests.redis_servers import RedisCluster, RedisServer
from voice_provider import CallState, ProviderUnavailable

PATIENCE_SECONDS = 60.0
CODE = keep_secret("CANARY640")
PHONE, OTHER_PHONE = "+14155550142", "+14155550143"
LANE = dial_lane("vobiz")
SEALER = Sealer((OTP_SECRET,))


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    return redis_server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(primaries=1) as cluster:
        yield cluster


@pytest.fixture(params=["memory", "redis", "cluster"])
async def jobs(request: pytest.FixtureRequest) -> AsyncIterator[Jobs]:
    if request.param == "memory":
        jobs: Jobs = MemoryJobs(Clock())
    else:
        server = request.getfixturevalue(request.param)
        if request.param == "cluster":
            await server.settled()
            server.servers[0].client().flushall()
        jobs = RedisJobs(server.url, PATIENCE_SECONDS)
    yield jobs
    await jobs.close()


@contextlib.asynccontextmanager
async def working(jobs: Jobs) -> AsyncIterator[None]:
    task = asyncio.create_task(jobs.work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_true():
            await FakeTime.settle()


class Done:
    """What was done, in the order in which it was begun; `hold` keeps each from being finished."""

    def __init__(self, jobs: Jobs, *, hold: bool = False) -> None:
        self.jobs: list[Any] = []
        self.ended = 0
        self._came = asyncio.Event()
        self._go_on = asyncio.Event()
        if not hold:
            self.go_on()
        jobs.on(Dial, self._do, [LANE])
        jobs.on(Redial, self._do, [Redial.name])

    def go_on(self) -> None:
        self._go_on.set()

    async def _do(self, job: Any) -> None:
        self.jobs.append(job)
        self._came.set()
        await self._go_on.wait()
        self.ended += 1
        if job.call_number == 0:
            raise ValueError("as if something had been forgotten")

    async def wait_for(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.jobs) < number:
                self._came.clear()
                await self._came.wait()


def dial(number: int = 1) -> Dial:
    return Dial(SEALER.draw_id(PHONE), number, ("vobiz", "plivo"), 12.5, 12.25)


async def test_a_job_is_done_as_it_was_planned(jobs: Jobs) -> None:
    done = Done(jobs)
    planned: list[Job] = [dial(), Redial(SEALER.draw_id(PHONE), 3)]
    async with working(jobs):
        for job in planned:
            await jobs.plan(job)
        await done.wait_for(2)
    assert sorted(map(repr, done.jobs)) == sorted(map(repr, planned))


async def test_a_job_for_later_is_done_later(jobs: Jobs) -> None:
    done = Done(jobs)
    later, sooner = Redial(SEALER.draw_id(PHONE), 1), Redial(SEALER.draw_id(PHONE), 2)
    async with working(jobs):
        await jobs.plan(later, 1)
        await jobs.plan(sooner)
        await done.wait_for(2)
    assert done.jobs == [sooner, later]


async def test_jobs_of_a_lane_are_begun_in_their_order(jobs: Jobs) -> None:
    done = Done(jobs)
    planned = [dial(number) for number in range(1, 21)]
    async with working(jobs):
        for job in planned:
            await jobs.plan(job)
        await done.wait_for(20)
    assert done.jobs == planned


async def test_a_job_that_goes_wrong_keeps_no_other_from_being_done(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    done = Done(jobs)
    async with working(jobs):
        await jobs.plan(dial(0))
        await jobs.plan(dial(1))
        await done.wait_for(2)
    assert [job.call_number for job in done.jobs] == [0, 1]
    assert "unexpected ValueError during dial" in caplog.messages


async def test_memory_drops_what_waits_when_it_stops(caplog: pytest.LogCaptureFixture) -> None:
    jobs = MemoryJobs(Clock())
    done = Done(jobs, hold=True)
    await jobs.plan(dial())
    await done.wait_for(1)
    await jobs.close()
    assert "queued calls dropped" in caplog.messages


# With Redis


def left_in(redis: RedisServer) -> list[bytes]:
    """Jobs that are not done yet."""
    with redis.client() as client:
        return [key for key in client.keys("*") if not key.endswith((b":schedule", b":sweep"))]


@contextlib.asynccontextmanager
async def redis_jobs(redis: RedisServer) -> AsyncIterator[RedisJobs]:
    jobs = RedisJobs(redis.url, PATIENCE_SECONDS)
    try:
        yield jobs
    finally:
        await jobs.close()


@pytest.mark.parametrize("options", ["ssl_ca_certs={certificate}", "ssl_cert_reqs=none"])
async def test_jobs_are_kept_over_tls_too(redis: RedisServer, tmp_path: Path, options: str) -> None:
    async with behind_tls(redis.port, tmp_path) as (port, certificate):
        jobs = RedisJobs(f"rediss://localhost:{port}?{options.format(certificate=certificate)}", PATIENCE_SECONDS)
        done = Done(jobs)
        async with working(jobs):
            await jobs.plan(dial())
            await done.wait_for(1)
        await jobs.close()


async def test_a_job_that_is_planned_twice_is_done_once(redis: RedisServer) -> None:
    async with redis_jobs(redis) as jobs:
        done = Done(jobs)
        twice, last = dial(1), dial(2)
        for job in (twice, twice, last):
            await jobs.plan(job)
        async with working(jobs):
            await done.wait_for(2)
        assert done.jobs == [twice, last]


async def test_a_stopping_worker_leaves_what_waits_to_others(redis: RedisServer) -> None:
    async with redis_jobs(redis) as stopping, redis_jobs(redis) as other:
        held, done = Done(stopping, hold=True), Done(other)
        planned = [dial(number) for number in range(1, JOBS_AT_ONCE + 3)]
        async with working(stopping):
            for job in planned:
                await stopping.plan(job)
            await held.wait_for(JOBS_AT_ONCE)
        assert held.jobs == planned[:JOBS_AT_ONCE], "few of them are in the hands of a worker"
        async with working(other):
            await done.wait_for(len(planned))
        assert {job.call_number for job in done.jobs[:JOBS_AT_ONCE]} == {job.call_number for job in held.jobs}
        assert done.jobs[JOBS_AT_ONCE:] == planned[JOBS_AT_ONCE:], "what was held went to the head"


async def test_a_killed_workers_jobs_are_done_by_another_one(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.jobs_child", redis.url,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    async with redis_jobs(redis) as jobs:
        done = Done(jobs)
        planned = [dial(1), dial(2)]
        for job in planned:
            await jobs.plan(job)
        assert child.stdout is not None
        assert [int(await child.stdout.readline()) for _ in planned] == [1, 2]
        child.kill()
        await child.wait()
        async with working(jobs):
            await done.wait_for(len(planned))
            await until(lambda: not left_in(redis))
        assert {job.call_number for job in done.jobs} == {1, 2}
    assert caplog.messages.count("work of a lost worker goes on") == 2


async def test_without_redis_nothing_is_planned_and_all_goes_on_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with RedisServer() as server:
        async with redis_jobs(server) as jobs:
            done = Done(jobs)
            async with working(jobs):
                await jobs.plan(dial(1))
                await done.wait_for(1)
                await until(lambda: not left_in(server))
                server.kill()
                for _ in range(3):
                    with pytest.raises(StoreUnavailable):
                        await jobs.plan(dial(2))
                server.restart()
                await jobs.plan(dial(3))
                await done.wait_for(2)
                assert [job.call_number for job in done.jobs] == [1, 3]
    told = [one.levelno for one in caplog.records if one.message.startswith("background work")]
    assert told in ([logging.ERROR, logging.WARNING], []), "once each, or nothing if it was quicker back"


async def test_what_is_being_done_is_done_to_its_end_without_redis() -> None:
    with RedisServer() as server:
        async with redis_jobs(server) as jobs:
            done = Done(jobs, hold=True)
            async with working(jobs):
                await jobs.plan(dial(1))
                await done.wait_for(1)
                server.kill()
                with pytest.raises(StoreUnavailable):
                    await jobs.plan(dial(2))
                done.go_on()
                await until(lambda: done.ended == 1)
                server.restart()
                await jobs.plan(dial(3))
                await until(lambda: done.jobs[-1].call_number == 3)


async def test_a_job_for_which_the_store_could_not_answer_is_done_again(redis: RedisServer) -> None:
    tried = []

    async def do(job: Redial) -> None:
        tried.append(job)
        if len(tried) == 1:
            raise StoreUnavailable

    async with redis_jobs(redis) as jobs:
        jobs.on(Redial, do, [Redial.name])
        async with working(jobs):
            await jobs.plan(Redial(SEALER.draw_id(PHONE), 1))
            await until(lambda: len(tried) == 2 and not left_in(redis))


async def test_a_job_that_cannot_be_read_stops_no_other(redis: RedisServer) -> None:
    async with redis_jobs(redis) as jobs:
        done = Done(jobs)
        await jobs.plan(dial(1))
        with redis.client() as client:
            (key,) = client.keys("saq:job:*")
            client.set(key, b"\xc1")
        await jobs.plan(dial(2))
        async with working(jobs):
            await done.wait_for(1)
            await until(lambda: not any(b"active" in key for key in left_in(redis)))
        assert [job.call_number for job in done.jobs] == [2]


# The whole service, twice, with one store


SETTINGS: dict[str, Any] = {"vobiz_calls_per_second": 1, "otp_secret": OTP_SECRET}


def is_one_waiting(service: RunningService) -> bool:
    (health,) = service.app.state.service._router.health()
    return bool(health.queued)


async def test_a_call_that_waits_at_a_worker_that_stops_is_placed_once_by_another_one(
    redis: RedisServer, fake_time: FakeTime
) -> None:
    carriers, others = FunctionCarriers(), FunctionCarriers()
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    both: dict[str, Any] = {"otp": store, **SETTINGS}
    async with run_carriers(
        carriers, "vobiz", fake_time.clock, jobs=RedisJobs(redis.url, PATIENCE_SECONDS), **both
    ) as first:
        await first.send(OTHER_PHONE)
        queued = (await first.send(PHONE, code=CODE)).json()
        assert queued["status"] == "queued"
        await until(lambda: is_one_waiting(first))
        with redis.client() as client:
            kept = [key + (client.get(key) or b"") for key in client.keys("saq:job:*")]
    assert carriers.placed == ["vobiz"]
    async with run_carriers(
        others, "vobiz", fake_time.clock, jobs=RedisJobs(redis.url, PATIENCE_SECONDS), **both
    ) as other:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await others.vobiz.was_asked.wait()
        while not (status := await other.status(queued["verification_id"]))["call"]["call_uuid"]:
            continue
        assert status["call"]["state"] == CallState.DIALING
    assert (carriers.placed, others.placed) == (["vobiz"], ["vobiz"])
    (payload,) = kept
    assert leaks_in(payload.decode("latin-1")) == [], "no code and no number leaves the store"
    assert PHONE[1:].encode() not in payload


async def test_work_that_is_done_twice_is_one_call(redis: RedisServer, fake_time: FakeTime) -> None:
    carriers = FunctionCarriers()
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    async with run_carriers(
        carriers, "vobiz", fake_time.clock, jobs=RedisJobs(redis.url, PATIENCE_SECONDS), otp=store, **SETTINGS
    ) as service:
        await service.send(OTHER_PHONE)
        queued = (await service.send(PHONE, code=CODE)).json()
        await until(lambda: is_one_waiting(service))
        with redis.client() as client:
            (key,) = client.keys("saq:job:*")
            fields = msgspec.msgpack.decode(client.get(key))["kwargs"]["fields"]
        placer = service.app.state.service._placer
        again = asyncio.create_task(placer.dial_queued(msgspec.convert(fields, Dial)))
        await fake_time.settle()
        await fake_time.pass_by(5)
        await again
        await until(lambda: len(carriers.placed) == 2)
        await fake_time.pass_by(5)
        status = await service.status(queued["verification_id"])
        assert (status["status"], status["call"]["state"]) == ("calling", "dialing"), "the second run did no harm"
        assert carriers.placed == ["vobiz", "vobiz"]


async def test_a_call_that_cannot_be_queued_is_refused_and_costs_nothing(fake_time: FakeTime) -> None:
    carriers = FunctionCarriers()
    with RedisServer() as server:
        limits = {"client_sends_per_hour": 5, **SETTINGS}
        async with run_carriers(
            carriers, "vobiz", fake_time.clock, jobs=RedisJobs(server.url), **limits
        ) as service:
            first = await service.send(OTHER_PHONE)
            assert first.status_code == 200
            server.kill()
            refused = await service.send(PHONE, code=CODE)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            status = await service.status(PHONE)
            assert (status["call"]["state"], status["call"]["end_reason"]) == ("completed", "failed")
            assert sends_counted(service) == 1


class NotedJobs(MemoryJobs):
    """Keeps what was planned."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.planned: list[Job] = []
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True
        await super().close()

    async def plan(self, job: Job, after_seconds: float = 0) -> None:
        self.planned.append(job)
        await super().plan(job, after_seconds)


@pytest.mark.parametrize("quicker", ["first", "other"])
async def test_two_workers_with_one_call_place_it_once_also_through_two_carriers(
    fake_time: FakeTime, quicker: str
) -> None:
    """As after a worker that was taken for dead, and was only slow; the other one finds the carrier down."""
    firsts, others = FunctionCarriers(), FunctionCarriers()
    jobs = NotedJobs(fake_time.clock)
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    both: dict[str, Any] = {"otp": store, "plivo_calls_per_second": 1, **SETTINGS}
    async with (
        run_carriers(firsts, "vobiz,plivo", fake_time.clock, jobs=jobs, **both) as first,
        run_carriers(others, "vobiz,plivo", fake_time.clock, **both) as other,
    ):
        for phone in ("+14155550144", OTHER_PHONE):
            await first.send(phone)
        queued = (await first.send(PHONE, code=CODE)).json()
        assert queued["status"] == "queued"
        (job,) = jobs.planned
        router = other.app.state.service._router
        for _ in range(FAILURES_TO_OPEN):
            router._carriers["vobiz"][1].note_failure(ProviderUnavailable("down"))
        if quicker == "first":
            await fake_time.pass_by(5)
        await other.app.state.service._placer.dial_queued(job)
        await fake_time.pass_by(5)
        await until(lambda: len(firsts.placed) + len(others.placed) == 3)
        await fake_time.pass_by(5)
        status = await other.status(queued["verification_id"])
    assert (status["status"], status["call"]["state"]) == ("calling", "dialing")
    assert (len(firsts.placed), others.placed) == ((3, []) if quicker == "first" else (2, ["plivo"]))


async def test_a_call_that_is_being_placed_is_not_placed_through_another_carrier_by_who_still_waits_with_it(
    fake_time: FakeTime,
) -> None:
    firsts, others = FunctionCarriers(), FunctionCarriers()
    jobs = NotedJobs(fake_time.clock)
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    both: dict[str, Any] = {"otp": store, "plivo_calls_per_second": 1, **SETTINGS}
    async with (
        run_carriers(firsts, "vobiz,plivo", fake_time.clock, jobs=jobs, **both) as first,
        run_carriers(others, "vobiz,plivo", fake_time.clock, **both) as other,
    ):
        for phone in ("+14155550144", OTHER_PHONE):
            await first.send(phone)
        await first.send(PHONE, code=CODE)
        firsts.vobiz.trouble = SLOW
        await fake_time.pass_by(PACE_SECONDS / 2)
        for _ in range(FAILURES_TO_OPEN):
            other.app.state.service._router._carriers["vobiz"][1].note_failure(ProviderUnavailable("down"))
        await other.send("+14155550145")
        waiting = asyncio.create_task(other.app.state.service._placer.dial_queued(*jobs.planned))
        await fake_time.pass_by(PACE_SECONDS * 2)
        await waiting
        assert (firsts.placed, others.placed) == (["vobiz", "plivo", "vobiz"], ["plivo"])
        assert (await other.status(PHONE))["provider"] == "vobiz"
        await fake_time.pass_by(12)  # to the end of its dialling, for which a stop would wait


class LateJobs(NotedJobs):
    """Has them done when a test does them."""

    async def plan(self, job: Job, after_seconds: float = 0) -> None:
        self.planned.append(job)


@pytest.mark.parametrize("kind", [NotedJobs, LateJobs])
async def test_a_call_that_is_cancelled_while_it_waits_is_given_back(
    fake_time: FakeTime, kind: type[NotedJobs]
) -> None:
    carriers, jobs = FunctionCarriers(), kind(fake_time.clock)
    limits = {"client_sends_per_hour": 5, **SETTINGS}
    async with run_carriers(carriers, "vobiz", fake_time.clock, jobs=jobs, **limits) as service:
        await service.send(OTHER_PHONE)
        await service.send(PHONE, code=CODE)
        assert sends_counted(service) == 2
        await service.client.post("/cancel-otp", json={"phone": PHONE})
        if kind is LateJobs:
            await service.app.state.service._placer.dial_queued(*jobs.planned)
        await fake_time.pass_by(5)
        assert sends_counted(service) == 1
        assert carriers.placed == ["vobiz"]


async def end_call(service: RunningService, carrier: FunctionCarrier) -> None:
    """Its newest call was busy."""
    token = keep_secret(carrier.orders[-1]["hangup_url"].rsplit("/", 1)[-1])
    body = {"CallUUID": call_id(carrier.requests), "CallStatus": "busy", "HangupCauseCode": "3010"}
    assert (await service.client.post(f"/hangup/{token}", data=body)).status_code == 200


async def test_a_redial_that_two_workers_try_is_one_call_and_counted_once(fake_time: FakeTime) -> None:
    firsts, others = FunctionCarriers(), FunctionCarriers()
    first_jobs, other_jobs = NotedJobs(fake_time.clock), NotedJobs(fake_time.clock)
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    both = {"otp": store, "redial_on": "busy", "client_sends_per_hour": 5, "otp_secret": OTP_SECRET}
    async with (
        run_carriers(firsts, "vobiz", fake_time.clock, jobs=first_jobs, **both) as first,
        run_carriers(others, "vobiz", fake_time.clock, jobs=other_jobs, **both) as other,
    ):
        await first.send(PHONE, code=CODE)
        await end_call(first, firsts.vobiz)
        (planned,) = first_jobs.planned
        await other_jobs.plan(planned, 30)  # as after a worker that was taken for dead
        fake_time.advance(31)
        await asyncio.gather(first_jobs.do_due(), other_jobs.do_due())
        await until(lambda: len(firsts.placed) + len(others.placed) == 2)
        await fake_time.pass_by(5)
        assert len(firsts.placed) + len(others.placed) == 2
        assert sends_counted(first) + sends_counted(other) == 2


async def test_a_redial_is_done_by_any_worker(redis: RedisServer, fake_time: FakeTime) -> None:
    class SoonJobs(RedisJobs):
        async def plan(self, job: Job, after_seconds: float = 0) -> None:
            await super().plan(job)

    firsts, others = FunctionCarriers(), FunctionCarriers()
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    both: dict[str, Any] = {"otp": store, "redial_on": "busy", "otp_secret": OTP_SECRET}
    async with (
        run_carriers(
            firsts, "vobiz", fake_time.clock, jobs=SoonJobs(redis.url, PATIENCE_SECONDS), **both
        ) as first,
        run_carriers(others, "vobiz", fake_time.clock, jobs=SoonJobs(redis.url, PATIENCE_SECONDS), **both),
    ):
        await first.send(PHONE, code=CODE)
        await end_call(first, firsts.vobiz)
        await until(lambda: len(firsts.placed) + len(others.placed) == 2 and not left_in(redis))


async def test_a_stop_waits_for_calls_that_are_being_placed(fake_time: FakeTime) -> None:
    class SlowCarriers(FunctionCarriers):
        is_answering: Callable[[], bool] = staticmethod(lambda: True)

        async def __call__(self, request: httpx.Request) -> httpx.Response:
            answer = await super().__call__(request)
            if len(self.placed) == 2:
                await until(self.is_answering)
            return answer

    carriers, jobs = SlowCarriers(), NotedJobs(fake_time.clock)
    carriers.is_answering = lambda: jobs.is_closed
    store = MemoryOtpStore(SEALER, fake_time.clock, StoreRules())
    both: dict[str, Any] = {"otp": store, "jobs": jobs, **SETTINGS}
    async with run_carriers(carriers, "vobiz", fake_time.clock, **both) as service:
        await service.send(OTHER_PHONE)
        queued = (await service.send(PHONE, code=CODE)).json()
        await fake_time.pass_by(5)
        await until(lambda: len(carriers.placed) == 2)
    record = await store.find_by_id(queued["verification_id"])
    assert record is not None
    assert record.call is not None
    assert record.call.call_id == call_id(2)


def sends_counted(service: RunningService) -> int:
    logs = service.app.state.service._protection.store._logs
    return sum(log.total for name, log in logs.items() if name.startswith("client"))
