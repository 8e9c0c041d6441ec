"""The simulated VoIPBin is as strict, and as awkward, as the real one's code; and our client gets on with it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from http_client import open_http_client
from simulator import voipbin_api
from simulator.callees import Reaction, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.phone import PhoneExchange
from simulator.voipbin_api import Account, VoipbinCarrier
from simulator.voipbin_events import EventSender
from sms_provider import MessageOrder, MessageReport, MessageState
from tests.conftest import keep_secret
from tests.whole_calls import whole_call, words_of
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
    WebhookRejected,
)
from voipbin_client import VoipbinClient, VoipbinConfig
from voipbin_sms import VoipbinSms

FROM_NUMBER = "+12025550100"
CODE = "739154"
SCRIPT = whole_call(CODE)
GREETING, CODE_PROMPT, AGAIN, OFFER, GOODBYE = (
    said.text for said in (SCRIPT.greeting, SCRIPT.code_prompt, SCRIPT.again, SCRIPT.replay_prompt, SCRIPT.goodbye)
)
SPELLED = words_of(CODE)
READ_ONCE = [CODE_PROMPT, *SPELLED, AGAIN, *SPELLED]
READ_AGAIN = [AGAIN, *SPELLED] * 2


def order_to(phone: str, base_url: str = "https://otp.example.com", **changes: Any) -> CallOrder:
    keep_secret(phone)
    urls = CallUrls("", "", "", "", "", events=f"{base_url}/events/TOKEN")
    order = CallOrder(phone, FROM_NUMBER, urls, ring_timeout_seconds=30, time_limit_seconds=150, script=SCRIPT)
    return replace(order, **changes)


@pytest.fixture(autouse=True)
def _secrets() -> None:
    keep_secret(CODE)


# Client and simulator over HTTP


@dataclass
class World:
    """A carrier and the service's side of it, on one server."""

    base_url: str
    carrier: VoipbinCarrier
    client: VoipbinClient
    sms: VoipbinSms
    events: list[CallEvent] = field(default_factory=list)
    reports: list[MessageReport] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    was_answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, phone: str, **changes: Any) -> str:
        """Place a call and let it happen."""
        call_id = await self.client.place_call(order_to(phone, self.base_url, **changes))
        await self.calls_over()
        return call_id

    async def calls_over(self) -> None:
        while tasks := [*self.carrier.tasks.values(), *self.carrier.sending]:
            await asyncio.gather(*tasks)

    @property
    def end(self) -> CallEvent:
        """What was reported of the end."""
        ends = {event for event in self.events if event.state is CallState.COMPLETED}
        assert len(ends) == 1, "one end, however often it is told"
        return ends.pop()

    @property
    def states(self) -> list[CallState]:
        """Where the call was, each place once, in the order in which it was told."""
        return list(dict.fromkeys(event.state for event in self.events if event.state is not None))

    @property
    def readings(self) -> list[int]:
        return [event.reading for event in self.events if event.reading]

    def take(self, webhook: RawWebhook, *, is_accounts: bool) -> None:
        """As the routes of the service do it."""
        self.client.check_webhook(webhook, must_be_signed=is_accounts)
        if b'"message_' in webhook.body[:20]:
            self.sms.check_report(webhook)
            told = self.sms.parse_report(webhook)
            assert told is not None
            self.reports.append(told)
            return
        event = self.client.parse_event(webhook, None)
        self.events.append(event)
        if event.state is CallState.ANSWERED:
            self.was_answered.set()


@contextlib.asynccontextmanager
async def world(*, speed: float = float("inf"), swaps: bool = False, **account: Any) -> AsyncIterator[World]:
    # With its protocol named, asyncio sends small answers at once: without, each one waits 40 ms (Nagle).
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    deadline_seconds = account.pop("deadline_seconds", 10.0)
    given = voipbin_api.new_account(FROM_NUMBER, f"{base_url}/account", **account)
    for secret in (given.access_key, given.webhook_secret):
        keep_secret(secret)
    clock = SimulatorClock(speed)
    async with open_http_client(60) as http:
        sender = EventSender(open_http_client(60), clock, given.webhook_secret, swaps)
        carrier = VoipbinCarrier(given, sender, clock, PhoneExchange(clock))
        config = VoipbinConfig(
            given.access_key,
            FROM_NUMBER,
            f"{base_url}/v1.0",
            given.webhook_secret,
            request_deadline_seconds=deadline_seconds,
        )
        here = World(base_url, carrier, VoipbinClient(config, http), VoipbinSms(config, http))
        async with served(here, listener):
            yield here
            await carrier.close()
        assert here.refusals == []


