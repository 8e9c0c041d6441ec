"""REDIS_URL: where the server is, and who we are there."""

import re
import ssl
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio.connection import parse_url

# Stricter than redis-py, which takes what follows a stray `/`, `?` or `#` of a password for something else.
_HOST = r"(?:[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?(?:/[0-9]{0,5})?"
_WHO = r"(?:[^\s:/?#@]*:[^\s/?#@]+@)?"
_URL = re.compile(rf"(?:rediss?://{_WHO}{_HOST}|unix://{_WHO}/[^\s?#@]+)(?:\?[^\s#@]*)?")
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"})
_OPTIONS: dict[str, frozenset[str]] = {"redis": frozenset(), "rediss": _TLS_OPTIONS, "unix": frozenset({"db"})}


class Tls(NamedTuple):
    """Files are PEM files. Without `is_checked` whoever stands in between is taken for the server."""

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    is_checked: bool = True

    def context(self) -> ssl.SSLContext:
        """As the files are now; the same as redis-py makes of these options. Raises: ValueError."""
        try:
            context = ssl.create_default_context()
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
            if self.certificate_file or self.key_file:
                # With no password an encrypted key is refused; else OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.certificate_file or "", self.key_file, password="")
        except (OSError, ValueError):
            raise ValueError(
                "names files that cannot be used: ssl_ca_certs, ssl_certfile and ssl_keyfile are PEM files, "
                "the key is not encrypted"
            ) from None
        if not self.is_checked:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Address(NamedTuple):
    """Where a server is, and who we are there."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: Tls | None = None
    username: str | None = None
    password: str | None = None
    database: int = 0

    @property
    def place(self) -> str:
        """Host and port, or the path of a socket: what may be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"

    def greeting(self) -> list[tuple[str | int, ...]]:
        """The first commands, all of which must succeed."""
        commands: list[tuple[str | int, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *([self.username] if self.username else []), self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        return commands


@lru_cache(maxsize=8)
def address_of(url: str) -> Address:
    """Raises: ValueError, which repeats nothing of the URL."""
    try:
        if not _URL.fullmatch(url):
            raise ValueError
        known, parts = parse_url(url), urlsplit(url)
        database = int(known.get("db", 0))
        if database < 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            "is not a Redis URL: write redis://user:password@host:6379/0, rediss://... or unix:///path, with "
            "special characters of the password as %XX"
        ) from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    is_known = set(options) <= _OPTIONS[parts.scheme]
    if not is_known or options.get("ssl_cert_reqs", "none") not in ("required", "none"):
        raise ValueError(
            "has options that are not known: rediss:// takes ssl_ca_certs, ssl_certfile, ssl_keyfile and "
            "ssl_cert_reqs=required or none, unix:// takes db"
        )
    address = Address(
        path=known.get("path"),
        tls=_tls(options) if parts.scheme == "rediss" else None,
        username=known.get("username"),
        password=known.get("password"),
        database=database,
    )
    if address.path is not None:
        return address
    return address._replace(host=known["host"], port=known.get("port", address.port))


def _tls(options: dict[str, str]) -> Tls:
    tls = Tls(
        options.get("ssl_ca_certs"),
        options.get("ssl_certfile"),
        options.get("ssl_keyfile"),
        is_checked=options.get("ssl_cert_reqs") != "none",
    )
    tls.context()  # or a file that is missing would be noticed by the first connection only
    return tls
