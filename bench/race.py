"""Attacks over real HTTP, and what they achieved: races for codes and money, hostile webhooks.

They are on one server, or on several that share a Redis.

The carrier is a process that counts: what it was asked for is what was called.
"""

import base64
import contextlib
import hmac
import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from random import Random
from urllib.parse import urlencode, urlsplit

import phonenumbers

from bench import load
from bench.history import CORRECT, UNKNOWN, Check, violations
from bench.racers import Answer, Racers, racers
from bench.sample_data import phone_number, seeded
from bench.servers import AUTH_TOKEN, Server, carrier_settings, free_port, running, service
from languages import load_spoken_texts
from speech import SPOKEN_TEXTS
from tests.redis_servers import RedisServer

CHECKS_A_CODE = 100
SHORTEST_LIFE = 30
LONGEST_LIFE = 600
CODES_A_SEND = 500
SENDS_A_VOLLEY = 400
PHASE_SECONDS = 600.0
SENDINGS = 10
LIVE_CALLS = 50
_SPOKEN = re.compile(rb"<Speak[^>]*>([^<]*)</Speak>")


@dataclass
class CodeRaces:
    """`broken` says what was wrong with a history; it stays empty."""

    checks: int = 0
    codes: int = 0
    successes: int = 0
    evaluated: int = 0
    most_evaluated: int = 0
    right_after_five: int = 0
    """Right codes that were accepted after five wrong ones."""
    after_expiry: int = 0
    """Checks that were evaluated after the code had expired."""
    unavailable: int = 0
    """Checks that the server had no time for (503): whether they counted is not known."""
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spending:
    sends: int
    accepted: int
    called: int
    lost: int = 0
    """Requests whose server died before it answered."""
    unavailable: int = 0
    """Requests that the server had no time for (503)."""

    @property
    def is_sound(self) -> bool:
        """Every accepted send is a call, and no call was placed behind a refusal."""
        return self.accepted <= self.called <= self.accepted + self.lost


@dataclass
class Webhooks:
    hostile: int = 0
    revealed: int = 0
    server_errors: int = 0
    authentic: int = 0
    """Authentic callbacks that the code was read to: the same search finds it there."""
    statuses: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Examples:
    numbers: int
    allowed: int
    called: int
    called_outside: int


@contextlib.contextmanager
def _world(processes: int = 1, **settings: str) -> Iterator[tuple[list[Server], Server]]:
    """The service, as one process or as several with one Redis, and its carrier, each a process of its own."""
    carrier_port, ports = free_port(), [free_port() for _ in range(processes)]
    with contextlib.ExitStack() as stack:
        command = ["-m", "bench.fake_carrier", str(carrier_port)]
        carrier = stack.enter_context(running("carrier", command, carrier_port, None))
        given = {**carrier_settings(carrier, ports[0]), **settings}
        if processes > 1:
            given |= {"REDIS_URL": stack.enter_context(RedisServer()).url, "OTP_SECRET": secrets.token_hex()}
        yield [stack.enter_context(service(None, port=port, **given)) for port in ports], carrier


def _ports(ours: Sequence[Server]) -> list[int]:
    return [server.port for server in ours]


# Races for codes


