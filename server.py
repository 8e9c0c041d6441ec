"""Wires the parts into one FastAPI app; `python server.py` serves it."""

import asyncio
import contextlib
import errno
import gc
import logging
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import FrameType

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
import recorded_audio
import webhooks
from banner import banner
from carriers import open_carrier, open_texter
from clock import Clock
from connection_limits import LimitedConnections, LimitedProtocol, ReceiveLimits, raise_descriptor_limit
from http_client import open_http_client
from lean_route import MAX_BODY_BYTES, LeanApp
from log_format import set_up_logging
from ops import Readiness
from otp_store import StoreUnavailable
from protection import Protection, open_protection
from services import Services, open_services
from settings import BadSettings, NoInput, Settings, load_settings
from simulator import phone
from simulator.clock import SimulatorClock
from simulator.phone import PhoneExchange
from simulator.plivo_call import LONGEST_CALLBACK_SECONDS
from simulator.simulated_carriers import Network, SimulatedCarrier, simulate
from stores import Stores, open_stores
from workers import WORKER_FLAG, Order, ParentLine, Supervisor

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
    settings: Settings | None = None,
    clock: Clock | None = None,
    http: httpx.AsyncClient | None = None,
    stores: Stores | None = None,
) -> FastAPI:
    """The app with all its parts. It closes `http`, through which carriers are asked, and `stores`.

    Raises: BadSettings.
    """
    settings = settings or load_settings()
    if not settings.otp_secrets:  # in memory, where what is sealed ends with the process
        settings = settings.model_copy(update={"otp_secret": SecretStr(secrets.token_urlsafe(32))})
    stores = stores or open_stores(settings, clock or Clock())
    clock = stores.clock
    http = http or open_http_client(settings.provider_deadline_seconds)
    simulated = _simulated_carriers(settings) if settings.uses_simulator else {}
    carrier_settings = _simulated_settings(settings, simulated) if simulated else settings
    clients = [open_carrier(name, carrier_settings, http) for name in settings.provider_names]
    protection = open_protection(settings, stores.guard, clock)
    texters = {name: open_texter(name, carrier_settings, http) for name in settings.sms_provider_names}
    services = open_services(settings, clients, texters, protection, stores)
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
        lifespan=_lifespan(services, readiness, simulated, http, stores),
        # Spans and error records would hold paths and messages, and with them numbers and call tokens.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    problems.install(app)
    app.state.service, app.state.timekeeper, app.state.jobs = services.otp, services.timekeeper, stores.jobs
    app.state.readiness = readiness
    app.state.carriers = {name: one.carrier for name, one in simulated.items()}
    app.state.carrier = next(iter(app.state.carriers.values()), None)
    return app


def _simulated_settings(settings: Settings, simulated: Mapping[str, SimulatedCarrier]) -> Settings:
    """With simulated accounts and APIs, on our own address, in the place of the carriers'."""
    update: dict[str, object] = {"from_number": settings.caller_id}
    for one in simulated.values():
        for name, value in one.settings.items():
            is_secret = isinstance(getattr(settings, name), SecretStr)
            update[name] = SecretStr(str(value)) if is_secret else value
    return settings.model_copy(update=update)


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
    return simulate(list(names), settings.own_url, network)


