"""Our Plivo client and the simulated Plivo over real HTTP; the official SDK judges what the simulator signs."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import uvicorn
from plivo.utils import validate_signature, validate_v3_signature  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from call_script import REPLAY, CallScript, Manner, Speak
from plivo_client import FURTHER_VOICES, POLLY_VOICES, PlivoClient, PlivoConfig
from plivo_sms import PlivoSms, PlivoSmsConfig
from simulator import plivo_api, plivo_call
from simulator.answer_xml import BadXml
from simulator.callbacks import Failure, Purpose, Tries
from simulator.clock import SimulatorClock
from simulator.phone import PhoneExchange
from simulator.plivo_api import PlivoCarrier
from sms_provider import MessageOrder, MessageReport, MessageState
from tests.conftest import keep_secret
from tests.whole_calls import WRITER, characters_in
from voice_provider import (
    AccountRefused,
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    EndReason,
    MachineDetection,
    ProviderThrottled,
    ProviderUnavailable,
    RawWebhook,
)

OURS = "+12025550100"
CODE = keep_secret("493817")
MANNER = Manner("en-US")


class Loopback(uvicorn.Server):
    """Says when it has started."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


class Customer:
    """Both ends of the wire: the simulated carrier, and a service that speaks with it through our clients.

    The service reads a code, and offers to read it again, as the real one does. `events` are what it was told.
    """

    def __init__(self, base_url: str, speed: float, **limits: int) -> None:
        account = plivo_api.new_account(OURS, **limits)
        self.account = replace(account, other_tokens=("a-token-that-is-being-changed",))
        clock = SimulatorClock(speed)
        self.carrier = PlivoCarrier(self.account, httpx.AsyncClient(), clock, PhoneExchange(clock))
        self.base_url = base_url
        self.http = httpx.AsyncClient()
        self.events: list[CallEvent] = []
        self.reports: list[MessageReport] = []
        self.on_answer: Callable[[CallEvent], Awaitable[None]] | None = None
        self.answer_document = ""
        given: dict[str, Any] = {"auth_id": account.auth_id, "auth_token": account.auth_token, "from_number": OURS}
        self.client = PlivoClient(PlivoConfig(**given, api_url=f"{base_url}/v1"), self.http)
        self.sms = PlivoSms(PlivoSmsConfig(**given, api_url=f"{base_url}/v1"), self.http)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/answer/T", self.answer, methods=["GET", "POST"]),
                Route("/choice/T", self.choice, methods=["GET", "POST"]),
                Route("/notice/T", self.notice, methods=["GET", "POST"]),
                Route("/report/T", self.report, methods=["GET", "POST"]),
                Mount("/v1", routes=plivo_api.routes(self.carrier)),
            ]
        )

    def urls(self, reading: int = 0) -> CallUrls:
        base = self.base_url
        return CallUrls(
            answer=f"{base}/answer/T?n={reading + 1}",
            fallback=f"{base}/answer/T?n={reading + 1}",
            choice=f"{base}/choice/T?n={reading}",
            hangup=f"{base}/notice/T",
            ring=f"{base}/notice/T",
            events=f"{base}/notice/T",
        )

    def order(self, to: str, **changes: Any) -> CallOrder:
        return replace(
            CallOrder(to, OURS, self.urls(), ring_timeout_seconds=30, time_limit_seconds=300), **changes
        )

    # The service

    async def answer(self, request: Request) -> Response:
        event = await self._take_in(request, CallState.ANSWERED)
        if self.on_answer is not None:
            await self.on_answer(event)
        if self.answer_document:
            return Response(self.answer_document, media_type="application/xml")
        reading = int(request.query_params["n"])
        return self._say(WRITER.read_code(CODE, MANNER, reading=reading), reading)

    async def choice(self, request: Request) -> Response:
        event = await self._take_in(request, CallState.ANSWERED)
        reading = int(request.query_params["n"])
        if event.digits == "1" and reading <= 3:
            return self._say(REPLAY, reading)
        return self._say(WRITER.menu(MANNER) if event.digits else WRITER.goodbye(MANNER), reading)

    async def notice(self, request: Request) -> Response:
        await self._take_in(request, None)
        return Response()

    async def report(self, request: Request) -> Response:
        webhook = await self._raw(request)
        self.sms.check_report(webhook)
        nonce, signature = (webhook.headers[f"x-plivo-signature-v2{end}"] for end in ("-nonce", ""))
        assert validate_signature(str(request.url), nonce, signature, self.account.auth_token)
        self.reports.append(self.sms.parse_report(webhook))
        return Response()

    def _say(self, script: CallScript, reading: int) -> Response:
        return Response(self.client.render(script, self.urls(reading)), media_type="application/xml")

    async def _take_in(self, request: Request, expected: CallState | None) -> CallEvent:
        webhook = await self._raw(request)
        self._judge(webhook, str(request.url))
        self.client.check_webhook(webhook)
        event = self.client.parse_event(webhook, expected)
        self.events.append(event)
        return event

    def _judge(self, webhook: RawWebhook, url: str) -> None:
        fields = dict(parse_qsl(webhook.body.decode(), keep_blank_values=True))
        nonce = webhook.headers["x-plivo-signature-v3-nonce"]
        for name, token in (("v3", self.account.auth_token), ("ma-v3", self.account.main_token)):
            signature = webhook.headers[f"x-plivo-signature-{name}"]
            assert validate_v3_signature(webhook.method, url, nonce, token, signature, fields)

    async def _raw(self, request: Request) -> RawWebhook:
        url = f"{self.base_url}{request.url.path}"
        return RawWebhook((url,), request.headers, await request.body(), request.method, request.url.query)

    # What tests ask

    async def calls_over(self) -> None:
        while self.carrier.tasks:
            await asyncio.gather(*self.carrier.tasks.values(), return_exceptions=True)

    async def messages_over(self) -> None:
        while self.carrier.desk.tasks:
            await asyncio.gather(*self.carrier.desk.tasks)

    async def create(self, **parameters: Any) -> httpx.Response:
        body = {"from": OURS, "to": "+14155550101", "answer_url": self.urls().answer, **parameters}
        return await self.ask("POST", "Call/", json={name: value for name, value in body.items() if value != ""})

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        account = self.account
        url = f"{self.base_url}/v1/Account/{account.auth_id}/{path}"
        return await self.http.request(method, url, **{"auth": (account.auth_id, account.auth_token), **request})