@contextlib.asynccontextmanager
async def served(here: World, listener: socket.socket) -> AsyncIterator[None]:
    async def take(request: Request) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        webhook = RawWebhook((str(request.url),), headers, await request.body())
        try:
            here.take(webhook, is_accounts=request.url.path == "/account")
        except WebhookRejected as error:
            here.refusals.append(str(error))
        return Response()

    app = Starlette(
        routes=[
            Mount("/v1.0", routes=voipbin_api.routes(here.carrier)),
            Route("/events/TOKEN", take, methods=["POST"]),
            Route("/account", take, methods=["POST"]),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("phone", "readings"),
    [
        pytest.param("+14155550101", 1, id="presses nothing"),
        pytest.param("+14155550102", 2, id="presses 1 once"),
        pytest.param("+14155550103", 4, id="presses 1 three times"),
        pytest.param("+14155550104", 1, id="presses another key"),
    ],
)
async def test_the_code_is_read_and_repeated_on_key_1(phone: str, readings: int) -> None:
    async with world() as here:
        call_id = await here.call(phone)
        read_again = [OFFER, *READ_AGAIN] * (readings - 1)
        offered_in_vain = [OFFER] * 2 if readings <= 3 else []
        assert here.carrier.records[call_id].spoken == [
            *(GREETING, *READ_ONCE, *read_again, *offered_in_vain, GOODBYE)
        ]
        assert here.readings == list(range(1, readings + 1))
        assert here.states == [*(CallState.DIALING, CallState.RINGING, CallState.ANSWERED, CallState.COMPLETED)]
        assert {event.call_id for event in here.events} == {call_id}
        assert (here.end.end_reason, here.end.hangup_cause) == (None, "normal by local")
        assert here.end.was_answered
        assert (here.end.talk_seconds or 0) > 20


async def test_replays_come_by_themselves_where_the_call_wants_that() -> None:
    async with world() as here:
        call_id = await here.call("+14155550102", script=whole_call(CODE, max_replays=2, auto_replay=True))
        assert here.carrier.records[call_id].spoken == [GREETING, *READ_ONCE, *READ_AGAIN * 2, GOODBYE]
        assert here.readings == [1, 2, 3]


def asked_for(keys: str) -> str:
    """The wish for keys, as it is heard."""
    return f"Hello. This is a call from Example with a code for you. To hear it, press {' '.join(words_of(keys))}"


@pytest.mark.parametrize(
    ("keys", "presses", "tries"),
    [
        pytest.param(("4", "7"), ("4",), 1, id="at once"),
        pytest.param(("4", "7"), ("9", "7"), 2, id="the second time"),
        pytest.param(("42", "71"), ("4", "2"), 1, id="two keys"),
    ],
)
async def test_who_presses_the_keys_hears_the_code(
    keys: tuple[str, str], presses: tuple[str, ...], tries: int
) -> None:
    async with world() as here:
        here.carrier.stand_in = ScriptedCallee("presses keys", keys=(*presses, "1"))
        call_id = await here.call("+14155550150", script=whole_call(CODE, keys=keys, max_replays=1))
        asked = [asked_for(one) for one in keys[:tries]]
        assert here.carrier.records[call_id].spoken == [*asked, *READ_ONCE, OFFER, *READ_AGAIN, GOODBYE]
        assert here.readings == [1, 2]
        assert not any(event.is_without_keys for event in here.events)


@pytest.mark.parametrize(
    "callee",
    [
        ScriptedCallee("says nothing"),
        ScriptedCallee("is a machine", is_machine=True),
        ScriptedCallee("presses what comes to mind", keys=("1", "1", "1", "1")),
    ],
    ids=lambda callee: callee.description,
)
async def test_who_does_not_press_the_keys_hears_no_code(callee: ScriptedCallee) -> None:
    async with world() as here:
        here.carrier.stand_in = callee
        call_id = await here.call("+14155550150", script=whole_call(CODE, keys=("42", "71")))
        assert here.carrier.records[call_id].spoken == [asked_for("42"), asked_for("71"), GOODBYE]
        assert here.readings == []
        (told,) = {event for event in here.events if event.is_without_keys}
        assert told == CallEvent(call_id, CallState.ANSWERED, is_without_keys=True)


@pytest.mark.parametrize(
    ("phone", "reason", "cause", "talk_seconds"),
    [
        pytest.param("+14155550105", EndReason.BUSY, "busy by remote", None, id="busy"),
        pytest.param("+14155550106", EndReason.NO_ANSWER, "dialout by local", None, id="no answer"),
        pytest.param("+14155550107", EndReason.NO_ANSWER, "noanswer by remote", None, id="rejects"),
        pytest.param("+14155550108", None, "normal by remote", 3, id="hangs up early"),
        pytest.param("+14155550114", EndReason.FAILED, "failed by remote", None, id="not allocated"),
        pytest.param("+14155550115", None, "normal by remote", 25, id="hangs up while the code is read again"),
    ],
)
async def test_a_call_that_goes_otherwise_is_told_as_what_it_was(
    phone: str, reason: EndReason | None, cause: str, talk_seconds: int | None
) -> None:
    async with world() as here:
        call_id = await here.call(phone)
        assert here.readings == []
        assert (here.end.end_reason, here.end.hangup_cause) == (reason, cause)
        assert here.end.talk_seconds == talk_seconds
        assert await here.client.look_up(call_id) == here.end


async def test_a_machine_is_told_from_a_person_where_that_is_wanted() -> None:
    async with world() as here:
        await here.call("+14155550109", machine_detection=MachineDetection.HANGUP)
        assert (here.end.end_reason, here.readings) == (EndReason.VOICEMAIL, [])
    async with world() as here:
        await here.call("+14155550101", machine_detection=MachineDetection.HANGUP)
        assert here.readings == [1]
    async with world() as here:
        await here.call("+14155550109")
        assert here.readings == [1], "a machine that is not looked for is told the code"


async def test_events_that_come_twice_tell_the_same() -> None:
    async with world() as here:
        await here.call("+14155550117")
        assert here.readings == [1, 1, 2, 2, 3, 3, 4, 4]
        assert here.end.hangup_cause == "normal by local"


async def test_events_that_come_in_another_order_tell_the_same() -> None:
    async with world(swaps=True) as here:
        await here.call("+14155550103")
        told = [event.state for event in here.events if event.state is not None]
        assert told != sorted(told, key=list(CallState).index), "the order was another one"
        assert here.readings == [1, 2, 3, 4]
        assert here.end.hangup_cause == "normal by local"


async def test_a_lost_end_is_found_by_looking_the_call_up() -> None:
    async with world() as here:
        call_id = await here.call("+14155550116")
        assert CallState.COMPLETED not in here.states
        event = await here.client.look_up(call_id)
        assert event is not None
        assert (event.state, event.hangup_cause) == (CallState.COMPLETED, "normal by local")


async def test_a_ringing_call_is_cancelled() -> None:
    async with world(speed=1) as here:
        call_id = await here.client.place_call(order_to("+14155550106", here.base_url))
        assert await here.client.hang_up(call_id) is True
        await here.calls_over()
        assert (here.end.end_reason, here.end.hangup_cause) == (EndReason.CANCELLED, "cancel by local")
        assert await here.client.hang_up(call_id) is False
        assert await here.client.hang_up("0b6c1a52-0000-4000-8000-00000000dead") is False


async def test_an_answered_call_is_hung_up() -> None:
    async with world(speed=1) as here:
        here.carrier.stand_in = ScriptedCallee("answers at once", Reaction.ANSWER, ring_seconds=0)
        call_id = await here.client.place_call(order_to("+14155550150", here.base_url))
        await here.was_answered.wait()
        live = await here.client.look_up(call_id)
        assert live == CallEvent(call_id, CallState.ANSWERED)
        assert await here.client.hang_up(call_id) is True
        await here.calls_over()
        assert (here.end.end_reason, here.end.hangup_cause) == (None, "normal by local")
        assert here.readings == []


async def test_a_call_whose_request_got_no_answer_is_found() -> None:
    async with world(deadline_seconds=1.0) as here:
        before = here.carrier.clock.wall()
        with pytest.raises(CallOutcomeUnknown):
            await here.client.place_call(order_to("+14155550111", here.base_url))
        await here.calls_over()
        assert here.carrier.requests == 1
        found = await here.client.find_call("+14155550111", before)
        assert found is not None
        assert found.call_id in here.carrier.records
        assert await here.client.find_call("+14155550111", before + 3600) is None
        assert await here.client.find_call("+14155550112", before) is None


async def test_trouble_says_what_may_be_done_next() -> None:
    async with world() as here:
        with pytest.raises(ProviderUnavailable, match="SERVICE_UNAVAILABLE"):
            await here.client.place_call(order_to("+14155550110"))
        with pytest.raises(ProviderThrottled) as throttled:
            await here.client.place_call(order_to("+14155550112"))
        assert throttled.value.retry_after_seconds == 1
        with pytest.raises(CallRejected, match="destination_whitelist"):
            await here.client.place_call(order_to("+14155550113"))
        assert here.carrier.calls == {}
        assert here.carrier.records == {}


@pytest.mark.parametrize(
    ("account", "error", "message"),
    [
        pytest.param({"is_verified": False}, AccountRefused, "identity", id="identity"),
        pytest.param({"is_active": False}, CallRejected, "e-mail", id="e-mail"),
        pytest.param({"has_balance": False}, CallRejected, "balance", id="balance"),
        pytest.param({"has_balance": False, "says_why": True}, AccountRefused, "balance", id="402"),
        pytest.param({"destination_whitelist": frozenset()}, CallRejected, "whitelist", id="whitelist"),
    ],
)
async def test_each_precondition_of_an_account_is_named(
    account: Mapping[str, Any], error: type[Exception], message: str
) -> None:
    async with world(**account) as here:
        with pytest.raises(error, match=message):
            await here.client.place_call(order_to("+14155550101"))


async def test_a_country_on_the_whitelist_is_called() -> None:
    async with world(destination_whitelist=frozenset({"us"})) as here:
        await here.call("+14155550101")
        assert here.readings == [1]


async def test_the_caller_id_is_hidden_only_when_wanted() -> None:
    async with world() as here:
        shown, hidden = await here.call("+14155550101"), await here.call("+14155550101", hide_caller_id=True)
        assert here.carrier.records[shown].request.anonymous == "no"
        assert here.carrier.records[hidden].request.anonymous == "yes"


@pytest.mark.parametrize(
    ("phone", "states"),
    [
        ("+14155550101", [MessageState.QUEUED, MessageState.SENT, MessageState.DELIVERED]),
        ("+14155550114", [MessageState.QUEUED, MessageState.UNDELIVERED]),
    ],
)
async def test_a_message_is_sent_and_reported(phone: str, states: list[MessageState]) -> None:
    async with world() as here:
        text = f"{CODE} is your verification code for Acme."
        order = MessageOrder(keep_secret(phone), FROM_NUMBER, text, "", "", expires_in_seconds=300)
        message_id = await here.sms.send_message(order)
        await here.calls_over()
        assert [report.state for report in here.reports] == states
        assert {report.message_id for report in here.reports} == {message_id}
        assert here.carrier.messages[message_id]["text"] == text


async def test_a_message_that_the_account_may_not_send_is_refused() -> None:
    order = MessageOrder(keep_secret("+14155550101"), FROM_NUMBER, "x", "", "", expires_in_seconds=300)
    async with world(is_verified=False) as here:
        with pytest.raises(CallRejected, match="identity"):
            await here.sms.send_message(order)
    async with world() as here:
        with pytest.raises(ProviderThrottled):
            await here.sms.send_message(replace(order, to=keep_secret("+14155550112")))


# The simulator by itself


class Receiver:
    """Takes the carrier's events, and answers as it is told."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self.statuses.pop(0) if self.statuses else 200)

    @property
    def kinds(self) -> list[str]:
        return [json.loads(request.content)["type"] for request in self.requests]


class Api:
    """The simulator's API without a client of ours in between."""

    def __init__(self, account: Account, receiver: Any, *, is_first: bool = True) -> None:
        clock = SimulatorClock(float("inf"))
        http = httpx.AsyncClient(transport=httpx.MockTransport(receiver))
        sender = EventSender(http, clock, account.webhook_secret)
        self.account = account
        self.carrier = VoipbinCarrier(account, sender, clock, PhoneExchange(clock), is_first=is_first)
        transport = httpx.ASGITransport(app=Starlette(routes=voipbin_api.routes(self.carrier)))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://api")

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        return await self.http.request(
            method, path, **{"headers": {"cookie": f"accesskey={self.account.access_key}"}, **request}
        )

    async def call(self, *actions: Any, to: str = "+14155550101", **fields: Any) -> httpx.Response:
        body = {"source": tel(FROM_NUMBER), "destinations": [tel(to)], "actions": list(actions), **fields}
        answer = await self.ask("POST", "/calls", json=body)
        while self.carrier.tasks:
            await asyncio.gather(*self.carrier.tasks.values())
        return answer

    @property
    def last(self) -> Any:
        return next(reversed(self.carrier.records.values()))


def tel(number: str) -> dict[str, str]:
    return {"type": "tel", "target": number}


def api_of(*statuses: int, **account: Any) -> tuple[Api, Receiver]:
    receiver = Receiver(*statuses)
    given = voipbin_api.new_account(FROM_NUMBER, **{"webhook_url": "https://x/hook", **account})
    return Api(given, receiver), receiver


def talk(text: str, **option: Any) -> dict[str, Any]:
    return {"type": "talk", "option": {"text": text, "language": "en-US", **option}}


def reason_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["reason"]


@pytest.mark.parametrize(
    ("request_parts", "outcome"),
    [
        pytest.param({"headers": {"cookie": "accesskey=KEY"}}, 200, id="cookie"),
        pytest.param({"params": {"accesskey": "KEY"}}, 200, id="query"),
        pytest.param({"headers": {"authorization": "Bearer KEY"}}, "INVALID_CREDENTIALS", id="Bearer"),
        pytest.param(
            {"headers": {"authorization": "Bearer x", "cookie": "accesskey=KEY"}},
            "INVALID_CREDENTIALS",
            id="a Bearer header hides the cookie",
        ),
        pytest.param(
            {"headers": {"cookie": "token=x; accesskey=KEY"}}, "INVALID_CREDENTIALS", id="a login's cookie does"
        ),
        pytest.param(
            {"params": {"token": "x"}, "headers": {"cookie": "accesskey=KEY"}},
            "INVALID_CREDENTIALS",
            id="a login's query does",
        ),
        pytest.param({"headers": {"cookie": "accesskey=wrong"}}, "INVALID_CREDENTIALS", id="wrong key"),
        pytest.param({}, "AUTHENTICATION_REQUIRED", id="nothing"),
    ],
)
async def test_an_access_key_is_taken_only_where_nothing_hides_it(
    request_parts: Mapping[str, Mapping[str, str]], outcome: Any
) -> None:
    api, _ = api_of()
    parts: dict[str, Any] = {
        kind: {name: value.replace("KEY", api.account.access_key) for name, value in values.items()}
        for kind, values in request_parts.items()
    }
    answer = await api.http.get("/calls", **parts)
    assert answer.status_code == (200 if outcome == 200 else 401)
    assert outcome == 200 or reason_of(answer) == (401, outcome)


async def test_an_unknown_path_is_told_as_such_to_anyone() -> None:
    api, _ = api_of()
    for path in ("/auth/signup", "/auth/login", "/phones"):
        assert reason_of(await api.http.post(path)) == (404, "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        pytest.param({"actions": [{"type": "shout"}]}, (400, "INVALID_ACTION_TYPE"), id="unknown action"),
        pytest.param({"actions": {"type": "talk"}}, (400, "INVALID_JSON_BODY"), id="actions are no list"),
        pytest.param(
            {"variables": {str(n): "" for n in range(101)}}, (400, "INVALID_VARIABLES"), id="101 variables"
        ),
        pytest.param({"variables": {"a": 1}}, (400, "INVALID_JSON_BODY"), id="a variable is a number"),
        pytest.param(
            {"destinations": None, "destination": tel("+14155550101")},
            (500, "INTERNAL"),
            id="singular destination",
        ),
        pytest.param({"destinations": [tel("4155550101")]}, (500, "INTERNAL"), id="no plus sign"),
        pytest.param({"destinations": ["+14155550101"]}, (500, "INTERNAL"), id="no address"),
        pytest.param({"source": tel("+12025550199")}, (500, "INTERNAL"), id="another's number"),
    ],
)
async def test_a_malformed_request_fails_as_the_real_one_does(
    fields: dict[str, Any], outcome: tuple[int, str]
) -> None:
    api, _ = api_of()
    assert reason_of(await api.call(**fields)) == outcome
    assert not api.carrier.records


