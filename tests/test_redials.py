"""Calls that are placed once more by themselves: after what, when, how often, through whom, and when not."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.conftest import FakeTime, keep_secret, run_service
from tests.hand_texters import TextingService, call_id, report_of, run_texters
from tests.hearing import heard

PHONE = "+14155550142"
LANDLINE = "+4930901820"
CODE = "CANARY620"
AFTER_SECONDS = 30
CAUSES = {"busy": "3010", "no_answer": "3000", "rejected": "3020"}


@asynccontextmanager
async def redialing(time: FakeTime, **settings: Any) -> AsyncIterator[TextingService]:
    """Vobiz, then Plivo, for calls, and CM.com for messages; busy calls are placed once more."""
    given = {
        "providers": "vobiz,plivo",
        "redial_on": "busy",
        "redial_after_seconds": AFTER_SECONDS,
        "webhook_signatures": "when_present",
        **settings,
    }
    async with run_texters("cm", time.clock, **given) as texting:
        yield texting


async def let_pass(texting: TextingService, time: FakeTime, seconds: float = AFTER_SECONDS + 1) -> None:
    time.advance(seconds)
    await texting.service.app.state.jobs.do_due()


async def events(texting: TextingService, phone: str = PHONE) -> list[str]:
    return [event["event"] for event in (await texting.service.status(phone))["timeline"]]


async def test_nothing_is_redialled_unless_that_is_wanted(fake_time: FakeTime) -> None:
    async with redialing(fake_time, redial_on="") as texting:
        for phone, cause in zip((PHONE, "+14155550143", "+14155550144"), CAUSES.values(), strict=True):
            await texting.service.send(phone)
            await texting.end_call(cause)
        await let_pass(texting, fake_time)
        for phone in (PHONE, "+14155550143", "+14155550144"):
            assert await events(texting, phone) == ["created", "dialing", "completed"]
        assert len(texting.carriers.calls) == 3


async def test_a_busy_call_is_placed_once_more_with_the_same_code(fake_time: FakeTime) -> None:
    async with redialing(fake_time) as texting:
        sent = (await texting.service.send(PHONE, code=CODE)).json()
        await texting.end_call(CAUSES["busy"])
        assert (await texting.service.status(PHONE))["status"] == "undelivered"
        await let_pass(texting, fake_time)
        await texting.carriers.wait_for_calls(2)
        status = await texting.service.status(PHONE)
        path = re.sub(r".*/answer/", "/answer/", texting.carriers.calls[1]["answer_url"])
        keep_secret(re.sub(r".*/|\?.*", "", path))
        document = await texting.service.client.post(path, data={"CallUUID": call_id(2), "Event": "StartApp"})
        assert (await texting.service.verify(PHONE, CODE)).json()["valid"]
    assert (status["verification_id"], status["status"]) == (sent["verification_id"], "calling")
    assert (status["call"]["end_reason"], status["call"]["state"]) == (None, "dialing")
    assert status["expires_in"] == 300 - AFTER_SECONDS - 1, "no life is lengthened"
    assert [event["event"] for event in status["timeline"]] == [
        "created", "dialing", "completed", "redialing", "dialing",
    ]  # fmt: skip
    assert heard(re.findall(">([^<]+)</Speak>", document.text)) == CODE * 2


@pytest.mark.parametrize("reason", CAUSES)
@pytest.mark.parametrize("redial_on", ["busy", "no_answer", "busy,no_answer", "rejected"])
async def test_only_the_end_reasons_that_are_named_are_redialled(
    fake_time: FakeTime, redial_on: str, reason: str
) -> None:
    async with redialing(fake_time, redial_on=redial_on) as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES[reason])
        assert (await texting.service.status(PHONE))["call"]["end_reason"] == reason
        await let_pass(texting, fake_time)
        assert ("redialing" in await events(texting)) == (reason in redial_on.split(","))


@pytest.mark.parametrize("cause", ["4000", "1000", "3090", "2000", "9100", "no such cause"])
async def test_other_ends_are_never_redialled(fake_time: FakeTime, cause: str) -> None:
    async with redialing(fake_time, redial_on="busy,no_answer,rejected") as texting:
        await texting.service.send(PHONE)
        await texting.end_call(cause)
        await let_pass(texting, fake_time)
        assert await events(texting) == ["created", "dialing", "completed"]


@pytest.mark.parametrize(("through", "carrier"), [("same", "vobiz"), ("next", "plivo")])
async def test_a_call_is_redialled_through_whom_the_operator_says(
    fake_time: FakeTime, through: str, carrier: str
) -> None:
    async with redialing(fake_time, redial_through=through) as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time)
        await texting.carriers.wait_for_calls(2)
        assert texting.carriers.called == ["vobiz", carrier]
        assert (await texting.service.status(PHONE))["provider"] == carrier


async def test_a_redial_fails_over_like_any_call(fake_time: FakeTime) -> None:
    async with redialing(fake_time, redial_through="same") as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        texting.carriers.troubles["vobiz calls"] = httpx.ConnectError("refused")
        await let_pass(texting, fake_time)
        await texting.carriers.wait_for_calls(2)
        assert texting.carriers.called == ["vobiz", "plivo"]
        assert (await events(texting))[3:] == ["redialing", "dialing", "failed_over", "dialing"]


async def test_one_carrier_is_the_next_one_too(fake_time: FakeTime) -> None:
    async with redialing(fake_time, providers="vobiz", redial_through="next") as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time)
        await texting.carriers.wait_for_calls(2)
        assert texting.carriers.called == ["vobiz", "vobiz"]


@pytest.mark.parametrize("resend_code", ["same", "new"])
async def test_a_message_can_be_sent_in_the_place_of_a_redial(fake_time: FakeTime, resend_code: str) -> None:
    async with redialing(fake_time, redial_through="sms", resend_code=resend_code) as texting:
        sent = (await texting.service.send(PHONE, code=CODE)).json()
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time)
        (text,) = texting.carriers.texts
        status = await texting.service.status(PHONE)
        assert (status["verification_id"], status["channel"]) == (sent["verification_id"], "sms")
        assert await texting.report(report_of(text, "delivered")) == 200
        assert (await texting.service.status(PHONE))["status"] == "delivered"
        await let_pass(texting, fake_time)
        assert len(texting.carriers.texts) == 1
        assert text.code == CODE, "nobody asked for another one, and this one may be the backend's own"
        assert (await texting.service.verify(PHONE, CODE)).json()["valid"]


async def test_a_message_stands_for_a_call_without_caller_id_too(fake_time: FakeTime) -> None:
    carriers: dict[str, Any] = {"simulate": True, "providers": "voipbin", "sms_providers": "plivo"}
    redial: dict[str, Any] = {"redial_on": "busy", "redial_through": "sms", "redial_after_seconds": 30}
    async with run_service(fake_time.clock, **carriers, **redial) as service:
        assert (await service.send("+14155550105", hide_caller_id=True)).status_code == 200
        await service.calls_over()
        fake_time.advance(31)
        await service.app.state.jobs.do_due()
        assert (await service.status("+14155550105"))["channel"] == "sms"


async def test_a_number_that_takes_no_messages_is_left_alone(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    async with redialing(fake_time, redial_through="sms") as texting:
        await texting.service.send(LANDLINE)
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time)
        assert texting.carriers.texts == []
        assert await events(texting, LANDLINE) == ["created", "dialing", "completed"]
    assert "call not placed once more: UnsupportedOption" in caplog.messages


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_call_is_redialled_so_often_and_no_more(fake_time: FakeTime, times: int) -> None:
    async with redialing(fake_time, redial_times=times) as texting:
        await texting.service.send(PHONE, ttl_seconds=600)
        for redials in range(1, times + 1):
            await texting.end_call(CAUSES["busy"])
            await let_pass(texting, fake_time)
            await texting.carriers.wait_for_calls(1 + redials)
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time)
        assert (await events(texting)).count("redialing") == times
        assert len(texting.carriers.calls) == 1 + times
        assert (await texting.service.status(PHONE))["status"] == "undelivered"


@pytest.mark.parametrize("after_seconds", [5, 300])
async def test_a_redial_comes_after_its_time_and_not_before(fake_time: FakeTime, after_seconds: int) -> None:
    async with redialing(fake_time, redial_after_seconds=after_seconds, code_ttl_seconds=600) as texting:
        await texting.service.send(PHONE, ttl_seconds=600)
        fake_time.advance(20)
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time, after_seconds - 0.5)
        assert "redialing" not in await events(texting)
        await let_pass(texting, fake_time, 1.5)
        assert "redialing" in await events(texting)


@pytest.mark.parametrize(("ttl", "is_worth_it"), [(59, False), (60, True)])
async def test_a_code_that_is_about_to_expire_is_not_worth_a_redial(
    fake_time: FakeTime, ttl: int, is_worth_it: bool
) -> None:
    async with redialing(fake_time) as texting:
        await texting.service.send(PHONE, ttl_seconds=ttl)
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time)
        assert ("redialing" in await events(texting)) == is_worth_it


@pytest.mark.parametrize("through", ["next", "sms"])
@pytest.mark.parametrize("end", ["verified", "cancelled", "locked", "expired"])
async def test_nothing_is_redialled_for_a_code_that_has_ended(fake_time: FakeTime, end: str, through: str) -> None:
    async with redialing(fake_time, redial_through=through) as texting:
        await texting.service.send(PHONE, code=CODE)
        await texting.end_call(CAUSES["busy"])
        if end == "verified":
            assert (await texting.service.verify(PHONE, CODE)).json()["valid"]
        elif end == "cancelled":
            await texting.service.client.post("/cancel-otp", json={"phone": PHONE})
        elif end == "locked":
            for _ in range(5):
                await texting.service.verify(PHONE, "WRONG1")
        await let_pass(texting, fake_time, 300 if end == "expired" else AFTER_SECONDS + 1)
        status = await texting.service.status(PHONE)
        assert status["status"] == end
        assert "redialing" not in await events(texting)
        assert (len(texting.carriers.calls), texting.carriers.texts) == (1, [])


async def test_a_call_that_was_asked_for_meanwhile_stands_for_the_redial(fake_time: FakeTime) -> None:
    async with redialing(fake_time) as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        await texting.service.send(PHONE)
        await let_pass(texting, fake_time)
        assert "redialing" not in await events(texting)
        assert len(texting.carriers.calls) == 2


@pytest.mark.parametrize("through", ["next", "sms"])
@pytest.mark.parametrize(("fact", "is_redialled"), [("sent", False), ("delivered", False), ("undelivered", True)])
async def test_a_message_that_was_asked_for_meanwhile_stands_for_the_redial_unless_it_is_lost(
    fake_time: FakeTime, through: str, fact: str, is_redialled: bool
) -> None:
    async with redialing(fake_time, redial_through=through) as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        text = await texting.text(PHONE)
        await texting.report(report_of(text, fact))
        await let_pass(texting, fake_time)
        if is_redialled and through == "next":
            await texting.carriers.wait_for_calls(2)
        sent_since = len(texting.carriers.calls) + len(texting.carriers.texts) - 2
        assert sent_since == is_redialled


async def test_events_that_come_twice_or_late_are_one_redial(fake_time: FakeTime) -> None:
    async with redialing(fake_time) as texting:
        await texting.service.send(PHONE)
        for _ in range(3):
            assert await texting.end_call(CAUSES["busy"]) == 200
        await let_pass(texting, fake_time)
        await texting.carriers.wait_for_calls(2)
        for _ in range(3):
            assert await texting.end_call(CAUSES["no_answer"], number=1) == 404
        status = await texting.service.status(PHONE)
        assert (status["call"]["state"], status["status"]) == ("dialing", "calling")
        await let_pass(texting, fake_time, 10)
        assert (await events(texting)).count("redialing") == 1
        assert len(texting.carriers.calls) == 2


@pytest.mark.parametrize(
    "limit",
    [
        {"sends_per_ten_minutes": 1},
        {"sends_per_day": 1},
        {"region_sends_per_hour": 1},
        {"client_sends_per_hour": 1},
        {"prefix_sends_per_hour": 1},
        {"call_prices": "max=1", "spend_per_hour": "1"},
    ],
    ids=lambda limit: next(iter(limit)),
)
@pytest.mark.parametrize("through", ["next", "sms"])
async def test_limits_hold_for_redials(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture, limit: dict[str, Any], through: str
) -> None:
    async with redialing(fake_time, redial_through=through, **limit) as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        await let_pass(texting, fake_time)
        status = await texting.service.status(PHONE)
        assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "busy")
        assert (len(texting.carriers.calls), texting.carriers.texts) == (1, [])
    (line,) = [one for one in caplog.records if one.message.startswith("call not placed once more")]
    assert line.levelno == logging.WARNING
    assert (vars(line)["phone"], vars(line)["end_reason"]) == ("..42", "busy")


async def test_a_number_that_was_blocked_meanwhile_is_not_redialled(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    key = keep_secret("operator-key-CANARY-0123456789abcdef")
    async with redialing(fake_time, operator_keys=key) as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        headers = {"Authorization": f"Bearer {key}"}
        blocked = await texting.service.client.put("/blocks/all", headers=headers)
        assert blocked.is_success, blocked.text
        await let_pass(texting, fake_time)
        assert len(texting.carriers.calls) == 1
    assert "call not placed once more: SendingStopped" in caplog.messages


async def test_a_redial_that_no_carrier_takes_ends_as_failed(
    fake_time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    async with redialing(fake_time, redial_times=3) as texting:
        await texting.service.send(PHONE)
        await texting.end_call(CAUSES["busy"])
        refusal = httpx.Response(402, json={})
        texting.carriers.troubles.update({"vobiz calls": refusal, "plivo calls": refusal})
        await let_pass(texting, fake_time)
        await texting.carriers.wait_for_calls(3)
        while (status := await texting.service.status(PHONE))["call"]["state"] != "completed":
            continue
        assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "failed")
        await let_pass(texting, fake_time)
        assert (await events(texting)).count("redialing") == 1
    assert len([text for text in caplog.messages if text.startswith("call not placed: ")]) == 2
