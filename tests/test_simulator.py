"""The simulated carrier is as strict, and as awkward, as the real one's documentation says."""

import asyncio
import io
import json
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs

import httpx
import pytest
from starlette.applications import Starlette

from simulator import answer_xml, network, phone, vobiz_api, vobiz_call
from simulator.answer_xml import BadXml, Element, ElementRules
from simulator.call import CallRequest, Customs, Ending, SimulatedCall, speech
from simulator.callbacks import CallbackRules, CallbackSender, Failure, Purpose, Tries, Unreachable, deliver
from simulator.callees import Reaction, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.hangup_causes import hangup_causes
from simulator.lines import CalleeHungUp, KeyWait, ScriptedLine, Sound
from simulator.phone import PhoneExchange
from simulator.vobiz_call import VobizCall, callback_sender
from simulator.xml_call import AUDIO_SECONDS, KeyTimeout, Url, XmlCall, XmlCallRequest
from tests.conftest import RunningService, run_service
from voice_provider import CallState, EndReason

# Answer documents


def response(content: str) -> bytes:
    return f"<Response>{content}</Response>".encode()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(b"<Response><Speak>x</Response>", "not well-formed", id="not well-formed"),
        pytest.param(b"<Reply/>", "root element is Reply", id="another root"),
        pytest.param(b"<!DOCTYPE x><Response/>", "DOCTYPE", id="DTD"),
        pytest.param(response(" " * 102_400), "larger than 100 KB", id="too large"),
        pytest.param(response("<Say>x</Say>"), "unknown element Say", id="unknown element"),
        pytest.param(response("<GetDigits/>"), "unknown element GetDigits", id="Plivo's element"),
        pytest.param(
            response('<Speak tone="x">x</Speak>'), "unknown attribute tone of Speak", id="unknown attribute"
        ),
        pytest.param(response('<Speak language="xx">x</Speak>'), "bad value of attribute language", id="language"),
        pytest.param(response('<Speak voice="Bob">x</Speak>'), "bad value of attribute voice", id="voice"),
        pytest.param(response("<Speak> </Speak>"), "nothing to say", id="silent Speak"),
        pytest.param(
            response("<Speak><Hangup/></Speak>"), "Hangup is not allowed in Speak", id="element in Speak"
        ),
        pytest.param(response('<Wait length="0"/>'), "bad value of attribute length", id="no wait"),
        pytest.param(response('<Wait length="0.5"/>'), "bad value of attribute length", id="half a second"),
        pytest.param(response("<Wait>1</Wait>"), "Wait takes no text", id="text in Wait"),
        pytest.param(response("<Gather/>"), "Gather has no action", id="Gather without action"),
        pytest.param(
            response('<Gather action="https://a/b" timeout="5"/>'),
            "unknown attribute timeout",
            id="Plivo's timeout",
        ),
        pytest.param(
            response('<Gather action="https://a/b" executionTimeout="3"/>'), "bad value", id="short Gather"
        ),
        pytest.param(
            response('<Gather action="https://a/b"><Wait/></Gather>'),
            "Wait is not allowed in Gather",
            id="nested Wait",
        ),
        pytest.param(
            response('<Gather action="https://a/b"><Speak>x</Speak>stray</Gather>'), "stray text", id="stray text"
        ),
        pytest.param(response("<Redirect>/answer</Redirect>"), "needs an absolute URL", id="relative URL"),
        pytest.param(response('<Hangup reason="tired"/>'), "bad value of attribute reason", id="odd reason"),
    ],
)
def test_a_document_is_read_strictly(document: bytes, reason: str) -> None:
    with pytest.raises(BadXml, match=reason):
        vobiz_call.read(document)


def test_ssml_is_flattened_to_what_is_said() -> None:
    xml = (
        '<Speak voice="Polly.Amy">Code <say-as interpret-as="spell-out">12</say-as> <break time="1s"/>bye</Speak>'
    )
    (speak,) = vobiz_call.read(response(xml))
    assert speak.text == "Code 12 bye"


# The REST API


@pytest.fixture
async def api() -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    async with run_service() as service:
        account = service.carrier.account
        headers = {"X-Auth-ID": account.auth_id, "X-Auth-Token": account.auth_token}
        base = f"{service.client.base_url}/simulator/api/v1"
        async with httpx.AsyncClient(base_url=base, headers=headers) as client:
            yield client, account.auth_id


