"""Slow, silent and oversized senders over real sockets. Time is a sweep, and sweeps come when a test says so."""

import asyncio
import contextlib
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from connection_limits import (
    MOST_PIPELINED,
    LimitedConnections,
    LimitedProtocol,
    Part,
    ReceiveLimits,
    raise_descriptor_limit,
)
from lean_route import MAX_BODY_BYTES
from tests.conftest import RunningService, run_service

LIMITS = ReceiveLimits()
GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
HALF_HEAD = b"GET /health HTTP/1.1\r\nhost"
POST = b"POST /verify-otp HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
HALF_BODY = POST + b'content-length: 40\r\n\r\n{"phone": '
OK = b"HTTP/1.1 200 OK"
TIMED_OUT = b"HTTP/1.1 408 Request Timeout"
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large"


class ListeningProtocol(LimitedProtocol):
    """Tells how much it has heard."""

    accepted: "asyncio.Queue[ListeningProtocol]"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heard = 0
        self.news = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.accepted.put_nowait(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.heard += len(data)
        self.news.set()


class Sender:
    """One raw connection, and the server's side of it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: ListeningProtocol
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._sent = 0
        self.connection = connection

    async def send(self, data: bytes) -> None:
        """Send, and wait until the server has it."""
        self._writer.write(data)
        self._sent += len(data)
        while self.connection.heard < self._sent:
            await self.connection.news.wait()
            self.connection.news.clear()

    def send_unheard(self, data: bytes) -> None:
        """Send what the server may refuse to read."""
        self._writer.write(data)

    async def answer(self) -> bytes:
        """The next response, head and body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        return head + await self._reader.readexactly(int(length.partition(b":")[2]))

    async def interim_answer(self) -> bytes:
        """The next response, which has no more than a status line."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        received = b""
        with contextlib.suppress(ConnectionResetError):  # it was closed with something of ours unread
            while data := await self._reader.read(65536):
                received += data
        return received

    @property
    def is_cut(self) -> bool:
        return self.connection.transport.is_closing()

    def close(self) -> None:
        self._writer.close()


class World:
    """A running service whose time is in our hands."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self._accepted: asyncio.Queue[ListeningProtocol] = asyncio.Queue()
        self._senders: list[Sender] = []
        protocol = type("Protocol", (ListeningProtocol,), {"accepted": self._accepted})
        service.server.config.http_protocol_class = protocol

    def serve(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        """Put an app in place of the service, for connections that are still to come."""
        self.service.server.config.loaded_app = app

    async def connect(self) -> Sender:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.service.settings.http_port)
        connection = await self._accepted.get()
        while connection.client != writer.get_extra_info("sockname"):  # another client's
            connection = await self._accepted.get()
        sender = Sender(reader, writer, connection)
        self._senders.append(sender)
        return sender

    async def sweep(self, times: int = 1) -> None:
        for _ in range(times):
            await self.service.server.connections.sweep()

    async def pass_limit(self) -> None:
        """Let pass just enough time that who waits since now is overdue."""
        await self.sweep(LIMITS.sweeps + 1)

    def close(self) -> None:
        for sender in self._senders:
            sender.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with run_service() as service:
        made = World(service)
        yield made
        made.close()


class GatedApp:
    """An app that answers 200 when the gate opens, and never reads."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class ReadingApp(GatedApp):
    """Begins to read when the gate opens, keeps what it was told, and tries to answer whatever that was."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.is_done = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.gate.wait()
        more = True
        while more:
            message = await receive()
            self.told.append(message["type"])
            more = message.get("more_body", False)
        await super().__call__(scope, receive, send)
        self.is_done.set()


# Slow senders


async def test_a_silent_connection_is_closed_without_an_answer(world: World) -> None:
    sender = await world.connect()
    await world.sweep(LIMITS.sweeps)
    assert not sender.is_cut, "it has its full time"
    await world.sweep()
    assert await sender.rest() == b""


async def test_half_a_head_is_answered_with_408(world: World) -> None:
    sender = await world.connect()
    await sender.send(HALF_HEAD)
    await world.pass_limit()
    answer = await sender.rest()
    assert answer.startswith(TIMED_OUT)
    assert b"\r\nconnection: close\r\n" in answer
    assert b"\r\ncontent-length: 0\r\n" in answer


async def test_a_head_in_single_bytes_gets_no_more_time(world: World) -> None:
    sender = await world.connect()
    for byte in HALF_HEAD[: LIMITS.sweeps]:
        await sender.send(bytes([byte]))
        await world.sweep()
    assert not sender.is_cut
    await sender.send(b"/")
    await world.sweep()
    assert (await sender.rest()).startswith(TIMED_OUT)


async def test_a_slow_head_that_comes_in_time_is_served_and_its_body_has_time_of_its_own(world: World) -> None:
    sender = await world.connect()
    await sender.send(HALF_BODY[:20])
    await world.sweep(LIMITS.sweeps)
    await sender.send(HALF_BODY[20:])
    await world.sweep(LIMITS.sweeps)
    assert not sender.is_cut
    await sender.send(b" " * 30)
    assert (await sender.answer()).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(HALF_BODY, id="by length"),
        pytest.param(POST + b"transfer-encoding: chunked\r\n\r\n5\r\n{", id="chunked"),
    ],
)
async def test_half_a_body_is_answered_with_408_and_not_by_the_app(world: World, half: bytes) -> None:
    sender = await world.connect()
    await sender.send(half)
    await world.sweep(LIMITS.sweeps)
    assert not sender.is_cut
    await world.sweep()
    answer = await sender.rest()
    assert answer.startswith(TIMED_OUT)
    assert answer.count(b"HTTP/1.1") == 1


