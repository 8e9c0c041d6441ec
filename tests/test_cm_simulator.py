"""CM.com's clients and the simulated CM.com over real HTTP: every scripted callee, every refusal, every habit."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from call_script import Pacing
from cm_client import CmClient, CmConfig
from cm_sms import CmSms, CmSmsConfig
from http_client import open_http_client
from simulator import cm_account, cm_api
from simulator.clock import SimulatorClock
from simulator.cm_account import CmAccount
from simulator.cm_api import ANONYMOUS, GATEWAY_PATH, ApiError, CmCarrier
from simulator.cm_call import CmCall, PromptType
from simulator.cm_messages import Message, MessageGateway
from simulator.phone import PhoneExchange
from sms_provider import MessageOrder, MessageState
from tests.conftest import keep_secret
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
    ProviderUnavailable,
    RawWebhook,
)

CODE = keep_secret("482913")
CALLER = keep_secret("+12025550100")
REFERENCE = keep_secret("0123456789abcdef0123456789abcdef")
SCRIPT = whole_call(CODE, "en-GB")
GREETING, CODE_PROMPT, OFFER, GOODBYE = (
    said.text for said in (SCRIPT.greeting, SCRIPT.code_prompt, SCRIPT.replay_prompt, SCRIPT.goodbye)
)
READING = [CODE_PROMPT, *CODE]


class _Server(uvicorn.Server):
    """Says when it has started, and stops at once."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()
        self.is_over = asyncio.Event()

    async def main_loop(self) -> None:
        await self.is_over.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


