"""Wrong codes in a row per number, over all its codes and clients, and the waits that they cost.

The figures follow NIST SP 800-63B-4 section 3.2.2: waits from 30 seconds up to an hour, at most 100 failures in a
row, a new code forgives none of them.
"""

import math
from typing import NamedTuple

from phone_numbers import line_key
from timer_wheel import TimerWheel

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


class _Failures(NamedTuple):
    in_a_row: int
    wait_until: float
    forget_at: float


class NumberFailures:
    """The counts of a single process. Times are seconds of one clock, which the caller reads."""

    def __init__(self, most_in_a_row: int) -> None:
        self._most_in_a_row = most_in_a_row
        self._failures: dict[str, _Failures] = {}
        self._forgettable: TimerWheel[str] = TimerWheel()

    def __len__(self) -> int:
        return len(self._failures)

    def refuse_waiting(self, phone: str, now: float) -> None:
        """Raises: NumberLocked while earlier wrong codes are being waited out."""
        failures = self._failures.get(line_key(phone))
        if failures is not None and now < failures.wait_until:
            raise NumberLocked(math.ceil(failures.wait_until - now))

    def count(self, phone: str, now: float) -> None:
        phone = line_key(phone)
        before = self._failures.get(phone)
        if before is None:
            self._forgettable.add(now + DAY_SECONDS, phone)
        in_a_row = before.in_a_row + 1 if before is not None and now < before.forget_at else 1
        wait_until = now + self._wait_after(in_a_row)
        self._failures[phone] = _Failures(in_a_row, wait_until, now + FAILURE_MEMORY_SECONDS)

    def _wait_after(self, in_a_row: int) -> int:
        if in_a_row >= MOST_FAILURES:
            return FAILURE_MEMORY_SECONDS
        if in_a_row >= self._most_in_a_row:
            return DAY_SECONDS
        if in_a_row < FREE_FAILURES:
            return 0
        return int(min(FIRST_WAIT_SECONDS * 2 ** (in_a_row - FREE_FAILURES), LONGEST_WAIT_SECONDS))

    def forgive(self, phone: str, now: float) -> None:
        """Set the count to 0. The entry stays until its daily timer comes, so that a number never has two."""
        phone = line_key(phone)
        if phone in self._failures:
            self._failures[phone] = _Failures(0, now, now + FAILURE_MEMORY_SECONDS)

    def expire(self, now: float, limit: int) -> int:
        """Forget what is old, at most `limit` numbers; how many came due."""
        due = self._forgettable.take(now, limit)
        for phone in due:
            failures = self._failures[phone]
            if failures.in_a_row == 0 or now >= failures.forget_at:
                del self._failures[phone]
            else:
                self._forgettable.add(min(failures.forget_at, now + DAY_SECONDS), phone)
        return len(due)
