"""REDIS_URL: where the server is, and who we are there."""

import ssl
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

    def greeting(self) -> list[tuple[str | int, ...]]:
        """The first commands, all of which must succeed."""
        commands: list[tuple[str | int, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *([self.username] if self.username else []), self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        return commands


def address_of(url: str) -> Address:
    """Raises: ValueError, which repeats nothing of the URL."""
    try:
        parts: dict[str, Any] = dict(parse_url(url))
        tls_options = {name: str(parts.pop(name)) for name in list(parts) if name.startswith("ssl_")}
        parts["database"] = parts.pop("db", 0)
        is_tls = url.startswith("rediss:")
        parts.pop("connection_class", None)
        if tls_options and not is_tls:
            raise ValueError
        return Address(**parts, tls=_tls(**tls_options) if is_tls else None)
    except (ValueError, TypeError, OSError):
        raise ValueError(
            "is no Redis URL: write redis://user:password@host:6379/0, rediss://... or unix:///path, with special "
            "characters of the password as %XX"
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
