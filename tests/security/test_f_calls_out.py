"""F: calls out. One intent is one call at the most, whatever fails on the way."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import setting_values
from carrier_line import PACE_SECONDS
from carrier_trouble import FAILURES_TO_OPEN, OPEN_SECONDS
from guard_store import MemoryGuardStore
from idempotency import IdempotencyKeys, KeyReused
from otp_store import StoreFull, StoreUnavailable
from tests.conftest import FakeTime, RunningService, keep_secret, most_in_a_second
from tests.function_carriers import FunctionCarriers, run_carriers
from tests.security.attackers import flood, numbers, sends
from tests.security.hand_carrier import CODE, NORMAL_END, TWICE, Call, HandCarrier, run_vobiz, spoken, start_call

PHONE = "+14155550142"
OTHER_PHONE = "+14155550143"
SHOP, BANK = keep_secret("shop-key-CANARY-0123456789abcdef"), keep_secret("bank-key-CANARY-0123456789abcdef")
KEYS = {"api_keys": f"shop:{SHOP},bank:{BANK}"}


@pytest.fixture
def carrier() -> HandCarrier:
    return HandCarrier()


async def send(
    service: RunningService, idempotency_key: str | None, phone: str = PHONE, api_key: str = SHOP, **fields: Any
) -> httpx.Response:
    keep_secret(phone)
    headers = {"Authorization": f"Bearer {api_key}"}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    return await service.client.post("/send-otp", json={"phone": phone, "code": CODE, **fields}, headers=headers)


# F1: Idempotency-Key


async def test_f1_a_hundred_requests_at_once_with_one_key_are_one_call(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        answers = await asyncio.gather(*(send(service, "key-1") for _ in range(100)))
        assert carrier.calls == 1
        done = [answer for answer in answers if answer.status_code == 200]
        waiting = [answer for answer in answers if answer.status_code != 200]
        assert len({answer.text for answer in done}) == 1
        assert [answer.headers.get("idempotent-replayed") for answer in done].count(None) == 1
        for answer in waiting:
            assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_progress")
            assert int(answer.headers["retry-after"]) >= 1
        later = await send(service, "key-1")
        assert (later.text, later.headers["idempotent-replayed"]) == (done[0].text, "true")


async def test_f1_a_request_that_still_runs_is_a_conflict_and_not_a_second_call(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    class Slow(HandCarrier):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            answer = await super().__call__(request)
            asked.set()
            await go_on.wait()
            return answer

    carrier = Slow()
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        first = asyncio.create_task(send(service, "key-1"))
        await asked.wait()
        again = await send(service, "key-1")
        assert (again.status_code, again.json()["code"]) == (409, "idempotency_in_progress")
        other = await send(service, "key-1", OTHER_PHONE)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")
        go_on.set()
        assert (await first).status_code == 200
        assert (await send(service, "key-1")).text == (await first).text
        assert carrier.calls == 1


@pytest.mark.parametrize(
    "change", [{"phone": OTHER_PHONE}, {"language": "en-GB"}, {"code": "CANARY611"}, {"reference": "order-2"}]
)
async def test_f1_another_body_under_a_key_is_refused(
    carrier: HandCarrier, fake_time: FakeTime, change: dict[str, str]
) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        await send(service, "key-1")
        answer = await send(service, "key-1", **change)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")
        assert carrier.calls == 1


async def test_f1_another_spelling_of_the_same_request_is_the_same_request(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        first = await send(service, "key-1")
        body = b'{"code": "CANARY610" , "phone":"+1 (415) 555-0142"}'
        headers = {
            "Authorization": f"Bearer {SHOP}",
            "Idempotency-Key": "key-1",
            "Content-Type": "application/json",
        }
        again = await service.client.post("/send-otp", content=body, headers=headers)
        assert (again.text, again.headers["idempotent-replayed"]) == (first.text, "true")


async def test_f1_keys_belong_to_their_client(carrier: HandCarrier, fake_time: FakeTime) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        first = await send(service, "key-1")
        other = await send(service, "key-1", OTHER_PHONE, BANK)
        assert other.status_code == 200
        assert other.json()["verification_id"] != first.json()["verification_id"]
        assert carrier.calls == 2


async def test_f1_an_answer_is_kept_for_24_hours(carrier: HandCarrier, fake_time: FakeTime) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        first = await send(service, "key-1")
        await Call(service, carrier, PHONE).post("/hangup/{token}", **NORMAL_END)
        store = service.app.state.service._protection.store
        fake_time.advance(24 * 3600 - 1)
        await store.expire()
        again = await send(service, "key-1")
        assert (again.text, carrier.calls) == (first.text, 1)
        fake_time.advance(2)
        await store.expire()
        assert store._remembered == {}
        assert (await send(service, "key-1")).json()["verification_id"] != first.json()["verification_id"]
        assert carrier.calls == 2


async def test_f1_an_unconfirmed_call_is_an_answer_that_is_kept_too(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    carrier.trouble = httpx.ReadTimeout("no answer in time")
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        first = await send(service, "key-1")
        again = await send(service, "key-1")
        assert (first.status_code, again.status_code, again.text) == (202, 202, first.text)
        assert carrier.calls == 1


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(httpx.ConnectError("no connection"), id="unreachable"),
        pytest.param(httpx.Response(402, json={"error": {"code": "INSUFFICIENT_BALANCE"}}), id="refused"),
        pytest.param(httpx.Response(429, json={"error": {"code": "RATE_LIMIT_EXCEEDED"}}), id="throttled"),
    ],
)
async def test_f1_a_key_is_forgotten_when_nothing_was_dialled(
    carrier: HandCarrier, fake_time: FakeTime, trouble: Exception | httpx.Response
) -> None:
    carrier.trouble = trouble
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        assert (await send(service, "key-1")).status_code in (502, 503)
        carrier.trouble = None
        fake_time.advance(1)  # what the carrier asked for when it throttled
        again = await send(service, "key-1")
        assert again.status_code == 200
        assert "idempotent-replayed" not in again.headers
        assert carrier.calls == 2, "asked twice, dialled once"


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "\t"])
async def test_f1_a_key_of_another_form_is_refused(carrier: HandCarrier, fake_time: FakeTime, key: str) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        given: Any = {"Authorization": f"Bearer {SHOP}", "Idempotency-Key": key.encode("latin-1")}
        answer = await service.client.post("/send-otp", json={"phone": PHONE}, headers=given)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        assert carrier.calls == 0


async def test_f1_a_key_that_is_given_twice_is_refused(carrier: HandCarrier, fake_time: FakeTime) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        headers = [("Authorization", f"Bearer {SHOP}"), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
        answer = await service.client.post("/send-otp", json={"phone": PHONE}, headers=headers)
        assert answer.status_code == 400
        assert carrier.calls == 0


async def test_f1_keys_of_255_characters_are_told_apart_to_the_last_one(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        assert (await send(service, "x" * 255)).status_code == 200
        assert (await send(service, "x" * 254 + "y", OTHER_PHONE)).status_code == 200
        assert carrier.calls == 2


async def test_f1_keys_are_bounded_and_never_evicted_while_they_count(fake_time: FakeTime) -> None:
    store = MemoryGuardStore(fake_time.clock, capacity=50)
    keys = IdempotencyKeys(store, b"secret")

    async def run() -> tuple[int, bytes]:
        return 200, b"answer"

    for number in range(50):
        await keys.run_once("shop", f"key-{number}", "request", run)
    with pytest.raises(StoreFull):
        await keys.run_once("shop", "one more", "request", run)
    assert await keys.run_once("shop", "key-0", "request", run) == (200, b"answer", True)
    with pytest.raises(KeyReused):
        await keys.run_once("shop", "key-0", "another request", run)


# F2: a crash at any step of a send

Seam = Callable[[RunningService], tuple[Any, str]]

STEPS: dict[str, Seam] = {
    "blocks are looked up": lambda s: (s.app.state.service._protection.store, "blocks_among"),
    "a live call is looked for": lambda s: (s.app.state.service._store, "join"),
    "limits are charged": lambda s: (s.app.state.service._protection.store, "reserve"),
    "the intent is written": lambda s: (s.app.state.service._store, "begin"),
    "the carrier is asked": lambda s: (s.provider(), "place_call"),
    "the call's id is written": lambda s: (s.app.state.service._store, "name_call"),
    "the share is counted": lambda s: (s.app.state.service._protection.store, "tally"),
    "the quota is read": lambda s: (s.app.state.service._protection.store, "room"),
}


def break_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, *, after: bool) -> None:
    """Let one call of a method fail: before it did anything, or once it has done everything."""
    real = getattr(owner, name)

    async def breaking(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, real)
        if after:
            await real(*args, **options)
        raise error

    monkeypatch.setattr(owner, name, breaking)


@pytest.mark.parametrize("with_key", [False, True], ids=["", "Idempotency-Key"])
@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("crash")], ids=["store", "crash"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_f2_a_crash_at_any_step_leaves_one_call_at_the_most(
    carrier: HandCarrier,
    fake_time: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,
    error: Exception,
    with_key: bool,
) -> None:
    key = "key-1" if with_key else None
    async with run_vobiz(carrier, fake_time.clock, **KEYS, conversion_monitor="block") as service:
        owner, name = STEPS[step](service)
        break_once(monkeypatch, owner, name, error, after=after)
        first = await send(service, key)
        assert first.status_code in (200, 202, 500, 503)
        answers = [await send(service, key) for _ in range(3)]
        assert carrier.calls <= 1, "one intent, one call"
        assert {answer.status_code for answer in answers} <= {200, 202, 409}, "joined, or refused"
        if carrier.calls:  # the phone rings: whoever answers hears the code
            call = Call(service, carrier, PHONE)
            assert spoken(await call.post("/answer/{token}?n=1", Event="StartApp")) == TWICE


async def test_f2_the_intent_is_on_record_before_the_carrier_is_asked(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    seen: list[Any] = []

    class Watching(HandCarrier):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            headers = {"Authorization": f"Bearer {SHOP}"}
            seen.append((await service.client.get(f"/otp-status/{PHONE}", headers=headers)).json())
            return await super().__call__(request)

    async with run_vobiz(Watching(), fake_time.clock, **KEYS) as service:
        await send(service, None)
    assert [(one["status"], one["call"]["state"]) for one in seen] == [("calling", "dialing")]


async def test_f2_a_call_of_which_nobody_knows_ends_as_unknown_and_then_the_number_is_free(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)
    async with run_vobiz(carrier, fake_time.clock) as service:
        break_once(monkeypatch, service.provider(), "place_call", RuntimeError("x"), after=False)
        assert (await service.send(PHONE)).status_code == 500
        fake_time.advance(59)
        assert (await service.send(PHONE)).json()["deduplicated"] is True
        assert carrier.calls == 0
        fake_time.advance(2)
        status = await service.status(PHONE)
        assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "unknown")
        assert (await service.send(PHONE)).status_code == 200
        assert carrier.calls == 1


async def test_f2_limits_are_given_back_when_the_intent_could_not_be_written(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS, client_sends_per_hour=1) as service:
        break_once(monkeypatch, service.app.state.service._store, "begin", StoreUnavailable("gone"), after=False)
        assert (await send(service, None)).status_code == 503
        assert (await send(service, None)).status_code == 200, "the one call of this hour is left"


async def test_f2_an_accepted_code_is_told_although_it_could_not_be_counted(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_vobiz(carrier, fake_time.clock, conversion_monitor="block") as service:
        await start_call(service, carrier, PHONE)
        owner, name = STEPS["the share is counted"](service)
        break_once(monkeypatch, owner, name, StoreUnavailable("gone"), after=False)
        answer = await service.verify(PHONE, CODE)
        assert (answer.status_code, answer.json()["valid"]) == (200, True)


async def test_f2_a_placed_call_is_told_and_kept_although_it_could_not_be_counted(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_vobiz(carrier, fake_time.clock, conversion_monitor="block") as service:
        owner, name = STEPS["the share is counted"](service)
        break_once(monkeypatch, owner, name, StoreUnavailable("gone"), after=False)
        call = await start_call(service, carrier, PHONE)
        assert (await call.status())["call"]["call_uuid"] == call.uuid


# F3: a request to call that got no answer

NO_ANSWER: list[Any] = [
    pytest.param(httpx.ReadTimeout("x"), id="read time-out"),
    pytest.param(httpx.WriteTimeout("x"), id="write time-out"),
    pytest.param(httpx.ReadError("x"), id="connection broke"),
    pytest.param(httpx.RemoteProtocolError("x"), id="no HTTP"),
    pytest.param(httpx.Response(504, text="<html>gateway time-out</html>"), id="504 of a gateway"),
    pytest.param(httpx.Response(500, json={"request_uuid": "x"}), id="500 that names a call"),
    pytest.param(httpx.Response(408), id="408"),
    pytest.param(httpx.Response(302, headers={"location": "https://evil.example/"}), id="redirect"),
    pytest.param(httpx.Response(200, text="junk"), id="junk"),
    pytest.param(httpx.Response(200, json={}), id="no call id"),
]
PROOF: list[Any] = [
    pytest.param(httpx.ConnectError("x"), id="connection refused, DNS or TLS"),
    pytest.param(httpx.ConnectTimeout("x"), id="connect time-out"),
    pytest.param(httpx.PoolTimeout("x"), id="no free connection"),
    pytest.param(httpx.Response(400, json={}), id="400"),
    pytest.param(httpx.Response(401, json={}), id="401"),
    pytest.param(httpx.Response(429, json={}), id="429"),
    pytest.param(httpx.Response(503, json={"error": {"code": "SERVICE_UNAVAILABLE"}}), id="503 of the API"),
]


@pytest.mark.parametrize("trouble", NO_ANSWER)
async def test_f3_no_second_call_while_the_first_one_may_ring(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch, trouble: Any
) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)
    carrier.trouble = trouble
    async with run_vobiz(carrier, fake_time.clock) as service:
        sent = await service.send(PHONE, code=CODE)
        assert (sent.status_code, sent.json()["status"]) == (202, "call_unconfirmed")
        carrier.trouble = None
        for _ in range(11):  # up to 55 s, in which the phone can begin to ring
            fake_time.advance(5)
            assert (await service.send(PHONE)).json()["deduplicated"] is True
        assert carrier.calls == 1
        call = Call(service, carrier, PHONE)
        await call.post("/ring/{token}", Event="Ring")
        assert spoken(await call.post("/answer/{token}?n=1", Event="StartApp")) == TWICE
        await call.post("/hangup/{token}", **NORMAL_END)
        status = await call.status()
        assert (status["status"], status["call"]["call_uuid"]) == ("delivered", call.uuid)
        assert (await service.verify(PHONE, CODE)).json()["valid"] is True
        assert carrier.calls == 1


@pytest.mark.parametrize("trouble", PROOF)
async def test_f3_what_certainly_dialled_nothing_may_be_sent_again_at_once(
    carrier: HandCarrier, fake_time: FakeTime, trouble: Any
) -> None:
    carrier.trouble = trouble
    async with run_vobiz(carrier, fake_time.clock) as service:
        refused = await service.send(PHONE)
        assert refused.status_code in (502, 503)
        assert "evil" not in refused.text
        carrier.trouble = None
        fake_time.advance(int(refused.headers.get("retry-after", 0)))
        assert (await service.send(PHONE)).status_code == 200
        assert carrier.calls == 2


async def test_f3_a_silent_calls_end_is_learnt_by_asking_the_carrier(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)
    carrier.trouble = httpx.ReadTimeout("no answer in time")
    carrier.record = {"hangup_cause_code": 3010, "hangup_cause": "USER_BUSY", "billsec": 0}
    async with run_vobiz(carrier, fake_time.clock) as service:
        call = await start_call(service, carrier, PHONE)
        await call.post("/ring/{token}", Event="Ring")  # names the call; then nothing more comes
        await service.app.state.timekeeper.ask_about_silent_calls()
        assert carrier.looked_up == []
        fake_time.advance(46)
        await service.app.state.timekeeper.ask_about_silent_calls()
        assert carrier.looked_up
        status = await call.status()
        assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "busy")
        assert carrier.calls == 1


async def test_f3_in_no_second_do_two_carriers_ring_a_phone_for_one_request(fake_time: FakeTime) -> None:
    carriers = FunctionCarriers()
    carriers.vobiz.trouble = httpx.ConnectError("no connection")
    async with run_carriers(carriers, "vobiz,plivo,cm", fake_time.clock) as service:
        phones = numbers("+14155550", 40, digits=3)
        answers = await flood(service, sends(phones))
        assert {answer.status for answer in answers} == {200}
        rung = carriers.plivo.callees + carriers.cm.callees
        assert sorted(rung) == sorted(phones), "each phone once"


# F4: a carrier that fails is left alone

DOWN = httpx.Response(503, json={"error": {"code": "SERVICE_UNAVAILABLE"}})


async def test_f4_a_carrier_that_answers_503_is_asked_less_than_once_a_send(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    carrier.trouble = DOWN
    async with run_vobiz(carrier, fake_time.clock) as service:
        answers = await flood(service, sends(numbers("+14155550", 500, digits=3)))
        assert {(answer.status, answer.code) for answer in answers} == {(503, "provider_unavailable")}
        assert carrier.calls == FAILURES_TO_OPEN
        refused = [int(answer.headers["retry-after"]) for answer in answers[FAILURES_TO_OPEN:]]
        assert max(refused) <= OPEN_SECONDS


async def test_f4_a_request_is_sent_once_however_many_fail_at_the_same_moment(fake_time: FakeTime) -> None:
    all_are_in, go_on = asyncio.Event(), asyncio.Event()

    class Late(HandCarrier):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            answer = await super().__call__(request)
            if self.calls == 100:
                all_are_in.set()
            await go_on.wait()
            return answer

    carrier = Late()
    carrier.trouble = DOWN
    async with run_vobiz(carrier, fake_time.clock) as service:
        flooding = asyncio.create_task(flood(service, sends(numbers("+14155550", 500, digits=3))))
        await all_are_in.wait()
        go_on.set()
        assert {answer.status for answer in await flooding} == {503}
        assert carrier.calls == 100, "those that were under way; nobody after them, and none twice"


async def test_f4_a_carrier_that_stays_down_gets_one_probe_in_thirty_seconds(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    carrier.trouble = DOWN
    phones = iter(numbers("+14155550", 500, digits=3))
    async with run_vobiz(carrier, fake_time.clock) as service:
        for _ in range(FAILURES_TO_OPEN):
            await service.send(next(phones))
        for probes in range(1, 11):
            fake_time.advance(OPEN_SECONDS)
            await flood(service, sends([next(phones) for _ in range(20)]))
            assert carrier.calls == FAILURES_TO_OPEN + probes
        carrier.trouble = None
        fake_time.advance(OPEN_SECONDS)
        answers = await flood(service, sends([next(phones) for _ in range(20)]))
        assert {answer.status for answer in answers} == {200}, "the probe brought it back"


async def test_f4_a_hung_carrier_is_asked_by_nobody_once_its_breaker_is_open(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    carrier.trouble = httpx.ReadTimeout("no answer in time")
    async with run_vobiz(carrier, fake_time.clock, client_sends_per_hour=10_000) as service:
        phones = numbers("+14155550", 500, digits=3)
        for phone in phones[:FAILURES_TO_OPEN]:
            assert (await service.send(phone)).status_code == 202
        answers = await flood(service, sends(phones[FAILURES_TO_OPEN:]))
        assert {(answer.status, answer.code) for answer in answers} == {(503, "provider_unavailable")}
        assert {answer.headers["retry-after"] for answer in answers} == {"30"}
        assert carrier.calls == FAILURES_TO_OPEN
        assert service.app.state.service._store._records == FAILURES_TO_OPEN, "nothing is kept of the rest"


# F5: pace, and a queue that is bounded


async def test_f5_of_five_thousand_sends_in_a_second_three_a_second_are_placed_and_the_rest_refused(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    placed_at: list[float] = []

    class Watching(HandCarrier):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            placed_at.append(fake_time.seconds)
            return await super().__call__(request)

    limits = {"vobiz_calls_per_second": 3, "code_ttl_seconds": 60, "client_sends_per_hour": 100_000}
    async with run_vobiz(Watching(), fake_time.clock, **limits) as service:
        answers = await flood(service, sends(numbers("+1415555", 5000)))
        by_status = Counter(answer.status for answer in answers)
        in_half_a_life = 3 * int(30 / PACE_SECONDS)
        assert by_status == {200: 3, 202: in_half_a_life, 503: 5000 - 3 - in_half_a_life}
        refused = [answer for answer in answers if answer.status == 503]
        assert {answer.code for answer in refused} == {"provider_throttled"}
        assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in refused)
        store, guard_store = service.app.state.service._store, service.app.state.service._protection.store
        assert store._records == 3 + in_half_a_life, "nothing is kept of what was refused"
        assert len(guard_store._logs) <= 2 + 2 * store._records
        await fake_time.pass_by(30)
        assert most_in_a_second(placed_at) == 3
        assert len(placed_at) == 3 + in_half_a_life, "whoever was told to wait was called"


async def test_f5_nobody_waits_longer_than_half_of_the_codes_life(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    limits = {"vobiz_calls_per_second": 1, "client_sends_per_hour": 100_000}
    async with run_vobiz(carrier, fake_time.clock, **limits) as service:
        answers = await flood(service, sends(numbers("+14155550", 400, digits=3), ttl_seconds=300))
        queued = sum(answer.status == 202 for answer in answers)
        assert queued == int(150 / PACE_SECONDS)
        await fake_time.pass_by(150)
        assert carrier.calls == 1 + queued
        await fake_time.pass_by(300)
        assert carrier.calls == 1 + queued


def test_f1_client_names_cannot_run_into_keys() -> None:
    """Client and key are hashed as one text with NUL between them: neither may hold one."""
    with pytest.raises(ValueError, match="client name"):
        setting_values.client_keys("shop\0a:" + "x" * 24)
