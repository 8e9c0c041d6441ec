"""Routes that operators and their load balancers call: /health, /ready, /blocks."""

import math
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from starlette.routing import BaseRoute

import problems
from abuse_guard import TARGET_WORDS, block_target
from access import ANONYMOUS, AddressLocked
from call_router import CallRouter
from carrier_line import LineHealth
from clock import Clock
from guard_store import Block
from lean_route import Endpoint, LeanRoute, Reply, json_reply
from otp_service import OtpService
from problems import FieldError, Problem, problem_of
from protection import Protection

# No number, but looked up like one: an id that is none of ours would not even be looked for in the store.
_PROBE_KEY = "+0"


@dataclass(slots=True)
class Readiness:
    """Whether new requests are welcome; set when the service has started, cleared when it begins to stop."""

    is_ready: bool = False


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class CarrierHealth(BaseModel):
    name: str = Field(examples=["vobiz"])
    state: str = Field(examples=["up"], description="up; down: left alone for a while; probing: one call tries it")
    queued: int = Field(examples=[0], description="calls that wait for their turn")
    trouble: str | None = Field(None, examples=["provider_unavailable"], description="code of the last failure")
    retry_after: int | None = Field(None, examples=[30], description="seconds until it is tried again")


class Ready(BaseModel):
    status: str = Field(examples=["ready"])
    providers: list[CarrierHealth]


class BlockEntry(BaseModel):
    target: str = Field(examples=["region:XK"], description=TARGET_WORDS)
    reason: str = Field(examples=["operator"], description="operator, setting, velocity or conversion")
    seconds_left: int | None = Field(None, examples=[43_200], description="null: until it is lifted")


class Blocks(BaseModel):
    blocks: list[BlockEntry]


def routes(service: OtpService, readiness: Readiness, router: CallRouter) -> list[BaseRoute]:
    async def health() -> Reply:
        """The process is alive."""
        return json_reply(200, Health(status="ok"))

    async def ready() -> Reply:
        """The service takes requests: started, not stopping, store reachable. Carriers may be in trouble all the
        same; how they are is said, too."""
        if not readiness.is_ready:
            raise _not_ready()
        await service.status(ANONYMOUS, _PROBE_KEY)
        return json_reply(200, Ready(status="ready", providers=[_health(line) for line in router.health()]))

    def route(path: str, endpoint: Endpoint, meaning: str, model: type[BaseModel], *errors: int) -> LeanRoute:
        responses = _answers(meaning, model) | problems.responses(*errors, examples=[_not_ready()])
        return LeanRoute(path, endpoint, methods=["GET"], tags=["operations"], responses=responses, is_quiet=True)

    return [
        route("/health", health, "the process lives", Health),
        route("/ready", ready, "requests are welcome", Ready, 503),
    ]


def block_routes(protection: Protection, clock: Clock) -> list[BaseRoute]:
    """The kill switch: blocks that take effect with the next request, without a restart."""
    guard, access = protection.guard, protection.operators

    def entry(block: Block) -> BlockEntry:
        seconds_left = None if block.until is None else max(0, round(block.until - clock.now()))
        return BlockEntry(target=block.target, reason=block.reason, seconds_left=seconds_left)

    async def list_blocks() -> Reply:
        """What is not called at present: by an operator, by the settings, or by a rule of abuse protection."""
        return json_reply(200, Blocks(blocks=[entry(block) for block in await guard.blocks()]), with_nulls=True)

    async def set_block(target: str) -> Reply:
        """Stop calls from the next request on: `all`, `client:<name>`, `region:<ISO 3166>`, `prefix:+<digits>`."""
        return json_reply(200, entry(await guard.block(_target_of(target))), with_nulls=True)

    async def lift_block(target: str) -> Reply:
        """Let calls pass again, whoever blocked them. Blocks of the settings stay."""
        if not await guard.unblock(_target_of(target)):
            raise _no_block()
        return json_reply(200, Blocks(blocks=[entry(block) for block in await guard.blocks()]), with_nulls=True)

    def route(path: str, endpoint: Endpoint, method: str, model: type[BaseModel], *errors: int) -> LeanRoute:
        examples = [_bad_target(f"must be {TARGET_WORDS}"), _no_block(), problem_of(AddressLocked(600))]
        responses = _answers("what is blocked", model) | problems.responses(401, 429, *errors, examples=examples)
        return LeanRoute(path, endpoint, methods=[method], tags=["operations"], responses=responses, access=access)

    return [
        route("/blocks", list_blocks, "GET", Blocks, 503),
        route("/blocks/{target}", set_block, "PUT", BlockEntry, 422, 503),
        route("/blocks/{target}", lift_block, "DELETE", Blocks, 404, 422, 503),
    ]


def _answers(meaning: str, model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": meaning, "model": model}}


def _health(line: LineHealth) -> CarrierHealth:
    return CarrierHealth(
        name=line.name,
        state=line.state.value,
        queued=line.queued,
        trouble=line.trouble,
        retry_after=math.ceil(line.retry_after_seconds) or None,
    )


def _target_of(text: str) -> str:
    try:
        return block_target(text)
    except ValueError as error:
        raise _bad_target(str(error)) from None


def _bad_target(message: str) -> Problem:
    return Problem(422, "invalid_request", f"target {message}", errors=[FieldError("target", message)])


def _no_block() -> Problem:
    return Problem(404, "not_found", "there is no such block, or it is one of the settings")


def _not_ready() -> Problem:
    return Problem(503, "not_ready", "the service is starting or stopping", retry_after_seconds=1)
