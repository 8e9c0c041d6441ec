"""Guessing: how many codes anybody can try, at one number and at all of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

import request_budgets
from tests.conftest import FakeTime, RunningService, keep_secret, run_service
from tests.security.attackers import (
    BANK_KEY,
    BUSY,
    KEYS,
    OPERATOR_KEY,
    SHOP_KEY,
    Answer,
    Post,
    bearer,
    flood,
    let_callees_be,
    numbers,
    sends,
)
from tests.test_server import program, wait_for_line

PHONE = keep_secret("+12025550142")
CODE, WRONG = keep_secret("CANARY610"), "000000"


def guesses(keys: list[str], code: str = WRONG, headers: dict[str, str] | None = None) -> list[Post]:
    names = ["verification_id" if key.startswith("vrf_") else "phone" for key in keys]
    return [
        Post("/verify-otp", {name: key, "otp": code}, headers or {}) for name, key in zip(names, keys, strict=True)
    ]


def reasons(answers: list[Answer]) -> Counter[str | None]:
    return Counter(answer.body.get("reason") or answer.code for answer in answers)


# B1: one code


@pytest.mark.untraced
async def test_b1_of_ten_thousand_parallel_guesses_five_are_evaluated() -> None:
    async with run_service() as service:
        await service.send(PHONE, code=CODE)
        answers = await flood(service, guesses([PHONE] * 10_000), connections=200)
        assert reasons(answers) == {"incorrect": 5, "too_many_attempts": 9995}
        assert sorted(a.body["attempts_left"] for a in answers if a.body["reason"] == "incorrect") == [
            0,
            1,
            2,
            3,
            4,
        ]
        right = await service.verify(PHONE, CODE)
        assert (right.status_code, right.json()["reason"]) == (400, "too_many_attempts")


async def test_b1_guesses_by_number_and_by_id_are_the_same_five() -> None:
    async with run_service() as service:
        verification_id = (await service.send(PHONE, code=CODE)).json()["verification_id"]
        answers = await flood(service, guesses([PHONE, verification_id] * 50))
        assert reasons(answers)["incorrect"] == 5


# B2, B3: one number


async def guess_until_refused(service: RunningService, fake_time: FakeTime, phone: str = PHONE) -> tuple[int, int]:
    """Send and guess, wait as told, and again: how many guesses were evaluated in a day, and the last wait."""
    evaluated, end = 0, fake_time.seconds + 86_400
    wait = 0
    while fake_time.seconds < end:
        sent = await service.send(phone, code=CODE)
        await service.calls_over()
        answer = await service.verify(phone, WRONG) if sent.status_code == 200 else sent
        if answer.status_code == 429:
            wait = int(answer.headers["retry-after"])
            fake_time.advance(wait)
        evaluated += answer.status_code == 400 and answer.json()["reason"] == "incorrect"
    return evaluated, wait


@pytest.mark.parametrize("most", [20, 7])
async def test_b2_a_number_is_locked_for_a_day_at_its_most_failures_over_all_codes(
    fake_time: FakeTime, most: int
) -> None:
    async with run_service(fake_time.clock, max_failures_per_number=most) as service:
        let_callees_be(service, BUSY)
        evaluated, wait = await guess_until_refused(service, fake_time)
        assert evaluated == most
        assert wait == 86_400


async def test_b2_inside_a_wait_nothing_is_evaluated_not_even_the_right_code(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, max_attempts=5) as service:
        let_callees_be(service, BUSY)
        await service.send(PHONE, code=CODE)
        await service.calls_over()
        for _ in range(4):
            await service.verify(PHONE, WRONG)
        await service.client.post("/cancel-otp", json={"phone": PHONE})
        await service.send(PHONE, code=CODE)
        await service.calls_over()
        assert (await service.verify(PHONE, WRONG)).json()["attempts_left"] == 4, "the fifth in a row"
        for candidate in (CODE, WRONG):
            answer = await service.verify(PHONE, candidate)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_failures")
            assert answer.headers["retry-after"] == "30"
        fake_time.advance(29.9)
        assert (await service.verify(PHONE, CODE)).status_code == 429
        fake_time.advance(0.1)
        assert (await service.verify(PHONE, CODE)).json()["valid"] is True


async def test_b2_failures_of_one_client_count_for_the_next_one(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, **KEYS) as service:
        let_callees_be(service, BUSY)
        await flood(service, sends([PHONE], SHOP_KEY, code=CODE))
        await service.calls_over()
        await flood(service, guesses([PHONE] * 5, headers=bearer(SHOP_KEY)), connections=1)
        (refused,) = await flood(service, sends([PHONE], BANK_KEY, code=CODE))
        assert (refused.status, refused.code) == (429, "too_many_failures")


async def test_b2_a_success_after_nineteen_failures_sets_the_count_to_nothing(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock) as service:
        let_callees_be(service, BUSY)
        failures = 0
        for _ in range(2):
            for left in (5, 5, 5, 4):
                assert (await service.send(PHONE, code=CODE)).status_code == 200
                await service.calls_over()
                for _ in range(left):
                    assert (await service.verify(PHONE, WRONG)).json()["reason"] == "incorrect"
                    failures += 1
                    fake_time.advance(3600)
                    await service.send(PHONE, code=CODE)
                    await service.calls_over()
            assert (await service.verify(PHONE, CODE)).json()["valid"] is True
        assert failures == 38, "twenty in a row would have locked the number"


async def test_b3_new_codes_forgive_nothing(fake_time: FakeTime) -> None:
    """Neither a resend nor a new verification: the waits go on as those of so many in a row."""
    async with run_service(fake_time.clock, resend_code="new", max_failures_per_number=100) as service:
        let_callees_be(service, BUSY)
        waits = []
        for failure in range(16):
            assert (await service.send(PHONE)).status_code == 200, "a new code each time"
            await service.calls_over()
            assert (await service.verify(PHONE, WRONG)).json()["reason"] == "incorrect"
            if failure % 4 == 3:
                await service.client.post("/cancel-otp", json={"phone": PHONE})
            refused = await service.send(PHONE)
            await service.calls_over()
            waits.append(int(refused.headers.get("retry-after", "0")))
            fake_time.advance(waits[-1])
        assert waits == [0, 0, 0, 0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, 3600]


# B4: strangers


async def test_b4_without_the_id_nobody_burns_an_attempt() -> None:
    async with run_service(require_verification_id=True) as service:
        verification_id = (await service.send(PHONE, code=CODE)).json()["verification_id"]
        foreign_ids = [f"vrf_{index:032x}" for index in range(500)]
        answers = await flood(service, guesses([PHONE] * 500 + foreign_ids))
        assert reasons(answers) == {"invalid_request": 500, "expired_or_not_found": 500}
        assert (await service.status(verification_id))["attempts_left"] == 5
        (right,) = await flood(service, guesses([verification_id], CODE))
        assert right.body["valid"] is True


async def test_b4_a_wrong_guess_never_deletes_the_code() -> None:
    async with run_service() as service:
        verification_id = (await service.send(PHONE, code=CODE)).json()["verification_id"]
        await flood(service, guesses([f"vrf_{index:032x}" for index in range(100)]))
        await flood(service, guesses([PHONE] * 4))
        (right,) = await flood(service, guesses([verification_id], CODE))
        assert right.body["valid"] is True


# B5: one guess at each of many numbers


async def begin_for(service: RunningService, phones: list[str], key: str, ttl_seconds: int = 600) -> None:
    answers = await flood(service, sends(phones, key, code=CODE, ttl_seconds=ttl_seconds))
    assert {answer.status for answer in answers} == {200}


@pytest.mark.untraced
@pytest.mark.timeout(300)
async def test_b5_one_guess_at_each_of_many_codes_is_stopped_at_the_budget(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings: dict[str, Any] = {**KEYS, "client_wrong_codes_per_hour": 300, "trusted_proxies": "127.0.0.1"}
    async with run_service(**settings) as service:
        let_callees_be(service, BUSY)
        phones = numbers("+91987654", 1000)
        await begin_for(service, phones, SHOP_KEY)
        await begin_for(service, numbers("+91987655", 5), BANK_KEY)
        caplog.clear()
        sprayed = await flood(
            service, guesses(phones, headers={**bearer(SHOP_KEY), "X-Forwarded-For": "192.0.2.1"})
        )
        assert reasons(sprayed) == {"incorrect": 300, "rate_limited": 700}
        assert 3590 <= int(sprayed[-1].headers["retry-after"]) <= 3660
        alarms = [record for record in caplog.records if record.message.startswith("guessing stopped")]
        assert len(alarms) == 700
        assert alarms[0].levelname == "ERROR"
        (right,) = await flood(service, guesses(phones[-1:], CODE, {**bearer(SHOP_KEY), "X-Forwarded-For": "::1"}))
        assert right.status == 429, "from another address, too, and the right code as well"
        others = await flood(
            service, guesses(numbers("+91987655", 5), CODE, {**bearer(BANK_KEY), "X-Forwarded-For": "192.0.2.2"})
        )
        assert [answer.status for answer in others] == [200] * 5, "other clients are served"


async def test_b5_an_address_has_a_budget_over_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {**KEYS, "client_wrong_codes_per_hour": 10, "trusted_proxies": "127.0.0.1"}
    monkeypatch.setattr(request_budgets, "ADDRESS_FACTOR", 1)
    async with run_service(**settings) as service:
        phones = numbers("+91987654", 8)
        for key in (SHOP_KEY, BANK_KEY):
            let_callees_be(service, BUSY)
            await begin_for(service, phones, key)
            await service.calls_over()
            answers = await flood(
                service, guesses(phones, headers={**bearer(key), "X-Forwarded-For": "192.0.2.1"})
            )
        assert reasons(answers) == {"incorrect": 2, "rate_limited": 6}


@pytest.mark.untraced
async def test_b5_all_wrong_codes_of_a_day_have_a_budget(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, wrong_codes_per_day=100) as service:
        phones = numbers("+91987654", 150)
        await flood(service, sends(phones, code=CODE, ttl_seconds=600))
        answers = await flood(service, guesses(phones))
        assert reasons(answers) == {"incorrect": 100, "rate_limited": 50}
        fake_time.advance(int(answers[-1].headers["retry-after"]))
        (later,) = await flood(service, guesses(["+12025550199"]))
        assert later.status == 400


async def test_b5_right_codes_and_unknown_numbers_use_up_no_budget() -> None:
    async with run_service(client_wrong_codes_per_hour=3) as service:
        phones = numbers("+91987654", 20)
        await flood(service, sends(phones, code=CODE))
        assert {answer.status for answer in await flood(service, guesses(phones, CODE))} == {200}
        unknown = await flood(service, guesses(numbers("+91987656", 20)))
        assert reasons(unknown) == {"expired_or_not_found": 20}
        assert (await service.verify(phones[0], CODE)).status_code == 400


# B8: spellings

SPELLINGS = [
    "+12025550142", "+1 2025550142", "+1 202 555 0142", "+1-202-555-0142", "+1.202.555.0142",
    "+1 (202) 555-0142", "+1(202)5550142", "+1 (202)5550142", "+1 202.555.0142", "+1 202-555-0142",
    "+12 02 55 50 14 2", "+120 255 50142", "+1 (2) 025550142", "+1  202  555  0142", "+1--202--5550142",
    "+1 202 5550142 ", "+(1)2025550142", "+1 20 25 55 01 42", "+1.2025550142", "+1-2025550142",
    "+1(2025550142)", "+1 (202) 5550142", "+1 202 555 01 42", "+1 202555-01-42", "+1 202 55-50-142",
    "+1()2025550142", "+-12025550142", "+ 1 202 555 0142", "+.12025550142", "+1 202 (555) 0142", "12025550142",
    "2025550142", "0012025550142", "01112025550142", "+012025550142", "++12025550142", " +12025550142",
    "\t+12025550142", "+12025550142\n", "tel:+12025550142", "tel:+1-202-555-0142", "sip:+12025550142@x",
    "+1 202 555 0142 ext 5", "+12025550142;ext=5", "+12025550142,,5", "+12025550142x5", "+1 202 555 0142 #5",
    "+1/202/5550142", "+1_202_555_0142", "+1\u00a02025550142", "+1\u200b2025550142", "+1\u20102025550142",
    "＋12025550142", "+１２０２５５５０１４２", "+१२०२५५५०१४२", "+١٢٠٢٥٥٥٠١٤٢", "abc+12025550142", "+1202555O142",
    "+1 202 KLJ 0142", "+12025550142;phone-context=+44", "+1202555014２", "%2B12025550142",
]  # fmt: skip


def test_b8_there_are_sixty_spellings() -> None:
    assert len(set(SPELLINGS)) >= 60


async def test_b8_sixty_spellings_of_one_number_are_one_call_and_one_cooldown(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, resend_after_seconds=30) as service:
        let_callees_be(service, BUSY)
        await service.send(PHONE)
        await service.calls_over()
        answers = await flood(service, sends(SPELLINGS))
        outcomes = Counter((answer.status, answer.code) for answer in answers)
        assert set(outcomes) == {(429, "rate_limited"), (422, "invalid_phone")}
        assert outcomes[429, "rate_limited"] >= 25
        assert service.carrier.requests == 1


async def test_b8_guesses_in_sixty_spellings_share_the_attempts() -> None:
    async with run_service() as service:
        await service.send(PHONE, code=CODE)
        answers = await flood(service, guesses(SPELLINGS))
        found = reasons(answers)
        assert found["incorrect"] == 5
        assert set(found) == {"incorrect", "too_many_attempts", "invalid_phone"}


# B9: where a request comes from

FORGED = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "CF-Connecting-IP", "True-Client-IP")


def forged(index: int) -> dict[str, str]:
    address = f"203.0.113.{index}"
    return {name: f"for={address}" if name == "Forwarded" else address for name in FORGED}


async def key_guesses(service: RunningService, headers: list[dict[str, str]]) -> Counter[int]:
    posts = [
        Post("/send-otp", {"phone": PHONE}, {**bearer(f"guess-{index:030d}"), **more})
        for index, more in enumerate(headers)
    ]
    return Counter(answer.status for answer in await flood(service, posts))


async def test_b9_forged_headers_straight_to_the_port_are_one_sender() -> None:
    async with run_service(**KEYS) as service:
        assert await key_guesses(service, [forged(index) for index in range(100)]) == {401: 10, 429: 90}


async def test_b9_behind_a_trusted_proxy_its_word_counts_and_forged_words_before_it_do_not() -> None:
    async with run_service(**KEYS, trusted_proxies="127.0.0.1") as service:
        one = [{"X-Forwarded-For": f"198.51.100.{index}, 192.0.2.1"} for index in range(100)]
        assert await key_guesses(service, one) == {401: 10, 429: 90}
        many = [{"X-Forwarded-For": f"192.0.2.1, 198.51.100.{index}"} for index in range(100)]
        assert await key_guesses(service, many) == {401: 100}


async def test_b9_all_addresses_of_one_ipv6_customer_are_one_sender() -> None:
    """2^16 of them by the hundred; and the next customer is another one."""
    async with run_service(**KEYS, trusted_proxies="127.0.0.1") as service:
        addresses = [f"2001:db8:1:2:{index:x}:{index * 7 % 65_536:x}::1" for index in range(0, 65_536, 128)]
        assert await key_guesses(service, [{"X-Forwarded-For": a} for a in addresses]) == {401: 10, 429: 502}
        others = [{"X-Forwarded-For": f"2001:db8:1:{index:x}::1"} for index in range(3, 53)]
        assert await key_guesses(service, others) == {401: 50}


def test_b9_the_program_itself_believes_no_forged_header(tmp_path: Path) -> None:
    """As it is started for real, with its own server configuration."""
    settings: dict[str, Any] = {"HTTP_PORT": "0", "API_KEYS": SHOP_KEY, "OPERATOR_KEYS": OPERATOR_KEY}
    with program(tmp_path, **settings) as process:
        url = wait_for_line(process, "startup complete")[1].split()[-1].removesuffix("/phone")
        with httpx.Client(base_url=url, timeout=10) as client:
            statuses = [
                client.get(f"/otp-status/{PHONE}", headers={**forged(index), **bearer("x")}).status_code
                for index in range(15)
            ]
    assert statuses == [401] * 10 + [429] * 5
