"""Things that come due, at a cost that does not depend on how many do not."""

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class TimerWheel(Generic[T]):
    """Items by the second in which they are due. A tick costs what is due, however much is not."""

    def __init__(self) -> None:
        self._slots: dict[int, list[T]] = {}
        self._seconds: list[int] = []  # a heap of the slots' keys

    def add(self, due_at: float, item: T) -> None:
        second = int(due_at) + 1
        if second not in self._slots:
            self._slots[second] = []
            heapq.heappush(self._seconds, second)
        self._slots[second].append(item)

    def take(self, now: float, limit: int) -> list[T]:
        """Up to `limit` items that are due, earliest second first."""
        taken: list[T] = []
        while self._seconds and self._seconds[0] <= now and len(taken) < limit:
            items = self._slots[self._seconds[0]]
            while items and len(taken) < limit:
                taken.append(items.pop())
            if not items:
                del self._slots[heapq.heappop(self._seconds)]
        return taken
