"""Who is asking: API keys to clients, and the address that a request really comes from.

AccessRefused
├── KeyMissing        no key, or none that is known
└── AddressLocked     too many wrong keys from this address: `retry_after_seconds`
"""

import hmac
import ipaddress
import logging
import math
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from starlette.types import Scope

from guard_store import GuardStore
from limit_rules import Charge, Reservation, Window, rule

logger = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
BAD_KEYS = rule("bad-keys", Window(10, 600))
MAX_KNOWN_ADDRESSES = 10_000
_IPV6_CUSTOMER_BITS = 64  # the smallest net that one customer gets: its addresses are one sender

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AccessRefused(Exception):
    pass


class KeyMissing(AccessRefused):
    pass


class AddressLocked(AccessRefused):
    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("too many wrong API keys")
        self.retry_after_seconds = math.ceil(retry_after_seconds)


class ClientKey(NamedTuple):
    client: str
    key: str

    def __repr__(self) -> str:
        return f"ClientKey({self.client})"


class Caller(NamedTuple):
    client: str
    address: str


class Access:
    """Lets requests in by their `Authorization: Bearer <key>`; without any keys every request is `anonymous`.

    Keys are kept as keyed hashes under a secret of this process, and looked up by them: how long that takes tells
    nothing about any key. An address that sent ten wrong keys is locked for ten minutes, except for clients that
    were let in from it since the start: a stranger behind the same proxy must not lock them out. Without
    `locks_newcomers` no right key is ever locked out.
    """

    def __init__(
        self,
        keys: Iterable[ClientKey],
        store: GuardStore,
        trusted_proxies: Sequence[Network],
        *,
        locks_newcomers: bool = True,
    ) -> None:
        self._locks_newcomers = locks_newcomers
        self._mac = hmac.new(secrets.token_bytes(32), digestmod=sha256)
        self._client_of = {self._hash(key.encode()): client for client, key in keys}
        self._store = store
        self._trusted_proxies = trusted_proxies
        self._seen: OrderedDict[Caller, None] = OrderedDict()

    def _hash(self, key: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(key)
        return mac.digest()

    @property
    def is_open(self) -> bool:
        return not self._client_of

    async def admit(self, scope: Scope) -> Caller:
        """Raises: AccessRefused, StoreUnavailable."""
        address = client_address(scope, self._trusted_proxies)
        if not self._client_of:
            return Caller(ANONYMOUS, address)
        key = _bearer_key(scope)
        if not key:  # no guess, so it counts for nothing
            raise KeyMissing("no API key")
        client = self._client_of.get(self._hash(key))
        if client is None:
            await self._refuse(address)
        caller = Caller(client or "", address)
        if caller not in self._seen and self._locks_newcomers:
            await self._let_in_newcomer(caller)
        return caller

    async def _refuse(self, address: str) -> None:
        answer = await self._store.reserve([Charge(BAD_KEYS, address)])
        is_locked = not isinstance(answer, Reservation)
        logger.warning("API key refused", extra={"address": address, "address_is_locked": is_locked})
        if isinstance(answer, Reservation):
            raise KeyMissing("an API key that is not known")
        raise AddressLocked(answer[0].retry_after_seconds or 0)

    async def _let_in_newcomer(self, caller: Caller) -> None:
        """Unless its address is locked: then a right key is told the same as a wrong one, down to the wait."""
        answer = await self._store.reserve([Charge(BAD_KEYS, caller.address)])
        if not isinstance(answer, Reservation):
            raise AddressLocked(answer[0].retry_after_seconds or 0)
        await self._store.refund(answer)
        self._seen[caller] = None
        if len(self._seen) > MAX_KNOWN_ADDRESSES:
            self._seen.popitem(last=False)


def _bearer_key(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            return bytes(key.strip()) if scheme.lower() == b"bearer" else b""
    return b""


def client_address(scope: Scope, trusted_proxies: Sequence[Network]) -> str:
    """The address that a request comes from, an IPv6 one cut to its /64.

    `X-Forwarded-For` counts only as far as trusted proxies wrote it: read from its end, the first address that is
    no trusted proxy is the sender. Where a proxy wrote something else, it is the sender itself, for what stands
    before it was written by strangers. Other headers never count.
    """
    peer = scope["client"][0] if scope.get("client") else ""
    if trusted_proxies and _is_trusted(peer, trusted_proxies):
        for hop in reversed(_forwarded_for(scope)):
            if _address(hop) is None:
                break
            peer = hop
            if not _is_trusted(hop, trusted_proxies):
                break
    return _cut(peer)


def _forwarded_for(scope: Scope) -> list[str]:
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return [hop.strip() for hop in ",".join(lines).split(",")] if lines else []


def _is_trusted(text: str, trusted_proxies: Sequence[Network]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in trusted_proxies)


@lru_cache(maxsize=4096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def _cut(text: str) -> str:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_CUSTOMER_BITS), strict=False))
    return str(address) if address is not None else "unknown"
