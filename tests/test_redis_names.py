"""Names in Redis stay the same while OTP_SECRET is replaced, and no machine with a secret of its own makes any."""

import pytest

from clock import Clock
from otp_store import StoreUnavailable
from redis_connection import Redis
from redis_names import NAME_KEY, NameKey
from sealing import PageSealer
from tests.redis_servers import RedisServer

OLD, NEW = "the old secret", "the new secret"


@pytest.fixture
async def redis(redis_server: RedisServer) -> Redis:
    redis = Redis(redis_server.url, Clock())
    await redis.open()
    return redis


async def key_of(redis: Redis, *secrets_in_use: str) -> bytes:
    used: list[bytes] = []
    await NameKey(redis, PageSealer(secrets_in_use), used.append).load()
    (key,) = used
    return key


async def test_all_processes_name_alike_while_the_secret_is_replaced(redis: Redis) -> None:
    first = await key_of(redis, OLD)
    assert len(first) == 32
    for secrets_in_use in ((OLD,), (OLD, NEW), (NEW, OLD), (OLD, NEW), (NEW, OLD), (NEW,)):
        assert await key_of(redis, *secrets_in_use) == first
    await redis.close()


async def test_another_secret_is_found_out(redis: Redis) -> None:
    first = await key_of(redis, OLD)
    with pytest.raises(StoreUnavailable, match="another OTP_SECRET"):
        await key_of(redis, NEW)
    assert await key_of(redis, OLD) == first
    await redis.close()


async def test_the_key_is_nowhere_in_clear(redis: Redis, redis_server: RedisServer) -> None:
    key = await key_of(redis, OLD)
    with redis_server.client() as client:
        assert key not in client.get(NAME_KEY)
    await redis.close()


async def test_a_redis_that_was_emptied_gets_its_key_back(redis: Redis, redis_server: RedisServer) -> None:
    used: list[bytes] = []
    names = NameKey(redis, PageSealer([OLD]), used.append)
    await names.load()
    with redis_server.client() as client:
        client.flushall()
    await names.load()
    assert used == [await key_of(redis, OLD)]
    with redis_server.client() as client:
        client.flushall()
    another = await key_of(redis, OLD)
    await names.load()
    assert used[1:] == [another], "somebody was quicker"
    await redis.close()
