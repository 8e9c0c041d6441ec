"""The code itself: random, short-lived, right once, and nowhere but in the call."""

import gc
import hmac
import itertools
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from log_format import ConsoleFormatter, JsonFormatter
from otp_store import StoreUnavailable
from settings import BadSettings, load_settings
from tests.conftest import OTP_SECRET, FakeTime, RunningService, keep_secret, run_service
from tests.hearing import heard
from tests.redis_servers import RedisServer
from tests.security.attackers import (
    BANK_KEY,
    BUSY,
    KEYS,
    LISTENER,
    SHOP_KEY,
    Post,
    bearer,
    flood,
    let_callees_be,
    sends,
)
from verification import draw_code

ROOT = Path(__file__).parent.parent.parent
PHONE = keep_secret("+12025550142")
CODE, WRONG = keep_secret("CANARY610"), "000000"


# A1


def test_a1_digits_are_even_in_each_position() -> None:
    codes = [draw_code(6) for _ in range(100_000)]
    assert sum(code.startswith("0") for code in codes) > 9000, "leading zeros are kept"
    for position in range(6):
        seen = Counter(code[position] for code in codes)
        chi_square = sum((seen[digit] - 10_000) ** 2 / 10_000 for digit in "0123456789")
        assert chi_square < 45, f"position {position}: p < 1e-6 for nine degrees of freedom"


TWO_FORKS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from verification import draw_code
draw_code(6)
for _ in range(2):
    if os.fork() == 0:
        sys.stdout.write("".join(draw_code(6) for _ in range(10_000)) + "\\n")
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def test_a1_forked_processes_draw_other_codes() -> None:
    ran = subprocess.run([sys.executable, "-c", TWO_FORKS, str(ROOT)], capture_output=True, text=True, check=True)
    first, second = ([line[at : at + 6] for at in range(0, 60_000, 6)] for line in ran.stdout.split())
    assert len(first) == len(second) == 10_000
    runs = set(itertools.pairwise(first))
    assert not runs & set(itertools.pairwise(second)), "no two codes in a row come twice"


@pytest.mark.parametrize("fields", [{"code_length": 4}, {"code_length": 5}, {"code": "1234"}, {"code_length": 3}])
async def test_a1_a_shorter_code_is_refused(service: RunningService, fields: dict[str, Any]) -> None:
    answer = await service.client.post("/send-otp", json={"phone": PHONE, **fields})
    assert answer.status_code == 422
    assert service.carrier.requests == 0


# A2


@pytest.mark.parametrize("ttl_seconds", [None, 30, 600])
@pytest.mark.parametrize(("late_by", "is_valid"), [(-0.1, True), (0.1, False)])
async def test_a2_a_code_is_right_up_to_its_deadline(
    fake_time: FakeTime, ttl_seconds: int | None, late_by: float, is_valid: bool
) -> None:
    async with run_service(fake_time.clock) as service:
        sent = await service.send(PHONE, code=CODE, **({"ttl_seconds": ttl_seconds} if ttl_seconds else {}))
        lifetime = sent.json()["expires_in"]
        assert lifetime == (ttl_seconds or 300)
        fake_time.advance(lifetime + late_by)
        assert (await service.verify(PHONE, CODE)).json()["valid"] is is_valid


async def test_a2_a_resend_does_not_lengthen_the_life_of_a_code(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock) as service:
        let_callees_be(service, BUSY)
        for _ in range(10):
            await service.send(PHONE, code=CODE)
            await service.calls_over()
            fake_time.advance(29.99)
        fake_time.advance(0.2)
        assert (await service.verify(PHONE, CODE)).json()["reason"] == "expired_or_not_found"


async def test_a2_no_setting_and_no_request_goes_beyond_ten_minutes(service: RunningService) -> None:
    with pytest.raises(BadSettings, match="CODE_TTL_SECONDS"):
        load_settings(code_ttl_seconds=601)
    assert (await service.send(PHONE, ttl_seconds=601)).status_code == 422


