"""Settings: defaults, sources, and one clear line for everything that is wrong."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from settings import BadSettings, load_settings
from tests.conftest import OTP_SECRET, VOBIZ_TOKEN, keep_secret

KEY = keep_secret("api-key-CANARY-0123456789abcdef")
GUARDED = {"api_keys": KEY, "allowed_regions": "US"}
VOBIZ = {**GUARDED, "vobiz_auth_id": "MA_TEST", "vobiz_auth_token": VOBIZ_TOKEN, "from_number": "+1 202 555 0100"}
URL = "https://otp.example.com"
PASSWORD = keep_secret("redis-password-CANARY")


def problems_of(**given: Any) -> list[str]:
    with pytest.raises(BadSettings) as bad:
        load_settings(**given)
    for problem in bad.value.problems:
        assert not any(hidden in problem for hidden in (VOBIZ_TOKEN, PASSWORD, "\n"))
    return bad.value.problems


def test_nothing_configured_means_the_simulator() -> None:
    settings = load_settings()
    assert settings.uses_simulator
    assert (settings.http_port, settings.http_host, settings.app_name) == (8000, "127.0.0.1", "your app")
    assert not settings.needs_tunnel


def test_three_settings_mean_vobiz() -> None:
    settings = load_settings(**VOBIZ)
    assert settings.provider_names == ("vobiz",)
    assert settings.from_number == "+12025550100"
    assert settings.needs_tunnel
    assert not load_settings(**VOBIZ, public_url=URL + "/").needs_tunnel
    assert load_settings(**VOBIZ, public_url=URL + "/").public_url == URL


def test_the_simulator_can_be_chosen_although_vobiz_is_configured() -> None:
    assert load_settings(**VOBIZ, providers="simulator").uses_simulator


@pytest.mark.parametrize("missing", ["vobiz_auth_id", "vobiz_auth_token", "from_number"])
def test_half_a_configuration_names_what_is_missing(missing: str) -> None:
    (problem,) = problems_of(**{name: value for name, value in VOBIZ.items() if name != missing})
    assert problem.startswith(f"{missing.upper()} is not set")


def test_naming_vobiz_without_settings_names_all_three() -> None:
    assert [p.split()[0] for p in problems_of(**GUARDED, providers="vobiz")] == [
        "VOBIZ_AUTH_ID",
        "VOBIZ_AUTH_TOKEN",
        "FROM_NUMBER",
    ]


def test_environment_and_env_file_are_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("HTTP_PORT=8100\nAPP_NAME=From File\nRING_TIMEOUT_SECONDS=\n", encoding="utf-8")
    monkeypatch.setenv("HTTP_PORT", "8200")
    settings = load_settings()
    assert (settings.http_port, settings.app_name) == (8200, "From File")
    assert settings.ring_timeout_seconds == 30, "an empty value is no value"


def test_all_wrong_values_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HTTP_PORT": "abc",
        "CODE_TTL_SECONDS": "601",
        "FROM_NUMBER": "12",
        "APP_NAME": "<b>",
    }.items():
        monkeypatch.setitem(os.environ, name, value)
    problems = problems_of()
    assert sorted(p.split(":")[0].split()[0] for p in problems) == [
        "APP_NAME", "CODE_TTL_SECONDS", "FROM_NUMBER", "HTTP_PORT",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({"http_port": "abc"}, "HTTP_PORT: "),
        ({"http_port": 65_536}, "HTTP_PORT: "),
        ({"public_url": "otp.example.com"}, "PUBLIC_URL is not an absolute URL"),
        ({"public_url": "ftp://otp.example.com"}, "PUBLIC_URL is not an absolute URL"),
        ({"public_url": URL + "?a=1"}, "PUBLIC_URL must have no query"),
        ({"public_url": "https://user@otp.example.com"}, "PUBLIC_URL must have no query"),
        ({**VOBIZ, "public_url": "http://otp.example.com"}, "PUBLIC_URL must start with https://"),
        ({**VOBIZ, "public_url": "http://127.0.0.1:8000"}, "PUBLIC_URL is a loopback address"),
        (
            {**VOBIZ, "public_url": URL, "fallback_public_url": "http://b.example.com"},
            "FALLBACK_PUBLIC_URL must start",
        ),
        ({**VOBIZ, "public_url": URL, "vobiz_api_url": "http://api.vobiz.ai/api/v1"}, "VOBIZ_API_URL must start"),
        ({**VOBIZ, "public_url": "HTTP://otp.example.com"}, "PUBLIC_URL is not an absolute URL"),
        ({"public_url": "https://otp example.com"}, "PUBLIC_URL is not an absolute URL"),
        ({"public_url": "https://otp.example.com:abc"}, "PUBLIC_URL is not an absolute URL"),
        ({"environment": "production"}, "ENVIRONMENT is production, but no carrier is set"),
        (
            {**VOBIZ, "environment": "production", "public_url": "https://a.ngrok.io."},
            "PUBLIC_URL is a tunnel",
        ),
        ({"max_attempts": 6}, "MAX_ATTEMPTS: "),
        ({"code_ttl_seconds": 601}, "CODE_TTL_SECONDS: "),
        ({"default_language": "en US"}, "DEFAULT_LANGUAGE is not a BCP 47 tag"),
        (
            {**GUARDED, "providers": "pigeon"},
            "PROVIDERS must name each carrier once, out of vobiz, plivo, phlo, cm, voipbin, simulator",
        ),
        (
            {**VOBIZ, "public_url": URL, "providers": "vobiz,simulator"},
            "PROVIDERS names the simulator beside a carrier",
        ),
        ({"otp_secret": "short"}, "OTP_SECRET is too short"),
        ({"otp_secret": ",".join([OTP_SECRET] * 3)}, "OTP_SECRET holds more than two"),
        ({**VOBIZ, "environment": "production"}, "PUBLIC_URL is not set"),
        (
            {**VOBIZ, "environment": "production", "public_url": "https://a.ngrok-free.app"},
            "PUBLIC_URL is a tunnel",
        ),
        ({"simulator_speed": 0}, "SIMULATOR_SPEED: "),
        ({"webhook_signatures": "never"}, "WEBHOOK_SIGNATURES: "),
        ({**VOBIZ, "public_url": URL, "api_keys": ""}, "API_KEYS is not set"),
        ({"http_host": "0.0.0.0"}, "API_KEYS is not set"),
        ({**VOBIZ, "public_url": URL, "allowed_regions": ""}, "ALLOWED_REGIONS is not set"),
        ({"api_keys": "short"}, "API_KEYS has a key that is not 24 or more"),
        ({"api_keys": f"Shop:{KEY}"}, "API_KEYS has a client name"),
        ({"api_keys": f"shop:{KEY},bank:{KEY}"}, "API_KEYS has the same key twice"),
        ({"api_keys": KEY, "operator_keys": KEY}, "OPERATOR_KEYS has a key that is in API_KEYS"),
        ({"trusted_proxies": "10.0.0.1/8"}, "TRUSTED_PROXIES must be addresses or networks"),
        ({"allowed_regions": "in"}, "ALLOWED_REGIONS must be ISO 3166 regions"),
        ({"allowed_regions": "US,*"}, "ALLOWED_REGIONS must be ISO 3166 regions"),
        ({"allowed_line_types": "mobile,premium_rate"}, "ALLOWED_LINE_TYPES must be some of"),
        ({"blocked": "1900"}, "BLOCKED must be all, client:"),
        ({"safe_prefixes": "91"}, "SAFE_PREFIXES must be beginnings of numbers"),
        ({"client_quotas": "shop"}, "CLIENT_QUOTAS must be pairs"),
        ({"client_quotas": "shop=many"}, "CLIENT_QUOTAS must be pairs"),
        ({"client_prompts": "shop=acme"}, "CLIENT_PROMPTS must be pairs such as shop:acme,bank:default"),
        (
            {"api_keys": f"shop:{KEY}", "client_prompts": "shop:acme"},
            "CLIENT_PROMPTS is set, but PROMPTS_FILE is not",
        ),
        (
            {"api_keys": f"shop:{KEY}", "prompts_file": "a.toml", "client_prompts": "till:a,shop:a,bank:a"},
            "CLIENT_PROMPTS names clients without a key in API_KEYS: bank, till",
        ),
        ({"app_name": "a" * 61}, "APP_NAME may hold up to 60 letters"),
        ({"client_quotas": "shop=5"}, "CLIENT_QUOTAS names clients without a key in API_KEYS: shop"),
        ({"call_prices": "IN=0.02"}, "CALL_PRICES must have max="),
        ({"call_prices": "XX=1,max=1"}, "CALL_PRICES must be pairs"),
        ({"spend_per_hour": "a lot"}, "SPEND_PER_HOUR must be amounts"),
        ({"client_spend_per_day": "0.0000001"}, "CLIENT_SPEND_PER_DAY must be amounts"),
        ({**VOBIZ, "public_url": URL, "api_keys": ","}, "API_KEYS holds no key"),
        ({"operator_keys": " , "}, "OPERATOR_KEYS holds no key"),
        ({"blocked": "region:UK"}, "BLOCKED must be all, client:"),
        ({"workers": 2}, "WORKERS is more than 1, but the simulated network lives in one process"),
        ({**VOBIZ, "public_url": URL, "workers": 2}, "REDIS_URL is not set, but WORKERS is more than 1"),
        ({"workers": 65}, "WORKERS: "),
        ({"redis_url": "redis://127.0.0.1"}, "OTP_SECRET is not set: with REDIS_URL"),
        (
            {"redis_url": "redis://127.0.0.1", "otp_secret": OTP_SECRET, "workers": 2},
            "WORKERS is more than 1, but the simulated network",
        ),
        ({"redis_url": f"redi://:{PASSWORD}@127.0.0.1"}, "REDIS_URL is not a Redis URL"),
        ({"redis_url": f"redis://:{PASSWORD}@127.0.0.1:99999"}, "REDIS_URL is not a Redis URL"),
        ({"redis_url": f"redis://:{PASSWORD}@[::1"}, "REDIS_URL is not a Redis URL"),
        ({"redis_url": f"redis://:{PASSWORD}@"}, "REDIS_URL is not a Redis URL"),
        ({"redis_url": f"redis://:{PASSWORD}@127.0.0.1/0?ssl=1"}, "REDIS_URL has options that are not known"),
        ({"redis_url": f"redis://:a/{PASSWORD}@127.0.0.1"}, "REDIS_URL is not a Redis URL"),
        (
            {"redis_url": f"rediss://:{PASSWORD}@10.0.0.5?ssl_ca_certs=/none"},
            "REDIS_URL names files that cannot be used",
        ),
        ({"stop_delay_seconds": 121}, "STOP_DELAY_SECONDS: "),
    ],
)
def test_each_wrong_value_is_one_line_that_names_it(given: dict[str, Any], start: str) -> None:
    (problem,) = problems_of(**given)
    assert problem.startswith(start)


def test_a_wrong_redis_url_is_not_called_a_missing_one() -> None:
    (problem,) = problems_of(**VOBIZ, public_url=URL, workers=2, redis_url="redis//", otp_secret=OTP_SECRET)
    assert problem.startswith("REDIS_URL is not a Redis URL")


def test_wrong_values_do_not_hide_contradictions() -> None:
    problems = problems_of(
        **GUARDED, http_port="abc", from_number="12", vobiz_auth_id="MA_TEST", otp_secret="short"
    )
    assert [p.split(":")[0].split()[0] for p in problems] == [
        "FROM_NUMBER", "HTTP_PORT", "VOBIZ_AUTH_TOKEN", "OTP_SECRET",
    ]  # fmt: skip


def test_an_env_file_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("APP_NAME=Müller".encode("latin-1"))
    assert problems_of() == [".env is not UTF-8: save it again in that encoding"]


def test_loopback_is_fine_where_the_carrier_is_on_loopback_too() -> None:
    settings = load_settings(
        **VOBIZ, public_url="http://localhost:8000", vobiz_api_url="http://127.0.0.1:9000/api/v1"
    )
    assert settings.public_url == "http://localhost:8000"


def test_two_secrets_while_one_is_replaced() -> None:
    assert load_settings(otp_secret=f"{OTP_SECRET}, {OTP_SECRET}x").otp_secrets == (OTP_SECRET, OTP_SECRET + "x")
    assert load_settings().otp_secrets == ()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://10.0.0.5", "10.0.0.5:6379"),
        (f"rediss://otp:{PASSWORD}@cache_1.example.com:6380/2", "cache_1.example.com:6380"),
        (f"redis://:{PASSWORD}@[::1]:7000/", "[::1]:7000"),
        (f"rediss://:{PASSWORD}@cache.example.com?ssl_cert_reqs=none", "cache.example.com:6379"),
        (f"unix://:{PASSWORD}@/run/redis/redis.sock?db=1", "/run/redis/redis.sock"),
        ("", ""),
    ],
)
def test_the_address_of_redis_is_shown_without_its_password(url: str, address: str) -> None:
    settings = load_settings(redis_url=url, otp_secret=OTP_SECRET)
    assert settings.redis_address == address
    assert PASSWORD not in repr(settings) + settings.model_dump_json()


def test_settings_are_frozen_and_do_not_show_secrets() -> None:
    settings = load_settings(**VOBIZ, otp_secret=OTP_SECRET, ngrok_auth_token="ngrok-CANARY")
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert not any(secret in shown for secret in (VOBIZ_TOKEN, OTP_SECRET, "ngrok-CANARY"))
    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]
