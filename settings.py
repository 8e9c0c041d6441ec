"""Environment to one frozen Settings. Nothing else reads the environment."""

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

import setting_values
from abuse_guard import Monitor
from carrier_settings import CarrierSettings
from phone_numbers import InvalidPhone, to_e164
from verification import LEAST_SECONDS_TO_USE_A_CODE
from voice_provider import MachineDetection, SignaturePolicy

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
TUNNEL_DOMAINS = ("ngrok.io", "ngrok.app", "ngrok.dev", "ngrok-free.app", "ngrok-free.dev", "trycloudflare.com",
                  "loca.lt", "lhr.life", "serveo.net")  # fmt: skip
_ABSOLUTE_URL = re.compile(r"https?://([^/?#@\s]*@)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?([/?#]\S*)?")
_API_URLS = tuple(name for name in CarrierSettings.model_fields if name.endswith("_url"))
_SIMULATOR_FROM_NUMBER = "+12025550100"  # of the range that is reserved for fiction


class BadSettings(Exception):
    """Settings that cannot be started with; `problems` are one line each, every one naming a setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


class ResendCode(StrEnum):
    SAME = "same"
    NEW = "new"


class NoInput(StrEnum):
    """The two documented ways in which Vobiz goes on when no key was pressed."""

    CONTINUE = "continue"
    POST = "post"


# Settings that hold several values, or money, with what reads them.
_LISTS: dict[str, Callable[[str], object]] = {
    "api_keys": setting_values.client_keys,
    "operator_keys": setting_values.client_keys,
    "trusted_proxies": setting_values.networks,
    "allowed_regions": setting_values.regions,
    "allowed_line_types": setting_values.line_types,
    "blocked": setting_values.block_targets,
    "safe_prefixes": setting_values.prefixes,
    "client_quotas": setting_values.quotas,
    "client_prompts": setting_values.client_prompts,
    "call_prices": setting_values.prices,
    "spend_per_hour": setting_values.millionths,
    "spend_per_day": setting_values.millionths,
    "client_spend_per_hour": setting_values.millionths,
    "client_spend_per_day": setting_values.millionths,
    "provider_routes": setting_values.routes,
    "redial_on": setting_values.redial_reasons,
    "cm_languages": setting_values.language_tags,
}


class RedialThrough(StrEnum):
    """Who redials: the carrier of the call before, the next one that works, or a text message is sent instead."""

    SAME = "same"
    NEXT = "next"
    SMS = "sms"


class Settings(CarrierSettings):
    """Every setting, with the meaning that `.env.example` gives it. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    http_port: int = Field(8000, ge=0, le=65535)
    public_url: str = ""
    ngrok_auth_token: SecretStr = SecretStr("")

    http_host: str = "127.0.0.1"
    environment: Environment = Environment.DEVELOPMENT
    log_format: LogFormat | None = None
    providers: str = ""
    provider_routes: str = ""
    sms_providers: str = ""
    simulate: bool = False
    fallback_public_url: str = ""
    api_docs: bool | None = None

    api_keys: SecretStr = SecretStr("")
    operator_keys: SecretStr = SecretStr("")
    allow_anonymous: bool = False
    trusted_proxies: str = ""

    allowed_regions: str = ""
    allowed_line_types: str = "mobile,fixed_line,fixed_line_or_mobile"
    blocked: str = ""
    safe_prefixes: str = ""
    resend_after_seconds: int = Field(30, ge=0, le=600)
    sends_per_ten_minutes: int = Field(5, ge=0)
    sends_per_day: int = Field(10, ge=0)
    prefix_sends_per_hour: int = Field(20, ge=0)
    region_sends_per_hour: int = Field(500, ge=0)
    client_sends_per_hour: int = Field(1000, ge=0)
    client_quotas: str = ""
    destination_block_seconds: int = Field(43_200, ge=60, le=604_800)
    call_prices: str = ""
    spend_per_hour: str = "100"
    spend_per_day: str = "500"
    client_spend_per_hour: str = "0"
    client_spend_per_day: str = "0"
    conversion_monitor: Monitor = Monitor.BLOCK
    conversion_min_share: float = Field(0.35, ge=0, le=1)
    conversion_min_verifications: int = Field(20, ge=1)

    require_verification_id: bool = False
    client_wrong_codes_per_hour: int = Field(1000, ge=0)
    wrong_codes_per_day: int = Field(50_000, ge=0)
    status_reads_per_minute: int = Field(60, ge=0)

    redis_url: SecretStr = SecretStr("")
    workers: int = Field(1, ge=1, le=64)
    stop_delay_seconds: int = Field(0, ge=0, le=120)
    otp_secret: SecretStr = SecretStr("")
    app_name: str = "your app"
    prompts_file: str = ""
    client_prompts: str = ""
    default_language: str = "en-US"
    code_ttl_seconds: int = Field(300, ge=30, le=600)
    max_attempts: int = Field(5, ge=1, le=5)
    max_failures_per_number: int = Field(20, ge=5, le=100)
    allow_short_codes: bool = False
    resend_code: ResendCode = ResendCode.SAME
    store_capacity: int = Field(1_000_000, ge=1)
    status_retention_seconds: int = Field(3600, ge=60, le=86_400)

    audio_dir: Path | None = None
    ring_timeout_seconds: int = Field(30, ge=10, le=120)
    call_time_limit_seconds: int = Field(250, ge=30, le=600)
    provider_deadline_seconds: float = Field(10, gt=0, le=60)
    machine_detection: MachineDetection = MachineDetection.OFF
    require_keypress: bool = False
    keypress_digits: int = Field(2, ge=1, le=2)
    auto_replay: bool = False
    readings: int = Field(2, ge=1, le=3)
    lead_in_seconds: float = Field(1, ge=0, le=3)
    digit_pause_seconds: float = Field(1, ge=0, le=3)
    reading_pause_seconds: float = Field(1, ge=0, le=5)
    speech_rate: int = Field(100, ge=50, le=150)
    redial_on: str = ""
    redial_times: int = Field(1, ge=1, le=3)
    redial_after_seconds: int = Field(30, ge=5, le=300)
    redial_through: RedialThrough = RedialThrough.NEXT

    simulator_speed: float = Field(1.0, gt=0)
    simulator_signatures: bool = True
    simulator_no_input: NoInput = NoInput.CONTINUE

    @field_validator("from_number", *(f"{name}_from_number" for name in CarrierSettings.REQUIRED))
    @classmethod
    def _canonical_number(cls, value: str) -> str:
        try:
            return to_e164(value) if value else value
        except InvalidPhone as error:
            raise ValueError(str(error)) from None

    @field_validator("public_url", "fallback_public_url", *_API_URLS)
    @classmethod
    def _absolute_url(cls, value: str) -> str:
        if value and not _ABSOLUTE_URL.fullmatch(value):
            raise ValueError("is not an absolute URL such as https://otp.example.com")
        parts = urlsplit(value)
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("must have no query, fragment or user name")
        return value.rstrip("/")

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        setting_values.redis_place(value.get_secret_value())
        return value

    @field_validator("app_name")
    @classmethod
    def _speakable(cls, value: str) -> str:
        return setting_values.app_name(value)

    @field_validator("default_language", "phlo_language")
    @classmethod
    def _language_tag(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", value):
            raise ValueError("is not a BCP 47 tag such as en-US")
        return value

    @field_validator(*_LISTS)
    @classmethod
    def _list_of_values(cls, value: Any, info: ValidationInfo) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        _LISTS[info.field_name or ""](text)
        return value

    @property
    def uses_simulator(self) -> bool:
        """Whether all calls stay on this machine."""
        return self.simulate or self.provider_names == ("simulator",)

    @property
    def provider_names(self) -> tuple[str, ...]:
        """PROVIDERS in its order, or the carriers of which something is set, else the simulator."""
        if self.providers:
            return tuple(name.strip() for name in self.providers.split(","))
        if self.configured_carriers or not self.from_number:
            return self.configured_carriers or ("simulator",)
        return ("vobiz",)

    @property
    def sms_provider_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.sms_providers.split(",")) if self.sms_providers else ()

    @property
    def redial_reasons(self) -> frozenset[str]:
        return frozenset(setting_values.redial_reasons(self.redial_on))

    @property
    def serves_api_docs(self) -> bool:
        """API_DOCS, or on as long as there is nothing but a simulated carrier to call through."""
        return self.uses_simulator if self.api_docs is None else self.api_docs

    @property
    def caller_id(self) -> str:
        return self.from_number or _SIMULATOR_FROM_NUMBER

    @property
    def otp_secrets(self) -> tuple[str, ...]:
        """The secret for new seals first, then one that is being rotated out; empty when none is set."""
        given = self.otp_secret.get_secret_value()
        return tuple(part.strip() for part in given.split(",")) if given else ()

    @property
    def redis_address(self) -> str:
        """Where REDIS_URL leads, without its password; empty when none is set."""
        return setting_values.redis_place(self.redis_url.get_secret_value())

    @property
    def is_open(self) -> bool:
        """Whether requests without an API key are let in."""
        return not setting_values.client_keys(self.api_keys.get_secret_value())

    @property
    def own_url(self) -> str:
        """Where this service is reached on its own machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.http_host, self.http_host)  # noqa: S104 - no bind
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http_port}"

    @property
    def base_url(self) -> str:
        """PUBLIC_URL, or the service's own address, which only the simulator can reach."""
        return self.public_url or self.own_url

    @property
    def needs_tunnel(self) -> bool:
        return not self.uses_simulator and not self.public_url