def _routes(
    settings: Settings,
    clock: Clock,
    services: Services,
    protection: Protection,
    readiness: Readiness,
    simulated: Mapping[str, SimulatedCarrier],
) -> list[BaseRoute]:
    routes = [
        *app_api.routes(services.otp, protection, services.speech.rules, settings),
        *webhooks.routes(services.flow, services.texts),
        *recorded_audio.routes(services.speech.recordings),
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
    services: Services,
    readiness: Readiness,
    simulated: Mapping[str, SimulatedCarrier],
    http: httpx.AsyncClient,
    stores: Stores,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await stores.open()
        tasks = [
            asyncio.create_task(services.timekeeper.keep_time(), name="timekeeper"),
            asyncio.create_task(stores.keep(), name="stores"),
        ]
        # What was made at start stays for good: keep the garbage collector from looking at it over and over.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        readiness.is_ready = True
        yield
        readiness.is_ready = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await stores.jobs.close()  # what it does needs all the rest
        await services.placer.close()
        for one in simulated.values():
            await one.carrier.close()
        await http.aclose()
        await stores.close()

    return lifespan


class Server(uvicorn.Server):
    """uvicorn, which cuts slow senders, and stops without losing a request.

    A stop by a signal: not ready any more, and still serving for `stop_delay_seconds`; then the port is given up,
    and what comes on open connections is answered until they have ended. Ctrl+C leaves out the waiting, and a
    second signal everything.
    """

    def __init__(
        self,
        app: FastAPI,
        limits: ReceiveLimits | None = None,
        drain_seconds: int = DRAIN_SECONDS,
        stop_delay_seconds: float = 0,
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
        self._stop_delay_seconds = stop_delay_seconds
        self._delay_seconds = 0.0
        self._is_patient = False
        self._has_heard_signal = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self.connections.keep_sweeping(), name="sweeper")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(self._delay_seconds)
        self.connections.drain(closes_idle=not self._is_patient)
        await super().shutdown(sockets)  # with sweeps: a slow sender must not hold the stop up
        self._sweeper.cancel()

    def stop(self) -> None:
        """Begin to stop: not ready any more, event streams ended (they would hold the stop up), then drain."""
        self._app.state.readiness.is_ready = False
        if self._app.state.carrier is not None:
            self._app.state.carrier.phones.close()
        self.should_exit = True

    def stop_patiently(self) -> None:
        """The same, while others still send: they are to find out, and to lose no request by it."""
        self._is_patient = True
        self._delay_seconds = self._stop_delay_seconds
        self.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._has_heard_signal:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._has_heard_signal = True
        if sig == signal.SIGINT:
            self.stop()
        elif not self.should_exit:
            self.stop_patiently()


class Worker(Server):
    """One of several on a port: says when it serves, and stops when the parent says so, or is gone."""

    def __init__(self, app: FastAPI, parent: ParentLine, stop_delay_seconds: float = 0) -> None:
        super().__init__(app, stop_delay_seconds=stop_delay_seconds)
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._obeying = asyncio.create_task(self._obey(), name="orders")

    async def _obey(self) -> None:
        order = await self._parent.serve_until_ordered()
        if order is Order.RETIRE:
            # Others serve on the port: the service stays ready, and nobody has to find out.
            self._is_patient = self.should_exit = True
        elif not self.should_exit:
            self.stop_patiently()


def main(arguments: Sequence[str] = ()) -> int:
    """Serve until a signal comes. Bad settings end the start with one line each."""
    raise_descriptor_limit()
    try:
        return _work() if WORKER_FLAG in arguments else _serve()
    except BadSettings as error:
        for problem in error.problems:
            print(f"voice-otp: {problem}", file=sys.stderr)
        return 2


def _serve() -> int:
    settings = load_settings()
    listener = _listen(settings)
    settings = settings.model_copy(update={"http_port": listener.getsockname()[1]})
    set_up_logging(settings.log_format, shows_process=settings.workers > 1)
    if settings.needs_tunnel:
        settings = settings.model_copy(update={"public_url": _open_tunnel(settings)})
    app = create_app(settings)  # also where workers make their own: what is wrong is said once, before they start
    if settings.redis_address:
        _check_redis(settings)
    print(banner(settings), file=sys.stderr, flush=True)
    if settings.workers > 1:
        return supervise([sys.executable, __file__], listener, settings)
    server = Server(app, stop_delay_seconds=settings.stop_delay_seconds)
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, server.handle_exit)  # there is no other process that could take over
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 0


def supervise(command: Sequence[str], listener: socket.socket, settings: Settings) -> int:
    """Serve with several processes. They read the settings anew, except those of the port and the store."""
    shared = {
        "http_host": settings.http_host,
        "http_port": settings.http_port,
        "public_url": settings.public_url,
        "redis_url": settings.redis_url.get_secret_value(),
    }
    return asyncio.run(Supervisor(command, listener, settings.workers, shared).run())


def _work() -> int:
    parent = ParentLine()
    settings = load_settings(**parent.settings)
    set_up_logging(settings.log_format, shows_process=True)
    Worker(create_app(settings), parent, settings.stop_delay_seconds).run(sockets=[parent.listener])
    return 0


def _check_redis(settings: Settings) -> None:
    """Look at Redis before anything is served. Raises: BadSettings."""
    # Imported only here, as in `stores.py`.
    import redis_checks
    from redis_connection import Redis
    from redis_stores import check_names

    clock, url = Clock(), settings.redis_url.get_secret_value()
    try:
        findings = asyncio.run(redis_checks.look_patiently(lambda: Redis(url, clock), clock))
        reasons = [one.text for one in findings if one.severity is redis_checks.Severity.REFUSE]
        if not reasons:
            asyncio.run(check_names(settings))
    except StoreUnavailable as error:
        reasons = [str(error)]
    if reasons:
        place = f"REDIS_URL: the Redis at {settings.redis_address} cannot be used"
        raise BadSettings([f"{place}: {reason}" for reason in reasons])
    for finding in findings:
        redis_checks.report(finding)


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