async def test_a_body_that_is_no_json_object_is_malformed() -> None:
    api, _ = api_of()
    for content in (b"", b"[]", b"{"):
        assert reason_of(await api.ask("POST", "/calls", content=content)) == (400, "INVALID_JSON_BODY")


async def test_too_many_calls_a_second_are_throttled() -> None:
    api, _ = api_of(calls_per_second=1)
    assert (await api.call()).status_code == 200
    answer = await api.call()
    assert reason_of(answer) == (429, "RATE_LIMIT_EXCEEDED")
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["details"] == [{"limited_by": "customer"}]


async def test_unknown_fields_are_ignored_without_a_word() -> None:
    api, _ = api_of()
    answer = await api.call(talk("Hi", gender="female"), timeout=5, metadata={"a": 1})
    assert answer.status_code == 200
    assert api.last.spoken == ["Hi"]


@pytest.mark.parametrize(
    "action",
    [
        pytest.param({"type": "talk", "text": "Hi", "language": "en-US"}, id="options beside the type"),
        pytest.param(talk("Fish & Chips"), id="no XML"),
        pytest.param(talk("<p>Hi</p>"), id="another document"),
        pytest.param(talk("<speak/>"), id="nothing"),
        pytest.param(talk("Hi", language="english"), id="no language"),
    ],
)
async def test_what_cannot_be_spoken_is_skipped_in_silence(action: dict[str, Any]) -> None:
    api, receiver = api_of()
    assert (await api.call(action, talk("Bye"))).status_code == 200
    assert api.last.spoken == ["Bye"]
    assert (api.last.hangup_by, api.last.hangup_reason) == ("local", "normal")
    assert "call_hangup" in receiver.kinds


