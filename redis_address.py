"""REDIS_URL: where the server is, and who we are there."""

import ssl
from functools import lru_cache
from typing import Any, NamedTuple

from redis.asyncio.connection import parse_url


class Address(NamedTuple):
    """Where a server is, and who we are there."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: ssl.SSLContext | None = None
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
        parts: dict[str, Any] = dict(parse_url(url))
        tls_options = {name: str(parts.pop(name)) for name in list(parts) if name.startswith("ssl_")}
        parts["database"] = parts.pop("db", 0)
        parts.pop("connection_class", None)
        address = Address(**parts)
        is_tls = url.startswith("rediss:")
        if not {"host", "path"} & set(parts) or (tls_options and not is_tls):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            "is not a Redis URL: write redis://user:password@host:6379/0, rediss://... or unix:///path, with "
            "special characters of the password as %XX"
        ) from None
    return address._replace(tls=_tls_with(tls_options)) if is_tls else address


def _tls_with(options: dict[str, str]) -> ssl.SSLContext:
    try:
        return _tls(**options)
    except (ValueError, TypeError, OSError):
        raise ValueError(
            "has TLS options that cannot be used: ssl_ca_certs, ssl_certfile and ssl_keyfile are PEM files, "
            "ssl_cert_reqs is required or none"
        ) from None


def _tls(
    ssl_ca_certs: str | None = None,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    ssl_cert_reqs: str = "required",
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ssl_ca_certs)
    if ssl_certfile:
        context.load_cert_chain(ssl_certfile, ssl_keyfile)
    if ssl_cert_reqs not in ("required", "none"):
        raise ValueError
    if ssl_cert_reqs == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
