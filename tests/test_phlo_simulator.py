"""The simulated PHLO: the page that shows how to build it, whole calls over real HTTP, Plivo's SDK as a judge."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import plivo  # type: ignore[import-untyped]
import pytest
from fastapi import FastAPI
from plivo import exceptions
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from phlo_client import EVENTS, PhloClient, PhloConfig, run_payload
from simulator import phlo_canvas
from simulator.answer_xml import BadXml
from simulator.callees import SCRIPTED_CALLEES, ApiTrouble
from simulator.clock import SimulatorClock
from simulator.phlo_api import PhloCarrier, new_account, routes
from simulator.phlo_call import PhloCall
from simulator.phlo_canvas import Component, Phlo, documented_phlo, render, sounds_of
from simulator.phone import PhoneExchange
from tests.conftest import AnnouncedServer, keep_secret
from tests.test_phlo_client import AUTH_ID, AUTH_TOKEN, CODE, ORDER, PHLO_ID, SCRIPT
from tests.whole_calls import whole_call
from voice_provider import (
    AccountRefused,
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    EndReason,
    ProviderError,
    ProviderThrottled,
    RawWebhook,
)

FROM_NUMBER = "+12025550100"
GREETING, CODE_PROMPT, AGAIN, OFFER, GOODBYE = (
    said.text for said in (SCRIPT.greeting, SCRIPT.code_prompt, SCRIPT.again, SCRIPT.replay_prompt, SCRIPT.goodbye)
)
PAGE = (Path(__file__).parent.parent / "docs" / "plivo-phlo.md").read_text(encoding="utf-8")

# The page and the simulated PHLO are the same


def tables() -> dict[str, list[list[str]]]:
    """The rows of every table of the page, by the first cell of its head; backticks taken off single words."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE):
        head, _, *rows = (re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in block.splitlines())
        name = " ".join(cell.strip() for cell in head)
        found.setdefault(name, []).extend([[cell.strip(" `") for cell in row] for row in rows])
    return found