async def test_ssml_is_heard_part_by_part_with_its_breaks() -> None:
    api, _ = api_of()
    await api.call(talk('<speak>A &amp; B<break time="500ms"/>4<p>x<break/>y</p>z<break time="soon"/></speak>'))
    assert api.last.spoken == ["A & B", "4", "x", "y", "z"]
    assert api.last.talk_seconds == pytest.approx(0.5 + 1 + 5 * 0.3 + 9 / 15)


async def test_variables_are_replaced_wherever_they_stand() -> None:
    api, receiver = api_of(webhook_url="")
    hook = {
        "type": "webhook_send",
        "option": {"uri": "https://x/${voipbin.call.id}", "data": "${a}${b}${voipbin.x}"},
    }
    await api.call(hook, talk("To ${voipbin.call.destination.target}"), variables={"a": "A", "voipbin.x": "X"})
    (request,) = receiver.requests
    assert str(request.url) == f"https://x/{api.last.request.call_id}"
    assert request.content == b"A"
    assert api.last.spoken == ["To +14155550101"]


async def test_a_digit_leads_to_its_target_and_is_forgotten() -> None:
    actions = [
        {"id": "again", **talk("Press", digits_handle="next")},
        {"type": "digits_receive", "option": {"duration": 5000, "length": 1}},
        {"type": "branch", "option": {"target_ids": {"1": "again", "9": "nine"}, "default_target_id": "end"}},
        {"id": "nine", **talk("Nine")},
        {"id": "end", "type": "hangup"},
        talk("Never"),
    ]
    for phone, spoken in {
        "+14155550101": ["Press"],
        "+14155550102": ["Press", "Press"],
        "+14155550104": ["Press", "Nine"],
    }.items():
        api, _ = api_of()
        await api.call(*actions, to=phone)
        assert api.last.spoken == spoken


