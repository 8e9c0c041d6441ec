"""Who is to place a call: by order, region, pin, ability, health and pace."""

import asyncio
from typing import Any

import pytest

from carrier_line import PACE_SECONDS, CarrierLine
from carrier_trouble import FAILURES_TO_OPEN, OPEN_SECONDS
from tests.conftest import FakeTime, RunningService, keep_secret
from tests.function_carriers import FunctionCarriers, run_carriers
from voice_provider import ProviderThrottled, ProviderUnavailable

ALL = "vobiz,plivo,cm"
US_PHONE, GB_PHONE, IN_PHONE = "+14155550142", "+447400123456", "+919820012345"


@pytest.fixture
def carriers() -> FunctionCarriers:
    return FunctionCarriers()


@pytest.fixture(autouse=True)
def _no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)


def line_of(service: RunningService, name: str) -> CarrierLine:
    line: CarrierLine = service.app.state.service._router._carriers[name][1]
    return line


async def take_down(service: RunningService, *names: str) -> None:
    for name in names:
        for _ in range(FAILURES_TO_OPEN):
            line_of(service, name).note_failure(ProviderUnavailable("down"))
        await line_of(service, name).told()


def state_of(service: RunningService) -> Any:
    """All that a refused request must leave as it was."""
    store, protection = service.app.state.service._store, service.app.state.service._protection
    logs = {key: list(log.entries) for key, log in protection.store._logs.items() if log.entries}
    return dict(store._pages), logs


# Order


@pytest.mark.parametrize("providers", ["vobiz,plivo,cm", "cm,vobiz,plivo", "plivo"])
async def test_the_first_of_providers_places_the_call(
    carriers: FunctionCarriers, fake_time: FakeTime, providers: str
) -> None:
    async with run_carriers(carriers, providers, fake_time.clock) as service:
        sent = await service.send(US_PHONE)
        first = providers.split(",")[0]
        assert (sent.status_code, sent.json()["provider"], carriers.placed) == (200, first, [first])


@pytest.mark.parametrize(
    ("phone", "expected"),
    [
        pytest.param(IN_PHONE, "plivo", id="a region with a route"),
        pytest.param(GB_PHONE, "cm", id="another one"),
        pytest.param(US_PHONE, "vobiz", id="a region without one"),
    ],
)
async def test_a_region_can_have_an_order_of_its_own(
    carriers: FunctionCarriers, fake_time: FakeTime, phone: str, expected: str
) -> None:
    routes = {"provider_routes": "IN=plivo+vobiz,GB=cm"}
    async with run_carriers(carriers, ALL, fake_time.clock, **routes) as service:
        assert (await service.send(phone)).json()["provider"] == expected
        assert carriers.placed == [expected]


async def test_a_regions_order_is_also_the_one_of_failover_and_leaves_others_out(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, ALL, fake_time.clock, provider_routes="IN=cm+plivo") as service:
        await take_down(service, "cm")
        assert (await service.send(IN_PHONE)).json()["provider"] == "plivo"
        await take_down(service, "plivo")
        refused = await service.send("+919820012346")
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
        assert carriers.placed == ["plivo"]


@pytest.mark.parametrize("name", ["vobiz", "plivo", "cm"])
async def test_a_pinned_carrier_is_the_only_one(
    carriers: FunctionCarriers, fake_time: FakeTime, name: str
) -> None:
    async with run_carriers(carriers, ALL, fake_time.clock, provider_routes="US=vobiz") as service:
        assert (await service.send(US_PHONE, provider=name)).json()["provider"] == name
        await take_down(service, name)
        refused = await service.send("+14155550143", provider=name)
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
        assert carriers.placed == [name]


# What none of them can do


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({"provider": "voipbin"}, "provider", id="a carrier that is not configured"),
        pytest.param({"provider": "vobiz", "hide_caller_id": True}, "hide_caller_id", id="hidden caller ID"),
        pytest.param({"language": "xx"}, "language", id="language of nobody"),
    ],
)
async def test_an_option_that_nobody_has_is_named_and_changes_nothing(
    carriers: FunctionCarriers, fake_time: FakeTime, fields: dict[str, Any], field: str
) -> None:
    async with run_carriers(
        carriers, ALL, fake_time.clock, client_sends_per_hour=5, vobiz_calls_per_second=1, cm_calls_per_second=1
    ) as service:
        before = state_of(service)
        refused = await service.send(US_PHONE, **fields)
        assert (refused.status_code, refused.json()["code"]) == (422, "unsupported_option")
        assert [error["field"] for error in refused.json()["errors"]] == [field]
        assert state_of(service) == before
        assert carriers.placed == []
        assert (await service.client.get(f"/otp-status/{US_PHONE}")).status_code == 404