def load_settings(**overrides: Any) -> Settings:
    """Read environment and `.env`; keyword arguments win over both. Raises: BadSettings, with every problem."""
    problems: list[str] = []
    try:
        settings = Settings(**overrides)
    except UnicodeDecodeError:
        raise BadSettings([".env is not UTF-8: save it again in that encoding"]) from None
    except ValidationError as error:
        details = error.errors(include_input=False)
        problems = [_problem(detail) for detail in details]
        # With defaults in the place of what is wrong in itself, contradictions among the rest come to light, too.
        wrong = {str(detail["loc"][0]) for detail in details}
        settings = Settings(**overrides | {name: Settings.model_fields[name].default for name in wrong})
    problems += [text for text in _contradictions(settings) if not text.startswith(_names(problems))]
    if problems:
        raise BadSettings(problems)
    return settings


def _names(problems: list[str]) -> tuple[str, ...]:
    """The settings that problems name first: one line for each is enough."""
    return tuple(re.split("[ :]", problem, maxsplit=1)[0] for problem in problems)


def _problem(details: Any) -> str:
    """One line on a value that is wrong in itself. The value is not repeated: it may be a secret."""
    name = str(details["loc"][0]).upper()
    message = details["msg"].removeprefix("Value error, ")
    return f"{name} {message}" if details["type"] == "value_error" else f"{name}: {message}"