def create_body(**changes: Any) -> dict[str, Any]:
    body = {
        "from": "+12025550100",
        "to": "+14155550101",
        "answer_url": "http://127.0.0.1:1/answer",
        "answer_method": "POST",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/account/{id}/Call/", 401),
        ("POST", "/Account/{id}/call/", 401),
        ("POST", "/Account/{id}/Call", 404),
        ("GET", "/Account/{id}/CDR/x", 401),
        ("GET", "/nowhere", 404),
        ("POST", "/Account/MA_OTHER/Call/", 404),
        ("GET", "/Account/{id}/Call/?status=live", 200),
        ("GET", "/Account/{id}/Call?status=queued", 200),
        ("GET", "/Account/{id}/Call/x/", 404),
        ("GET", "/Account/{id}/cdr/x", 404),
        ("DELETE", "/Account/{id}/Call/x/", 404),
    ],
)
async def test_paths_are_case_sensitive(
    api: tuple[httpx.AsyncClient, str], method: str, path: str, status: int
) -> None:
    client, auth_id = api
    assert (await client.request(method, path.format(id=auth_id))).status_code == status


async def test_wrong_credentials_are_401(api: tuple[httpx.AsyncClient, str]) -> None:
    client, auth_id = api
    for headers in ({"X-Auth-Token": "wrong"}, {"X-Auth-ID": "MA_OTHER"}):
        answer = await client.get(f"/Account/{auth_id}/Call/?status=live", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("changes", "status", "mentions"),
    [
        ({"answer_url": None}, 400, "answer_url"),
        ({"answer_method": None}, 400, "answer_method"),
        ({"from": 12025550100}, 400, "from"),
        ({"to": "+14155550101<+14155550102"}, 400, "E.164"),
        ({"to": "sip:x@y"}, 400, "E.164"),
        ({"ring_timeout": "soon"}, 422, "ring_timeout"),
        ({"time_limit": -1}, 422, "time_limit"),
        ({"hangup_url": "/hangup"}, 422, "hangup_url"),
        ({"ring_url": "http://a/b", "ring_method": "PUT"}, 422, "ring_url"),
        ({"machine_detection": "maybe"}, 422, "machine_detection"),
        ({"colour": "red"}, 422, "colour"),
        ({"ring_timeout": "30", "time_limit": "3600"}, 200, "Call fired"),
    ],
)
async def test_create_requests_are_checked(
    api: tuple[httpx.AsyncClient, str], changes: dict[str, Any], status: int, mentions: str
) -> None:
    client, auth_id = api
    answer = await client.post(f"/Account/{auth_id}/Call/", json=create_body(**changes))
    assert answer.status_code == status
    assert mentions in answer.text


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense"])
async def test_bodies_that_are_no_object_are_400(api: tuple[httpx.AsyncClient, str], content: bytes) -> None:
    client, auth_id = api
    assert (await client.post(f"/Account/{auth_id}/Call/", content=content)).status_code == 400


@pytest.mark.parametrize(
    ("limits", "limit_type"),
    [({"simulator_calls_per_second": 1}, "cps"), ({"simulator_concurrent_calls": 1}, "concurrency")],
)
async def test_limits_of_the_account_are_429(limits: dict[str, Any], limit_type: str) -> None:
    async with run_service(**limits) as service:
        assert (await service.send("+14155550142")).status_code == 200
        second = await service.send("+14155550143")
        assert (second.status_code, second.json()["code"]) == (503, "provider_throttled")
        assert second.headers["retry-after"] == "1"
        assert service.carrier.requests == 2
        account = service.carrier.account
        headers = {"X-Auth-ID": account.auth_id, "X-Auth-Token": account.auth_token}
        path = f"/simulator/api/v1/Account/{account.auth_id}/Call/"
        refused = await service.client.post(path, json=create_body(), headers=headers)
        details = refused.json()["error"]["details"]
        assert (refused.status_code, details["limitType"], details["limit"]) == (429, limit_type, 1)


async def test_a_second_later_a_call_may_start_again(service: RunningService) -> None:
    now = 100.0
    carrier = service.carrier
    carrier.account = vobiz_api.Account("MA", "token", "+12025550100", calls_per_second=2)
    carrier.clock.now = lambda: now
    carrier.check_limits()
    carrier.check_limits()
    with pytest.raises(vobiz_api.ApiError):
        carrier.check_limits()
    now = 101.0
    carrier.check_limits()


