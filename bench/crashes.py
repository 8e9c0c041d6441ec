"""Workers that are killed at named points of a call, and what becomes of the call: another worker goes on.

Each call is asked for at a worker that dies on it. Then its backend repeats the request at another worker, with
the same Idempotency-Key and without; the carrier's webhooks land there, too. The carrier, a process of its own,
counts. At the end workers whose clocks are ahead tell what is left once the lifetimes are over.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from bench.race import _spelled, sign
from bench.sample_data import phone_number
from bench.servers import Server, carrier_settings, free_port, running, service
from redis_names import NAME_KEY
from tests.redis_servers import RedisServer

SECRET = "secret-of-the-benchmark-of-no-value-at-all"  # noqa: S105
TAKEOVER_SECONDS = 20.0
LATER_SECONDS, MUCH_LATER_SECONDS = 700, 3 * 86_400

KILLED_BEFORE, KILLED_AFTER = "before the carrier took it", "after the carrier took it"
SEND_POINTS = (
    "before the intent is kept",
    "after the intent is kept",
    "before the request",
    KILLED_BEFORE,
    KILLED_AFTER,
    "after the carrier's answer",
    "after the call's id is kept",
    "before the answer to the backend",
)
FAILOVER_POINTS = ("before a failover is kept", "after a failover is kept", KILLED_BEFORE, KILLED_AFTER)
QUEUE_POINTS = ("before a queued call's job", "while a queued call waits", "after a queued call's turn")
REDIAL_POINTS = (
    "before a redial",
    "before a redial is kept",
    "after a redial is kept",
    "before a redial's request",
)
# Nothing was dialled yet, so another worker does.
TAKEN_OVER = {*QUEUE_POINTS[:2], *REDIAL_POINTS[:2]}
TELLS_OF_A_CALL = {"ringing", "answered", "code_requested", "code_spoken"}


@dataclass
class Crashes:
    """`broken` says what was not as promised; it stays empty."""

    crashes: int = 0
    most_calls: int = 0
    """Calls at the carrier for one request, a redial not counted."""
    went_on: int = 0
    """Calls that rang, whose code another worker told and checked."""
    taken_over: int = 0
    """Calls that another worker placed, as their own had not come to it."""
    broken: list[str] = field(default_factory=list)


class World:
    """A Redis and a carrier, and any number of workers, all of them reached at the same public address."""

    def __init__(self, redis: RedisServer, judge: Server, port: int) -> None:
        self.redis = redis
        self.judge = judge
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.settings = {
            **carrier_settings(judge, port),
            "VOBIZ_API_URL": f"{judge.url}/vobiz",
            "PLIVO_API_URL": f"{judge.url}/plivo",
            "PLIVO_AUTH_ID": "MABENCH000",
            "PLIVO_AUTH_TOKEN": "bench-token-of-no-value",
            "PLIVO_CALLS_PER_SECOND": "0",
            "PROVIDERS": "vobiz",
            "WEBHOOK_SIGNATURES": "required",
            "REDIS_URL": redis.url,
            "OTP_SECRET": SECRET,
        }

    def worker(self, *, is_other: bool = False, **settings: Any) -> Any:
        """A service; the other one is where the public address leads."""
        port = self.port if is_other else free_port()
        return service(None, "bench.crashing_service", port, **{**self.settings, **settings})

    def plan(self, **what: Any) -> None:
        httpx.post(f"{self.judge.url}/plan", json=what, trust_env=False).raise_for_status()

    def calls(self, phone: str) -> list["RungCall"]:
        orders = [RungCall(self.url, *order) for order in self.judge.get("/orders").json()]
        return [call for call in orders if call.to == phone]

    def wait_for_calls(self, phone: str, count: int) -> int:
        give_up_at = time.monotonic() + TAKEOVER_SECONDS
        while len(self.calls(phone)) < count and time.monotonic() < give_up_at:
            time.sleep(0.05)
        return len(self.calls(phone))

    def keys_for_ever(self) -> dict[str, str]:
        """Kind of each key without a lifetime, but for the one that names all others."""
        with self.redis.client() as client:
            keys = [key for key in client.scan_iter(count=1000) if client.pttl(key) == -1 and key != NAME_KEY]
            return {key.decode(errors="replace"): client.type(key).decode() for key in keys}


@dataclass(frozen=True, slots=True)
class RungCall:
    """A call that the carrier took."""

    url: str
    carrier: str
    call_id: str
    answer_url: str
    to: str

    @property
    def token(self) -> str:
        return urlsplit(self.answer_url).path.rsplit("/", 1)[1]

    def report(self, worker: Server, route: str, number: int, **fields: str) -> bytes:
        """The carrier's callback, signed, at a worker; the same number is the same callback again."""
        path = f"/{route}/{self.token}"
        nonce = f"{int(self.call_id[-12:], 16) * 10 + number:020d}"
        name = "X-Vobiz-Signature-V3"
        text = urlencode({"CallUUID": self.call_id, **fields})
        headers = {
            name: sign(self.url + path, nonce),
            f"{name}-Nonce": nonce,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return httpx.post(
            f"{worker.url}{path}?n=1", content=text, headers=headers, timeout=10, trust_env=False
        ).content

    def tells(self, worker: Server, code: str) -> bool:
        return code.encode() in _spelled(self.report(worker, "answer", 1, Event="StartApp"))


@contextlib.contextmanager
def world() -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(appendonly="yes", appendfsync="everysec"))
        port = free_port()
        judge = stack.enter_context(running("carrier", ["-m", "bench.judge", str(port)], port, None))
        yield World(redis, judge, free_port())


