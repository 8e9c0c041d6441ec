"""The time in which simulated calls happen: real, faster, or as fast as the machine can."""

import asyncio
import time


class SimulatorClock:
    """`speed` 1 is real time, `inf` never waits. Durations of calls are the same at every speed."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)

    def wall(self) -> float:
        return time.time()

    def now(self) -> float:
        return time.monotonic()