async def test_a_live_call_is_listed_shown_hung_up_and_recorded(service: RunningService) -> None:
    account = service.carrier.account
    base = f"/simulator/api/v1/Account/{account.auth_id}"
    headers = {"X-Auth-ID": account.auth_id, "X-Auth-Token": account.auth_token}
    call_uuid = (await service.send("+14155550142")).json()["call_uuid"]

    async def get(path: str) -> httpx.Response:
        return await service.client.get(base + path, headers=headers)

    assert (await get("/Call/?status=queued")).json()["calls"] == [call_uuid]
    assert (await get("/Call/?status=live")).json()["calls"] == []
    shown = (await get(f"/Call/{call_uuid}/?status=queued")).json()
    assert (shown["call_status"], shown["to"]) == ("queued", "+14155550142")
    assert (await get(f"/Call/{call_uuid}/")).status_code == 404, "status is required"
    assert (await get(f"/cdr/{call_uuid}")).status_code == 404, "not over yet"
    assert (await service.client.delete(f"{base}/Call/{call_uuid}/", headers=headers)).status_code == 204
    await service.calls_over()
    record = (await get(f"/cdr/{call_uuid}")).json()["data"]
    assert (record["hangup_cause_code"], record["hangup_source"]) == (1000, "API Request")
    assert (await service.client.delete(f"{base}/Call/{call_uuid}", headers=headers)).status_code == 404


async def test_a_call_is_found_by_its_callee_while_it_rings_and_after_its_end(service: RunningService) -> None:
    client = service.provider()
    started = time.time() - 5
    assert await client.find_call("+14155550142", started) is None
    ringing = (await service.send("+14155550142")).json()["call_uuid"]
    found = await client.find_call("+14155550142", started)
    assert (found.call_id, found.state) == (ringing, CallState.DIALING)
    busy = (await service.send("+14155550105")).json()["call_uuid"]
    await asyncio.gather(*filter(None, [service.carrier.tasks.get(busy)]))
    found = await client.find_call("+14155550105", started)
    assert (found.call_id, found.end_reason) == (busy, EndReason.BUSY)


async def test_old_records_are_dropped(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MAX_RECORDS", 1)
    for number in ("+14155550101", "+14155550105"):
        await service.send(number)
        await service.calls_over()
    assert [call.request.to for call in service.carrier.records.values()] == ["+14155550105"]


# A call and its customer's answers

Customer = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]
LISTENER = ScriptedCallee("listens")


class Customers:
    """What a customer answers, by path, and what was asked."""

    def __init__(self, **documents: str | httpx.Response | list[httpx.Response]) -> None:
        self.documents: dict[str, Any] = documents
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.headers: list[httpx.Headers] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fields = {name: values[0] for name, values in parse_qs(request.content.decode(), True).items()}
        fields = fields or dict(request.url.params)
        path = request.url.path.strip("/")
        self.asked.append((path, fields))
        self.headers.append(request.headers)
        answer = self.documents.get(path, "")
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, content=response(answer), headers={"content-type": "text/xml; charset=utf-8"})

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


def xml_request(*, fallback: bool = False, time_limit: float = 60) -> XmlCallRequest:
    urls = {name: Url(f"https://otp.example.com/{name}") for name in ("answer", "ring", "hangup", "fallback")}
    return XmlCallRequest(
        call_id="5a9fd4a0-3d4c-11ef-bef9-0242ac110005",
        from_number="+12025550100",
        to="+14155550142",
        answer=urls["answer"],
        fallback=urls["fallback"] if fallback else None,
        ring=urls["ring"],
        hangup=urls["hangup"],
        ring_timeout=30,
        time_limit=time_limit,
        hang_up_on_machine=False,
    )


async def live(
    customer: Customers, callee: ScriptedCallee = LISTENER, *, fallback: bool = False, **options: Any
) -> VobizCall:
    clock = SimulatorClock(float("inf"))
    http = httpx.AsyncClient(transport=httpx.MockTransport(customer))
    request = xml_request(fallback=fallback, time_limit=options.pop("time_limit", 60))
    sender = callback_sender(http, clock, options.pop("token", None))
    no_input_posts = options.pop("no_input_posts", False)
    line, customs = ScriptedLine(callee, clock), Customs(**options)
    call = VobizCall(request, line, clock, customs, sender, "MA_TEST", no_input_posts)
    await call.run()
    return call


def cause_of(call: VobizCall) -> tuple[int, str]:
    assert call.cause is not None
    return call.cause.code, call.failure_reason