def race_for_codes(right_races: int, wrong_races: int, expired: int = 0, processes: int = 1) -> CodeRaces:
    """Race a hundred checks for each code: all of them right, or all of them wrong and then a right one.

    `expired` codes are given 30 seconds to live, and checked when those have passed.
    """
    result = CodeRaces(codes=right_races + wrong_races)
    with _world(processes) as (ours, _), racers(_ports(ours)) as racing:
        codes = _codes(right_races + wrong_races)
        dead_from = _send_all(ours[0], list(codes.items()), LONGEST_LIFE)
        short_lived = _codes(expired, first=len(codes))
        dead_soon = _send_all(ours[0], list(short_lived.items()), SHORTEST_LIFE)
        for number, (phone, code) in enumerate(codes.items()):
            is_right = number < right_races
            guesses = [code] * CHECKS_A_CODE if is_right else _wrong_codes(code, number)
            checks = _race(racing, phone, code, guesses)
            _count(result, checks, is_right, dead_from)
            if not is_right:
                late = _race(racing, phone, code, [code])
                result.right_after_five += sum(check.outcome == CORRECT for check in late)
                result.broken += violations(checks + late, dead_from)
                result.checks += 1
        if short_lived:
            time.sleep(max(0.0, dead_soon - time.monotonic()))
        for phone, code in short_lived.items():
            checks = _race(racing, phone, code, [code, *_wrong_codes(code, 0)[:3]])
            result.checks += len(checks)
            result.after_expiry += sum(check.is_evaluated for check in checks)
    return result


def _codes(count: int, first: int = 0) -> dict[str, str]:
    rng = seeded(first)
    return {phone_number(first + index): f"{rng.randrange(10**6):06d}" for index in range(count)}


def _wrong_codes(code: str, purpose: int) -> list[str]:
    """Guesses that differ from each other and from the code."""
    guesses = seeded(purpose).sample(range(10**6), CHECKS_A_CODE + 1)
    return [f"{guess:06d}" for guess in guesses if guess != int(code)][:CHECKS_A_CODE]


def _send_all(ours: Server, codes: Sequence[tuple[str, str]], life: int) -> float:
    """Send the codes; from the time that is returned on, every one of them is expired.

    Those for which a busy machine had no time are sent again.
    """
    waiting = dict(codes)

    def is_answer(response: bytes) -> bool:
        if b"call_initiated" in response:
            waiting.pop(json.loads(load.body_of(response))["phone"], None)
            return True
        return b"store_unavailable" in response

    for _ in range(SENDINGS):
        sent = load.run(
            ours.port, [_send(phone, code, life) for phone, code in waiting.items()], is_answer, PHASE_SECONDS
        )
        assert not sent.unexpected, sent.first_unexpected
        if not waiting:
            return time.monotonic() + life
    raise AssertionError(f"{len(waiting)} codes could not be sent")


def _send(phone: str, code: str, life: int = LONGEST_LIFE) -> bytes:
    return load.post("/send-otp", json.dumps({"phone": phone, "code": code, "ttl_seconds": life}).encode())


def _race(racing: Racers, phone: str, code: str, guesses: Sequence[str]) -> list[Check]:
    requests = [load.post("/verify-otp", json.dumps({"phone": phone, "otp": guess}).encode()) for guess in guesses]
    answers = racing.volley(requests)
    return [_check(answer, guess == code) for answer, guess in zip(answers, guesses, strict=True)]


def _check(answer: Answer, is_right: bool) -> Check:
    body = json.loads(load.body_of(answer.response))
    outcome = CORRECT if body.get("valid") else body.get("reason", body.get("code", "?"))
    return Check(answer.invoked, answer.returned, is_right, outcome, body.get("attempts_left", 0))


def _count(result: CodeRaces, checks: Sequence[Check], is_right: bool, dead_from: float) -> None:
    successes = sum(check.outcome == CORRECT for check in checks)
    evaluated = sum(check.is_evaluated for check in checks)
    result.checks += len(checks)
    result.successes += successes
    result.evaluated += evaluated
    result.most_evaluated = max(result.most_evaluated, evaluated)
    result.broken += violations(checks, dead_from)
    unavailable = sum(check.outcome == UNKNOWN for check in checks)
    result.unavailable += unavailable
    if is_right and not 1 - unavailable <= successes <= 1:
        result.broken.append(f"{successes} successes in a race of right codes")
    if not is_right and not 5 - unavailable <= evaluated <= 5:
        result.broken.append(f"{evaluated} evaluated in a race of wrong codes")


# A race for money


