"""Toll fraud and call abuse: who is never called, how often, and for how much money."""

import asyncio
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import httpx
import phonenumbers
import pytest
from phonenumbers import PhoneNumberType

from abuse_guard import AbuseGuard, DestinationNotAllowed, GuardPolicy
from access import ANONYMOUS
from guard_store import MemoryGuardStore
from phone_numbers import InvalidPhone, LineType, to_e164
from server import create_app
from settings import load_settings
from simulator.vobiz_call import CAUSES
from tests.conftest import VOBIZ_TOKEN, FakeTime, RunningService, keep_secret, run_service
from tests.hearing import heard
from tests.security.attackers import (
    BANK_KEY,
    BUSY,
    DEFAULTS,
    KEYS,
    LISTENER,
    OPERATOR_KEY,
    SHOP_KEY,
    SHOP_NEW_KEY,
    UNALLOCATED,
    Answer,
    bearer,
    flood,
    let_callees_be,
    numbers,
    sends,
)
from tests.security.hand_carrier import Call, HandCarrier, run_vobiz

PHONE = keep_secret("+12025550142")
CALLED_TYPES = frozenset(
    {PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE, PhoneNumberType.FIXED_LINE_OR_MOBILE}
)
NON_GEOGRAPHIC = ("+800", "+808", "+870", "+878", "+881", "+882", "+883", "+888", "+979")
DENIED = (*NON_GEOGRAPHIC, "+4470", "+44909", "+44871", "+1900", "+1500", "+1800", "+33899", "+49900")


def format_e164(number: phonenumbers.PhoneNumber) -> str:
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def examples() -> list[str]:
    """libphonenumber's example numbers: each region in each type, and the nine codes of no region."""
    found = [
        phonenumbers.example_number_for_type(region, line_type)
        for region in sorted(phonenumbers.SUPPORTED_REGIONS)
        for line_type in PhoneNumberType.values()
    ]
    found += [
        phonenumbers.example_number_for_non_geo_entity(code)
        for code in sorted(phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS)
    ]
    return list(dict.fromkeys(format_e164(number) for number in found if number is not None))


EXAMPLES = examples()
NUMBERS_BY_REGION: defaultdict[str | None, list[str]] = defaultdict(list)
for _phone in EXAMPLES:
    NUMBERS_BY_REGION[phonenumbers.region_code_for_number(phonenumbers.parse(_phone))].append(_phone)


def guard_of(fake_time: FakeTime, **policy: Any) -> AbuseGuard:
    return AbuseGuard(MemoryGuardStore(fake_time.clock, 1000), GuardPolicy(**policy), fake_time.clock)


async def would_call(guard: AbuseGuard, text: str) -> bool:
    """Whether a number is canonical and may be called."""
    try:
        phone = to_e164(text)
        await guard.check_destination("shop", phone)
    except (InvalidPhone, DestinationNotAllowed):
        return False
    return True


def is_in(phone: str, regions: Collection[str] | None) -> bool:
    """What an example's own metadata says: of one of these regions, and a phone that people have."""
    number = phonenumbers.parse(phone)
    region = phonenumbers.region_code_for_number(number)
    is_allowed_region = region not in (None, "001") and (regions is None or region in regions)
    return is_allowed_region and phonenumbers.number_type(number) in CALLED_TYPES


# C1: regions


def test_c1_the_examples_are_all_there() -> None:
    assert len(EXAMPLES) > 1000
    without_any = {"EH", "MF"}  # their numbers are told apart from those of Morocco and Guadeloupe by no one
    assert set(NUMBERS_BY_REGION) == set(phonenumbers.SUPPORTED_REGIONS) - without_any | {"001"}


@pytest.mark.parametrize("regions", [None, ("US",), ("IN", "GB"), ("RU",), ("IT", "VA", "FR"), ()], ids=str)
async def test_c1_of_all_examples_only_allowed_ones_are_called(
    fake_time: FakeTime, regions: tuple[str, ...] | None
) -> None:
    guard = guard_of(fake_time, allowed_regions=regions if regions is None else frozenset(regions))
    called = {phone for phone in EXAMPLES if await would_call(guard, phone)}
    assert called == {phone for phone in EXAMPLES if is_in(phone, regions)}
    assert bool(called) == (regions != ()), "an empty list lets nobody be called, any other one somebody"


async def test_c1_each_region_opens_no_other_one(fake_time: FakeTime) -> None:
    """Also not one with the same calling code: 25 regions share +1."""
    for regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.values():
        twins = [phone for region in regions for phone in NUMBERS_BY_REGION[region]]
        for region in regions:
            guard = guard_of(fake_time, allowed_regions=frozenset({region}))
            called = {phone for phone in twins if await would_call(guard, phone)}
            assert called <= set(NUMBERS_BY_REGION[region])


CARIBBEAN = ("+18765230123", "+18092345678", "+14734031234", "+12642351234", "+12684601234", "+18684601234")


