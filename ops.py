"""Routes that operators and their load balancers call: /health, /ready."""

from dataclasses import dataclass

from pydantic import BaseModel, Field
from starlette.routing import BaseRoute

import problems
from lean_route import LeanRoute, Reply, json_reply
from otp_service import OtpService
from problems import Problem

_PROBE_KEY = "vrf_" + "0" * 32


@dataclass(slots=True)
class Readiness:
    """Whether new requests are welcome; set when the service has started, cleared when it begins to stop."""

    is_ready: bool = False


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class Ready(BaseModel):
    status: str = Field(examples=["ready"])
    providers: list[str] = Field(examples=[["vobiz"]])


def routes(service: OtpService, readiness: Readiness, provider_names: list[str]) -> list[BaseRoute]:
    async def health() -> Reply:
        """The process is alive."""
        return json_reply(200, Health(status="ok"))

    async def ready() -> Reply:
        """The service takes requests: started, not stopping, store reachable."""
        if not readiness.is_ready:
            raise Problem(503, "not_ready", "the service is starting or stopping", retry_after_seconds=1)
        await service.status(_PROBE_KEY)
        return json_reply(200, Ready(status="ready", providers=provider_names))

    return [
        LeanRoute("/health", health, methods=["GET"], tags=["operations"], responses={200: {"model": Health}}),
        LeanRoute(
            "/ready",
            ready,
            methods=["GET"],
            tags=["operations"],
            responses={200: {"model": Ready}, **problems.responses(503)},
        ),
    ]
