"""Wires the parts into one FastAPI app; `python server.py` serves it."""

import asyncio
import contextlib
import errno
import gc
import logging
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.routing import BaseRoute, Mount

import app_api
import ops
import pages
import problems
import setting_values
import webhooks
from abuse_guard import MONEY
from call_events import CallEvents
from call_flow import CallFlow
from call_links import CallLinks
from call_router import CallPolicy, CallRouter
from call_script import ScriptWriter, load_spoken_texts
from carrier_line import CarrierLine, LineLimits
from carriers import open_carrier, open_texter
from clock import Clock
from connection_limits import LimitedConnections, LimitedProtocol, ReceiveLimits, raise_descriptor_limit
from dialer import Dialer
from http_client import open_http_client
from lean_route import MAX_BODY_BYTES, LeanApp
from log_format import set_up_logging
from ops import Readiness
from otp_service import OtpService
from otp_store import MemoryOtpStore, OtpStore, StoreRules
from protection import Protection, guard_policy, open_protection
from redial import RedialPolicy, Redials
from sealing import Sealer
from settings import BadSettings, MachineDetection, NoInput, ResendCode, Settings, is_tunnel, load_settings
from simulator import phone
from simulator.clock import SimulatorClock
from simulator.phone import PhoneExchange
from simulator.plivo_call import LONGEST_CALLBACK_SECONDS
from simulator.simulated_carriers import Network, SimulatedCarrier, simulate
from sms_provider import SmsProvider
from text_messages import TextMessages
from voice_provider import Providers, SignaturePolicy, VoiceProvider

ROOT = Path(__file__).parent
QUIET_PATHS = ("/simulator/", "/web/", "/phone")  # the simulated network and its page log for themselves, or not
DRAIN_SECONDS = 20
BACKLOG = 2048
API_TAGS = [
    {"name": "backend", "description": "What your backend calls to send a code and to check it."},
    {"name": "carrier", "description": "What the carrier calls in the course of a call. Nothing here is for you."},
    {"name": "operations", "description": "What operators and load balancers ask."},
]
# By default all objects are looked through often while their number grows: ten thousand new connections would cost
# stalls of up to 60 ms. Rarely, but not never: a request that was cut off leaves cycles, which only this frees.
GC_THRESHOLDS = (5_000, 10, 20)