def _contradictions(settings: Settings) -> list[str]:
    """Values that are right one by one, but not together."""
    problems = _carrier_problems(settings)
    problems += _redial_problems(settings)
    problems += _url_problems(settings)
    problems += _exposures(settings)
    if settings.environment is Environment.PRODUCTION and settings.uses_simulator and not settings.providers:
        problems.append(
            "ENVIRONMENT is production, but no carrier is set: to use the simulator, name it in PROVIDERS"
        )
    if settings.environment is Environment.PRODUCTION and settings.needs_tunnel:
        problems.append("PUBLIC_URL is not set: with ENVIRONMENT=production no tunnel is opened")
    if settings.client_prompts and not settings.prompts_file:
        problems.append("CLIENT_PROMPTS is set, but PROMPTS_FILE is not: its sets are in that file")
    problems += _worker_problems(settings)
    if any(len(secret) < 32 for secret in settings.otp_secrets):
        problems.append("OTP_SECRET is too short: use at least 32 characters, e.g. of `openssl rand -hex 32`")
    if len(settings.otp_secrets) > 2:
        problems.append("OTP_SECRET holds more than two secrets: keep the new one and the one it replaces")
    return problems


def _carrier_problems(settings: Settings) -> list[str]:
    """Carriers that are unknown, named twice, mixed with the simulator, or half configured."""
    names = settings.provider_names
    known = (*CarrierSettings.REQUIRED, "simulator")
    problems = []
    if any(name not in known for name in names) or len(set(names)) < len(names):
        problems.append(f"PROVIDERS must name each carrier once, out of {', '.join(known)}")
    elif "simulator" in names and (len(names) > 1 or settings.simulate):
        problems.append("PROVIDERS names the simulator beside a carrier: SIMULATE=true plays all that it names")
    texters = settings.carriers_with_text_messages
    given = settings.sms_provider_names
    if not set(given) <= set(texters) or len(set(given)) < len(given):
        problems.append(f"SMS_PROVIDERS must be some of {', '.join(texters)}, each of them once")
    routed = {name for route in setting_values.routes(settings.provider_routes).values() for name in route}
    if routed - set(names):
        problems.append(f"PROVIDER_ROUTES names a carrier that PROVIDERS does not: known are {', '.join(names)}")
    if not settings.simulate:
        problems += _unsigned_voipbin(settings)
        for name in dict.fromkeys((*names, *(one for one in settings.sms_provider_names if one in texters))):
            problems += _missing_settings(settings, name)
    return problems