def race_for_money(sends: int, ceiling: int, processes: int = 1, *, kills: bool = False) -> Spending:
    """Send to as many numbers at once, where a call costs 1 and `ceiling` may be spent.

    Where it `kills`, the last process dies in the middle of the first ones.
    """
    spending = {"CALL_PRICES": "max=1", "SPEND_PER_HOUR": str(ceiling), "SPEND_PER_DAY": str(ceiling * 10)}
    answers: list[Answer] = []
    with _world(processes, **spending) as (ours, carrier):
        volleys = [range(first, min(first + SENDS_A_VOLLEY, sends)) for first in range(0, sends, SENDS_A_VOLLEY)]
        if kills:
            with racers(_ports(ours)) as racing:
                killing = threading.Thread(target=_kill_in_the_middle, args=(ours[-1], carrier))
                killing.start()
                answers += racing.volley([_send(phone_number(index), "123456") for index in volleys.pop(0)])
                killing.join()
            ours = ours[:-1]
        with racers(_ports(ours)) as racing:
            for volley in volleys:
                answers += racing.volley([_send(phone_number(index), "123456") for index in volley])
        statuses = Counter("busy" if UNKNOWN.encode() in answer.response else answer.status for answer in answers)
        assert set(statuses) <= {0, 200, 429, "busy"}, statuses
        return Spending(sends, statuses[200], len(carrier.get("/calls").json()), statuses[0], statuses["busy"])


def _kill_in_the_middle(victim: Server, carrier: Server) -> None:
    while not carrier.get("/count").json():
        pass
    victim.process.kill()


def race_for_one_call(sends: int, processes: int) -> Spending:
    """Send to one number at once."""
    with _world(processes) as (ours, carrier), racers(_ports(ours)) as racing:
        answers = racing.volley([_send(phone_number(0), "123456")] * sends)
        strange = [answer for answer in answers if answer.status not in (200, 202, 503)]
        assert not strange, strange[0].response
        accepted = sum(answer.status in (200, 202) for answer in answers)
        return Spending(sends, accepted, len(carrier.get("/calls").json()), unavailable=sends - accepted)


# Hostile webhooks


@dataclass(frozen=True, slots=True)
class _Call:
    """A live call whose token and carrier's key an attacker has seen, except for what a kind of attack lacks."""

    code: str
    call_id: str
    token: str
    url: str
    nonce: str = ""
    """Of the one authentic answer that was seen on the wire."""


def attack_webhooks(count: int, processes: int = 1) -> Webhooks:
    """Post hostile callbacks about live calls and ended ones; every callback must be signed.

    With several processes the calls are placed by the last, and attacked at the first.
    """
    result = Webhooks()
    with _world(processes, WEBHOOK_SIGNATURES="required") as ((ours, *others), carrier):
        codes = {phone_number(index): f"CANARY{index:04d}" for index in range(2 * LIVE_CALLS)}
        _send_all([ours, *others][-1], list(codes.items()), LONGEST_LIFE)
        placed = carrier.get("/calls").json()
        calls = [_call(ours, codes[to], call_id, url) for call_id, url, to in placed]
        live, dead = calls[:LIVE_CALLS], calls[LIVE_CALLS:]
        answers = _post(
            ours, [_callback(call, "answer", {"Event": "StartApp"}, call.nonce, query="n=1") for call in calls]
        )
        result.authentic = sum(
            call.code.encode() in _spelled(answer) for call, answer in zip(calls, answers, strict=True)
        )
        hangup = {"Event": "Hangup", "HangupCauseCode": "4000"}
        _post(ours, [_callback(call, "hangup", hangup, _nonce(call, 2)) for call in dead])
        canaries = [code.encode() for code in codes.values()]

        def is_harmless(response: bytes) -> bool:
            status = int(response[9:12])
            result.statuses[status] = result.statuses.get(status, 0) + 1
            result.server_errors += status >= 500
            spelled = _spelled(response)
            is_revealed = any(code in spelled or code in response for code in canaries)
            result.revealed += is_revealed
            return not is_revealed and status < 500

        rng = seeded(count)
        hostile = (_hostile(rng, live, dead) for _ in range(count))
        result.hostile = load.run(ours.port, hostile, is_harmless, PHASE_SECONDS).count
        # The calls are as alive as before: nothing hostile has ended one of them.
        still = [ours.get(f"/otp-status/{to}").json() for _, _, to in placed[:LIVE_CALLS]]
        assert all(one["call"]["state"] == "answered" for one in still), "a hostile webhook changed a call"
    return result


