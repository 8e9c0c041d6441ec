"""Whether a history of checks of one code could have come from a store that does one check after the other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_ATTEMPTS = 5
CORRECT, INCORRECT = "correct", "incorrect"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a code: when its last byte was sent, when its answer was there, and what that said.

    Times are seconds of one clock of the machine, which all processes share. `returned` may be later than it was,
    never earlier: that makes checks overlap more, and what is found is then certain.
    """

    invoked: float
    returned: float
    is_right: bool
    outcome: str
    attempts_left: int

    @property
    def is_evaluated(self) -> bool:
        return self.outcome in (CORRECT, INCORRECT)


def violations(checks: Sequence[Check], dead_from: float = float("inf")) -> list[str]:
    """What is wrong with a history; from `dead_from` on the code is expired."""
    evaluated = [check for check in checks if check.is_evaluated]
    return list(dict.fromkeys([*_miscounted(evaluated), *_out_of_order(checks), *_too_late(evaluated, dead_from)]))


def _miscounted(evaluated: Sequence[Check]) -> Iterator[str]:
    successes = [check for check in evaluated if check.outcome == CORRECT]
    if len(successes) > 1:
        yield f"{len(successes)} successes with one code"
    if len(evaluated) > MAX_ATTEMPTS:
        yield f"{len(evaluated)} guesses evaluated"
    if any(check.is_right != (check.outcome == CORRECT) for check in evaluated):
        yield "a wrong code was accepted, or the right one called wrong"
    counts = [check.attempts_left for check in evaluated if check.outcome == INCORRECT]
    if len(set(counts)) != len(counts):
        yield "two guesses were counted as one"


def _out_of_order(checks: Iterable[Check]) -> Iterator[str]:
    """After an answer that says that the code is dead, no later check may be evaluated; counts only fall."""
    in_order = sorted(checks, key=lambda check: check.returned)
    for index, later in enumerate(in_order):
        if not later.is_evaluated:
            continue
        for earlier in in_order[:index]:
            if earlier.returned >= later.invoked:
                break
            if earlier.outcome != INCORRECT or earlier.attempts_left == 0:
                yield "a guess was evaluated after the code was dead"
            elif later.outcome == INCORRECT and later.attempts_left >= earlier.attempts_left:
                yield "a later guess left more attempts than an earlier one"


def _too_late(evaluated: Iterable[Check], dead_from: float) -> Iterator[str]:
    if any(check.invoked >= dead_from for check in evaluated):
        yield "a guess was evaluated after the code had expired"