async def test_c1_allowing_the_us_opens_no_caribbean_number_over_http(caplog: pytest.LogCaptureFixture) -> None:
    async with run_service(allowed_regions="US") as service:
        for phone in CARIBBEAN:
            answer = await service.send(phone)
            assert (answer.status_code, answer.json()["code"]) == (403, "destination_not_allowed")
            assert "region" not in answer.text.lower(), "why is said in the log only"
            assert "retry-after" not in answer.headers
        assert service.carrier.requests == 0
        assert (await service.send(PHONE)).status_code == 200
        assert service.carrier.requests == 1
    refusals = [record for record in caplog.records if record.message == "send refused"]
    assert [record.__dict__["rules"] for record in refusals] == [["region"]] * len(CARIBBEAN)
    assert {record.__dict__["region"] for record in refusals} == {"JM", "DO", "GD", "AI", "AG", "TT"}


async def test_c1_a_sample_of_all_examples_over_http() -> None:
    sample = random.Random(1).sample(EXAMPLES, 150)  # noqa: S311 - which ones is no secret
    async with run_service(allowed_regions="US,IN,GB,DE,FR,BR") as service:
        answers = await flood(service, sends(sample))
        called = {phone for phone, answer in zip(sample, answers, strict=True) if answer.status == 200}
        assert called == {phone for phone in sample if is_in(phone, ("US", "IN", "GB", "DE", "FR", "BR"))}
        assert service.carrier.requests == len(called) > 0
        assert {answer.status for answer in answers} <= {200, 403, 422}


def test_c1_a_real_carrier_does_not_start_without_a_list() -> None:
    guarded: dict[str, Any] = {"api_keys": SHOP_KEY, "vobiz_auth_id": "MA_T", "vobiz_auth_token": VOBIZ_TOKEN}
    with pytest.raises(Exception, match="ALLOWED_REGIONS is not set"):
        load_settings(**guarded, from_number=PHONE, public_url="https://otp.example.com")


# C2: kinds of numbers


EVERY_TYPE_THAT_CAN_BE_OPENED = GuardPolicy().allowed_line_types | {LineType.VOIP}


def random_numbers(prefix: str, count: int) -> list[str]:
    """Of every length from 9 to 15 digits; the same ones in each run."""
    draw = random.Random(prefix)  # noqa: S311 - numbers to try, not secrets
    lengths = [draw.randint(9, 15) - len(prefix) + 1 for _ in range(count)]
    return [prefix + "".join(draw.choices("0123456789", k=length)) for length in lengths]


@pytest.mark.parametrize("prefix", DENIED)
async def test_c2_random_numbers_of_a_denied_kind_are_not_called(fake_time: FakeTime, prefix: str) -> None:
    """Whatever regions and types are open."""
    guard = guard_of(fake_time, allowed_regions=None, allowed_line_types=EVERY_TYPE_THAT_CAN_BE_OPENED)
    tried = random_numbers(prefix, 1000)
    assert [phone for phone in tried if await would_call(guard, phone)] == []
    assert any(_is_complete(phone) for phone in tried), "or nothing but their length would have stopped them"


def _is_complete(phone: str) -> bool:
    try:
        return to_e164(phone) == phone
    except InvalidPhone:
        return False


async def test_c2_examples_with_a_digit_more_or_less_are_called_only_if_they_are_numbers_themselves(
    fake_time: FakeTime,
) -> None:
    guard = guard_of(fake_time, allowed_regions=None)
    refused = 0
    for phone in EXAMPLES:
        for changed in (phone[:-1], phone + "0", phone + "9"):
            if await would_call(guard, changed):
                assert is_in(to_e164(changed), None)
                assert phonenumbers.is_valid_number(phonenumbers.parse(changed))
            else:
                refused += 1
    assert refused > 2 * len(EXAMPLES)


TRICKS = (
    ",,5",
    ";ext=5",
    "x5",
    " ext. 5",
    "*",
    "#",
    "p1",
    "w1",
    ";phone-context=+1900",
    "\n",
    "@evil",
    "&",
    " +1900",
)


async def test_c2_no_denied_number_and_no_trick_reaches_the_carrier_over_http() -> None:
    tried = [phone for prefix in DENIED for phone in random_numbers(prefix, 30)]
    tried += [phone + trick for phone in ("+12025550142", "+919876543210") for trick in TRICKS]
    tried += [trick + "+12025550142" for trick in ("tel:", "sip:", "00", "*67", "011", "#31#")]
    tried += [
        "+12025550142+12025550143",
        "+12025550142,+12025550143",
        "+1202555014",
        "+120255501422",
        "112",
        "911",
    ]
    async with run_service(allowed_regions="*", allowed_line_types="mobile,fixed_line,voip") as service:
        answers = await flood(service, sends(tried))
        assert {answer.status for answer in answers} == {403, 422}
        assert Counter(answer.status for answer in answers)[403] > 20
        assert service.carrier.requests == 0


@pytest.mark.parametrize(
    "line_type", ["premium_rate", "personal_number", "pager", "uan", "voicemail", "toll_free"]
)
def test_c2_no_setting_opens_a_denied_kind(line_type: str) -> None:
    with pytest.raises(Exception, match="ALLOWED_LINE_TYPES must be some of fixed_line, "):
        load_settings(allowed_line_types=f"mobile,{line_type}")


