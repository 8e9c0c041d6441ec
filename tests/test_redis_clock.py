"""The clock that machines share: it follows the server's, and never goes back with it."""

import itertools
from typing import Any

import pytest

from clock import Clock
from redis_clock import SharedClock


class Machine:
    """A boot clock, and a server whose clock can be set, which no real one's can be without its machine's."""

    def __init__(self) -> None:
        self.boot, self.server_ahead = 1000.0, 500_000.0

    async def call(self, key: None, command: str) -> list[bytes]:
        seconds = self.boot + self.server_ahead
        return [b"%d" % int(seconds), b"%d" % round(seconds % 1 * 1e6)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr("redis_clock.boot_seconds", lambda: machine.boot)
    return machine


@pytest.fixture
async def shared(machine: Machine) -> SharedClock:
    redis: Any = machine
    shared = SharedClock(redis, Clock(wall=lambda: 9_000_000.0))
    await shared.sync()
    return shared


async def test_it_is_the_servers_clock_whatever_the_own_one_shows(shared: SharedClock, machine: Machine) -> None:
    assert shared.now() == 501_000
    machine.boot += 7
    assert shared.now() == 501_007
    machine.server_ahead += 3600
    await shared.sync()
    assert shared.now() == 504_607


async def test_it_never_goes_back_and_agrees_again_at_half_its_pace(shared: SharedClock, machine: Machine) -> None:
    machine.server_ahead -= 60
    seen = [shared.now()]
    for second in range(1, 200):
        machine.boot += 1
        if second % 10 == 0:
            await shared.sync()
        seen.append(shared.now())
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert min(steps) == 0.5
    assert max(steps) == 1
    assert shared.now() == shared.server_now()