@contextlib.asynccontextmanager
async def run_customer(speed: float = float("inf"), **limits: int) -> AsyncIterator[Customer]:
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    customer = Customer(f"http://127.0.0.1:{listener.getsockname()[1]}", speed, **limits)
    keep_secret(customer.account.auth_token)
    keep_secret(customer.account.main_token)
    server = Loopback(customer.app())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.has_started.wait()
    try:
        yield customer
    finally:
        await customer.carrier.close()
        await customer.http.aclose()
        server.should_exit = True
        await serving


@pytest.fixture
async def customer() -> AsyncIterator[Customer]:
    async with run_customer() as running:
        yield running


# Calls, by who answers

HEARD = None


@pytest.mark.parametrize(
    ("to", "reason", "keys", "readings"),
    [
        pytest.param("+14155550101", HEARD, "", 1, id="listens"),
        pytest.param("+14155550102", HEARD, "1", 2, id="presses 1 once"),
        pytest.param("+14155550103", HEARD, "111", 4, id="presses 1 three times"),
        pytest.param("+14155550104", HEARD, "9", 1, id="presses 9"),
        pytest.param("+14155550105", EndReason.BUSY, "", 0, id="is busy"),
        pytest.param("+14155550106", EndReason.NO_ANSWER, "", 0, id="does not answer"),
        pytest.param("+14155550107", EndReason.REJECTED, "", 0, id="rejects"),
        pytest.param("+14155550108", HEARD, "", 0, id="hangs up while a machine is looked for"),
        pytest.param("+14155550109", EndReason.VOICEMAIL, "", 0, id="is a voicemail"),
        pytest.param("+14155550114", EndReason.FAILED, "", 0, id="is not allocated"),
        pytest.param("+14155550115", HEARD, "", 1, id="hangs up late"),
    ],
)
async def test_each_callee_leads_to_its_end(
    customer: Customer, to: str, reason: EndReason | None, keys: str, readings: int
) -> None:
    call_id = await customer.client.place_call(customer.order(to, machine_detection=MachineDetection.HANGUP))
    await customer.calls_over()
    events = customer.events
    assert {event.call_id for event in events} == {call_id}
    assert [events[0].state, events[-1].state] == [CallState.RINGING, CallState.COMPLETED]
    assert events[-1].end_reason is reason
    assert "".join(event.digits for event in events) == keys
    digits = characters_in(customer.carrier.records[call_id].spoken)
    assert digits == (CODE * 2 * readings)[: len(digits)]
    assert len(digits) > (readings - 1) * 2 * len(CODE)
    recorded = await customer.client.look_up(call_id)
    assert recorded is not None
    assert (recorded.state, recorded.end_reason) == (CallState.COMPLETED, reason)