async def test_callbacks_come_in_order_with_every_documented_field() -> None:
    customer = Customers(answer="<Speak>hello</Speak><Hangup/>")
    await live(customer)
    assert customer.paths() == ["ring", "answer", "hangup"]
    common = {"CallUUID", "RequestUUID", "ALegRequestUUID", "Direction", "From", "To", "CallStatus", "Event"}
    assert all(common <= set(fields) for _, fields in customer.asked)
    ring, answer, hangup = (fields for _, fields in customer.asked)
    assert (ring["Event"], answer["Event"], hangup["Event"]) == ("Ring", "StartApp", "Hangup")
    assert (ring["From"], ring["To"]) == ("12025550100", "14155550142"), "without the plus sign"
    assert hangup["HangupCauseCode"] == "4000"
    assert hangup["HangupSource"] == "Answer XML"
    assert (hangup["Duration"], hangup["BillDuration"]) == ("0", "0")
    assert len(hangup) >= 24
    assert customer.headers[0]["user-agent"] == "Vobiz"
    assert "x-vobiz-signature-v3" not in customer.headers[0]


async def test_callbacks_are_signed_when_the_account_says_so() -> None:
    customer = Customers(answer="<Hangup/>")
    await live(customer, token="secret")
    assert all(len(headers["x-vobiz-signature-v3-nonce"]) == 20 for headers in customer.headers)
    assert len({headers["x-vobiz-signature-v3"] for headers in customer.headers}) == 3


XML = {"content-type": "application/xml"}


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        pytest.param(httpx.Response(500), 7011, "HTTP 500 in 3 tries", id="error"),
        pytest.param(httpx.Response(302, headers={"location": "/x"}), 7011, "HTTP 302", id="redirect"),
        pytest.param(httpx.Response(200, text="<Response/>"), 8011, "text/plain", id="wrong type"),
        pytest.param(httpx.Response(200, content=b"<x", headers=XML), 8011, "well-formed", id="bad XML"),
        pytest.param("<Say>x</Say>", 8011, "unknown element Say", id="unknown element"),
        pytest.param("", 4010, "", id="empty document"),
        pytest.param("<Redirect>https://otp.example.com/next</Redirect>", 4010, "", id="redirect to an end"),
    ],
)
async def test_a_call_fails_with_a_readable_reason(answer: Any, code: int, reason: str) -> None:
    call = await live(Customers(answer=answer))
    assert cause_of(call)[0] == code
    assert reason in cause_of(call)[1]


@pytest.mark.parametrize(
    ("failing", "code"),
    [(httpx.Response(404), 7014), (httpx.Response(200, content=b"<x", headers=XML), 8014)],
)
async def test_a_bad_redirect_target_ends_the_call(failing: httpx.Response, code: int) -> None:
    call = await live(Customers(answer="<Redirect>https://otp.example.com/next</Redirect>", next=failing))
    assert cause_of(call)[0] == code


async def test_a_bad_gather_action_ends_the_call() -> None:
    gather = '<Gather action="https://otp.example.com/choice" executionTimeout="5"/>'
    callee = ScriptedCallee("presses 1", keys=("1",))
    assert cause_of(await live(Customers(answer=gather, choice=httpx.Response(404)), callee))[0] == 7012
    bad = httpx.Response(200, content=b"<x", headers=XML)
    assert cause_of(await live(Customers(answer=gather, choice=bad), callee))[0] == 8012


async def test_the_third_try_is_taken() -> None:
    good = httpx.Response(200, content=response("<Hangup/>"), headers=XML)
    customer = Customers(answer=[httpx.Response(503), httpx.Response(503), good])
    assert cause_of(await live(customer))[0] == 4000
    assert customer.paths().count("answer") == 3


async def test_the_fallback_is_asked_after_three_tries_or_bad_xml() -> None:
    customer = Customers(answer=httpx.Response(503), fallback="<Speak>fallback</Speak><Hangup/>")
    call = await live(customer, fallback=True)
    assert call.spoken == ["fallback"]
    assert customer.paths() == ["ring", "answer", "answer", "answer", "fallback", "hangup"]
    customer = Customers(answer="<Say/>", fallback=httpx.Response(500))
    assert cause_of(await live(customer, fallback=True))[0] == 7011


async def test_a_gather_without_redirect_goes_on_with_the_next_element() -> None:
    gather = '<Gather action="https://otp.example.com/choice" redirect="false"/><Speak>next</Speak><Hangup/>'
    call = await live(Customers(answer=gather), ScriptedCallee("presses 1", keys=("1",)))
    assert call.spoken == ["next"]