async def test_c2_internet_numbers_are_called_only_when_they_are_opened(fake_time: FakeTime) -> None:
    found = (
        phonenumbers.example_number_for_type(region, PhoneNumberType.VOIP)
        for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    )
    voip = [format_e164(number) for number in found if number is not None]
    closed, opened = guard_of(fake_time), guard_of(fake_time, allowed_line_types=EVERY_TYPE_THAT_CAN_BE_OPENED)
    assert [phone for phone in voip if await would_call(closed, phone)] == []
    assert [phone for phone in voip if not await would_call(opened, phone)] == []


# C3: one number


async def call_and_hang_up(service: RunningService, phone: str, key: str | None = None) -> httpx.Response:
    """Send, and live the call to its end."""
    keep_secret(phone)
    answer = await service.client.post("/send-otp", json={"phone": phone}, headers=bearer(key) if key else {})
    await service.calls_over()
    return answer


def wait_told_by(answer: httpx.Response, code: str = "rate_limited") -> int:
    assert (answer.status_code, answer.json()["code"]) == (429, code), answer.text
    return int(answer.headers["retry-after"])


@pytest.mark.untraced
async def test_c3_a_thousand_parallel_sends_are_one_call() -> None:
    async with run_service(**DEFAULTS) as service:
        answers = await flood(service, sends([PHONE] * 1000), connections=200)
        assert service.carrier.requests == 1
        assert {answer.status for answer in answers} == {200}
        assert [answer.body.get("deduplicated") for answer in answers].count(None) == 1
        assert len({answer.body["verification_id"] for answer in answers}) == 1


async def test_c3_parallel_sends_of_two_clients_are_one_call() -> None:
    async with run_service(**{**DEFAULTS, **KEYS, "resend_after_seconds": 0}) as service:
        both = zip(sends([PHONE] * 250, SHOP_KEY), sends([PHONE] * 250, BANK_KEY), strict=True)
        answers = await flood(service, list(itertools.chain(*both)))
        assert service.carrier.requests == 1
        assert {answer.code for answer in answers if answer.status != 200} == {"call_in_progress"}
        assert {answer.status for answer in answers[0::2]} ^ {answer.status for answer in answers[1::2]} == {
            200,
            409,
        }


async def test_c3_a_cooldown_ends_when_it_was_said_to_end(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, **DEFAULTS) as service:
        let_callees_be(service, BUSY)
        first = await call_and_hang_up(service, PHONE)
        fake_time.advance(0.3)
        assert wait_told_by(await call_and_hang_up(service, PHONE)) == first.json()["resend_after"] == 30
        fake_time.advance(29.6)
        assert wait_told_by(await call_and_hang_up(service, PHONE)) == 1
        fake_time.advance(0.4)
        assert (await call_and_hang_up(service, PHONE)).status_code == 200
        assert service.carrier.requests == 2


@pytest.mark.parametrize(
    ("spacing", "calls", "seconds"), [pytest.param(30, 5, 600, id="5 in ten minutes"),
                                      pytest.param(300, 10, 86_400, id="10 a day")]
)  # fmt: skip
@pytest.mark.parametrize("keys", [(None,), (SHOP_KEY, BANK_KEY)], ids=["one client", "two clients"])
async def test_c3_spaced_sends_stop_at_the_cap_and_the_told_wait_is_exact(
    fake_time: FakeTime, spacing: int, calls: int, seconds: int, keys: tuple[str | None, ...]
) -> None:
    access = KEYS if keys != (None,) else {}
    async with run_service(fake_time.clock, **{**DEFAULTS, **access}) as service:
        let_callees_be(service, BUSY)
        in_turn = itertools.cycle(keys)
        for _ in range(calls):
            assert (await call_and_hang_up(service, PHONE, next(in_turn))).status_code == 200
            fake_time.advance(spacing)
        wait = wait_told_by(await call_and_hang_up(service, PHONE, next(in_turn)))
        assert wait == seconds - calls * spacing
        fake_time.advance(wait - 1)
        assert wait_told_by(await call_and_hang_up(service, PHONE, next(in_turn))) == 1
        assert service.carrier.requests == calls
        fake_time.advance(1)
        assert (await call_and_hang_up(service, PHONE, next(in_turn))).status_code == 200
        assert service.carrier.requests == calls + 1


async def test_c3_two_spellings_of_one_line_share_its_cap(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, **DEFAULTS) as service:
        let_callees_be(service, BUSY)
        for phone in ("+5491123456789", "+541123456789", "+5491123456789", "+54 11 15 2345 6789", "+541123456789"):
            assert (await call_and_hang_up(service, phone)).status_code == 200
            fake_time.advance(30)
        for phone in ("+5491123456789", "+541123456789"):
            wait_told_by(await call_and_hang_up(service, phone))
        assert service.carrier.requests == 5


# C4: prefixes, regions, clients


def codes_of(answers: Iterable[Answer]) -> Counter[str | None]:
    return Counter(answer.code for answer in answers)


