"""Operation: secrets that do not show, tunnels that are refused, and the switch that stops calls."""

import dataclasses
from typing import Any

import httpx
import pytest

from access import ClientKey
from banner import banner
from carriers import open_carrier
from sealing import Sealer
from settings import TUNNEL_DOMAINS, BadSettings, load_settings
from simulator.vobiz_api import new_account
from tests.conftest import OTP_SECRET, VOBIZ_TOKEN, FakeTime, RunningService, keep_secret, run_service
from tests.security.attackers import (
    BANK_KEY,
    BUSY,
    KEYS,
    OPERATOR_KEY,
    SHOP_KEY,
    SHOP_NEW_KEY,
    bearer,
    flood,
    let_callees_be,
    numbers,
    sends,
)
from verification import CallRef

PHONE = keep_secret("+12025550142")
NGROK_TOKEN = keep_secret("ngrok-token-CANARY-0123456789")
REAL: dict[str, Any] = {
    **KEYS,
    "vobiz_auth_id": "MA_T",
    "vobiz_auth_token": VOBIZ_TOKEN,
    "from_number": "+12025550100",
    "otp_secret": OTP_SECRET,
    "ngrok_auth_token": NGROK_TOKEN,
    "allowed_regions": "US",
    "public_url": "https://otp.example.com",
}
SECRETS = (SHOP_KEY, SHOP_NEW_KEY, BANK_KEY, OPERATOR_KEY, VOBIZ_TOKEN, OTP_SECRET, NGROK_TOKEN)

# H2: secrets


def test_h2_secrets_do_not_show_in_any_object_that_holds_them() -> None:
    settings = load_settings(**REAL)
    client = open_carrier("vobiz", settings, httpx.AsyncClient())
    config = vars(client)["_config"]
    keys = [ClientKey("shop", SHOP_KEY)]
    account = dataclasses.replace(new_account("+12025550100"), auth_token=VOBIZ_TOKEN)
    for thing in (settings, config, keys, keys[0], account, Sealer([OTP_SECRET]), {"settings": settings}):
        shown = f"{thing!r} {thing!s} {thing}"
        assert not any(secret in shown for secret in SECRETS), type(thing)
    dumped = settings.model_dump_json() + repr(settings.model_dump())
    assert not any(secret in dumped for secret in SECRETS)


@pytest.mark.parametrize("name", ["api_keys", "operator_keys", "otp_secret", "vobiz_auth_token"])
def test_h2_a_secret_that_is_refused_is_not_repeated(name: str) -> None:
    secret = keep_secret(f"bad secret CANARY {name}")
    wrong = {**REAL, name: secret, "http_port": "abc"}
    with pytest.raises(BadSettings) as bad:
        load_settings(**wrong)
    assert not any(text in str(bad.value) for text in (secret, *SECRETS))


def test_h2_the_banner_shows_no_secret() -> None:
    assert not any(secret in banner(load_settings(**REAL)) for secret in SECRETS)


def test_h2_two_secrets_are_good_while_one_is_replaced() -> None:
    old, new = keep_secret("old-" + OTP_SECRET), keep_secret("new-" + OTP_SECRET)
    before = Sealer(load_settings(otp_secret=old).otp_secrets)
    during = Sealer(load_settings(otp_secret=f"{new},{old}").otp_secrets)
    after = Sealer(load_settings(otp_secret=new).otp_secrets)
    ref = CallRef("vrf_" + "a" * 32, 1)
    sealed, token = before.seal("012345", ref.verification_id), before.sign_token(ref)
    assert during.unseal(sealed, ref.verification_id) == "012345"
    assert during.read_token(token) == ref
    assert after.read_token(token) is None
    assert after.read_token(during.sign_token(ref)) == ref, "new ones are made with the new secret"


# H3: tunnels


@pytest.mark.parametrize("domain", TUNNEL_DOMAINS)
@pytest.mark.parametrize("form", ["https://a.{}", "https://{}", "https://A-B.{}:443/path", "https://a.{}."])
@pytest.mark.parametrize("name", ["public_url", "fallback_public_url"])
def test_h3_production_refuses_a_tunnel(domain: str, form: str, name: str) -> None:
    url = form.format(domain if "A-B" not in form else domain.upper())
    with pytest.raises(BadSettings, match=f"{name.upper()} is a tunnel"):
        load_settings(**{**REAL, name: url}, environment="production")
    assert "a tunnel" in banner(load_settings(**{**REAL, "public_url": url}))


def test_h3_a_host_that_only_looks_like_a_tunnel_is_fine() -> None:
    for url in ("https://myngrok.io", "https://ngrok.io.example.com", "https://otp.example.com/ngrok.io"):
        assert load_settings(**{**REAL, "public_url": url}, environment="production").public_url == url


def test_h3_production_opens_no_tunnel_of_its_own() -> None:
    with pytest.raises(BadSettings, match="no tunnel is opened"):
        load_settings(**{**REAL, "public_url": ""}, environment="production")


# H4: the kill switch


async def switch(service: RunningService, method: str, target: str, key: str | None = OPERATOR_KEY) -> int:
    headers = bearer(key) if key else {}
    return (await service.client.request(method, f"/blocks/{target}", headers=headers)).status_code


async def outcome(service: RunningService, phone: str, key: str = SHOP_KEY) -> tuple[int, str | None]:
    (answer,) = await flood(service, sends([phone], key))
    return answer.status, answer.code


STOPPED, NOT_ALLOWED = (503, "sending_stopped"), (403, "destination_not_allowed")


