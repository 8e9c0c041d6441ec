"""What a live test does: one code through one carrier to one phone, and what came of it.

Nothing here knows whether the carrier is real: test_on_simulators.py runs the same with simulated ones.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import SecretStr

from carrier_settings import CarrierSettings
from phone_numbers import region_of, to_e164
from settings import Settings
from tests.conftest import RunningService, keep_secret
from tests.whole_calls import whole_call
from voice_provider import CallOrder, CallUrls

MAX_LOOKS = 900
_MESSAGE_ENDS = ("delivered", "undelivered")
_FINAL = ("verified", "expired", "locked", "cancelled")


class LiveOrder(NamedTuple):
    """`channel` is voice or sms; `expected` is the end reason, or the state of the message, that is asked for."""

    carrier: str
    to: str
    channel: str = "voice"
    expected: str = ""


def live_order(environment: Mapping[str, str]) -> LiveOrder | None:
    """What LIVE_CARRIER, LIVE_TO, LIVE_CHANNEL and LIVE_EXPECT ask for; None where nothing is to be called."""
    carrier, to = environment.get("LIVE_CARRIER", ""), environment.get("LIVE_TO", "")
    if not carrier or not to:
        return None
    if carrier not in CarrierSettings.REQUIRED:
        raise ValueError(f"LIVE_CARRIER must be one of {', '.join(CarrierSettings.REQUIRED)}")
    channel = environment.get("LIVE_CHANNEL") or "voice"
    return LiveOrder(carrier, to_e164(to), channel, environment.get("LIVE_EXPECT", ""))


def live_settings(environment: Mapping[str, str], order: LiveOrder) -> dict[str, Any]:
    """The settings of the environment, for this carrier and this number only, and behind a key of this run.

    Raises: ValueError when PUBLIC_URL is missing.
    """
    given = {name: environment[name.upper()] for name in Settings.model_fields if environment.get(name.upper())}
    if "public_url" not in given:
        raise ValueError("PUBLIC_URL is not set: the carrier has to reach this machine while the test runs")
    for name in given:
        if Settings.model_fields[name].annotation is SecretStr:
            keep_secret(given[name])
    return {
        **given,
        "http_port": int(given.get("http_port", 8000)),
        "providers": order.carrier,
        "sms_providers": order.carrier if order.channel == "sms" else "",
        "provider_routes": "",
        "redial_on": "",
        "api_keys": keep_secret(secrets.token_hex(32)),  # PUBLIC_URL is open to strangers meanwhile
        "allow_anonymous": False,
        "allowed_regions": region_of(order.to),
    }


async def send_and_watch(
    service: RunningService, order: LiveOrder, pause: Callable[[], Awaitable[None]]
) -> dict[str, Any]:
    """Send a code and wait for its outcome, with a pause after each look; the last status."""
    service.client.headers["Authorization"] = f"Bearer {service.settings.api_keys.get_secret_value()}"
    sent = await service.send(order.to, channel=order.channel, provider=order.carrier)
    assert sent.status_code in (200, 202), f"{sent.status_code} {sent.json()['code']}: the log says why"
    status: dict[str, Any] = {}
    for _ in range(MAX_LOOKS):
        status = await service.status(sent.json()["verification_id"])
        if is_over(status):
            break
        await pause()
    return status


def is_over(status: Mapping[str, Any]) -> bool:
    if status["status"] in _FINAL:
        return True
    if status["channel"] == "sms":
        return status["message"]["state"] in _MESSAGE_ENDS
    return bool(status["call"]["state"] == "completed")


def outcome_of(status: Mapping[str, Any]) -> str:
    """The end reason of the call, or the state of the message."""
    end = status["message"]["state"] if status["channel"] == "sms" else status["call"]["end_reason"]
    return str(end)


def what_was_seen(status: Mapping[str, Any]) -> str:
    """A status as lines to read, without the number and without the code, which a status never holds."""
    way = status["message"] if status["channel"] == "sms" else status["call"]
    lines = [f"{status['channel']} through {status['provider']}: {status['status']}"]
    lines += [f"  {name}: {value}" for name, value in way.items() if value not in (None, "")]
    start = datetime.fromisoformat(status["timeline"][0]["at"])
    for entry in status["timeline"]:
        seconds = (datetime.fromisoformat(entry["at"]) - start).total_seconds()
        lines.append(f"  {seconds:7.1f} s  {entry['event']}")
    return "\n".join(lines)


def with_wrong_credentials(settings: Settings, carrier: str) -> Settings:
    """The same account, but with a secret that is not its own."""
    field = CarrierSettings.REQUIRED[carrier][-1]
    return settings.model_copy(update={field: SecretStr("not-the-secret-of-this-account")})


def call_order(order: LiveOrder, settings: Settings) -> CallOrder:
    """A call that is placed with the client alone; its callbacks lead nowhere."""
    url = f"{settings.public_url}/nowhere"
    urls = CallUrls(answer=url, fallback=url, choice=url, hangup=url, ring=url, events=url)
    script = whole_call("000000", max_replays=0, app_name="a test")
    return CallOrder(order.to, settings.from_number_of(order.carrier), urls, 30, 60, script=script)
