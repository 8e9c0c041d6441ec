"""Wrong codes in a row for one number, over all its codes and clients, and the waits that they cost.

The figures follow NIST SP 800-63B-4 section 3.2.2: waits from 30 seconds up to an hour, at most 100 failures in a
row, a new code forgives none of them.
"""

import math

import msgspec

DAY_SECONDS = 24 * 3600
# A success forgives them at once. Else they count for this long after the last one, so that somebody who has used
# up a number's wrong codes has one guess a day from then on.
FAILURE_MEMORY_SECONDS = 30 * DAY_SECONDS
# The wrong codes of a first verification are free; from the fifth in a row on each one costs a longer wait.
FREE_FAILURES = 5
MOST_FAILURES = 100  # then nothing is compared until they are forgotten
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 30, 3600


class NumberLocked(Exception):
    """Wrong codes in a row for one number, over all its codes, have to be waited out."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("too many wrong codes in a row for this number")
        self.retry_after_seconds = retry_after_seconds


class NumberFailures(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The failures of one number. Times are seconds of the store's clock."""

    in_a_row: int = 0
    wait_until: float = 0
    forget_at: float = 0

    def refuse_waiting(self, now: float) -> None:
        """Raises: NumberLocked while earlier wrong codes are being waited out."""
        if now < self.wait_until:
            raise NumberLocked(math.ceil(self.wait_until - now))

    def one_more(self, most_in_a_row: int, now: float) -> "NumberFailures":
        in_a_row = self.in_a_row + 1 if now < self.forget_at else 1
        wait_seconds = _wait_after(in_a_row, most_in_a_row)
        # Without a wait no time at all: by the clock of another machine this moment may be yet to come.
        return NumberFailures(in_a_row, now + wait_seconds if wait_seconds else 0, now + FAILURE_MEMORY_SECONDS)

    def are_forgotten(self, now: float) -> bool:
        return self.in_a_row == 0 or now >= self.forget_at


NO_FAILURES = NumberFailures()


def _wait_after(in_a_row: int, most_in_a_row: int) -> int:
    if in_a_row >= MOST_FAILURES:
        return FAILURE_MEMORY_SECONDS
    if in_a_row >= most_in_a_row:
        return DAY_SECONDS
    if in_a_row < FREE_FAILURES:
        return 0
    return int(min(FIRST_WAIT_SECONDS * 2 ** (in_a_row - FREE_FAILURES), LONGEST_WAIT_SECONDS))
