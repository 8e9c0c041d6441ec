"""The files in deploy/: run where that is possible without an engine, else read and compared with the code."""

import ast
import asyncio
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from bench.rolling import REQUESTS_A_SECOND, Answers, keep_asking
from bench.servers import free_port, service
from clock import Clock
from redis_checks import look_patiently
from redis_connection import Redis
from server import DRAIN_SECONDS
from settings import Settings, load_settings
from tests.conftest import OTP_SECRET, VOBIZ_TOKEN, keep_secret
from tests.redis_servers import RedisServer
from tests.test_server import GUARDED_ENVIRONMENT, environment, program, wait_for_line

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
UNIT = (DEPLOY / "voice-otp.service").read_text()
POD = KUBERNETES[0]["spec"]["template"]["spec"]
SETTINGS = {name.upper() for name in Settings.model_fields}
TOKEN = keep_secret("f" * 68)


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the image that is run."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE.rpartition("\nFROM ")[2], re.MULTILINE)


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line))


def test_each_setting_in_these_files_exists() -> None:
    kubernetes = {entry["name"] for entry in POD["containers"][0]["env"]}
    secrets = set(re.findall(r"[A-Z]+_[A-Z_]+", (DEPLOY / "kubernetes.yaml").read_text()))
    unit = set(re.findall(r"(?:=| )([A-Z_]+)=", "\n".join(re.findall("^Environment=.*", UNIT, re.MULTILINE))))
    named = kubernetes | secrets | unit | set(COMPOSE["x-service"]["environment"]) | set(image_environment())
    assert len(named) > 10
    assert {name for name in named if not name.startswith("PYTHON")} <= SETTINGS


def image_files(folder: Path) -> Path:
    """A folder like the image's: the same COPY lines, out of what `.dockerignore` lets through."""
    image = folder / "image"
    for line in instructions("COPY"):
        *sources, target = [word for word in line.split() if not word.startswith("--from")]
        if "--from" not in line:
            for source in sources:
                for path in ROOT.glob(source):
                    _copy(path, image / target / (path.name if path.is_file() else ""))
    return image


def _copy(path: Path, target: Path) -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert any(fnmatch.fnmatch(path.name, line.removeprefix("!")) for line in patterns if line[:1] == "!"), path
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(path, target)


def test_the_image_has_every_module_that_is_imported_and_no_other_world(tmp_path: Path) -> None:
    image = image_files(tmp_path)
    assert {path.name for path in image.iterdir() if path.is_dir()} == {"simulator", "spoken_texts", "web"}
    ours = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    for path in image.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} & ours:
                assert (image / f"{name}.py").exists() or (image / name).is_dir(), f"{path.name}: {name}"


def test_the_image_starts_as_a_stranger_is_healthy_and_stops_in_order(tmp_path: Path) -> None:
    image, port = image_files(tmp_path), str(free_port())
    given = {**image_environment(), **GUARDED_ENVIRONMENT, "HTTP_PORT": port}
    command = [sys.executable, *json.loads(instructions("CMD")[-1])[1:]]
    nobody: dict[str, Any] = {"user": 10001, "group": 10001} if os.geteuid() == 0 and _is_open(image) else {}
    process = subprocess.Popen(
        command, cwd=image, env=environment(**given), stderr=subprocess.PIPE, text=True, **nobody
    )
    try:
        wait_for_line(process, "startup complete")
        check = json.loads(re.findall(r"CMD (\[.*\])", instructions("HEALTHCHECK")[0])[0])
        healthy = subprocess.run([sys.executable, *check[1:]], env=environment(HTTP_PORT=port), timeout=30)
        assert healthy.returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        dead = subprocess.run(
            [sys.executable, *check[1:]], env=environment(HTTP_PORT=port), timeout=30, capture_output=True
        )
        assert dead.returncode != 0
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _is_open(folder: Path) -> bool:
    """Whether everybody may enter a folder, and Python, too."""
    folders = [*folder.parents, *Path(sys.executable).resolve().parents]
    return all(path.stat().st_mode & 0o001 for path in folders)


def test_who_stops_the_service_gives_it_the_time_that_it_needs() -> None:
    service, seconds = COMPOSE["x-service"], re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    compose_delay = int(service["environment"]["STOP_DELAY_SECONDS"])
    pod_delay = next(
        int(one["value"]) for one in POD["containers"][0]["env"] if one["name"] == "STOP_DELAY_SECONDS"
    )
    probe = POD["containers"][0]["readinessProbe"]
    assert int(service["stop_grace_period"].removesuffix("s")) > compose_delay + DRAIN_SECONDS
    assert POD["terminationGracePeriodSeconds"] > pod_delay + DRAIN_SECONDS
    assert pod_delay > probe["periodSeconds"] * probe["failureThreshold"]
    assert int(seconds[0]) > DRAIN_SECONDS