# A3


@pytest.mark.untraced
async def test_a3_of_a_thousand_parallel_right_codes_one_is_accepted() -> None:
    async with run_service() as service:
        for _ in range(3):
            await service.send(PHONE, code=CODE)
            answers = await flood(service, [Post("/verify-otp", {"phone": PHONE, "otp": CODE})] * 1000, 200)
            assert Counter(answer.status for answer in answers) == {200: 1, 400: 999}


# A4


async def test_a4_an_old_code_is_dead_once_a_new_one_exists() -> None:
    async with run_service(resend_code="new") as service:
        let_callees_be(service, BUSY)
        first, second = keep_secret("FIRST610"), keep_secret("SECOND610")
        for code in (first, second):
            await service.send(PHONE, code=code)
            await service.calls_over()
        assert (await service.verify(PHONE, first)).json()["reason"] == "incorrect"
        assert (await service.verify(PHONE, second)).json()["valid"] is True


async def test_a4_a_code_is_right_for_its_number_only(service: RunningService) -> None:
    other = keep_secret("+12025550143")
    await service.send(PHONE, code=CODE)
    sent = await service.send(other, code=keep_secret("OTHER610"))
    assert (await service.verify(other, CODE)).json()["reason"] == "incorrect"
    by_id = {"verification_id": sent.json()["verification_id"], "otp": CODE}
    assert (await service.client.post("/verify-otp", json=by_id)).json()["reason"] == "incorrect"
    assert (await service.verify(PHONE, CODE)).json()["valid"] is True


async def test_a4_a_code_is_its_clients_own() -> None:
    """Another client can neither check, read nor cancel it: for that client it does not exist."""
    async with run_service(**KEYS) as service:
        (sent,) = await flood(service, sends([PHONE], SHOP_KEY, code=CODE))
        verification_id = sent.body["verification_id"]
        bank, shop = bearer(BANK_KEY), bearer(SHOP_KEY)
        for name, key in (("phone", PHONE), ("verification_id", verification_id)):
            (foreign,) = await flood(service, [Post("/verify-otp", {name: key, "otp": CODE}, bank)])
            assert foreign.body == {"valid": False, "reason": "expired_or_not_found", "attempts_left": 0}
            assert (await service.client.get(f"/otp-status/{key}", headers=bank)).status_code == 404
            (foreign,) = await flood(service, [Post("/cancel-otp", {name: key}, bank)])
            assert foreign.status == 404
        (own,) = await flood(service, [Post("/verify-otp", {"phone": PHONE, "otp": CODE}, shop)])
        assert own.body["valid"] is True


# A5


def texts_kept_by(*roots: object) -> Iterator[bytes]:
    """Every text and every run of bytes that can be reached from these objects, functions and modules left out."""
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or callable(thing) or type(thing).__name__ in ("module", "frame"):
            continue
        seen.add(id(thing))
        if isinstance(thing, str | bytes):
            yield thing.encode() if isinstance(thing, str) else thing
        else:
            waiting += gc.get_referents(thing)
            waiting += [getattr(thing, name) for name in getattr(thing, "__struct_fields__", ())]


