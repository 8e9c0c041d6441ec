"""Limits against senders that are slow, silent, or send endless request heads: they are cut, at little cost.

At any moment a connection waits for one of three: for the app, which has all the time it needs; for the next
request, while uvicorn's keep-alive timer runs; or for its sender, and that is limited here. There is no timer per
request: each connection remembers since which sweep it waits for its sender, and one sweep per second over all
connections cuts the overdue ones.

Time is counted in sweeps instead of seconds. When the process was stopped, or had no time to read, it cannot tell
whether a sender was slow; such a pause counts as one sweep, however long it was.

A service that stops loses no request. uvicorn would close idle connections at once, also those on which a request
is under way; here they stay until their keep-alive time is over, and what comes until then is answered, with
`Connection: close`.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from log_format import log_unexpected

# A sweep goes in slices of less than a millisecond; in between, requests have their turn.
LOOKS_A_SLICE = 500
CUTS_A_SLICE = 16
NEVER = sys.maxsize
MOST_PIPELINED = 8  # requests of a connection that wait for the one before; nobody here needs any


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """A sender has `sweeps` full times `sweep_seconds` for its request head, and again for the body."""

    sweep_seconds: float = 1.0
    sweeps: int = 10
    head_bytes: int = 16 * 1024


class LimitedConnections(ServerState):
    """What uvicorn's connections share, and the sweep over them."""

    def __init__(self, limits: ReceiveLimits) -> None:
        super().__init__()
        self.limits = limits
        self.sweeps = 0
        self.is_draining = False
        """Whether each response that begins is the last one on its connection."""
        self.closes_idle = False

    def drain(self, *, closes_idle: bool) -> None:
        """From now on connections end: idle ones at once if that is wanted, else when their time is over."""
        self.is_draining = True
        self.closes_idle = closes_idle

    async def keep_sweeping(self) -> None:
        """Sweep at the set interval; runs until it is cancelled."""
        while True:
            await asyncio.sleep(self.limits.sweep_seconds)
            try:
                await self.sweep()
            except Exception as error:  # one bad sweep must not end all later ones
                log_unexpected(error, "the sweep over connections")

    async def sweep(self) -> None:
        """Count one sweep, and cut the connections whose senders had their time."""
        self.sweeps += 1
        # A wait that began after sweep n has lasted one full interval at sweep n + 2: hence "less than".
        due = self.sweeps - self.limits.sweeps
        everyone = cast("list[LimitedProtocol]", list(self.connections))
        overdue: list[LimitedProtocol] = []
        async for some in _slices(everyone, LOOKS_A_SLICE):
            overdue += [connection for connection in some if connection.receiving_since < due]
        async for some in _slices(overdue, CUTS_A_SLICE):
            for connection in some:
                connection.cut_if_overdue(due)


async def _slices(connections: "list[LimitedProtocol]", size: int) -> AsyncIterator["list[LimitedProtocol]"]:
    for start in range(0, len(connections), size):
        yield connections[start : start + size]
        await asyncio.sleep(0)