async def test_a_target_that_is_nowhere_ends_the_call() -> None:
    api, _ = api_of()
    await api.call({"type": "branch", "option": {"default_target_id": "nowhere"}}, talk("Never"))
    assert api.last.spoken == []
    assert api.last.hangup_reason == "normal"


async def test_goto_jumps_as_often_as_it_says_and_no_more() -> None:
    for loops, spoken in {2: 3, 0: 1}.items():
        api, _ = api_of()
        await api.call(
            {"id": "a", **talk("Hi")}, {"type": "goto", "option": {"target_id": "a", "loop_count": loops}}
        )
        assert api.last.spoken == ["Hi"] * spoken


async def test_a_flow_that_goes_round_for_ever_is_ended() -> None:
    api, _ = api_of()
    jump = {"type": "goto", "option": {"target_id": "a", "loop_count": 10**9}}
    await api.call({"id": "a", "type": "answer"}, jump)
    assert api.last.hangup_reason == "normal"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(httpx.Response(200, json=[talk("Fetched")]), "normal", id="actions"),
        pytest.param(httpx.Response(201, json=[talk("Fetched")]), "timeout", id="another status"),
        pytest.param(httpx.Response(200, json={"actions": []}), "timeout", id="no bare list"),
        pytest.param(httpx.Response(200, content=b"<html>"), "timeout", id="no JSON"),
        pytest.param(httpx.ConnectError("x"), "timeout", id="no connection"),
    ],
)
async def test_a_fetch_that_fails_leaves_the_callee_with_an_hour_of_silence(answer: Any, reason: str) -> None:
    def customer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/hook":
            return httpx.Response(200)
        assert json.loads(request.content)["reference_id"] == api.last_call_id
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content)

    class Fetching(Api):
        @property
        def last_call_id(self) -> str:
            return next(iter(self.carrier.calls))

    api = Fetching(voipbin_api.new_account(FROM_NUMBER, "https://x/hook"), customer)
    await api.call({"type": "fetch", "option": {"event_url": "https://x/actions", "event_method": "POST"}})
    assert api.last.hangup_reason == reason
    assert api.last.spoken == (["Fetched"] if reason == "normal" else [])
    assert (api.last.talk_seconds == 3600) is (reason == "timeout")


