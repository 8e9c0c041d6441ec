"""Any history of the whole service, generated: backends, a carrier, two clocks and restarts, through its ASGI app.

The carrier is a function that counts what it was asked for; it is the judge of what was called.
"""

import asyncio
import io
import json
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from xml.etree import ElementTree

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from log_format import JsonFormatter
from server import create_app
from settings import Settings, load_settings
from simulator.callbacks import Unreachable
from simulator.clock import SimulatorClock
from simulator.vobiz_call import callback_sender
from stores import Stores, open_stores
from tests.conftest import NO_LIMITS, OTP_SECRET, VOBIZ_TOKEN, FakeTime, keep_secret
from tests.hearing import heard

T = TypeVar("T")

KEYS = {"shop": "key-of-the-shop-CANARY-0123456789", "bank": "key-of-the-bank-CANARY-0123456789"}
PHONES = ("+14155550142", "+14155550143")
CEILING = 6
WAITS = {5: 30, 6: 60, 7: 120, 8: 240, 9: 480, 10: 960, 11: 1920}
HOUR, DAY, LONGEST_LIFE = 3600, 24 * 3600, 600
RING_SECONDS, TALK_SECONDS = 30, 250
NONCE_SECONDS = 240  # a nonce is remembered for longer than the shortest call with its minute of grace
FINAL = ("verified", "expired", "locked", "cancelled")

clients = st.sampled_from(sorted(KEYS))
phones = st.sampled_from(PHONES)
picks = st.one_of(st.just(0), st.integers(0, 20))  # mostly the newest


@dataclass
class PlacedCall:
    """A call as its carrier knows it."""

    call_id: str
    to: str
    answer_url: str
    started: float
    app_number: int
    answered: float | None = None
    ended: bool = False

    def url(self, route: str) -> str:
        return self.answer_url.partition("?")[0].replace("/answer/", f"/{route}/")


class CountingCarrier:
    """Behind httpx.MockTransport. Ends calls by its own limits, as every carrier does."""

    def __init__(self, time: FakeTime) -> None:
        self.time = time
        self.calls: list[PlacedCall] = []
        self.app_number = 0
        self.mood = "takes calls"
        self.two_at_once: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return self.place(request)
        call_id = request.url.path.rstrip("/").rsplit("/", 1)[1]
        call = next((call for call in self.calls if call.call_id == call_id), None)
        if request.method == "DELETE":
            return self.hang_up(call)
        is_live = call is not None and self.is_live(call) and call.answered is not None
        if is_live and request.url.params.get("status") == "live":
            return httpx.Response(200, json={"call_status": "in-progress"})
        return httpx.Response(404, json={})

    def place(self, request: httpx.Request) -> httpx.Response:
        if self.mood == "refuses":
            return httpx.Response(402, json={})
        order = json.loads(request.content)
        to = order["to"] if order["to"].startswith("+") else f"+{order['to']}"
        # What rang before a restart is not known any more to a service whose store is its memory.
        if any(one.to == to and self.is_live(one) and one.app_number == self.app_number for one in self.calls):
            self.two_at_once.append(to)
        call_id = f"00000000-0000-4000-8000-{len(self.calls):012x}"
        self.calls.append(PlacedCall(call_id, to, order["answer_url"], self.time.seconds, self.app_number))
        keep_secret(order["answer_url"].split("/answer/")[1].split("?")[0])
        if self.mood == "does not answer":
            raise httpx.ReadTimeout("too late", request=request)
        return httpx.Response(201, json={"request_uuid": call_id, "api_id": call_id, "message": "call fired"})

    def hang_up(self, call: PlacedCall | None) -> httpx.Response:
        if call is None or not self.is_live(call):
            return httpx.Response(404, json={})
        call.ended = True
        return httpx.Response(204)

    def is_live(self, call: PlacedCall) -> bool:
        if call.answered is None:
            return not call.ended and self.time.seconds < call.started + RING_SECONDS
        return not call.ended and self.time.seconds < call.answered + TALK_SECONDS


