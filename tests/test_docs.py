"""README, .env.example and docs say what the code does."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from carrier_settings import CarrierSettings
from server import create_app
from settings import Settings, load_settings
from simulator.callees import SCRIPTED_CALLEES
from tests.conftest import RunningService, run_service
from vobiz_client import LANGUAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
SETTINGS = [name.upper() for name in Settings.model_fields]


def env_entries() -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", ENV_EXAMPLE, re.MULTILINE))


def test_every_setting_is_in_the_env_example_with_a_comment_and_its_default() -> None:
    assert sorted(env_entries()) == sorted(SETTINGS)
    for name in SETTINGS:
        above = ENV_EXAMPLE.split(f"\n{name}=")[0].splitlines()
        comment = " ".join(line for line in above[-3:] if line.startswith("#"))
        assert "Default:" in comment, name


def test_the_env_example_as_it_stands_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV_EXAMPLE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    copied = load_settings()
    monkeypatch.chdir("/")
    assert copied == load_settings()


def each_carriers(names: str) -> str:
    """`<CARRIER>_X` stands for that setting of every carrier that has it."""
    for pattern in re.findall("<CARRIER>[A-Z_]+", names):
        own = [pattern.replace("<CARRIER>", carrier.upper()) for carrier in CarrierSettings.REQUIRED]
        names = names.replace(pattern, ", ".join(name for name in own if name in SETTINGS))
    return names


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    rows = [
        (each_carriers(names), default)
        for names, default in re.findall(r"^\| (`[A-Z_`, <>]+`) \| (.*?) \|", README, re.MULTILINE)
    ]
    described = {name: default for names, default in rows for name in re.findall("[A-Z_]+", names)}
    assert sorted(described) == sorted(SETTINGS)
    for names, text in rows:
        for name in re.findall("[A-Z_]+", names):
            default = defaults[name]
            if isinstance(default, int) and not isinstance(default, bool):
                assert str(default) in text, name


def test_every_route_of_the_backend_is_in_the_readme() -> None:
    paths = create_app(load_settings()).openapi()["paths"]
    for path in paths:
        assert path.split("/{")[0] in README, path


def test_the_callee_table_is_the_simulators() -> None:
    table = re.findall(r"^\| (\+1415555\d{4}) \| (.*?) \|$", README, re.MULTILINE)
    assert table == [(number, callee.description) for number, callee in SCRIPTED_CALLEES.items()]


def curl_lines() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(command) for command in commands if command.startswith("curl")]


async def test_the_curl_lines_of_the_readme_work_in_order() -> None:
    prompts = str(ROOT / "docs" / "prompts.example.toml")
    async with run_service(
        simulate=True, providers="vobiz,plivo,cm", sms_providers="plivo", prompts_file=prompts
    ) as several:
        await run_curl_lines(several)


async def run_curl_lines(service: RunningService) -> None:
    expected = {"/send-otp": 200, "/verify-otp": 400, "/cancel-otp": 200}
    lines = curl_lines()
    assert len(lines) >= 6
    for line in lines:
        url = next(word for word in line if word.startswith("http://localhost:8000"))
        path = url.removeprefix("http://localhost:8000")
        data = line[line.index("-d") + 1] if "-d" in line else None
        headers = dict([line[line.index("-H") + 1].split(": ")]) if "-H" in line else {}
        method = line[line.index("-X") + 1] if "-X" in line else "GET"
        answer = await service.client.request(method, path, content=data, headers=headers)
        assert answer.status_code == expected.get(path, 200), line


async def test_the_answer_in_the_readme_has_the_fields_of_the_real_one(service: RunningService) -> None:
    import json

    shown = json.loads(README.split("```json\n")[1].split("```")[0])
    real = (await service.send("+14155550102")).json()
    assert list(shown) == list(real)


def test_every_dependency_is_explained_and_pinned() -> None:
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").split("## Considered")[0]
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith(("#", "-r")):
                package, _, version = line.partition("==")
                assert version, line
                assert f"`{package}`" in explained, package


def test_every_module_is_in_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in ROOT.glob("*.py"):
        assert f"`{module.name}`" in page, module.name


def test_every_language_of_vobiz_is_on_its_page() -> None:
    page = (ROOT / "docs" / "vobiz.md").read_text(encoding="utf-8")
    assert all(tag in page for tag in LANGUAGES)


SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_a8_the_security_page_says_what_a_phone_call_cannot_give() -> None:
    (section,) = re.findall(r"^## What a phone call cannot give.*?(?=^## )", SECURITY, re.MULTILINE | re.DOTALL)
    for words in (
        "restricted authenticator", "NIST SP 800-63B-4", "3.1.3.3", "3.2.9", "Not phishing-resistant",
        "level 3 of OWASP ASVS", "SIM swap", "Call forwarding", "Voicemail", "Offer another factor",
    ):  # fmt: skip
        assert words in section, words


def test_each_setting_on_the_security_page_exists_and_has_that_default() -> None:
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", SECURITY, re.MULTILINE)
    assert len(rows) > 30
    for name, said in rows:
        default = defaults[name]
        text = default.get_secret_value() if isinstance(default, SecretStr) else default
        shown = (
            str(text).lower() if isinstance(text, bool) else str(text or ("none" if text in ("", None) else text))
        )
        assert said == shown, name
    for name in re.findall(r"`([A-Z]+_[A-Z_]+)[`=]", SECURITY):
        assert name in defaults, name


def test_each_command_on_the_security_page_runs_tests_that_exist() -> None:
    commands = re.findall(r"`\.venv/bin/python -m (pytest .*?)`", SECURITY)
    assert len(commands) > 25
    for command in map(shlex.split, commands):
        paths = [ROOT / word for word in command[1:] if word.startswith("tests")]
        assert paths, command
        assert all(path.exists() for path in paths), command
        for word in command[command.index("-k") + 1].split(" or ") if "-k" in command else []:
            assert word in _names_of_tests(paths, word), f"no test for -k {word}"


def _names_of_tests(paths: list[Path], word: str) -> str:
    """The tests below some paths; the word itself where the module of its row's letter is not there."""
    row = re.match(r"test_([a-z])[0-9]+_", word)
    if row is not None and not list((ROOT / "tests" / "security").glob(f"test_{row[1]}_*.py")):
        return word
    files = [file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])]
    return " ".join(re.findall(r"def (test_\w+)", "".join(file.read_text(encoding="utf-8") for file in files)))


def test_each_alarm_on_the_security_page_is_logged() -> None:
    table = SECURITY.split("<!-- alarms: checked against the code -->")[1].split("\n\n")[0]
    events = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
    assert len(events) > 10
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("*.py"))
    for event in events:
        assert re.search(rf'f?"{re.escape(event)}', code), event


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_version_is_one() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert create_app(load_settings()).version == project["project"]["version"]


def test_imports_point_one_way() -> None:
    allowed_in_clients = {"voice_provider", "sms_provider", "call_script", "xml_builder"}
    allowed_in_clients |= {"carrier_request", "callback_bodies", "hangup_causes"}
    modules = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("*.py")}
    imports = {
        name: set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)) for name, text in modules.items()
    }
    assert all("server" not in names for names in imports.values())
    parts_of_carriers = [name for name in modules if name.endswith(("_client", "_sms", "_account"))]
    for part in set(parts_of_carriers) - {"http_client"}:
        own_account = f"{part.split('_')[0]}_account"  # what a carrier's calls and text messages share
        assert imports[part] & set(modules) <= allowed_in_clients | {own_account}, part
    assert all("simulator" not in names for name, names in imports.items() if name != "server")
    assert all("os" not in names for names in imports.values()), "the environment is read in settings only"