async def test_events_come_in_the_order_of_a_good_call() -> None:
    api, receiver = api_of()
    await api.call(talk("Hi"), {"type": "hangup"})
    assert receiver.kinds == [
        *("call_created", "call_ringing", "call_progressing", "call_updated", "call_updated"),
        *("call_terminating", "call_hangup"),
    ]


async def test_the_events_of_a_call_show_what_is_spoken() -> None:
    """Which is why none of them is ever logged."""
    api, receiver = api_of()
    await api.call(talk(f"Your code is {CODE}"))
    assert any(CODE.encode() in request.content for request in receiver.requests)


async def test_what_is_not_set_is_left_out() -> None:
    api, receiver = api_of()
    answer = await api.call(talk("Hi"))
    created = answer.json()["calls"][0]
    assert created["status"] == "dialing"
    assert not {"tm_ringing", "tm_progressing", "tm_hangup", "hangup_by", "hangup_reason"} & set(created)
    ended = json.loads(receiver.requests[-1].content)["data"]
    assert {"tm_ringing", "tm_progressing", "tm_hangup", "hangup_by", "hangup_reason"} <= set(ended)


@pytest.mark.parametrize(
    ("statuses", "tries"),
    [
        pytest.param([200], 1, id="taken"),
        pytest.param([500, 503, 200], 3, id="taken the third time"),
        pytest.param([500, 500, 500], 3, id="given up"),
        pytest.param([404], 1, id="a 4xx counts as taken"),
    ],
)
async def test_an_event_is_tried_three_times_but_only_after_5xx(statuses: list[int], tries: int) -> None:
    api, receiver = api_of(*statuses)
    await api.call(talk("Hi"))
    assert receiver.kinds[: tries + 1] == ["call_created"] * tries + ["call_ringing"]
    assert len({request.content for request in receiver.requests[:tries]}) == 1