async def test_the_app_hears_that_half_a_body_is_all(world: World) -> None:
    app = ReadingApp()
    app.gate.set()
    world.serve(app)
    sender = await world.connect()
    await sender.send(HALF_BODY)
    await world.pass_limit()
    await app.is_done.wait()
    assert app.told[-1] == "http.disconnect"
    assert (await sender.rest()).count(b"HTTP/1.1") == 1, "what the app still said is dropped"


async def test_a_body_in_single_bytes_gets_no_more_time(world: World) -> None:
    sender = await world.connect()
    await sender.send(HALF_BODY)
    for _ in range(LIMITS.sweeps + 1):
        await sender.send(b" ")
        await world.sweep()
    assert (await sender.rest()).startswith(TIMED_OUT)


async def test_a_healthy_connection_survives_many_sweeps_and_its_next_request_counts_anew(world: World) -> None:
    sender = await world.connect()
    for _ in range(3):
        await sender.send(GET)
        assert (await sender.answer()).startswith(OK)
        await world.sweep(5 * LIMITS.sweeps)
    await sender.send(HALF_HEAD)
    await world.sweep(LIMITS.sweeps)
    assert not sender.is_cut
    await world.sweep()
    assert (await sender.rest()).startswith(TIMED_OUT)


async def test_half_a_second_request_behind_the_first_is_answered_with_408(world: World) -> None:
    sender = await world.connect()
    await sender.send(GET + HALF_HEAD)
    assert (await sender.answer()).startswith(OK)
    assert sender.connection.timeout_keep_alive_task is None, "a request that comes in is not idle time"
    await world.pass_limit()
    assert (await sender.rest()).startswith(TIMED_OUT)


async def test_half_a_second_body_behind_the_first_request_is_answered_with_408(world: World) -> None:
    sender = await world.connect()
    await sender.send(GET + HALF_BODY)
    assert (await sender.answer()).startswith(OK)
    await world.pass_limit()
    assert (await sender.rest()).startswith(TIMED_OUT)


async def test_empty_lines_do_not_keep_an_idle_connection(world: World) -> None:
    sender = await world.connect()
    await sender.send(GET)
    await sender.answer()
    for _ in range(LIMITS.sweeps + 1):
        await sender.send(b"\r\n")
        assert sender.connection.timeout_keep_alive_task is None, "uvicorn stopped its timer"
        await world.sweep()
    assert await sender.rest() == b"", "no request had begun"


async def test_empty_lines_behind_a_request_do_not_end_its_keep_alive_time(world: World) -> None:
    app = GatedApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(GET)
    await app.asked.wait()
    await sender.send(b"\r\n")
    await world.pass_limit()
    app.gate.set()
    assert (await sender.answer()).startswith(OK)
    await world.pass_limit()
    assert not sender.is_cut
    assert sender.connection.timeout_keep_alive_task is not None


