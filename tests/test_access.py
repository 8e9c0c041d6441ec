"""Keys to clients, the lock against trying keys, and the address that a request really comes from."""

import ipaddress
from typing import Any

import pytest

from access import (
    ANONYMOUS,
    MAX_KNOWN_ADDRESSES,
    Access,
    AccessRefused,
    AddressLocked,
    Caller,
    ClientKey,
    KeyMissing,
    client_address,
)
from guard_store import MemoryGuardStore
from otp_store import StoreUnavailable
from protection import Protection, open_protection
from settings import load_settings
from tests.conftest import OTP_SECRET, FakeTime, keep_secret

KEY = keep_secret("shop-key-CANARY-0123456789abcdef")
NEW_KEY = keep_secret("shop-new-key-CANARY-0123456789abcdef")
BANK_KEY = keep_secret("bank-key-CANARY-0123456789abcdef")
KEYS = [ClientKey("shop", KEY), ClientKey("shop", NEW_KEY), ClientKey("bank", BANK_KEY)]
PROXY = "10.0.0.1"
TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]


def scope(peer: str = "192.0.2.1", **headers: str | list[str]) -> dict[str, Any]:
    lines = []
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            lines.append((name.replace("_", "-").encode(), value.encode("latin-1")))
    return {"type": "http", "client": (peer, 40_000), "headers": lines}


def bearer(key: str, peer: str = "192.0.2.1") -> dict[str, Any]:
    return scope(peer, authorization=f"Bearer {key}")


@pytest.fixture
def access(fake_time: FakeTime) -> Access:
    return Access(KEYS, MemoryGuardStore(fake_time.clock, 100_000), [])


async def refused(access: Access, request: dict[str, Any]) -> AccessRefused:
    with pytest.raises(AccessRefused) as refusal:
        await access.admit(request)
    assert isinstance(refusal.value, (KeyMissing, AddressLocked))
    return refusal.value


# Keys


async def test_every_key_of_a_client_lets_it_in(access: Access) -> None:
    assert await access.admit(bearer(KEY)) == Caller("shop", "192.0.2.1")
    assert await access.admit(bearer(NEW_KEY)) == Caller("shop", "192.0.2.1")
    assert await access.admit(bearer(BANK_KEY)) == Caller("bank", "192.0.2.1")


async def test_the_scheme_is_read_as_http_says(access: Access) -> None:
    assert (await access.admit(scope(authorization=f"bearer  {KEY} "))).client == "shop"


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("Bearer", id="no key"),
        pytest.param(f"Bearer {KEY}x", id="longer"),
        pytest.param(f"Bearer {KEY[:-1]}", id="shorter"),
        pytest.param(f"Bearer {KEY.upper()}", id="other case"),
        pytest.param(f"Bearer {KEY},{BANK_KEY}", id="two keys"),
        pytest.param(f"Basic {KEY}", id="other scheme"),
        pytest.param(KEY, id="no scheme"),
        pytest.param("Bearer \xe9\xff", id="not ASCII"),
        pytest.param("Bearer shop:" + KEY, id="with its client"),
    ],
)
async def test_anything_else_is_refused(access: Access, authorization: str | None) -> None:
    request = scope() if authorization is None else scope(authorization=authorization)
    assert isinstance(await refused(access, request), KeyMissing)


async def test_without_keys_everybody_is_anonymous(fake_time: FakeTime) -> None:
    access = Access([], MemoryGuardStore(fake_time.clock, 10), [])
    assert access.is_open
    assert (await access.admit(bearer(KEY))).client == ANONYMOUS


async def test_keys_are_kept_as_keyed_hashes_only(access: Access) -> None:
    kept = repr(vars(access)) + repr([vars(access), access._client_of])
    assert not any(key in kept for _, key in KEYS)
    other = Access(KEYS, access._store, [])
    assert not set(access._client_of) & set(other._client_of), "under a secret of each process"
    assert KEY not in repr(KEYS)


# Trying keys


async def test_ten_wrong_keys_lock_an_address_for_ten_minutes(access: Access, fake_time: FakeTime) -> None:
    for number in range(10):
        assert isinstance(await refused(access, bearer(f"wrong-{number}")), KeyMissing)
    for request in (bearer("wrong-10"), bearer(KEY)):
        locked = await refused(access, request)
        assert isinstance(locked, AddressLocked)
        assert locked.retry_after_seconds == 600
    assert (await access.admit(bearer(KEY, "192.0.2.2"))).client == "shop", "another address is not locked"
    fake_time.advance(599.9)
    assert isinstance(await refused(access, bearer(KEY)), AddressLocked)
    fake_time.advance(0.1)
    assert (await access.admit(bearer(KEY))).client == "shop"


def protection_of(time: FakeTime, **settings: str) -> Protection:
    given = load_settings(otp_secret=OTP_SECRET, **settings)
    return open_protection(given, MemoryGuardStore(time.clock, 1000), time.clock)


async def test_requests_without_a_key_lock_nobody_out(access: Access) -> None:
    for _ in range(20):
        assert isinstance(await refused(access, scope()), KeyMissing)
    assert (await access.admit(bearer(KEY))).client == "shop"


async def test_a_right_key_of_an_operator_is_never_locked_out(fake_time: FakeTime) -> None:
    operators = protection_of(fake_time, operator_keys=KEY).operators
    for number in range(20):
        await refused(operators, bearer(f"wrong-{number}"))
    await operators.admit(bearer(KEY))


