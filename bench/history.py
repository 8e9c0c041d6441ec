"""Whether a history of checks of one code could have come from a store that does one check after the other."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_ATTEMPTS = 5
CORRECT, INCORRECT = "correct", "incorrect"
DEAD, LOCKED = "expired_or_not_found", "too_many_attempts"
UNKNOWN = "store_unavailable"
"""A 503: the check has taken effect while it was asked for, or never will."""


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

    @property
    def may_have_counted(self) -> bool:
        return self.is_evaluated or self.outcome == UNKNOWN


def violations(checks: Sequence[Check], dead_from: float = float("inf")) -> list[str]:
    """What is wrong with a history; from `dead_from` on the code is expired."""
    evaluated = [check for check in checks if check.is_evaluated]
    known = [check for check in checks if check.outcome != UNKNOWN]
    found = [
        *_miscounted(evaluated),
        *_out_of_order(known),
        *_too_late(evaluated, dead_from),
        *_unexplained(known, checks, dead_from),
    ]
    return list(dict.fromkeys(found))


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


def _unexplained(known: Iterable[Check], checks: Sequence[Check], dead_from: float) -> Iterator[str]:
    """Whatever a check found used up was used by another one, which may have no answer."""
    right = sorted(check.invoked for check in checks if check.is_right and check.may_have_counted)
    wrong = sorted(check.invoked for check in checks if not check.is_right and check.may_have_counted)
    for check in known:
        if check.outcome == DEAD and check.returned < dead_from and not (right and right[0] < check.returned):
            yield "a code was dead that nobody had used"
        if check.outcome in (INCORRECT, LOCKED):
            made = bisect_left(wrong, check.returned)  # itself, too, if it is one of them
            if made < MAX_ATTEMPTS - check.attempts_left:
                yield "an attempt was used up that nobody had made"
