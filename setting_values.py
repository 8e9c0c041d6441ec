"""Settings that hold several values: text to values. Each raises ValueError with words that follow its name."""

import ipaddress
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

import phonenumbers

from abuse_guard import DENIED_LINE_TYPES, MONEY, block_target
from access import ClientKey, Network
from phone_numbers import LineType

EVERYWHERE = "*"
SHORTEST_KEY = 24
DEFAULT_CLIENT = "default"
NAME = re.compile(r"[a-z0-9_-]{1,32}")  # of clients, prompt sets and alert templates
_APP_NAME = re.compile(r"[^\W_][\w .,'&!-]{0,59}")
_KEY = re.compile(r"[!-+\--9;-~]+")  # visible ASCII without comma and colon
_ROUTES_EXAMPLE = "IN=vobiz+plivo,US=plivo"
_REDIAL_REASONS = frozenset({"busy", "no_answer", "rejected"})
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_PREFIX = re.compile(r"\+[1-9][0-9]{0,14}")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(text: str, example: str) -> Iterator[tuple[str, str]]:
    for part in _parts(text):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"must be pairs such as {example}")
        yield name.strip(), value.strip()


def client_keys(text: str) -> list[ClientKey]:
    """`key` or `client:key`, several keys of one client being all good."""
    keys = []
    for part in _parts(text):
        client, colon, key = part.rpartition(":")
        client = client if colon else DEFAULT_CLIENT
        if not NAME.fullmatch(client):
            raise ValueError("has a client name that is not 1 to 32 characters of a-z 0-9 _ -")
        if len(key) < SHORTEST_KEY or not _KEY.fullmatch(key):
            words = f"has a key that is not {SHORTEST_KEY} or more visible ASCII characters"
            raise ValueError(f"{words}: make one with `openssl rand -hex 32`")
        keys.append(ClientKey(client, key))
    if text and not keys:
        raise ValueError("holds no key: leave it out, or make a key with `openssl rand -hex 32`")
    if len({key for _, key in keys}) != len(keys):
        raise ValueError("has the same key twice: give each client keys of its own")
    return keys


def networks(text: str) -> list[Network]:
    try:
        return [ipaddress.ip_network(part) for part in _parts(text)]
    except ValueError:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8,::1") from None


def regions(text: str) -> frozenset[str] | None:
    """ISO 3166 regions; None for `*`, which is all of them."""
    parts = _parts(text)
    if parts == [EVERYWHERE]:
        return None
    for part in parts:
        if part not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError("must be ISO 3166 regions in capitals such as IN,US, or * alone for all of them")
    return frozenset(parts)


def line_types(text: str) -> frozenset[LineType]:
    open_ones = sorted(frozenset(LineType) - DENIED_LINE_TYPES)
    parts = _parts(text)
    if not parts or not set(parts) <= set(open_ones):
        raise ValueError(f"must be some of {', '.join(open_ones)}")
    return frozenset(map(LineType, parts))


def prefixes(text: str) -> tuple[str, ...]:
    parts = _parts(text)
    if not all(map(_PREFIX.fullmatch, parts)):
        raise ValueError("must be beginnings of numbers in E.164 such as +91987,+4917")
    return tuple(parts)


def block_targets(text: str) -> frozenset[str]:
    return frozenset(map(block_target, _parts(text)))


def redis_place(url: str) -> str:
    """Host and port of a Redis, or the path of its socket; empty without one."""
    if not url:
        return ""
    from redis_address import address_of  # only here, as in `stores.py`

    return address_of(url).place


def quotas(text: str) -> dict[str, int]:
    """Calls per hour by client."""
    found = {}
    for client, value in _pairs(text, "shop=500,batch=100"):
        if not NAME.fullmatch(client) or not re.fullmatch("[0-9]{1,7}", value):
            raise ValueError("must be pairs such as shop=500,batch=100")
        found[client] = int(value)
    return found


def client_prompts(text: str) -> dict[str, str]:
    """Name of a prompt set by client."""
    found = {}
    for part in _parts(text):
        client, _, prompt_set = (word.strip() for word in part.partition(":"))
        if not NAME.fullmatch(client) or not NAME.fullmatch(prompt_set) or client in found:
            raise ValueError("must be pairs such as shop:acme,bank:default, each client once")
        found[client] = prompt_set
    return found


def prices(text: str) -> dict[str, int]:
    """Price of a call in millionths, by region; `max` stands for all others."""
    found = {}
    for region, value in _pairs(text, "IN=0.02,max=0.50"):
        if region != "max" and region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError("must be pairs of an ISO 3166 region, or max, and a price, such as IN=0.02,max=0.50")
        found[region] = millionths(value)
    if found and found.get("max", -1) < max(found.values()):
        raise ValueError("must have max=<price>, the highest price, which counts for every other region")
    return found


def millionths(text: str) -> int:
    """An amount of money, 0 or more with up to six decimals."""
    try:
        amount = Decimal(text) * MONEY
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or amount > MONEY * 10**9 or amount != int(amount):
        raise ValueError("must be amounts such as 0.02, with at most six decimals")
    return int(amount)


def routes(text: str) -> dict[str, tuple[str, ...]]:
    """The order of carriers for single regions."""
    found = {}
    for region, names in _pairs(text, _ROUTES_EXAMPLE):
        order = tuple(name.strip() for name in names.split("+"))
        if region not in phonenumbers.SUPPORTED_REGIONS or len(set(order)) < len(order) or not all(order):
            raise ValueError(f"must be pairs such as {_ROUTES_EXAMPLE}")
        found[region] = order
    return found


def redial_reasons(text: str) -> tuple[str, ...]:
    """End reasons after which a call is placed once more."""
    reasons = tuple(_parts(text))
    if not set(reasons) <= _REDIAL_REASONS:
        raise ValueError(f"must be some of {', '.join(sorted(_REDIAL_REASONS))}")
    return reasons


def language_tags(text: str) -> tuple[str, ...]:
    tags = tuple(_parts(text))
    if not all(_LANGUAGE.fullmatch(tag) for tag in tags):
        raise ValueError("must be BCP 47 tags such as en-GB,nl-NL")
    return tags


def app_name(text: str) -> str:
    if not _APP_NAME.fullmatch(text):
        raise ValueError("may hold up to 60 letters, digits, spaces and . , ' & ! - only: it is spoken")
    return text
