"""B6, B7, G1, G2, G4, H1: Redis fails under services of their own. The short form of what `make prove` runs."""

from collections.abc import Iterator

import pytest

from bench import fault_race, faults
from bench.fault_world import World, world
from tests.redis_servers import RedisServer

pytestmark = [pytest.mark.untraced, pytest.mark.timeout(300)]  # the services are other processes


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with RedisServer(**faults.LOADING) as redis, world(redis, OPERATOR_KEYS=faults.OPERATOR_KEY) as here:
        yield here


async def test_b7_g1_while_redis_stands_still_nothing_is_sent_or_accepted_and_then_the_code_is_right_once(
    here: World,
) -> None:
    seen = await faults.stand_still(here)
    assert seen.in_flight.is_unavailable
    assert seen.strange == []
    assert (seen.calls, seen.accepted_while_down, seen.accepted_after, seen.wrong_counted) == (0, 0, 1, 0)


async def test_g4_a_killed_redis_has_lost_nothing_that_was_acknowledged(here: World) -> None:
    seen = await faults.crash(here, codes=60)
    assert seen.strange == []
    assert min(seen.sent, seen.used, seen.guessed) > 0
    assert (seen.lost, seen.used_again, seen.guesses_forgotten, seen.is_block_lost) == (0, 0, 0, False)


async def test_b6_in_a_full_redis_no_guess_is_evaluated_and_no_call_placed(here: World) -> None:
    seen = await faults.flood(here, guesses=20)
    assert seen.strange == []
    assert (seen.uncounted, seen.accepted, seen.calls) == (0, 1, 0)


@pytest.mark.parametrize("name", faults.TROUBLES)
async def test_g2_trouble_of_redis_is_a_503_and_ends_with_it(here: World, name: str) -> None:
    number = list(faults.TROUBLES).index(name)
    seen = await faults.trouble(here, name, times=1, first=30_000 + 10 * number)
    assert (seen.server_errors, seen.accepted) == (0, 1)
    if name == "SCRIPT FLUSH":
        assert set(seen.statuses) == {200}


async def test_g4_after_a_failover_used_codes_come_back_only_where_the_replica_had_not_heard() -> None:
    seen = await faults.fail_over(4, until_deadline=False)
    assert (seen.used, seen.used_unreplicated, seen.used_again) == (2, 2, 2)


def test_p1_codes_succeed_once_while_redis_is_paused_killed_and_full() -> None:
    seen = fault_race.race_under_faults(right_races=6, wrong_races=6)
    assert seen.broken == []
    assert seen.strange == {}
    assert seen.most_evaluated <= 5
