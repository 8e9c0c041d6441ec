"""Redis, as the stores see it: commands and scripts in, replies out, and one error for all that can go wrong."""

import hashlib
from collections.abc import Sequence
from typing import Any

import hiredis

from clock import Clock
from otp_store import StoreUnavailable
from redis_address import address_of
from redis_cluster import Cluster
from redis_link import Link, Part, RedisLimits, error_word, outcome, pack

DEFAULT_LIMITS = RedisLimits()


class Script:
    """A Lua script, and the SHA-1 under which the server knows it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Redis:
    """All requests of this process go over one connection per Redis node, pipelined.

    Every failure is StoreUnavailable, whose message names no key and no value; what it means for a command that
    was on its way is unknown: it may have been carried out, and is not sent again. The pauses between attempts to
    reach a lost server follow the clock; all else that is timed here is the network's real time.
    """

    def __init__(self, url: str, clock: Clock, limits: RedisLimits = DEFAULT_LIMITS) -> None:
        """Raises: ValueError for a bad URL."""
        self._clock = clock
        self._limits = limits
        self._seed = Link(address_of(url), clock, limits)
        self._cluster: Cluster | None = None
        self._is_open = False

    @property
    def is_up(self) -> bool:
        return self._seed.is_up if self._cluster is None else self._cluster.is_up

    @property
    def is_open(self) -> bool:
        """Whether it was up once: from then on it is made anew as often as it is lost."""
        return self._is_open

    @property
    def is_cluster(self) -> bool:
        """Whether the keys of one script must lie in one slot. Known once it is open."""
        return self._cluster is not None

    async def open(self) -> None:
        """Connect. Raises: StoreUnavailable, soon."""
        await self._seed.open()
        if self._seed.is_in_cluster and self._seed.address.path:
            await self._seed.close()
            raise StoreUnavailable("it is a cluster, which has to be reached by host and port")
        if self._seed.is_in_cluster:
            cluster = Cluster(self._seed, self._clock, self._limits)
            try:
                await cluster.open()
            except StoreUnavailable:
                await self._seed.close()
                raise
            self._cluster = cluster
        self._is_open = True

    async def call(self, key: bytes | None, *command: Part) -> Any:
        """The raw reply: bytes, int, list or None. A key says which node of a cluster is asked; None: any."""
        return outcome(await self._send(key, command))

    async def run(self, script: Script, keys: Sequence[bytes], *args: Part) -> Any:
        """What a script returns. All keys lie in one slot."""
        key = keys[0] if keys else None
        reply = await self._send(key, ("EVALSHA", script.sha1, len(keys), *keys, *args))
        if isinstance(reply, hiredis.ReplyError) and error_word(reply) == "NOSCRIPT":
            # The server has not run anything: this is no second time.
            reply = await self._send(key, ("EVAL", script.source, len(keys), *keys, *args))
        return outcome(reply)

    async def _send(self, key: bytes | None, command: tuple[Part, ...]) -> Any:
        """The reply; errors are replies, too. Raises: StoreUnavailable when nothing was sent."""
        packed = pack(command)
        if self._cluster is None:
            return await self._seed.request(packed)
        return await self._cluster.send(key, packed)

    async def close(self) -> None:
        if self._cluster is not None:
            await self._cluster.close()
        await self._seed.close()
