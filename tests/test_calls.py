"""Whole calls, as data: told from the carrier's side with exact XML, or lived through by a scripted callee."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulator import vobiz_call
from simulator.callees import SCRIPTED_CALLEES
from tests.conftest import VOBIZ_TOKEN, FakeTime, RunningService, keep_secret, run_service

CALLS = Path(__file__).parent / "calls"
CARRIER_CALLS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((CALLS / "carrier").glob("*"))]
CALLEES = json.loads((CALLS / "callees.json").read_text())
CALL_UUID = "5a9fd4a0-3d4c-11ef-bef9-0242ac110005"
PUBLIC_URL = "https://otp.example.com"


class HandCarrier:
    """A carrier that takes every call and leaves the callbacks to the test."""

    def __init__(self) -> None:
        self.answer_urls: list[str] = []
        self.hung_up: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.hung_up.append(request.url.path)
            return httpx.Response(204)
        self.answer_urls.append(json.loads(request.content)["answer_url"])
        call_uuid = CALL_UUID[:-1] + str(len(self.answer_urls) - 1 + 5)
        return httpx.Response(200, json={"request_uuid": call_uuid})

    @property
    def token(self) -> str:
        return self.answer_urls[-1].split("/")[-1].split("?")[0]


class CallPlayer:
    """Carries out the steps of a call file."""

    def __init__(self, service: RunningService, carrier: HandCarrier, time: FakeTime) -> None:
        self.service = service
        self.carrier = carrier
        self.time = time
        self.token = ""
        self.phone = ""

    async def play(self, step: dict[str, Any]) -> None:
        self.time.advance(1)
        kinds = {"send": self.send, "post": self.post, "verify": self.verify, "cancel": self.cancel}
        for kind, action in kinds.items():
            if kind in step:
                return await action(step)
        if "wait" in step:
            return self.time.advance(step["wait"])
        await self.check_status(step["check_status"])

    async def send(self, step: dict[str, Any]) -> None:
        self.phone = step["send"]["phone"]
        answer = await self.service.send(**step["send"])
        self.expect(answer, step)
        if not step.get("keep_token"):
            self.token = self.carrier.token
            keep_secret(self.token)

    async def post(self, step: dict[str, Any]) -> None:
        fields = {name: value.replace("{call_uuid}", CALL_UUID) for name, value in step["fields"].items()}
        answer = await self.service.client.post(step["post"].replace("{token}", self.token), data=fields)
        assert answer.status_code == step.get("status", 200)
        assert answer.text == step["body"].replace("{token}", self.token)
        assert answer.headers["cache-control"] == "no-store"
        if answer.text:
            assert answer.headers["content-type"] == "application/xml"
            vobiz_call.read(answer.content)

    async def verify(self, step: dict[str, Any]) -> None:
        self.expect(await self.service.verify(self.phone, step["verify"]), step)

    async def cancel(self, step: dict[str, Any]) -> None:
        self.expect(await self.service.client.post("/cancel-otp", json={"phone": self.phone}), step)
        assert len(self.carrier.hung_up) == 1

    async def check_status(self, expected: dict[str, Any]) -> None:
        status = await self.service.status(self.phone)
        expected_call = expected.pop("call", {})
        assert {name: status[name] for name in expected} == expected
        assert {name: status["call"][name] for name in expected_call} == expected_call

    @staticmethod
    def expect(answer: httpx.Response, step: dict[str, Any]) -> None:
        assert answer.status_code == step["status"], answer.text
        got = answer.json()
        assert {name: got[name] for name in step["expect"]} == step["expect"]


@pytest.mark.parametrize("call", CARRIER_CALLS, ids=lambda call: call["call"])
async def test_a_call_told_by_its_carrier(call: dict[str, Any], fake_time: FakeTime) -> None:
    carrier = HandCarrier()
    http = httpx.AsyncClient(transport=httpx.MockTransport(carrier))
    settings = {
        "vobiz_auth_id": "MA_TEST",
        "vobiz_auth_token": VOBIZ_TOKEN,
        "from_number": "+12025550100",
        "public_url": PUBLIC_URL,
        "app_name": "Acme",
    }
    async with run_service(fake_time.clock, http, **settings) as service:
        player = CallPlayer(service, carrier, fake_time)
        for step in call["steps"]:
            await player.play(step)


def test_every_scripted_callee_has_an_expected_end() -> None:
    assert set(CALLEES["ended"]) | set(CALLEES["refused"]) | set(CALLEES["lost"]) == set(SCRIPTED_CALLEES)


@pytest.mark.parametrize("no_input", ["continue", "post"])
@pytest.mark.parametrize("phone", CALLEES["ended"], ids=lambda phone: SCRIPTED_CALLEES[phone].description)
async def test_a_call_lived_through_by_a_callee(phone: str, no_input: str) -> None:
    async with run_service(simulator_no_input=no_input, provider_deadline_seconds=0.5) as service:
        sent = await service.send(phone, code="CAN610")
        assert sent.status_code == 200
        await service.calls_over()
        status = await service.status(phone)
        assert status["status"] == CALLEES["ended"][phone]["status"]
        call = {name: status["call"][name] for name in ("end_reason", "times_spoken", "hangup_cause")}
        assert {"status": status["status"], **call} == CALLEES["ended"][phone]
        verified = await service.verify(phone, "CAN610")
        assert verified.json()["valid"] is True
        assert service.carrier.requests == 1


@pytest.mark.parametrize("phone", CALLEES["refused"], ids=lambda phone: SCRIPTED_CALLEES[phone].description)
async def test_a_call_that_the_carrier_refuses(service: RunningService, phone: str) -> None:
    answer = await service.send(phone)
    assert (answer.status_code, answer.json()["code"]) == tuple(CALLEES["refused"][phone].values())
    assert answer.headers["content-type"] == "application/problem+json"
    status = await service.status(phone)
    assert (status["status"], status["call"]["end_reason"]) == ("undelivered", "failed")
    assert service.carrier.requests == 1


async def test_a_lost_hangup_callback_is_made_good_by_asking_the_carrier(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock) as service:
        phone = CALLEES["lost"][0]
        await service.send(phone, code="610389")
        await service.calls_over()
        assert (await service.status(phone))["call"]["state"] == "answered"
        overdue = await service.app.state.service.status("anonymous", phone)
        fake_time.seconds = overdue.call.overdue_at + 2
        await service.app.state.timekeeper.ask_about_silent_calls()
        call = (await service.status(phone))["call"]
        assert (call["state"], call["end_reason"], call["talk_seconds"]) == (
            "completed",
            "answered_and_spoken",
            42,
        )


@pytest.mark.parametrize("answer", [httpx.Response(500), httpx.Response(404), httpx.ConnectError("gone")])
async def test_a_call_that_cannot_be_looked_up_is_given_up_later(fake_time: FakeTime, answer: Any) -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"request_uuid": CALL_UUID})
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code)

    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    settings = {"vobiz_auth_id": "MA_TEST", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": "+12025550100"}
    async with run_service(fake_time.clock, http, public_url=PUBLIC_URL, **settings) as service:
        await service.send("+14155550142")
        fake_time.advance(30 + 16)
        await service.app.state.timekeeper.ask_about_silent_calls()
        assert (await service.status("+14155550142"))["call"]["state"] == "dialing"
        fake_time.advance(31)
        call = (await service.status("+14155550142"))["call"]
        assert (call["state"], call["end_reason"]) == ("completed", "unknown")


async def test_a_call_of_which_nothing_was_heard_at_all_is_searched_for_by_its_callee(fake_time: FakeTime) -> None:
    """Its create request timed out and no callback came: the carrier is asked, and nobody is called again."""
    created: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            created.append(request)
            raise httpx.ReadTimeout("no answer")
        if request.url.path.endswith("/cdr"):
            assert request.url.params["to_number"] == "14155550142"
            record = {
                "uuid": CALL_UUID,
                "destination_number": "14155550142",
                "start_time": "2026-01-01T00:00:01Z",
                "hangup_cause_code": 3010,
                "hangup_cause": "USER_BUSY",
            }
            return httpx.Response(200, json={"data": [record]})
        return httpx.Response(200, json={"calls": []})

    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    settings = {"vobiz_auth_id": "MA_TEST", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": "+12025550100"}
    async with run_service(fake_time.clock, http, public_url=PUBLIC_URL, **settings) as service:
        assert (await service.send("+14155550142")).status_code == 202
        assert (await service.send("+14155550142")).json()["deduplicated"]
        fake_time.advance(30 + 16)
        await service.app.state.timekeeper.ask_about_silent_calls()
        call = (await service.status("+14155550142"))["call"]
        assert (call["call_uuid"], call["state"], call["end_reason"]) == (CALL_UUID, "completed", "busy")
        assert len(created) == 1


async def test_voicemail_is_hung_up_on_when_detection_is_on() -> None:
    async with run_service(machine_detection="hangup") as service:
        for phone, end_reason in (("+14155550109", "voicemail"), ("+14155550101", "answered_and_spoken")):
            await service.send(phone)
            await service.calls_over()
            assert (await service.status(phone))["call"]["end_reason"] == end_reason


async def test_what_is_spoken_is_the_script(service: RunningService) -> None:
    answer = await service.send("+14155550102", code="610389", language="fr")
    await service.calls_over()
    call = service.carrier.records[answer.json()["call_uuid"]]
    digits = ("six", "un", "zéro", "trois", "huit", "neuf")
    reading = ["Je répète. Votre code est", *digits]
    menu = "Pour réécouter le code, appuyez sur la touche un."
    opening = ["Bonjour. Voici votre code de vérification pour your app.", "Votre code est", *digits]
    silence = [menu]  # which is met with the offer once more
    assert call.spoken == [*opening, *reading, menu, *reading, *reading, menu, *silence, "Au revoir."]