async def test_who_was_stopped_for_long_cuts_nobody_at_once(world: World) -> None:
    sender = await world.connect()
    await sender.send(HALF_HEAD)
    await world.sweep()  # however long after the last one
    assert not sender.is_cut


# Responses under way


async def test_a_slow_response_survives_with_half_a_request_behind_it(world: World) -> None:
    app = GatedApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(GET)
    await app.asked.wait()
    await world.sweep(5 * LIMITS.sweeps)
    await sender.send(HALF_HEAD)
    await world.sweep(5 * LIMITS.sweeps)
    assert not sender.is_cut
    app.gate.set()
    assert (await sender.answer()).startswith(OK)
    await world.sweep()
    assert (await sender.rest()).startswith(TIMED_OUT), "the half request had its time"


async def test_a_slow_response_survives_with_half_a_body_queued_behind_it(world: World) -> None:
    app = GatedApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(GET + HALF_BODY)
    await app.asked.wait()
    sender.connection.flow.resume_reading()  # as when the first app asks for more of its request
    await world.sweep(5 * LIMITS.sweeps)
    assert not sender.is_cut
    app.gate.set()
    assert (await sender.answer()).startswith(OK)


async def test_the_event_stream_survives(world: World) -> None:
    async with world.service.client.stream("GET", "/simulator/phone/events") as stream:
        lines = stream.aiter_lines()
        assert "hello" in await anext(lines)
        await world.sweep(5 * LIMITS.sweeps)
        await world.service.send("+14155550142")
        while "ringing" not in await anext(lines):
            pass


async def test_a_response_that_began_before_its_body_was_there_comes_to_its_end(world: World) -> None:
    app = GatedApp()
    started = asyncio.Event()

    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        started.set()
        await app.gate.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    world.serve(early)
    sender = await world.connect()
    await sender.send(HALF_BODY)
    await started.wait()
    await world.sweep(5 * LIMITS.sweeps)
    app.gate.set()
    assert (await sender.answer()).endswith(b"ok")
    await world.sweep()
    assert await sender.rest() == b"", "it was answered: no second answer"


async def test_a_sender_is_not_blamed_while_the_app_does_not_read(world: World) -> None:
    app = ReadingApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(POST + b"content-length: 70000\r\n\r\n" + b" " * 69_000)
    assert sender.connection.flow.read_paused
    await world.sweep(5 * LIMITS.sweeps)
    app.gate.set()
    await sender.send(b" " * 1000)
    assert (await sender.answer()).startswith(OK)
    assert "http.disconnect" not in app.told


async def test_a_sender_that_awaits_100_continue_is_not_blamed(world: World) -> None:
    app = ReadingApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(POST + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n")
    await world.sweep(5 * LIMITS.sweeps)
    assert not sender.is_cut
    app.gate.set()
    await sender.send(b"{}")
    assert await sender.interim_answer() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await sender.answer()).startswith(OK)


# Oversized senders


def head_of(size: int) -> bytes:
    start, end = b"GET /health HTTP/1.1\r\nx: ", b"\r\n\r\n"
    return start + b"a" * (size - len(start) - len(end)) + end


async def in_one_piece(sender: Sender, head: bytes) -> None:
    sender.send_unheard(head)


async def in_pieces(sender: Sender, head: bytes) -> None:
    for start in range(0, len(head), 1000):
        sender.send_unheard(head[start : start + 1000])
        await sender.connection.news.wait()
        sender.connection.news.clear()


@pytest.mark.parametrize("send", [in_one_piece, in_pieces])
async def test_a_head_of_just_the_limit_is_served_one_byte_more_is_not(
    world: World, send: Callable[[Sender, bytes], Awaitable[None]]
) -> None:
    sender = await world.connect()
    for _ in range(2):
        await send(sender, head_of(LIMITS.head_bytes))
        assert (await sender.answer()).startswith(OK)
    await send(sender, head_of(LIMITS.head_bytes + 1))
    answer = await sender.rest()
    assert answer.startswith(HEAD_TOO_LARGE)
    assert b"\r\nconnection: close\r\n" in answer


