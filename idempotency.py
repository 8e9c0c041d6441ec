"""`Idempotency-Key`: the same request sent again gets the same answer, and places no second call.

As draft-ietf-httpapi-idempotency-key-header-07 has it: another body under a known key is 422, a first request
that still runs is 409. Keys belong to their client and are kept for 24 hours. A request that failed leaves no
trace: with nothing dialled, sending it again is what its sender wants.
"""

from collections.abc import Awaitable, Callable
from hashlib import blake2b

import msgspec

from abuse_guard import LimitReached
from guard_store import GuardStore
from limit_rules import Charge, Reservation, Window, rule

KEPT_SECONDS = 24 * 3600.0
# Longer than any request runs: a key whose process died becomes free, and the call that it began stands in for it.
RUNNING_SECONDS = 90.0
MARK_BYTES = 8
_FINGERPRINT_BYTES = 16
# So that one client cannot take all room of the store.
KEYS_PER_CLIENT = rule("idempotency-keys", Window(250_000, 24 * 3600))


class KeyReused(Exception):
    """The key was used for another request."""


class StillRunning(Exception):
    """The first request with this key has no answer yet."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """An HTTP answer as it was given; without a status while its request runs."""

    fingerprint: bytes
    status: int = 0
    body: bytes = b""


class IdempotencyKeys:
    def __init__(self, store: GuardStore, secret: bytes) -> None:
        self._store = store
        self._secret = secret

    def _digest(self, *parts: str) -> bytes:
        """Keyed, as a request can hold a code."""
        return blake2b("\0".join(parts).encode(), digest_size=_FINGERPRINT_BYTES, key=self._secret).digest()

    def mark(self, client: str, key: str) -> bytes:
        """By which a call is known again as the one of a request, also if its process died before the answer."""
        return self._digest(client, key)[:MARK_BYTES]

    async def run_once(
        self, client: str, key: str, request: str, run: Callable[[], Awaitable[tuple[int, bytes]]]
    ) -> tuple[int, bytes, bool]:
        """Status and body of the first run, and whether this was a later one. `request` is its canonical text.

        Raises: KeyReused, StillRunning, LimitReached, and whatever `run` raises.
        """
        name = f"idempotency/{self._digest(client, key).hex()}"
        fingerprint = self._digest(request)
        standing = await self._store.remember(name, msgspec.msgpack.encode(Answer(fingerprint)), RUNNING_SECONDS)
        if standing is not None:
            return self._replayed(msgspec.msgpack.decode(standing, type=Answer), fingerprint)
        try:
            counted = await self._store.reserve([Charge(KEYS_PER_CLIENT, client)])
            if not isinstance(counted, Reservation):
                raise LimitReached([KEYS_PER_CLIENT.name], counted[0].retry_after_seconds)
            status, body = await run()
        except BaseException:
            await self._store.forget(name)
            raise
        await self._store.replace(name, msgspec.msgpack.encode(Answer(fingerprint, status, body)), KEPT_SECONDS)
        return status, body, False

    @staticmethod
    def _replayed(first: Answer, fingerprint: bytes) -> tuple[int, bytes, bool]:
        if first.fingerprint != fingerprint:
            raise KeyReused
        if not first.status:
            raise StillRunning
        return first.status, first.body, True