class Wire(httpx.AsyncBaseTransport):
    """Between the carrier and the app: keeps every callback and its answer, so that it can come again."""

    def __init__(self, app: Any, time: FakeTime) -> None:
        self.time = time
        self.transport = httpx.ASGITransport(app)
        self.seen: list[httpx.Request] = []
        self.answers: list[httpx.Response] = []
        self.times: dict[httpx.Request, float] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.transport.handle_async_request(request)
        await response.aread()
        self.seen.append(request)
        self.times[request] = self.time.seconds
        self.answers.append(response)
        return response


@dataclass
class Known:
    """What the machine knows of a verification."""

    client: str
    phone: str
    code: str
    created: float
    created_wall: float
    ttl: int
    successes: int = 0
    evaluated: int = 0
    status: str = "calling"
    calls: int = 1
    old_codes: list[str] = field(default_factory=list)


class ServiceMachine(RuleBasedStateMachine):
    forgets_on_restart: ClassVar[bool] = True

    def make_stores(self, settings: Settings) -> Stores:
        """What a new process remembers by, with the machine's clock."""
        return open_stores(settings, self.time.clock)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = FakeTime()
        self.carrier = CountingCarrier(self.time)
        self.log = io.StringIO()
        self.handler = logging.StreamHandler(self.log)
        self.handler.setFormatter(JsonFormatter())
        logging.root.addHandler(self.handler)
        self.codes: list[str] = []
        self.dead: list[tuple[str, str, str]] = []
        self.forget()
        self.start()

    def forget(self) -> None:
        """Whatever was in memory is gone."""
        self.carrier.app_number += 1
        self.known: dict[str, Known] = {}
        self.newest: dict[tuple[str, str], str] = {}
        self.in_a_row = dict.fromkeys(PHONES, 0)
        self.wait_until = dict.fromkeys(PHONES, 0.0)
        self.last_failure = dict.fromkeys(PHONES, 0.0)

    def start(self) -> None:
        """A new process."""
        settings = load_settings(
            **{
                **NO_LIMITS,
                "api_keys": ",".join(f"{client}:{key}" for client, key in KEYS.items()),
                "vobiz_auth_id": "MA_TEST",
                "vobiz_auth_token": VOBIZ_TOKEN,
                "from_number": "+12025550100",
                "public_url": "https://otp.example.com",
                "otp_secret": OTP_SECRET,
                "webhook_signatures": "required",
                "status_retention_seconds": 60,
                "call_prices": "max=1",
                "spend_per_hour": str(CEILING),
                "spend_per_day": "0",
                "wrong_codes_per_day": 0,
            }
        )
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.carrier))
        self.app = create_app(settings, http=http, stores=self.make_stores(settings))
        self.wire = Wire(self.app, self.time)
        self.backend = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://otp")
        self.sender = callback_sender(
            httpx.AsyncClient(transport=self.wire), SimulatorClock(float("inf")), VOBIZ_TOKEN
        )

    def teardown(self) -> None:
        logging.root.removeHandler(self.handler)
        self.runner.close()

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def post(self, client: str, path: str, **body: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEYS[client]}"}
        answer = self.run(self.backend.post(path, json=body, headers=headers))
        assert answer.status_code < 500 or answer.status_code in (502, 503), answer.text
        return answer

    # Backends

    @rule(
        client=clients,
        phone=phones,
        ttl=st.sampled_from([30, 300, LONGEST_LIFE]),
        mood=st.sampled_from(["takes calls"] * 4 + ["does not answer", "refuses"]),
        after_hangup=st.sampled_from([True, True, False]),
    )
    def send(self, client: str, phone: str, ttl: int, mood: str, after_hangup: bool) -> None:
        if after_hangup:
            self.end_calls(phone)
        self.carrier.mood = mood
        code = keep_secret(f"CANARY{len(self.codes):04d}")
        self.codes.append(code)
        was_placed = len(self.carrier.calls)
        answer = self.post(client, "/send-otp", phone=phone, code=code, ttl_seconds=ttl)
        is_new_call = len(self.carrier.calls) > was_placed
        assert not (is_new_call and self.is_waiting(phone)), "called while wrong codes are waited out"
        assert is_new_call == (answer.status_code in (200, 202) and "deduplicated" not in answer.json())
        if is_new_call:
            self.on_sent(answer.json()["verification_id"], client, phone, code, ttl)
        elif answer.status_code == 502:  # the code stands, although the carrier refused to call with it
            headers = {"Authorization": f"Bearer {KEYS[client]}"}
            status = self.run(self.backend.get(f"/otp-status/{phone}", headers=headers)).json()
            self.on_sent(status["verification_id"], client, phone, code, ttl)

    def on_sent(self, verification_id: str, client: str, phone: str, code: str, ttl: int) -> None:
        known = self.known.get(verification_id)
        if known is None:
            self.known[verification_id] = Known(
                client, phone, code, self.time.seconds, self.time.wall_seconds, ttl
            )
            self.newest[client, phone] = verification_id
            return
        assert known.client == client
        known.old_codes.append(known.code)
        known.code = code
        known.calls += 1

    def end_calls(self, phone: str) -> None:
        for call in self.carrier.calls:
            if call.to == phone and self.carrier.is_live(call):
                call.ended = True
                self.call_back(call, "hangup", {"Event": "Hangup", "HangupCauseCode": "4000"})

    def is_waiting(self, phone: str) -> bool:
        return self.time.seconds < self.wait_until[phone]

    def pick(self, number: int) -> tuple[str, Known] | None:
        items = list(self.known.items())
        return items[-1 - number % len(items)] if items else None

    @precondition(lambda self: self.known)
    @rule(number=picks, by_id=st.booleans())
    def verify_right(self, number: int, by_id: bool) -> None:
        picked = self.pick(number)
        if picked is not None:
            self.check(picked[1].client, picked[0] if by_id else picked[1].phone, picked[1].code)

    @precondition(lambda self: self.known)
    @rule(number=picks, by_id=st.booleans(), guesses=st.integers(1, 6))
    def verify_wrong(self, number: int, by_id: bool, guesses: int) -> None:
        picked = self.pick(number)
        for _ in range(guesses if picked is not None else 0):
            assert picked is not None
            self.check(picked[1].client, picked[0] if by_id else picked[1].phone, "WRONG")

    @precondition(lambda self: self.known)
    @rule(number=picks, client=clients, by_id=st.booleans())
    def verify_as_another_client(self, number: int, client: str, by_id: bool) -> None:
        picked = self.pick(number)
        if picked is not None and picked[1].client != client:
            self.check(client, picked[0] if by_id else picked[1].phone, picked[1].code)

    @precondition(lambda self: any(known.old_codes for known in self.known.values()))
    @rule(number=picks)
    def verify_with_an_old_code(self, number: int) -> None:
        picked = self.pick(number)
        if picked is not None and picked[1].old_codes:
            self.check(picked[1].client, picked[0], picked[1].old_codes[-1])

    def check(self, client: str, key: str, code: str) -> None:
        verification_id = key if key.startswith("vrf_") else self.newest.get((client, key), "")
        known = self.known.get(verification_id)
        by = {"verification_id": key} if key.startswith("vrf_") else {"phone": key}
        answer = self.post(client, "/verify-otp", otp=code, **by).json()
        if not answer.get("valid") and answer.get("reason") != "incorrect":
            return
        assert known is not None
        assert known.client == client, "evaluated for another client"
        assert not self.is_waiting(known.phone), "evaluated while wrong codes are waited out"
        assert self.age(known) < known.ttl, "evaluated after the deadline"
        assert known.status not in FINAL, "evaluated after the end"
        assert answer["valid"] == (code == known.code)
        self.on_evaluated(known, answer["valid"])
        if answer["valid"]:
            assert answer["verification_id"] == verification_id
        self.look()

    def age(self, known: Known) -> float:
        return max(self.time.seconds - known.created, self.time.wall_seconds - known.created_wall)

    def on_evaluated(self, known: Known, is_valid: bool) -> None:
        phone, now = known.phone, self.time.seconds
        known.evaluated += 1
        if is_valid:
            known.successes += 1
            self.in_a_row[phone] = 0
            return
        forgotten = now >= self.last_failure[phone] + DAY
        self.in_a_row[phone] = 1 if forgotten else self.in_a_row[phone] + 1
        self.last_failure[phone] = now
        self.wait_until[phone] = now + WAITS.get(self.in_a_row[phone], 0 if self.in_a_row[phone] < 5 else HOUR)

    @precondition(lambda self: self.known)
    @rule(client=clients, phone=phones)
    def cancel(self, client: str, phone: str) -> None:
        self.post(client, "/cancel-otp", phone=phone)

    # The carrier, in order or not

    @precondition(lambda self: self.carrier.calls)
    @rule(
        number=picks,
        route=st.sampled_from(["ring", "answer", "answer", "otp-choice", "hangup"]),
        reading=st.sampled_from([1, 1, 2, 3, 4]),
        key=st.sampled_from(["", "1", "9"]),
    )
    def carrier_calls_back(self, number: int, route: str, reading: int, key: str) -> None:
        if not self.carrier.calls:
            return
        call = self.carrier.calls[-1 - number % len(self.carrier.calls)]
        events = {"ring": "Ring", "answer": "StartApp", "hangup": "Hangup"}
        fields = {"Event": events[route]} if route in events else {"Digits": key}
        if route in ("answer", "otp-choice"):
            if not self.carrier.is_live(call):
                return
            call.answered = call.answered or self.time.seconds
        if route == "hangup":
            call.ended = True
            fields |= {"HangupCauseCode": "4000", "Duration": "10"}
        self.call_back(call, route, fields, f"?n={reading}" if route in ("answer", "otp-choice") else "")

    @precondition(lambda self: any(self.carrier.is_live(call) for call in self.carrier.calls))
    @rule(reading=st.sampled_from([1, 1, 1, 2]))
    def callee_answers(self, reading: int) -> None:
        call = next(call for call in reversed(self.carrier.calls) if self.carrier.is_live(call))
        call.answered = call.answered or self.time.seconds
        self.call_back(call, "answer", {"Event": "StartApp"}, f"?n={reading}")

    def call_back(self, call: PlacedCall, route: str, fields: dict[str, str], query: str = "") -> None:
        url = call.url(route) + query
        sent = len(self.wire.answers)
        try:
            self.run(self.sender.notify(url, {"CallUUID": call.call_id, **fields}))
        except Unreachable as error:
            raise AssertionError(f"a callback was not taken: {error}") from None
        for answer in self.wire.answers[sent:]:
            self.listen(answer)

    @precondition(lambda self: self.wire.seen)
    @rule(number=picks)
    def a_callback_comes_again(self, number: int) -> None:
        if self.wire.seen:
            first = self.wire.seen[-1 - number % len(self.wire.seen)]
            self.replay(first, first.content)

    @precondition(lambda self: self.wire.seen)
    @rule(number=picks, digits=st.sampled_from(["1", "9"]))
    def a_nonce_comes_again_with_other_content(self, number: int, digits: str) -> None:
        if self.wire.seen:
            first = self.wire.seen[-1 - number % len(self.wire.seen)]
            status = self.replay(first, first.content + b"&Padding=" + digits.encode())
            if self.time.seconds < self.wire.times[first] + NONCE_SECONDS:
                assert status in (401, 404), "a nonce served for two contents"

    def replay(self, first: httpx.Request, content: bytes) -> int:
        headers = {name: value for name, value in first.headers.items() if name != "content-length"}
        again = httpx.Request("POST", first.url, headers=headers, content=content)
        answer = self.run(self.wire.transport.handle_async_request(again))
        self.run(answer.aread())
        self.listen(answer)
        return answer.status_code

    def listen(self, answer: httpx.Response) -> None:
        """What the callee hears is no code, or the one that is right at this moment."""
        assert answer.status_code < 500
        if not answer.content:
            return
        texts = [element.text or "" for element in ElementTree.fromstring(answer.content).iter("Speak")]
        spelled = heard(texts)
        if not spelled:
            return
        assert spelled[: len(spelled) // 2] == spelled[len(spelled) // 2 :]
        spoken = spelled[: len(spelled) // 2]
        speaking = [one for one in self.known.values() if one.code == spoken]
        assert speaking, "a code was spoken that is not right any more"
        assert speaking[0].status not in FINAL, "a code was spoken after its end"
        assert self.age(speaking[0]) < speaking[0].ttl, "a code was spoken after its deadline"

    # Time

    @precondition(lambda self: self.known)
    @rule(seconds=st.sampled_from([1, 10, 29, 30, 61, 120, 300, 599, 600, HOUR, DAY]), with_tick=st.booleans())
    def wait(self, seconds: float, with_tick: bool) -> None:
        self.time.advance(seconds)
        if with_tick:
            self.tick()

    @precondition(lambda self: self.known)
    @rule()
    def tick(self) -> None:
        self.run(self.app.state.timekeeper.expire())
        self.run(self.app.state.timekeeper.ask_about_silent_calls())

    @precondition(lambda self: self.known)
    @rule(seconds=st.sampled_from([-DAY, -HOUR, -1, 300, HOUR, DAY]))
    def wall_clock_jumps(self, seconds: float) -> None:
        self.time.wall_seconds += seconds

    @precondition(lambda self: self.known)
    @rule(seconds=st.sampled_from([20 * 60, HOUR]))
    def the_machine_sleeps(self, seconds: float) -> None:
        """The boot clock goes on; the wall clock is behind until it is set."""
        self.time.seconds += seconds

    @precondition(lambda self: self.known)
    @rule()
    def restart(self) -> None:
        before = dict(self.known)
        self.start()
        if not self.forgets_on_restart:
            return
        self.forget()
        for verification_id, known in before.items():
            for by in ({"verification_id": verification_id}, {"phone": known.phone}):
                answer = self.post(known.client, "/verify-otp", otp=known.code, **by)
                assert answer.json().get("reason") == "expired_or_not_found", "a code outlived a restart"

    # What must hold after each step

    def look(self) -> None:
        """Statuses only move forward."""
        for verification_id, known in list(self.known.items()):
            headers = {"Authorization": f"Bearer {KEYS[known.client]}"}
            answer = self.run(self.backend.get(f"/otp-status/{verification_id}", headers=headers))
            if answer.status_code == 404:
                assert known.status in FINAL or self.age(known) >= known.ttl, "a running one was forgotten"
                del self.known[verification_id]
                continue
            now = answer.json()
            assert self.is_forward(known, now["status"]), (known.status, now["status"])
            assert now["status"] in FINAL or self.age(known) < known.ttl
            known.status = now["status"]

    @staticmethod
    def is_forward(known: Known, status: str) -> bool:
        if known.status in FINAL:
            return status == known.status
        if known.status == "delivered":
            return status in (*FINAL, "delivered")
        return True

    @invariant()
    def promises_hold(self) -> None:
        self.look()
        for known in self.known.values():
            assert known.successes <= 1
            assert known.evaluated <= 5
            assert (known.status == "verified") == (known.successes == 1)
        assert self.carrier.two_at_once == [], "two calls to one number at once"
        own = [call.started for call in self.carrier.calls if call.app_number == self.carrier.app_number]
        assert sum(started > self.time.seconds - HOUR for started in own) <= CEILING, "the ceiling was passed"
        written = self.log.getvalue()
        assert not any(code in written for code in self.codes), "a code was logged"