async def test_a_url_without_end_is_refused(world: World) -> None:
    sender = await world.connect()
    sender.send_unheard(b"GET /" + b"a" * 2 * LIMITS.head_bytes)
    assert (await sender.rest()).startswith(HEAD_TOO_LARGE)
    assert len(sender.connection.url) <= LIMITS.head_bytes


async def test_empty_lines_without_end_are_refused(world: World) -> None:
    sender = await world.connect()
    sender.send_unheard(b"\r\n" * LIMITS.head_bytes)
    assert (await sender.rest()).startswith(HEAD_TOO_LARGE)


async def test_many_small_requests_in_one_piece_are_not_one_large_head(world: World) -> None:
    sender = await world.connect()
    large = GET.replace(b"\r\n\r\n", b"\r\nx: " + LIMITS.head_bytes // 5 * b"x" + b"\r\n\r\n")
    sender.send_unheard(large * MOST_PIPELINED)
    for _ in range(MOST_PIPELINED):
        assert (await sender.answer()).startswith(OK)


async def test_a_sender_that_asks_on_without_reading_is_cut_and_fills_no_memory(world: World) -> None:
    app = GatedApp()
    world.serve(app)
    sender = await world.connect()
    sender.send_unheard(GET * 20_000)
    await app.asked.wait()
    await sender.rest()
    assert len(sender.connection.pipeline) <= MOST_PIPELINED
    app.gate.set()  # or the stop would wait for the app


async def test_a_large_head_behind_a_slow_request_waits_for_its_response(world: World) -> None:
    app = GatedApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(GET)
    await app.asked.wait()
    await sender.send(head_of(2 * LIMITS.head_bytes))
    assert sender.connection.flow.read_paused, "no more of it is read"
    await world.sweep(5 * LIMITS.sweeps)
    app.gate.set()
    assert (await sender.answer()).startswith(OK)
    assert (await sender.rest()).startswith(HEAD_TOO_LARGE)


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        pytest.param(
            POST + b"content-length: 60000\r\n\r\n" + b" " * (MAX_BODY_BYTES + 1),
            b" " * (60_000 - MAX_BODY_BYTES - 1),
            id="by length",
        ),
        pytest.param(
            POST + b"transfer-encoding: chunked\r\n\r\n4001\r\n" + b" " * (MAX_BODY_BYTES + 1),
            b"\r\n0\r\n\r\n",
            id="chunked",
        ),
    ],
)
async def test_a_body_over_the_limit_is_refused_before_the_rest_is_read(
    world: World, start: bytes, rest: bytes
) -> None:
    sender = await world.connect()
    await sender.send(start)
    assert (await sender.answer()).startswith(b"HTTP/1.1 413")
    await sender.send(rest)
    assert sender.connection.part is Part.NONE
    await sender.send(GET)
    assert (await sender.answer()).startswith(OK), "who sends the rest may go on"


async def test_who_sends_the_rest_of_a_refused_body_too_slowly_is_cut(world: World) -> None:
    sender = await world.connect()
    await sender.send(POST + b"content-length: 60000\r\n\r\n" + b" " * (MAX_BODY_BYTES + 1))
    await sender.answer()
    await sender.send(b" ")
    await world.pass_limit()
    assert await sender.rest() == b"", "it was answered already"


async def test_who_falls_silent_behind_a_refused_body_is_cut(world: World) -> None:
    sender = await world.connect()
    await sender.send(POST + b"content-length: 16386\r\n\r\n" + b" " * (MAX_BODY_BYTES + 1))
    await sender.answer()
    await sender.send(b" ")
    assert sender.connection.timeout_keep_alive_task is None, (
        "uvicorn sets no timer for a request that was answered"
    )
    await world.pass_limit()
    assert await sender.rest() == b""


# Many


@pytest.mark.untraced
async def test_one_sweep_cuts_a_thousand_and_a_healthy_client_is_served_meanwhile(world: World) -> None:
    raise_descriptor_limit()
    senders = [await world.connect() for _ in range(1000)]
    for number, sender in enumerate(senders):
        await sender.send((HALF_HEAD, HALF_BODY, b"\r\n")[number % 3])
    await world.sweep(LIMITS.sweeps)
    assert not any(sender.is_cut for sender in senders)
    sweep = asyncio.create_task(world.sweep())
    assert (await world.service.client.get("/health")).status_code == 200
    await sweep
    assert all(sender.is_cut for sender in senders)
    answers = [await sender.rest() for sender in senders]
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {TIMED_OUT, b""}
    assert (await world.service.client.get("/health")).status_code == 200


