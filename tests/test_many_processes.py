"""C3, D4, F1, H4: two services with one Redis, and two workers on one port, are one service to whoever asks."""

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bench.crashes import RungCall, World, post, world
from bench.servers import Server, service
from tests.conftest import keep_secret

pytestmark = pytest.mark.untraced  # the services are other processes

CODE = keep_secret("610389")
OPERATOR_KEY = keep_secret("operator-key-CANARY-0123456789")
SETTINGS = {"OPERATOR_KEYS": OPERATOR_KEY, "SENDS_PER_TEN_MINUTES": "5", "STATUS_READS_PER_MINUTE": "4"}
SHARED_PORT = pytest.param(2, id="two workers on one port")
TWO_PORTS = pytest.param(1, id="two services")


class Pair:
    """Two ways to the service. With workers on one port each connection may reach another one."""

    def __init__(self, world: World, one: Server, other: Server) -> None:
        self.world = world
        self.one = one
        self.other = other
        self._numbers = iter(range(4_155_550_142, 4_155_550_199))

    def new_phone(self) -> str:
        return keep_secret(f"+1{next(self._numbers)}")

    def call(self, phone: str) -> RungCall:
        return self.world.calls(phone)[-1]


@pytest.fixture(scope="module", params=[TWO_PORTS, SHARED_PORT])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with world() as here, contextlib.ExitStack() as stack:
        given: dict[str, Any] = {**here.settings, **SETTINGS, "WORKERS": str(request.param)}
        one = stack.enter_context(service(None, port=here.port, **given))
        yield Pair(here, one, stack.enter_context(service(None, **given)) if request.param == 1 else one)


def send(worker: Server, phone: str, key: str = "", **fields: Any) -> httpx.Response:
    answer = post(worker, "/send-otp", key, phone=phone, **fields)
    assert answer is not None
    return answer


def verify(worker: Server, phone: str, code: str) -> dict[str, Any]:
    answer = post(worker, "/verify-otp", phone=phone, otp=code)
    assert answer is not None
    checked: dict[str, Any] = answer.json()
    return checked


def test_each_step_of_a_call_may_come_to_another_process(pair: Pair) -> None:
    phone = pair.new_phone()
    first = send(pair.one, phone, code=CODE).json()
    again = send(pair.other, phone).json()
    assert again["deduplicated"] is True
    assert again["verification_id"] == first["verification_id"]
    call = pair.call(phone)
    assert call.tells(pair.other, CODE)
    status = pair.one.get(f"/otp-status/{phone}").json()
    assert (status["status"], status["call"]["state"]) == ("calling", "answered")
    assert verify(pair.one, phone, "000000")["attempts_left"] == 4
    assert verify(pair.other, phone, "000001")["attempts_left"] == 3
    assert verify(pair.one, phone, CODE)["valid"] is True
    assert verify(pair.other, phone, CODE)["valid"] is False
    call.report(pair.one, "hangup", 2, Event="Hangup", HangupCauseCode="4000")
    status = pair.other.get(f"/otp-status/{phone}").json()
    assert (status["status"], status["call"]["state"]) == ("verified", "completed")
    assert len(pair.world.calls(phone)) == 1


def test_a_callback_is_known_again_by_another_process(pair: Pair) -> None:
    phone = pair.new_phone()
    send(pair.one, phone, code=CODE)
    call = pair.call(phone)
    told = call.report(pair.one, "answer", 1, Event="StartApp")
    assert call.report(pair.other, "answer", 1, Event="StartApp") == told
    assert b"Speak" not in call.report(pair.other, "answer", 1, Event="StartApp", Padding="1")
    status = pair.other.get(f"/otp-status/{phone}").json()
    assert [entry["event"] for entry in status["timeline"]].count("code_requested") == 1


def test_a_call_is_cancelled_by_another_process(pair: Pair) -> None:
    phone = pair.new_phone()
    send(pair.one, phone, code=CODE)
    cancelled = post(pair.other, "/cancel-otp", phone=phone)
    assert cancelled is not None
    assert cancelled.json()["call_hung_up"] is True
    call = pair.call(phone)
    assert call.call_id in pair.world.judge.get("/hung-up").json()
    assert not call.tells(pair.one, CODE)
    assert verify(pair.one, phone, CODE)["valid"] is False


def test_five_guesses_are_five_over_both(pair: Pair) -> None:
    phone = pair.new_phone()
    send(pair.one, phone, code=CODE)
    for number in range(5):
        assert verify((pair.one, pair.other)[number % 2], phone, f"00000{number}")["reason"] == "incorrect"
    for worker in (pair.one, pair.other):
        assert verify(worker, phone, CODE)["reason"] == "too_many_attempts"


def test_an_idempotency_key_is_known_to_both(pair: Pair) -> None:
    phone, key = pair.new_phone(), f"key-{pair.new_phone()}"
    first = send(pair.one, phone, key, code=CODE)
    pair.call(phone).report(pair.other, "hangup", 2, Event="Hangup", HangupCauseCode="3010")
    again = send(pair.other, phone, key, code=CODE)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert send(pair.other, phone, key, code="123456").status_code == 422
    assert len(pair.world.calls(phone)) == 1


def test_limits_count_what_both_do(pair: Pair) -> None:
    phone = pair.new_phone()
    for number in range(5):
        assert send((pair.one, pair.other)[number % 2], phone, code=CODE).status_code == 200
        pair.call(phone).report(pair.other, "hangup", 2, Event="Hangup", HangupCauseCode="3010")
    for worker in (pair.one, pair.other):
        assert send(worker, phone, code=CODE).status_code == 429
    reads = [(pair.one, pair.other)[number % 2].get(f"/otp-status/{phone}").status_code for number in range(5)]
    assert reads == [200] * 4 + [429]
    assert len(pair.world.calls(phone)) == 5


def test_h4_a_block_stops_both_at_once(pair: Pair) -> None:
    def switch(worker: Server, method: str) -> None:
        headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
        answer = httpx.request(method, f"{worker.url}/blocks/all", headers=headers, trust_env=False)
        assert answer.status_code == 200

    phone = pair.new_phone()
    switch(pair.one, "PUT")
    for worker in (pair.other, pair.one):
        assert send(worker, phone, code=CODE).status_code == 503
    assert pair.world.calls(phone) == []
    switch(pair.other, "DELETE")
    assert send(pair.one, phone, code=CODE).status_code == 200


@pytest.mark.parametrize("carriers", [["vobiz"]])
def test_a_carriers_failures_count_over_both(pair: Pair, carriers: list[str]) -> None:
    """Last in this module: the carrier is left alone from then on."""
    pair.world.plan(fails=carriers)
    answers = [send((pair.one, pair.other)[number % 2], pair.new_phone(), code=CODE) for number in range(5)]
    assert all(answer.status_code >= 202 for answer in answers)
    asked = pair.world.judge.get("/asked").json()
    while send(pair.other, pair.new_phone(), code=CODE).status_code != 503:
        pass  # it learns of it within a second
    assert pair.world.judge.get("/asked").json() - asked <= 1
