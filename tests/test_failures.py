"""Every way in which an API can fail, with every carrier: what the caller is told, and who calls in its place.

Each carrier stands behind an API that fails, alone and with another carrier after it; the service, the APIs and
the carriers are real servers on loopback. The table that comes of it is in docs/providers.md.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from time import time
from typing import NamedTuple

import pytest

from clock import Clock, boot_seconds
from simulator.call import Ending
from simulator.callees import SCRIPTED_CALLEES
from tests.conftest import RunningService, run_service
from tests.faulty_api import (
    NEVER_SENT,
    RETRY_AFTER_SECONDS,
    FaultyApi,
    Shape,
    pass_on,
    run_faulty_api,
    write_certificate,
)
from tests.provider_cases import VOICE_CASES, VoiceCase
from tests.rendered_docs import check_part
from voice_provider import Capabilities

# The carriers in the middle of it all share one event loop: the last fifth of the deadline is the next one's.
DEADLINE_SECONDS = 2.0
BREAKER_FORGETS_SECONDS = 61
NAMES = list(VOICE_CASES)
PHONES = [f"+14155550{number}" for number in range(150, 150 + len(Shape))]


class Seen(NamedTuple):
    """What one send came to. `asked` and `next_asked` count requests for calls; `rings` phones that ring."""

    status: int
    retry_after: str | None
    provider: str | None
    asked: int
    next_asked: int
    rings: int


class Cell(NamedTuple):
    alone: Seen
    with_next: Seen


class LeapingTime:
    """A clock that runs, as sockets do, and can be set forward."""

    def __init__(self) -> None:
        self._ahead_seconds = 0.0
        self.clock = Clock(
            now=lambda: boot_seconds() + self._ahead_seconds, wall=lambda: time() + self._ahead_seconds
        )

    def leap(self, seconds: float) -> None:
        self._ahead_seconds += seconds


def next_of(name: str) -> str:
    """Each carrier comes after another one once."""
    return NAMES[(NAMES.index(name) + 1) % len(NAMES)]


async def fail_in_every_shape(case: VoiceCase, others: list[str], certificates: Path) -> dict[Shape, Seen]:
    """One send per shape, each to a number of its own, at times when no breaker remembers the one before."""
    clock, names = LeapingTime(), [case.name, *others]
    settings = {"simulate": True, "providers": ",".join(names), "provider_deadline_seconds": DEADLINE_SECONDS}
    found = {}
    async with run_faulty_api(case, certificates) as api:
        http = api.open_http(DEADLINE_SECONDS)
        async with run_service(clock.clock, http, simulator_speed=1.0, **settings) as service:
            for carrier in service.app.state.carriers.values():
                carrier.stand_in = SCRIPTED_CALLEES["+14155550101"]
            for phone, shape in zip(PHONES, Shape, strict=True):
                clock.leap(BREAKER_FORGETS_SECONDS)
                api.shape = shape
                found[shape] = await fail_once(service, api, phone, others)
            # Only now, as a second call might have come late.
            rings = rings_of(service)
            return {
                shape: seen._replace(rings=rings[phone])
                for phone, (shape, seen) in zip(PHONES, found.items(), strict=True)
            }


async def fail_once(service: RunningService, api: FaultyApi, phone: str, others: list[str]) -> Seen:
    carriers = service.app.state.carriers
    asked_before = len(api.creates)
    next_before = [carriers[name].requests for name in others]
    answer = await service.send(phone)
    return Seen(
        status=answer.status_code,
        retry_after=answer.headers.get("retry-after"),
        provider=answer.json().get("provider"),
        asked=len(api.creates) - asked_before,
        next_asked=sum(carriers[name].requests for name in others) - sum(next_before),
        rings=0,
    )


def rings_of(service: RunningService) -> Counter[str]:
    """How many calls each number got, through whomever."""
    carriers = service.app.state.carriers.values()
    return Counter(call.request.to for one in carriers for call in (*one.calls.values(), *one.records.values()))


async def _fail_everywhere() -> dict[tuple[str, Shape], Cell]:
    with tempfile.TemporaryDirectory() as folder:
        certificates = Path(folder) / "self-signed.pem"
        write_certificate(certificates)
        rows = [(case, others) for case in VOICE_CASES.values() for others in ([], [next_of(case.name)])]
        played = await asyncio.gather(*(fail_in_every_shape(*row, certificates) for row in rows))
    found = {(case.name, bool(others)): seen for (case, others), seen in zip(rows, played, strict=True)}
    return {
        (name, shape): Cell(found[name, False][shape], found[name, True][shape])
        for name in NAMES
        for shape in Shape
    }


@cache
def cells() -> Mapping[tuple[str, Shape], Cell]:
    """All of them at once, as most of their time is waiting; once for all tests."""
    return asyncio.run(_fail_everywhere())


def can(case: VoiceCase) -> Capabilities:
    return case.client(lambda _: pytest.fail("asked")).capabilities


def is_proof(case: VoiceCase, shape: Shape) -> bool:
    """Whether a failure shows by itself that nothing was dialled."""
    unknown = {Shape.SILENT, Shape.DIALS_SILENTLY, Shape.FOREIGN_500, Shape.JUNK, Shape.DRIP}
    return shape not in unknown and (shape is not Shape.OWN_500 or case.is_500_proof)


every_cell = pytest.mark.parametrize(
    ("case", "shape"),
    [pytest.param(case, shape, id=f"{case.name}: {shape}") for case in VOICE_CASES.values() for shape in Shape],
)


@every_cell
def test_no_carrier_is_asked_twice_and_no_phone_rings_twice(case: VoiceCase, shape: Shape) -> None:
    for seen in cells()[case.name, shape]:
        assert seen.asked == (0 if shape in NEVER_SENT else 1)
        assert seen.rings <= 1


@every_cell
def test_the_next_carrier_calls_on_proof_and_else_only_if_the_first_would_have_been_heard_of(
    case: VoiceCase, shape: Shape
) -> None:
    alone, with_next = cells()[case.name, shape]
    would_be_heard_of = can(case).silence_is_proof
    if is_proof(case, shape):
        assert alone.status in (502, 503)
        assert alone.rings == 0
        is_next = True
    else:
        assert alone.status == (200 if shape is Shape.DIALS_SILENTLY and would_be_heard_of else 202)
        is_next = would_be_heard_of and shape is not Shape.DIALS_SILENTLY
    assert with_next.next_asked == (1 if is_next else 0)
    if is_next:
        assert (with_next.status, with_next.provider, with_next.rings) == (200, next_of(case.name), 1)
    else:
        assert (with_next.status, with_next.provider) == (alone.status, case.name)


@pytest.mark.parametrize("name", NAMES)
def test_the_caller_is_told_when_a_throttled_carrier_takes_calls_again(name: str) -> None:
    assert cells()[name, Shape.THROTTLED_FOR].alone.retry_after == str(RETRY_AFTER_SECONDS)
    assert cells()[name, Shape.THROTTLED].alone.retry_after == "1"


def test_the_table_of_failures_on_the_page_is_what_happens() -> None:
    lines = [f"| failure | {' | '.join(NAMES)} |", "|---" * (len(NAMES) + 1) + "|"]
    for shape in Shape:
        row = " | ".join(_shown(cells()[name, shape]) for name in NAMES)
        lines.append(f"| {shape} | {row} |")
    check_part("docs/providers.md", "failures", "\n".join(lines))


def _shown(cell: Cell) -> str:
    alone, with_next = cell
    who = "next" if with_next.next_asked else "waits" if with_next.status == 202 else "itself"
    return f"{alone.status} → {who} {with_next.asked}+{with_next.next_asked}"


# A call that turns up after another carrier was tried


LATE = {
    "ringing is told": [name for name, case in VOICE_CASES.items() if can(case).hangs_up],
    "only the answer is told": ["vobiz", "plivo"],
}


@pytest.mark.parametrize(("told", "name"), [(told, name) for told, names in LATE.items() for name in names])
async def test_a_call_that_turns_up_late_hears_no_code_and_is_hung_up(
    told: str, name: str, tmp_path: Path
) -> None:
    write_certificate(tmp_path / "self-signed.pem")
    case, phone = VOICE_CASES[name], "+14155550101"
    async with run_faulty_api(case, tmp_path / "self-signed.pem") as api:
        api.shape, api.takes_questions = Shape.SILENT, True
        async with run_service(
            http=api.open_http(DEADLINE_SECONDS),
            simulate=True,
            providers=f"{name},{next_of(name)}",
            provider_deadline_seconds=DEADLINE_SECONDS,
            simulator_speed=4.0,
        ) as service:
            sent = await service.send(phone)
            assert sent.json()["provider"] == next_of(name)
            (held,) = api.creates
            await pass_on(held if told == "ringing is told" else held.without("ring_url"))
            late = service.app.state.carriers[name]
            await asyncio.gather(*late.tasks.values())
            (call,) = late.records.values()
            assert any(line.startswith("DELETE ") or "/hangup" in line for line in api.seen)
            assert not any(character.isdigit() for text in call.spoken for character in text)
            assert call.ending in (Ending.API_BEFORE_ANSWER, Ending.API_AFTER_ANSWER)
            status = await service.status(phone)
            assert status["provider"] == next_of(name), "the late call changes nothing of the one that took over"
            assert status["call"]["call_uuid"] != call.request.call_id
