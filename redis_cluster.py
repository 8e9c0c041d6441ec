"""A Redis Cluster: which primary has which slot, and a link to each primary."""

import asyncio
import contextlib
import logging
from typing import Any

import hiredis
from redis.crc import key_slot

from clock import Clock
from otp_store import StoreUnavailable
from redis_link import Link, RedisLimits, error_word, outcome, pack

logger = logging.getLogger(__name__)

SLOTS = 16_384
# While a primary is down, its successor is looked for this often.
_LOOK_AGAIN_SECONDS = 0.5
_SLOTS_COMMAND = pack(("CLUSTER", "SLOTS"))
_ASKING = pack(("ASKING",))


class Cluster:
    def __init__(self, seed: Link, clock: Clock, limits: RedisLimits) -> None:
        self._seed = seed
        self._clock = clock
        self._limits = limits
        self._links: dict[tuple[str, int], Link] = {}
        self._by_slot: list[Link | None] = [None] * SLOTS
        self._version = 0
        self._is_opening = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        return all(link is not None and link.is_up for link in set(self._by_slot))

    async def open(self) -> None:
        """Raises: StoreUnavailable."""
        await self._read_map(self._version)
        self._keeper = asyncio.create_task(self._find_successors(), name="primaries of the store")

    async def send(self, key: bytes | None, packed: bytes) -> Any:
        """The reply of the node that has the key. One that has it no more did not carry the command out."""
        link = self._any_link() if key is None else self._by_slot[key_slot(key)]
        if link is None:
            raise StoreUnavailable("the store's cluster is down")
        version = self._version
        reply = await link.request(packed)
        if not isinstance(reply, hiredis.ReplyError) or key is None:
            return reply
        word = error_word(reply)
        if word == "MOVED":
            await self._read_map(version, link)  # it knows; others may not have heard of it yet
            link = self._by_slot[key_slot(key)]
            return await link.request(packed) if link is not None else reply
        if word == "ASK":
            host, port = _place(str(reply).rsplit(" ", 1)[-1], link)
            link = await self._link_to(host, port)
            link.request(_ASKING)
            return await link.request(packed)
        return reply

    def _any_link(self) -> Link:
        return next((link for link in [*self._links.values(), self._seed] if link.is_up), self._seed)

    async def _read_map(self, seen_version: int, teller: Link | None = None) -> None:
        """Of many that find it outdated, one reads it anew. Raises: StoreUnavailable."""
        async with self._is_opening:
            if self._version != seen_version:
                return
            teller = teller or self._any_link()
            ranges = outcome(await teller.request(_SLOTS_COMMAND))
            by_slot: list[Link | None] = [None] * SLOTS
            for first, last, primary, *_ in ranges:
                host = primary[0].decode() if primary[0] else teller.address.host
                link = await self._link_to_node(host, primary[1])
                by_slot[first : last + 1] = [link] * (last + 1 - first)
            self._by_slot = by_slot
            self._version += 1
            await self._close_outdated()

    async def _link_to(self, host: str, port: int) -> Link:
        async with self._is_opening:
            return await self._link_to_node(host, port)

    async def _link_to_node(self, host: str, port: int) -> Link:
        link = self._links.get((host, port))
        if link is None:
            address = self._seed.address._replace(host=host, port=port)
            link = Link(address, self._clock, self._limits)
            await link.open()
            self._links[host, port] = link
        return link

    async def _close_outdated(self) -> None:
        for place, link in list(self._links.items()):
            if link not in self._by_slot:
                if not link.is_up:
                    logger.warning("the store is back", extra={"server": link.address.place})
                del self._links[place]
                await link.close()

    async def _find_successors(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_AGAIN_SECONDS)
            if not self.is_up:
                with contextlib.suppress(StoreUnavailable):
                    await self._read_map(self._version)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        for link in self._links.values():
            await link.close()


def _place(text: str, teller: Link) -> tuple[str, int]:
    """`host:port`; without a host it is the teller's."""
    host, _, port = text.rpartition(":")
    return host or teller.address.host, int(port)