def post(worker: Server, path: str, key: str = "", **body: object) -> httpx.Response | None:
    """None when the worker died meanwhile."""
    headers = {"Idempotency-Key": key} if key else {}
    with contextlib.suppress(httpx.TransportError):
        return httpx.post(worker.url + path, json=body, headers=headers, timeout=20, trust_env=False)
    return None


def _send(worker: Server, phone: str, key: str = "") -> httpx.Response | None:
    return post(worker, "/send-otp", key, phone=phone, code=_code(phone))


def _code(phone: str) -> str:
    return phone[-6:]


class _Case:
    """One request whose worker dies at a point."""

    def __init__(self, world: World, found: Crashes, phone: str, point: str) -> None:
        self.world = world
        self.found = found
        self.phone = phone
        self.point = point
        self.key = f"key-{phone}"

    def expect(self, is_kept: bool, promise: str) -> None:
        if not is_kept:
            self.found.broken.append(f"{self.point}: {promise}")

    def wait_for_death(self, worker: Server) -> None:
        try:
            is_killed = worker.process.wait(TAKEOVER_SECONDS) == -9
        except subprocess.TimeoutExpired:
            is_killed = False
        self.expect(is_killed, "the worker did not die there")
        self.found.crashes += is_killed

    def repeat(self, worker: Server) -> None:
        """With the key: what was answered, or that it still runs. Without: that call, or a limit."""
        for key in (self.key, "", self.key, ""):
            again = _send(worker, self.phone, key)
            wanted = (200, 202, 409, 429)
            self.expect(again is not None and again.status_code in wanted, f"a repeat got {again}")

    def count_calls(self, most: int) -> int:
        calls = len(self.world.calls(self.phone))
        self.found.most_calls = max(self.found.most_calls, calls - most + 1)
        self.expect(calls <= most, f"{calls} calls")
        return calls

    def go_on(self, worker: Server) -> None:
        """The callee answers, hears the code, and types it: all at another worker."""
        call = self.world.calls(self.phone)[-1]
        if call.carrier == "vobiz":
            self.expect(call.tells(worker, _code(self.phone)), "the other worker did not tell the code")
        checked = post(worker, "/verify-otp", phone=self.phone, otp=_code(self.phone))
        is_right = checked is not None and checked.json().get("valid") is True
        self.expect(is_right, "the other worker did not accept the code")
        call.report(worker, "hangup", 2, Event="Hangup", HangupCauseCode="4000")
        self.found.went_on += is_right

    def look_later(self, worker: Server, calls: int) -> None:
        """Its status has ended, and tells of no more than there was; its key calls nobody; its number is free."""
        status = worker.get(f"/otp-status/{self.phone}").json()
        told = {entry["event"] for entry in status.get("timeline", ())}
        if "status" in status and status["status"] != 404:
            self.expect(status["status"] in ("expired", "verified"), f"still {status['status']}")
            self.expect(status["call"]["state"] == "completed", "its call has not ended")
        self.expect(bool(calls) or not told & TELLS_OF_A_CALL, "tells of a call that there was not")
        _send(worker, self.phone, self.key)
        self.expect(len(self.world.calls(self.phone)) <= max(calls, 1), "called again for the same key")
        sent = _send(worker, self.phone)
        self.expect(sent is not None and sent.status_code in (200, 202), f"a limit was left behind: {sent}")


