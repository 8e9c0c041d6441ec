"""Codes as text messages, through the whole service: sending, failing over, and what reports do to a status."""

import asyncio
import logging
import re
from typing import Any

import httpx
import pytest

from tests.conftest import FakeTime, RunningService, keep_secret, run_service
from tests.hand_texters import (
    TEXTERS,
    WORDS,
    Report,
    SentText,
    cm_report,
    plivo_report,
    report_of,
    run_texters,
    voipbin_report,
)

PHONE = "+14155550142"
LANDLINE = "+4930901820"
UNREACHABLE = "+14155550114"
DOUBLES_REPORTS = "+14155550117"
FIRST_CARRIER_DOWN = "+14155550118"


# With the simulated carriers, over HTTP


async def texts_over(service: RunningService) -> None:
    """Wait until every simulated message has arrived, or will not, and was reported on."""
    carriers = service.app.state.carriers
    tasks = [*carriers["plivo"].desk.tasks, *carriers["cm"].gateway.tasks, *carriers["voipbin"].sending]
    await asyncio.gather(*tasks)


def texts_of(service: RunningService) -> list[str]:
    """What the handsets of all simulated carriers show."""
    carriers = service.app.state.carriers
    texts = [
        *(message.text for message in carriers["plivo"].desk.messages.values()),
        *(message.text for message in carriers["cm"].gateway.messages),
        *(message["text"] for message in carriers["voipbin"].messages.values()),
    ]
    for text in texts:
        keep_secret(text.split(" ")[0])
    for message in carriers["cm"].gateway.messages:
        keep_secret(message.reference)
    for message in carriers["plivo"].desk.messages.values():
        keep_secret(message.url.split("/")[-1])
    return texts


def simulated(sms_providers: str, **settings: Any) -> Any:
    return run_service(simulate=True, providers="plivo,cm,voipbin", sms_providers=sms_providers, **settings)


def events_of(status: dict[str, Any]) -> list[str]:
    return [event["event"] for event in status["timeline"]]


@pytest.mark.parametrize("carrier", TEXTERS)
async def test_a_code_arrives_as_a_text_message_and_verifies(carrier: str) -> None:
    async with simulated(carrier, app_name="Acme") as service:
        answer = await service.send(PHONE, channel="sms", reference="order-4711")
        sent = answer.json()
        (text,) = texts_of(service)
        code = re.fullmatch(r"([0-9]{6}) is your verification code for Acme\.", text)
        assert code is not None, "one line, in the language of the number's region"
        await texts_over(service)
        status = await service.status(PHONE)
        verified = await service.verify(PHONE, code[1])
        final = await service.status(PHONE)
    assert answer.status_code == 200
    message_id = sent.pop("message_uuid", None)
    assert (message_id is None) == (carrier == "cm"), "CM.com gives its messages no id"
    assert sent == {
        "status": "message_sent",
        "verification_id": sent["verification_id"],
        "phone": PHONE,
        "provider": carrier,
        "channel": "sms",
        "language": "en",
        "expires_in": 300,
        "max_attempts": 5,
        "resend_after": 0,
        "fallback_available": False,
        "from": "+12025550100",
        "reference": "order-4711",
    }
    assert (status["status"], status["channel"], status["provider"]) == ("delivered", "sms", carrier)
    assert status["call"] is None
    cause = status["message"].pop("cause")
    assert cause == {"plivo": "delivered", "cm": "2", "voipbin": "delivered"}[carrier]
    assert status["message"] == {"message_uuid": message_id, "provider": carrier, "state": "delivered"}
    assert events_of(status) == ["created", "message_queued", "message_sent", "message_delivered"]
    assert verified.json()["valid"] is True
    assert (final["status"], final["message"]["state"]) == ("verified", "delivered")


