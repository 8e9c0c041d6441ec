"""A real phone rings, or gets a text message: switched on by LIVE_CARRIER and LIVE_TO."""

import asyncio
import os
import sys

import httpx
import pytest

from carriers import open_carrier
from settings import load_settings
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

# Read before the fixture that hides the machine's settings from all tests.
ENVIRONMENT = dict(os.environ)
ORDER = live_order(ENVIRONMENT)
LONGEST_SECONDS = 700  # a code lives for 600 at the most

pytestmark = pytest.mark.skipif(
    ORDER is None, reason="calls a real phone: set LIVE_CARRIER and LIVE_TO, see tests/live/README.md"
)


@pytest.fixture
def order() -> LiveOrder:
    assert ORDER is not None
    keep_secret(ORDER.to)
    return ORDER


@pytest.mark.timeout(LONGEST_SECONDS)
async def test_a_code_reaches_a_real_phone(order: LiveOrder, capsys: pytest.CaptureFixture[str]) -> None:
    async with run_service(**live_settings(ENVIRONMENT, order)) as service:
        status = await send_and_watch(service, order, lambda: asyncio.sleep(1))
    with capsys.disabled():
        sys.stdout.write(f"\n{what_was_seen(status)}\n")
    assert is_over(status), "nothing was heard of it: does the carrier reach PUBLIC_URL?"
    if order.expected:
        assert outcome_of(status) == order.expected


async def test_wrong_credentials_are_understood_and_nothing_is_dialled(order: LiveOrder) -> None:
    settings = load_settings(**live_settings(ENVIRONMENT, order))
    async with httpx.AsyncClient(timeout=settings.provider_deadline_seconds) as http:
        stranger = open_carrier(order.carrier, with_wrong_credentials(settings, order.carrier), http)
        with pytest.raises(AccountRefused):
            await stranger.place_call(call_order(order, settings))