async def test_a5_nothing_that_is_kept_holds_a_code_in_clear() -> None:
    codes = [keep_secret(f"CANARY{index:04d}") for index in range(100)]
    phones = [f"+1202555{index:04d}" for index in range(100, 200)]
    async with run_service() as service:
        let_callees_be(service, LISTENER)
        posts = [sends([phone], code=code)[0] for phone, code in zip(phones, codes, strict=True)]
        posts = [post._replace(headers={"Idempotency-Key": f"key-{at}"}) for at, post in enumerate(posts)]
        answers = await flood(service, posts)
        assert {answer.status for answer in answers} == {200}
        await service.calls_over()
        parts = [service.app.state.service._store, service.app.state.service._protection]
        kept = list(texts_kept_by(*(vars(part) if hasattr(part, "__dict__") else list(part) for part in parts)))
        assert sum(phone.encode() in kept for phone in phones) == 100, "the search reaches the records"
        assert not [text for text in kept if b"CANARY" in text]
        for phone, code in zip(phones[:50], codes[:50], strict=True):
            assert (await service.verify(phone, code)).status_code == 200
        for phone in phones[50:]:
            await service.client.post("/cancel-otp", json={"phone": phone})
        pages = service.app.state.service._store._pages.values()
        records = [record for page in pages for record in page.records]
        assert {record.sealed_code for record in records} == {b""}, "once worthless, not even sealed"


async def test_a5_redis_is_never_told_a_code_or_a_number() -> None:
    codes = [keep_secret(f"CANARY{index:04d}") for index in range(12)]
    phones = [keep_secret(f"+1202555{index:04d}") for index in range(100, 112)]
    with RedisServer(appendonly="yes", aof_use_rdb_preamble="no") as redis:
        async with run_service(
            simulate=True, providers="vobiz", vobiz_calls_per_second=4, redis_url=redis.url, otp_secret=OTP_SECRET
        ) as service:
            let_callees_be(service, LISTENER)
            posts = [sends([phone], code=code)[0] for phone, code in zip(phones, codes, strict=True)]
            posts = [post._replace(headers={"Idempotency-Key": f"key-{at}"}) for at, post in enumerate(posts)]
            statuses = Counter(answer.status for answer in await flood(service, posts))
            assert statuses[200] + statuses[202] == 12
            assert statuses[202], "some wait for their turn, as jobs"
            for phone, code in zip(phones, codes, strict=True):
                while (await service.status(phone))["status"] != "delivered":
                    continue
                assert (await service.verify(phone, code)).status_code == 200
        written = b"".join(path.read_bytes() for path in redis.directory.rglob("*.aof"))
        assert len(written) > 10_000, "each write since the start"
        assert b"CANARY" not in written
        assert not [phone for phone in phones if phone[1:].encode() in written]


# A6


