"""Placing calls over HTTP: failover on proof, patience without it, queues, and what is counted."""

import asyncio
from typing import Any

import httpx
import pytest

from carrier_line import PACE_SECONDS
from carrier_trouble import FAILURES_TO_OPEN, OPEN_SECONDS
from dialer import ASK_SHARE, ATTEMPT_SHARE, GRACE_SHARE
from tests.conftest import FakeTime, RunningService, keep_secret
from tests.function_carriers import REFUSED, SLOW, FunctionCarrier, FunctionCarriers, call_id, run_carriers
from voice_provider import ProviderUnavailable

PHONE, OTHER_PHONE = "+14155550142", "+14155550143"
CODE = keep_secret("CANARY610")
DEADLINE_SECONDS = 10.0  # of one request, by default


@pytest.fixture
def carriers() -> FunctionCarriers:
    return FunctionCarriers()


@pytest.fixture(autouse=True)
def _no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)


def events_of(status: dict[str, Any]) -> list[str]:
    return [entry["event"] for entry in status["timeline"]]


def token_of(order: dict[str, Any]) -> str:
    """The call token in the URLs that a carrier was given."""
    url = order.get("answer_url") or order["callback-url"]
    return keep_secret(url.split("?")[0].split("/")[-1])


async def post_event(
    service: RunningService, carrier: FunctionCarrier, path: str, **fields: str
) -> httpx.Response:
    """A callback of Vobiz about its newest call."""
    body = {"CallUUID": call_id(carrier.requests), **fields}
    return await service.client.post(f"{path}/{token_of(carrier.orders[-1])}", data=body)


async def until(fake_time: FakeTime, task: "asyncio.Task[httpx.Response]", seconds: float = 12) -> httpx.Response:
    """Let time pass in small steps until an answer has come, so long at the most."""
    give_up_at = fake_time.seconds + seconds
    while not task.done() and fake_time.seconds < give_up_at:
        await fake_time.pass_by(0.05)
    assert task.done(), "no answer in time"
    return task.result()


def take_down(service: RunningService, name: str) -> None:
    for _ in range(FAILURES_TO_OPEN):
        service.app.state.service._router._carriers[name][1].note_failure(ProviderUnavailable("down"))


def spent(service: RunningService) -> int:
    """What is counted as spent in this hour, in millionths."""
    logs = service.app.state.service._protection.store._logs
    return logs["spending-hour/all"].total if "spending-hour/all" in logs else 0


# Failover on proof

PROOF: list[Any] = [
    pytest.param(REFUSED, id="refused"),
    pytest.param(httpx.ConnectError("[Errno -2] Name or service not known"), id="DNS"),
    pytest.param(httpx.ConnectError("certificate verify failed"), id="TLS"),
    pytest.param(httpx.ConnectTimeout("x"), id="connect time-out"),
    pytest.param(httpx.PoolTimeout("x"), id="no free connection"),
    pytest.param(httpx.Response(400, json={}), id="400"),
    pytest.param(httpx.Response(401, json={}), id="401"),
    pytest.param(httpx.Response(402, json={}), id="402"),
    pytest.param(httpx.Response(403, json={}), id="403"),
    pytest.param(httpx.Response(404, json={}), id="404"),
    pytest.param(httpx.Response(429, json={}), id="429"),
    pytest.param(httpx.Response(429, json={}, headers={"Retry-After": "30"}), id="429 with Retry-After"),
    pytest.param(httpx.Response(503, json={"error": {"code": "SERVICE_UNAVAILABLE"}}), id="503 of the API"),
]
NO_PROOF: list[Any] = [
    pytest.param(SLOW, id="read time-out"),
    pytest.param(httpx.WriteTimeout("x"), id="write time-out"),
    pytest.param(httpx.ReadError("x"), id="connection broke"),
    pytest.param(httpx.RemoteProtocolError("x"), id="no HTTP"),
    pytest.param(httpx.Response(408), id="408"),
    pytest.param(httpx.Response(504, text="<html>gateway time-out</html>"), id="504 of a gateway"),
    pytest.param(httpx.Response(500, json={"request_uuid": "x"}), id="500 that names a call"),
    pytest.param(httpx.Response(200, text="junk"), id="junk"),
]