def test_the_settings_of_compose_and_kubernetes_start_the_service() -> None:
    given = {"vobiz_auth_id": "MA_TEST", "vobiz_auth_token": VOBIZ_TOKEN, "otp_secret": OTP_SECRET}
    given |= {name.lower(): value for name, value in GUARDED_ENVIRONMENT.items()}
    from_number = {"from_number": "+12025550100", "public_url": "https://otp.example.com"}
    compose = {name.lower(): value for name, value in COMPOSE["x-service"]["environment"].items()}
    compose["redis_url"] = re.sub(r"\$\{.*\}", "password", compose["redis_url"])
    pod = {one["name"].lower(): one["value"] for one in POD["containers"][0]["env"]}
    assert load_settings(**{**given, **from_number, **compose}).redis_address == "redis:6379"
    assert load_settings(**{**given, **pod, "redis_url": "rediss://redis.example.com"}).stop_delay_seconds > 0


async def test_redis_conf_passes_the_look_at_the_start() -> None:
    clock = Clock()
    with RedisServer(include=str(DEPLOY / "redis.conf")) as server:
        assert await look_patiently(lambda: Redis(server.url, clock), clock) == []
        assert server.client().config_get("maxmemory") == {"maxmemory": "1073741824"}


def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / "voice-otp.service"
    unit.write_text(UNIT.replace("/opt/voice-otp/.venv/bin/python", sys.executable))
    for command in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(["systemd-analyze", *command, str(unit)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "voice-otp" not in done.stderr


# The proxy


@asynccontextmanager
async def caddy(folder: Path, *upstreams: int) -> AsyncIterator[tuple[int, int, Path]]:
    """Caddy with our file: the port for backends, the one for carriers, and its log."""
    if shutil.which("caddy") is None:
        pytest.skip("there is no caddy here")
    backend, carriers, log = free_port(), free_port(), folder / "caddy.log"
    (folder / "Caddyfile").write_text((DEPLOY / "Caddyfile").read_text().replace(":8080", f":{backend}"))
    given = {
        "DOMAIN": f"http://127.0.0.1:{carriers}",
        "UPSTREAMS": " ".join(f"127.0.0.1:{port}" for port in upstreams),
        "HOME": str(folder),
    }
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *("caddy", "run", "--config", str(folder / "Caddyfile")), env=environment(**given), stderr=file
        )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            while process.returncode is None:
                try:
                    await client.get(f"http://127.0.0.1:{backend}/health")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0)
        yield backend, carriers, log
    finally:
        process.kill()
        await process.wait()


async def test_two_machines_behind_the_proxy_are_renewed_without_a_failed_request(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    answers, is_over = Answers(), asyncio.Event()

    def renew() -> None:
        with service(None, port=second, STOP_DELAY_SECONDS="3") as one:
            one.process.terminate()
            assert one.process.wait(timeout=60) == 0

    with service(None, port=first):
        async with caddy(tmp_path, first, second) as (port, _, _):
            asking = asyncio.create_task(keep_asking(port, answers, REQUESTS_A_SECOND, is_over))
            for _ in range(2):
                await asyncio.to_thread(renew)
            is_over.set()
            await asking
    assert answers.failures == []
    assert len(answers.latencies) > REQUESTS_A_SECOND


async def test_the_proxy_lets_carriers_to_their_routes_only_and_writes_no_path(tmp_path: Path) -> None:
    port = free_port()
    with program(tmp_path, HTTP_PORT=str(port), TRUSTED_PROXIES="127.0.0.1", **GUARDED_ENVIRONMENT) as process:
        wait_for_line(process, "startup complete")
        async with caddy(tmp_path, port) as (backend, carriers, log), httpx.AsyncClient(trust_env=False) as client:
            url, own = f"http://127.0.0.1:{carriers}", f"http://127.0.0.1:{backend}"
            assert (await client.post(f"{url}/answer/{TOKEN}")).headers["content-type"] != ""
            for path in ("/verify-otp", "/send-otp", "/blocks", "/ready", "/docs", "/phone", f"/answer/{TOKEN}"):
                answer = await client.get(url + path)
                assert (answer.status_code, answer.content) == (404, b""), path
            assert (await client.get(f"{own}/ready")).status_code == 200
            forged = {"X-Forwarded-For": "192.0.2.7", "Authorization": "Bearer wrong"}
            assert (await client.get(f"{own}/otp-status/x", headers=forged)).status_code == 401
            refused = json.loads(wait_for_line(process, "API key refused")[-1])
            assert refused["address"] == "127.0.0.1", "and not what the sender said of itself"
            process.kill()
            process.wait()
            assert (await client.post(f"{url}/answer/{TOKEN}")).status_code in (502, 503)
        assert TOKEN not in log.read_text()
        assert "wrong" not in log.read_text()
