"""Redis down, slow or wiped, and PostgreSQL down: look-ups are misses, never errors and never slow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import redis
from pydantic import SecretStr

from mneme.errors.v1 import errors_pb2
from mneme.semantic_cache.service import build
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from mneme.settings import DatabaseSettings, RedisSettings
from tests.contract.semantic_cache.conftest import Asker, asker, key, request_id
from tests.support.hosting import Hosting, failure


@contextlib.asynccontextmanager
async def at_redis(hosting: Hosting, url: str, **limits: float) -> AsyncIterator[Asker]:
    settings = RedisSettings(url=SecretStr(url), breaker_seconds=0.05, **limits)  # type: ignore[arg-type]
    async with hosting.replica("semantic_cache", build, redis=settings) as replica:
        yield await asker(replica)


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A port that accepts and never answers."""
    gone = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    gone.set()
    server.close()
    await server.wait_closed()


async def everything_is_a_miss(cache: Asker) -> None:
    token = f"{'0' * 32}.{'0' * 32}"
    assert await cache.reason(key()) == "UNAVAILABLE"
    assert (await cache.acquire(key(), wait=10)).miss.reason == pb.MISS_REASON_UNAVAILABLE
    assert not (await cache.commit(key(), token)).stored
    await cache.stub.Abort(pb.AbortRequest(lease_token=token, key=key()))
    put = pb.PutRequest(request_id=request_id(), key=key(), entry=pb.CacheEntry(answer="x"))
    assert not (await cache.stub.Put(put)).stored
    explained = await cache.stub.Explain(pb.ExplainRequest(key=key()))
    assert explained.miss.reason == pb.MISS_REASON_UNAVAILABLE
    assert not (await cache.feedback("entry-1", pb.VERDICT_WRONG)).removed
    stats = await cache.stub.GetStats(pb.GetStatsRequest())
    assert not stats.available
    assert {miss.reason for miss in stats.misses} == {pb.MISS_REASON_UNAVAILABLE}


async def test_without_a_redis_server_everything_is_a_miss(hosting: Hosting) -> None:
    async with at_redis(hosting, "redis://127.0.0.1:1/0") as cache:
        for _ in range(3):
            assert await cache.reason(key()) == "UNAVAILABLE"
        await everything_is_a_miss(cache)


async def test_without_a_configured_redis_everything_is_a_miss_and_a_purge_finds_nothing(hosting: Hosting) -> None:
    async with at_redis(hosting, "") as cache:
        await everything_is_a_miss(cache)
        assert (await cache.purge(agent_id="agent-1"))["mneme:query"] == (0, 0)


async def test_a_redis_that_hangs_costs_a_caller_no_more_than_the_limit(hosting: Hosting) -> None:
    async with silent_server() as port, at_redis(hosting, f"redis://127.0.0.1:{port}/0") as cache:
        started = time.perf_counter()
        for _ in range(20):
            assert await cache.reason(key()) == "UNAVAILABLE"
        # Three look-ups wait 50 ms each until the breaker opens; all twenty would wait a second.
        assert time.perf_counter() - started < 0.9


async def test_a_wiped_redis_is_a_miss_and_fills_again(cache_: Asker, redis_url: str) -> None:
    await cache_.store(key())
    lease = (await cache_.acquire(key("What are the opening hours of the Paris store?"))).lease
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    assert await cache_.reason(key()) == "NOT_FOUND"
    assert not (await cache_.commit(key("What are the opening hours of the Paris store?"), lease.lease_token)).stored
    await cache_.store(key(), "again")
    assert await cache_.answer(key()) == "again"


async def test_a_purge_that_cannot_reach_redis_fails_so_that_it_is_repeated(hosting: Hosting) -> None:
    async with at_redis(hosting, "redis://127.0.0.1:1/0") as cache:
        error = await failure(cache.purge(agent_id="agent-1"))
    assert error.reason == errors_pb2.REASON_STORE_UNAVAILABLE
    assert error.metadata["store"] == "redis"


async def test_garbage_in_redis_is_a_miss(cache_: Asker, redis_url: str) -> None:
    await cache_.store(key())
    with redis.Redis.from_url(redis_url) as client:
        (name,) = [name for name in client.keys("mneme:*") if len(name.rpartition(b":")[2]) == 64]
        value = client.get(name)
        assert isinstance(value, bytes)
        client.set(name, value[:48] + b"garbage")
        assert await cache_.reason(key()) == "NOT_FOUND"
        client.set(name, b"short")
        assert await cache_.reason(key()) == "NOT_FOUND"


@pytest.mark.parametrize("method", ["commit", "put"])
async def test_while_postgresql_is_down_look_ups_go_on_and_nothing_is_stored(hosting: Hosting, method: str) -> None:
    nowhere = DatabaseSettings(
        url=SecretStr("postgresql://127.0.0.1:1/none"), pool_min=0, pool_timeout=0.3, connect_timeout=2
    )
    async with hosting.replica("semantic_cache", build, database=nowhere) as replica:
        cache = await asker(replica)
        assert await cache.reason(key()) == "NOT_FOUND"
        lease = (await cache.acquire(key())).lease
        if method == "commit":
            assert not (await cache.commit(key(), lease.lease_token)).stored
        else:
            put = pb.PutRequest(request_id=request_id(), key=key(), entry=pb.CacheEntry(answer="x"))
            assert (await failure(cache.stub.Put(put))).reason == errors_pb2.REASON_STORE_UNAVAILABLE
        assert await cache.reason(key()) == "NOT_FOUND"
