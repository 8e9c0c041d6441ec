"""mode=keypad: the app shows a code, the callee types it on the phone."""

from typing import Any

import pytest

from tests.calls_by_hand import PHONE, CallByHand, begin_call
from tests.conftest import FakeTime, RunningService, keep_secret, run_service

CODE = "610389"


async def begin(service: RunningService, **fields: Any) -> CallByHand:
    return await begin_call(service, mode="keypad", **fields)


async def test_the_right_code_verifies_at_once_and_is_announced(service: RunningService) -> None:
    call = await begin(service)
    code = keep_secret(call.sent["code"])
    asking = await call.answer()
    assert asking.keys == len(code) == 6
    assert asking.says("Please type the code that you see on your screen")
    assert asking.spoken_digits == "", "who does not see the code must not hear it"
    last = await call.press(asking, code)
    assert last.ends
    assert last.says("Your number is confirmed")
    status = await call.hang_up()
    assert (status["mode"], status["status"]) == ("keypad", "verified")
    assert status["call"]["end_reason"] == "answered_and_spoken"


async def test_a_code_of_the_backend_is_not_shown_again(service: RunningService) -> None:
    call = await begin(service, code=CODE)
    assert "code" not in call.sent
    assert (await call.press(await call.answer(), CODE)).says("Your number is confirmed")


async def test_a_code_that_is_told_is_never_shown(service: RunningService) -> None:
    assert "code" not in (await service.send(PHONE)).json()


async def test_there_are_two_tries_which_count_as_attempts(service: RunningService) -> None:
    call = await begin(service, code=CODE)
    second = await call.press(await call.answer(), "610388")
    assert second.says("That was not the code")
    assert second.keys == 6
    assert (await call.status())["attempts_left"] == 4
    last = await call.press(second, "610387")
    assert last.ends
    assert last.texts == ["That was not the code.", "Goodbye."]
    status = await call.hang_up()
    assert (status["status"], status["attempts_left"]) == ("undelivered", 3)
    assert status["call"]["end_reason"] == "answered_and_spoken"


async def test_silence_costs_no_attempt(service: RunningService) -> None:
    call = await begin(service, code=CODE)
    second = await call.press(await call.answer())
    assert not second.says("That was not the code")
    assert second.keys == 6
    assert (await call.press(second)).ends
    status = await call.hang_up()
    assert (status["attempts_left"], status["call"]["end_reason"]) == (5, "no_keypress")


async def test_a_callback_that_comes_twice_counts_once(service: RunningService) -> None:
    call = await begin(service, code=CODE)
    asking = await call.answer()
    for _ in range(3):
        second = await call.press(asking, "610388")
        assert second.keys == 6
    assert (await call.status())["attempts_left"] == 4
    for _ in range(2):
        assert (await call.press(second, CODE)).says("Your number is confirmed")


async def test_the_last_attempt_locks(service: RunningService) -> None:
    for _ in range(2):
        call = await begin(service, code=CODE)
        asking = await call.answer()
        for _ in range(2):
            asking = await call.press(asking, "610388")
        assert (await call.hang_up())["status"] == "undelivered"
    call = await begin(service, code=CODE)
    assert (await call.press(await call.answer(), "610388")).ends
    assert (await call.status())["status"] == "locked"


async def test_knowing_the_code_is_no_proof_without_the_phone(service: RunningService) -> None:
    call = await begin(service)
    code = keep_secret(call.sent["code"])
    for body in ({"phone": PHONE, "otp": code}, {"verification_id": call.id, "otp": code}):
        refused = await service.client.post("/verify-otp", json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "other_mode")
    assert (await call.status())["attempts_left"] == 5


async def test_a_running_code_does_not_change_its_way(service: RunningService) -> None:
    """Else the code of somebody's call could be had by asking for keypad mode."""
    call = await begin_call(service, code=CODE)
    await call.hang_up()
    refused = await service.send(PHONE, mode="keypad")
    assert (refused.status_code, refused.json()["code"]) == (409, "other_mode")
    assert CODE not in refused.text
    await service.client.post("/cancel-otp", json={"phone": PHONE})
    assert (await service.send(PHONE, mode="keypad")).status_code == 200


async def test_while_its_call_is_live_neither(service: RunningService) -> None:
    await begin_call(service, code=CODE)
    refused = await service.send(PHONE, mode="keypad")
    assert refused.status_code == 409
    assert 'code"' not in refused.text.replace('"code":"call_in_progress"', "")


async def test_a_resend_shows_the_code_that_is_right_then(service: RunningService) -> None:
    first = await begin(service)
    keep_secret(first.sent["code"])
    await first.hang_up()
    second = await begin(service)
    code = keep_secret(second.sent["code"])
    assert (await second.press(await second.answer(), code)).says("Your number is confirmed")


async def test_a_second_request_during_the_call_joins_it(service: RunningService) -> None:
    call = await begin(service)
    code = keep_secret(call.sent["code"])
    joined = (await service.send(PHONE, mode="keypad")).json()
    assert joined["deduplicated"] is True
    assert joined["code"] == code, "the first answer may have been lost"
    assert (await call.press(await call.answer(), code)).says("Your number is confirmed")


async def test_a_repeated_answer_shows_the_code_while_it_runs_and_is_kept_without_it(
    service: RunningService,
) -> None:
    headers = {"idempotency-key": "order-4711"}
    body = {"phone": PHONE, "mode": "keypad"}
    sent = await service.client.post("/send-otp", json=body, headers=headers)
    code = keep_secret(sent.json()["code"])
    again = await service.client.post("/send-otp", json=body, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == sent.json()
    kept = [one.value for one in service.app.state.service._protection.store._remembered.values()]
    assert any(sent.json()["verification_id"].encode() in value for value in kept)
    assert not any(code.encode() in value for value in kept)
    await service.client.post("/cancel-otp", json={"phone": PHONE})
    assert "code" not in (await service.client.post("/send-otp", json=body, headers=headers)).json()


async def test_a_code_that_has_expired_is_not_taken(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock) as running:
        call = await begin(running, code=CODE, ttl_seconds=30)
        asking = await call.answer()
        fake_time.advance(31)
        assert not (await call.press(asking, CODE)).says("confirmed")
        assert (await call.status())["status"] == "expired"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({"code": "61038A"}, "code", id="letters"),
        pytest.param({"channel": "sms"}, "channel", id="as a text message"),
    ],
)
async def test_what_cannot_be_is_refused(service: RunningService, fields: dict[str, str], field: str) -> None:
    refused = await service.send(PHONE, mode="keypad", **fields)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == field
