"""Settings of the carriers: a block of fields for each, and what it cannot do without."""

from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from voice_provider import SignaturePolicy


class CmCodeType(StrEnum):
    """How CM.com voices a code: its own recordings, text to speech, or the account's own files."""

    DEFAULT = "default"
    TTS = "tts"
    CUSTOM = "custom"


class CmGender(StrEnum):
    FEMALE = "female"
    MALE = "male"


class CarrierSettings(BaseSettings):
    """What is set per carrier; `Settings` has the rest."""

    # Any of its settings says that a carrier is wanted, the others are missed then.
    REQUIRED: ClassVar[dict[str, tuple[str, ...]]] = {
        "vobiz": ("vobiz_auth_id", "vobiz_auth_token"),
        "plivo": ("plivo_auth_id", "plivo_auth_token"),
        "phlo": ("plivo_phlo_id", "plivo_auth_id", "plivo_auth_token"),
        "cm": ("cm_product_token",),
        "voipbin": ("voipbin_access_key",),
    }
    # PHLOs run in an account of Plivo, which may be there for other things.
    WANTED_BY: ClassVar[dict[str, tuple[str, ...]]] = {**REQUIRED, "phlo": ("plivo_phlo_id",)}

    from_number: str = ""

    vobiz_auth_id: str = ""
    vobiz_auth_token: SecretStr = SecretStr("")
    vobiz_api_url: str = "https://api.vobiz.ai/api/v1"
    vobiz_from_number: str = ""
    vobiz_calls_per_second: int = Field(1, ge=0, le=1000)
    vobiz_concurrent_calls: int = Field(0, ge=0)

    plivo_auth_id: str = ""
    plivo_auth_token: SecretStr = SecretStr("")
    plivo_api_url: str = "https://api.plivo.com/v1"
    plivo_from_number: str = ""
    plivo_calls_per_second: int = Field(2, ge=0, le=1000)
    plivo_concurrent_calls: int = Field(0, ge=0)
    plivo_polly: bool = True
    plivo_sms_sender: str = ""
    plivo_dlt_entity_id: str = ""
    plivo_dlt_template_id: str = ""
    plivo_dlt_template_category: str = ""

    plivo_phlo_id: str = ""
    plivo_phlo_url: str = "https://phlorunner.plivo.com/v1"
    phlo_from_number: str = ""
    phlo_calls_per_second: int = Field(1, ge=0, le=1000)
    phlo_concurrent_calls: int = Field(0, ge=0)
    phlo_language: str = "en-US"
    phlo_reports_back: bool = False

    cm_product_token: SecretStr = SecretStr("")
    cm_api_url: str = "https://api.cm.com"
    cm_from_number: str = ""
    cm_calls_per_second: int = Field(1, ge=0, le=1000)
    cm_concurrent_calls: int = Field(0, ge=0)
    cm_languages: str = ""
    cm_voice_gender: CmGender = CmGender.FEMALE
    cm_voice_number: int = Field(1, ge=1)
    cm_voice_volume: int = Field(0, ge=-4, le=4)
    cm_voice_premium: bool = False
    cm_code_type: CmCodeType = CmCodeType.TTS
    cm_audio_directory: str = ""
    cm_sms_url: str = "https://gw.messaging.cm.com/v1.0"
    cm_sms_sender: str = ""

    voipbin_access_key: SecretStr = SecretStr("")
    voipbin_webhook_secret: SecretStr = SecretStr("")
    voipbin_api_url: str = "https://api.voipbin.net/v1.0"
    voipbin_from_number: str = ""
    voipbin_calls_per_second: int = Field(1, ge=0, le=1000)
    voipbin_concurrent_calls: int = Field(0, ge=0)
    voipbin_sms_sender: str = ""

    simulator_calls_per_second: int = Field(0, ge=0)
    simulator_concurrent_calls: int = Field(0, ge=0)

    webhook_signatures: SignaturePolicy | None = None

    def of_carrier(self, name: str, setting: str) -> Any:
        """The carrier's own value of a setting that each carrier has, such as `calls_per_second`."""
        return getattr(self, f"{name}_{setting}")

    def from_number_of(self, name: str) -> str:
        """The caller ID that a carrier shows: its own, or the one for all."""
        return str(getattr(self, f"{name}_from_number", "")) or self.from_number

    @property
    def carriers_with_text_messages(self) -> tuple[str, ...]:
        """The carriers that have a sender of text messages, and so a client for them."""
        return tuple(name for name in self.REQUIRED if f"{name}_sms_sender" in type(self).model_fields)

    @property
    def configured_carriers(self) -> tuple[str, ...]:
        """The carriers of which something is set. A PHLO takes the place of Plivo's XML."""
        named = [
            name
            for name, fields in self.WANTED_BY.items()
            if any(map(self._has, (*fields, f"{name}_from_number")))
        ]
        if "phlo" in named and "plivo" in named:
            named.remove("plivo")
        return tuple(named)

    def _has(self, field: str) -> bool:
        value = getattr(self, field)
        return bool(value.get_secret_value() if isinstance(value, SecretStr) else value)

    def missing_of(self, name: str, *, calls: bool = True) -> list[str]:
        """The settings that a carrier cannot do without, for calls or for messages only, and that are not set."""
        missing = [field.upper() for field in self.REQUIRED.get(name, ()) if not self._has(field)]
        has_sender = not calls and bool(self.of_carrier(name, "sms_sender"))
        return missing if has_sender or self.from_number_of(name) else [*missing, "FROM_NUMBER"]