@pytest.mark.untraced
async def test_c4_a_thousand_consecutive_numbers_stop_at_twenty(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_service(fake_time.clock, **DEFAULTS) as service:
        answers = await flood(service, sends(numbers("+919876543", 1000, digits=3)))
        assert codes_of(answers) == {None: 20, "rate_limited": 980}
        assert service.carrier.requests == 20
        (event,) = [record for record in caplog.records if record.message == "destination blocked"]
        assert (event.__dict__["target"], event.__dict__["reason"]) == ("prefix:+91987654", "velocity")
        assert (await service.send("+919876553000")).status_code == 200, "another prefix is served"
        last = await service.send("+919876543999")
        assert wait_told_by(last) == 43_200
        fake_time.advance(43_199)
        assert wait_told_by(await service.send("+919876543998")) == 1
        fake_time.advance(1)
        assert (await service.send("+919876543998")).status_code == 200


async def test_c4_each_further_time_blocks_a_prefix_for_twice_as_long(fake_time: FakeTime) -> None:
    phones = iter(numbers("+919876543", 1000, digits=3))
    waits = []
    async with run_service(fake_time.clock, **DEFAULTS) as service:
        for _ in range(5):
            await flood(service, sends([next(phones) for _ in range(25)]))
            waits.append(wait_told_by(await service.send(next(phones))))
            fake_time.advance(waits[-1])
    assert waits == [43_200, 86_400, 172_800, 345_600, 604_800]


async def test_c4_two_spellings_of_one_prefix_are_counted_and_blocked_together() -> None:
    async with run_service(**DEFAULTS) as service:
        mixed = [f"{'+549' if index % 2 else '+54'}112345{index:04d}" for index in range(100)]
        answers = await flood(service, sends(mixed))
        assert codes_of(answers) == {None: 20, "rate_limited": 80}
        blocks = (await service.client.get("/blocks")).json()["blocks"]
        assert [block["target"] for block in blocks] == ["prefix:+54112345"]


async def test_c4_safe_prefixes_are_not_watched(fake_time: FakeTime) -> None:
    settings: dict[str, Any] = {**DEFAULTS, "safe_prefixes": "+919876543", "region_sends_per_hour": 0}
    async with run_service(fake_time.clock, **settings) as service:
        assert codes_of(await flood(service, sends(numbers("+919876543", 100, digits=3)))) == {None: 100}


async def test_c4_a_region_has_a_limit_of_its_own(fake_time: FakeTime) -> None:
    settings: dict[str, Any] = {**DEFAULTS, "prefix_sends_per_hour": 0, "region_sends_per_hour": 70}
    async with run_service(fake_time.clock, **settings) as service:
        answers = await flood(service, sends(numbers("+919876543", 100, digits=3)))
        assert codes_of(answers) == {None: 70, "rate_limited": 30}
        assert (await service.send(PHONE)).status_code == 200, "another region is served"
        fake_time.advance(wait_told_by(await service.send("+919876553000")))
        assert (await service.send("+919876553000")).status_code == 200


async def test_c4_a_client_has_a_quota_and_sees_what_is_left_of_it(fake_time: FakeTime) -> None:
    settings: dict[str, Any] = {**DEFAULTS, **KEYS, "prefix_sends_per_hour": 0, "client_quotas": "shop=3"}
    async with run_service(fake_time.clock, **settings) as service:
        answers = await flood(service, sends(numbers("+91987654", 5), SHOP_KEY), connections=1)
        assert codes_of(answers) == {None: 3, "rate_limited": 2}
        assert [answer.headers["ratelimit"] for answer in answers[:3]] == [
            f'"client";r={left};t=3600' for left in (2, 1, 0)
        ]
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"client";q=3;w=3600'}
        again = await flood(service, sends(numbers("+91987655", 1), SHOP_NEW_KEY))
        assert codes_of(again) == {"rate_limited": 1}, "a client's second key is the same client"
        assert codes_of(await flood(service, sends(numbers("+91987656", 10), BANK_KEY))) == {None: 10}
        fake_time.advance(int(answers[-1].headers["retry-after"]))
        assert codes_of(await flood(service, sends(numbers("+91987657", 5), SHOP_KEY))) == {
            None: 3,
            "rate_limited": 2,
        }


# C5: conversion


CODE = keep_secret("CANARY610")
ONLY_CONVERSION: dict[str, Any] = {
    "prefix_sends_per_hour": 0,
    "region_sends_per_hour": 0,
    "client_sends_per_hour": 0,
}


async def pump(
    service: RunningService, fake_time: FakeTime, phones: Iterable[str], verified_of_ten: int = 0
) -> int:
    """Send to each number, half a minute apart, some being verified; how many are called until one is refused."""
    for index, phone in enumerate(phones):
        answer = await service.client.post("/send-otp", json={"phone": phone, "code": CODE})
        await service.calls_over()
        if answer.status_code == 429:
            return index
        if index % 10 < verified_of_ten:
            assert (await service.verify(phone, CODE)).json()["valid"] is True
        fake_time.advance(30)
    return index + 1


@pytest.mark.parametrize("limits", [{}, ONLY_CONVERSION], ids=["by default", "conversion only"])
async def test_c5_a_prefix_without_right_codes_is_blocked_before_the_fortieth_call(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture, limits: dict[str, Any]
) -> None:
    async with run_service(fake_time.clock, **{**DEFAULTS, **limits}) as service:
        let_callees_be(service, LISTENER)
        assert 20 <= await pump(service, fake_time, numbers("+91987654", 100)) < 40
        assert service.carrier.requests < 40
        blocks = (await service.client.get("/blocks")).json()["blocks"]
        assert [block["target"] for block in blocks] == ["prefix:+91987654"]
        (event,) = [record for record in caplog.records if record.message == "destination blocked"]
        assert event.levelname == "ERROR"
        if limits:
            assert blocks[0]["reason"] == event.__dict__["reason"] == "conversion"


@pytest.mark.untraced
@pytest.mark.parametrize("of_ten", [4, 6])
async def test_c5_a_prefix_with_enough_right_codes_is_never_blocked(fake_time: FakeTime, of_ten: int) -> None:
    async with run_service(fake_time.clock, **{**DEFAULTS, **ONLY_CONVERSION}) as service:
        let_callees_be(service, LISTENER)
        assert await pump(service, fake_time, numbers("+91987654", 100), of_ten) == 100


async def test_c5_a_prefix_just_below_the_share_is_blocked(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, **{**DEFAULTS, **ONLY_CONVERSION}) as service:
        let_callees_be(service, LISTENER)
        assert await pump(service, fake_time, numbers("+91987654", 150), 3) < 40


async def test_c5_a_whole_region_is_judged_by_ten_times_as_many(fake_time: FakeTime) -> None:
    """Numbers of ever new prefixes, five each, so that no prefix is judged."""
    phones = [f"+91{98765 + index // 5}{index % 5:05d}" for index in range(100)]
    few: dict[str, Any] = {**DEFAULTS, **ONLY_CONVERSION, "conversion_min_verifications": 6}
    async with run_service(fake_time.clock, **few) as service:
        let_callees_be(service, LISTENER)
        assert 60 <= await pump(service, fake_time, phones) < 70
        blocks = (await service.client.get("/blocks")).json()["blocks"]
        assert [block["target"] for block in blocks] == ["region:IN"]
        assert (await service.send(PHONE)).status_code == 200


async def test_c5_repeats_lengthen_the_block(fake_time: FakeTime) -> None:
    phones = iter(numbers("+91987654", 1000))
    waits = []
    async with run_service(fake_time.clock, **{**DEFAULTS, **ONLY_CONVERSION}) as service:
        let_callees_be(service, LISTENER)
        for _ in range(3):
            await pump(service, fake_time, phones)
            waits.append(wait_told_by(await service.send(next(phones))))
            fake_time.advance(waits[-1])
    assert waits == [43_200, 86_400, 172_800]


async def test_c5_a_dry_run_only_records(fake_time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {**DEFAULTS, **ONLY_CONVERSION, "conversion_monitor": "record"}
    async with run_service(fake_time.clock, **settings) as service:
        let_callees_be(service, LISTENER)
        assert await pump(service, fake_time, numbers("+91987654", 45)) == 45
        assert (await service.client.get("/blocks")).json() == {"blocks": []}
    recorded = [record for record in caplog.records if record.message.startswith("would block a destination")]
    assert recorded[0].__dict__["target"] == "prefix:+91987654"
    assert recorded[0].__dict__["verified"] == 0 < 20 <= recorded[0].__dict__["verifications"]


async def test_c5_what_the_carrier_cannot_put_through_is_left_out(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, **{**DEFAULTS, **ONLY_CONVERSION}) as service:
        let_callees_be(service, UNALLOCATED)
        assert await pump(service, fake_time, numbers("+91987654", 45)) == 45
        let_callees_be(service, LISTENER)
        assert await pump(service, fake_time, numbers("+91987654", 100)[45:]) < 40, "and only that"


async def test_c5_a_failure_that_is_told_before_the_carriers_answer_is_left_out_too() -> None:
    """A callback can be quicker than the answer to the request that caused it."""
    answered: list[int] = []

    async def vendor(request: httpx.Request) -> httpx.Response:
        call_id = f"call-{len(answered)}"
        path = json.loads(request.content)["hangup_url"].removeprefix("https://otp.example.com")
        fields = {"CallUUID": call_id, "Event": "Hangup", "HangupCauseCode": str(CAUSES["unallocated"].code)}
        answered.append((await service.client.post(path, data=fields)).status_code)
        return httpx.Response(200, json={"request_uuid": call_id})

    real: dict[str, Any] = {"vobiz_auth_id": "MA_T", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": PHONE}
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    settings = {**DEFAULTS, **real, "allowed_regions": "*", "public_url": "https://otp.example.com"}
    settings["vobiz_calls_per_second"] = 0
    async with run_service(http=http, **settings) as service:
        for phone in numbers("+91987654", 3):
            assert (await service.client.post("/send-otp", json={"phone": phone})).status_code == 200
        assert answered == [200] * 3
        cohorts = service.app.state.service._guard._store._cohorts
        assert {share.begun for cohort in cohorts.values() for share in cohort.values()} == {0}


async def test_c5_what_the_carrier_refuses_is_left_out(fake_time: FakeTime) -> None:
    settings: dict[str, Any] = {**DEFAULTS, **ONLY_CONVERSION, "simulator_concurrent_calls": 1}
    async with run_service(fake_time.clock, **settings) as service:
        await service.send(PHONE)  # rings, and takes the account's only line
        for phone in numbers("+91987654", 60):
            assert (await service.send(phone)).json()["code"] == "provider_throttled"
            fake_time.advance(30)
        [share] = await service.app.state.service._guard._store.shares(["prefix:+91987654"], 120)
        assert share.begun == 0


async def test_c5_safe_prefixes_are_not_judged_and_do_not_condemn_their_region(fake_time: FakeTime) -> None:
    few: dict[str, Any] = {"conversion_min_verifications": 2, "safe_prefixes": "+91987654"}
    async with run_service(fake_time.clock, **{**DEFAULTS, **ONLY_CONVERSION, **few}) as service:
        let_callees_be(service, LISTENER)
        assert await pump(service, fake_time, numbers("+91987654", 45)) == 45
        assert (await service.send("+919812345678")).status_code == 200
        assert (await service.client.get("/blocks")).json() == {"blocks": []}


# C6: money


MONEY_ONLY: dict[str, Any] = {"call_prices": "IN=1,max=5", "spend_per_day": "0", "prefix_sends_per_hour": 0}


@pytest.mark.untraced
async def test_c6_of_ten_thousand_parallel_sends_exactly_as_many_call_as_are_paid_for() -> None:
    async with run_service(**MONEY_ONLY, spend_per_hour="100") as service:
        answers = await flood(service, sends(numbers("+91987654", 10_000)), connections=200)
        assert codes_of(answers) == {None: 100, "spending_limit_reached": 9900}
        assert service.carrier.requests == 100


async def test_c6_a_ceiling_of_each_client_does_not_touch_the_others() -> None:
    settings: dict[str, Any] = {**MONEY_ONLY, **KEYS, "client_spend_per_hour": "30", "spend_per_hour": "50"}
    async with run_service(**settings) as service:
        shop = await flood(service, sends(numbers("+91987654", 500), SHOP_KEY))
        assert codes_of(shop) == {None: 30, "spending_limit_reached": 470}
        bank = await flood(service, sends(numbers("+91987655", 500), BANK_KEY))
        assert codes_of(bank) == {None: 20, "spending_limit_reached": 480}, "up to the ceiling of all"
        assert service.carrier.requests == 50


async def test_c6_each_region_costs_its_price_and_others_the_highest() -> None:
    async with run_service(**MONEY_ONLY, spend_per_hour="11") as service:
        dear = await flood(service, sends(numbers("+120255501", 9, digits=2)))
        assert codes_of(dear) == {None: 2, "spending_limit_reached": 7}
        cheap = await flood(service, sends(numbers("+91987654", 9)))
        assert codes_of(cheap) == {None: 1, "spending_limit_reached": 8}


async def test_c6_a_call_that_costs_more_than_the_ceiling_is_not_to_be_waited_for() -> None:
    async with run_service(**MONEY_ONLY, spend_per_hour="4") as service:
        (answer,) = await flood(service, sends(["+12025550142"]))
        assert (answer.status, answer.code) == (429, "spending_limit_reached")
        assert "retry-after" not in answer.headers


@pytest.mark.parametrize(("name", "seconds"), [("spend_per_hour", 3600), ("spend_per_day", 86_400)])
async def test_c6_the_ceiling_holds_in_every_window_and_the_told_wait_is_true(
    fake_time: FakeTime, name: str, seconds: int
) -> None:
    settings: dict[str, Any] = {**MONEY_ONLY, "spend_per_hour": "0", name: "100"}
    async with run_service(fake_time.clock, **settings) as service:
        assert codes_of(await flood(service, sends(numbers("+91987654", 60)))) == {None: 60}
        fake_time.advance(seconds / 2)
        answers = await flood(service, sends(numbers("+91987655", 60)))
        assert codes_of(answers) == {None: 40, "spending_limit_reached": 20}
        wait = int(answers[-1].headers["retry-after"])
        assert seconds / 2 <= wait <= seconds / 2 + seconds / 60
        fake_time.advance(wait - 1)
        assert codes_of(await flood(service, sends(numbers("+91987656", 9)))) == {"spending_limit_reached": 9}
        fake_time.advance(1)
        answers = await flood(service, sends(numbers("+91987656", 90)))
        assert codes_of(answers) == {None: 60, "spending_limit_reached": 30}


async def test_c6_what_the_carrier_refuses_costs_nothing() -> None:
    """Neither of the ceiling of all, nor of the client's."""
    refusals = iter(range(99))

    def vendor(_: httpx.Request) -> httpx.Response:
        is_refused = next(refusals, None) is not None
        return httpx.Response(422) if is_refused else httpx.Response(200, json={"request_uuid": "call"})

    real: dict[str, Any] = {"vobiz_auth_id": "MA_T", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": PHONE}
    settings: dict[str, Any] = {**MONEY_ONLY, **KEYS, "spend_per_hour": "10", "client_spend_per_hour": "10"}
    settings |= {**real, "public_url": "https://otp.example.com", "vobiz_calls_per_second": 0}
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    async with run_service(http=http, **settings) as service:
        answers = await flood(service, sends(numbers("+91987654", 100), SHOP_KEY), connections=1)
        assert codes_of(answers) == {None: 1, "call_rejected": 99}
        answers = await flood(service, sends(numbers("+91987655", 100), SHOP_KEY))
        assert codes_of(answers) == {None: 9, "spending_limit_reached": 91}


async def test_c6_what_was_dialled_without_an_answer_is_paid_for() -> None:
    """A time-out is no refusal: the phone may be ringing."""

    def vendor(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("no answer in time")

    real: dict[str, Any] = {"vobiz_auth_id": "MA_T", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": PHONE}
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    settings: dict[str, Any] = {
        **MONEY_ONLY,
        **real,
        "public_url": "https://otp.example.com",
        "spend_per_hour": "3",
    }
    async with run_service(http=http, **settings) as service:
        answers = await flood(service, sends(numbers("+91987654", 9)))
        assert Counter(answer.status for answer in answers) == {202: 3, 429: 6}


# C7: what a call can cost at most


async def test_c7_each_call_carries_its_limits_and_ends_in_time() -> None:
    async with run_service() as service:
        sent = (await service.send("+14155550103", code_length=10)).json()  # presses 1 three times
        await service.calls_over()
        call = service.carrier.records[sent["call_uuid"]]
        assert call.request.ring_timeout == 30
        assert call.talk_seconds < call.request.time_limit <= 250
        assert call.cause == CAUSES["answer_xml"], "the last document hangs up"
        assert (await service.send(PHONE, max_replays=4)).status_code == 422


async def test_c7_a_callee_who_asks_for_ever_hears_the_code_four_times_at_most() -> None:
    async with run_service() as service:
        let_callees_be(service, replace(LISTENER, keys=("1",) * 20))
        sent = (await service.send(PHONE)).json()
        await service.calls_over()
        call = service.carrier.records[sent["call_uuid"]]
        assert len(heard(call.spoken)) == 4 * 2 * 6
        assert (await service.status(PHONE))["call"]["times_spoken"] == 4


# C8: API keys


def documented(operations: bool = True) -> list[tuple[str, str]]:
    """Every documented route that needs a key, with the method."""
    paths = create_app(load_settings(**KEYS)).openapi()["paths"]
    return [
        (method.upper(), path.replace("{phone}", "+12025550142").replace("{target}", "all"))
        for path, methods in paths.items()
        for method, route in methods.items()
        if route["tags"] == ["backend"] or (operations and path.startswith("/blocks"))
    ]


async def answer_to(
    service: RunningService, method: str, path: str, key: str | None, address: str
) -> httpx.Response:
    body = {"phone": "+12025550142", "otp": "000000"} if path == "/verify-otp" else {"phone": "+12025550142"}
    headers = {"X-Forwarded-For": address} | (bearer(key) if key else {})
    return await service.client.request(method, path, json=body if method == "POST" else None, headers=headers)


WRONG_KEYS = (None, "", "x", "0" * 64, SHOP_KEY + "x", SHOP_KEY[:-1], SHOP_KEY.upper(), f"shop:{SHOP_KEY}")


def test_c8_there_is_something_to_guard() -> None:
    assert sorted(documented()) == [
        ("DELETE", "/blocks/all"), ("GET", "/blocks"), ("GET", "/otp-status/+12025550142"),
        ("POST", "/cancel-otp"), ("POST", "/send-alert"), ("POST", "/send-otp"), ("POST", "/verify-otp"),
        ("PUT", "/blocks/all"),
    ]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), documented())
async def test_c8_no_route_opens_without_its_key(method: str, path: str) -> None:
    foreign_key = SHOP_KEY if path.startswith("/blocks") else OPERATOR_KEY
    async with run_service(**KEYS, trusted_proxies="127.0.0.1") as service:
        for index, key in enumerate([*WRONG_KEYS, foreign_key]):
            answer = await answer_to(service, method, path, key, f"192.0.2.{index}")
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        right_key = OPERATOR_KEY if path.startswith("/blocks") else SHOP_KEY
        assert (await answer_to(service, method, path, right_key, "192.0.2.99")).status_code != 401
        assert service.carrier.requests == (path == "/send-otp")


async def test_c8_a_key_is_asked_for_before_anything_is_read() -> None:
    """Whoever has none learns nothing about what would be wrong with the request."""
    async with run_service(**KEYS) as service:
        for content in (b"{", b"[" * 10_000, b"x" * 100_000):
            answer = await service.client.post("/send-otp", content=content)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_c8_with_a_real_carrier_nothing_but_health_is_open() -> None:
    real: dict[str, Any] = {"vobiz_auth_id": "MA_T", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": PHONE}
    settings: dict[str, Any] = {
        **KEYS,
        **real,
        "public_url": "https://otp.example.com",
        "trusted_proxies": "127.0.0.1",
    }
    async with run_service(**settings, allow_anonymous=False) as service:
        open_routes = set()
        for index, route in enumerate(service.app.routes):
            path = route.path.split("{")[0] + ("x" if "{" in route.path else "")  # type: ignore[attr-defined]
            for method in sorted(route.methods - {"HEAD"}):  # type: ignore[attr-defined]
                answer = await answer_to(service, method, path, None, f"192.0.2.{index}")
                if answer.status_code not in (401, 403, 404):
                    open_routes.add((path, answer.status_code))
        assert open_routes == {("/health", 200), ("/ready", 200)}


async def test_c8_both_keys_work_in_rotation_and_a_revoked_one_does_not() -> None:
    async with run_service(**KEYS) as service:
        for key in (SHOP_KEY, SHOP_NEW_KEY):
            assert (await answer_to(service, "POST", "/send-otp", key, "")).status_code == 200
        status = await answer_to(service, "GET", "/otp-status/+12025550142", SHOP_NEW_KEY, "")
        assert status.status_code == 200, "they are one client"
    async with run_service(**{**KEYS, "api_keys": f"shop:{SHOP_NEW_KEY}"}) as service:
        assert (await answer_to(service, "POST", "/send-otp", SHOP_KEY, "")).status_code == 401
        assert (await answer_to(service, "POST", "/send-otp", SHOP_NEW_KEY, "")).status_code == 200


async def test_c8_trying_keys_is_stopped_but_known_clients_behind_the_address_are_not(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, **KEYS) as service:
        assert (await answer_to(service, "POST", "/send-otp", SHOP_KEY, "")).status_code == 200
        tried = await flood(service, [sends([PHONE], f"guess-{number:030d}")[0] for number in range(200)])
        assert Counter(answer.status for answer in tried) == {401: 10, 429: 190}
        right = await answer_to(service, "POST", "/send-otp", BANK_KEY, "")
        assert wait_told_by(right) == 600, "the right key of an unknown client looks like another guess"
        assert (await answer_to(service, "POST", "/send-otp", SHOP_KEY, "")).status_code == 200
        fake_time.advance(600)
        assert (await answer_to(service, "GET", "/otp-status/+12025550142", BANK_KEY, "")).status_code == 404


async def test_c8_without_keys_everybody_is_one_client_and_only_where_that_was_said() -> None:
    async with run_service(allow_anonymous=True, client_sends_per_hour=1) as service:
        first, second = await flood(service, sends(["+12025550142", "+12025550143"]), connections=1)
        assert (first.status, second.status) == (200, 429)
        record = await service.app.state.service._store.find(ANONYMOUS, "+12025550142")
        assert record.client == ANONYMOUS
    with pytest.raises(Exception, match="API_KEYS is not set"):
        load_settings(http_host="0.0.0.0")
    assert load_settings(http_host="0.0.0.0", allow_anonymous=True).is_open


async def test_c8_keys_do_not_show_in_answers_logs_or_representations(caplog: pytest.LogCaptureFixture) -> None:
    async with run_service(**KEYS) as service:
        answers = [await answer_to(service, "POST", "/send-otp", key, "") for key in (SHOP_KEY, SHOP_KEY + "x")]
        shown = "".join(answer.text + json.dumps(dict(answer.headers)) for answer in answers)
        shown += repr(service.settings) + service.settings.model_dump_json() + caplog.text
        assert not any(key in shown for key in (SHOP_KEY, SHOP_NEW_KEY, BANK_KEY, OPERATOR_KEY))


# C5 through a carrier whose callbacks are in our hands

CONVERSION = {"conversion_monitor": "block", "conversion_min_verifications": 20, "prefix_sends_per_hour": 0}
FAILED_END: dict[str, Any] = {"Event": "Hangup", "HangupCauseCode": "2000", "HangupCause": "x"}
ANSWERED_END: dict[str, Any] = {
    "Event": "Hangup",
    "HangupCauseCode": "4000",
    "HangupCause": "NORMAL_CLEARING",
    "Duration": "30",
}


async def test_c5_a_first_call_that_fails_does_not_hide_the_answered_ones_that_follow(fake_time: FakeTime) -> None:
    carrier, paid = HandCarrier(), 0
    async with run_vobiz(carrier, fake_time.clock, **CONVERSION) as service:
        for number in range(40):
            phone = f"+91987654{number:04d}"
            for end in (FAILED_END, ANSWERED_END):
                if (await service.send(phone, ttl_seconds=600)).status_code != 200:
                    continue
                call = Call(service, carrier, phone)
                if end is ANSWERED_END:
                    paid += 1
                    await call.post("/answer/{token}?n=1", Event="StartApp")
                await call.post("/hangup/{token}", **end)
                fake_time.advance(31)
    assert 20 <= paid < 30


async def test_c5_calls_that_a_carrier_never_confirmed_do_not_block_a_region(fake_time: FakeTime) -> None:
    class Silent(HandCarrier):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ReadTimeout("no answer")

    async with run_vobiz(Silent(), fake_time.clock, **CONVERSION) as service:
        for number in range(60):
            assert (await service.send(f"+91987654{number:04d}")).status_code == 202
            fake_time.advance(10)


async def test_c5_a_failure_that_is_told_several_times_at_once_is_left_out_once(fake_time: FakeTime) -> None:
    carrier = HandCarrier()
    async with run_vobiz(carrier, fake_time.clock, **CONVERSION) as service:
        for number in range(3):
            await service.send(f"+91987654{number:04d}")
        call = Call(service, carrier, "+919876540002")
        await asyncio.gather(*(call.post("/hangup/{token}", **FAILED_END) for _ in range(20)))
        store = service.app.state.service._protection.store
        assert [share.begun for share in await store.shares(["prefix:+91987654"], -120)] == [2]
