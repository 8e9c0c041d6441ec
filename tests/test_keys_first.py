"""REQUIRE_KEYPRESS: nobody hears a code who was not asked for random keys, and pressed them."""

from collections.abc import AsyncIterator

import pytest

from tests.calls_by_hand import PHONE, CallByHand, Document, begin_call
from tests.conftest import RunningService, run_service

CODE = "610389"


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    async with run_service(require_keypress=True) as running:
        yield running


def keys_asked_for(document: Document) -> str:
    """The keys that a document announces; it says no other digits."""
    assert document.says("To hear it, press"), document.texts
    return document.spoken_digits


async def test_the_code_comes_after_the_keys_that_were_asked_for(service: RunningService) -> None:
    call = await begin_call(service, code=CODE)
    asking = await call.answer()
    keys = keys_asked_for(asking)
    assert (len(keys), asking.keys) == (2, 2)
    unlocked = await call.press(asking, keys)
    assert unlocked.texts == [], "the keys lead back to the answer URL"
    reading = await call.go_on(unlocked)
    assert reading.texts[0] == "Your code is", "the greeting was said before the keys"
    assert reading.code == CODE
    await call.press(reading)
    status = await call.hang_up()
    assert (status["status"], status["call"]["end_reason"]) == ("delivered", "answered_and_spoken")
    assert "keys_pressed" in [entry["event"] for entry in status["timeline"]]


@pytest.mark.parametrize(
    "keys", [pytest.param("", id="nothing"), pytest.param("wrong", id="wrong keys"), pytest.param("9", id="one")]
)
async def test_without_them_other_keys_are_asked_for_and_then_nothing_is_told(
    service: RunningService, keys: str
) -> None:
    call = await begin_call(service, code=CODE)
    first = await call.answer()
    pressed = keys if keys != "wrong" else f"{(int(keys_asked_for(first)) + 1) % 100:02d}"
    second = await call.press(first, pressed)
    assert second.says("To hear it, press")
    last = await call.press(second, pressed if keys != "wrong" else "")
    assert (last.ends, last.texts) == (True, ["Goodbye."])
    status = await call.hang_up()
    assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "no_keypress")
    assert status["call"]["times_spoken"] == 0


async def test_the_second_try_unlocks_too_with_keys_of_its_own(service: RunningService) -> None:
    call = await begin_call(service, code=CODE)
    first = await call.answer()
    second = await call.press(first)
    assert second.action != first.action
    assert (await call.press(second, keys_asked_for(second))).redirect.endswith("?n=1")
    assert (await call.go_on(first)).says("To hear it, press") is False, "it is unlocked"


async def test_a_callback_that_comes_twice_counts_once(service: RunningService) -> None:
    call = await begin_call(service, code=CODE)
    first = await call.answer()
    again = [await call.press(first) for _ in range(3)]
    assert [keys_asked_for(one) for one in again] == [keys_asked_for(again[0])] * 3
    unlocked = [await call.press(again[0], keys_asked_for(again[0])) for _ in range(2)]
    assert [one.redirect.endswith("?n=1") for one in unlocked] == [True, True]


async def test_no_url_of_a_locked_call_hands_out_the_code(service: RunningService) -> None:
    call = await begin_call(service, code=CODE)
    await call.answer()
    for url in ("answer", "otp-choice"):
        for query in ("", "?n=1", "?n=2", "?k=0", "?k=1", "?k=9", "?n=1&k=0"):
            said = await call.post(f"/{url}/{call.token}{query}", Event="StartApp", Digits="1")
            assert b"Your code is" not in said.content, (url, query)


async def test_keys_differ_from_call_to_call(service: RunningService) -> None:
    seen = set()
    for _ in range(12):
        call = await begin_call(service, code=CODE)
        seen.add(keys_asked_for(await call.answer()))
        await call.hang_up()
    assert len(seen) > 6, "a greeting that plays fixed keys must be wrong nearly always"


async def test_a_request_decides_for_itself(service: RunningService) -> None:
    call = await begin_call(service, code=CODE, require_keypress=False)
    assert (await call.answer()).code == CODE


async def test_and_can_ask_for_it_where_the_setting_does_not() -> None:
    async with run_service(keypress_digits=1) as running:
        call = await begin_call(running, code=CODE, require_keypress=True)
        assert len(keys_asked_for(await call.answer())) == 1


async def test_a_code_that_has_ended_meanwhile_is_not_told(service: RunningService) -> None:
    call: CallByHand = await begin_call(service, code=CODE)
    asking = await call.answer()
    assert (await service.verify(PHONE, CODE)).status_code == 200
    assert (await call.press(asking, keys_asked_for(asking))).texts == []
    assert (await call.answer()).code == ""


async def test_there_is_no_third_try_however_often_the_carrier_asks(service: RunningService) -> None:
    call = await begin_call(service, code=CODE)
    await call.press(await call.press(await call.answer()))
    assert (await call.answer()).texts == ["Goodbye."]
    assert b"Your code" not in (await call.post(f"/otp-choice/{call.token}?k=2", Digits="11")).content
