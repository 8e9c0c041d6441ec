"""E: status, API form, leaks. What a stranger asks tells nothing, and every answer has one form."""

import contextlib
import io
import json
import logging
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from log_format import JsonFormatter
from tests.conftest import FakeTime, RunningService, keep_secret, leaks_in
from tests.security.hand_carrier import CODE, NORMAL_END, Call, HandCarrier, run_vobiz, spoken, start_call
from verification import short_id

PHONE = "+14155550142"
SHOP, BANK = keep_secret("shop-key-CANARY-0123456789abcdef"), keep_secret("bank-key-CANARY-0123456789abcdef")
KEYS = {"api_keys": f"shop:{SHOP},bank:{BANK}"}
JSON = {"content-type": "application/json"}


@pytest.fixture
def carrier() -> HandCarrier:
    return HandCarrier()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def comparable(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """All of an answer but what is new each time."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
    return answer.status_code, answer.content, headers


@contextlib.contextmanager
def written_log(level: int = logging.INFO) -> Iterator[io.StringIO]:
    """What the program would write to its log meanwhile."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    before = logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(level)
    try:
        yield written
    finally:
        logging.root.removeHandler(handler)
        logging.root.setLevel(before)


def entries(written: io.StringIO) -> list[dict[str, Any]]:
    """Each line as JSON; whatever any reader takes for the end of a line counts as one."""
    return [json.loads(line) for line in written.getvalue().splitlines()]


# E1: what another client's verification looks like


async def test_e1_another_clients_unknown_and_forgotten_verifications_look_alike(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS, status_retention_seconds=60) as service:
        service.client.headers.update(bearer(SHOP))
        sent = [await start_call(service, carrier, f"+141555600{number:02d}") for number in range(20)]
        ids = [(await call.status())["verification_id"] for call in sent]
        keys = [f"+1415556{number:04d}" for number in range(480)] + ids
        answers = [await service.client.get(f"/otp-status/{key}", headers=bearer(BANK)) for key in keys]
        assert len(answers) == 500
        assert {str(comparable(answer)) for answer in answers} == {str(comparable(answers[-1]))}
        assert answers[0].status_code == 404
        fake_time.advance(400)
        for _ in range(2):  # expired, then forgotten
            await service.app.state.timekeeper.expire()
            fake_time.advance(61)
        forgotten = await service.client.get(f"/otp-status/{ids[0]}")
        assert comparable(forgotten) == comparable(answers[0])


@pytest.mark.parametrize("route", ["/verify-otp", "/cancel-otp"])
async def test_e1_another_client_can_neither_verify_nor_cancel(
    carrier: HandCarrier, fake_time: FakeTime, route: str
) -> None:
    async with run_vobiz(carrier, fake_time.clock, **KEYS) as service:
        service.client.headers.update(bearer(SHOP))
        call = await start_call(service, carrier, PHONE)
        before = await call.status()
        otp = {"otp": CODE} if route == "/verify-otp" else {}
        answers = [
            await service.client.post(route, json={**key, **otp}, headers=bearer(BANK))
            for key in (
                {"phone": PHONE},
                {"phone": "+14155550199"},
                {"verification_id": before["verification_id"]},
                {"verification_id": "vrf_" + "0" * 32},
            )
        ]
        assert {str(comparable(answer)) for answer in answers} == {str(comparable(answers[0]))}
        assert answers[0].status_code in (400, 404)
        assert await call.status() == before


async def test_e1_a_status_is_read_60_times_a_minute(carrier: HandCarrier, fake_time: FakeTime) -> None:
    async with run_vobiz(carrier, fake_time.clock, status_reads_per_minute=60) as service:
        await start_call(service, carrier, PHONE)
        read = [await service.client.get(f"/otp-status/{PHONE}") for _ in range(61)]
        assert [answer.status_code for answer in read] == [200] * 60 + [429]
        wait = int(read[-1].headers["retry-after"])
        fake_time.advance(wait - 1)
        assert (await service.client.get(f"/otp-status/{PHONE}")).status_code == 429
        fake_time.advance(1)
        assert (await service.client.get(f"/otp-status/{PHONE}")).status_code == 200


async def test_e1_a_status_has_these_fields_and_no_others(carrier: HandCarrier, fake_time: FakeTime) -> None:
    async with run_vobiz(carrier, fake_time.clock) as service:
        call = await start_call(service, carrier, PHONE)
        await call.post("/answer/{token}?n=1", Event="StartApp")
        answer = await service.client.get(f"/otp-status/{PHONE}")
        assert sorted(answer.json()) == [
            "acknowledged", "attempts_left", "call", "channel", "expires_in", "message", "mode", "phone",
            "provider", "reference", "status", "timeline", "verification_id",
        ]  # fmt: skip
        assert sorted(answer.json()["call"]) == [
            "call_uuid", "end_reason", "hangup_cause", "language", "ring_seconds", "state", "talk_seconds",
            "times_spoken",
        ]  # fmt: skip
        assert {tuple(event) for event in answer.json()["timeline"]} == {("at", "event")}
        assert CODE not in answer.text
        assert call.token not in answer.text


# E3: log lines

HOSTILE = 'a\nb\rc\x1b[31md\u2028e\u2029f\x85g\x00h"i\\j{"event":"forged"}'


async def test_e3_each_request_is_one_json_line_whatever_it_holds(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    async with run_vobiz(carrier, fake_time.clock) as service:
        call = await start_call(service, carrier, PHONE)
        header = HOSTILE.replace("\n", "").replace("\r", "").replace("\x00", "").replace("\x1b", "")
        noisy: Any = {"User-Agent": header.encode(), "X-Request-ID": header.encode(), "Referer": b"\xff\xfe"}
        client = service.client
        requests: list[Callable[[], Any]] = [
            lambda: client.get("/otp-status/%2B1415555%0aFAKE", headers=noisy),
            lambda: client.get("/otp-status/%1b[31m%e2%80%a8", headers=noisy),
            lambda: client.get("/no%0awhere/%1b", headers=noisy),
            lambda: client.get("/\u2028", headers=noisy),
            lambda: client.post("/send-otp", json={"phone": HOSTILE}, headers=noisy),
            lambda: client.post("/send-otp", json={"phone": PHONE, "reference": HOSTILE}),
            lambda: client.post("/send-otp", json={HOSTILE: HOSTILE}),
            lambda: client.post("/send-otp", content=HOSTILE.encode(), headers=JSON),
            lambda: client.post("/verify-otp", json={"phone": PHONE, "otp": HOSTILE}),
            lambda: client.post("/cancel-otp", json={"verification_id": HOSTILE}),
            lambda: client.put("/blocks/region:%0a", headers=noisy),
            lambda: call.post("/ring/{token}", Event=HOSTILE),
            lambda: call.post("/hangup/{token}", CallUUID=HOSTILE),
            lambda: call.post("/answer/{token}?n=%0a", Digits=HOSTILE),
            lambda: call.post("/hangup/{token}", Event="Hangup", HangupCause=HOSTILE, HangupCauseCode=HOSTILE),
            lambda: client.delete(f"/otp-status/{PHONE}"),
            lambda: client.get(
                f"/otp-status/{PHONE}", headers={"X-Request-ID": "8157432c-967d-4cf8-9d11-0242ac110005"}
            ),
        ]
        with written_log() as written:
            answers = [await request() for request in requests]
    lines = entries(written)
    asked = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in asked] == [answer.status_code for answer in answers]
    for answer, line in zip(answers, asked, strict=True):
        assert line["request_id"] == answer.headers.get("x-request-id", line["request_id"])
    assert asked[-1]["request_id"] == "8157432c-967d-4cf8-9d11-0242ac110005"
    for line in asked:
        assert line["ms"] >= 0
        assert line["outcome"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["at"])
        assert line["route"] == "other" or re.fullmatch(r"/[a-z-]+(/\{[a-z_]+\})?", line["route"])
    assert {line["event"] for line in lines if "forged" in line["event"]} == set()
    assert PHONE not in written.getvalue()
    assert asked[-1]["phone"] == "..42"


async def test_e3_a_huge_user_agent_is_not_a_huge_line(carrier: HandCarrier, fake_time: FakeTime) -> None:
    """Whether such a header is let in at all is another matter."""
    async with run_vobiz(carrier, fake_time.clock) as service:
        with written_log() as written, contextlib.suppress(httpx.TransportError):
            await service.client.get(f"/otp-status/{PHONE}", headers={"User-Agent": "A" * 1_000_000})
    assert len(entries(written)) <= 20, "with those of the stop"
    assert sum(line["event"] == "request" for line in entries(written)) <= 1
    assert len(written.getvalue()) < 10_000


class Flow:
    """One verification, lived through at random."""

    def __init__(
        self, service: RunningService, carrier: HandCarrier, time: FakeTime, number: int, seed: int
    ) -> None:
        self.service, self.carrier, self.time = service, carrier, time
        self.drawn = random.Random(seed)  # noqa: S311 - no secret
        self.phone = f"+1415557{number:04d}"

    async def live(self) -> str:
        """The verification's id."""
        drawn = self.drawn
        self.carrier.trouble = drawn.choice(
            (None, None, None, httpx.ReadTimeout("x"), httpx.ConnectError("x"), httpx.Response(402))
        )
        sent = await self.service.send(self.phone, code=CODE)
        was_dialled = sent.status_code in (200, 202)
        self.carrier.trouble = None
        if was_dialled:
            await self.ring(Call(self.service, self.carrier, self.phone))
        for _ in range(drawn.choice((0, 0, 1, 3, 5))):
            await self.service.verify(self.phone, "000000")
        match drawn.choice(("verify", "verify", "cancel", "expire", "resend")):
            case "verify":
                await self.service.verify(self.phone, CODE)
            case "cancel":
                for _ in range(2):
                    await self.service.client.post("/cancel-otp", json={"phone": self.phone})
            case "expire":
                self.time.advance(301)
                await self.service.app.state.timekeeper.expire()
            case "resend":
                resent = await self.service.send(self.phone, code=CODE)
                if resent.status_code == 200 and "deduplicated" not in resent.json():
                    await self.ring(Call(self.service, self.carrier, self.phone))
        newest = await self.service.app.state.service._store.find("anonymous", self.phone)
        return str(newest.id)

    async def ring(self, call: Call) -> None:
        steps: list[tuple[str, dict[str, Any]]] = [("/ring/{token}", {"Event": "Ring"})]
        if self.drawn.random() < 0.7:
            steps.append(("/answer/{token}?n=1", {"Event": "StartApp"}))
            if self.drawn.random() < 0.7:
                steps.append(("/otp-choice/{token}?n=1", {"Digits": "1"}))
                steps.append(("/answer/{token}?n=2", {"Event": "Redirect"}))
        for path, fields in steps:
            for _ in range(self.drawn.choice((1, 1, 2))):
                await call.post(path, **fields)
        talked = {} if len(steps) > 1 else {"Duration": "0"}
        await call.post("/hangup/{token}", **{**NORMAL_END, "Duration": "3", **talked})


def story_of(lines: list[dict[str, Any]]) -> list[str]:
    """What became of one verification, by its log lines alone, in the words of its timeline."""
    story: list[str] = []
    readings = 0
    for line in lines:
        match line["event"]:
            case "placing call":
                story += (["created"] if line["call"] == 1 else []) + ["dialing"]
                readings = 0
            case "call ringing" | "call answered" | "call completed":
                story.append(line["event"].removeprefix("call "))
            case "code handed out" if line["reading"] > readings:
                readings = line["reading"]
                story.append("code_requested")
            case "code spoken":
                story.append("code_spoken")
            case "code expired":
                story.append("expired")
            case "request":
                story += story_of_request(line)
            case text if text.startswith("call not placed"):
                story.append("completed")
    return story


def story_of_request(line: dict[str, Any]) -> list[str]:
    match line["route"], line["outcome"]:
        case "/verify-otp", "incorrect":
            return ["wrong_code"] + (["locked"] if line["verification_status"] == "locked" else [])
        case "/verify-otp", "correct":
            return ["verified"]
        case "/cancel-otp", "ok" if line["verification_status"] == "cancelled":
            return ["cancelled"]
    return []


@pytest.mark.untraced
async def test_e3_every_verification_can_be_told_from_the_log_alone(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)
    seed = 3
    async with run_vobiz(
        carrier, fake_time.clock, max_failures_per_number=100, status_retention_seconds=86_400
    ) as service:
        with written_log() as written:
            ids = [await Flow(service, carrier, fake_time, n, seed * 1000 + n).live() for n in range(200)]
        by_verification = defaultdict(list)
        for line in entries(written):
            by_verification[line.get("verification")].append(line)
        seen: set[str] = set()
        for number, verification_id in enumerate(ids):
            record = await service.app.state.service._store.find_by_id(verification_id)
            happened = [event for _, event in record.timeline() if event != "code_replaced"]
            told = story_of(by_verification[short_id(verification_id)])
            assert told == happened, f"seed {seed}, flow {number}"
            seen |= set(told)
    assert seen == {
        "created", "dialing", "ringing", "answered", "code_requested", "code_spoken", "completed", "wrong_code",
        "verified", "expired", "locked", "cancelled",
    }  # fmt: skip


async def test_e3_refusals_are_in_the_log(carrier: HandCarrier, fake_time: FakeTime) -> None:
    async with run_vobiz(
        carrier, fake_time.clock, **KEYS, allowed_regions="US", resend_after_seconds=30
    ) as service:
        with written_log() as written:
            await service.client.get(f"/otp-status/{PHONE}")
            service.client.headers.update(bearer(SHOP))
            await service.send("+919876543210")
            call = await start_call(service, carrier, PHONE)
            await call.post("/hangup/{token}", **NORMAL_END)
            await service.send(PHONE)
            await call.post("/answer/{token}", {"X-Vobiz-Signature-V3": "x"})
    events = [(line["level"], line["event"].partition(":")[0]) for line in entries(written)]
    assert events.count(("warning", "send refused")) == 2
    assert events.count(("warning", "webhook refused")) == 1
    outcomes = [line["outcome"] for line in entries(written) if line["event"] == "request"]
    assert outcomes == ["unauthorized", "destination_not_allowed", "called", "ok", "rate_limited", "refused"]


# E4: sizes (slow senders are cut by the server, and tested there)


@pytest.mark.parametrize("path", ["/send-otp", "/verify-otp", "/cancel-otp", "/answer/{token}", "/hangup/{token}"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["with length", "chunked"])
async def test_e4_a_body_of_more_than_16_kib_is_refused(
    carrier: HandCarrier, fake_time: FakeTime, path: str, is_chunked: bool
) -> None:
    async def chunks() -> Any:
        for _ in range(17):
            yield b"x" * 1024

    async with run_vobiz(carrier, fake_time.clock) as service:
        call = await start_call(service, carrier, PHONE)
        before = await call.status()
        content: Any = chunks() if is_chunked else b"x" * 17 * 1024
        url = path.format(token=call.token)
        answer = await service.client.post(url, content=content, headers=JSON)
        assert answer.status_code == 413
        assert b"xxx" not in answer.content
        assert await call.status() == before


# E5: strict types

ODD_VALUES = (
    "123456", "true", "false", "[]", '["123456"]', "{}", '{"a":1}', "1e999", "-0", "NaN", "Infinity", "1.5",
    '"\\u0660\\u0661\\u0662\\u0663\\u0664\\u0665"', '"\\uff11\\uff12\\uff13\\uff14\\uff15\\uff16"', '"123456\\n"',
    '" 123456"', '"123456\\u0000"', '"\\ud800"', '"\\u00b2\\u00b2\\u00b2\\u00b2"', '""', '"12345x"', "9" * 4000,
)  # fmt: skip
BODIES = {
    "/send-otp": {"phone": PHONE, "code": CODE},
    "/verify-otp": {"phone": PHONE, "otp": CODE},
    "/cancel-otp": {"phone": PHONE},
}
TEXT_FIELDS = [
    ("/send-otp", ("phone", "code", "language", "channel", "mode", "provider", "reference")),
    ("/verify-otp", ("phone", "otp", "verification_id")),
    ("/cancel-otp", ("phone", "verification_id")),
]


@pytest.mark.parametrize(("route", "fields"), TEXT_FIELDS)
async def test_e5_texts_are_texts_of_their_form_and_nothing_else(
    carrier: HandCarrier, fake_time: FakeTime, route: str, fields: tuple[str, ...]
) -> None:
    async with run_vobiz(carrier, fake_time.clock) as service:
        call = await start_call(service, carrier, PHONE)
        before = await call.status()
        for field in fields:
            for value in ODD_VALUES:
                if field == "reference" and value in ('"123456"', '"12345x"'):
                    continue
                rest = {name: text for name, text in BODIES[route].items() if name != field}
                content = json.dumps(rest)[:-1] + f', "{field}": {value}}}'
                answer = await service.client.post(route, content=content, headers=JSON)
                assert answer.status_code in (400, 422), (field, value)
                assert answer.json()["code"] in ("invalid_request", "invalid_phone", "unsupported_option")
        assert carrier.calls == 1
        assert await call.status() == before


@pytest.mark.parametrize("field", ["code_length", "ttl_seconds", "max_replays"])
async def test_e5_numbers_are_whole_and_in_range(carrier: HandCarrier, fake_time: FakeTime, field: str) -> None:
    async with run_vobiz(carrier, fake_time.clock) as service:
        for value in ("true", '"6"', "6.0", "6.5", "1e999", "NaN", "-1", "601", "9" * 100, "[6]", "{}", '"6\\n"'):
            content = f'{{"phone": "{PHONE}", "{field}": {value}}}'
            answer = await service.client.post("/send-otp", content=content, headers=JSON)
            assert answer.status_code == 422, value
        assert carrier.calls == 0


@pytest.mark.parametrize("route", BODIES)
async def test_e5_a_name_twice_is_refused_however_it_is_written(
    carrier: HandCarrier, fake_time: FakeTime, route: str
) -> None:
    async with run_vobiz(carrier, fake_time.clock) as service:
        for name in ('"phone"', '"\\u0070hone"', '"pho\\u006ee"'):
            content = json.dumps(BODIES[route])[:-1] + f', {name}: "{PHONE}"}}'
            answer = await service.client.post(route, content=content, headers=JSON)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        assert carrier.calls == 0


# E6: errors

SF_ITEM = re.compile(r'"([a-z-]+)"((?:;[a-z]+=[0-9]+)+)')


def check_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) - {"errors"} == {"type", "title", "status", "code", "detail"}
    assert problem["type"] == f"urn:voice-otp:problem:{code}"
    assert problem["status"] == status
    for word in ("CANARY", "Traceback", ".py", "uvicorn", "Python", "pydantic", "evil", PHONE, "SECRET"):
        assert word not in answer.text, word
    assert leaks_in(answer.text) == []


async def test_e6_every_refusal_is_a_problem_document_that_repeats_nothing(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[str, Any] = {"allowed_regions": "US,GB", "resend_after_seconds": 30}
    async with run_vobiz(carrier, fake_time.clock, **KEYS, **limits) as service:
        client = service.client
        body = {"phone": PHONE, "code": CODE}
        for key in ({}, bearer("wrong-CANARY-0123456789abcdef"), {"Authorization": f"Basic {SHOP}"}):
            refused = await client.post("/send-otp", json=body, headers=key)
            check_problem(refused, 401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
        client.headers.update(bearer(SHOP))
        post = client.post
        check_problem(await post("/send-otp", content=b"{CANARY", headers=JSON), 400, "invalid_request")
        check_problem(await post("/send-otp", json={"phone": "+919876543210"}), 403, "destination_not_allowed")
        check_problem(await post("/send-otp", json={"phone": "+448001111", "code": CODE}), 403,
                      "destination_not_allowed")  # fmt: skip
        check_problem(await client.get("/CANARY/evil"), 404, "not_found")
        check_problem(await client.get(f"/otp-status/{PHONE}"), 404, "not_found")
        check_problem(await post("/cancel-otp", json={"phone": PHONE}), 404, "not_found")
        refused = await client.put("/send-otp", json=body)
        check_problem(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == "POST"
        check_problem(await post("/send-otp", content=b"C" * 17_000, headers=JSON), 413, "payload_too_large")
        check_problem(await post("/send-otp", data=body), 415, "unsupported_media_type")
        check_problem(await post("/send-otp", json={"phone": "CANARY evil"}), 422, "invalid_phone")
        check_problem(await post("/send-otp", json={**body, "CANARY": "evil"}), 422, "invalid_request")
        check_problem(await post("/send-otp", json={**body, "provider": "evil"}), 422, "unsupported_option")
        assert carrier.calls == 0
        carrier.trouble = httpx.Response(422, text="<html>" + "evil SECRET " * 20_000)
        check_problem(await post("/send-otp", json=body), 502, "call_rejected")
        carrier.trouble = httpx.Response(503, json={"error": {"code": "DOWN", "message": f"evil {CODE}"}})
        check_problem(await post("/send-otp", json=body), 503, "provider_unavailable")
        carrier.trouble = httpx.Response(429, json={"error": {"message": "evil"}})
        check_problem(await post("/send-otp", json=body), 503, "provider_throttled")
        carrier.trouble = None
        fake_time.advance(1)  # what the carrier asked for when it throttled
        call = await start_call(service, carrier, PHONE)
        check_problem(await post("/send-otp", json={**body, "code": "CANARY999"}), 429, "rate_limited")
        await call.post("/hangup/{token}", **NORMAL_END)
        check_problem(await post("/send-otp", json=body), 429, "rate_limited")

        async def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"evil SECRET {CODE} {PHONE}")

        monkeypatch.setattr(service.app.state.service._store, "check", broken)
        monkeypatch.setattr(service.app.state.service._store, "find", broken)
        check_problem(await post("/verify-otp", json={"phone": PHONE, "otp": CODE}), 500, "internal_error")
        check_problem(await client.get(f"/otp-status/{PHONE}"), 500, "internal_error")


async def test_e6_a_carriers_page_of_5_mb_is_not_seen(carrier: HandCarrier, fake_time: FakeTime) -> None:
    carrier.trouble = httpx.Response(400, content=b"<html>evil SECRET</html>" * 220_000)
    async with run_vobiz(carrier, fake_time.clock) as service:
        check_problem(await service.send(PHONE, code=CODE), 502, "call_rejected")


async def test_e6_ratelimit_fields_have_the_syntax_of_the_draft_and_count_true(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    """draft-ietf-httpapi-ratelimit-headers-10: a list of quoted names with the parameters q, w and r, t."""
    async with run_vobiz(carrier, fake_time.clock, client_sends_per_hour=3) as service:
        answers = [await service.send(f"+1415555900{number}") for number in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"client";q=3;w=3600'}
        left = [answer.headers["ratelimit"] for answer in answers]
        assert left == [f'"client";r={number};t=3600' for number in (2, 1, 0, 0)]
        for answer in answers:
            for name in ("ratelimit", "ratelimit-policy"):
                assert SF_ITEM.fullmatch(answer.headers[name])
        fake_time.advance(100)
        refused = await service.send("+14155559009")
        assert (refused.headers["ratelimit"], refused.headers["retry-after"]) == ('"client";r=0;t=3500', "3500")


async def test_e6_a_refused_request_costs_nothing(carrier: HandCarrier, fake_time: FakeTime) -> None:
    limits: dict[str, Any] = {"allowed_regions": "US", "client_sends_per_hour": 10, "resend_after_seconds": 30}
    async with run_vobiz(carrier, fake_time.clock, **limits) as service:
        call = await start_call(service, carrier, PHONE)
        await call.post("/hangup/{token}", **NORMAL_END)
        for _ in range(20):
            assert (await service.send(PHONE)).status_code == 429
            assert (await service.send("+919876543210")).status_code == 403
            assert (await service.send("+14155550143", language="tlh")).status_code == 422
        fake_time.advance(30)
        answer = await service.send(PHONE)
        assert (answer.status_code, answer.headers["ratelimit"]) == (200, '"client";r=8;t=3600')
        assert carrier.calls == 2


Ask = Callable[[RunningService], Any]


def numbered(service: RunningService, number: int = 0) -> Any:
    return service.send(f"+1415556{number:04d}")


async def use_up_sends(service: RunningService, count: int) -> None:
    for number in range(count):
        answer = await numbered(service, number)
        assert answer.status_code == 200, answer.text


async def fail(service: RunningService, count: int) -> None:
    await service.send(PHONE, code=CODE)
    for _ in range(count):
        await service.verify(PHONE, "000000")


async def use_up_keys(service: RunningService, count: int) -> None:
    for _ in range(count):
        await service.client.get("/otp-status/x", headers=bearer("wrong"))


def wrong_key(service: RunningService) -> Any:
    return service.client.get("/otp-status/x", headers=bearer("wrong"))


def three_sends(service: RunningService) -> Any:
    return use_up_sends(service, 3)


def one_more(service: RunningService) -> Any:
    return numbered(service, 99)


def other_code(service: RunningService) -> Any:
    return service.send(PHONE, code="CANARY611")


RETRY: list[Any] = [
    pytest.param({"resend_after_seconds": 30}, lambda s: fail(s, 0), other_code, id="cooldown"),
    pytest.param({"prefix_sends_per_hour": 3}, three_sends, one_more, id="prefix"),
    pytest.param({"region_sends_per_hour": 3}, three_sends, one_more, id="region"),
    pytest.param({"client_sends_per_hour": 3}, three_sends, one_more, id="client"),
    pytest.param({"client_sends_per_hour": 70}, lambda s: use_up_sends(s, 70), one_more, id="client, inexact"),
    pytest.param({"call_prices": "max=1", "spend_per_hour": "3"}, three_sends, one_more, id="spending in an hour"),
    pytest.param(
        {"call_prices": "max=1", "spend_per_hour": "0", "spend_per_day": "3"},
        three_sends,
        one_more,
        id="spending in a day",
    ),
    pytest.param(
        {"client_wrong_codes_per_hour": 2}, lambda s: fail(s, 2), lambda s: s.verify(PHONE, CODE), id="guesses"
    ),
    pytest.param({}, lambda s: fail(s, 5), other_code, id="failures of a number"),
    pytest.param(KEYS, lambda s: use_up_keys(s, 10), wrong_key, id="wrong keys"),
]


@pytest.mark.parametrize(("limits", "use_up", "ask"), RETRY)
async def test_e6_waiting_for_retry_after_is_enough(
    carrier: HandCarrier,
    fake_time: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, Any],
    use_up: Ask,
    ask: Ask,
) -> None:
    monkeypatch.setattr("timekeeper.TICK_SECONDS", 3600)
    async with run_vobiz(carrier, fake_time.clock, **limits) as service:
        await use_up(service)
        for call in range(carrier.calls):  # so that no call is live, which a further send would only join
            token = carrier.orders[call]["answer_url"].split("/")[-1].split("?")[0]
            uuid = f"5a9fd4a0-3d4c-11ef-bef9-{call + 1:012d}"
            await service.client.post(f"/hangup/{token}", data={"CallUUID": uuid, "Event": "Hangup"})
        refused = await ask(service)
        assert refused.status_code == 429
        wait = int(refused.headers["retry-after"])
        fake_time.advance(wait - 1)
        assert (await ask(service)).status_code == 429, "not a second too long"
        fake_time.advance(1)
        assert (await ask(service)).status_code != 429


async def test_e6_no_description_of_the_api_is_served_with_a_real_carrier(
    carrier: HandCarrier, fake_time: FakeTime
) -> None:
    async with run_vobiz(carrier, fake_time.clock) as service:
        for path in ("/docs", "/redoc", "/openapi.json", "/phone", "/simulator/api/v1/Account/x/Call/", "/blocks"):
            check_problem(await service.client.get(path), 404, "not_found")


# E6 and A6: the code is nowhere but in the call


async def test_e6_a_code_is_in_the_call_and_nowhere_else_at_any_log_level(
    carrier: HandCarrier, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every path, with every store method failing once with the code in its message."""
    answers: list[httpx.Response] = []
    code = keep_secret("CANARY7913")
    with written_log(logging.DEBUG) as written:
        async with run_vobiz(carrier, fake_time.clock, resend_code="new") as service:
            store = service.app.state.service._store

            async def everything() -> None:
                sent = await service.send(PHONE, code=code)
                answers.append(sent)
                call = Call(service, carrier, PHONE)
                for path in (
                    "/ring/{token}",
                    "/answer/{token}?n=1",
                    "/otp-choice/{token}?n=1",
                    "/answer/{token}?n=2",
                ):
                    answer = await call.post(path, Event="StartApp", Digits="1")
                    if "/answer" not in path:
                        answers.append(answer)
                answers.append(await service.client.get(f"/otp-status/{PHONE}"))
                answers.append(await service.verify(PHONE, "000000"))
                answers.append(await service.verify(PHONE, code))
                answers.append(await service.verify(PHONE, code + "x"))
                answers.append(await service.client.post("/cancel-otp", json={"phone": PHONE, "code": code}))
                answers.append(await service.client.get(f"/otp-status/{code}"))
                answers.append(await service.client.get(f"/{code}"))
                await call.post("/hangup/{token}", **NORMAL_END)
                await service.app.state.timekeeper.expire()

            await everything()
            spoken_in = await Call(service, carrier, PHONE).post("/answer/{token}", Event="StartApp")
            assert spoken(spoken_in) == ""
            for name in ("begin", "join", "check", "find", "read_code", "record_reading_end", "record_call_event"):

                async def broken(*_: Any, **__: Any) -> None:
                    raise RuntimeError(code)

                with monkeypatch.context() as patched:
                    patched.setattr(store, name, broken)
                    await everything()
                fake_time.advance(700)
    assert len(answers) > 70
    assert [answer.request.url.path for answer in answers if code in answer.text] == []
    assert leaks_in(written.getvalue()) == []
    assert "unexpected RuntimeError" in written.getvalue()
