"""What the service needs before and beside its work: time to start, memory at rest, memory per verification.

As a program it prints the bytes per verification as JSON: under way, and after a whole call.
"""

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from bench.sample_data import phone_number
from bench.servers import ROOT, resident_bytes, service
from call_script import Manner
from clock import Clock
from number_page import NewCode, StoreRules
from otp_store import MemoryOtpStore
from sealing import Sealer
from verification import NewCall
from voice_provider import CallEvent, CallState

STARTS = 3
STORED = 100_000
MEMORY_SECONDS = 60
_MANNER = Manner("en-US", prompts="default")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Seconds and bytes; None where the system does not tell."""

    start_seconds: float
    idle_bytes: int | None
    bytes_under_way: int | None
    bytes_after_call: int | None


def measure_footprint(core: int | None) -> Footprint:
    """The median of some starts with the simulator, and the stored verifications of a process of their own."""
    starts, idle = [], None
    for _ in range(STARTS):
        with service(core) as server:
            starts.append(server.started_in)
            time.sleep(1)
            idle = server.resident_bytes()
    stored = subprocess.run(
        [sys.executable, "-m", "bench.footprint"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=MEMORY_SECONDS,
    )
    under_way, after_call = json.loads(stored.stdout)
    return Footprint(statistics.median(starts), idle, under_way, after_call)


async def _stored_bytes() -> tuple[int | None, int | None]:
    """Bytes per verification while its call is dialled, and once it was spoken, replayed never, and verified."""
    store = MemoryOtpStore(Sealer(["x" * 32]), Clock(), StoreRules())
    phones = [phone_number(number) for number in range(STORED)]
    before = _resident()
    for number, phone in enumerate(phones):
        begun = await store.begin("shop", phone, NewCode("610389", False, 300), _new_call())
        await store.name_call(begun.record.id, 1, _call_id(number))
    under_way = _resident()
    for number, phone in enumerate(phones):
        await _live_through(store, phone, _call_id(number))
    after_call = _resident()
    if before is None or under_way is None or after_call is None:
        return None, None
    return (under_way - before) // STORED, (after_call - before) // STORED


async def _live_through(store: MemoryOtpStore, phone: str, call_id: str) -> None:
    record = await store.find("shop", phone)
    assert record is not None
    for state in (CallState.RINGING, CallState.ANSWERED):
        await store.record_call_event(record.id, 1, CallEvent(call_id, state))
    await store.read_code(record.id, 1, 1)
    await store.record_reading_end(record.id, 1, 1)
    ended = CallEvent(call_id, CallState.COMPLETED, hangup_cause="NORMAL_CLEARING 4000", talk_seconds=31)
    await store.record_call_event(record.id, 1, ended)
    await store.check("shop", phone, "610389")


def _new_call() -> NewCall:
    return NewCall("vobiz", "+12025550100", _MANNER, 30, 150, 20.0)


def _call_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def _resident() -> int | None:
    gc.collect()
    return resident_bytes()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_stored_bytes())))