@pytest.mark.parametrize("carrier", TEXTERS)
async def test_a_message_that_cannot_be_delivered_makes_the_code_undelivered_yet_right(carrier: str) -> None:
    async with simulated(carrier) as service:
        await service.send(UNREACHABLE, channel="sms", code="CANARY610")
        texts_of(service)
        await texts_over(service)
        status = await service.status(UNREACHABLE)
        verified = await service.verify(UNREACHABLE, "CANARY610")
    assert (status["status"], status["message"]["state"]) == ("undelivered", "undelivered")
    assert status["message"]["cause"] == {"plivo": "undelivered 30", "cm": "1 8", "voipbin": "failed"}[carrier]
    assert events_of(status)[-1] == "message_undelivered"
    assert verified.json()["valid"] is True


@pytest.mark.parametrize("carrier", ["plivo", "cm"])
async def test_reports_that_come_twice_count_once(carrier: str) -> None:
    async with simulated(carrier) as service:
        await service.send(DOUBLES_REPORTS, channel="sms")
        texts_of(service)
        await texts_over(service)
        status = await service.status(DOUBLES_REPORTS)
    assert events_of(status) == ["created", "message_queued", "message_sent", "message_delivered"]


async def test_a_simulated_carrier_that_is_down_is_passed_over() -> None:
    async with simulated("plivo,cm") as service:
        sent = (await service.send(FIRST_CARRIER_DOWN, channel="sms", code="CANARY611")).json()
        assert (sent["status"], sent["provider"]) == ("message_sent", "cm")
        assert len(texts_of(service)) == 1
        await texts_over(service)
        assert (await service.status(FIRST_CARRIER_DOWN))["status"] == "delivered"


@pytest.mark.parametrize("providers", ["plivo,cm,voipbin", "phlo,cm,voipbin", "vobiz,plivo,cm,voipbin"])
async def test_calls_and_messages_of_all_simulated_carriers_live_side_by_side(providers: str) -> None:
    async with run_service(simulate=True, providers=providers, sms_providers="voipbin,cm,plivo") as service:
        for number, carrier in enumerate(TEXTERS):
            phone = f"+1415555015{number}"
            sent = (await service.send(phone, channel="sms", provider=carrier, code="CANARY612")).json()
            assert (sent["status"], sent["provider"]) == ("message_sent", carrier)
        texts_of(service)
        await texts_over(service)
        for number in range(len(TEXTERS)):
            assert (await service.status(f"+1415555015{number}"))["status"] == "delivered"


# Reports