async def test_a6_a_code_is_in_no_log_line_and_no_answer_whatever_goes_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the level DEBUG, in both formats, through every path that sees a code."""
    written: list[str] = []

    class Everything(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.extend(formatter.format(record) for formatter in (JsonFormatter(), ConsoleFormatter()))
            written.append(repr(vars(record)))

    handler = Everything(logging.DEBUG)
    quiet = {name: logging.getLogger(name).level for name in ("", "httpx", "httpcore")}
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG)
    answers: list[str] = []
    try:
        async with run_service() as service:
            let_callees_be(service, LISTENER)

            async def post(path: str, body: Any) -> None:
                answer = await service.client.post(path, json=body)
                answers.append(answer.text + json.dumps(dict(answer.headers)))

            await post("/send-otp", {"phone": PHONE, "code": CODE})
            await service.calls_over()
            (call,) = service.carrier.records.values()
            assert heard(call.spoken).startswith(CODE), "it was read"
            for otp in (CODE + "X", CODE.lower(), CODE + "\n", [CODE], {CODE: CODE}, 1, None, CODE * 20):
                await post("/verify-otp", {"phone": PHONE, "otp": otp})
            await post("/verify-otp", {"phone": CODE, "otp": CODE})
            await post("/verify-otp", {CODE: CODE})
            await post("/send-otp", {"phone": PHONE, "code": CODE, "language": CODE})
            await post("/send-otp", {"phone": "+12025550143", "code": CODE, "provider": "nobody"})
            answers.append((await service.client.get(f"/otp-status/{CODE}")).text)
            answers.append((await service.client.get(f"/{CODE}")).text)
            with monkeypatch.context() as broken:
                for error in (StoreUnavailable("gone"), RuntimeError(f"a bug that says {CODE}")):

                    async def fail(*_: Any, error: Exception = error) -> Any:
                        raise error

                    broken.setattr(service.app.state.service._store, "check", fail)
                    broken.setattr(service.app.state.service._store, "begin", fail)
                    await post("/verify-otp", {"phone": PHONE, "otp": CODE})
                    await post("/send-otp", {"phone": "+12025550144", "code": CODE})
            await post("/verify-otp", {"phone": PHONE, "otp": CODE})
            assert '"valid":true' in answers[-1]
            await post("/verify-otp", {"phone": PHONE, "otp": CODE})
    finally:
        logging.root.removeHandler(handler)
        for name, level in quiet.items():
            logging.getLogger(name).setLevel(level)
    assert len(written) > 100, "or nothing was watched"
    assert [line for line in written if CODE in line] == []
    assert [answer for answer in answers if CODE in answer] == []


async def test_a6_what_speaks_the_code_is_stored_by_nobody_on_the_way(service: RunningService) -> None:
    await service.send(PHONE, code=CODE)
    call = next(iter(service.carrier.calls.values()))
    path = call.request.answer.url.split(str(service.settings.http_port))[1]
    fields = {"CallUUID": call.request.call_id, "Event": "StartApp"}
    answer = await service.client.post(path, data=fields)
    assert answer.text.count("<Speak") > 10
    assert answer.headers["cache-control"] == "no-store"
    assert CODE not in path


# A7


async def test_a7_unknown_expired_used_and_cancelled_codes_look_the_same_and_cost_one_comparison(
    fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bool] = []

    def counted(one: bytes, other: bytes) -> bool:
        assert isinstance(one, bytes)
        assert isinstance(other, bytes)
        compared.append(real(one, other))
        return compared[-1]

    real = hmac.compare_digest
    phones = {name: keep_secret(f"+1202555014{digit}") for digit, name in enumerate(
        ("unknown", "expired", "used", "cancelled", "wrong", "locked"))}  # fmt: skip
    async with run_service(fake_time.clock) as service:
        await service.send(phones["expired"], code=CODE, ttl_seconds=30)
        for name in ("used", "cancelled", "wrong", "locked"):
            await service.send(phones[name], code=CODE)
        fake_time.advance(31)
        await service.verify(phones["used"], CODE)
        await service.client.post("/cancel-otp", json={"phone": phones["cancelled"]})
        for _ in range(5):
            await service.verify(phones["locked"], WRONG)
        answers, costs = {}, {}
        for name, phone in phones.items():
            with monkeypatch.context() as watched:
                compared.clear()
                watched.setattr(hmac, "compare_digest", counted)
                answer = await service.verify(phone, WRONG)
            headers = {key: value for key, value in answer.headers.items() if key not in ("date", "x-request-id")}
            answers[name] = (answer.status_code, answer.text, headers)
            costs[name] = len(compared)
        assert costs == dict.fromkeys(phones, 1)
        assert answers["unknown"] == answers["expired"] == answers["used"] == answers["cancelled"]
        assert {answer[0] for answer in answers.values()} == {400}
        right = await service.verify(phones["expired"], CODE)
        assert right.text == answers["unknown"][1], "the right code of a dead verification tells nothing, either"


@pytest.mark.parametrize("otp", ["٠١٢٣٤٥", "０１２３４５", "²²²²²²", "000000\n", "00000\x00", "ÄÄÄÄÄÄ", "000 000"])
async def test_a7_other_characters_are_refused_before_any_comparison(service: RunningService, otp: str) -> None:
    await service.send(PHONE, code=CODE)
    answer = await service.verify(PHONE, otp)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await service.status(PHONE))["attempts_left"] == 5


# A8


def test_a8_the_documentation_says_what_a_phone_call_cannot_give() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for words in ("restricted authenticator", "not phishing-resistant", "another factor", "ASVS level 3"):
        assert words in readme, words
