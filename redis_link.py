"""One connection to one Redis server: requests are pipelined, replies are matched in order.

A connection that is lost, or whose oldest request waits for too long, is torn down with all that waits, and made
anew in the background. Nothing is ever sent a second time here: what was lost may have been carried out.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import hiredis

from clock import Clock
from otp_store import StoreFull, StoreUnavailable
from redis_address import Address

logger = logging.getLogger(__name__)

CLIENT_NAME = "voice-otp"
# The process itself may have stood still: what has arrived meanwhile is read before a request counts as late.
_SECOND_LOOK_SECONDS = 0.01
_FIRST_PAUSE_SECONDS = 0.05
_KEEPALIVE_SECONDS = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5}
_NOTHING = object()
_LOST = "the store cannot be reached"
Part = bytes | str | int | float
# Its stub knows commands of one part only.
pack: Callable[[tuple[Part, ...]], bytes] = cast(Any, hiredis.pack_command)
_PING = pack(("PING",))

# What the server says in an error's first word, as people are told it. Never more of it: the rest can hold a key.
_TROUBLE = {
    "OOM": "the store is full",
    "READONLY": "the store is a replica, which takes no writes: the primary is needed",
    "LOADING": "the store is loading its data",
    "BUSY": "the store is busy with a script",
    "MISCONF": "the store cannot save its data",
    "CLUSTERDOWN": "the store's cluster is down",
    "TRYAGAIN": "the store is moving these keys",
    "MOVED": "the store moved these keys",
    "ASK": "the store is moving these keys",
    "NOSCRIPT": "the store forgot a script",
    "NOAUTH": "the store asks for a password: check REDIS_URL",
    "WRONGPASS": "the store refused user name or password: check REDIS_URL",
    "NOPERM": "the store's user lacks a permission",
    "NOREPLICAS": "the store has too few replicas",
}
# Redis 6 hides what a command in a script met behind words of its own.
_IN_A_SCRIPT = re.compile(r"ERR Error running script .*?: -([A-Z]+) ", re.DOTALL)


class RedisLimits(NamedTuple):
    """Pauses lie between attempts to connect; after `idle_seconds` without a request a link is tried."""

    operation_seconds: float = 0.5
    connect_seconds: float = 1.0
    longest_pause_seconds: float = 0.5
    idle_seconds: float = 5.0
    waiting: int = 10_000


def outcome(reply: Any) -> Any:
    """A reply as it came; an error as what it means to us. Raises: StoreUnavailable."""
    if not isinstance(reply, Exception):
        return reply
    if isinstance(reply, StoreUnavailable):
        raise reply
    word = error_word(reply)
    raise (StoreFull if word == "OOM" else StoreUnavailable)(_TROUBLE.get(word, "the store refused a command"))


def error_word(error: Exception) -> str:
    text = str(error)
    in_a_script = _IN_A_SCRIPT.match(text)
    return in_a_script[1] if in_a_script else text.partition(" ")[0]


class _Wire(asyncio.Protocol):
    """One connection, until it is lost. Errors, also that it was lost, are replies here."""

    def __init__(self, limits: RedisLimits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._is_idle = True
        self._late: tuple[asyncio.Future[Any], float] | None = None
        self._is_closed = asyncio.Event()
        self.lost: asyncio.Future[str] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _keep_alive(transport.get_extra_info("socket"))

    def request(self, packed: bytes) -> asyncio.Future[Any]:
        """Raises: StoreUnavailable when it was not even sent."""
        if self.lost.done():
            raise StoreUnavailable(_LOST)
        if len(self._waiting) >= self._limits.waiting:
            raise StoreUnavailable("too many requests wait for the store")
        if not self._unsent:
            self._loop.call_soon(self._flush)
        if self._is_idle:
            self._is_idle = False
            self._look_in(self._limits.operation_seconds)
        self._unsent.append(packed)
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((reply, self._loop.time()))
        return reply

    def _flush(self) -> None:
        """All requests of one turn of the loop leave together."""
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        is_demoted = False
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                waiting, _ = self._waiting.popleft()
                if not waiting.done():  # else its caller went away
                    waiting.set_result(reply)
                if isinstance(reply, hiredis.ReplyError) and error_word(reply) == "READONLY":
                    is_demoted = True
        except (hiredis.ProtocolError, IndexError):
            self.drop("what came is no reply")
        if is_demoted:  # there may be a new primary behind the same name
            self.drop("the server is a replica now")

    def _look_in(self, seconds: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """One timer for all requests: the oldest one is late before the others are."""
        if self._waiting:
            oldest = self._waiting[0]
            left_seconds = oldest[1] + self._limits.operation_seconds - self._loop.time()
            if left_seconds > 0:
                self._look_in(left_seconds)
            elif oldest is self._late:
                self.drop("it did not answer in time")
            else:
                self._late = oldest
                self._look_in(_SECOND_LOOK_SECONDS)
        elif not self._is_idle:
            self._is_idle = True
            self._look_in(self._limits.idle_seconds)
        else:
            self.request(_PING)

    def connection_lost(self, error: Exception | None) -> None:
        self.drop("the connection was lost")
        self._is_closed.set()

    def drop(self, why: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(why)
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        for waiting, _ in self._waiting:
            if not waiting.done():
                waiting.set_result(StoreUnavailable(_LOST))
        self._waiting.clear()

    async def close(self) -> None:
        self.drop("closed")
        await self._is_closed.wait()


def _keep_alive(connection: Any) -> None:
    if connection is None or connection.family == getattr(socket, "AF_UNIX", None):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in _KEEPALIVE_SECONDS.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


class Link:
    """A connection to one server that is made anew as often as it is lost; meanwhile requests fail at once."""

    def __init__(self, address: Address, clock: Clock, limits: RedisLimits) -> None:
        self.address = address
        self.is_in_cluster = False
        self._clock = clock
        self._limits = limits
        self._wire: _Wire | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return self._wire is not None and not self._wire.lost.done()

    async def open(self) -> None:
        """Raises: StoreUnavailable, and then nothing goes on in the background."""
        self._wire = await self._connect()
        self._keeper = asyncio.create_task(self._keep(self._wire), name="link to the store")

    def request(self, packed: bytes) -> asyncio.Future[Any]:
        """The reply to come; errors are replies. Raises: StoreUnavailable when it was not even sent."""
        if self._wire is None:
            raise StoreUnavailable(_LOST)
        return self._wire.request(packed)

    async def _keep(self, wire: _Wire) -> None:
        while True:
            trouble = await asyncio.shield(wire.lost)  # or a cancelled keeper would cancel it
            logger.error("the store is lost", extra={"trouble": trouble, **self._place})
            wire = self._wire = await self._reconnect()
            logger.warning("the store is back", extra=self._place)

    @property
    def _place(self) -> dict[str, object]:
        return {"server": self.address.place}

    async def _reconnect(self) -> _Wire:
        """At once, then after pauses that grow, and differ from process to process."""
        pause = _FIRST_PAUSE_SECONDS
        trouble = _LOST
        while True:
            try:
                return await self._connect()
            except StoreUnavailable as error:
                if str(error) != trouble:
                    trouble = str(error)
                    logger.warning("the store is not back yet", extra={"trouble": trouble, **self._place})
            await self._clock.sleep(pause * (500 + secrets.randbelow(501)) / 1000)
            pause = min(2 * pause, self._limits.longest_pause_seconds)

    async def _connect(self) -> _Wire:
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                wire = await self._make_wire()
                try:
                    await self._greet(wire)
                except BaseException:
                    await wire.close()
                    raise
                return wire
        except ssl.SSLCertVerificationError:
            raise StoreUnavailable(
                "the store's certificate is not trusted, or is for another host: docs/deploying.md, ssl_ca_certs"
            ) from None
        except ssl.SSLError:
            raise StoreUnavailable("TLS with the store failed: is it rediss:// on both sides?") from None
        except (OSError, TimeoutError):
            raise StoreUnavailable(_LOST) from None

    async def _make_wire(self) -> _Wire:
        loop, address = asyncio.get_running_loop(), self.address
        if address.path is not None:
            return (await loop.create_unix_connection(lambda: _Wire(self._limits), address.path))[1]
        tls = None
        if address.tls is not None:  # read anew each time: certificates are renewed
            try:
                tls = await asyncio.to_thread(address.tls.context)
            except ValueError as error:
                raise StoreUnavailable(f"REDIS_URL {error}") from None
        return (await loop.create_connection(lambda: _Wire(self._limits), address.host, address.port, ssl=tls))[1]

    async def _greet(self, wire: _Wire) -> None:
        """Raises: StoreUnavailable while the server is not one that we can write to."""
        needed = [*self.address.greeting(), ("PING",)]
        # A proxy, or a user with few permissions, may know neither of these.
        wished = [("CLIENT", "SETNAME", CLIENT_NAME), ("HELLO", 2)]
        replies = await asyncio.gather(*(wire.request(pack(command)) for command in [*needed, *wished]))
        for reply in replies[: len(needed)]:
            outcome(reply)
        facts = replies[-1] if isinstance(replies[-1], list) else []
        of_server = dict(zip(facts[::2], facts[1::2], strict=False))
        self.is_in_cluster = of_server.get(b"mode") == b"cluster"
        if of_server.get(b"role") == b"replica" and not self.is_in_cluster:
            raise StoreUnavailable(_TROUBLE["READONLY"])

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._wire is not None:
            await self._wire.close()