def _call(ours: Server, code: str, call_id: str, answer_url: str) -> _Call:
    token = urlsplit(answer_url).path.rsplit("/", 1)[1]
    return _Call(code, call_id, token, ours.url, _nonce_of(call_id, 1))


def _nonce_of(call_id: str, number: int) -> str:
    return f"{int(call_id[-12:], 16) * 10 + number:020d}"


def _nonce(call: _Call, number: int) -> str:
    return _nonce_of(call.call_id, number)


def _spelled(response: bytes) -> bytes:
    """The characters whose words a document says."""
    return b"".join(_characters().get(text, b"") for text in _SPOKEN.findall(response))


@cache
def _characters() -> dict[bytes, bytes]:
    texts = load_spoken_texts(SPOKEN_TEXTS)["en"]
    return {word.encode(): character.encode() for character, word in {**texts.digits, **texts.letters}.items()}


def _post(ours: Server, requests: Sequence[bytes]) -> list[bytes]:
    """The answers, in the order of the requests."""
    received: list[bytes] = []

    def keep(response: bytes) -> bool:
        received.append(response)
        return True

    load.run(ours.port, requests, keep, PHASE_SECONDS, connections=1)
    return received


def _callback(
    call: _Call,
    route: str,
    fields: dict[str, str],
    nonce: str,
    *,
    token: str | None = None,
    query: str = "",
    body: str | None = None,
    signature: str | None = None,
) -> bytes:
    """A callback, signed as the carrier does unless told otherwise."""
    path = f"/{route}/{call.token if token is None else token}"
    text = urlencode({"CallUUID": call.call_id, **fields}) if body is None else body
    signed = sign(call.url + path, nonce) if signature is None else signature
    headers = {"X_Vobiz_Signature_V3": signed, "X_Vobiz_Signature_V3_Nonce": nonce} if signed else {}
    target = f"{path}?{query}" if query else path
    return load.post(target, text.encode(), "application/x-www-form-urlencoded", **headers)


def sign(url: str, nonce: str) -> str:
    """The carrier's V3 signature, made here anew and not by the client under test."""
    return base64.b64encode(hmac.digest(AUTH_TOKEN.encode(), f"{url}.{nonce}".encode(), sha256)).decode()


