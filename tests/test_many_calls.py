"""Many calls at once over real HTTP: none is lost, each code is right once, each answer is quick work."""

import asyncio
from typing import Any

import pytest

from simulator import callbacks
from simulator.callees import SCRIPTED_CALLEES
from tests.conftest import RunningService, run_service

CALLS = 1000


def number(index: int) -> str:
    return f"+9198{index:08d}"


async def place_and_verify(service: RunningService, index: int) -> dict[str, Any]:
    body = {"phone": number(index), "code": f"A{index:07d}"}
    sent = await service.client.post("/send-otp", json=body)
    assert sent.status_code == 200, sent.text
    verified = await service.client.post("/verify-otp", json={"phone": number(index), "otp": body["code"]})
    return dict(verified.json())


async def test_a_thousand_calls_at_once_all_end_spoken_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    # One process plays carrier, service and backend here: let the carrier be as patient as a busy machine needs.
    monkeypatch.setattr(callbacks, "NOTICE_SECONDS", 60)
    monkeypatch.setattr(callbacks, "DOCUMENT_SECONDS", 60)
    async with run_service(provider_deadline_seconds=60) as service:
        service.carrier.stand_in = SCRIPTED_CALLEES["+14155550102"]
        answers = await asyncio.gather(*(place_and_verify(service, index) for index in range(CALLS)))
        assert all(answer["valid"] for answer in answers)
        await service.calls_over()
        statuses = await asyncio.gather(*(service.status(number(index)) for index in range(CALLS)))
    assert {status["status"] for status in statuses} == {"verified"}
    assert {status["call"]["state"] for status in statuses} == {"completed"}
    assert service.carrier.requests == CALLS
    reasons = {record.failure_reason for record in service.carrier.records.values()}
    assert reasons == {""}
