"""The carriers that can be configured: how each one's clients are made of the settings."""

from collections.abc import Callable, Mapping

import httpx

import cm_client
import setting_values
from cm_client import CmClient, CmConfig
from cm_sms import CmSms, CmSmsConfig
from phlo_client import PhloClient, PhloConfig
from plivo_client import PlivoClient, PlivoConfig
from plivo_sms import PlivoSms, PlivoSmsConfig
from settings import Settings
from sms_provider import SmsProvider
from vobiz_client import VobizClient, VobizConfig
from voice_provider import SignaturePolicy, VoiceProvider
from voipbin_client import VoipbinClient, VoipbinConfig
from voipbin_sms import VoipbinSms


def open_carrier(name: str, settings: Settings, http: httpx.AsyncClient) -> VoiceProvider:
    """The client of a carrier in PROVIDERS."""
    return _CARRIERS[name](settings, http, name)


def open_texter(name: str, settings: Settings, http: httpx.AsyncClient) -> SmsProvider:
    """The client of a carrier in SMS_PROVIDERS."""
    return _TEXTERS[name](settings, http)


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


def _plivo(settings: Settings, http: httpx.AsyncClient, name: str) -> VoiceProvider:
    config = PlivoConfig(
        auth_id=settings.plivo_auth_id,
        auth_token=settings.plivo_auth_token.get_secret_value(),
        from_number=settings.from_number_of(name),
        api_url=settings.plivo_api_url,
        signature_policy=settings.webhook_signatures or SignaturePolicy.REQUIRED,
        polly=settings.plivo_polly,
        request_deadline_seconds=settings.provider_deadline_seconds,
    )
    return PlivoClient(config, http, name)


def _plivo_texts(settings: Settings, http: httpx.AsyncClient) -> SmsProvider:
    config = PlivoSmsConfig(
        auth_id=settings.plivo_auth_id,
        auth_token=settings.plivo_auth_token.get_secret_value(),
        from_number=settings.plivo_sms_sender or settings.from_number_of("plivo"),
        api_url=settings.plivo_api_url,
        signature_policy=settings.webhook_signatures or SignaturePolicy.REQUIRED,
        dlt_entity_id=settings.plivo_dlt_entity_id,
        dlt_template_id=settings.plivo_dlt_template_id,
        dlt_template_category=settings.plivo_dlt_template_category,
        request_deadline_seconds=settings.provider_deadline_seconds,
    )
    return PlivoSms(config, http)


def _phlo(settings: Settings, http: httpx.AsyncClient, name: str) -> VoiceProvider:
    config = PhloConfig(
        auth_id=settings.plivo_auth_id,
        auth_token=settings.plivo_auth_token.get_secret_value(),
        phlo_id=settings.plivo_phlo_id,
        from_number=settings.from_number_of(name),
        api_url=settings.plivo_phlo_url,
        language=settings.phlo_language,
        reports_back=settings.phlo_reports_back,
        request_deadline_seconds=settings.provider_deadline_seconds,
    )
    return PhloClient(config, http, name)


def _cm(settings: Settings, http: httpx.AsyncClient, name: str) -> VoiceProvider:
    config = CmConfig(
        product_token=settings.cm_product_token.get_secret_value(),
        from_number=settings.from_number_of(name),
        api_url=settings.cm_api_url,
        voice_gender=settings.cm_voice_gender,
        voice_number=settings.cm_voice_number,
        voice_volume=settings.cm_voice_volume,
        voice_premium=settings.cm_voice_premium,
        code_type=settings.cm_code_type,
        audio_directory=settings.cm_audio_directory,
        languages=setting_values.language_tags(settings.cm_languages) or cm_client.LANGUAGES,
        request_deadline_seconds=settings.provider_deadline_seconds,
    )
    return CmClient(config, http, name)


def _cm_texts(settings: Settings, http: httpx.AsyncClient) -> SmsProvider:
    config = CmSmsConfig(
        product_token=settings.cm_product_token.get_secret_value(),
        from_number=settings.cm_sms_sender or settings.from_number_of("cm"),
        api_url=settings.cm_sms_url,
        request_deadline_seconds=settings.provider_deadline_seconds,
    )
    return CmSms(config, http)


def _voipbin(settings: Settings, http: httpx.AsyncClient, name: str) -> VoiceProvider:
    return VoipbinClient(_voipbin_config(settings, settings.from_number_of(name)), http, name)


def _voipbin_texts(settings: Settings, http: httpx.AsyncClient) -> SmsProvider:
    sender = settings.voipbin_sms_sender or settings.from_number_of("voipbin")
    return VoipbinSms(_voipbin_config(settings, sender), http)


def _voipbin_config(settings: Settings, from_number: str) -> VoipbinConfig:
    return VoipbinConfig(
        access_key=settings.voipbin_access_key.get_secret_value(),
        from_number=from_number,
        api_url=settings.voipbin_api_url,
        webhook_secret=settings.voipbin_webhook_secret.get_secret_value(),
        signature_policy=settings.webhook_signatures or SignaturePolicy.WHEN_PRESENT,
        request_deadline_seconds=settings.provider_deadline_seconds,
    )


_CARRIERS: Mapping[str, Callable[[Settings, httpx.AsyncClient, str], VoiceProvider]] = {
    "vobiz": _vobiz,
    "plivo": _plivo,
    "phlo": _phlo,
    "cm": _cm,
    "voipbin": _voipbin,
    "simulator": _vobiz,  # the plain simulator speaks Vobiz's protocol
}
_TEXTERS: Mapping[str, Callable[[Settings, httpx.AsyncClient], SmsProvider]] = {
    "plivo": _plivo_texts,
    "cm": _cm_texts,
    "voipbin": _voipbin_texts,
}