async def test_no_input_goes_on_or_posts_empty_digits() -> None:
    gather = '<Gather action="https://otp.example.com/choice"/><Speak>went on</Speak><Hangup/>'
    went_on = Customers(answer=gather)
    assert (await live(went_on)).spoken == ["went on"]
    assert "choice" not in went_on.paths()
    posted = Customers(answer=gather, choice="<Hangup/>")
    assert (await live(posted, no_input_posts=True)).spoken == []
    assert dict(posted.asked)["choice"]["Digits"] == ""


async def test_the_time_limit_ends_a_call() -> None:
    for document in (
        '<Wait length="100"/>',
        '<Speak loop="0">for ever</Speak>',
        '<Play loop="0">https://a/b.wav</Play>',
    ):
        call = await live(Customers(answer=document), time_limit=20)
        assert (cause_of(call)[0], call.talk_seconds) == (6000, 20)
    gather = '<Gather action="https://otp.example.com/choice" executionTimeout="60"/>'
    assert cause_of(await live(Customers(answer=gather), time_limit=20))[0] == 6000


async def test_endless_redirects_end_a_call() -> None:
    call = await live(Customers(answer="<Redirect>https://otp.example.com/answer</Redirect>"))
    assert cause_of(call) == (8014, "more than 50 documents in one call")


async def test_a_foreign_caller_id_is_refused() -> None:
    assert cause_of(await live(Customers(), is_own_caller_id=False))[0] == 3030


async def test_get_callbacks_carry_their_fields_in_the_query() -> None:
    customer = Customers()
    sender = callback_sender(
        httpx.AsyncClient(transport=httpx.MockTransport(customer)), SimulatorClock(float("inf")), None
    )
    await sender.notify("https://otp.example.com/ring", {"Event": "Ring"}, "GET")
    assert customer.asked == [("ring", {"Event": "Ring"})]


async def test_a_customer_who_cannot_be_reached_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone")

    sender = callback_sender(
        httpx.AsyncClient(transport=httpx.MockTransport(gone)), SimulatorClock(float("inf")), None
    )
    await sender.notify("https://otp.example.com/hangup", {"Event": "Hangup"})
    assert "Hangup callback was not taken: ConnectError in 3 tries" in caplog.text


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (httpx.ConnectError("gone"), Failure.CONNECT),
        (httpx.ConnectTimeout("late"), Failure.CONNECT),
        (httpx.ReadTimeout("late"), Failure.TIMEOUT),
        (TimeoutError(), Failure.TIMEOUT),
        (httpx.RemoteProtocolError("cut"), Failure.BROKEN),
        (httpx.Response(302), Failure.REDIRECTED),
        (httpx.Response(404), Failure.CLIENT_ERROR),
        (httpx.Response(503), Failure.SERVER_ERROR),
    ],
)
async def test_a_failure_is_tried_again_only_where_the_carrier_says_so(outcome: Any, failure: Failure) -> None:
    async def send() -> httpx.Response:
        if isinstance(outcome, Exception):
            raise outcome
        response: httpx.Response = outcome
        return response

    others = frozenset(Failure) - {failure}
    for repeat_on, tries in ((frozenset({failure}), "in 2 tries"), (others, "in 1 try")):
        with pytest.raises(Unreachable, match=tries):
            await deliver(send, Tries(10, (1,), repeat_on), SimulatorClock(float("inf")))


async def test_a_carrier_brings_its_own_name_signature_and_tries() -> None:
    def sign(method: str, url: str, fields: Mapping[str, str]) -> dict[str, str]:
        return {"X-Signature": f"{method} {url} {fields['Event']}"}

    def tries(url: str, purpose: Purpose) -> Tries:
        return Tries(10, (1,) if url.endswith("#twice") and purpose is Purpose.NOTICE else ())

    customer = Customers(ring=httpx.Response(503))
    http = httpx.AsyncClient(transport=httpx.MockTransport(customer))
    rules = CallbackRules("Other", vobiz_call.read, tries, sign)
    sender = CallbackSender(http, SimulatorClock(float("inf")), rules)
    for url in ("https://otp.example.com/ring", "https://otp.example.com/ring#twice"):
        await sender.notify(url, {"Event": "Ring"})
    assert [(headers["user-agent"], headers["x-signature"]) for headers in customer.headers] == [
        ("Other", "POST https://otp.example.com/ring Ring"),
        ("Other", "POST https://otp.example.com/ring#twice Ring"),
        ("Other", "POST https://otp.example.com/ring#twice Ring"),
    ]


# Other carriers

