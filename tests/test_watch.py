"""The watch over all output is not blind."""

import logging
import os
import subprocess
import sys
from pathlib import Path

from log_format import JsonFormatter
from tests.conftest import RunningService, keep_secret, keep_secrets_of_calls, leaks_in
from tests.hearing import heard

SECRET = keep_secret("watched-secret-1")


def test_a_secret_is_found_in_a_message_and_in_its_details() -> None:
    formatter = JsonFormatter()
    for message, extra in ((f"x {SECRET} y", {}), ("x", {"phone": SECRET})):
        record = logging.makeLogRecord({"msg": message, **extra})
        assert leaks_in(formatter.format(record)) == [SECRET]


def test_a_code_of_digits_counts_only_where_it_stands_alone() -> None:
    keep_secret("482913")
    assert leaks_in("the code is 482913.") == ["482913"]
    assert leaks_in("a 1482913 b 4829137 c f482913") == []


async def test_codes_that_the_service_draws_are_watched_for(service: RunningService) -> None:
    call_uuid = (await service.send("+14155550101")).json()["call_uuid"]
    await service.calls_over()
    keep_secrets_of_calls(service.app)
    code = heard(service.carrier.records[call_uuid].spoken)[:6]
    assert leaks_in(f"code {code}") == [code]
    assert leaks_in("to +14155550101") == ["+14155550101"]


LEAKS = """
import logging
from tests.conftest import keep_secret

def test_to_the_log():
    logging.error("calling %s", keep_secret("+14155550199"))

def test_to_the_terminal():
    print("the code is", keep_secret("482913"))

def test_nowhere():
    logging.error("calling ..99")
"""


def test_leaks_fail_the_run_in_every_process_of_a_parallel_one(tmp_path: Path) -> None:
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    plugins = ("-p", "xdist.plugin", "-p", "tests.conftest")
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", *plugins, str(tmp_path)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    found = {line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR "))}
    assert {"ERROR test_leaks.py::test_to_the_log", "FAILED test_leaks.py::test_to_the_terminal"} <= found
    assert not any("test_nowhere" in line for line in found)
