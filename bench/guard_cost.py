"""What abuse protection costs a send: CPU time of the guard alone, every rule on, without parsing the number."""

import asyncio
import random
import time
from dataclasses import dataclass

from abuse_guard import MONEY, AbuseGuard, GuardPolicy
from bench.sample_data import SEED
from clock import Clock
from guard_store import Block, MemoryGuardStore
from phone_numbers import number_of

SENDS = 20_000
PLENTY = 10**9


@dataclass(frozen=True, slots=True)
class GuardCost:
    """CPU microseconds per send, and how many sends they were measured over."""

    microseconds: float
    sends: int


def measure_guard_cost() -> GuardCost:
    return asyncio.run(_measure())


async def _measure() -> GuardCost:
    policy = GuardPolicy(
        allowed_regions=frozenset({"US", "IN"}),
        blocked=frozenset({"region:XK", "prefix:+1900"}),
        safe_prefixes=("+4479",),
        prefix_sends_per_hour=PLENTY,
        region_sends_per_hour=PLENTY,
        client_sends_per_hour=PLENTY,
        spend_per_hour=PLENTY * MONEY,
        spend_per_day=PLENTY * MONEY,
        client_spend_per_hour=PLENTY * MONEY,
        client_spend_per_day=PLENTY * MONEY,
        least_verified_share=0,
    )
    store = MemoryGuardStore(Clock(), PLENTY)
    guard = AbuseGuard(store, policy, Clock())
    await store.block(Block("region:AC", "operator"))  # so that blocks are looked up, too
    rng = random.Random(SEED)  # noqa: S311 - sample data, the same each time
    phones = [f"+1{area}{number:07d}" for area, number in _numbers(rng)]
    for phone in phones:
        number_of(phone)  # parsed, and kept by its cache
    started = time.process_time()
    for phone in phones:
        await guard.check_destination("bench", phone)
        await guard.reserve("bench", phone)
        await guard.quota("bench")
    return GuardCost((time.process_time() - started) / len(phones) * 1e6, len(phones))


def _numbers(rng: random.Random) -> list[tuple[int, int]]:
    return [
        (rng.choice((212, 305, 415, 713)), 2_000_000 + number) for number in rng.sample(range(5_000_000), SENDS)
    ]