def _unsigned_voipbin(settings: Settings) -> list[str]:
    """VoIPBin without the secret that its callbacks are signed with, where unsigned ones are refused."""
    if settings.voipbin_webhook_secret.get_secret_value():
        return []
    if "voipbin" in settings.sms_provider_names:
        return ["VOIPBIN_WEBHOOK_SECRET is not set: without it all reports on voipbin's text messages are refused"]
    if "voipbin" in settings.provider_names and settings.webhook_signatures is SignaturePolicy.REQUIRED:
        return [
            "VOIPBIN_WEBHOOK_SECRET is not set: WEBHOOK_SIGNATURES=required refuses all of voipbin's callbacks"
        ]
    return []


def _worker_problems(settings: Settings) -> list[str]:
    """Processes and machines that would not know of each other's codes."""
    problems = []
    if settings.workers > 1 and settings.uses_simulator:
        problems.append(
            "WORKERS is more than 1, but the simulated network lives in one process: "
            "set WORKERS=1, or the settings of a carrier"
        )
    elif settings.workers > 1 and not settings.redis_address:
        problems.append("REDIS_URL is not set, but WORKERS is more than 1: the store in memory serves one process")
    if settings.redis_address and not settings.otp_secrets:
        problems.append(
            "OTP_SECRET is not set: with REDIS_URL all processes and machines need the same one, "
            "e.g. of `openssl rand -hex 32`"
        )
    return problems


def _redial_problems(settings: Settings) -> list[str]:
    """Redials that would never happen."""
    if not settings.redial_on:
        return []
    problems = []
    if settings.redial_through is RedialThrough.SMS and not settings.sms_providers:
        problems.append("REDIAL_THROUGH is sms, but SMS_PROVIDERS names no carrier for it")
    after_seconds = settings.redial_after_seconds
    if after_seconds < settings.resend_after_seconds:
        problems.append(
            f"REDIAL_AFTER_SECONDS is {after_seconds}, but RESEND_AFTER_SECONDS refuses calls "
            f"for {settings.resend_after_seconds}: wait at least as long"
        )
    elif after_seconds + LEAST_SECONDS_TO_USE_A_CODE > settings.code_ttl_seconds:
        problems.append(
            f"REDIAL_AFTER_SECONDS is {after_seconds}, which leaves less than {LEAST_SECONDS_TO_USE_A_CODE} "
            f"seconds of CODE_TTL_SECONDS={settings.code_ttl_seconds} to use the code"
        )
    return problems


