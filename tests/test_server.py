"""The program: it starts with one command, says in one line why it does not, and stops in order."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from pyngrok.exception import PyngrokNgrokError

import server
from banner import banner
from log_format import ConsoleFormatter, JsonFormatter, set_up_logging
from server import create_app, main
from settings import BadSettings, LogFormat, load_settings
from tests.conftest import OTP_SECRET, VOBIZ_TOKEN, RunningService, keep_secret, run_service

ROOT = Path(__file__).parent.parent
KEY = keep_secret("api-key-CANARY-0123456789abcdef")
GUARDED = {"api_keys": KEY, "allowed_regions": "US"}
GUARDED_ENVIRONMENT = {name.upper(): value for name, value in GUARDED.items()}
VOBIZ = {**GUARDED, "vobiz_auth_id": "MA_TEST", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": "+12025550100"}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The program sets up logging; give pytest its own back."""
    before = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = before
    logging.getLogger("uvicorn.access").disabled = False


def environment(**given: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**inherited, "PYTHONUNBUFFERED": "1", **given}


@contextmanager
def program(cwd: Path, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(ROOT / "server.py")]
    process = subprocess.Popen(command, cwd=cwd, env=environment(**settings), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def wait_for_line(process: "subprocess.Popen[str]", part: str) -> list[str]:
    """Read what the program says until a line holds the part."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if part in line:
            return said
    raise AssertionError(f"the program ended without saying {part!r}: {said}")


def test_it_starts_serves_and_stops_in_order(tmp_path: Path) -> None:
    with program(tmp_path, HTTP_PORT="0", SIMULATOR_SPEED="inf") as process:
        said = wait_for_line(process, "startup complete")
        url = said[1].split()[-1].removesuffix("/phone")
        assert "carrier: simulator" in said[0]
        with httpx.Client(base_url=url, timeout=10) as client:
            assert client.get("/ready").json() == {
                "status": "ready",
                "providers": [{"name": "simulator", "state": "up", "queued": 0}],
            }
            assert client.post("/send-otp", json={"phone": "+14155550101"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"HTTP_PORT": "abc"}, "voice-otp: HTTP_PORT: "),
        (
            {"VOBIZ_AUTH_ID": "MA_TEST", "FROM_NUMBER": "+12025550100", **GUARDED_ENVIRONMENT},
            "voice-otp: VOBIZ_AUTH_TOKEN is not set",
        ),
        (
            {
                "VOBIZ_AUTH_ID": "MA_TEST",
                "VOBIZ_AUTH_TOKEN": "x",
                "FROM_NUMBER": "+12025550100",
                "PUBLIC_URL": "http://otp.example.com",
                **GUARDED_ENVIRONMENT,
            },
            "voice-otp: PUBLIC_URL must start with https://",
        ),
        (
            {
                "VOBIZ_AUTH_ID": "MA_TEST",
                "VOBIZ_AUTH_TOKEN": "x",
                "FROM_NUMBER": "+12025550100",
                "HTTP_PORT": "0",
                **GUARDED_ENVIRONMENT,
            },
            "voice-otp: PUBLIC_URL is not set: set it, or NGROK_AUTH_TOKEN",
        ),
        ({"HTTP_HOST": "0.0.0.0"}, "voice-otp: API_KEYS is not set"),
        ({"DEFAULT_LANGUAGE": "sw", "HTTP_PORT": "0"}, "voice-otp: DEFAULT_LANGUAGE cannot be spoken"),
    ],
)
def test_bad_settings_end_the_start_with_one_line(tmp_path: Path, settings: dict[str, str], line: str) -> None:
    command = [sys.executable, str(ROOT / "server.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(**settings), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(line)


def test_a_port_in_use_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("HTTP_PORT", str(taken.getsockname()[1]))
        assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("voice-otp: HTTP_PORT: cannot listen on 127.0.0.1:")
    assert len(said.splitlines()) == 1


def test_the_port_is_ours_before_anything_else_is_started() -> None:
    settings = load_settings(http_port=0)
    with server._listen(settings) as listener:
        taken = settings.model_copy(update={"http_port": listener.getsockname()[1]})
        with (
            socket.create_connection(listener.getsockname()),
            pytest.raises(BadSettings, match="choose another port"),
        ):
            server._listen(taken)


class Tunnel:
    public_url = "https://abc.ngrok-free.app/"


def test_a_tunnel_is_opened_when_a_real_carrier_has_no_public_url() -> None:
    settings = load_settings(**VOBIZ, ngrok_auth_token="ngrok-CANARY", http_port=8123)
    with patch("pyngrok.ngrok.connect", return_value=Tunnel()) as connect:
        assert server._open_tunnel(settings) == "https://abc.ngrok-free.app"
    assert connect.call_args.args == ("8123",)


def test_a_tunnel_that_fails_is_one_line() -> None:
    settings = load_settings(**VOBIZ, ngrok_auth_token="ngrok-CANARY")
    with (
        patch("pyngrok.ngrok.connect", side_effect=PyngrokNgrokError("bad token ngrok-CANARY")),
        pytest.raises(BadSettings, match="NGROK_AUTH_TOKEN: no tunnel") as bad,
    ):
        server._open_tunnel(settings)
    assert "CANARY" not in str(bad.value)


def test_the_whole_program_with_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**VOBIZ, "ngrok_auth_token": "ngrok-CANARY", "http_port": "0"}.items():
        monkeypatch.setenv(name.upper(), value)
    ran: list[Any] = []
    with (
        patch("pyngrok.ngrok.connect", return_value=Tunnel()),
        patch.object(server.Server, "run", lambda self, sockets: ran.append(sockets)),
    ):
        assert main() == 0
    ran[0][0].close()
    said = capsys.readouterr().err
    assert "answer URL: https://abc.ngrok-free.app/answer" in said
    assert "spending limits: 100 an hour, 500 a day, at 1 for a call" in said


def test_the_banner_says_what_is_not_protected() -> None:
    simulated = banner(load_settings())
    assert "http://localhost:8000/phone" in simulated
    assert "anyone who reaches this port can place simulated calls" in simulated
    assert "not protected" not in banner(load_settings(api_keys=KEY))
    real = banner(load_settings(**VOBIZ, public_url="https://otp.example.com"))
    assert real.count("not protected") == 2
    assert "there is no kill switch" in real
    tunnel = load_settings(**VOBIZ, public_url="https://abc.ngrok-free.app")
    assert "tunnel, whose operator can read the codes" in banner(tunnel)
    open_to_all = {**VOBIZ, "api_keys": "", "allow_anonymous": True, "allowed_regions": "*"}
    assert banner(load_settings(**open_to_all, public_url="https://otp.example.com")).count("not protected") == 4
    free = {**VOBIZ, "operator_keys": KEY[::-1], "spend_per_hour": "0", "spend_per_day": "0"}
    assert "nothing limits what is spent" in banner(load_settings(**free, public_url="https://otp.example.com"))
    strict = load_settings(
        **VOBIZ,
        operator_keys=KEY[::-1],
        public_url="https://otp.example.com",
        webhook_signatures="required",
        environment="production",
    )
    assert "not protected" not in banner(strict)


def test_the_banner_tells_of_redis_without_its_password() -> None:
    password = keep_secret("redis-password-CANARY")
    given = {**VOBIZ, "public_url": "https://otp.example.com", "otp_secret": OTP_SECRET, "workers": 4}
    said = banner(load_settings(**given, redis_url=f"redis://:{password}@10.0.0.5"))
    assert "4 workers, Redis at 10.0.0.5:6379" in said
    assert "Redis is spoken to in clear" in said
    for private in (
        f"rediss://:{password}@10.0.0.5",
        f"redis://:{password}@127.0.0.1",
        f"unix://:{password}@/run/r.sock",
    ):
        assert "Redis is" not in banner(load_settings(**given, redis_url=private))
    unchecked = banner(load_settings(**given, redis_url=f"rediss://:{password}@10.0.0.5?ssl_cert_reqs=none"))
    assert "the certificate of Redis is not looked at" in unchecked


async def test_live_and_ready_differ_while_stopping(service: RunningService) -> None:
    assert (await service.client.get("/health")).json() == {"status": "ok"}
    service.app.state.readiness.is_ready = False
    assert (await service.client.get("/health")).status_code == 200
    stopping = await service.client.get("/ready")
    assert (stopping.status_code, stopping.json()["code"]) == (503, "not_ready")


async def test_calls_under_way_and_open_pages_do_not_hold_up_the_stop() -> None:
    async with httpx.AsyncClient(timeout=30) as watcher:
        async with run_service() as service:
            await service.send("+14155550142")
            url = f"{service.client.base_url}/simulator/phone/events"
            response = await watcher.send(watcher.build_request("GET", url), stream=True)
            lines = response.aiter_lines()
            assert "hello" in await anext(lines)
        rest = [line async for line in lines]
    assert any("ringing" in line for line in rest), "and then the stream came to its end"


async def test_time_is_kept_although_one_second_fails(caplog: pytest.LogCaptureFixture) -> None:
    timekeeper = create_app(load_settings()).state.timekeeper
    went_on = asyncio.Event()

    async def failing() -> None:
        if "unexpected RuntimeError during expiry" in caplog.text:
            went_on.set()
        raise RuntimeError("a secret message")

    with patch.object(timekeeper, "expire", failing), patch("timekeeper.TICK_SECONDS", 0):
        keeping = asyncio.create_task(timekeeper.keep_time())
        await went_on.wait()
        keeping.cancel()
    assert "a secret message" not in caplog.text


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_the_simulator_is_reached_where_the_service_listens(host: str, url: str) -> None:
    assert load_settings(http_host=host, allow_anonymous=True).own_url == url


def test_a_host_that_is_not_ours_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTP_HOST", "192.0.2.1")
    monkeypatch.setenv("ALLOW_ANONYMOUS", "true")
    assert main() == 2
    assert capsys.readouterr().err.startswith("voice-otp: HTTP_HOST: cannot listen on 192.0.2.1: ")


# Log lines


def record_of(**extra: Any) -> Any:
    record = logging.LogRecord("otp", logging.INFO, "x.py", 1, "a\nforged\x1b[31m\u2028line", None, None)
    vars(record).update(extra)
    return record


def test_a_log_line_is_one_line_whatever_it_says() -> None:
    for formatter in (JsonFormatter(), ConsoleFormatter()):
        line = formatter.format(record_of(phone="..42", note="x\ny"))
        assert len(line.splitlines()) == 1
        assert "..42" in line
        assert "\x1b" not in line


def test_exceptions_are_shown_below_their_line() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        info = sys.exc_info()
    assert "ValueError" in JsonFormatter().format(record_of(exc_info=info))
    assert ConsoleFormatter().format(record_of(exc_info=info)).splitlines()[1].startswith("Traceback")
    assert ConsoleFormatter().format(record_of(trace="frame 1")).endswith("\nframe 1")


@pytest.mark.parametrize(
    ("given", "is_terminal", "formatter"),
    [
        (None, True, ConsoleFormatter),
        (None, False, JsonFormatter),
        (LogFormat.JSON, True, JsonFormatter),
        (LogFormat.CONSOLE, False, ConsoleFormatter),
    ],
)
def test_people_get_text_and_machines_json(
    given: LogFormat | None, is_terminal: bool, formatter: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    set_up_logging(given)
    assert type(logging.root.handlers[0].formatter) is formatter