@pytest.mark.parametrize(
    ("target", "phone", "key", "refusal", "other_phone", "other_key"),
    [
        pytest.param("all", PHONE, SHOP_KEY, STOPPED, None, None, id="all"),
        pytest.param("client:shop", PHONE, SHOP_NEW_KEY, STOPPED, "+12025550143", BANK_KEY, id="client"),
        pytest.param("region:US", PHONE, SHOP_KEY, NOT_ALLOWED, "+14165550143", SHOP_KEY, id="region"),
        pytest.param("prefix:+1202555", PHONE, SHOP_KEY, NOT_ALLOWED, "+12035550143", SHOP_KEY, id="prefix"),
        pytest.param("prefix:+12025550142", PHONE, SHOP_KEY, NOT_ALLOWED, "+12025550143", SHOP_KEY, id="number"),
        pytest.param("prefix:+1", PHONE, SHOP_KEY, NOT_ALLOWED, "+919876543210", SHOP_KEY, id="calling code"),
        pytest.param("prefix:+5411", "+5491123456789", SHOP_KEY, NOT_ALLOWED, PHONE, SHOP_KEY, id="spelling"),
    ],
)
async def test_h4_calls_stop_with_the_next_request_and_pass_again_with_the_next_one(
    target: str,
    phone: str,
    key: str,
    refusal: tuple[int, str],
    other_phone: str | None,
    other_key: str | None,
) -> None:
    async with run_service(**KEYS) as service:
        let_callees_be(service, BUSY)
        assert await outcome(service, phone, key) == (200, None)
        await service.calls_over()
        assert await switch(service, "PUT", target) == 200
        assert [await outcome(service, phone, key) for _ in range(3)] == [refusal] * 3
        assert service.carrier.requests == 1
        if other_phone and other_key:
            assert await outcome(service, other_phone, other_key) == (200, None)
        assert await switch(service, "DELETE", target) == 200
        assert await outcome(service, phone, key) == (200, None)


async def test_h4_in_the_middle_of_a_flood_no_call_follows_the_switch() -> None:
    async with run_service(**KEYS) as service:
        phones = numbers("+91987654", 400)
        first = await flood(service, sends(phones[:200], SHOP_KEY))
        assert {answer.status for answer in first} == {200}
        placed = service.carrier.requests
        assert await switch(service, "PUT", "all") == 200
        rest = await flood(service, sends(phones[200:], SHOP_KEY))
        assert {(answer.status, answer.code) for answer in rest} == {STOPPED}
        assert service.carrier.requests == placed == 200


async def test_h4_codes_that_were_read_can_still_be_checked() -> None:
    code = keep_secret("CANARY610")
    async with run_service(**KEYS) as service:
        await flood(service, sends([PHONE], SHOP_KEY, code=code))
        await switch(service, "PUT", "all")
        body = {"phone": PHONE, "otp": code}
        assert (await service.client.post("/verify-otp", json=body, headers=bearer(SHOP_KEY))).status_code == 200


async def test_h4_a_live_call_stands_in_for_no_stopped_one() -> None:
    async with run_service(**KEYS) as service:
        assert await outcome(service, PHONE) == (200, None)
        await switch(service, "PUT", "region:US")
        assert await outcome(service, PHONE) == NOT_ALLOWED


@pytest.mark.parametrize("key", [None, "wrong", SHOP_KEY])
async def test_h4_only_operators_have_the_switch(key: str | None) -> None:
    async with run_service(**KEYS) as service:
        for method in ("PUT", "DELETE"):
            assert await switch(service, method, "all", key) == 401
        assert (await service.client.get("/blocks", headers=bearer(key) if key else {})).status_code == 401
        assert await outcome(service, PHONE) == (200, None)
        operator = await service.client.post("/send-otp", json={"phone": PHONE}, headers=bearer(OPERATOR_KEY))
        assert operator.status_code == 401, "and operators are no clients"


async def test_h4_without_operator_keys_there_is_no_switch_to_steal() -> None:
    async with run_service(api_keys=KEYS["api_keys"]) as service:
        for method, path in (("GET", "/blocks"), ("PUT", "/blocks/all"), ("DELETE", "/blocks/all")):
            answer = await service.client.request(method, path, headers=bearer(SHOP_KEY))
            assert answer.status_code == 404


async def test_h4_what_the_service_blocked_by_itself_is_listed_and_lifted(fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, **KEYS, prefix_sends_per_hour=2, blocked="region:XK") as service:
        await flood(service, sends(numbers("+91987654", 5), SHOP_KEY))
        await switch(service, "PUT", "client:bank")
        fake_time.advance(100)
        listed = (await service.client.get("/blocks", headers=bearer(OPERATOR_KEY))).json()
        assert listed == {
            "blocks": [
                {"target": "region:XK", "reason": "setting", "seconds_left": None},
                {"target": "prefix:+91987654", "reason": "velocity", "seconds_left": 43_100},
                {"target": "client:bank", "reason": "operator", "seconds_left": None},
            ]
        }
        fake_time.advance(3600)
        assert (await outcome(service, "+919876540009"))[0] == 429
        assert await switch(service, "DELETE", "prefix:+91987654") == 200
        assert await outcome(service, "+919876540009") == (200, None)
        assert await switch(service, "DELETE", "prefix:+91987654") == 404
        assert await switch(service, "DELETE", "region:XK") == 404, "the settings' own blocks stay"


@pytest.mark.parametrize(
    "target",
    ["ALL", "none", "client:", "client:Shop", "region:us", "region:USA", "prefix:1202", "prefix:+0"],
)
async def test_h4_a_target_that_means_nothing_is_refused_and_not_taken_for_a_block(target: str) -> None:
    async with run_service(**KEYS) as service:
        for method in ("PUT", "DELETE"):
            assert await switch(service, method, target) == 422
        assert (await service.client.get("/blocks", headers=bearer(OPERATOR_KEY))).json() == {"blocks": []}