async def test_requests_have_their_turn_while_many_are_cut(world: World) -> None:
    senders = [await world.connect() for _ in range(100)]
    await world.sweep(LIMITS.sweeps)
    cut_so_far: list[int] = []

    async def look_on() -> None:
        while len(cut_so_far) < 3:
            await asyncio.sleep(0)
            cut_so_far.append(sum(sender.is_cut for sender in senders))

    await asyncio.gather(world.sweep(), look_on())
    assert 0 < cut_so_far[-1] < len(senders)
    assert all(sender.is_cut for sender in senders)


async def test_sweeps_go_on_although_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(LimitedConnections):
        went_on = asyncio.Event()

        async def sweep(self) -> None:
            self.sweeps += 1
            if self.sweeps > 1:
                self.went_on.set()
            raise RuntimeError("a secret message")

    connections = Failing(ReceiveLimits(sweep_seconds=0))
    sweeping = asyncio.create_task(connections.keep_sweeping())
    await connections.went_on.wait()
    sweeping.cancel()
    assert "unexpected RuntimeError" in caplog.text
    assert "a secret message" not in caplog.text


# Descriptors


def test_the_descriptor_limit_is_raised_as_far_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: wanted.append((kind, limits)))
    raise_descriptor_limit()
    assert wanted == [(resource.RLIMIT_NOFILE, (4096, 4096))]


def test_a_system_that_refuses_more_descriptors_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_descriptor_limit()


def test_without_the_resource_module_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    raise_descriptor_limit()


# The end of the service


class StreamingApp(GatedApp):
    """An app whose response has begun before the gate opens."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        self.asked.set()
        await self.gate.wait()
        await send({"type": "http.response.body", "body": b"k"})


def drain(world: World, *, closes_idle: bool = False) -> None:
    connections = world.service.server.connections
    connections.drain(closes_idle=closes_idle)
    for connection in list(connections.connections):
        connection.shutdown()


CLOSES = b"\r\nconnection: close\r\n"


async def test_a_request_that_comes_as_the_service_stops_is_answered_as_the_last_one(world: World) -> None:
    sender, half = await world.connect(), await world.connect()
    await sender.send(GET)
    assert CLOSES not in await sender.answer()
    await half.send(HALF_HEAD)
    drain(world)
    await sender.send(GET)
    await half.send(GET.removeprefix(HALF_HEAD))
    for one in (sender, half):
        answer = await one.answer()
        assert answer.startswith(OK)
        assert CLOSES in answer
        assert await one.rest() == b""


async def test_a_request_under_way_is_answered_as_the_last_one(world: World) -> None:
    app = GatedApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(GET)
    await app.asked.wait()
    drain(world)
    app.gate.set()
    assert CLOSES in await sender.answer()
    assert await sender.rest() == b""


async def test_after_a_response_that_said_nothing_of_the_end_comes_one_that_does(world: World) -> None:
    app = StreamingApp()
    world.serve(app)
    sender = await world.connect()
    await sender.send(GET)
    await app.asked.wait()
    drain(world)
    app.gate.set()
    assert CLOSES not in await sender.answer()
    await sender.send(GET)
    assert CLOSES in await sender.answer()


async def test_connections_that_ask_for_nothing_have_the_time_of_idle_ones(world: World) -> None:
    early, idle = await world.connect(), await world.connect()
    await idle.send(GET)
    await idle.answer()
    drain(world)
    late = await world.connect()
    for sender in (early, idle, late):
        assert sender.connection.timeout_keep_alive_task is not None
        sender.connection.timeout_keep_alive_handler()
        assert await sender.rest() == b""


async def test_who_is_in_a_hurry_closes_idle_connections_at_once(world: World) -> None:
    silent, idle = await world.connect(), await world.connect()
    await idle.send(GET)
    await idle.answer()
    drain(world, closes_idle=True)
    assert await silent.rest() == await idle.rest() == b""