OTHER_DIALECT: answer_xml.Dialect = {
    **answer_xml.SHARED_ELEMENTS,
    "Response": ElementRules(children=frozenset({"Speak", "GetDigits", "Hangup"})),
    "GetDigits": ElementRules(
        {
            "action": answer_xml.is_url,
            "timeout": answer_xml.whole_number(1),
            "retries": answer_xml.whole_number(1),
            "validDigits": answer_xml.is_anything,
            "invalidDigitsSound": answer_xml.is_url,
        },
        required=("action",),
        children=frozenset({"Speak"}),
    ),
}


class OtherCall(XmlCall):
    """A carrier that fetches XML as Vobiz does, but has elements and fields of its own."""

    causes = hangup_causes("Other")
    key_timeouts: ClassVar = {"GetDigits": KeyTimeout("timeout", 5)}

    def key_fields(self, element: Element, key: str) -> dict[str, str]:
        return {**self.fields("", "in-progress"), "Digits": key}


def test_every_ending_has_a_row_in_the_cause_table() -> None:
    assert set(Ending) < set(hangup_causes("Other"))


def test_an_element_is_known_to_its_own_carrier_only() -> None:
    document = response('<GetDigits action="https://a/b" retries="2"/>')
    assert answer_xml.read(document, OTHER_DIALECT)[0].attributes["retries"] == "2"
    with pytest.raises(BadXml, match="unknown element Gather"):
        answer_xml.read(response('<Gather action="https://a/b"/>'), OTHER_DIALECT)


@pytest.mark.parametrize(
    ("keys", "asked", "refused", "waited", "posted"),
    [
        pytest.param(("1",), 1, 0, 0, "1", id="right key"),
        pytest.param(("9", "1"), 2, 1, 0, "1", id="right key the second time"),
        pytest.param(("9",), 3, 1, 2, None, id="wrong key, then none"),
        pytest.param((), 3, 0, 3, None, id="no key"),
    ],
)
async def test_another_carriers_element_asks_for_certain_keys_several_times(
    keys: tuple[str, ...], asked: int, refused: int, waited: int, posted: str | None
) -> None:
    get_digits = (
        '<GetDigits action="https://otp.example.com/choice" retries="3" validDigits="12"'
        ' invalidDigitsSound="https://a/no.wav"><Speak>Press 1</Speak></GetDigits>'
    )
    customer = Customers(answer=get_digits, choice="<Hangup/>")
    clock = SimulatorClock(float("inf"))
    http = httpx.AsyncClient(transport=httpx.MockTransport(customer))
    rules = CallbackRules(
        "Other", lambda body: answer_xml.read(body, OTHER_DIALECT), lambda _url, _purpose: Tries(10)
    )
    line = ScriptedLine(ScriptedCallee("presses keys", keys=keys), clock)
    call = OtherCall(xml_request(), line, clock, Customs(), CallbackSender(http, clock, rules), "OTHER")
    await call.run()
    prompt_seconds = speech("Press 1", "en-US").seconds
    assert call.spoken == ["Press 1"] * asked
    assert call.talk_seconds == pytest.approx(asked * prompt_seconds + refused * AUDIO_SECONDS + waited * 5)
    assert dict(customer.asked).get("choice", {}).get("Digits") == posted
    hangup = dict(customer.asked)["hangup"]
    assert "ParentAuthID" not in hangup
    assert hangup["HangupSource"] == ("Answer XML" if posted else "Other")


class SpokenCall(SimulatedCall):
    """A carrier that is told at once what to say, and asks for nothing."""

    async def on_ringing(self) -> None:
        self.told = ["ringing"]

    async def talk(self) -> None:
        await self.listen(speech("Hello", "en-US"))
        self.told.append(await self.wait_for_key((speech("Press 1", "en-US"),), 5))

    async def report_end(self) -> None:
        self.told.append(f"{self.ending_code}, {self.ending_name}")


@pytest.mark.parametrize(
    ("callee", "told"),
    [
        (ScriptedCallee("presses 1", keys=("1",)), ["ringing", "1", "end_of_script, end of script"]),
        (ScriptedCallee("is busy", Reaction.BUSY), ["ringing", "busy, busy"]),
        (ScriptedCallee("leaves", hangs_up_after_seconds=0.1), ["ringing", "callee, callee"]),
    ],
    ids=lambda value: value.description if isinstance(value, ScriptedCallee) else "",
)
async def test_a_call_needs_no_documents(callee: ScriptedCallee, told: list[str]) -> None:
    clock = SimulatorClock(float("inf"))
    request = CallRequest("call-1", "+12025550100", "+14155550142", 30, 60, hang_up_on_machine=False)
    call = SpokenCall(request, ScriptedLine(callee, clock), clock, Customs())
    await call.run()
    assert call.told == told


