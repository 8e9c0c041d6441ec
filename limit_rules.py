"""Limits: at most so much in any window of time, what was counted, and how long what does not fit has to wait."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Up to this limit each entry is kept with its exact time; above it entries of one sixtieth of a window share one.
_EXACT_LIMIT = 60


class Window(NamedTuple):
    """At most `limit` in any `seconds`."""

    limit: int
    seconds: float


class Rule(NamedTuple):
    """A limit with one or more windows; `name` is what people are told. Make it with `rule`.

    `resolution_seconds` is how far apart entries are kept: what shares one stays in its windows for that much
    longer, so that a limit is never passed. A store may spread the subjects of a rule that has many of them over
    its machines; all others are counted in one place.
    """

    name: str
    windows: tuple[Window, ...]
    smallest_limit: int
    longest_seconds: float
    resolution_seconds: float
    has_many_subjects: bool = False

    @property
    def lifetime_seconds(self) -> float:
        """For how long what was counted can matter."""
        return self.longest_seconds + self.resolution_seconds

    def entry_at(self, now: float) -> float:
        """When what happens now is counted."""
        return now // self.resolution_seconds * self.resolution_seconds if self.resolution_seconds else now


def rule(name: str, *windows: Window, has_many_subjects: bool = False) -> Rule:
    limits = [window.limit for window in windows]
    lengths = [window.seconds for window in windows]
    resolution_seconds = 0.0 if max(limits) <= _EXACT_LIMIT else min(lengths) / 60
    return Rule(name, windows, min(limits), max(lengths), resolution_seconds, has_many_subjects)


class Charge(NamedTuple):
    """An amount to be counted against a rule, for one of those that it applies to."""

    rule: Rule
    subject: str
    amount: int = 1

    @property
    def key(self) -> str:
        return f"{self.rule.name}/{self.subject}"


class Exceeded(NamedTuple):
    """A charge that does not fit, the window that is full, and when it will fit; None: never."""

    charge: Charge
    window: Window
    retry_after_seconds: float | None


class Reservation(NamedTuple):
    charges: Sequence[Charge]
    at: float


class Log:
    """What was counted under one key, oldest first, and the sum of it all."""

    __slots__ = ("entries", "total")

    def __init__(self, entries: Iterable[tuple[float, int]] = ()) -> None:
        self.entries = list(entries)
        self.total = sum(amount for _, amount in self.entries)

    def add(self, at: float, amount: int) -> None:
        if self.entries and self.entries[-1][0] == at:
            amount_before = self.entries.pop()[1]
            self.entries.append((at, amount_before + amount))
        else:
            self.entries.append((at, amount))
        self.total += amount

    def take_back(self, at: float, amount: int) -> None:
        for index in range(len(self.entries) - 1, -1, -1):
            entry_at, kept = self.entries[index]
            if entry_at == at:
                taken = min(kept, amount)
                self.total -= taken
                if kept > taken:
                    self.entries[index] = (entry_at, kept - taken)
                else:
                    del self.entries[index]
                return

    # When an entry ends is always `at + lifetime`, so that a wait which was told is enough to the last bit.

    def drop_ended(self, now: float, lifetime: float) -> None:
        ended = 0
        for at, amount in self.entries:
            if at + lifetime > now:
                break
            ended += 1
            self.total -= amount
        if ended:
            del self.entries[:ended]

    def used(self, now: float, lifetime: float) -> int:
        return sum(amount for at, amount in self.entries if at + lifetime > now)


def room_in(log: Log, rule: Rule, now: float) -> tuple[int, int]:
    """What is left in a rule's first window, and seconds until all of it is free again."""
    window = rule.windows[0]
    used = _used(log, rule, window, now)
    if not used:
        return window.limit, 0
    free_at = log.entries[-1][0] + rule.resolution_seconds + window.seconds
    return max(0, window.limit - used), math.ceil(max(0.0, free_at - now))


def refusal_of(charge: Charge, log: Log, now: float) -> Exceeded | None:
    """The window that a charge does not fit into; of several, the one that takes longest to have room."""
    if log.total + charge.amount <= charge.rule.smallest_limit:
        return None  # the longest window has room for it, and every other one, too
    worst: Exceeded | None = None
    for window in charge.rule.windows:
        used = _used(log, charge.rule, window, now)
        if used + charge.amount <= window.limit:
            continue
        if charge.amount > window.limit:
            return Exceeded(charge, window, None)
        wait = _wait(log, charge, window, used, now)
        if worst is None or wait > (worst.retry_after_seconds or 0):
            worst = Exceeded(charge, window, wait)
    return worst


def _used(log: Log, rule: Rule, window: Window, now: float) -> int:
    if len(rule.windows) == 1:
        return log.total
    return log.used(now, window.seconds + rule.resolution_seconds)


def _wait(log: Log, charge: Charge, window: Window, used: int, now: float) -> float:
    """Seconds until enough of a window has passed."""
    lifetime = window.seconds + charge.rule.resolution_seconds
    for at, amount in log.entries:
        if at + lifetime <= now:
            continue
        used -= amount
        if used + charge.amount <= window.limit:
            return at + lifetime - now
    return lifetime
