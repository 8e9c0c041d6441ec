"""What names the carriers names the same ones: settings, clients, simulators and pages."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import carriers
from banner import WITHOUT_MACHINE_DETECTION, WITHOUT_SIGNATURES, banner
from carrier_settings import CarrierSettings
from server import create_app
from settings import BadSettings, load_settings
from simulator.simulated_carriers import _MAKERS as SIMULATORS
from tests.conftest import RunningService, keep_secret, run_service
from tests.provider_cases import VOICE_CASES

ROOT = Path(__file__).parent.parent
NAMES = tuple(CarrierSettings.REQUIRED)
TEXTERS = load_settings(_env_file=None).carriers_with_text_messages


def test_the_carriers_that_sign_nothing_are_those_without_a_signature_in_their_contract() -> None:
    assert {name for name, case in VOICE_CASES.items() if case.signing is None} == WITHOUT_SIGNATURES


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


@pytest.mark.parametrize("name", NAMES)
async def test_what_the_banner_says_of_machines_is_what_each_client_can_do(name: str) -> None:
    given: dict[str, Any] = {field: "x" for field in CarrierSettings.REQUIRED[name]}
    settings = load_settings(**given, from_number="+12025550100", allow_anonymous=True, allowed_regions="*")
    async with httpx.AsyncClient() as http:
        client = carriers.open_carrier(name, settings, http)
    assert client.capabilities.detects_machines == (name not in WITHOUT_MACHINE_DETECTION)


REAL: dict[str, Any] = {
    **{field: keep_secret(f"{field}-CANARY") for fields in CarrierSettings.REQUIRED.values() for field in fields},
    "voipbin_webhook_secret": keep_secret("webhook-secret-CANARY"),
    "from_number": "+12025550100",
    "allow_anonymous": True,
    "allowed_regions": "US",
    "public_url": "https://otp.example.com",
}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"providers": "vobiz,cm,phlo,plivo,voipbin"}, "cm, phlo"),
        ({"providers": "vobiz", "sms_providers": "plivo,cm"}, "cm"),
        ({"providers": "vobiz,plivo,voipbin", "sms_providers": "voipbin"}, ""),
    ],
)
def test_the_banner_names_carriers_whose_callbacks_cannot_be_signed(given: dict[str, Any], named: str) -> None:
    line = f"not protected: callbacks of {named} are let in by their token"
    told = banner(load_settings(**REAL, **given, webhook_signatures="required"))
    assert (line in told) == bool(named)
    assert "callbacks of" not in banner(load_settings(**REAL, **given)), "nobody was promised signatures"
    assert "callbacks of" not in banner(
        load_settings(**REAL, **given, webhook_signatures="required", simulate=True)
    )


@pytest.mark.parametrize(
    ("providers", "named"), [("vobiz,cm,phlo", "cm, phlo"), ("cm", "cm"), ("vobiz,plivo,voipbin", "")]
)
def test_the_banner_names_carriers_that_know_no_machine(providers: str, named: str) -> None:
    told = banner(load_settings(**REAL, providers=providers, machine_detection="hangup"))
    assert (f"not protected: machines hear the code in calls of {named}, " in told) == bool(named)
    assert "machines hear" not in banner(load_settings(**REAL, providers=providers))


@pytest.mark.parametrize(("language", "starts"), [("en-US", True), ("de-DE", True), ("ja", False)])
async def test_one_carrier_that_speaks_the_default_language_is_enough(language: str, starts: bool) -> None:
    settings = load_settings(**REAL, providers="vobiz,phlo", phlo_language="de-DE", default_language=language)
    if starts:
        create_app(settings)
        return
    with pytest.raises(BadSettings, match="DEFAULT_LANGUAGE cannot be spoken by vobiz, phlo: use one of "):
        create_app(settings)


@pytest.fixture
async def five() -> AsyncIterator[RunningService]:
    async with run_service(simulate=True, providers=",".join(NAMES), sms_providers=",".join(TEXTERS)) as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
async def test_every_simulated_carrier_calls_beside_all_others(five: RunningService, name: str) -> None:
    sent = await five.send("+14155550102", provider=name)
    assert (sent.status_code, sent.json()["provider"]) == (200, name)