async def test_two_carriers_share_the_phones_and_only_the_first_one_is_down() -> None:
    clock = SimulatorClock(float("inf"))
    phones = PhoneExchange(clock)
    statuses = {}
    for is_first in (True, False):
        customer = httpx.AsyncClient(transport=httpx.MockTransport(Customers(answer="<Hangup/>")))
        account = vobiz_api.new_account("+12025550100")
        carrier = vobiz_api.VobizCarrier(
            account, callback_sender(customer, clock, None), clock, phones, is_first=is_first
        )
        transport = httpx.ASGITransport(Starlette(routes=vobiz_api.routes(carrier)))
        headers = {"X-Auth-ID": account.auth_id, "X-Auth-Token": account.auth_token}
        async with httpx.AsyncClient(transport=transport, base_url="http://carrier", headers=headers) as client:
            for number in ("+14155550118", "+14155550142"):
                answer = await client.post(f"/Account/{account.auth_id}/Call/", json=create_body(to=number))
                statuses[is_first, number] = answer.status_code
        assert len(phones.lines) == (1 if is_first else 2), "both ring in the same browser"
        assert len(carrier.calls) == (1 if is_first else 2)
        await carrier.close()
    assert [number for number, status in statuses.items() if status != 200] == [(True, "+14155550118")]


# Lines


async def test_a_scripted_callee_can_hang_up_in_the_middle_of_a_word() -> None:
    clock = SimulatorClock(float("inf"))
    line = ScriptedLine(ScriptedCallee("impatient", hangs_up_after_seconds=5), clock)
    await line.listen(Sound(3))
    with pytest.raises(CalleeHungUp) as hung_up:
        await line.listen(Sound(3))
    assert hung_up.value.seconds == 2


async def test_nobody_rings_longer_than_allowed() -> None:
    line = ScriptedLine(ScriptedCallee("slow", ring_seconds=50), SimulatorClock(float("inf")))
    assert await line.ring("+12025550100", 30) == (Reaction.IGNORE, 30)


# The phone in the browser