async def test_a_locked_address_learns_nothing_about_the_keys_that_it_tries(
    access: Access, fake_time: FakeTime
) -> None:
    """A right key must be told the same as a wrong one, down to the wait, or the lock would stop no one."""
    for number in range(10):
        await refused(access, bearer(f"wrong-{number}"))
        fake_time.advance(7)
    for seconds in (0, 13, 250):
        fake_time.advance(seconds)
        right, wrong = await refused(access, bearer(KEY)), await refused(access, bearer("wrong"))
        assert isinstance(right, AddressLocked)
        assert isinstance(wrong, AddressLocked)
        assert (right.retry_after_seconds, str(right)) == (wrong.retry_after_seconds, str(wrong))


async def test_a_known_client_is_not_locked_out_by_a_stranger_behind_the_same_address(access: Access) -> None:
    await access.admit(bearer(KEY))
    for number in range(50):
        await refused(access, bearer(f"wrong-{number}"))
    assert (await access.admit(bearer(KEY))).client == "shop"
    assert (await access.admit(bearer(NEW_KEY))).client == "shop", "also with its new key"
    assert isinstance(await refused(access, bearer(BANK_KEY)), AddressLocked), "never seen from there"


async def test_right_keys_count_for_nothing(access: Access) -> None:
    for number in range(100):
        await access.admit(bearer(KEY, f"192.0.2.{number % 3}"))
    for number in range(10):
        assert isinstance(await refused(access, bearer(f"wrong-{number}")), KeyMissing)


async def test_known_addresses_are_bounded(access: Access) -> None:
    for number in range(MAX_KNOWN_ADDRESSES + 50):
        await access.admit(bearer(KEY, f"10.{number // 65_536}.{number // 256 % 256}.{number % 256}"))
    assert len(access._seen) == MAX_KNOWN_ADDRESSES


# Addresses


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        pytest.param("192.0.2.1", "203.0.113.9", "192.0.2.1", id="a stranger's word"),
        pytest.param(PROXY, "203.0.113.9", "203.0.113.9", id="a proxy's word"),
        pytest.param(PROXY, "198.51.100.7, 203.0.113.9", "203.0.113.9", id="a stranger's word before a proxy's"),
        pytest.param(PROXY, "203.0.113.9, 10.0.0.2, 10.0.0.3", "203.0.113.9", id="three proxies"),
        pytest.param(PROXY, ["198.51.100.7", "203.0.113.9"], "203.0.113.9", id="two lines"),
        pytest.param(PROXY, "10.0.0.9, 10.0.0.2", "10.0.0.9", id="nobody but proxies"),
        pytest.param(PROXY, "", PROXY, id="empty"),
        pytest.param(PROXY, "198.51.100.7, unknown", PROXY, id="a proxy that does not tell"),
        pytest.param(PROXY, "198.51.100.7, 203.0.113.9:4711", PROXY, id="a proxy that adds a port"),
        pytest.param(PROXY, "198.51.100.7, nonsense, 10.0.0.2", "10.0.0.2", id="told up to a proxy"),
        pytest.param(PROXY, "198.51.100.7,", PROXY, id="nothing at the end"),
        pytest.param("::ffff:10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9", id="IPv4 in IPv6"),
        pytest.param("fd00::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="IPv6"),
        pytest.param("2001:db8:1:2:3:4:5:6", "203.0.113.9", "2001:db8:1:2::/64", id="IPv6 stranger"),
        pytest.param("", "203.0.113.9", "unknown", id="no peer"),
    ],
)
def test_an_address_is_believed_as_far_as_trusted_proxies_wrote_it(
    peer: str, forwarded_for: str | list[str], address: str
) -> None:
    assert client_address(scope(peer, x_forwarded_for=forwarded_for), TRUSTED) == address


def test_other_headers_never_count() -> None:
    forged = {"forwarded": "for=203.0.113.9", "x_real_ip": "203.0.113.9", "true_client_ip": "203.0.113.9"}
    assert client_address(scope(PROXY, **forged), TRUSTED) == PROXY


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert client_address(scope(PROXY, x_forwarded_for="203.0.113.9"), []) == PROXY


def test_a_socket_without_peer_is_one_sender() -> None:
    assert client_address({"type": "http", "client": None, "headers": []}, []) == "unknown"


async def test_a_flood_of_addresses_with_wrong_keys_does_not_touch_clients(fake_time: FakeTime) -> None:
    access = Access(KEYS, MemoryGuardStore(fake_time.clock, capacity=3), [])
    assert await access.admit(bearer(KEY)) == Caller("shop", "192.0.2.1")
    for number in range(2):
        await refused(access, bearer("wrong" * 8, f"198.51.100.{number}"))
    with pytest.raises(StoreUnavailable):
        await access.admit(bearer("wrong" * 8, "198.51.100.9"))
    assert await access.admit(bearer(KEY)) == Caller("shop", "192.0.2.1")


async def test_refused_keys_take_no_room_from_what_sends_count(fake_time: FakeTime) -> None:
    protection = protection_of(fake_time, api_keys=KEY)
    await refused(protection.clients, bearer("wrong" * 8))
    assert not vars(protection.store)["_logs"]
    fake_time.advance(3600)
    assert not await protection.expire()
    assert not vars(protection.refused_keys)["_logs"]
