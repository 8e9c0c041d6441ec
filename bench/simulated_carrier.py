"""The simulator's carrier as a process of its own, with a scripted callee behind each number of the benchmark.

The service under test then does only its own work. Arguments: port, speed, number of callees.
"""

import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from bench.bare_app import serve
from bench.sample_data import phone_number, seeded
from bench.servers import AUTH_ID, AUTH_TOKEN, FROM_NUMBER
from http_client import open_http_client
from simulator import vobiz_api
from simulator.callees import SCRIPTED_CALLEES, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.phone import PhoneExchange
from simulator.vobiz_api import Account, VobizCarrier
from simulator.vobiz_call import VobizCall, callback_sender

REPLAY_SHARE = 0.2


class CountingCarrier(VobizCarrier):
    """Knows how many calls it had at the same time, at the most."""

    peak = 0

    def start(self, call: VobizCall) -> None:
        super().start(call)
        self.peak = max(self.peak, len(self.calls))


def callees(count: int) -> dict[str, ScriptedCallee]:
    """Callees who answer after 2 to 8 seconds and listen to the end; one in five wants to hear the code again."""
    rng = seeded(count)
    return {
        phone_number(index): ScriptedCallee(
            "of the benchmark",
            ring_seconds=rng.uniform(2, 8),
            keys=("1",) if rng.random() < REPLAY_SHARE else (),
        )
        for index in range(count)
    }


def create_app(speed: float) -> Starlette:
    clock = SimulatorClock(speed)
    account = Account(AUTH_ID, AUTH_TOKEN, FROM_NUMBER)
    callbacks = callback_sender(open_http_client(30), clock, AUTH_TOKEN)
    carrier = CountingCarrier(account, callbacks, clock, PhoneExchange(clock))

    async def ready(_: Request) -> Response:
        return JSONResponse({})

    async def peak(_: Request) -> Response:
        return JSONResponse(carrier.peak)

    return Starlette(
        routes=[
            Route("/ready", ready),
            Route("/peak", peak),
            Mount("/api/v1", routes=vobiz_api.routes(carrier)),
        ]
    )


if __name__ == "__main__":
    SCRIPTED_CALLEES.update(callees(count=int(sys.argv[3])))
    serve(create_app(speed=float(sys.argv[2])), int(sys.argv[1]))
