"""The two clocks that everything with a lifetime reads; tests put their own in place."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


def boot_seconds() -> float:
    """Seconds since boot, which also pass while the machine sleeps (a monotonic clock stands still then)."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` measures lifetimes; `wall` (Unix seconds) is only ever shown to people; `sleep` waits for seconds of
    the first one."""

    now: Callable[[], float] = boot_seconds
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