def _hostile(rng: Random, live: Sequence[_Call], dead: Sequence[_Call]) -> bytes:
    """One of ten kinds of attack, on a call of the attacker's choice."""
    call, other = rng.sample(live, 2)
    route = rng.choice(("answer", "answer", "answer", "otp-choice", "hangup", "ring"))
    fields = {
        "Event": rng.choice(("StartApp", "Redirect", "Hangup", "Ring")),
        "Digits": rng.choice("0123456789*#"),
    }
    nonce = f"{rng.randrange(10**20):020d}"
    query = f"n={rng.randrange(1, 10)}"
    match rng.randrange(10):
        case 0:  # no token, and a signature that is none
            return _callback(call, route, fields, nonce, token="", query=query, signature=nonce)
        case 1:  # a guessed token
            guessed = f"{rng.getrandbits(272):068x}"
            return _callback(call, route, fields, nonce, token=guessed, query=query)
        case 2:  # a token that was altered in one place
            place = rng.randrange(len(call.token))
            digit = rng.choice("0123456789abcdef".replace(call.token[place], ""))
            altered = call.token[:place] + digit + call.token[place + 1 :]
            return _callback(call, route, fields, nonce, token=altered, query=query)
        case 3:  # the token is right, and the callback is not signed
            return _callback(call, route, fields, nonce, query=query, signature="")
        case 4:  # a signature of other bytes
            wrong = base64.b64encode(rng.randbytes(32)).decode()
            return _callback(call, route, fields, nonce, query=query, signature=wrong)
        case 5:  # the signature of another call, or of another route
            stolen = sign(f"{call.url}/{route}/{other.token}", nonce)
            return _callback(call, route, fields, nonce, query=query, signature=stolen)
        case 6:  # a nonce that was seen, with other content
            again = {**fields, "Event": "StartApp", "Padding": str(rng.random())}
            return _callback(call, route, again, call.nonce, query=query)
        case 7:  # fields twice, by two separators, or of another call
            body = rng.choice(
                (
                    f"CallUUID={call.call_id}&Digits=1&Digits=9",
                    f"CallUUID={call.call_id}&CallUUID={other.call_id}",
                    f"CallUUID={other.call_id}&Event=StartApp",
                    f"CallUUID={call.call_id};CallUUID={other.call_id}&Event=StartApp",
                    f"CallUUID={call.call_id}&" + "&".join(f"x{number}=1" for number in range(500)),
                )
            )
            return _callback(call, route, {}, nonce, query=query, body=body)
        case 8:  # an older scheme: its signature would be right
            path = f"/{route}/{call.token}"
            old = base64.b64encode(
                hmac.digest(AUTH_TOKEN.encode(), f"{call.url}{path}.{nonce}".encode(), sha256)
            ).decode()
            headers = {"X_Vobiz_Signature_V2": old, "X_Vobiz_Signature_V2_Nonce": "." + nonce}
            body = urlencode({"CallUUID": call.call_id, **fields})
            kind = "application/x-www-form-urlencoded"
            return load.post(f"{path}?{query}", body.encode(), kind, **headers)
        case _:  # everything is right, and the call is over
            return _callback(rng.choice(dead), route, {**fields, "Event": "StartApp"}, nonce, query=query)


# The library's example numbers

_OPEN_TYPES = {
    phonenumbers.PhoneNumberType.MOBILE,
    phonenumbers.PhoneNumberType.FIXED_LINE,
    phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE,
}


def example_numbers() -> dict[str, phonenumbers.PhoneNumber]:
    """Every example number of libphonenumber: of each region and type, and of the codes without a region."""
    found = [
        phonenumbers.example_number_for_type(region, kind)
        for region in sorted(phonenumbers.SUPPORTED_REGIONS)
        for kind in phonenumbers.PhoneNumberType.values()
    ]
    found += [
        phonenumbers.example_number_for_non_geo_entity(code)
        for code in sorted(phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS)
    ]
    numbers = [number for number in found if number is not None]
    return {phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164): number for number in numbers}


def call_example_numbers(allowed_regions: str) -> Examples:
    """Send to each example number; which the carrier was asked to call, and which of them should not have been."""
    numbers = example_numbers()
    allowed = {e164 for e164, number in numbers.items() if _may_be_called(number, allowed_regions)}
    with _world(ALLOWED_REGIONS=allowed_regions) as ((ours,), carrier):
        load.run(ours.port, [_send(e164, "123456") for e164 in numbers], lambda _: True, PHASE_SECONDS)
        called = {to for _, _, to in carrier.get("/calls").json()}
    called = {to if to.startswith("+") else f"+{to}" for to in called}
    return Examples(len(numbers), len(allowed), len(called & allowed), len(called - allowed))


def _may_be_called(number: phonenumbers.PhoneNumber, allowed_regions: str) -> bool:
    region = phonenumbers.region_code_for_number(number)
    return (
        region not in (None, "001")
        and (allowed_regions == "*" or region in allowed_regions.split(","))
        and phonenumbers.number_type(number) in _OPEN_TYPES
        and phonenumbers.is_valid_number(number)
    )