@pytest.mark.parametrize("carrier", TEXTERS)
async def test_each_report_moves_the_message_on_and_is_logged_without_secrets(
    carrier: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with run_texters(carrier) as texting:
        text = await texting.text(PHONE)
        seen = [(await texting.service.status(PHONE))["status"]]
        for fact in ("sent", "delivered"):
            assert await texting.report(report_of(text, fact)) == 200
            status = await texting.service.status(PHONE)
            assert status["message"]["cause"] == WORDS[carrier][fact]
            seen.append(f"{status['status']} {status['message']['state']}")
    assert seen == ["pending", "pending sent", "delivered delivered"]
    lines = [line for line in caplog.records if line.message.startswith("text message")]
    assert [line.message for line in lines] == [
        "text message sent",
        "text message sent",
        "text message delivered",
    ]
    assert {(vars(line)["phone"], vars(line)["provider"]) for line in lines} == {("..42", carrier)}


@pytest.mark.parametrize("carrier", TEXTERS)
async def test_an_unknown_word_in_a_report_changes_nothing(carrier: str) -> None:
    async with run_texters(carrier) as texting:
        text = await texting.text(PHONE)
        await texting.report(report_of(text, "sent"))
        before = await texting.state(PHONE)
        assert await texting.report(report_of(text, "odd")) == 200
        assert await texting.state(PHONE) == before


@pytest.mark.parametrize("carrier", TEXTERS)
@pytest.mark.parametrize("end", ["delivered", "undelivered"])
async def test_a_message_that_has_ended_moves_no_more(carrier: str, end: str) -> None:
    async with run_texters(carrier) as texting:
        text = await texting.text(PHONE)
        await texting.report(report_of(text, end))
        before = await texting.state(PHONE)
        assert (before["status"], before["message"]["state"]) == (end, end)
        for late in ("sent", "delivered", "undelivered"):
            assert await texting.report(report_of(text, late)) == 200
            assert await texting.state(PHONE) == before


@pytest.mark.parametrize(("carrier", "status"), [("plivo", 200), ("cm", 200), ("voipbin", 404)])
async def test_a_report_of_an_earlier_message_says_nothing_of_the_newest(carrier: str, status: int) -> None:
    async with run_texters(carrier) as texting:
        first = await texting.text(PHONE)
        second = await texting.text(PHONE)
        before = await texting.state(PHONE)
        assert before["message"]["message_uuid"] == (second.message_id or None)
        for late in ("sent", "undelivered", "delivered"):
            assert await texting.report(report_of(first, late)) == status
            assert await texting.state(PHONE) == before
        await texting.report(report_of(second, "delivered"))
        assert (await texting.service.status(PHONE))["status"] == "delivered"


async def test_a_report_of_an_earlier_message_of_another_carrier_says_nothing_of_the_newest() -> None:
    async with run_texters("plivo,cm") as texting:
        for carriers in (("plivo", "cm"), ("cm", "plivo")):
            first, _ = [await texting.text(PHONE, provider=carrier) for carrier in carriers]
            before = await texting.state(PHONE)
            assert await texting.report(report_of(first, "undelivered")) == 200
            assert await texting.state(PHONE) == before


@pytest.mark.parametrize("carrier", ["plivo", "cm"])
async def test_a_report_that_is_quicker_than_the_carriers_answer_counts(carrier: str) -> None:
    async with run_texters(carrier) as texting:

        async def report_at_once(text: SentText) -> None:
            assert await texting.report(report_of(text, "delivered")) == 200

        texting.carriers.before_answer = report_at_once
        text = await texting.text(PHONE)
        status = await texting.service.status(PHONE)
    assert (status["status"], status["message"]["state"]) == ("delivered", "delivered")
    assert status["message"]["message_uuid"] == (text.message_id or None)


@pytest.mark.parametrize("carrier", TEXTERS)
@pytest.mark.parametrize("end", ["verified", "cancelled", "expired"])
async def test_a_report_changes_no_final_status(carrier: str, end: str, fake_time: FakeTime) -> None:
    async with run_texters(carrier, fake_time.clock) as texting:
        text = await texting.text(PHONE, code="CANARY613")
        if end == "verified":
            assert (await texting.service.verify(PHONE, "CANARY613")).json()["valid"]
        elif end == "cancelled":
            await texting.service.client.post("/cancel-otp", json={"phone": PHONE})
        else:
            fake_time.advance(300)
        assert await texting.report(report_of(text, "delivered")) == 200
        status = await texting.service.status(PHONE)
        again = await texting.service.verify(PHONE, "CANARY613")
    assert (status["status"], status["message"]["state"]) == (end, "delivered")
    assert again.json()["reason"] == "expired_or_not_found"


def without_headers(report: Report, *names: str) -> Report:
    kept = {name: value for name, value in report.headers.items() if name not in names}
    return Report(report.path, report.body, kept)


PLIVO_SIGNATURE = ("X-Plivo-Signature-V2", "X-Plivo-Signature-V2-Nonce")
STRANGE_TOKEN = "0123456789abcdef" * 2
STRANGE_ID = "db3ce55a-7f1d-11e1-8ea7-1231380bc196"


def bad_reports(texts: dict[str, SentText], voice_call_token: str) -> dict[str, tuple[Report, int]]:
    """Reports that prove nothing, each with the status that refuses it."""
    plivo, cm, voipbin = texts["plivo"], texts["cm"], texts["voipbin"]
    good_plivo, good_voipbin = report_of(plivo, "delivered"), report_of(voipbin, "delivered")
    return {
        "a token that we never made": (
            plivo_report(f"/message/{STRANGE_TOKEN}", plivo.message_id, "delivered"),
            404,
        ),
        "a token that is cut": (
            plivo_report(f"/message/{plivo.token[:-1]}", plivo.message_id, "delivered"),
            404,
        ),
        "a token of a call": (
            plivo_report(f"/message/{voice_call_token}", plivo.message_id, "delivered"),
            404,
        ),
        "Plivo's, unsigned": (without_headers(good_plivo, *PLIVO_SIGNATURE), 403),
        "Plivo's, with half a signature": (without_headers(good_plivo, PLIVO_SIGNATURE[1]), 403),
        "Plivo's, signed with another token": (
            plivo_report(good_plivo.path, plivo.message_id, "delivered", token="another-token"),
            403,
        ),
        "Plivo's, signed for another URL": (
            Report(
                good_plivo.path,
                good_plivo.body,
                plivo_report("/message/plivo", plivo.message_id, "delivered").headers,
            ),
            403,
        ),
        "Plivo's, without an id": (Report(good_plivo.path, b"Status=delivered", good_plivo.headers), 400),
        "Plivo's, on its account, unsigned": (
            without_headers(plivo_report("/message/plivo", plivo.message_id, "delivered"), *PLIVO_SIGNATURE),
            403,
        ),
        "Plivo's, on its account, signed, which covers no field": (
            plivo_report("/message/plivo", plivo.message_id, "delivered"),
            404,
        ),
        "CM.com's, without reference": (cm_report("", "2"), 404),
        "CM.com's, with a reference that we never made": (cm_report(STRANGE_TOKEN, "2"), 404),
        "CM.com's, with the token of Plivo's message": (cm_report(plivo.token, "2"), 404),
        "CM.com's, to the token of Plivo's message": (
            cm_report(plivo.token, "2", f"/message/{plivo.token}"),
            403,
        ),
        "CM.com's, no JSON": (Report("/message/cm", b"reference=" + cm.token.encode(), {}), 400),
        "VoIPBin's, unsigned": (without_headers(good_voipbin, "X-Voipbin-Signature"), 403),
        "VoIPBin's, signed with another secret": (
            voipbin_report(voipbin.message_id, "delivered", secret="another"),
            403,
        ),
        "VoIPBin's, signed for another body": (
            Report(good_voipbin.path, good_voipbin.body + b" ", good_voipbin.headers),
            403,
        ),
        "VoIPBin's, of a strange message": (voipbin_report(STRANGE_ID, "delivered"), 404),
        "VoIPBin's, of a message of Plivo": (voipbin_report(plivo.message_id, "delivered"), 404),
        "VoIPBin's, without an id": (voipbin_report("", "delivered"), 400),
    }


async def test_a_report_that_proves_nothing_is_refused_and_changes_nothing() -> None:
    phones = {"plivo": PHONE, "cm": "+14155550143", "voipbin": "+14155550144"}
    async with run_texters(",".join(TEXTERS)) as texting:
        texts = {name: await texting.text(phone, provider=name) for name, phone in phones.items()}
        await texting.service.send("+14155550145")
        call_token = keep_secret(re.sub(r".*/answer/|\?.*", "", texting.carriers.calls[-1]["answer_url"]))
        before = {phone: await texting.state(phone) for phone in (*phones.values(), "+14155550145")}
        for name, (report, refused_with) in bad_reports(texts, call_token).items():
            assert await texting.report(report) == refused_with, name
            for phone, status in before.items():
                assert await texting.state(phone) == status, name
        for text in texts.values():
            assert await texting.report(report_of(text, "delivered")) == 200
        for phone in phones.values():
            assert (await texting.service.status(phone))["status"] == "delivered"


async def test_a_report_with_a_token_needs_no_signature_where_the_operator_says_so() -> None:
    async with run_texters("plivo", webhook_signatures="when_present") as texting:
        text = await texting.text(PHONE)
        unsigned = without_headers(report_of(text, "delivered"), *PLIVO_SIGNATURE)
        on_account = without_headers(
            plivo_report("/message/plivo", text.message_id, "delivered"), *PLIVO_SIGNATURE
        )
        assert await texting.report(on_account) == 404, "it holds no token, and nobody signed for it"
        assert (await texting.service.status(PHONE))["message"]["state"] == "queued"
        assert await texting.report(unsigned) == 200
        assert (await texting.service.status(PHONE))["status"] == "delivered"


async def test_one_captured_signature_of_plivo_moves_no_other_message() -> None:
    async with run_texters("plivo") as texting:
        captured = report_of(await texting.text(PHONE), "delivered")
        other = await texting.text("+14155550143")
        named = plivo_report(captured.path, other.message_id, "delivered").body
        for path in (captured.path, "/message/plivo"):
            await texting.report(Report(path, named, captured.headers))
            assert (await texting.service.status("+14155550143"))["message"]["state"] == "queued"


async def test_reports_to_a_carrier_that_sends_no_messages_are_refused() -> None:
    async with run_texters("plivo") as texting:
        text = await texting.text(PHONE)
        assert await texting.report(cm_report(text.token, "2")) == 404
        assert await texting.report(voipbin_report(text.message_id, "delivered")) == 404
        assert (await texting.service.status(PHONE))["status"] == "pending"


# Failing over

PLIVO_ERROR = {"api_id": "5a9fd4a0-3d4c-11ef-bef9-0242ac110005", "error": "internal error"}
PROOF: dict[str, httpx.Response | Exception] = {
    "no connection": httpx.ConnectError("refused"),
    "connecting takes too long": httpx.ConnectTimeout("slow"),
    "no place in the pool": httpx.PoolTimeout("full"),
    "400": httpx.Response(400, json={}),
    "401": httpx.Response(401, json={}),
    "402": httpx.Response(402, json={}),
    "429": httpx.Response(429, headers={"Retry-After": "30"}),
    "500 in its own words": httpx.Response(500, json=PLIVO_ERROR),
}
UNKNOWN: dict[str, httpx.Response | Exception] = {
    "no answer": httpx.ReadTimeout("silent"),
    "cut off": httpx.RemoteProtocolError("gone"),
    "a gateway's 502": httpx.Response(502, text="<html>Bad Gateway</html>"),
    "a junk 200": httpx.Response(200, text="ok"),
}


@pytest.mark.parametrize("trouble", PROOF.values(), ids=PROOF.keys())
async def test_another_carrier_is_asked_once_it_is_certain_that_nothing_was_sent(trouble: Any) -> None:
    async with run_texters("plivo,cm") as texting:
        texting.carriers.troubles["plivo"] = trouble
        answer = await texting.service.send(PHONE, channel="sms")
        status = await texting.service.status(PHONE)
        first, second = texting.carriers.texts
        assert first.code == second.code, "one code, whoever takes it"
        await texting.report(report_of(second, "delivered"))
        assert (await texting.service.verify(PHONE, second.code)).json()["valid"]
    assert (answer.status_code, answer.json()["status"], answer.json()["provider"]) == (
        200,
        "message_sent",
        "cm",
    )
    assert texting.carriers.asked == ["plivo", "cm"]
    assert (status["provider"], status["message"]["state"]) == ("cm", "queued")
    assert events_of(status) == ["created", "message_queued", "message_undelivered", "message_queued"]


@pytest.mark.parametrize("trouble", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_nobody_else_is_asked_while_a_message_may_be_on_its_way(trouble: Any) -> None:
    async with run_texters("plivo,cm") as texting:
        texting.carriers.troubles["plivo"] = trouble
        answer = await texting.service.send(PHONE, channel="sms")
        (text,) = texting.carriers.texts
        status = await texting.service.status(PHONE)
        assert await texting.report(report_of(text, "delivered")) == 200
        delivered = await texting.service.status(PHONE)
        assert (await texting.service.verify(PHONE, text.code)).json()["valid"]
    sent = answer.json()
    assert (answer.status_code, sent["status"], sent["channel"]) == (202, "message_unconfirmed", "sms")
    assert "message_uuid" not in sent
    assert (status["status"], status["message"]["state"], status["provider"]) == ("pending", "queued", "plivo")
    assert (delivered["status"], delivered["message"]["message_uuid"]) == ("delivered", text.message_id)


@pytest.mark.parametrize(
    ("troubles", "expected"),
    [
        pytest.param({"plivo": PROOF["402"], "cm": PROOF["402"]}, (502, "call_rejected"), id="both refuse"),
        pytest.param(
            {"plivo": PROOF["no connection"], "cm": PROOF["no connection"]},
            (503, "provider_unavailable"),
            id="both are down",
        ),
    ],
)
async def test_a_message_that_no_carrier_takes_is_an_error_and_counts_for_nothing(
    troubles: dict[str, Any], expected: tuple[int, str]
) -> None:
    async with run_texters("plivo,cm", resend_after_seconds=60, sends_per_day=1) as texting:
        texting.carriers.troubles.update(troubles)
        answer = await texting.service.send(PHONE, channel="sms", code="CANARY614")
        status = await texting.service.status(PHONE)
        texting.carriers.troubles.clear()
        again = await texting.text(PHONE)
    assert (answer.status_code, answer.json()["code"]) == expected
    assert (status["status"], status["message"]["state"]) == ("undelivered", "undelivered")
    assert status["message"]["cause"] == expected[1]
    assert again.code == "CANARY614", "the code of the verification under way"


async def test_a_carrier_that_is_named_is_the_only_one_asked() -> None:
    async with run_texters("plivo,cm") as texting:
        assert (await texting.text(PHONE, provider="cm")).carrier == "cm"
        texting.carriers.troubles["cm"] = httpx.ConnectError("refused")
        answer = await texting.service.send(PHONE, channel="sms", provider="cm")
    assert answer.status_code == 503
    assert texting.carriers.asked == ["cm", "cm"]


# What cannot be sent


@pytest.mark.parametrize(
    ("sms_providers", "phone", "fields", "field"),
    [
        pytest.param("", PHONE, {}, "channel", id="no carrier for messages"),
        pytest.param("plivo", LANDLINE, {}, "channel", id="a landline"),
        pytest.param("plivo", PHONE, {"provider": "cm"}, "provider", id="a carrier that sends none"),
        pytest.param("plivo", PHONE, {"provider": "vobiz"}, "provider", id="a carrier for calls only"),
        pytest.param("plivo", PHONE, {"language": "la"}, "language", id="a language without text"),
        pytest.param("plivo", PHONE, {"hide_caller_id": True}, "hide_caller_id", id="a hidden sender"),
    ],
)
async def test_what_no_message_can_do_is_refused_by_the_name_of_its_field(
    sms_providers: str, phone: str, fields: dict[str, Any], field: str
) -> None:
    async with run_texters(sms_providers, resend_after_seconds=60) as texting:
        answer = await texting.service.send(phone, channel="sms", **fields)
        assert (answer.status_code, answer.json()["code"]) == (422, "unsupported_option")
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert texting.carriers.texts == []
        assert (await texting.service.client.get(f"/otp-status/{phone}")).status_code == 404
        assert (await texting.service.send(phone)).status_code == 200, "nothing was counted"


@pytest.mark.parametrize(
    ("sms_providers", "phone", "is_available"),
    [("plivo", PHONE, True), ("plivo", LANDLINE, False), ("", PHONE, False), ("", LANDLINE, False)],
)
async def test_a_fallback_is_offered_where_a_message_can_be_sent(
    sms_providers: str, phone: str, is_available: bool
) -> None:
    async with run_texters(sms_providers) as texting:
        called = (await texting.service.send(phone)).json()
        assert (called["channel"], called["fallback_available"]) == ("voice", is_available)
        texted = await texting.service.send(phone, channel="sms")
        assert (texted.status_code == 200) == is_available, "what was offered is kept"


# Both channels in one verification


async def test_a_code_is_sent_by_call_then_by_message_then_by_call() -> None:
    async with run_texters("plivo") as texting:
        service = texting.service
        first = (await service.send(PHONE, code="CANARY615")).json()
        await texting.end_call("3010")
        text = await texting.text(PHONE)
        texted = await service.status(PHONE)
        await texting.report(report_of(text, "delivered"))
        again = (await service.send(PHONE)).json()
        called = await service.status(PHONE)
        assert (await service.verify(PHONE, "CANARY615")).json()["valid"]
    assert text.code == "CANARY615"
    assert first["verification_id"] == again["verification_id"]
    assert (texted["channel"], texted["provider"], texted["status"]) == ("sms", "plivo", "pending")
    assert texted["call"]["end_reason"] == "busy"
    assert (called["channel"], called["provider"], called["status"]) == ("voice", "vobiz", "delivered")
    assert (called["call"]["state"], called["message"]["state"]) == ("dialing", "delivered")
    assert events_of(called) == [
        "created", "dialing", "completed", "message_queued", "message_delivered", "dialing",
    ]  # fmt: skip


async def test_a_message_can_be_sent_while_the_phone_rings() -> None:
    async with run_texters("plivo") as texting:
        await texting.service.send(PHONE, code="CANARY616")
        text = await texting.text(PHONE)
        await texting.report(report_of(text, "delivered"))
        await texting.end_call("3010")
        status = await texting.service.status(PHONE)
    assert text.code == "CANARY616"
    assert (status["status"], status["channel"]) == ("delivered", "sms")
    assert status["call"]["end_reason"] == "busy"


@pytest.mark.parametrize("resend_code", ["same", "new"])
async def test_no_message_brings_another_code_than_the_one_that_a_live_call_reads(resend_code: str) -> None:
    async with run_texters("plivo", resend_code=resend_code) as texting:
        await texting.service.send(PHONE, code="CANARY616")
        refused = await texting.service.send(PHONE, channel="sms", code="CANARY626")
        assert (refused.status_code, refused.json()["code"]) == (409, "call_in_progress")
        assert texting.carriers.texts == []
        assert (await texting.text(PHONE)).code == "CANARY616"
        await texting.end_call("3010")
        assert (await texting.text(PHONE, code="CANARY626")).code == "CANARY626"


async def test_a_message_with_a_new_code_kills_the_old_one() -> None:
    async with run_texters("plivo", resend_code="new") as texting:
        await texting.service.send(PHONE, code="CANARY617")
        await texting.end_call("3010")
        text = await texting.text(PHONE)
        assert text.code != "CANARY617"
        assert (await texting.service.verify(PHONE, "CANARY617")).json()["reason"] == "incorrect"
        assert (await texting.service.verify(PHONE, text.code)).json()["valid"]


async def test_a_backends_own_code_replaces_the_one_that_was_sent_before() -> None:
    async with run_texters("plivo") as texting:
        first = await texting.text(PHONE)
        second = await texting.text(PHONE, code="CANARY618")
        assert second.code == "CANARY618"
        assert (await texting.service.verify(PHONE, first.code)).json()["reason"] == "incorrect"
        assert (await texting.service.verify(PHONE, "CANARY618")).json()["valid"]
        assert "code_replaced" in events_of(await texting.service.status(PHONE))


async def test_a_code_that_stays_the_same_is_not_said_to_be_replaced() -> None:
    async with run_texters("plivo,cm") as texting:
        texting.carriers.troubles["plivo"] = PROOF["402"]
        await texting.text(PHONE, code="CANARY619")
        assert "code_replaced" not in events_of(await texting.service.status(PHONE))


async def test_a_cancelled_code_that_was_texted_is_worthless() -> None:
    async with run_texters("plivo") as texting:
        text = await texting.text(PHONE)
        cancelled = (await texting.service.client.post("/cancel-otp", json={"phone": PHONE})).json()
        assert (cancelled["status"], cancelled["call_hung_up"]) == ("cancelled", False)
        assert (await texting.service.verify(PHONE, text.code)).json()["reason"] == "expired_or_not_found"


async def test_an_expired_verification_is_followed_by_a_new_one(fake_time: FakeTime) -> None:
    async with run_texters("plivo", fake_time.clock) as texting:
        first = await texting.text(PHONE, ttl_seconds=30)
        old = await texting.service.status(PHONE)
        fake_time.advance(30)
        await texting.service.app.state.timekeeper.expire()
        assert (await texting.service.status(PHONE))["status"] == "expired"
        second = await texting.text(PHONE)
        assert (await texting.service.status(PHONE))["verification_id"] != old["verification_id"]
        assert (await texting.service.verify(PHONE, first.code)).json()["reason"] == "incorrect"
        assert (await texting.service.verify(PHONE, second.code)).json()["valid"]


# What protects calls protects messages


async def test_the_same_request_sent_again_is_one_message() -> None:
    async with run_texters("plivo") as texting:
        body = {"phone": keep_secret(PHONE), "channel": "sms"}
        headers = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93"}
        first, second = [
            await texting.service.client.post("/send-otp", json=body, headers=headers) for _ in range(2)
        ]
        assert (first.status_code, first.content) == (second.status_code, second.content)
        assert second.headers["idempotent-replayed"] == "true"
        assert len(texting.carriers.texts) == 1


@pytest.mark.parametrize(
    "limit",
    [
        {"resend_after_seconds": 60},
        {"sends_per_ten_minutes": 1},
        {"sends_per_day": 1},
        {"region_sends_per_hour": 1},
        {"client_sends_per_hour": 1},
        {"prefix_sends_per_hour": 1},
        {"call_prices": "max=1", "spend_per_hour": "1"},
    ],
    ids=lambda limit: next(iter(limit)),
)
@pytest.mark.parametrize("channels", [("sms", "sms"), ("voice", "sms"), ("sms", "voice")])
async def test_a_message_counts_as_a_call(limit: dict[str, Any], channels: tuple[str, str]) -> None:
    async with run_texters("plivo", **limit) as texting:
        assert (await texting.service.send(PHONE, channel=channels[0])).status_code == 200
        if channels[0] == "voice":
            await texting.end_call("3010")
        refused = await texting.service.send(PHONE, channel=channels[1])
        assert refused.status_code == 429
        assert len(texting.carriers.texts) + len(texting.carriers.calls) == 1


@pytest.mark.parametrize("rule", [{"allowed_regions": "IN"}, {"blocked": "prefix:+1415555"}, {"blocked": "all"}])
async def test_a_number_that_may_not_be_called_gets_no_message(rule: dict[str, Any]) -> None:
    async with run_texters("plivo", **rule) as texting:
        answer = await texting.service.send(PHONE, channel="sms")
        assert answer.status_code in (403, 429, 503)
        assert texting.carriers.texts == []


async def test_wrong_codes_in_a_row_keep_messages_from_being_sent(fake_time: FakeTime) -> None:
    async with run_texters("plivo", fake_time.clock) as texting:
        await texting.text(PHONE)
        for _ in range(5):
            await texting.service.verify(PHONE, "WRONG1")
        refused = await texting.service.send(PHONE, channel="sms")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_failures")
        fake_time.advance(30)
        assert (await texting.text(PHONE)).code != texting.carriers.texts[0].code
        assert len(texting.carriers.texts) == 2