class Part(Enum):
    """What part of a request the next byte belongs to."""

    NONE = "none, or empty lines before one"
    HEAD = "head"
    BODY = "body"


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection, with a limited time and size for what its sender sends."""

    def __init__(
        self,
        config: Config,
        server_state: LimitedConnections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = server_state
        self._head_bytes = server_state.limits.head_bytes
        self.part = Part.NONE
        self.receiving_since = server_state.sweeps
        """The sweep since which the sender is awaited; NEVER while the app or uvicorn's timer has its turn."""
        self.room = self._head_bytes
        """How many bytes may come until a head must have ended. 0 means that one was too long."""

    def data_received(self, data: bytes) -> None:
        if self.receiving_since == NEVER:
            # Not only when a request begins: uvicorn stops its timer for any byte, also for an empty line.
            self.receiving_since = self._all.sweeps
        if len(data) < self.room:
            self.room -= len(data)
            super().data_received(data)
        else:
            self._receive_in_pieces(data)

    def _receive_in_pieces(self, data: bytes) -> None:
        """Give the parser, which keeps a head of any length, no more of one than the limit.

        The parser does not say where in a piece a head ends. But a piece fills the room that is left: if no head
        and no request ended in it, all of it belongs to one head, or to a body. Only a pipelined head can be
        longer, by what came in one piece with the request before it.
        """
        start = 0
        while start < len(data) and self.room and not self.transport.is_closing():
            piece = data[start : start + self.room]
            start += len(piece)
            self.room -= len(piece)
            super().data_received(piece)
            if self.room == 0:
                self._out_of_room()

    def _out_of_room(self) -> None:
        if self.part is Part.BODY:
            self.room = self._head_bytes  # the app limits bodies
        elif self._is_answering():
            self.flow.pause_reading()  # the response under way comes first
        elif not self.transport.is_closing():
            self._answer_and_close(431)

    # The end of the service

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._all.is_draining:  # it was accepted just before the port was given up
            self.shutdown()

    def shutdown(self) -> None:
        if self._all.closes_idle:
            super().shutdown()
        elif self._is_unanswered():
            # A head that was sent already told the client that it may go on: the next response is the last then.
            self.cycle.keep_alive = self.cycle.keep_alive and self.cycle.response_started
        elif self.part is Part.NONE and self.timeout_keep_alive_task is None:
            # Silent since it was made. A sender who begins has the usual time.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # What the parser and the response tell

    def on_message_begin(self) -> None:
        self.part = Part.HEAD
        if self.cycle is not None:  # the first request had to come since the connection was made
            self.receiving_since = self._all.sweeps
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MOST_PIPELINED:
            self.transport.abort()  # it asks without reading the answers, each of which would wait here
            return
        self.part = Part.BODY
        self.room = self._head_bytes
        self.receiving_since = self._all.sweeps
        super().on_headers_complete()
        if self._all.is_draining:
            self.cycle.keep_alive = False  # which uvicorn says in the response

    def on_message_complete(self) -> None:
        if self.transport.is_closing():
            return
        self.part = Part.NONE
        self.room = self._head_bytes
        # After an early response, such as a 413, uvicorn's timer is already over and would not be set again.
        self.receiving_since = self._all.sweeps if self.cycle.response_complete else NEVER
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is None:
            return  # closing, or the next response is under way
        if self.room == 0:
            self._answer_and_close(431)
        elif self.part is Part.NONE:
            self.receiving_since = NEVER
        else:
            self._unset_keepalive_if_required()  # it measures idle time, and a request is coming in

    # Cutting

    def cut_if_overdue(self, due: int) -> None:
        """Cut the connection if it waits for its sender, and has since before this sweep."""
        if self.receiving_since >= due or self.transport.is_closing() or self._is_answering():
            return
        if self._is_held_up_by_us():
            self.receiving_since = self._all.sweeps
        elif self.part is Part.HEAD or self._is_unanswered():
            self._answer_and_close(408)
        else:
            self.transport.close()  # silent, or still sending what was already answered

    def _is_unanswered(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_answering(self) -> bool:
        """Whether a response has begun, or only the app is awaited for one. None of it depends on the sender."""
        return self._is_unanswered() and (
            bool(self.pipeline) or self.cycle.response_started or not self.cycle.more_body
        )

    def _is_held_up_by_us(self) -> bool:
        """Whether the sender cannot send: we do not read, or have not told it to continue."""
        return self.flow.read_paused or (self._is_unanswered() and self.cycle.waiting_for_100_continue)

    def _answer_and_close(self, status: int) -> None:
        headers = [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        end = b"content-length: 0\r\nconnection: close\r\n\r\n"
        self._unset_keepalive_if_required()
        self.transport.write(b"".join([STATUS_LINE[status], *headers, end]))
        self.transport.close()
        if self._is_unanswered():
            self.cycle.disconnected = True  # nothing that the app still says may follow
            self.cycle.message_event.set()


def raise_descriptor_limit() -> None:
    """Let the process open as many connections as the system permits; usual soft limits are far lower."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and then refuses it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