def _missing_settings(settings: Settings, name: str) -> list[str]:
    if name not in CarrierSettings.REQUIRED:
        return []
    needed = ", ".join([*(field.upper() for field in CarrierSettings.REQUIRED[name]), "FROM_NUMBER"])
    return [
        f"{missing} is not set: {name} needs {needed}; set all of them in .env, or none to use the simulator"
        for missing in settings.missing_of(name, calls=name in settings.provider_names)
    ]


def _exposures(settings: Settings) -> list[str]:
    """What would let strangers in, or calls out to anywhere, without anyone having said so."""
    problems = []
    is_at_home = settings.uses_simulator and settings.http_host in LOOPBACK_HOSTS
    if settings.is_open and not settings.allow_anonymous and not is_at_home:
        problems.append(
            "API_KEYS is not set: make a key with `openssl rand -hex 32`, "
            "or set ALLOW_ANONYMOUS=true where a gateway of yours keeps strangers out"
        )
    if not settings.uses_simulator and not settings.allowed_regions:
        problems.append(
            "ALLOWED_REGIONS is not set: name the regions that may be called, such as IN,US; * opens all of them"
        )
    operators = setting_values.client_keys(settings.operator_keys.get_secret_value())
    clients = setting_values.client_keys(settings.api_keys.get_secret_value())
    by_client: dict[str, Iterable[str]] = {
        "CLIENT_QUOTAS": setting_values.quotas(settings.client_quotas),
        "CLIENT_PROMPTS": setting_values.client_prompts(settings.client_prompts),
    }
    for name, values in by_client.items():
        unknown = set(values) - {client for client, _ in clients}
        if unknown:
            problems.append(f"{name} names clients without a key in API_KEYS: {', '.join(sorted(unknown))}")
    if {key for _, key in operators} & {key for _, key in clients}:
        problems.append("OPERATOR_KEYS has a key that is in API_KEYS, too: give operators keys of their own")
    return problems


def _url_problems(settings: Settings) -> list[str]:
    """Codes go to the public URLs and the auth token to the API: over TLS, or not off this machine."""
    problems = []
    for name in ("public_url", "fallback_public_url", *_API_URLS):
        url: str = getattr(settings, name)
        if url.startswith("http:") and not _is_loopback(url):
            problems.append(f"{name.upper()} must start with https:// (http is for loopback hosts only)")
    for name in ("public_url", "fallback_public_url"):
        url = getattr(settings, name)
        if _is_loopback(url) and not _is_at_home(settings):
            problems.append(
                f"{name.upper()} is a loopback address, which a carrier cannot reach: set a public https URL"
            )
        if settings.environment is Environment.PRODUCTION and is_tunnel(url):
            problems.append(
                f"{name.upper()} is a tunnel, which ENVIRONMENT=production refuses: use a host of your own"
            )
    return problems


def _is_at_home(settings: Settings) -> bool:
    """Whether all carriers are on this machine, and can reach loopback addresses."""
    if settings.uses_simulator:
        return True
    for_calls = {"phlo": "plivo_phlo_url"}
    for_messages = {"cm": "cm_sms_url"}
    apis = [for_calls.get(name, f"{name}_api_url") for name in settings.provider_names]
    apis += [for_messages.get(name, f"{name}_api_url") for name in settings.sms_provider_names]
    return all(_is_loopback(getattr(settings, api, "")) for api in apis)


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK_HOSTS


def is_tunnel(url: str) -> bool:
    """Whether a URL is one of a tunnel service, whose operator can read what passes."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return any(host == domain or host.endswith("." + domain) for domain in TUNNEL_DOMAINS)