def xml_of_the_page() -> dict[str, str]:
    return dict(re.findall(r"^`([a-z]+)`[^\n]*:\n\n```xml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


def without_spaces(xml: str) -> str:
    return re.sub(r"\s*([<>])\s*", r"\1", xml).strip()


def test_the_page_declares_the_keys_that_a_run_brings() -> None:
    (keys,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert list(json.loads(keys)) == list(run_payload(ORDER))
    assert run_payload(ORDER).keys() == phlo_canvas.KEYS


def test_the_page_has_every_node_of_the_simulated_phlo() -> None:
    rows = tables()["node component configuration"]
    assert {name: component for name, component, _ in rows} == {
        name: node.component for name, node in documented_phlo().nodes.items() if name != "Start"
    }


def test_the_page_has_every_line_of_the_simulated_phlo() -> None:
    assert {tuple(row) for row in tables()["from state to"]} == {
        (name, state, to) for name, node in documented_phlo().nodes.items() for state, to in node.lines.items()
    }


def test_the_page_has_every_prompt_of_the_simulated_phlo() -> None:
    speaking = {
        name: node.settings["speak"] for name, node in documented_phlo().nodes.items() if "speak" in node.settings
    }
    assert {name: without_spaces(xml) for name, xml in xml_of_the_page().items()} == speaking


def test_the_page_has_every_report_of_the_simulated_phlo() -> None:
    reports = {
        name: {key: value for key, value in node.settings.items() if key != "url"}
        for name, node in documented_phlo().nodes.items()
        if node.component is Component.HTTP_REQUEST
    }
    assert {name: json.loads(body) for name, body in tables()["node body"]} == reports


def test_the_page_explains_every_event_and_every_voice() -> None:
    assert {row[0] for row in tables()["`event` meaning end reason"]} == set(EVENTS)
    assert dict(tables()["`PHLO_LANGUAGE` voice"]) == phlo_canvas.POLLY_VOICES


# Prompts


def variables() -> dict[str, str]:
    return {f"Start.http.params.{key}": value for key, value in run_payload(ORDER).items()}


def test_the_code_is_read_twice_and_character_by_character() -> None:
    ssml = render(documented_phlo().nodes["code"].settings["speak"], variables())
    said = [sound.text for sound in sounds_of(ssml, "en-US") if sound.text]
    assert said == [CODE_PROMPT, *CODE, AGAIN, *CODE]


def test_breaks_are_silence() -> None:
    ssml = '<Speak voice="Polly.Amy">a<break/>b<break time="2s"/><break time="250ms"/></Speak>'
    assert [sound.seconds for sound in sounds_of(ssml, "en-GB") if not sound.text] == [0.5, 2.0, 0.25]


@pytest.mark.parametrize(
    ("ssml", "reason"),
    [
        pytest.param("<Speak", "not well-formed", id="not well-formed"),
        pytest.param('<Speak voice="Polly.Amy">x</Speak>', "PHLO's voice", id="another voice"),
        pytest.param("<Speak>x</Speak>", "PHLO's voice", id="no voice"),
        pytest.param('<Say voice="Polly.Joanna">x</Say>', "no Speak element", id="another element"),
        pytest.param('<Speak voice="Polly.Joanna"><audio/></Speak>', "audio is not allowed", id="unknown tag"),
        pytest.param('<Speak voice="Polly.Joanna"><break time="soon"/></Speak>', "bad value", id="odd break"),
    ],
)
def test_a_prompt_is_read_strictly(ssml: str, reason: str) -> None:
    with pytest.raises(BadXml, match=reason):
        sounds_of(ssml, "en-US")


# The world: the simulated API and our events route on loopback


@contextlib.asynccontextmanager
async def serve(*routes: BaseRoute) -> AsyncIterator[str]:
    """The URL of an app with these routes, on a free port of loopback, in the test's own event loop."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = AnnouncedServer(FastAPI(routes=[*routes]))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.has_started.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.is_to_stop.set()
        await serving


@dataclass
class World:
    """A simulated account, and the customer: what it was told on its events URL, answered with `status`."""

    carrier: PhloCarrier
    url: str = ""
    status: int = 200
    reports: list[bytes] = field(default_factory=list)

    async def events(self, request: Request) -> Response:
        self.reports.append(await request.body())
        assert request.headers["content-type"] == "application/json"
        return Response(status_code=self.status)

    def client(self, http: httpx.AsyncClient, **config: Any) -> PhloClient:
        account = self.carrier.account
        given = {"auth_id": account.auth_id, "auth_token": account.auth_token, "phlo_id": account.phlo_id}
        given |= {"from_number": FROM_NUMBER, "api_url": f"{self.url}/v1"}
        return PhloClient(PhloConfig(**{**given, **config}), http)

    def order(self, to: str, max_replays: int = 3) -> CallOrder:
        urls = CallUrls("", "", "", "", "", events=f"{self.url}/events/4b1d")
        return replace(ORDER, to=keep_secret(to), urls=urls, script=whole_call(CODE, max_replays=max_replays))

    async def call(self, to: str, max_replays: int = 3) -> tuple[PhloCall, list[CallEvent]]:
        """A whole call: the simulated one, and what the client understood of it."""
        async with httpx.AsyncClient() as http:
            client = self.client(http)
            run_id = await client.place_call(self.order(to, max_replays))
            await self.over()
            events = [client.parse_event(RawWebhook((), {}, body), None) for body in self.reports]
        return self.carrier.records[run_id], events

    async def over(self) -> None:
        await asyncio.gather(*self.carrier.tasks.values())


@contextlib.asynccontextmanager
async def open_world(**account: Any) -> AsyncIterator[World]:
    clock = SimulatorClock(float("inf"))
    carrier = PhloCarrier(new_account(FROM_NUMBER, **account), httpx.AsyncClient(), clock, PhoneExchange(clock))
    keep_secret(carrier.account.auth_token)
    world = World(carrier)
    events = Route("/events/{token}", world.events, methods=["POST"])
    async with serve(Mount("/v1", routes=routes(carrier)), events) as world.url:
        yield world
    await carrier.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


# Whole calls

ANSWERED = CallEvent("", CallState.ANSWERED)
SPOKEN = CallEvent("", CallState.ANSWERED, reading=1)
ENDED = CallEvent("", CallState.COMPLETED)


def ended(reason: EndReason, cause: str) -> CallEvent:
    return CallEvent("", CallState.COMPLETED, reason, cause)


@pytest.mark.parametrize(
    ("to", "events"),
    [
        pytest.param("+14155550101", [ANSWERED, SPOKEN, ENDED], id="listens"),
        pytest.param("+14155550102", [ANSWERED, SPOKEN, SPOKEN, ENDED], id="presses 1 once"),
        pytest.param(
            "+14155550103", [ANSWERED, SPOKEN, SPOKEN, SPOKEN, SPOKEN, ENDED], id="presses 1 three times"
        ),
        pytest.param("+14155550104", [ANSWERED, SPOKEN, ENDED], id="presses 9"),
        pytest.param("+14155550105", [ended(EndReason.BUSY, "3010")], id="is busy"),
        pytest.param("+14155550106", [ended(EndReason.NO_ANSWER, "6010")], id="does not answer"),
        pytest.param("+14155550107", [ended(EndReason.REJECTED, "3020")], id="rejects"),
        pytest.param("+14155550108", [ANSWERED], id="hangs up early, which no node tells"),
        pytest.param("+14155550114", [ended(EndReason.FAILED, "3050")], id="is not allocated"),
        pytest.param("+14155550116", [ANSWERED, SPOKEN], id="the last report is lost"),
        pytest.param(
            "+14155550117",
            [event for event in [ANSWERED, SPOKEN, SPOKEN, SPOKEN, SPOKEN, ENDED] for _ in range(2)],
            id="every report comes twice",
        ),
    ],
)
async def test_what_the_client_understands_is_what_happened(
    world: World, to: str, events: list[CallEvent]
) -> None:
    _, understood = await world.call(to)
    assert understood == events


async def test_the_callee_hears_the_whole_script(world: World) -> None:
    call, _ = await world.call("+14155550102")
    reading = [CODE_PROMPT, *CODE, AGAIN, *CODE, OFFER]
    assert call.spoken == [GREETING, *reading, *reading, GOODBYE]
    assert call.request.from_number == FROM_NUMBER


async def test_a_call_without_replays_offers_none(world: World) -> None:
    call, events = await world.call("+14155550103", max_replays=0)
    assert OFFER not in call.spoken
    assert events == [ANSWERED, SPOKEN, ENDED]


async def test_the_phlo_speaks_the_language_of_its_voice() -> None:
    async with open_world(language="de-DE") as world:
        call, _ = await world.call("+14155550101")
    assert call.phlo.nodes["greeting"].settings["speak"].startswith('<Speak voice="Polly.Vicki">')
    assert call.spoken[0] == GREETING


async def test_a_machine_is_reported_where_the_phlo_detects_it() -> None:
    async with open_world(detects_machines=True) as world:
        _, events = await world.call("+14155550109")
    assert events == [CallEvent("", CallState.COMPLETED, EndReason.VOICEMAIL)]


async def test_without_report_nodes_the_callee_hears_all_and_nobody_learns_of_it() -> None:
    async with open_world(reports_back=False) as world:
        call, events = await world.call("+14155550102")
        busy, _ = await world.call("+14155550105")
    assert call.spoken[-1] == GOODBYE
    assert busy.ending_name == "Busy Line"
    assert events == []
    assert world.reports == []


async def test_reports_that_are_refused_do_not_keep_the_callee_waiting(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.status = 404
    call, _ = await world.call("+14155550101")
    assert call.spoken[-1] == GOODBYE
    assert caplog.text.count("report of the PHLO was not taken: HTTP 404 in 1 try") == 3


async def test_a_foreign_caller_id_fails(world: World) -> None:
    async with httpx.AsyncClient() as http:
        client = world.client(http)
        await client.place_call(replace(world.order("+14155550101"), from_number="+12025550199"))
        await world.over()
        (event,) = [client.parse_event(RawWebhook((), {}, body), None) for body in world.reports]
    assert event == ended(EndReason.FAILED, "3030")


async def test_a_prompt_that_cannot_be_read_fails_the_call(world: World, caplog: pytest.LogCaptureFixture) -> None:
    account = world.carrier.account
    broken = replace(account.phlo.nodes["code"], settings={"speak": "<Speak>{{Start.http.params.otp}}"})
    world.carrier.account = replace(
        account, phlo=Phlo(account.phlo.keys, "en-US", {**account.phlo.nodes, "code": broken})
    )
    call, events = await world.call("+14155550101")
    assert events == [ANSWERED]
    assert call.ending_code == "8011"
    assert "the prompt is not well-formed" in caplog.text


# Trouble with the API


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (ApiTrouble.DOWN, CallOutcomeUnknown),
        (ApiTrouble.THROTTLED, ProviderThrottled),
        (ApiTrouble.OUT_OF_CREDIT, AccountRefused),
    ],
)
async def test_trouble_is_understood_and_no_call_is_made(
    world: World, trouble: ApiTrouble, error: type[ProviderError]
) -> None:
    (to,) = [number for number, callee in SCRIPTED_CALLEES.items() if callee.api_trouble is trouble]
    with pytest.raises(ProviderError) as raised:
        await world.call(to)
    assert type(raised.value) is error
    assert not world.carrier.records
    assert world.carrier.requests == 1


async def test_a_run_whose_answer_is_late_is_unknown_and_may_be_heard_of(world: World) -> None:
    async with httpx.AsyncClient() as http:
        client = world.client(http, request_deadline_seconds=2)
        with pytest.raises(CallOutcomeUnknown):
            await client.place_call(world.order("+14155550111"))
        await world.over()
        assert client.parse_event(RawWebhook((), {}, world.reports[0]), None) == ANSWERED


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"auth_token": "wrong"}, AccountRefused, "PLIVO_AUTH_TOKEN"),
        ({"auth_id": "MAYYYYYYYYYYYYYYYYYY"}, AccountRefused, "PLIVO_AUTH_ID"),
        ({"phlo_id": PHLO_ID}, CallRejected, "PLIVO_PHLO_ID"),
        ({"api_url": "{url}/v2"}, CallRejected, "PLIVO_PHLO_URL"),
    ],
)
async def test_a_wrong_setting_is_named(
    world: World, changes: dict[str, str], error: type[ProviderError], message: str
) -> None:
    config = {name: value.format(url=world.url) for name, value in changes.items()}
    async with httpx.AsyncClient() as http:
        with pytest.raises(ProviderError, match=message) as raised:
            await world.client(http, **config).place_call(world.order("+14155550101"))
    assert type(raised.value) is error


@pytest.mark.parametrize("limit", ["calls_per_second", "concurrent_calls"])
async def test_an_account_can_have_limits(limit: str) -> None:
    async with open_world(**{limit: 1}) as world, httpx.AsyncClient() as http:
        world.carrier.clock.speed = 0.001  # the first call goes on
        await world.client(http).place_call(world.order("+14155550101"))
        with pytest.raises(ProviderThrottled):
            await world.client(http).place_call(world.order("+14155550102"))


BODY = run_payload(ORDER)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param({"content": b"{"}, "not JSON", id="not JSON"),
        pytest.param({"json": []}, "not an object", id="a list"),
        pytest.param({"data": {"a": "b"}, "headers": {"content-type": "application/x-www-form-urlencoded"}},
                     "content type", id="a form"),
        pytest.param({"json": {**BODY, "OTP": "1"}}, "not those of the Start node: OTP", id="an unknown key"),
        pytest.param({"json": {"to": "x"}}, "not those of the Start node", id="keys missing"),
        pytest.param({"json": {**BODY, "readings": 4}}, "must be text", id="a number"),
        pytest.param({"json": {**BODY, "to": "415"}}, "to parameter is invalid", id="no number"),
        pytest.param({"json": {**BODY, "to": "+14155550142<+14155550143"}}, "to parameter", id="two numbers"),
    ],
)  # fmt: skip
async def test_a_run_is_read_strictly(world: World, sent: dict[str, Any], reason: str) -> None:
    account = world.carrier.account
    headers = {"content-type": "application/json", **sent.pop("headers", {})}
    async with httpx.AsyncClient(auth=(account.auth_id, account.auth_token), headers=headers) as http:
        url = f"{world.url}/v1/account/{account.auth_id}/phlo/{account.phlo_id}"
        answer = await http.post(url, **sent)
    assert answer.status_code == 400
    assert answer.json().keys() == {"api_id", "error"}
    assert reason in answer.json()["error"]
    assert not world.carrier.calls


async def test_another_accounts_phlo_is_not_run(world: World) -> None:
    account = world.carrier.account
    async with httpx.AsyncClient(auth=(account.auth_id, account.auth_token)) as http:
        answer = await http.post(f"{world.url}/v1/account/{AUTH_ID}/phlo/{account.phlo_id}", json=BODY)
    assert answer.status_code == 401


# Plivo's own SDK as a judge


def sdk(url: str, auth_id: str, auth_token: str) -> Any:
    client = plivo.phlo.RestClient(auth_id=auth_id, auth_token=auth_token)
    client.phlo_base_uri = url
    return client


def run_with_sdk(url: str, auth_id: str, auth_token: str, phlo_id: str, payload: dict[str, str]) -> Any:
    """The documented way: fetch the PHLO, then run it."""
    with sdk(url, auth_id, auth_token) as client:
        return client.phlo.get(phlo_id).run(**payload)


async def judge(world: World, payload: dict[str, str], **changes: str) -> Any:
    account = world.carrier.account
    given = {"auth_id": account.auth_id, "auth_token": account.auth_token, "phlo_id": account.phlo_id, **changes}
    return await asyncio.to_thread(run_with_sdk, f"{world.url}/v1", payload=payload, **given)


async def test_the_sdk_takes_the_simulator_for_plivo(world: World) -> None:
    payload = run_payload(world.order("+14155550101"))
    run = await judge(world, payload)
    await world.over()
    assert run.phlo_id == world.carrier.account.phlo_id
    assert world.carrier.records[run.api_id].payload == payload
    assert [json.loads(body)["event"] for body in world.reports] == ["answered", "spoken", "ended"]


@pytest.mark.parametrize(
    ("payload", "changes", "error"),
    [
        pytest.param({}, {}, exceptions.ValidationError, id="400"),
        pytest.param(BODY, {"auth_token": "wrong"}, exceptions.AuthenticationError, id="401"),
        pytest.param(BODY, {"phlo_id": PHLO_ID}, exceptions.ResourceNotFoundError, id="404"),
    ],
)
async def test_the_sdk_understands_the_simulators_errors(
    world: World, payload: dict[str, str], changes: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await judge(world, payload, **changes)


async def test_the_simulator_refuses_other_methods_as_the_sdk_expects(world: World) -> None:
    account = world.carrier.account

    def delete() -> None:
        with sdk(f"{world.url}/v1", account.auth_id, account.auth_token) as client:
            client.request("DELETE", ("account", account.auth_id, "phlo", account.phlo_id))

    with pytest.raises(exceptions.InvalidRequestError):
        await asyncio.to_thread(delete)


async def test_our_request_is_the_one_that_the_sdk_makes() -> None:
    """Method, path, credentials, type and body; the SDK fetches the PHLO first, which a run does not need."""
    seen: list[dict[str, Any]] = []

    async def plivos(request: Request) -> Response:
        headers = {name: request.headers[name] for name in ("authorization", "content-type")}
        content = await request.body()
        path = request.scope["raw_path"].decode()
        seen.append({"method": request.method, "path": path, "body": content and json.loads(content), **headers})
        is_run = request.method == "POST"
        found = json.dumps({"api_id": "7b6f8256-0000-4d9a-bf2a-a2cd0f05d269", "phlo_id": PHLO_ID})
        return Response(found, 201 if is_run else 200, media_type="application/json")

    async with serve(Route("/{path:path}", plivos, methods=["GET", "POST"])) as url:
        given = (AUTH_ID, AUTH_TOKEN, PHLO_ID, run_payload(ORDER))
        await asyncio.to_thread(run_with_sdk, f"{url}/v1", *given)
        async with httpx.AsyncClient() as http:
            config = PhloConfig(AUTH_ID, AUTH_TOKEN, PHLO_ID, FROM_NUMBER, api_url=f"{url}/v1")
            await PhloClient(config, http).place_call(ORDER)
    fetched, sdks_run, our_run = seen
    assert (fetched["method"], fetched["path"]) == ("GET", f"/v1/phlo/{PHLO_ID}/")
    assert our_run == sdks_run