@contextlib.asynccontextmanager
async def served(routes: list[Any]) -> AsyncIterator[str]:
    """The URL of some routes, on a free port of loopback."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(Starlette(routes=routes), lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.has_started.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.is_over.set()
        await serving


@dataclass
class World:
    """The simulated CM.com, and its customer, who keeps what is posted to him."""

    url: str
    carrier: CmCarrier
    http: httpx.AsyncClient
    posted: list[RawWebhook] = field(default_factory=list)

    @property
    def gateway(self) -> MessageGateway:
        return self.carrier.gateway

    def client(self, **config: Any) -> CmClient:
        given = {"product_token": self.carrier.account.product_token, "from_number": CALLER, **config}
        return CmClient(CmConfig(api_url=f"{self.url}/api", **given), self.http)

    def order(self, to: str, **changes: Any) -> CallOrder:
        urls = CallUrls("", "", "", "", "", f"{self.url}/posted")
        return CallOrder(keep_secret(to), CALLER, urls, 30, 150, reference="chal7f3a", script=SCRIPT, **changes)

    async def call(self, to: str, client: CmClient | None = None, **changes: Any) -> CmCall:
        """Place a call and live it to its end."""
        order = replace(self.order(to), **changes)
        return await self.ended(await (client or self.client()).place_call(order))

    async def ended(self, call_id: str) -> CmCall:
        while self.carrier.tasks:
            await asyncio.gather(*self.carrier.tasks.values())
        return self.carrier.records[call_id]

    def events(self) -> list[CallEvent]:
        return [self.client().parse_event(webhook, None) for webhook in self.posted]

    async def ask(self, **instruction: Any) -> httpx.Response:
        """An instruction as another customer might send it; fields are named with underscores."""
        body = {"callee": "+14155550101", "caller": CALLER, "code": CODE, **instruction}
        headers = {"X-CM-ProductToken": self.carrier.account.product_token}
        fields = {name.replace("_", "-"): value for name, value in body.items()}
        return await self.http.post(f"{self.url}/api/voiceapi/v2/OTP", json=fields, headers=headers)

    def sms(self, **config: Any) -> CmSms:
        given = {"product_token": self.gateway.account.product_token, "from_number": CALLER, **config}
        return CmSms(CmSmsConfig(api_url=f"{self.url}/api{GATEWAY_PATH}", **given), self.http)

    async def send(self, to: str, **changes: Any) -> None:
        order = MessageOrder(keep_secret(to), CALLER, f"{CODE} is your code.", "", REFERENCE, 300)
        await self.sms().send_message(replace(order, **changes))
        await asyncio.gather(*self.gateway.tasks)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    posted: list[RawWebhook] = []

    async def take(request: Request) -> Response:
        body = await request.body()
        posted.append(RawWebhook((str(request.url),), dict(request.headers), body, request.method))
        return Response(status_code=200)

    clock = SimulatorClock(float("inf"))
    account = cm_account.new_account(CALLER)
    keep_secret(account.product_token)
    carrier = CmCarrier(account, open_http_client(10), clock, PhoneExchange(clock))
    routes = [
        Mount("/api", routes=cm_api.routes(carrier)),
        Route("/posted", take, methods=["POST"]),
    ]
    async with served(routes) as url, open_http_client(10) as http:
        carrier.gateway.report_url = f"{url}/posted"
        yield World(url, carrier, http, posted)
        await carrier.close()


# Calls


@pytest.mark.parametrize(
    ("to", "readings", "offers"),
    [
        pytest.param("+14155550101", 1, 1, id="presses nothing"),
        pytest.param("+14155550102", 2, 2, id="presses 1 once"),
        pytest.param("+14155550103", 4, 3, id="presses 1 three times"),
        pytest.param("+14155550104", 1, 1, id="presses 9"),
        pytest.param("+14155550109", 1, 1, id="a voicemail"),
    ],
)
async def test_the_code_is_read_again_for_each_press_of_1(
    world: World, to: str, readings: int, offers: int
) -> None:
    call = await world.call(to)
    read_again = [OFFER, *READING] * (readings - 1)
    assert call.spoken == [GREETING, *READING, *read_again, *[OFFER] * (offers - readings + 1), GOODBYE]
    (event,) = world.events()
    assert event == CallEvent(
        call.request.call_id,
        CallState.COMPLETED,
        hangup_cause="Finished successfully 10 BYE",
        was_answered=True,
    )


@pytest.mark.parametrize(
    ("to", "reason", "cause"),
    [
        pytest.param("+14155550105", EndReason.BUSY, "Failed 11 486", id="busy"),
        pytest.param("+14155550106", EndReason.NO_ANSWER, "Cancelled 9 487", id="no answer"),
        pytest.param("+14155550107", EndReason.REJECTED, "Call rejected 12 603", id="rejects"),
        pytest.param("+14155550114", EndReason.FAILED, "Failed 11 404", id="not allocated"),
        pytest.param("+14155550108", None, "Finished successfully 10 BYE", id="hangs up after 3 seconds"),
        pytest.param("+14155550115", None, "Finished successfully 10 BYE", id="hangs up later"),
    ],
)
async def test_each_end_of_a_call_is_told_once(
    world: World, to: str, reason: EndReason | None, cause: str
) -> None:
    call = await world.call(to)
    (event,) = world.events()
    assert (event.call_id, event.state) == (call.request.call_id, CallState.COMPLETED)
    assert (event.end_reason, event.hangup_cause) == (reason, cause)
    assert event.was_answered is call.is_answered


async def test_a_lost_callback_leaves_no_news(world: World) -> None:
    assert (await world.call("+14155550116")).is_answered
    assert world.posted == []


async def test_a_doubled_callback_says_the_same_twice(world: World) -> None:
    await world.call("+14155550117")
    first, second = world.events()
    assert first == second


async def test_a_ring_time_that_is_shorter_than_the_callees_ends_unanswered(world: World) -> None:
    await world.call("+14155550109", ring_timeout_seconds=10)  # answers after 20 seconds
    assert world.events()[0].end_reason is EndReason.NO_ANSWER


async def test_replays_come_by_themselves_where_the_call_wants_that(world: World) -> None:
    call = await world.call("+14155550101", script=whole_call(CODE, "en-GB", auto_replay=True))
    assert call.spoken == [GREETING, *READING * 4, GOODBYE]


async def test_prompts_in_ssml_are_told_as_such(world: World) -> None:
    slow = whole_call(CODE, "en-GB", pacing=Pacing(speech_rate=80))
    order = (await world.call("+14155550101", script=slow)).request
    for prompt in (order.intro, order.code_prompt, order.replay, order.outro):
        assert prompt is not None
        assert prompt.type is PromptType.TTS_SSML


async def test_recorded_prompts_are_played_around_a_spoken_code(world: World) -> None:
    call = await world.call("+14155550102", world.client(audio_directory="otp", code_type="custom"))
    order = call.request
    prompts = (order.intro, order.code_prompt, order.replay, order.outro)
    files = [f"otp/en-GB/{name}.wav" for name in ("intro", "code", "replay", "outro")]
    assert prompts == tuple((PromptType.FILE, file) for file in files)
    assert order.code_type == "Custom"
    assert call.spoken == [*CODE, *CODE], "the rest is in files"


async def test_a_hidden_caller_id_is_not_shown(world: World) -> None:
    shown = await world.call("+14155550101")
    hidden = await world.call("+14155550101", hide_caller_id=True)
    assert (shown.request.from_number, hidden.request.from_number) == (CALLER, ANONYMOUS)
    assert hidden.is_answered


async def test_a_foreign_caller_id_is_rejected(world: World) -> None:
    await world.call("+14155550101", from_number=keep_secret("+12025550199"))
    assert world.events()[0].end_reason is EndReason.REJECTED


async def test_habits_of_the_callback_change_nothing_that_matters(world: World) -> None:
    habits = world.carrier.habits
    habits.type, habits.is_list, habits.has_instruction_id = "call-finished", True, False
    call = await world.call("+14155550105")
    habits.has_call_id, habits.delay_seconds = False, 3
    await world.call("+14155550105")
    assert [(event.call_id, event.end_reason) for event in world.events()] == [
        (call.request.call_id, EndReason.BUSY),
        ("", EndReason.BUSY),
    ]
    assert b"instruction" not in world.posted[0].body


async def test_a_callback_that_nobody_takes_ends_the_call_all_the_same(world: World) -> None:
    order = world.order("+14155550101")
    call_id = await world.client().place_call(replace(order, urls=replace(order.urls, events=f"{world.url}/none")))
    assert (await world.ended(call_id)).ending_name == "Finished successfully"
    assert world.posted == []


async def test_the_reference_comes_back(world: World) -> None:
    await world.call("+14155550101")
    assert b'"instruction-id":"chal7f3a"' in world.posted[0].body


@pytest.mark.parametrize(
    ("to", "error"),
    [
        pytest.param("+14155550110", ProviderUnavailable, id="down"),
        pytest.param("+14155550112", ProviderThrottled, id="throttled"),
        pytest.param("+14155550113", AccountRefused, id="out of credit"),
    ],
)
async def test_trouble_of_the_api_dials_nothing(world: World, to: str, error: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as raised:
        await world.call(to)
    assert type(raised.value) is error
    assert not world.carrier.records


async def test_a_slow_answer_leaves_the_outcome_to_the_callback(world: World) -> None:
    with pytest.raises(CallOutcomeUnknown):
        await world.call("+14155550111", world.client(request_deadline_seconds=2))
    (call_id,) = {*world.carrier.calls, *world.carrier.records}
    await world.ended(call_id)
    assert [event.call_id for event in world.events()] == [call_id]


async def test_a_wrong_token_is_refused_without_a_body(world: World) -> None:
    with pytest.raises(AccountRefused, match="CM_PRODUCT_TOKEN"):
        await world.call("+14155550101", world.client(product_token="another"))
    answer = await world.http.post(f"{world.url}/api/voiceapi/v2/OTP", json={})
    assert (answer.status_code, answer.content) == (401, b"")


async def test_a_refusal_that_comes_with_200_is_a_refusal(world: World) -> None:
    world.carrier.refuses_politely = "Caller is not allowed"
    with pytest.raises(CallRejected, match=r"\(caller\)"):
        await world.call("+14155550101")
    assert not world.carrier.records


async def test_a_number_that_cm_does_not_take_is_named(world: World) -> None:
    with pytest.raises(CallRejected, match="400 callee"):
        await world.call("+0123")


async def test_the_limits_of_an_account_are_a_429(world: World) -> None:
    world.carrier.account = replace(world.carrier.account, calls_per_second=1)
    await world.call("+14155550101")
    with pytest.raises(ProviderThrottled):
        await world.call("+14155550101")


# The API as other customers see it


async def test_several_callees_get_an_answer_each(world: World) -> None:
    answer = await world.ask(
        callee=None, callees=["0014155550101", "+14155550105"], callback_url=f"{world.url}/posted"
    )
    first, second = answer.json()
    assert (first["callee"], second["callee"], first["success"]) == ("+14155550101", "+14155550105", True)
    await world.ended(first["call-id"])
    assert {event.call_id for event in world.events()} == {first["call-id"], second["call-id"]}


async def test_enums_may_be_numbers_and_what_is_null_is_left_out(world: World) -> None:
    answer = await world.ask(
        intro_prompt="Hi.", intro_prompt_type=1, outro_prompt="bye.wav", code_type=0, voicemail_response=0,
        voice={"language": "nl-NL", "gender": 1, "number": 1, "volume": 0, "premium": None}, callees=None,
        max_replays=None, instruction_id=None,
    )  # fmt: skip
    order = (await world.ended(answer.json()["call-id"])).request
    assert (order.intro, order.outro) == ((PromptType.TTS, "Hi."), (PromptType.FILE, "bye.wav"))
    assert (order.code_type, order.locale, order.max_replays) == ("Default", "nl-NL", 0)


async def test_a_bad_number_is_skipped_where_validation_is_off(world: World) -> None:
    answer = await world.ask(callees=["nobody"], disable_callees_validation=True)
    (queued,) = answer.json()
    assert queued["callee"] == "+14155550101"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("callee", None), ("callee", "14155550101"), ("callees", []), ("callees", ["+14155550101", "nobody"]),
        ("caller", None), ("caller", ""), ("caller", "1" * 25), ("code", None), ("code", ""), ("code", "1" * 65),
        ("code", 482913), ("max-replays", 4), ("max-replays", "1"), ("max-ringing-timeout", 9),
        ("max-ringing-timeout", 61), ("code-type", "tts"), ("code-type", 3), ("intro-prompt-type", "Text"),
        ("intro-prompt", "x" * 751), ("anonymous", "true"), ("callback-url", "/posted"),
        ("instruction-id", "x" * 65), ("voice", "en-GB"), ("voice", {"language": "english"}),
        ("voice", {"gender": "female"}), ("voice", {"volume": 5}), ("voice", {"speed": 1}), ("intro-promt", "Hi."),
    ],
)  # fmt: skip
def test_a_field_that_is_missing_or_out_of_range_is_named(name: str, value: object) -> None:
    instruction = {"callee": "+14155550101", "caller": CALLER, "code": CODE}
    assert cm_api.read_instruction(instruction)
    with pytest.raises(ApiError, match=name.removesuffix("s")) as raised:
        cm_api.read_instruction({**instruction, name: value})
    assert raised.value.status == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"{"])
async def test_what_is_no_object_is_a_bad_request(world: World, body: bytes) -> None:
    headers = {"X-CM-PRODUCTTOKEN": world.carrier.account.product_token}
    for path in ("/api/voiceapi/v2/OTP", f"/api{GATEWAY_PATH}/message"):
        answer = await world.http.post(world.url + path, content=body, headers=headers)
        assert answer.status_code == 400


def test_no_secret_shows_in_the_repr_of_an_account() -> None:
    assert "secret" not in repr(CmAccount("secret", CALLER))
    assert str(ApiError(400, "bad")) == "bad"


# Text messages


@pytest.mark.parametrize(
    ("to", "states", "last_cause"),
    [
        pytest.param("+14155550101", [MessageState.SENT, MessageState.DELIVERED], "2", id="delivered"),
        pytest.param("+14155550106", [MessageState.SENT, MessageState.UNDELIVERED], "3 5", id="phone is off"),
        pytest.param("+14155550114", [MessageState.SENT, MessageState.UNDELIVERED], "1 8", id="not allocated"),
        pytest.param("+14155550117", [MessageState.SENT] * 2 + [MessageState.DELIVERED] * 2, "2", id="doubled"),
        pytest.param("+14155550150", [MessageState.SENT, MessageState.DELIVERED], "2", id="anybody"),
    ],
)
@pytest.mark.parametrize("has_flat_reports", [False, True])
async def test_each_message_is_reported_by_its_reference(
    world: World, to: str, states: list[MessageState], last_cause: str, has_flat_reports: bool
) -> None:
    world.gateway.has_flat_reports = has_flat_reports
    await world.send(to)
    (message,) = world.gateway.messages
    assert (message.to, message.text, message.validity) == (to, f"{CODE} is your code.", "5m")
    sms = world.sms()
    reports = [sms.parse_report(webhook) for webhook in world.posted]
    assert {sms.reference_of(webhook) for webhook in world.posted} == {REFERENCE}
    assert [report.state for report in reports] == states
    assert reports[-1].cause == last_cause


async def test_a_lost_report_leaves_no_news(world: World) -> None:
    await world.send("+14155550116")
    assert (len(world.gateway.messages), world.posted) == (1, [])


async def test_a_report_that_nobody_takes_is_given_up(world: World) -> None:
    world.gateway.report_url = f"{world.url}/none"
    await world.send("+14155550101")
    assert world.posted == []


@pytest.mark.parametrize(
    ("to", "changes", "error", "text"),
    [
        pytest.param("+14155550110", {}, ProviderUnavailable, "trouble", id="down"),
        pytest.param("+14155550112", {}, ProviderThrottled, "no more messages", id="throttled"),
        pytest.param("+14155550113", {}, AccountRefused, "credit", id="out of credit"),
        pytest.param("+12", {}, CallRejected, "number", id="bad number"),
        pytest.param(
            "+14155550101", {"from_number": "A very long name"}, CallRejected, "CM_SMS_SENDER", id="bad sender"
        ),
        pytest.param("+14155550101", {"text": ""}, CallRejected, "text", id="no text"),
        pytest.param("+14155550101", {"expires_in_seconds": 10**7}, CallRejected, "value", id="odd validity"),
    ],
)
async def test_each_refusal_of_a_message_says_what_may_be_done_next(
    world: World, to: str, changes: dict[str, Any], error: type[ProviderError], text: str
) -> None:
    with pytest.raises(ProviderError, match=text) as raised:
        await world.send(to, **changes)
    assert type(raised.value) is error
    assert not world.gateway.messages


async def test_a_slow_gateway_leaves_the_outcome_to_the_report(world: World) -> None:
    order = MessageOrder(keep_secret("+14155550111"), CALLER, "text", "", REFERENCE, 300)
    with pytest.raises(CallOutcomeUnknown):
        await world.sms(request_deadline_seconds=2).send_message(order)
    await asyncio.gather(*world.gateway.tasks)
    assert world.sms().reference_of(world.posted[0]) == REFERENCE


async def test_a_wrong_token_sends_nothing(world: World) -> None:
    order = MessageOrder(keep_secret("+14155550101"), CALLER, "text", "", REFERENCE, 300)
    with pytest.raises(AccountRefused, match="CM_PRODUCT_TOKEN"):
        await world.sms(product_token="another").send_message(order)
    assert not world.gateway.messages


async def test_a_batch_may_be_accepted_in_part(world: World) -> None:
    good = {"from": "Example", "to": [{"number": "0014155550101"}], "body": {"content": "x"}, "reference": "a"}
    headers = {"X-CM-PRODUCTTOKEN": world.gateway.account.product_token}
    for bad, code in (
        ({**good, "to": []}, 303),
        ({**good, "reference": "a-b"}, 305),
        ({**good, "allowedChannels": ["WhatsApp"]}, 305),
        ({**good, "body": {"type": "BINARY", "content": "x"}}, 304),
    ):
        body = {"messages": {"msg": [bad, good]}}
        answer = (
            await world.http.post(f"{world.url}/api{GATEWAY_PATH}/message", json=body, headers=headers)
        ).json()
        assert [item["status"] for item in answer["messages"]] == ["Rejected", "Accepted"]
        assert (answer["errorCode"], answer["messages"][0]["messageErrorCode"]) == (201, code)
    none = await world.http.post(f"{world.url}/api{GATEWAY_PATH}/message", json={"messages": {}}, headers=headers)
    assert (none.status_code, none.json()["errorCode"]) == (400, 203)


async def test_closing_the_network_drops_calls_and_messages(world: World) -> None:
    slow = SimulatorClock(1e-9)
    account, phones = world.carrier.account, PhoneExchange(slow)
    carrier = CmCarrier(account, open_http_client(1), slow, phones, report_url=f"{world.url}/posted")
    (order,) = cm_api.read_instruction({"callee": "+14155550101", "caller": CALLER, "code": CODE})
    carrier.place(order, CALLER)
    carrier.gateway.accept(Message("+14155550101", "Example", "text", REFERENCE, "5m"))
    await asyncio.sleep(0)
    await carrier.close()
    assert not carrier.tasks
    assert not carrier.gateway.tasks
    assert world.posted == []