async def test_an_option_is_left_to_the_carrier_that_has_it(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz,plivo,cm", fake_time.clock) as service:
        assert (await service.send(US_PHONE, hide_caller_id=True)).json()["provider"] == "cm"
        assert carriers.cm.orders[0]["anonymous"] is True


async def test_each_carrier_speaks_the_best_variety_that_it_has(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz,cm", fake_time.clock) as service:
        by_vobiz = (await service.send(US_PHONE, language="en-IN")).json()
        by_cm = (await service.send("+14155550143", language="en-IN", provider="cm")).json()
        assert (by_vobiz["language"], by_cm["language"]) == ("en-US", "en-IN")


async def test_a_voice_by_name_goes_to_the_carrier_that_has_it(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock) as service:
        named = (await service.send(US_PHONE, voice="Polly.Joanna")).json()
        usual = (await service.send("+14155550143", voice="female")).json()
        assert (named["provider"], usual["provider"]) == ("plivo", "vobiz")


async def test_a_language_goes_to_a_carrier_that_speaks_it_and_falls_only_where_none_can(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, "vobiz,plivo,cm", fake_time.clock) as service:
        cases: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
            "+14155550142": ({"language": "pl"}, ("vobiz", "pl-PL")),
            "+14155550143": ({"language": "ro"}, ("plivo", "ro-RO")),
            "+14155550144": ({"language": "pl", "provider": "cm"}, ("cm", "en-US")),
        }
        for phone, (fields, (provider, language)) in cases.items():
            sent = (await service.send(phone, **fields)).json()
            assert (sent["provider"], sent["language"]) == (provider, language)


# Health and pace


async def test_a_carrier_that_is_down_is_passed_over(carriers: FunctionCarriers, fake_time: FakeTime) -> None:
    async with run_carriers(carriers, ALL, fake_time.clock) as service:
        await take_down(service, "vobiz", "plivo")
        assert (await service.send(US_PHONE)).json()["provider"] == "cm"
        fake_time.advance(OPEN_SECONDS)
        assert (await service.send("+14155550143")).json()["provider"] == "vobiz", "the probe"
        assert carriers.placed == ["cm", "vobiz"]


async def test_when_all_are_down_the_answer_comes_at_once_with_the_time_of_the_next_try(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(carriers, ALL, fake_time.clock, client_sends_per_hour=5) as service:
        await take_down(service, "plivo")
        fake_time.advance(10)
        await take_down(service, "vobiz", "cm")
        before = state_of(service)
        refused = await service.send(US_PHONE)
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
        assert int(refused.headers["retry-after"]) == OPEN_SECONDS - 10
        assert state_of(service) == before
        assert carriers.placed == []
        fake_time.advance(int(refused.headers["retry-after"]))
        assert (await service.send(US_PHONE)).status_code == 200, "Retry-After is true"


async def test_a_call_that_must_wait_takes_the_first_free_carrier(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    paces = {"vobiz_calls_per_second": 1, "plivo_calls_per_second": 1}
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock, **paces) as service:
        answers = [await service.send(f"+1415555{number:04}") for number in range(100, 103)]
        assert [(one.status_code, one.json()["provider"]) for one in answers[:2]] == [
            (200, "vobiz"),
            (200, "plivo"),
        ]
        assert (answers[2].status_code, answers[2].json()["status"]) == (202, "queued")


async def test_of_busy_carriers_the_one_with_the_shortest_wait_is_chosen(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    paces = {"vobiz_calls_per_second": 1, "plivo_calls_per_second": 4}
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock, **paces) as service:
        answers = [(await service.send(f"+1415555{number:04}")).json() for number in range(100, 115)]
        assert [one["status"] for one in answers] == ["call_initiated"] * 5 + ["queued"] * 10
        assert [one["provider"] for one in answers[5:]].count("plivo") == 8, "four times as fast"
        await fake_time.pass_by(2 * PACE_SECONDS)
        assert (carriers.vobiz.requests, carriers.plivo.requests) == (3, 12)


async def test_a_pause_after_429_counts_as_waiting_time(carriers: FunctionCarriers, fake_time: FakeTime) -> None:
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock, plivo_calls_per_second=1) as service:
        line_of(service, "vobiz").note_failure(ProviderThrottled("slowly", 60))
        answers = [(await service.send(f"+1415555{number:04}")).json() for number in range(100, 103)]
        assert [one["provider"] for one in answers] == ["plivo"] * 3


async def test_nobody_waits_longer_than_half_the_codes_life(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    async with run_carriers(
        carriers, "vobiz", fake_time.clock, vobiz_calls_per_second=1, client_sends_per_hour=1000
    ) as service:
        numbers = [keep_secret(f"+1415555{number:04}") for number in range(100, 130)]
        answers = [await service.send(number, ttl_seconds=30) for number in numbers]
        fitting = int(15 / PACE_SECONDS)
        assert [answer.status_code for answer in answers] == [200] + [202] * fitting + [503] * (29 - fitting)
        refused = answers[-1]
        assert refused.json()["code"] == "provider_throttled"
        assert 1 <= int(refused.headers["retry-after"]) <= 15
        assert (await service.client.get(f"/otp-status/{numbers[-1]}")).status_code == 404
        assert "r=985" in answers[fitting].headers["ratelimit"], "refusals cost nothing"
        longer = await service.send("+14155550130", ttl_seconds=60)
        assert longer.status_code == 202, "a code that lives longer can wait longer"
        await fake_time.pass_by(15)
        assert carriers.vobiz.callees == numbers[: 1 + fitting]


async def test_requests_at_once_choose_as_if_they_came_one_by_one(
    carriers: FunctionCarriers, fake_time: FakeTime
) -> None:
    paces = {"vobiz_calls_per_second": 2, "plivo_calls_per_second": 1}
    async with run_carriers(carriers, "vobiz,plivo", fake_time.clock, **paces) as service:
        answers = await asyncio.gather(*(service.send(f"+1415555{number:04}") for number in range(100, 120)))
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [202] * 17
        assert sorted(carriers.placed) == ["plivo", "vobiz", "vobiz"]
        await fake_time.pass_by(7 * PACE_SECONDS)
        assert sorted({*carriers.vobiz.callees, *carriers.plivo.callees}) == [
            f"+1415555{number:04}" for number in range(100, 120)
        ]
        assert len(carriers.placed) == 20
