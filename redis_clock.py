"""One clock for all machines that share a store: the server's, kept going by each machine's own."""

import math

from clock import Clock, boot_seconds
from redis_connection import Redis

SYNC_SECONDS = 10.0
LOOKS = 5


class SharedClock:
    """The server's Unix time. Between two looks at it this machine counts by itself, also while it is lost.

    For lifetimes it never goes back: where the server's clock is set back, or another server takes over with a
    slower one, time goes on from where it was, at half its pace until both agree.
    """

    def __init__(self, redis: Redis, own: Clock) -> None:
        self._redis = redis
        self._ahead = own.wall() - boot_seconds()  # until the server was asked
        # What `now` said when the server was asked last, and our boot clock then.
        self._said, self._said_at = -math.inf, boot_seconds()
        self.uncertain_seconds = 0.0
        """By how much `server_now` can be wrong: half of the round trip in which the server was asked."""

    def now(self) -> float:
        """Seconds that never go back."""
        return max(self.server_now(), self._said + (boot_seconds() - self._said_at) / 2)

    def server_now(self) -> float:
        """What the server's clock shows, also after it was set."""
        return boot_seconds() + self._ahead

    def latest_ms(self, seconds: float) -> int:
        """The server's time in so many seconds, in milliseconds; in doubt rather too early: what takes effect
        later than its sender waits would never be told."""
        return int((self.server_now() - self.uncertain_seconds + seconds) * 1000)

    async def sync(self) -> float:
        """Look at the server's clock; how far it is ahead of what was believed. Raises: StoreUnavailable."""
        before, is_first = self._ahead, self._said == -math.inf
        looks = [await self._look() for _ in range(LOOKS)]
        said = self.now()
        round_trip, self._ahead = min(looks)  # the quickest answer tells best when it was given
        self.uncertain_seconds = round_trip / 2
        self._said, self._said_at = self.server_now() if is_first else said, boot_seconds()
        return self._ahead - before

    async def _look(self) -> tuple[float, float]:
        """How long the answer took, and how far the server is ahead of our boot clock."""
        asked_at = boot_seconds()
        seconds, microseconds = await self._redis.call(None, "TIME")
        answered_at = boot_seconds()
        return answered_at - asked_at, int(seconds) + int(microseconds) / 1e6 - (asked_at + answered_at) / 2