async def events_of(service: RunningService, until: str) -> AsyncIterator[dict[str, Any]]:
    async with service.client.stream("GET", "/simulator/phone/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                yield event
                if event["event"] == until:
                    return


async def test_a_person_answers_hears_presses_1_and_hangs_up(service: RunningService) -> None:
    seen: list[str] = []
    digits = ""
    pressed = 0
    sent = asyncio.create_task(service.send("+14155550142", code="610389"))
    async for event in events_of(service, "ended"):
        seen.append(event["event"])
        url = f"/simulator/phone/calls/{event.get('call')}"
        if event["event"] == "ringing":
            assert (event["from"], event["to"]) == ("+12025550100", "+14155550142")
            assert (await service.client.post(f"{url}/keys/1")).status_code == 204, "too early: dropped"
            assert (await service.client.post(f"{url}/answer")).status_code == 204
        elif event["event"] == "speaking":
            digits += event["character"]
        elif event["event"] == "waiting_for_key":
            pressed += 1
            action = "keys/1" if pressed == 1 else "hang-up"
            assert (await service.client.post(f"{url}/{action}")).status_code == 204
    await sent
    await service.calls_over()
    assert digits == "610389" * 4
    assert seen.count("waiting_for_key") == 2
    status = await service.status("+14155550142")
    assert status["call"]["end_reason"] == "answered_and_spoken"
    assert (await service.client.post(url + "/answer")).status_code == 404


async def test_a_person_declines(service: RunningService) -> None:
    sent = asyncio.create_task(service.send("+14155550142"))
    async for event in events_of(service, "ended"):
        if event["event"] == "ringing":
            url = f"/simulator/phone/calls/{event['call']}"
            assert (await service.client.post(f"{url}/dance")).status_code == 404
            assert (await service.client.post(f"{url}/keys/x")).status_code == 404
            assert (await service.client.get(f"{url}/speech/0")).status_code == 404
            assert (await service.client.post(f"{url}/decline")).status_code == 204
    await sent
    await service.calls_over()
    assert (await service.status("+14155550142"))["call"]["end_reason"] == "rejected"


async def test_a_page_that_connects_late_learns_what_goes_on(service: RunningService) -> None:
    await service.send("+14155550142")
    seen = [event["event"] async for event in events_of(service, "ringing")]
    assert seen == ["hello", "ringing"]


async def test_nobody_at_the_phone_is_no_answer() -> None:
    exchange = PhoneExchange(SimulatorClock(1))
    line = exchange.line("call-1", "+14155550142")
    assert await line.ring("+12025550100", 0.01) == (Reaction.IGNORE, 0.01)


async def test_the_first_of_two_buttons_counts() -> None:
    line = PhoneExchange(SimulatorClock(1)).line("call-1", "+14155550142")
    line.decline()
    line.answer()
    assert (await line.ring("+12025550100", 30)).reaction is Reaction.REJECT


async def test_a_person_can_hang_up_while_listening() -> None:
    line = PhoneExchange(SimulatorClock(1)).line("call-1", "+14155550142")
    line.hang_up()
    with pytest.raises(CalleeHungUp):
        await line.listen(Sound(60, "a long story", "en-US"))


async def test_the_stream_of_a_page_that_stops_reading_ends_so_that_it_connects_anew() -> None:
    exchange = PhoneExchange(SimulatorClock(1))
    watching = exchange.watch()
    assert (await anext(watching) or {})["event"] == "hello"
    for number in range(600):
        exchange.tell({"event": str(number)})
    assert [event async for event in watching] == []
    exchange.close()


async def test_more_phones_can_ring_than_a_page_has_unread_events() -> None:
    exchange = PhoneExchange(SimulatorClock(1))
    for number in range(600):
        exchange.line(f"call-{number}", "+14155550142").last_event = {"event": "ringing"}
    watching = exchange.watch()
    assert len([await anext(watching) for _ in range(601)]) == 601
    await watching.aclose()  # type: ignore[attr-defined]


async def test_keys_beyond_any_need_are_dropped() -> None:
    line = PhoneExchange(SimulatorClock(1)).line("call-1", "+14155550142")
    for _ in range(40):
        line.press("1")
    assert (await line.wait_for_keys((), KeyWait(30))).keys == "1"
    assert line._keys.qsize() == 31


async def test_the_callees_are_listed_and_the_page_is_served(service: RunningService) -> None:
    callees = (await service.client.get("/simulator/phone/callees")).json()
    assert {"phone": "+14155550105", "description": "is busy"} in callees
    page = await service.client.get("/phone")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("/web/phone.js", "/web/phone.css", "/web/icon.svg"):
        asset = await service.client.get(path)
        assert (asset.status_code, asset.headers["cache-control"]) == (200, "no-cache")
    for path in ("/web/nothing.js", "/web/..%2fserver.py", "/web/%2e%2e/server.py"):
        assert (await service.client.get(path)).status_code == 404


async def test_a_quiet_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone, "KEEP_ALIVE_SECONDS", 0)
    async with run_service() as service, service.client.stream("GET", "/simulator/phone/events") as stream:
        lines = stream.aiter_lines()
        while await anext(lines) != ": still here":
            continue


async def test_without_the_simulator_there_is_no_phone_page() -> None:
    settings: dict[str, Any] = {
        "vobiz_auth_id": "MA_T",
        "vobiz_auth_token": "t",
        "from_number": "+12025550100",
        "public_url": "https://otp.example.com",
    }
    async with run_service(**settings) as service:
        for path in ("/phone", "/web/phone.js", "/simulator/phone/callees"):
            assert (await service.client.get(path)).status_code == 404


# Speech as audio


async def test_an_installed_engine_speaks_for_the_page() -> None:
    pytest.importorskip("espeakng_loader")
    async with run_service() as service:
        sent = asyncio.create_task(service.send("+14155550142", code="CANARY610"))
        async for event in events_of(service, "ended"):
            url = f"/simulator/phone/calls/{event.get('call')}"
            if event["event"] == "hello":
                assert event["audio"] is True
            elif event["event"] == "ringing":
                await service.client.post(f"{url}/answer")
            elif event["event"] == "waiting_for_key":
                audio = await service.client.get(f"{url}/speech/1")
                await service.client.post(f"{url}/hang-up")
        await sent
    assert audio.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(audio.content)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        assert 0.1 < file.getnframes() / file.getframerate() < 2, "a prompt"


async def test_an_engine_that_fails_is_no_error() -> None:
    from simulator import speech

    pytest.importorskip("espeakng_loader")
    with pytest.raises(ValueError, match="no voice for this text in xx"):
        await speech.synthesize("x", "xx")
    speech_seconds = speech.SECONDS_TO_SYNTHESIZE
    speech.SECONDS_TO_SYNTHESIZE = 0
    try:
        with pytest.raises(TimeoutError):
            await speech.synthesize("x", "en-US")
    finally:
        speech.SECONDS_TO_SYNTHESIZE = speech_seconds