def create_app(
    settings: Settings | None = None, clock: Clock | None = None, http: httpx.AsyncClient | None = None
) -> FastAPI:
    """The app with all its parts. It closes `http`, through which carriers are asked. Raises: BadSettings."""
    settings = settings or load_settings()
    clock = clock or Clock()
    http = http or open_http_client(settings.provider_deadline_seconds)
    simulated = _simulated_carriers(settings) if settings.uses_simulator else {}
    carrier_settings = _simulated_settings(settings, simulated) if simulated else settings
    clients = [open_carrier(name, carrier_settings, http) for name in settings.provider_names]
    protection = open_protection(settings, clock)
    texters = {name: open_texter(name, carrier_settings, http) for name in settings.sms_provider_names}
    services = _services(settings, clock, clients, texters, protection)
    readiness = Readiness()
    app = LeanApp(
        redirect_slashes=False,  # its redirects would be built from the Host header
        title="Voice OTP",
        version="0.1.0",
        description="One-time codes by phone call, self-hosted.",
        openapi_tags=API_TAGS,
        openapi_url="/openapi.json" if settings.serves_api_docs else None,
        docs_url=None,  # FastAPI's own pages load scripts from a foreign host: /docs is a page of ours
        redoc_url=None,
        routes=_routes(settings, clock, services, protection, readiness, simulated),
        quiet_paths=QUIET_PATHS,
        lifespan=_lifespan(services.otp, readiness, simulated, http),
        # Spans and error records would hold paths and messages, and with them numbers and call tokens.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    problems.install(app)
    app.state.service, app.state.readiness = services.otp, readiness
    app.state.carriers = {name: one.carrier for name, one in simulated.items()}
    app.state.carrier = next(iter(app.state.carriers.values()), None)
    return app


def own_url(settings: Settings) -> str:
    """Where this service is reached on its own machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.http_host, settings.http_host)  # noqa: S104 - no bind
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}"


def public_url(settings: Settings) -> str:
    """PUBLIC_URL, or the service's own address, which only the simulator can reach."""
    return settings.public_url or own_url(settings)


def _simulated_settings(settings: Settings, simulated: Mapping[str, SimulatedCarrier]) -> Settings:
    """With simulated accounts and APIs, on our own address, in the place of the carriers'."""
    update: dict[str, object] = {"from_number": settings.caller_id}
    for one in simulated.values():
        for name, value in one.settings.items():
            is_secret = isinstance(getattr(settings, name), SecretStr)
            update[name] = SecretStr(str(value)) if is_secret else value
    return settings.model_copy(update=update)


class Services(NamedTuple):
    """What the routes are made of."""

    otp: OtpService
    flow: CallFlow
    texts: TextMessages
    router: CallRouter


def _services(
    settings: Settings,
    clock: Clock,
    clients: Sequence[VoiceProvider],
    texters: Mapping[str, SmsProvider],
    protection: Protection,
) -> Services:
    sealer = Sealer(settings.otp_secrets or (secrets.token_urlsafe(32),))
    rules = StoreRules(
        max_attempts=settings.max_attempts,
        max_failures_per_number=settings.max_failures_per_number,
        replace_code_on_resend=settings.resend_code is ResendCode.NEW,
        retention_seconds=settings.status_retention_seconds,
        capacity=settings.store_capacity,
    )
    store = MemoryOtpStore(sealer, clock, rules)
    url = public_url(settings)
    links = CallLinks(sealer, url, settings.fallback_public_url or url)
    writer = ScriptWriter(load_spoken_texts(ROOT / "spoken_texts"), settings.app_name, settings.default_language)
    _check_default_language(settings, writer, clients)
    policy = CallPolicy(
        ring_timeout_seconds=settings.ring_timeout_seconds,
        time_limit_seconds=settings.call_time_limit_seconds,
        hang_up_on_machine=settings.machine_detection is MachineDetection.HANGUP,
        deadline_seconds=settings.provider_deadline_seconds,
        routes=setting_values.routes(settings.provider_routes),
    )
    lines = [_line(settings, clock, client.name, store, protection) for client in clients]
    router = CallRouter(list(zip(clients, lines, strict=True)), writer, policy)
    redials = Redials(_redial_policy(settings), clock)
    events = CallEvents(store, protection.guard, redials)
    dialer = Dialer(router, store, events, writer, links, policy, clock)
    texts = TextMessages(texters, store, writer, links, settings.provider_deadline_seconds, clock)
    providers = Providers({client.name: client for client in clients})
    flow = CallFlow(store, providers, writer, links, events, protection.store, clock)
    service = OtpService(store, router, dialer, texts, events, redials, protection, clock)
    return Services(service, flow, texts, router)


def _redial_policy(settings: Settings) -> RedialPolicy:
    return RedialPolicy(
        reasons=settings.redial_reasons,
        times=settings.redial_times,
        after_seconds=settings.redial_after_seconds,
        through=settings.redial_through.value,
    )


def _line(settings: Settings, clock: Clock, name: str, store: OtpStore, protection: Protection) -> CarrierLine:
    # A simulated account refuses what is too much by itself, as a real one does.
    paced = not settings.uses_simulator or settings.simulate
    calls_per_second = settings.of_carrier(name, "calls_per_second") if paced else 0
    concurrent_calls = settings.of_carrier(name, "concurrent_calls") if paced else 0
    return CarrierLine(name, LineLimits(calls_per_second, concurrent_calls), store, protection.store, clock)


def _check_default_language(settings: Settings, writer: ScriptWriter, clients: Sequence[VoiceProvider]) -> None:
    """Raises: BadSettings."""
    for client in clients:
        languages = client.capabilities.languages
        if writer.choose_language(settings.default_language, client.from_number, languages) is None:
            spoken = ", ".join(languages)
            raise BadSettings([f"DEFAULT_LANGUAGE cannot be spoken by {client.name}: use one of {spoken}"])


def _simulated_carriers(settings: Settings) -> dict[str, SimulatedCarrier]:
    clock = SimulatorClock(settings.simulator_speed)
    network = Network(
        clock=clock,
        phones=PhoneExchange(clock),
        from_number=settings.caller_id,
        open_http=lambda: open_http_client(LONGEST_CALLBACK_SECONDS),
        calls_per_second=settings.simulator_calls_per_second,
        concurrent_calls=settings.simulator_concurrent_calls,
        has_signatures=settings.simulator_signatures,
        no_input_posts=settings.simulator_no_input is NoInput.POST,
    )
    names = dict.fromkeys((*settings.provider_names, *settings.sms_provider_names))
    return simulate(list(names), own_url(settings), network)


def _routes(
    settings: Settings,
    clock: Clock,
    services: Services,
    protection: Protection,
    readiness: Readiness,
    simulated: Mapping[str, SimulatedCarrier],
) -> list[BaseRoute]:
    routes = [
        *app_api.routes(services.otp, protection, settings),
        *webhooks.routes(services.flow, services.texts),
        *ops.routes(services.otp, readiness, services.router),
    ]
    if settings.operator_keys.get_secret_value() or (settings.is_open and settings.uses_simulator):
        routes += ops.block_routes(protection, clock)
    shown = {"/docs": "docs.html"} if settings.serves_api_docs else {}
    for one in simulated.values():
        limit = Middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES)
        routes.append(Mount(one.path, routes=one.routes, middleware=[limit]))
    if simulated:
        shown["/phone"] = "phone.html"
        routes += phone.routes(next(iter(simulated.values())).carrier.phones)
    return [*routes, *pages.routes(shown)]


