"""The stores over a network that fails: what is told of a right code, and what stays counted.

A real server, and between it and the store a proxy that swallows, cuts and delays.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clock import Clock
from limit_rules import Charge, Reservation, Window, rule
from number_failures import NO_FAILURES, NumberLocked
from number_page import Outcome
from otp_store import OtpStore, StoreFull, StoreUnavailable
from redis_clock import SharedClock
from redis_connection import Redis
from redis_link import RedisLimits
from settings import load_settings
from stores import Stores, open_stores
from tests.conftest import NO_LIMITS, OTP_SECRET, PATIENCE_SECONDS, keep_secret
from tests.fault_proxy import FaultProxy
from tests.redis_servers import RedisServer, free_port
from tests.store_cases import NEW_CALL, new_code

PHONE, CODE = keep_secret("+14155550142"), keep_secret("610389")
WRONG = "000000"
FEW = rule("few", Window(3, 3600))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Stores]:
    settings = load_settings(redis_url=url, otp_secret=OTP_SECRET, **NO_LIMITS)
    stores = open_stores(settings, Clock())
    await stores.open()
    try:
        yield stores
    finally:
        await stores.close()


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def stores(proxy: FaultProxy) -> AsyncIterator[Stores]:
    async with opened(proxy.url) as stores:
        await stores.otp.begin("shop", PHONE, new_code(CODE), NEW_CALL)
        await stores.guard.reserve([Charge(FEW, "warm-up")])  # the server knows the scripts
        yield stores


async def check(store: OtpStore, candidate: str, attempt: str) -> Outcome | None:
    """None: the store could not answer."""
    try:
        return (await store.check("shop", PHONE, candidate, attempt)).outcome
    except StoreUnavailable:
        return None


async def at_last(ask: Callable[[], Awaitable[Outcome | None]]) -> Outcome:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (outcome := await ask()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the connection is being made anew
    return outcome


async def lose_the_reply(proxy: FaultProxy) -> None:
    proxy.to_client.is_black_hole = True
    await proxy.to_client.swallowed()


async def cut_after_it_was_done(proxy: FaultProxy) -> None:
    await lose_the_reply(proxy)
    heal(proxy)
    proxy.reset()


async def lose_the_request(proxy: FaultProxy) -> None:
    proxy.to_server.is_black_hole = True
    await proxy.to_server.swallowed()


async def cut_before_it_was_done(proxy: FaultProxy) -> None:
    await lose_the_request(proxy)
    heal(proxy)
    proxy.reset()


async def go_without_a_word(proxy: FaultProxy) -> None:
    proxy.half_open()


async def deliver_in_pieces(proxy: FaultProxy) -> None:
    proxy.to_server.slice_bytes = proxy.to_client.slice_bytes = 7


async def delay(proxy: FaultProxy) -> None:
    proxy.to_server.latency_seconds, proxy.to_client.bytes_per_second = 0.05, 1000


def heal(proxy: FaultProxy) -> None:
    proxy.black_hole(is_on=False)


Fault = Callable[[FaultProxy], Coroutine[Any, Any, None]]
DONE: list[Fault] = [lose_the_reply, cut_after_it_was_done, deliver_in_pieces, delay]
NOT_DONE: list[Fault] = [lose_the_request, cut_before_it_was_done, go_without_a_word]


async def check_during(
    fault: Fault, stores: Stores, proxy: FaultProxy, candidate: str, attempt: str
) -> Outcome | None:
    making = asyncio.create_task(fault(proxy))
    await asyncio.sleep(0)  # the fault waits for the request
    outcome = await check(stores.otp, candidate, attempt)
    await making
    heal(proxy)
    return outcome


def named(fault: Fault) -> str:
    return getattr(fault, "__name__", "?").replace("_", " ")


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE], ids=named)
async def test_a_right_code_with_a_named_attempt_is_right_however_the_network_fails(
    fault: Fault, stores: Stores, proxy: FaultProxy
) -> None:
    first = await check_during(fault, stores, proxy, CODE, "attempt-1")
    assert first in (Outcome.CORRECT, None)
    assert await at_last(lambda: check(stores.otp, CODE, "attempt-1")) is Outcome.CORRECT
    assert await check(stores.otp, CODE, "attempt-2") is Outcome.NOT_FOUND


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE], ids=named)
async def test_a_right_code_without_a_name_is_right_once_unless_the_word_of_it_was_lost(
    fault: Fault, stores: Stores, proxy: FaultProxy
) -> None:
    first = await check_during(fault, stores, proxy, CODE, "")
    assert first in (Outcome.CORRECT, None)
    again = await at_last(lambda: check(stores.otp, CODE, ""))
    was_lost = fault in DONE and first is None  # done, and neither the reply nor that of a repeat came
    expected = Outcome.NOT_FOUND if was_lost or first is Outcome.CORRECT else Outcome.CORRECT
    assert again is expected
    record = await stores.otp.find("shop", PHONE)
    assert record is not None
    assert record.attempts_left == 4  # the one that was right


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE], ids=named)
async def test_a_wrong_code_is_counted_once_however_often_it_comes(
    fault: Fault, stores: Stores, proxy: FaultProxy
) -> None:
    await check_during(fault, stores, proxy, WRONG, "attempt-1")
    for _ in range(2):
        assert await at_last(lambda: check(stores.otp, WRONG, "attempt-1")) is Outcome.INCORRECT
    record = await stores.otp.find("shop", PHONE)
    assert record is not None
    assert record.attempts_left == 4
    assert await check(stores.otp, CODE, "attempt-2") is Outcome.CORRECT


async def test_a_cut_connection_is_not_felt_where_the_server_can_tell_what_became_of_it(
    proxy: FaultProxy, stores: Stores
) -> None:
    """One of a few cuts at the least: how soon the next connection stands is up to the machine."""
    outcomes = set()
    for number in range(10):
        outcomes.add(await check_during(cut_after_it_was_done, stores, proxy, WRONG, f"attempt-{number}"))
        await at_last(lambda: check(stores.otp, "999999", "last"))
        if Outcome.INCORRECT in outcomes:
            break
    assert Outcome.INCORRECT in outcomes


async def test_a_limit_whose_reply_was_lost_counts_too_much_and_never_too_little(
    proxy: FaultProxy, stores: Stores
) -> None:
    charge = Charge(FEW, "client")
    making = asyncio.create_task(lose_the_reply(proxy))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await stores.guard.reserve([charge])
    await making
    heal(proxy)
    let_through = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                answer = await stores.guard.reserve([charge])
            except StoreUnavailable:
                await asyncio.sleep(0.01)
                continue
            if not isinstance(answer, Reservation):
                break
            let_through += 1
    assert let_through == 2


async def test_what_is_counted_or_remembered_late_stands_in_nobodys_way(
    redis_server: RedisServer, stores: Stores
) -> None:
    one = rule("one", Window(1, 3600))
    redis_server.pause()
    try:
        late = await asyncio.gather(
            stores.guard.reserve([Charge(one, "client")]),
            stores.guard.remember("key", b"first", 90),
            return_exceptions=True,
        )
    finally:
        redis_server.resume()
    assert [type(answer) for answer in late] == [StoreUnavailable] * 2

    async def again() -> Outcome | None:
        return await check(stores.otp, CODE, "attempt-1")

    assert await at_last(again) is Outcome.CORRECT  # the store is back
    assert isinstance(await stores.guard.reserve([Charge(one, "client")]), Reservation)
    assert await stores.guard.remember("key", b"second", 90) is None


async def test_a_write_that_arrives_late_changes_nothing(
    redis_server: RedisServer, stores: Stores, proxy: FaultProxy
) -> None:
    redis_server.pause()
    try:
        assert await check(stores.otp, CODE, "attempt-1") is None
    finally:
        redis_server.resume()
    assert await at_last(lambda: check(stores.otp, CODE, "attempt-2")) is Outcome.CORRECT


async def test_a_clock_that_was_read_over_a_slow_way_lengthens_no_write(
    redis_server: RedisServer, proxy: FaultProxy
) -> None:
    redis = Redis(proxy.url, Clock(), RedisLimits(operation_seconds=PATIENCE_SECONDS))
    await redis.open()
    direct = Redis(redis_server.url, Clock())
    await direct.open()
    try:
        skewed, good = SharedClock(redis, Clock()), SharedClock(direct, Clock())
        proxy.to_server.latency_seconds = 0.2
        await skewed.sync()
        await good.sync()
        latest = skewed.server_now() - skewed.uncertain_seconds
        assert latest <= good.server_now() + good.uncertain_seconds
    finally:
        await redis.close()
        await direct.close()


def test_a_free_failure_costs_no_wait_by_any_clock() -> None:
    failures = NO_FAILURES
    for _ in range(4):
        failures = failures.one_more(20, now=1000.0)
        failures.refuse_waiting(now=999.0)
    with pytest.raises(NumberLocked):
        failures.one_more(20, now=1000.0).refuse_waiting(now=1029.0)


async def test_a_full_store_evaluates_nothing(redis_server: RedisServer, stores: Stores) -> None:
    with redis_server.client() as admin:
        admin.config_set("maxmemory", 1)
        try:
            for number in range(20):
                with pytest.raises(StoreFull):
                    await stores.otp.check("shop", PHONE, f"{number:06d}", "")
            with pytest.raises(StoreFull):
                await stores.otp.check("shop", PHONE, CODE, "")
            with pytest.raises(StoreFull):
                await stores.guard.reserve([Charge(FEW, "client")])
        finally:
            admin.config_set("maxmemory", 0)
    checked = await stores.otp.check("shop", PHONE, CODE, "")
    assert checked.outcome is Outcome.CORRECT
    assert checked.record is not None
    assert checked.record.attempts_left == 4


async def test_a_store_that_was_lost_at_the_start_is_found_later() -> None:
    port = free_port()
    async with opened(f"redis://127.0.0.1:{port}/0") as stores:
        keeping = asyncio.create_task(stores.keep())
        with pytest.raises(StoreUnavailable):
            await stores.otp.find("shop", PHONE)
        with RedisServer(port=port):
            assert await at_last(lambda: check(stores.otp, CODE, "")) is Outcome.NOT_FOUND
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