def crash_requests(points: Sequence[str], failover_points: Sequence[str]) -> Crashes:
    """Workers die in the middle of a request; the other one was there all the time."""
    found, cases = Crashes(), []
    with world() as here:
        settings: dict[str, Any] = {"PROVIDERS": "vobiz,plivo", "RESEND_AFTER_SECONDS": "30"}
        with here.worker(is_other=True, **settings) as other:
            for number, point in enumerate([*points, *failover_points]):
                case = _Case(here, found, phone_number(number), point)
                is_failover = number >= len(points)
                cases.append((case, _crash_request(case, other, settings, is_failover=is_failover)))
        here.plan()
        _look_later(here, found, cases, settings)
    return found


def _crash_request(case: _Case, other: Server, settings: dict[str, Any], *, is_failover: bool) -> int:
    world, point = case.world, case.point
    is_in_request = point in (KILLED_BEFORE, KILLED_AFTER)
    with world.worker(**settings, CRASH_AT="" if is_in_request else point) as worker:
        plan: dict[str, Any] = {"refuses": ["vobiz"] if is_failover else []}
        if is_in_request:
            by = "plivo" if is_failover else "vobiz"
            plan |= {"kill": worker.process.pid, "to": case.phone, "by": by, "takes": point == KILLED_AFTER}
        world.plan(**plan)
        _send(worker, case.phone, case.key)
        case.wait_for_death(worker)
    world.plan(refuses=plan["refuses"])
    case.repeat(other)
    calls = case.count_calls(most=1)
    if calls:
        case.go_on(other)
    return calls


def crash_jobs(queue_points: Sequence[str], redial_points: Sequence[str]) -> Crashes:
    """Workers die at a call that waits for its turn, or is to be placed once more; another one comes up."""
    found, cases = Crashes(), []
    settings: dict[str, Any] = {"VOBIZ_CALLS_PER_SECOND": "1", "REDIAL_ON": "busy", "REDIAL_THROUGH": "same"}
    with world() as here:
        for number, point in enumerate([*queue_points, *redial_points]):
            case = _Case(here, found, phone_number(number), point)
            is_redial = point in redial_points
            with here.worker(is_other=True, **settings, CRASH_AT=point) as worker:
                if is_redial:
                    _send(worker, case.phone, case.key)
                    with contextlib.suppress(httpx.TransportError):
                        _be_busy(case, worker)
                else:
                    _send(worker, phone_number(1000 + number))
                    _send(worker, case.phone, case.key)
                case.wait_for_death(worker)
            with here.worker(is_other=True, **settings) as other:
                if is_redial:
                    _be_busy(case, other)  # the carrier repeats what got no answer
                cases.append((case, _go_on_with_job(case, other, most=1 + is_redial)))
        _look_later(here, found, cases, {})
    return found


def _be_busy(case: _Case, worker: Server) -> None:
    fields = {"Event": "Hangup", "HangupCauseCode": "3010", "HangupCauseName": "Busy Line"}
    case.world.calls(case.phone)[0].report(worker, "hangup", 2, **fields)


def _go_on_with_job(case: _Case, other: Server, most: int) -> int:
    if most == 1:  # after a busy call, a repeated request is a new call
        case.repeat(other)
    if case.point in TAKEN_OVER:
        is_placed = case.world.wait_for_calls(case.phone, most) == most
        case.expect(is_placed, "no other worker placed the call")
        case.found.taken_over += is_placed
        if is_placed:
            case.go_on(other)
    return case.count_calls(most)


def _look_later(here: World, found: Crashes, cases: Sequence[tuple[_Case, int]], settings: dict[str, Any]) -> None:
    """Workers of later times: when codes and calls are over, and when all is."""
    with here.worker(is_other=True, **settings, SECONDS_AHEAD=str(LATER_SECONDS)) as worker:
        for case, calls in cases:
            case.look_later(worker, calls)
    with here.worker(is_other=True, **settings, SECONDS_AHEAD=str(MUCH_LATER_SECONDS)):
        left = _wait_until_forgotten(here)
    found.broken += [f"kept for ever: {kind} {key}" for key, kind in left.items()]


def _wait_until_forgotten(here: World) -> dict[str, str]:
    give_up_at = time.monotonic() + TAKEOVER_SECONDS
    while (left := here.keys_for_ever()) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    return left


def main() -> int:
    results = {
        "requests": crash_requests(SEND_POINTS, FAILOVER_POINTS),
        "jobs": crash_jobs(QUEUE_POINTS, REDIAL_POINTS),
    }
    for name, found in results.items():
        print(name, json.dumps(found.__dict__, indent=1))
    return any(found.broken for found in results.values())


if __name__ == "__main__":
    raise SystemExit(main())