def _lifespan(
    service: OtpService, readiness: Readiness, simulated: Mapping[str, SimulatedCarrier], http: httpx.AsyncClient
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        timekeeper = asyncio.create_task(service.keep_time(), name="timekeeper")
        # What was made at start stays for good: keep the garbage collector from looking at it over and over.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        readiness.is_ready = True
        yield
        readiness.is_ready = False
        timekeeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await timekeeper
        await service.close()
        for one in simulated.values():
            await one.carrier.close()
        await http.aclose()

    return lifespan


class Server(uvicorn.Server):
    """uvicorn, which tells the app at once when it is asked to stop, and cuts slow senders."""

    def __init__(
        self, app: FastAPI, limits: ReceiveLimits | None = None, drain_seconds: int = DRAIN_SECONDS
    ) -> None:
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",  # a connection that changes its protocol would leave the limits
            log_config=None,
            access_log=False,  # it writes paths, which hold numbers and call tokens
            proxy_headers=False,  # a sender's word on its address counts only where TRUSTED_PROXIES says so
            server_header=False,
            timeout_graceful_shutdown=drain_seconds,
        )
        super().__init__(config)
        self._app = app
        self.connections = LimitedConnections(limits or ReceiveLimits())
        self.server_state = self.connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self.connections.keep_sweeping(), name="sweeper")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)  # with sweeps: a slow sender must not hold the stop up
        self._sweeper.cancel()

    def stop(self) -> None:
        """Begin to stop: not ready any more, event streams ended (they would hold the stop up), then drain."""
        self._app.state.readiness.is_ready = False
        if self._app.state.carrier is not None:
            self._app.state.carrier.phones.close()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.stop()


