"""Settings that hold several values: what is read out of them. What is refused is in test_settings."""

import ipaddress

import pytest

from abuse_guard import MONEY
from access import ClientKey
from phone_numbers import LineType
from setting_values import (
    block_targets,
    client_keys,
    client_prompts,
    line_types,
    millionths,
    networks,
    prefixes,
    prices,
    quotas,
    regions,
)
from tests.conftest import keep_secret

KEY = keep_secret("api-key-CANARY-0123456789abcdef")
OTHER_KEY = keep_secret("other-key-CANARY-0123456789abcdef")


def test_keys_name_their_client_or_are_the_default_ones() -> None:
    assert client_keys(f"{KEY}, shop:{OTHER_KEY} ,") == [ClientKey("default", KEY), ClientKey("shop", OTHER_KEY)]
    assert client_keys("") == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 23, id="too short"),
        pytest.param("a" * 23 + " " + "b", id="a space"),
        pytest.param("ä" * 24, id="not ASCII"),
        pytest.param(":" + "a" * 24, id="no client"),
        pytest.param("a" * 33 + ":" + "a" * 24, id="long client"),
        pytest.param("shop:x:" + "a" * 24, id="two colons"),
        pytest.param(f"shop:{'a' * 24},shop:{'a' * 24}", id="twice"),
    ],
)
def test_bad_keys_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(ValueError, match=r"^has ") as refused:
        client_keys(text)
    assert text not in str(refused.value)


def test_networks() -> None:
    assert networks("10.0.0.0/8, ::1") == [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")]
    assert networks("") == []


def test_regions_are_some_or_none_or_all() -> None:
    assert regions("IN, US") == frozenset({"IN", "US"})
    assert regions("") == frozenset(), "which lets nobody be called"
    assert regions("*") is None


@pytest.mark.parametrize("text", ["", "unknown", "pager", "Mobile", "mobile,all", "shared_cost"])
def test_line_types_are_at_least_one_that_may_be_opened(text: str) -> None:
    with pytest.raises(ValueError, match="must be some of"):
        line_types(text)
    assert line_types("mobile, voip") == {LineType.MOBILE, LineType.VOIP}


@pytest.mark.parametrize("text", ["91", "+", "+0", "+91x", "+" + "1" * 16, "+91-9"])
def test_prefixes_are_beginnings_of_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="must be beginnings"):
        prefixes(text)
    assert prefixes("+91, +4917") == ("+91", "+4917")


def test_block_targets() -> None:
    assert block_targets("all, client:shop,region:XK, prefix:+1900") == {
        "all", "client:shop", "region:XK", "prefix:+1900",
    }  # fmt: skip
    with pytest.raises(ValueError, match="must be all, client:"):
        block_targets("all,prefix:+")


@pytest.mark.parametrize("text", ["shop", "shop=", "shop=-1", "shop=1.5", "Shop=1", "=1", "shop=12345678"])
def test_quotas_are_whole_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="must be pairs"):
        quotas(text)
    assert quotas("shop=500, batch = 0") == {"shop": 500, "batch": 0}


@pytest.mark.parametrize("text", ["shop", "shop:", ":acme", "Shop:acme", "shop:a:b", "shop=acme", "shop:a,shop:b"])
def test_client_prompts_are_one_set_for_each_client(text: str) -> None:
    with pytest.raises(ValueError, match="must be pairs"):
        client_prompts(text)
    assert client_prompts("shop:acme, bank : default") == {"shop": "acme", "bank": "default"}


def test_prices_are_exact() -> None:
    assert prices("IN=0.02, max = 0.5") == {"IN": 20_000, "max": 500_000}
    assert prices("") == {}


@pytest.mark.parametrize("text", ["IN=0.02", "IN=1,max=0.5", "XX=1,max=1", "in=1,max=1", "IN,max=1", "MAX=1"])
def test_prices_have_a_highest_one_and_real_regions(text: str) -> None:
    with pytest.raises(ValueError, match=r"must (be pairs|have max)"):
        prices(text)


@pytest.mark.parametrize(
    ("text", "amount"), [("0", 0), ("1", MONEY), ("0.000001", 1), ("100.5", 100_500_000), ("1e3", 1000 * MONEY)]
)
def test_money_is_counted_in_millionths(text: str, amount: int) -> None:
    assert millionths(text) == amount


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "-0.000001", "0.0000001", "NaN", "Infinity", "1e13", "1,5", "1 000"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be amounts"):
        millionths(text)