async def test_a_lost_end_is_looked_up_and_a_doubled_one_is_told_twice(customer: Customer) -> None:
    lost = await customer.client.place_call(customer.order("+14155550116"))
    doubled = await customer.client.place_call(customer.order("+14155550117"))
    await customer.calls_over()
    ends = [event.call_id for event in customer.events if event.state is CallState.COMPLETED]
    assert (ends.count(lost), ends.count(doubled)) == (0, 2)
    recorded = await customer.client.look_up(lost)
    assert recorded is not None
    assert recorded.state is CallState.COMPLETED


def test_every_polly_voice_can_be_had_in_its_language() -> None:
    """But for the one whose name has more than plain letters, and that of a language without a tag."""
    listed = {language: {f"Polly.{name}" for name in names} for language, names in plivo_call.POLLY_VOICES.items()}
    listed["pt-BR"].remove("Polly.Vitória")
    del listed["en-GB-WLS"]
    voices = {language: {*filter(None, both)} for language, both in POLLY_VOICES.items()}
    assert {tag: voices[tag] | {*FURTHER_VOICES.get(tag, ())} for tag in voices} == listed


@pytest.mark.parametrize("polly", [True, False])
async def test_every_voice_of_ours_is_one_that_plivo_has(customer: Customer, polly: bool) -> None:
    client = PlivoClient(replace(customer.client._config, polly=polly), customer.http)
    used = set()
    for language in client.capabilities.languages:
        for wanted in ("", "female", "male", *client.capabilities.voices):
            speak = Speak("seven", language, wanted, rate=80, ssml='<say-as interpret-as="digits">7</say-as>')
            (spoken,) = plivo_call.read(client.render((speak,), customer.urls()))
            assert spoken.text == ("7" if polly else "seven")
            used.add(spoken.attributes["voice"])
    assert used == (set(client.capabilities.voices) if polly else {"WOMAN", "MAN"})


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("+14155550110", ProviderUnavailable),
        ("+14155550112", ProviderThrottled),
        ("+14155550113", AccountRefused),
        ("+14155550118", ProviderUnavailable),
    ],
)
async def test_trouble_at_the_carrier_is_one_request_and_no_call(
    customer: Customer, to: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await customer.client.place_call(customer.order(to))
    assert (customer.carrier.requests, len(customer.carrier.calls)) == (1, 0)
    assert await customer.client.find_call(to, 0) is None


async def test_a_5xx_after_accepting_is_one_call_which_is_found_by_its_callee(customer: Customer) -> None:
    customer.carrier.fails_after_accepting = True
    with pytest.raises(CallOutcomeUnknown):
        await customer.client.place_call(customer.order("+14155550101"))
    assert customer.carrier.requests == 1
    await customer.calls_over()
    assert len(customer.carrier.records) == 1
    found = await customer.client.find_call("+14155550101", 0)
    assert found is not None
    assert (found.state, found.call_id) == (CallState.COMPLETED, customer.events[0].call_id)


async def test_an_answer_that_comes_too_late_is_one_call_which_goes_on() -> None:
    async with run_customer() as customer:
        hasty = replace(customer.client._config, request_deadline_seconds=2)
        with pytest.raises(CallOutcomeUnknown):
            await PlivoClient(hasty, customer.http).place_call(customer.order("+14155550111"))
        await customer.calls_over()
        assert customer.carrier.requests == 1
        assert customer.events[-1].state is CallState.COMPLETED


async def test_a_caller_id_that_is_not_the_accounts_fails_the_call(customer: Customer) -> None:
    await customer.client.place_call(customer.order("+14155550101", from_number="+12025550199"))
    await customer.calls_over()
    assert [(event.state, event.end_reason) for event in customer.events] == [
        (CallState.COMPLETED, EndReason.FAILED)
    ]


async def test_over_the_calls_per_second_a_call_is_queued_and_can_be_found_and_cancelled() -> None:
    async with run_customer(speed=1, calls_per_second=1) as customer:
        first = await customer.client.place_call(customer.order("+14155550106"))
        answer = await customer.create(to="+14155550105", hangup_url=customer.urls().hangup + "?k=1")
        second = answer.json()["request_uuid"]
        assert answer.json()["message"] == "call queued"
        for call_id, to in ((first, "+14155550106"), (second, "+14155550105")):
            looked_up = await customer.client.look_up(call_id)
            assert looked_up == CallEvent(call_id, CallState.DIALING)
            assert await customer.client.find_call(to, 0) == looked_up
        assert await customer.client.hang_up(second)
        assert await customer.client.hang_up(first)
        await customer.calls_over()
        assert not await customer.client.hang_up(first)
        ends = {event.call_id: event.end_reason for event in customer.events if event.state is CallState.COMPLETED}
        assert ends == {first: EndReason.CANCELLED, second: EndReason.CANCELLED}


async def test_calls_at_once_over_the_limit_are_refused() -> None:
    async with run_customer(speed=1, concurrent_calls=1) as customer:
        await customer.client.place_call(customer.order("+14155550106"))
        with pytest.raises(CallRejected):
            await customer.client.place_call(customer.order("+14155550106"))


async def test_a_live_call_is_known_and_can_be_hung_up(customer: Customer) -> None:
    seen: list[object] = []

    async def hang_up(event: CallEvent) -> None:
        seen.append(await customer.client.look_up(event.call_id))
        seen.append(await customer.client.find_call("+14155550101", 0))
        seen.append(await customer.client.hang_up(event.call_id))

    customer.on_answer = hang_up
    call_id = await customer.client.place_call(customer.order("+14155550101"))
    await customer.calls_over()
    assert seen == [CallEvent(call_id, CallState.ANSWERED)] * 2 + [True]
    assert customer.events[-1].hangup_cause == "NORMAL_CLEARING 4000"
    assert customer.carrier.records[call_id].spoken == []


# Callbacks


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_callbacks_by_either_method_are_signed_and_taken(customer: Customer, method: str) -> None:
    urls = customer.urls()
    await customer.create(
        to="+14155550102",
        answer_method=method,
        ring_url=f"{urls.ring}?k=1",
        ring_method=method,
        hangup_url=f"{urls.hangup}?k=1#rt=5000&rc=2",
        hangup_method=method,
    )
    await customer.calls_over()
    states = [event.state for event in customer.events]
    assert states == [CallState.RINGING, *[CallState.ANSWERED] * 4, CallState.COMPLETED]


async def test_the_fallback_url_is_asked_when_the_answer_url_cannot_be_reached(customer: Customer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/answer/T?n=1"
        await customer.client.place_call(
            customer.order("+14155550101", urls=replace(customer.urls(), answer=nowhere))
        )
        await customer.calls_over()
    assert CallState.ANSWERED in [event.state for event in customer.events]
    assert customer.events[-1].end_reason is None


@pytest.mark.parametrize(
    ("fragment", "tries"),
    [
        ("", Tries(42, (0,), frozenset({Failure.CONNECT, Failure.TIMEOUT}))),
        ("#ct=1000&rt=3000&rc=0&rp=5xx", Tries(4, (), frozenset({Failure.SERVER_ERROR}))),
        ("#tt=5000&rc=5&rp=all", Tries(5, (0,) * 5, frozenset(Failure))),
        ("#rc=6&rt=50000&ct=x&rp=4xx,odd", Tries(42, (0,), frozenset({Failure.CLIENT_ERROR}))),
    ],
)
def test_knobs_in_the_fragment_of_a_url_say_how_a_callback_is_tried(fragment: str, tries: Tries) -> None:
    assert plivo_call.tries_for(f"https://otp.example.com/answer/T?n=1{fragment}", Purpose.DOCUMENT) == tries


# Documents


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<Gather action="https://a/b"/>', "unknown element Gather"),
        ("<GetInput/>", "GetInput has no action"),
        ('<GetInput action="https://a/b" executionTimeout="3"/>', "executionTimeout"),
        ('<GetInput action="https://a/b"><Wait/></GetInput>', "Wait is not allowed"),
        ('<GetDigits action="https://a/b" executionTimeout="5"/>', "unknown attribute executionTimeout"),
        ('<GetDigits action="https://a/b" validDigits="12x"/>', "validDigits"),
        ('<Speak voice="Polly.Joanna" language="hi-IN">x</Speak>', "does not speak"),
        ('<Speak voice="WOMAN" language="hi-IN">x</Speak>', "does not speak"),
        ('<Speak voice="Joanna">x</Speak>', "does not speak"),
        ('<GetInput action="https://a/b"><Speak voice="Bob">x</Speak></GetInput>', "does not speak"),
    ],
)
def test_a_document_is_read_strictly(content: str, reason: str) -> None:
    with pytest.raises(BadXml, match=reason):
        plivo_call.read(f"<Response>{content}</Response>".encode())