def main() -> int:
    """Serve until a signal comes. Bad settings end the start with one line each."""
    raise_descriptor_limit()
    try:
        settings = load_settings()
        listener = _listen(settings)
        settings = settings.model_copy(update={"http_port": listener.getsockname()[1]})
        set_up_logging(settings.log_format)
        if settings.needs_tunnel:
            settings = settings.model_copy(update={"public_url": _open_tunnel(settings)})
        app = create_app(settings)
    except BadSettings as error:
        for problem in error.problems:
            print(f"voice-otp: {problem}", file=sys.stderr)
        return 2
    print(banner(settings), file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly stop
        Server(app).run(sockets=[listener])
    return 0


def _listen(settings: Settings) -> socket.socket:
    """Take the port before anything else is started. Raises: BadSettings."""
    host, port = settings.http_host, settings.http_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, asyncio sends small answers at once, as uvloop does: else each waits 40 ms (Nagle).
    listener = socket.socket(family, proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # from here on the port is ours
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            problem = f"HTTP_PORT: cannot listen on {host}:{port}: {error.strerror}; choose another port"
        else:
            problem = f"HTTP_HOST: cannot listen on {host}: {error.strerror}; use an address of this machine"
        raise BadSettings([problem]) from None
    return listener


def _open_tunnel(settings: Settings) -> str:
    """A public URL through ngrok, for development. Raises: BadSettings."""
    # Imported only here: it takes a quarter of a second that only a tunnel is worth.
    from pyngrok import conf, ngrok
    from pyngrok.exception import PyngrokError

    token = settings.ngrok_auth_token.get_secret_value()
    if not token:
        raise BadSettings(["PUBLIC_URL is not set: set it, or NGROK_AUTH_TOKEN for a tunnel while developing"])
    logging.getLogger("pyngrok").setLevel(logging.WARNING)
    try:
        options = conf.PyngrokConfig(auth_token=token)
        url = ngrok.connect(str(settings.http_port), bind_tls=True, pyngrok_config=options).public_url
    except (PyngrokError, OSError) as error:
        problem = (
            f"NGROK_AUTH_TOKEN: no tunnel could be opened ({type(error).__name__}): check it, or set PUBLIC_URL"
        )
        raise BadSettings([problem]) from None
    return str(url).rstrip("/")


def banner(settings: Settings) -> str:
    """What an operator should know at the start: carrier, addresses, and what is not protected."""
    url = public_url(settings)
    names = ", ".join(settings.provider_names)
    lines = [f"voice-otp  carrier: {names}  public URL: {url}  answer URL: {url}/answer"]
    if settings.uses_simulator:
        lines.append(f"           a phone in your browser: http://localhost:{settings.http_port}/phone")
    if not settings.uses_simulator:
        policy = guard_policy(settings)
        lines.append(
            f"           spending limits: {settings.spend_per_hour} an hour, {settings.spend_per_day} a day, "
            f"at {policy.highest_price / MONEY:g} for a call without a price"
        )
    lines += [f"           not protected: {risk}" for risk in _risks(settings)]
    return "\n".join(lines)


def _lets_unsigned_in(settings: Settings) -> bool:
    """Vobiz signs only what it is configured to sign; all other carriers' default is safe."""
    policy = settings.webhook_signatures
    is_default = policy is None and "vobiz" in settings.provider_names
    return is_default or policy is SignaturePolicy.WHEN_PRESENT


def _risks(settings: Settings) -> list[str]:
    risks = []
    if settings.is_open:
        what = "simulated calls" if settings.uses_simulator else "calls"
        risks.append(f"no API_KEYS are set: anyone who reaches this port can place {what}")
    if not settings.uses_simulator and _lets_unsigned_in(settings):
        risks.append("callbacks without signature are let in by their call token (WEBHOOK_SIGNATURES)")
    if not settings.uses_simulator and settings.allowed_regions == setting_values.EVERYWHERE:
        risks.append("every region may be called (ALLOWED_REGIONS)")
    if not settings.uses_simulator and not settings.operator_keys.get_secret_value():
        risks.append("there is no kill switch (OPERATOR_KEYS)")
    if not settings.uses_simulator and not _has_ceiling(settings):
        risks.append("nothing limits what is spent on calls (SPEND_PER_HOUR, SPEND_PER_DAY, CALL_PRICES)")
    if is_tunnel(settings.public_url):
        risks.append("calls pass through a tunnel, whose operator can read the codes; use it for development only")
    return risks


def _has_ceiling(settings: Settings) -> bool:
    policy = guard_policy(settings)
    return policy.highest_price > 0 and (policy.spend_per_hour > 0 or policy.spend_per_day > 0)


if __name__ == "__main__":
    sys.exit(main())