@pytest.mark.parametrize("trouble", PROOF)
async def test_what_proves_that_nothing_was_dialled_moves_the_call_to_the_next_carrier(
    carriers: FunctionCarriers, fake_time: FakeTime, trouble: Any
) -> None:
    carriers.vobiz.trouble = trouble
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        sent = await service.send(PHONE, code=CODE)
        answer = sent.json()
        assert (sent.status_code, answer["status"], answer["provider"]) == (200, "call_initiated", "plivo")
        assert answer["call_uuid"] == call_id(1)
        assert carriers.placed == ["vobiz", "plivo"]
        status = await service.status(PHONE)
        assert events_of(status) == ["created", "dialing", "failed_over", "dialing"]
        assert (status["provider"], status["status"], status["call"]["call_uuid"]) == (
            "plivo",
            "calling",
            call_id(1),
        )
        assert token_of(carriers.vobiz.orders[0]) != token_of(carriers.plivo.orders[0])
        late = await post_event(service, carriers.vobiz, "/answer", Event="StartApp")
        assert CODE[0] not in late.text
        assert (await service.verify(PHONE, CODE)).json()["valid"] is True


async def test_the_last_carrier_is_reached_past_all_others(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble, carriers.plivo.trouble = REFUSED, httpx.Response(402, json={})
    async with run_carriers(carriers, "vobiz,plivo,cm", fake_time.clock) as service:
        assert (await service.send(PHONE)).json()["provider"] == "cm"
        assert carriers.placed == ["vobiz", "plivo", "cm"]
        expected = ["created", "dialing", "failed_over", "dialing", "failed_over", "dialing", "code_handed_over"]
        assert events_of(await service.status(PHONE)) == expected


async def test_when_none_takes_it_the_most_hopeful_reason_is_told_and_the_number_is_free(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = httpx.Response(429, json={}, headers={"Retry-After": "7"})
    carriers.plivo.trouble = httpx.Response(400, json={})
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        refused = await service.send(PHONE)
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_throttled")
        assert refused.headers["retry-after"] == "7"
        status = await service.status(PHONE)
        assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "failed")
        carriers.plivo.trouble = None
        assert (await service.send(PHONE)).json()["provider"] == "plivo"


async def test_the_next_carrier_may_have_no_turn_but_the_one_after_it(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = REFUSED
    carriers.plivo.trouble = REFUSED
    async with run_carriers(carriers, "plivo,vobiz,cm", fake_time.clock) as service:
        for number in range(FAILURES_TO_OPEN):
            await service.send(f"+1415555{number:04}", provider="vobiz")
        carriers.placed.clear()
        assert (await service.send(PHONE)).json()["provider"] == "cm"
        assert carriers.placed == ["plivo", "cm"]


# Nothing is proven


@pytest.mark.parametrize("trouble", NO_PROOF)
async def test_what_may_have_dialled_moves_nothing_while_the_carrier_can_still_tell(
    carriers: FunctionCarriers, fake_time: FakeTime, trouble: Any
) -> None:
    carriers.vobiz.trouble = trouble
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        sending = asyncio.create_task(service.send(PHONE, code=CODE))
        await carriers.vobiz.was_asked.wait()
        await fake_time.pass_by(GRACE_SHARE * DEADLINE_SECONDS - 1)
        assert not sending.done()
        assert carriers.placed == ["vobiz"]
        await post_event(service, carriers.vobiz, "/ring", Event="Ring")
        sent = await until(fake_time, sending)
        assert (sent.status_code, sent.json()["provider"], sent.json()["call_uuid"]) == (200, "vobiz", call_id(1))
        await fake_time.pass_by(60)
        assert carriers.placed == ["vobiz"], "one call, whatever comes later"
        assert "failed_over" not in events_of(await service.status(PHONE))


async def test_a_carrier_that_knows_no_such_call_is_followed_by_the_next_one_in_time(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = SLOW
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        started = fake_time.seconds
        sending = asyncio.create_task(service.send(PHONE, code=CODE))
        await carriers.vobiz.was_asked.wait()
        sent = await until(fake_time, sending)
        assert (sent.status_code, sent.json()["provider"]) == (200, "plivo")
        assert fake_time.seconds - started <= DEADLINE_SECONDS
        assert carriers.placed == ["vobiz", "plivo"]
        assert carriers.vobiz.asked, "it was asked first"
        assert events_of(await service.status(PHONE)) == ["created", "dialing", "failed_over", "dialing"]


async def test_a_call_that_turns_up_after_it_was_given_up_is_hung_up(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = SLOW
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        sending = asyncio.create_task(service.send(PHONE, code=CODE))
        await carriers.vobiz.was_asked.wait()
        await until(fake_time, sending)
        await post_event(service, carriers.vobiz, "/ring", Event="Ring")
        assert [path.split("/")[-2] for path in carriers.vobiz.hung_up] == [call_id(1)]
        late = await post_event(service, carriers.vobiz, "/answer", Event="StartApp")
        assert CODE[0] not in late.text, "it does not hear the code"
        assert (await service.status(PHONE))["provider"] == "plivo"


async def test_a_call_that_the_carrier_knows_of_is_kept(carriers: FunctionCarriers, fake_time: FakeTime) -> None:
    carriers.vobiz.trouble = SLOW
    found = call_id(77)

    def knows_it(request: httpx.Request) -> httpx.Response:
        is_list = request.url.path.endswith("/Call/")
        return httpx.Response(200, json={"calls": [found]} if is_list else {"to": PHONE[1:]})

    carriers.vobiz.find = knows_it
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        sending = asyncio.create_task(service.send(PHONE))
        await carriers.vobiz.was_asked.wait()
        sent = await until(fake_time, sending)
        assert (sent.json()["provider"], sent.json()["call_uuid"]) == ("vobiz", found)
        assert carriers.placed == ["vobiz"]


async def test_a_carrier_that_tells_nothing_of_a_call_never_gets_a_second_one_beside_it(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.cm.trouble = SLOW
    async with run_carriers(carriers, "cm,vobiz,plivo", fake_time.clock) as service:
        sending = asyncio.create_task(service.send(PHONE, code=CODE))
        await carriers.cm.was_asked.wait()
        sent = await until(fake_time, sending)
        assert (sent.status_code, sent.json()["status"], sent.json()["provider"]) == (
            202,
            "call_unconfirmed",
            "cm",
        )
        again = await service.send(PHONE)
        assert (again.status_code, again.json()["deduplicated"]) == (200, True)
        assert carriers.placed == ["cm"]
        finished = {"call-id": call_id(1), "result": {"code": 10, "description": "Finished successfully"}}
        token = token_of(carriers.cm.orders[0])
        fake_time.advance(60)
        assert (await service.client.post(f"/events/{token}", json=finished)).status_code == 200
        assert (await service.status(PHONE))["call"]["state"] == "completed"


async def test_cancelled_while_a_carrier_is_listened_for_is_placed_by_nobody_else(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = SLOW
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        sending = asyncio.create_task(service.send(PHONE, code=CODE))
        await carriers.vobiz.was_asked.wait()
        assert (await service.client.post("/cancel-otp", json={"phone": PHONE})).status_code == 200
        assert (await until(fake_time, sending)).status_code == 202
        assert carriers.placed == ["vobiz"]


async def test_one_deadline_holds_for_all_carriers_together(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = carriers.plivo.trouble = SLOW
    started = fake_time.seconds

    def answer_late() -> None:
        carriers.placed.append("plivo")
        fake_time.advance(started + DEADLINE_SECONDS - 0.3 - fake_time.seconds)

    carriers.plivo.on_order = answer_late
    async with run_carriers(carriers, "vobiz,plivo,cm", fake_time.clock) as service:
        sending = asyncio.create_task(service.send(PHONE))
        await carriers.vobiz.was_asked.wait()
        sent = await until(fake_time, sending)
        assert fake_time.seconds - started <= DEADLINE_SECONDS
        assert sent.status_code == 202
        assert carriers.placed == ["vobiz", "plivo"], "cm could not have answered in time"
        assert service.app.state.service._router._carriers["cm"][1].health().trouble is None


async def test_no_turn_is_waited_for_that_leaves_its_carrier_no_time_to_answer(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        carriers.plivo.trouble = httpx.Response(429, json={}, headers={"Retry-After": "10"})
        await service.send(OTHER_PHONE, provider="plivo")
        carriers.plivo.trouble = None
        fake_time.advance(0.2)  # its next turn comes within the deadline, but too late to be of use
        carriers.vobiz.trouble = httpx.Response(400, json={})
        assert (await service.send(PHONE)).status_code == 502
        assert carriers.plivo.requests == 1


def test_the_shares_of_the_deadline_leave_time_for_another_carrier() -> None:
    assert ATTEMPT_SHARE < GRACE_SHARE < GRACE_SHARE + ASK_SHARE < 1


# The queue

PACED = {"vobiz_calls_per_second": 1}


async def fill(service: RunningService, count: int = 1) -> list[httpx.Response]:
    """Calls to other numbers, of which the first one takes this second's turn."""
    return [await service.send(f"+1415555{number:04}") for number in range(200, 200 + count)]


async def test_a_queued_call_says_so_and_is_placed_in_its_turn(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await fill(service)
        sent = await service.send(PHONE, code=CODE)
        answer = sent.json()
        assert (sent.status_code, answer["status"], answer["provider"]) == (202, "queued", "vobiz")
        assert "call_uuid" not in answer
        early = await service.status(PHONE)
        assert (early["status"], early["call"]["state"]) == ("calling", "queued")
        assert early["call"]["call_uuid"] is None
        await fake_time.pass_by(PACE_SECONDS)
        placed = await service.status(PHONE)
        assert (placed["call"]["state"], placed["call"]["call_uuid"]) == ("dialing", call_id(2))
        assert events_of(placed) == ["created", "queued", "dialing"]


async def test_a_resend_while_queued_is_the_same_call(carriers: FunctionCarriers, fake_time: FakeTime) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await fill(service)
        first = (await service.send(PHONE)).json()
        again = await service.send(PHONE)
        assert (again.status_code, again.json()["status"], again.json()["deduplicated"]) == (202, "queued", True)
        assert again.json()["verification_id"] == first["verification_id"]
        await fake_time.pass_by(30)
        assert carriers.vobiz.callees.count(PHONE) == 1


async def test_a_queued_answer_is_kept_under_its_idempotency_key(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await fill(service)
        headers, body = {"Idempotency-Key": "key-1"}, {"phone": keep_secret(PHONE)}
        first = await service.client.post("/send-otp", json=body, headers=headers)
        await fake_time.pass_by(30)
        again = await service.client.post("/send-otp", json=body, headers=headers)
        assert (first.status_code, again.status_code, again.text) == (202, 202, first.text)
        assert again.headers["idempotent-replayed"] == "true"
        assert carriers.vobiz.callees.count(PHONE) == 1


@pytest.mark.parametrize("way", ["cancel", "verify"])
async def test_a_code_that_is_worthless_before_its_turn_is_not_called_out(
    carriers: FunctionCarriers, fake_time: FakeTime, way: str
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await fill(service)
        await service.send(PHONE, code=CODE)
        await service.send(OTHER_PHONE)
        if way == "cancel":
            answer = await service.client.post("/cancel-otp", json={"phone": PHONE})
            assert answer.json()["status"] == "cancelled"
        else:
            assert (await service.verify(PHONE, CODE)).json()["valid"] is True
        again = await service.send(PHONE)
        assert (again.status_code, again.json().get("deduplicated")) == (202, None), "the number is free"
        await fake_time.pass_by(60)
        assert carriers.vobiz.callees[1:] == [OTHER_PHONE, PHONE]
        assert carriers.vobiz.requests == 3


async def test_no_call_is_placed_after_half_of_its_codes_life(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await fill(service)
        await service.send(PHONE, ttl_seconds=60)
        await service.send(OTHER_PHONE, ttl_seconds=60)
        carriers.vobiz.trouble = httpx.Response(429, json={}, headers={"Retry-After": "300"})
        await fake_time.pass_by(
            PACE_SECONDS
        )  # the first of the two is refused: the carrier wants to be left alone
        carriers.vobiz.trouble = None
        await fake_time.pass_by(29)
        dropped = await service.status(OTHER_PHONE)
        assert (dropped["status"], dropped["call"]["state"]) == ("undelivered", "completed")
        assert (dropped["call"]["end_reason"], dropped["call"]["hangup_cause"]) == ("failed", "queue_timeout")
        await fake_time.pass_by(600)
        assert OTHER_PHONE not in carriers.vobiz.callees


async def test_calls_whose_turn_does_not_come_are_not_placed_all_at_once_at_the_end(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, vobiz_concurrent_calls=1) as service:
        await fill(service, 10)
        assert carriers.vobiz.requests == 1
        await fake_time.pass_by(40)  # until the first call is asked about; nothing else comes of it
        assert carriers.vobiz.requests == 1


async def test_an_expired_code_is_not_called_out(carriers: FunctionCarriers, fake_time: FakeTime) -> None:
    """A resend joins a queue with what is left of its code's life, which may be less than the queue is long."""
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await service.send(PHONE, ttl_seconds=30)
        await post_event(service, carriers.vobiz, "/hangup", Event="Hangup", HangupCause="USER_BUSY")
        await fake_time.pass_by(20)
        await fill(service, 20)
        assert (await service.send(PHONE)).status_code == 503
        await fake_time.pass_by(60)
        status = await service.status(PHONE)
        assert (status["status"], status["call"]["state"]) == ("expired", "completed")
        assert carriers.vobiz.callees.count(PHONE) == 1


async def test_calls_that_wait_for_a_carrier_that_goes_down_are_placed_by_another_one(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    paces = {**PACED, "plivo_calls_per_second": 1}
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock, **paces) as service:
        await fill(service, 2)  # one each: both are busy
        queued = (await service.send(PHONE, code=CODE)).json()
        assert (queued["status"], queued["provider"]) == ("queued", "vobiz")
        take_down(service, "vobiz")
        await fake_time.pass_by(PACE_SECONDS)
        status = await service.status(PHONE)
        assert (status["provider"], status["call"]["call_uuid"]) == ("plivo", call_id(2))
        assert carriers.placed == ["vobiz", "plivo", "plivo"], "who is down is not asked"
        assert events_of(status) == ["created", "queued", "dialing", "failed_over", "dialing"]


async def test_calls_that_wait_for_the_only_carrier_wait_on_while_it_is_down(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await fill(service)
        for phone in (PHONE, OTHER_PHONE):
            assert (await service.send(phone)).status_code == 202
        take_down(service, "vobiz")
        await fake_time.pass_by(OPEN_SECONDS - 1)
        assert carriers.vobiz.requests == 1
        await fake_time.pass_by(1 + 2 * PACE_SECONDS)
        assert carriers.vobiz.callees[1:] == [PHONE, OTHER_PHONE]


async def test_at_the_end_queued_calls_are_dropped_and_nobody_is_called(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PACED) as service:
        await fill(service, 5)
    await fake_time.pass_by(60)
    assert carriers.vobiz.requests == 1
    waiting = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(("turns", "queued"))]
    assert waiting == []


# What is counted

PRICED: dict[str, Any] = {"call_prices": "max=1", "spend_per_hour": "3", "client_sends_per_hour": 100}


async def test_a_call_that_moves_from_carrier_to_carrier_is_paid_for_once(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = httpx.Response(400, json={})
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock, **PRICED) as service:
        answers = [await service.send(f"+1415555{number:04}") for number in range(300, 306)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429, 429]
        assert answers[3].json()["code"] == "spending_limit_reached"
        assert carriers.plivo.requests == 3


async def test_a_call_that_nobody_took_costs_nothing_but_a_part_of_the_clients_quota(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = carriers.plivo.trouble = httpx.Response(400, json={})
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock, **PRICED) as service:
        answers = [await service.send(f"+1415555{number:04}") for number in range(300, 306)]
        assert {answer.status_code for answer in answers} == {502}
        assert spent(service) == 0
        carriers.plivo.trouble = None
        sent = await service.send(PHONE)
        assert (sent.status_code, "r=93" in sent.headers["ratelimit"]) == (200, True)


async def test_queued_calls_are_paid_for_when_they_are_queued_and_paid_back_when_they_are_dropped(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PRICED, **PACED) as service:
        answers = await fill(service, 5)
        assert [answer.status_code for answer in answers] == [200, 202, 202, 429, 429]
        assert spent(service) == 3_000_000
        await service.client.post("/cancel-otp", json={"phone": "+14155550201"})
        await fake_time.pass_by(2 * PACE_SECONDS)
        assert (carriers.vobiz.requests, spent(service)) == (2, 2_000_000)
        assert (await service.send(PHONE)).status_code in (200, 202)
        assert (await service.send(OTHER_PHONE)).status_code == 429


async def test_a_call_that_may_have_been_placed_stays_paid_for(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.cm.trouble = SLOW
    async with run_carriers(carriers, "cm", fake_time.clock, **PRICED) as service:
        assert (await service.send(PHONE)).status_code == 202
        assert spent(service) == 1_000_000


async def test_a_refused_turn_costs_nothing(carriers: FunctionCarriers, fake_time: FakeTime) -> None:
    carriers.vobiz.trouble = REFUSED
    async with run_carriers(carriers, "vobiz", fake_time.clock, **PRICED) as service:
        for number in range(300, 300 + FAILURES_TO_OPEN):
            await service.send(f"+1415555{number:04}")
        refused = await service.send(PHONE)
        assert (refused.status_code, spent(service), carriers.vobiz.requests) == (503, 0, FAILURES_TO_OPEN)
        assert "r=95" in (await service.send(PHONE)).headers.get("ratelimit", "r=95")


async def test_a_country_that_may_not_be_called_closes_no_carrier_for_the_others(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    refused = {"api_id": "1", "error": "no geo permission"}
    carriers.plivo.trouble = httpx.Response(403, json=refused)
    async with run_carriers(carriers, "plivo", fake_time.clock) as service:
        for number in range(300, 300 + FAILURES_TO_OPEN):
            answer = await service.send(f"+1415555{number:04}")
            assert answer.json()["code"] == "call_rejected"
        carriers.plivo.trouble = None
        assert (await service.send(PHONE)).status_code == 200


# Carriers that are told the code up front


async def test_the_code_is_told_once_to_the_carrier_that_takes_the_call(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    carriers.vobiz.trouble = REFUSED
    async with run_carriers(carriers, "vobiz,cm", fake_time.clock) as service:
        await service.send(PHONE, code=CODE)
        told = [order["code"] for order in carriers.cm.orders]
        assert told == [CODE]
        assert CODE not in str(carriers.vobiz.orders)
        assert events_of(await service.status(PHONE)).count("code_handed_over") == 1


async def test_a_queued_call_tells_the_code_of_its_turn_and_not_before(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "cm", fake_time.clock, cm_calls_per_second=1, resend_code="new") as service:
        await fill(service)
        await service.send(PHONE, code=CODE)
        assert "code_handed_over" not in events_of(await service.status(PHONE))
        await fake_time.pass_by(PACE_SECONDS)
        assert carriers.cm.orders[-1]["code"] == CODE
        assert events_of(await service.status(PHONE)).count("code_handed_over") == 1


async def test_a_carrier_that_is_down_is_not_told_the_code(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "cm,vobiz", fake_time.clock) as service:
        take_down(service, "cm")
        assert (await service.send(PHONE, code=CODE)).json()["provider"] == "vobiz"
        assert carriers.cm.orders == []
        assert "code_handed_over" not in events_of(await service.status(PHONE))
