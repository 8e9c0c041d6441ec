"""The key by which things are named in Redis.

It is drawn once and kept there, sealed: so OTP_SECRET can be replaced without losing what is counted and under
way, and a machine with a secret of its own is found out before it counts for itself.
"""

import secrets
from collections.abc import Callable

from otp_store import StoreUnavailable
from redis_connection import Redis
from sealing import PageSealer, Unsealable

NAME_KEY = b"otp:name-key"
LOOK_SECONDS = 10.0
_CONTEXT = "name key"


class NameKey:
    def __init__(self, redis: Redis, sealer: PageSealer, use: Callable[[bytes], None]) -> None:
        """`use` is told the key, and told it again if Redis was emptied and somebody has drawn another one."""
        self._redis = redis
        self._sealer = sealer
        self._use = use
        self._used = b""

    @property
    def are_known(self) -> bool:
        return bool(self._used)

    async def load(self) -> None:
        """Raises: StoreUnavailable."""
        sealed = await self._redis.call(NAME_KEY, "GET", NAME_KEY)
        if sealed is None:
            drawn = self._sealer.seal(_CONTEXT, self._used or secrets.token_bytes(32))
            await self._redis.call(NAME_KEY, "SET", NAME_KEY, drawn, "NX")
            sealed = await self._redis.call(NAME_KEY, "GET", NAME_KEY)
        try:
            key = self._sealer.unseal(_CONTEXT, sealed)
        except (Unsealable, TypeError):
            raise StoreUnavailable(
                "it is used by a service with another OTP_SECRET: give both the same, or the old one beside the "
                f"new one while it is replaced; to begin anew, delete {NAME_KEY.decode()}"
            ) from None
        if self._sealer.is_rotating:
            await self._redis.call(NAME_KEY, "SET", NAME_KEY, self._sealer.seal(_CONTEXT, key), "XX")
        if key != self._used:
            self._used = key
            self._use(key)
