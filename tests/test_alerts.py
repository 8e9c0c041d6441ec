"""POST /send-alert: an operator's template with a backend's values, told by phone."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.calls_by_hand import PHONE, begin_alert, begin_call
from tests.conftest import FakeTime, RunningService, run_service

PROMPTS = """
[alerts.delivery]
[alerts.delivery.fields]
minutes = { type = "number", min = 0, max = 240 }
at = { type = "time" }
name = { type = "name", max_length = 40 }
[alerts.delivery.texts]
en = "Hello {name}. Your parcel comes in {minutes} minutes, at {at}."
de = "Guten Tag, {name}. Ihr Paket kommt in {minutes} Minuten, um {at} Uhr."

[alerts.outage]
acknowledge = true
[alerts.outage.texts]
en = "The pump in the cellar has stopped."
"""
FIELDS = {"minutes": 20, "at": "14:30", "name": "Ada"}
TOLD = "Hello Ada. Your parcel comes in 20 minutes, at 14:30."


@pytest.fixture
def prompts_file(tmp_path: Path) -> str:
    path = tmp_path / "prompts.toml"
    path.write_text(PROMPTS, encoding="utf-8")
    return str(path)


@pytest.fixture
async def service(prompts_file: str) -> AsyncIterator[RunningService]:
    async with run_service(prompts_file=prompts_file) as running:
        yield running


async def test_a_template_that_no_carrier_can_speak_says_what_it_has_texts_in(tmp_path: Path) -> None:
    path = tmp_path / "prompts.toml"
    path.write_text('[alerts.hindi.texts]\nhi = "नमस्ते"\n', encoding="utf-8")
    async with run_service(prompts_file=str(path)) as running:
        refused = await send(running, template="hindi", language="en-US")
        [error] = refused.json()["errors"]
        assert (refused.status_code, error["field"]) == (422, "template")
        assert error["message"].startswith("has texts in hi only, which cannot be spoken by simulator")


async def send(service: RunningService, **fields: Any) -> Any:
    return await service.client.post("/send-alert", json={"phone": PHONE, **fields})


async def test_a_message_is_told_twice_and_its_end_is_its_delivery(service: RunningService) -> None:
    alert = await begin_alert(service, "delivery", fields=FIELDS)
    told = await alert.answer()
    assert [text for text in told.texts if "parcel" in text] == [TOLD, TOLD]
    assert told.keys == 0
    last = await alert.press(told)
    assert last.ends
    assert last.says("Goodbye")
    status = await alert.hang_up()
    assert (status["mode"], status["status"], status["acknowledged"]) == ("alert", "delivered", False)
    assert status["call"]["end_reason"] == "answered_and_spoken"


async def test_a_key_acknowledges(service: RunningService) -> None:
    alert = await begin_alert(service, "outage")
    told = await alert.answer()
    assert told.keys == 1
    assert told.says("The pump in the cellar has stopped.")
    last = await alert.press(told, "1")
    assert last.ends
    assert last.says("Thank you")
    status = await alert.hang_up()
    assert (status["status"], status["acknowledged"]) == ("delivered", True)


async def test_what_is_not_acknowledged_is_told_once_more(service: RunningService) -> None:
    alert = await begin_alert(service, "outage")
    again = await alert.go_on(await alert.press(await alert.answer()))
    assert again.says("The pump in the cellar has stopped.")
    assert again.keys == 1
    assert (await alert.press(again)).says("Goodbye")
    status = await alert.hang_up()
    assert (status["status"], status["acknowledged"]) == ("delivered", False)


async def test_the_language_is_one_that_the_template_has(service: RunningService) -> None:
    alert = await begin_alert(service, "delivery", fields=FIELDS, language="de")
    assert alert.sent["language"] == "de-DE"
    assert (await alert.answer()).says("Ihr Paket kommt in 20 Minuten, um 14:30 Uhr")
    await alert.hang_up()
    outage = await begin_alert(service, "outage", language="de")
    assert outage.sent["language"] == "en-US", "it has no German text"


async def test_an_alert_does_not_take_the_place_of_a_code(service: RunningService) -> None:
    call = await begin_call(service, code="610389")
    await call.hang_up()
    alert = await begin_alert(service, "outage")
    await alert.hang_up()
    assert (await service.status(PHONE))["verification_id"] == call.id
    assert (await service.verify(PHONE, "610389")).status_code == 200
    assert (await alert.status())["mode"] == "alert"


async def test_an_alert_is_no_code_to_be_checked(service: RunningService) -> None:
    alert = await begin_alert(service, "outage")
    checked = await service.client.post("/verify-otp", json={"verification_id": alert.id, "otp": "610389"})
    assert (checked.status_code, checked.json()["reason"]) == (400, "expired_or_not_found")


async def test_the_same_alert_while_it_is_told_is_not_told_twice(service: RunningService) -> None:
    first = await begin_alert(service, "delivery", fields=FIELDS)
    again = (await send(service, template="delivery", fields=FIELDS)).json()
    assert (again["deduplicated"], again["verification_id"]) == (True, first.id)
    other = await send(service, template="delivery", fields={**FIELDS, "minutes": 10})
    assert (other.status_code, other.json()["code"]) == (409, "call_in_progress")


async def test_what_an_alert_says_is_in_no_answer_and_gone_at_its_end(
    prompts_file: str, fake_time: FakeTime
) -> None:
    async with run_service(fake_time.clock, prompts_file=prompts_file) as running:
        alert = await begin_alert(running, "delivery", fields={**FIELDS, "name": "Lovelace"}, ttl_seconds=60)
        await alert.press(await alert.answer())
        assert "Lovelace" not in str(await alert.hang_up())
        fake_time.advance(61)
        assert (await alert.status())["status"] == "delivered", "the passing of time does not undo it"
        record = await running.app.state.service._store.find_by_id(alert.id)
        assert record.sealed_code == b""


async def test_it_can_be_cancelled(service: RunningService) -> None:
    alert = await begin_alert(service, "outage")
    cancelled = await service.client.post("/cancel-otp", json={"verification_id": alert.id})
    assert cancelled.status_code == 200
    assert not (await alert.answer()).says("pump")


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        pytest.param({"template": "none"}, "template", "delivery, outage", id="unknown template"),
        pytest.param(
            {"template": "delivery", "fields": {**FIELDS, "minutes": 241}},
            "fields.minutes",
            "from 0 to 240",
            id="a number too large",
        ),
        pytest.param(
            {"template": "delivery", "fields": {**FIELDS, "name": "4711"}},
            "fields.name",
            "letters",
            id="digits in a name",
        ),
        pytest.param(
            {"template": "delivery", "fields": {"minutes": 2}}, "fields.at", "required", id="a missing field"
        ),
        pytest.param({"template": "outage", "fields": {"x": 1}}, "fields", "none", id="an unknown field"),
        pytest.param({"template": "outage", "voice": "Polly.None"}, "voice", "female, male", id="unknown voice"),
        pytest.param({"template": "outage", "language": "tlh"}, "language", "en", id="unknown language"),
        pytest.param({"template": "outage", "prompts": "acme"}, "prompts", "not known", id="unknown prompts"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    service: RunningService, fields: dict[str, Any], field: str, message: str
) -> None:
    refused = await send(service, **fields)
    assert refused.status_code == 422, refused.text
    error = refused.json()["errors"][0]
    assert error["field"] == field
    assert message in error["message"]


async def test_without_templates_there_is_no_alert() -> None:
    async with run_service() as running:
        refused = await send(running, template="outage")
        assert refused.status_code == 422
        assert "PROMPTS_FILE" in refused.text


async def test_a_send_with_the_same_key_gets_the_same_answer(service: RunningService) -> None:
    body = {"phone": PHONE, "template": "outage"}
    headers = {"Idempotency-Key": "alert-1"}
    first = await service.client.post("/send-alert", json=body, headers=headers)
    again = await service.client.post("/send-alert", json=body, headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    other = await service.client.post("/send-otp", json={"phone": PHONE}, headers=headers)
    assert other.json()["code"] == "idempotency_conflict"