async def test_get_digits_is_understood_too(customer: Customer) -> None:
    action = customer.urls(1).choice
    attributes = f'action="{action}" numDigits="1" validDigits="9" timeout="3"'
    keys = f"<GetDigits {attributes}><Speak>Press 9.</Speak></GetDigits>"
    customer.answer_document = f"<Response>{keys}<Hangup/></Response>"
    await customer.client.place_call(customer.order("+14155550104"))
    await customer.calls_over()
    assert [event.digits for event in customer.events if event.digits] == ["9"]


async def test_an_empty_document_ends_the_call(customer: Customer) -> None:
    customer.answer_document = "<Response/>"
    await customer.client.place_call(customer.order("+14155550101"))
    await customer.calls_over()
    assert customer.events[-1].hangup_cause == "NORMAL_CLEARING 4010"


# The API


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"answer_url": ""}, "answer_url parameter is missing"),
        ({"to": "14155550101<14155550102"}, "to parameter is invalid"),
        ({"to": OURS}, "the same number"),
        ({"answer_url": "/answer"}, "answer_url parameter is invalid"),
        ({"answer_method": "PUT"}, "answer_method parameter is invalid"),
        ({"ring_timeout": -1}, "ring_timeout parameter is invalid"),
        ({"machine_detection": "yes"}, "machine_detection parameter is invalid"),
        ({"timelimit": 60}, "timelimit parameter is invalid"),
    ],
)
async def test_a_wrong_request_is_refused_in_the_documented_shape(
    customer: Customer, parameters: dict[str, Any], error: str
) -> None:
    answer = await customer.create(**parameters)
    assert answer.status_code == 400
    assert sorted(answer.json()) == ["api_id", "error"]
    assert error in answer.json()["error"]


