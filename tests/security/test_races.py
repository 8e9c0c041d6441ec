"""A3, B1, C1, C2, C6, D1-D6: the short form of what `make prove` runs, with several processes over real HTTP."""

import pytest

from bench import race
from bench.history import CORRECT, DEAD, INCORRECT, LOCKED, UNKNOWN, Check, violations

pytestmark = pytest.mark.untraced  # the service is another process


def test_racing_codes_succeed_once_and_are_compared_five_times() -> None:
    races = race.race_for_codes(right_races=8, wrong_races=8)
    assert races.broken == []
    assert (races.checks, races.successes, races.most_evaluated) == (1608, 8, 5)
    assert races.right_after_five == 0


def test_racing_sends_stop_at_the_spending_ceiling_to_the_call() -> None:
    spending = race.race_for_money(sends=400, ceiling=100)
    assert (spending.accepted, spending.called) == (100, 100)


def test_hostile_webhooks_reveal_no_code_and_end_no_call() -> None:
    webhooks = race.attack_webhooks(1500)
    assert webhooks.authentic == 2 * race.LIVE_CALLS, "the search for codes finds them where they are"
    assert (webhooks.hostile, webhooks.revealed, webhooks.server_errors) == (1500, 0, 0)


# Two services with one Redis


def test_codes_that_race_over_two_services_succeed_once() -> None:
    races = race.race_for_codes(right_races=4, wrong_races=4, processes=2)
    assert races.broken == []
    assert (races.checks, races.right_after_five) == (804, 0)
    assert races.most_evaluated <= 5
    assert 4 - races.unavailable <= races.successes <= 4
    assert races.unavailable < races.checks / 2, "or nothing was shown"


def test_sends_over_two_services_stop_at_the_ceiling_also_when_one_is_killed() -> None:
    spending = race.race_for_money(sends=400, ceiling=100, processes=2)
    assert spending.is_sound
    assert 100 - spending.unavailable <= spending.called <= 100, "a 503 may have cost a call's money"
    assert spending.unavailable < 100, "or nothing was shown"
    spending = race.race_for_money(sends=800, ceiling=200, processes=2, kills=True)
    assert spending.is_sound
    assert spending.called <= 200


def test_sends_to_one_number_over_two_services_are_one_call() -> None:
    spending = race.race_for_one_call(sends=200, processes=2)
    assert spending.called == 1
    assert spending.accepted > 0


def test_hostile_webhooks_reveal_no_code_of_calls_that_another_service_placed() -> None:
    webhooks = race.attack_webhooks(200, processes=2)
    assert webhooks.authentic == 2 * race.LIVE_CALLS
    assert (webhooks.hostile, webhooks.revealed, webhooks.server_errors) == (200, 0, 0)


@pytest.mark.parametrize("regions", ["IN,US", "*"])
def test_no_example_number_outside_the_allowed_set_is_called(regions: str) -> None:
    examples = race.call_example_numbers(regions)
    assert examples.numbers >= 1000
    assert examples.called > 0
    assert examples.called_outside == 0


def check(at: float, outcome: str, left: int = 0, *, is_right: bool | None = None, took: float = 0.5) -> Check:
    return Check(at, at + took, outcome == CORRECT if is_right is None else is_right, outcome, left)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([check(0, INCORRECT, 4), check(1, CORRECT), check(2, DEAD)], id="one after the other"),
        pytest.param([check(0, INCORRECT, 3), check(0, INCORRECT, 4)], id="at once, in either order"),
        pytest.param([check(0, DEAD, took=2), check(1, CORRECT, took=2)], id="the winner answered last"),
        pytest.param([check(0, UNKNOWN, is_right=True), check(1, DEAD)], id="nobody was told of the success"),
        pytest.param(
            [check(0, UNKNOWN, is_right=True), check(1, CORRECT)], id="what was not answered had no effect"
        ),
        pytest.param([check(0, UNKNOWN), check(1, INCORRECT, 3)], id="a guess that was counted has no answer"),
        pytest.param([check(0, UNKNOWN), check(1, INCORRECT, 4)], id="a guess without an answer was not counted"),
        pytest.param([check(0, UNKNOWN)] * 5 + [check(1, LOCKED)], id="locked by guesses without answers"),
    ],
)
def test_a_possible_history_is_let_pass(history: list[Check]) -> None:
    assert violations(history, dead_from=100) == []


@pytest.mark.parametrize(
    ("history", "words"),
    [
        pytest.param([check(0, CORRECT), check(0, CORRECT)], "2 successes", id="accepted twice"),
        pytest.param([check(0, INCORRECT, left) for left in range(6)], "6 guesses", id="six guesses"),
        pytest.param([check(0, INCORRECT, 4), check(0, INCORRECT, 4)], "counted as one", id="one count for two"),
        pytest.param([check(0, CORRECT, is_right=False)], "a wrong code was accepted", id="wrong code"),
        pytest.param([check(0, CORRECT), check(1, INCORRECT, 4)], "code was dead", id="after the success"),
        pytest.param([check(0, LOCKED), check(1, CORRECT)], "code was dead", id="after the lock"),
        pytest.param([check(0, INCORRECT, 0), check(1, CORRECT)], "code was dead", id="after the fifth"),
        pytest.param([check(0, INCORRECT, 3), check(1, INCORRECT, 4)], "left more", id="a count that rose"),
        pytest.param([check(100, CORRECT)], "had expired", id="after expiry"),
        pytest.param([check(0, UNKNOWN), check(1, DEAD)], "nobody had used", id="dead without a success"),
        pytest.param([check(0, DEAD), check(1, UNKNOWN, is_right=True)], "nobody had used", id="dead too early"),
        pytest.param([check(0, INCORRECT, 3)], "nobody had made", id="a right code counted as wrong"),
        pytest.param(
            [check(0, UNKNOWN, is_right=True), check(1, INCORRECT, 3)], "nobody had made", id="and unheard"
        ),
        pytest.param([check(0, UNKNOWN)] * 4 + [check(1, LOCKED)], "nobody had made", id="locked by four"),
    ],
)
def test_an_impossible_history_is_found(history: list[Check], words: str) -> None:
    assert any(words in violation for violation in violations(history, dead_from=100))
