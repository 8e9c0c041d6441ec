"""What the live tests do, done with simulated carriers: so that it works on the day when it is needed."""

from typing import Any

import httpx
import pytest

from carrier_settings import CarrierSettings
from carriers import open_carrier
from settings import load_settings
from simulator.clock import SimulatorClock
from simulator.phone import PhoneExchange
from simulator.simulated_carriers import Network, simulate
from tests.conftest import keep_secret, run_service
from tests.live.live import (
    LiveOrder,
    call_order,
    is_over,
    live_order,
    live_settings,
    outcome_of,
    send_and_watch,
    what_was_seen,
    with_wrong_credentials,
)
from voice_provider import AccountRefused

LISTENER = "+14155550101"
FROM_NUMBER = "+12025550100"


async def no_pause() -> None:
    """The simulated network runs as fast as it can, while the status is asked for."""


@pytest.mark.parametrize("carrier", CarrierSettings.REQUIRED)
@pytest.mark.parametrize(("to", "expected"), [(LISTENER, "answered_and_spoken"), ("+14155550105", "busy")])
async def test_a_call_is_watched_to_its_end(carrier: str, to: str, expected: str) -> None:
    order = LiveOrder(carrier, to)
    async with run_service(simulate=True, providers=carrier) as service:
        status = await send_and_watch(service, order, no_pause)
    assert is_over(status)
    # One callback at the end tells of an answer, not of what was heard.
    told = {"hung_up_early", expected} if carrier == "cm" else {expected}
    assert outcome_of(status) in told
    seen = what_was_seen(status)
    assert seen.startswith(f"voice through {carrier}: ")
    assert "completed" in seen
    assert to not in seen


@pytest.mark.parametrize("carrier", ["plivo", "cm", "voipbin"])
async def test_a_text_message_is_watched_until_it_arrives(carrier: str) -> None:
    order = LiveOrder(carrier, LISTENER, "sms")
    async with run_service(simulate=True, providers=carrier, sms_providers=carrier) as service:
        status = await send_and_watch(service, order, no_pause)
    assert (is_over(status), outcome_of(status)) == (True, "delivered")
    assert "message_delivered" in what_was_seen(status)


async def test_a_refusal_names_its_code() -> None:
    async with run_service(simulate=True, providers="vobiz") as service:
        with pytest.raises(AssertionError, match="502 call_rejected"):
            await send_and_watch(service, LiveOrder("vobiz", "+14155550113"), no_pause)


@pytest.mark.parametrize("carrier", CarrierSettings.REQUIRED)
async def test_another_accounts_credentials_are_understood(carrier: str) -> None:
    async with run_service(simulate=True, providers=carrier) as service, httpx.AsyncClient() as http:
        clock = SimulatorClock(float("inf"))
        network = Network(clock, PhoneExchange(clock), FROM_NUMBER, httpx.AsyncClient)
        stranger = simulate([carrier], str(service.client.base_url).rstrip("/"), network)[carrier]
        given: dict[str, Any] = {
            **stranger.settings,
            "from_number": FROM_NUMBER,
            "public_url": "https://a.example",
        }
        settings = load_settings(**given, allow_anonymous=True, allowed_regions="*")
        client = open_carrier(carrier, with_wrong_credentials(settings, carrier), http)
        with pytest.raises(AccountRefused):
            await client.place_call(call_order(LiveOrder(carrier, keep_secret(LISTENER)), settings))
        await stranger.carrier.close()
        assert service.carrier.calls == {}


def test_without_a_carrier_and_a_number_nothing_is_called() -> None:
    assert live_order({}) is None
    assert live_order({"LIVE_CARRIER": "plivo"}) is None
    assert live_order({"LIVE_TO": LISTENER}) is None
    with pytest.raises(ValueError, match="must be one of vobiz, plivo, phlo, cm, voipbin"):
        live_order({"LIVE_CARRIER": "nobody", "LIVE_TO": LISTENER})


def test_a_live_run_is_for_its_carrier_number_and_key_only() -> None:
    environment = {
        "LIVE_CARRIER": "plivo",
        "LIVE_TO": "+1 415 555 0101",
        "LIVE_CHANNEL": "sms",
        "PLIVO_AUTH_ID": "MAXXXXXXXXXXXXXXXXXX",
        "PLIVO_AUTH_TOKEN": keep_secret("live-token-CANARY-0123456789"),
        "FROM_NUMBER": FROM_NUMBER,
        "HTTP_PORT": "8123",
        "PROVIDERS": "vobiz,plivo",
        "ALLOW_ANONYMOUS": "true",
    }
    order = live_order(environment)
    assert order == LiveOrder("plivo", LISTENER, "sms")
    with pytest.raises(ValueError, match="PUBLIC_URL is not set"):
        live_settings(environment, order)
    settings = load_settings(**live_settings({**environment, "PUBLIC_URL": "https://otp.example.com"}, order))
    assert (settings.provider_names, settings.sms_provider_names) == (("plivo",), ("plivo",))
    assert (settings.allowed_regions, settings.is_open, settings.uses_simulator) == ("US", False, False)
    assert settings.http_port == 8123