async def test_credentials_and_paths_are_checked(customer: Customer) -> None:
    account = customer.account
    for auth in ((account.auth_id, "wrong"), ("MAYYYYYYYYYYYYYYYYYY", account.auth_token), None):
        assert (await customer.ask("GET", "Call/?status=live", auth=auth)).status_code == 401
    bearer = {"authorization": f"Bearer {account.auth_token}"}
    assert (await customer.ask("GET", "Call/?status=live", auth=None, headers=bearer)).status_code == 401
    other = f"{customer.base_url}/v1/Account/MAYYYYYYYYYYYYYYYYYY/Call/"
    answer = await customer.http.get(other, auth=(account.auth_id, account.auth_token))
    assert answer.status_code == 404
    assert (await customer.ask("GET", "Call")).status_code == 404, "every path ends with a slash"
    assert (await customer.ask("POST", "Call/", content=b"{}")).status_code == 400, "not declared as JSON"
    assert (await customer.ask("POST", "Call/", json=[1])).status_code == 400
    assert (await customer.ask("GET", "Call/?status=dead")).status_code == 400
    assert (await customer.ask("GET", "Call/?limit=21")).status_code == 400
    assert (await customer.ask("GET", "Call/?end_time__gte=soon")).status_code == 400


async def test_a_wrong_token_is_an_account_refused(customer: Customer) -> None:
    wrong = replace(customer.client._config, auth_token="wrong-token-0123456789")
    with pytest.raises(AccountRefused):
        await PlivoClient(wrong, customer.http).place_call(customer.order("+14155550101"))
    with pytest.raises(CallRejected, match="PUBLIC_URL"):
        await customer.client.place_call(
            customer.order("+14155550101", urls=replace(customer.urls(), ring="relative"))
        )


