"""The carriers that can be configured: how each one's client is made of the settings."""

from collections.abc import Callable, Mapping

import httpx

from settings import Settings
from vobiz_client import VobizClient, VobizConfig
from voice_provider import SignaturePolicy, VoiceProvider

Opener = Callable[[Settings, httpx.AsyncClient, str], VoiceProvider]


def open_carrier(name: str, settings: Settings, http: httpx.AsyncClient) -> VoiceProvider:
    """The client of a carrier in PROVIDERS."""
    return _OPENERS[name](settings, http, name)


def _vobiz(settings: Settings, http: httpx.AsyncClient, name: str) -> VoiceProvider:
    config = VobizConfig(
        auth_id=settings.vobiz_auth_id,
        auth_token=settings.vobiz_auth_token.get_secret_value(),
        from_number=settings.from_number_of(name),
        api_url=settings.vobiz_api_url,
        signature_policy=settings.webhook_signatures or SignaturePolicy.WHEN_PRESENT,
        request_deadline_seconds=settings.provider_deadline_seconds,
    )
    return VobizClient(config, http, name)


_OPENERS: Mapping[str, Opener] = {
    "vobiz": _vobiz,
    "simulator": _vobiz,  # the plain simulator speaks Vobiz's protocol
}
