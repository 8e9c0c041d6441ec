"""Many calls at once over real HTTP: none is lost, each code is right once, each answer is quick work."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from simulator.callees import SCRIPTED_CALLEES
from simulator.clock import SimulatorClock
from tests.conftest import run_service

CALLS = 1000
BACKEND_CONNECTIONS = 50


class GatedClock(SimulatorClock):
    """Time that stands still until the gate opens: until then every call keeps ringing."""

    def __init__(self) -> None:
        super().__init__(float("inf"))
        self.gate = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.gate.wait()


def number(index: int) -> str:
    return f"+9198{index:08d}"


async def in_parallel(work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Do the work for every call, over a backend's pool of connections."""
    pool = asyncio.Semaphore(BACKEND_CONNECTIONS)

    async def one(index: int) -> Any:
        async with pool:
            return await work(index)

    return await asyncio.gather(*(one(index) for index in range(CALLS)))


@pytest.mark.untraced
@pytest.mark.timeout(300)
async def test_a_thousand_calls_at_once_all_end_spoken_and_verified() -> None:
    async with run_service() as service:
        clock = service.carrier.clock = GatedClock()
        service.carrier.stand_in = SCRIPTED_CALLEES["+14155550102"]

        async def send(index: int) -> None:
            answer = await service.client.post("/send-otp", json={"phone": number(index), "code": f"A{index:07d}"})
            assert answer.status_code == 200, answer.text

        async def verify(index: int) -> Any:
            body = {"phone": number(index), "otp": f"A{index:07d}"}
            return (await service.client.post("/verify-otp", json=body)).json()["valid"]

        await in_parallel(send)
        assert len(service.carrier.calls) == CALLS, "all of them ring at the same time"
        clock.gate.set()
        await service.calls_over()
        delivered = await in_parallel(lambda index: service.status(number(index)))
        assert await in_parallel(verify) == [True] * CALLS
        verified = await in_parallel(lambda index: service.status(number(index)))
    assert {status["status"] for status in delivered} == {"delivered"}
    assert {status["call"]["end_reason"] for status in delivered} == {"answered_and_spoken"}
    assert {status["call"]["times_spoken"] for status in delivered} == {2}
    assert {status["status"] for status in verified} == {"verified"}
    assert service.carrier.requests == CALLS
    assert {record.failure_reason for record in service.carrier.records.values()} == {""}
