"""Redis as a cache: results, time limits, and a breaker that closes again by itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from pydantic import SecretStr

from mneme.embedded import process
from mneme.embedded import redis as embedded_redis
from mneme.embedded.folder import hold
from mneme.runtime.metrics import Metrics
from mneme.runtime.redis import Cache, CacheDown
from mneme.settings import RedisSettings


@contextlib.asynccontextmanager
async def own_server(path: Path, metrics: Metrics | None = None) -> AsyncIterator[tuple[embedded_redis.Redis, Cache]]:
    """A server that a test may stop, with an impatient client."""
    with hold(path) as folder:
        server = await embedded_redis.start(folder)
        settings = RedisSettings(
            url=SecretStr(server.url()),
            command_timeout=0.05,
            connect_timeout=0.2,
            breaker_failures=2,
            breaker_seconds=0.05,
        )
        cache = Cache(settings, metrics)
        try:
            yield server, cache
        finally:
            await cache.close()
            await server.stop()


async def ping(client: redis.asyncio.Redis) -> bool:
    return bool(await client.ping())


async def ping_three_times(client: redis.asyncio.Redis) -> list[bool]:
    return [await ping(client) for _ in range(3)]


async def unknown_command(client: redis.asyncio.Redis) -> object:
    return await client.execute_command("NO.SUCH.COMMAND")  # type: ignore[no-untyped-call]


async def test_a_command_answers(cache: Cache) -> None:
    await cache.run(lambda client: client.set("key", b"\x00\xff"))
    assert await cache.run(lambda client: client.get("key")) == b"\x00\xff"


async def test_without_a_url_there_is_no_cache() -> None:
    cache = Cache(RedisSettings())
    assert not cache.available
    with pytest.raises(CacheDown):
        await cache.run(ping)
    await cache.close()


async def test_a_busy_process_does_not_take_the_server_for_down(data_path: Path) -> None:
    async with own_server(data_path) as (_server, cache):

        async def busy() -> None:
            while True:
                time.sleep(0.08)  # noqa: ASYNC251 - holds the loop up for longer than a command may take
                await asyncio.sleep(0)

        working = asyncio.create_task(busy())
        assert await asyncio.gather(*(cache.run(ping_three_times) for _ in range(10))) == [[True] * 3] * 10
        assert cache.available
        working.cancel()


async def test_a_hung_server_costs_little_and_is_found_again(data_path: Path) -> None:
    metrics = Metrics()
    sample = metrics.registry.get_sample_value
    async with own_server(data_path, metrics) as (server, cache):
        assert await cache.run(ping)
        server.child.send_signal(signal.SIGSTOP)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            began = loop.time()
            with pytest.raises(CacheDown):
                await cache.run(ping)
            assert loop.time() - began < 1
        assert not cache.available
        assert sample("mneme_redis_breaker_open") == 1
        with pytest.raises(CacheDown, match="not available"):
            await cache.run(ping)
        assert sample("mneme_redis_failures_total") == 2
        server.child.send_signal(signal.SIGCONT)
        await process.until(lambda: cache.available, 5)
        assert sample("mneme_redis_breaker_open") == 0
        assert await cache.run(ping)


async def test_a_late_answer_never_reaches_another_command(data_path: Path) -> None:
    async with own_server(data_path) as (server, cache):
        await cache.run(lambda client: client.mset({"a": "1", "b": "2"}))
        server.child.send_signal(signal.SIGSTOP)
        with pytest.raises(CacheDown):
            await cache.run(lambda client: client.get("a"))
        server.child.send_signal(signal.SIGCONT)
        answer = None
        async with asyncio.timeout(20):
            while answer is None:
                # A busy machine may take longer to wake the server than one command waits.
                with contextlib.suppress(CacheDown):
                    answer = await cache.run(lambda client: client.get("b"))
        assert answer == b"2"


async def test_a_full_server_is_a_miss_and_stays_open_for_reads(data_path: Path) -> None:
    async with own_server(data_path) as (_, cache):
        await cache.run(lambda client: client.config_set("maxmemory", 1))
        await cache.run(lambda client: client.config_set("maxmemory-policy", "noeviction"))
        for _ in range(3):
            with pytest.raises(CacheDown, match="full"):
                await cache.run(lambda client: client.set("a", "1"))
        assert cache.available
        assert await cache.run(lambda client: client.get("a")) is None


async def test_a_wrong_command_is_not_taken_for_an_outage(cache: Cache) -> None:
    for _ in range(5):
        with pytest.raises(redis.exceptions.ResponseError):
            await cache.run(unknown_command)
    assert cache.available
