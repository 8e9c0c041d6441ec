"""What names the carriers names the same ones: settings, clients, simulators and pages."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import carriers
from banner import banner
from carrier_settings import CarrierSettings
from settings import BadSettings, load_settings
from simulator.simulated_carriers import _MAKERS as SIMULATORS
from tests.conftest import RunningService, run_service

ROOT = Path(__file__).parent.parent
NAMES = tuple(CarrierSettings.REQUIRED)
TEXTERS = load_settings(_env_file=None).carriers_with_text_messages


def test_settings_clients_and_simulators_know_the_same_carriers() -> None:
    assert set(carriers._CARRIERS) - {"simulator"} == set(NAMES)
    assert set(SIMULATORS) - {"simulator"} == set(NAMES)
    assert set(carriers._TEXTERS) == set(TEXTERS)


@pytest.mark.parametrize("name", NAMES)
def test_every_carrier_has_a_page_and_is_named_where_carriers_are_listed(name: str) -> None:
    page = {"phlo": "plivo-phlo"}.get(name, name)
    assert (ROOT / "docs" / f"{page}.md").exists()
    assert f"docs/{page}.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
async def test_every_carrier_answers_to_its_name(name: str) -> None:
    given: dict[str, Any] = {field: "x" for field in CarrierSettings.REQUIRED[name]}
    settings = load_settings(**given, from_number="+12025550100", allow_anonymous=True, allowed_regions="*")
    async with httpx.AsyncClient() as http:
        assert carriers.open_carrier(name, settings, http).name == name
        if name in TEXTERS:
            assert carriers.open_texter(name, settings, http).name == name


def test_a_carrier_without_text_messages_is_no_sms_provider() -> None:
    with pytest.raises(BadSettings, match="SMS_PROVIDERS must be some of plivo, cm, voipbin"):
        load_settings(sms_providers="vobiz")


def test_the_first_line_names_all_carriers() -> None:
    assert "carrier: cm, plivo (simulated)  " in banner(load_settings(simulate=True, providers="cm,plivo"))


@pytest.fixture
async def five() -> AsyncIterator[RunningService]:
    async with run_service(simulate=True, providers=",".join(NAMES), sms_providers=",".join(TEXTERS)) as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
async def test_every_simulated_carrier_calls_beside_all_others(five: RunningService, name: str) -> None:
    sent = await five.send("+14155550102", provider=name)
    assert (sent.status_code, sent.json()["provider"]) == (200, name)