async def test_events_are_signed_where_the_account_has_a_secret() -> None:
    account = voipbin_api.new_account(FROM_NUMBER, "https://x/hook")
    for given, is_signed in ((account, True), (replace(account, webhook_secret=""), False)):
        receiver = Receiver()
        await Api(given, receiver).call(talk("Hi"))
        assert all(("x-voipbin-signature" in request.headers) is is_signed for request in receiver.requests)


async def test_a_customer_without_a_webhook_url_is_told_nothing() -> None:
    api, receiver = api_of(webhook_url="")
    await api.call(talk("Hi"))
    assert receiver.requests == []
    assert api.last.hangup_reason == "normal"


async def test_calls_are_listed_latest_first_and_shown() -> None:
    api, _ = api_of()
    ids = [(await api.call()).json()["calls"][0]["id"] for _ in range(3)]
    listed = (await api.ask("GET", "/calls?page_size=2")).json()
    assert [call["id"] for call in listed["result"]] == ids[:0:-1]
    assert len((await api.ask("GET", "/calls?page_size=x")).json()["result"]) == 3
    shown = (await api.ask("GET", f"/calls/{ids[0]}")).json()
    assert shown["status"] == "hangup"
    assert (await api.ask("DELETE", f"/calls/{ids[0]}")).json() == shown
    assert reason_of(await api.ask("GET", "/calls/x")) == (404, "CALL_NOT_FOUND")