# Messages


@pytest.mark.parametrize(
    ("to", "states"),
    [
        ("+14155550101", ["queued", "sent", "delivered"]),
        ("+14155550114", ["queued", "sent", "undelivered"]),
        ("+14155550116", ["queued", "sent"]),
        ("+14155550117", ["queued", "queued", "sent", "sent", "delivered", "delivered"]),
    ],
)
async def test_a_message_is_reported_on_until_its_end(customer: Customer, to: str, states: list[str]) -> None:
    url = f"{customer.base_url}/report/T"
    message_id = await customer.sms.send_message(MessageOrder(to, OURS, f"{CODE} it is", url, "T", 300))
    await customer.messages_over()
    assert [(report.message_id, report.state) for report in customer.reports] == [
        (message_id, MessageState(state)) for state in states
    ]
    shown = (await customer.ask("GET", f"Message/{message_id}/")).json()
    assert shown["message_state"] == states[-1]
    assert shown["to_number"] == "", "our messages are not logged"
    assert CODE not in json.dumps(shown)
    assert customer.carrier.desk.messages[message_id].text == f"{CODE} it is"


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("+14155550110", ProviderUnavailable),
        ("+14155550112", ProviderThrottled),
        ("+14155550113", AccountRefused),
        (OURS, CallRejected),
    ],
)
async def test_a_message_that_is_refused_is_not_sent(customer: Customer, to: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await customer.sms.send_message(MessageOrder(to, OURS, "x", f"{customer.base_url}/report/T", "T", 300))
    assert not customer.carrier.desk.messages
    assert (await customer.ask("GET", "Message/unknown/")).status_code == 404