async def test_messages_are_shown_and_malformed_ones_refused() -> None:
    api, _ = api_of()
    body = {"source": tel(FROM_NUMBER), "destinations": [tel("+14155550101")], "text": "Hi"}
    message = (await api.ask("POST", "/messages", json=body)).json()
    shown = (await api.ask("GET", f"/messages/{message['id']}")).json()
    assert (shown["text"], shown["direction"], len(shown["targets"])) == ("Hi", "outbound", 1)
    assert reason_of(await api.ask("GET", "/messages/x")) == (404, "MESSAGE_NOT_FOUND")
    wrong: list[dict[str, Any]] = [{"destinations": []}, {"text": ""}, {"text": None}]
    for changes in wrong:
        refused = await api.ask("POST", "/messages", json={**body, **changes})
        assert reason_of(refused) == (400, "INVALID_ARGUMENT")
    foreign = await api.ask("POST", "/messages", json={**body, "source": tel("+12025550199")})
    assert reason_of(foreign) == (500, "INTERNAL")
    await api.carrier.close()


async def test_only_the_first_carrier_is_down_for_the_callee_that_says_so() -> None:
    account = voipbin_api.new_account(FROM_NUMBER)
    phone = keep_secret("+14155550118")
    assert (await Api(account, Receiver()).call(to=phone)).status_code == 503
    assert (await Api(account, Receiver(), is_first=False).call(to=phone)).status_code == 200


def test_secrets_do_not_show_in_representations() -> None:
    account = voipbin_api.new_account(FROM_NUMBER)
    sender = EventSender(httpx.AsyncClient(), SimulatorClock(), account.webhook_secret)
    for secret in (account.access_key, account.webhook_secret):
        assert secret not in repr(account) + repr(sender)
