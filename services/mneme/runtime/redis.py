"""Redis as a cache that cannot hurt: every use has a short time limit, and a circuit breaker in front of it.

Whatever goes wrong with the server is `CacheDown`, which callers treat as a miss. While the breaker is open
they learn it at once; a probe in the background closes it again, so no caller ever waits for a dead server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis.asyncio
import structlog
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mneme.runtime.lateness import in_time
from mneme.runtime.metrics import Metrics
from mneme.settings import RedisSettings

T = TypeVar("T")

_DOWN = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError, TimeoutError)

log = structlog.get_logger(__name__)


class CacheDown(Exception):  # noqa: N818 - a state that every caller expects, not a fault
    """The cache cannot answer; the result is right without it, only later."""


class Cache:
    """One client of one Redis server, shared by the whole process."""

    def __init__(self, settings: RedisSettings, metrics: Metrics | None = None) -> None:
        """Args:
        settings: Where the server is and how long to wait for it.
        metrics: Where failures and the breaker's state are counted; None for nowhere.
        """
        metrics = metrics or Metrics()
        self._failed_uses = metrics.redis_failures
        self._breaker_open = metrics.redis_breaker_open
        self._settings = settings
        self._failures = 0
        self._probe: asyncio.Task[None] | None = None
        self._client: redis.asyncio.Redis | None = None
        url = settings.url.get_secret_value()
        if url:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=settings.max_connections,
                # `run` limits the wait for a connection too.
                timeout=None,
                socket_connect_timeout=settings.connect_timeout,
                **({} if url.startswith("unix:") else {"socket_keepalive": True}),
                retry=Retry(NoBackoff(), 0),
            )
            self._client = redis.asyncio.Redis.from_pool(pool)

    @property
    def available(self) -> bool:
        """Whether commands are let through: a server is configured and the breaker is closed."""
        return self._client is not None and self._probe is None

    async def run(self, command: Callable[[redis.asyncio.Redis], Awaitable[T]], *, within: float | None = None) -> T:
        """Returns the command's result.

        Args:
            command: Uses the client; several awaits count as one use.
            within: Seconds for the whole use; None for the setting `command_timeout`. Give bulk work more.

        Raises:
            CacheDown: No server is configured, it does not answer in time, or it refuses writes.
        """
        if self._client is None or self._probe is not None:
            raise CacheDown("the cache is not available")
        try:
            async with in_time(self._settings.command_timeout if within is None else within):
                result = await command(self._client)
        except exceptions.OutOfMemoryError as error:
            self._failed_uses.inc()
            raise CacheDown("the cache is full") from error
        except _DOWN as error:
            self._failed(error)
            raise CacheDown("the cache does not answer") from error
        self._failures = 0
        return result

    async def close(self) -> None:
        """Closes all connections and ends the probe."""
        if self._probe is not None:
            self._probe.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probe
        if self._client is not None:
            await self._client.aclose()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._failed_uses.inc()
        if self._failures >= self._settings.breaker_failures and self._probe is None:
            log.warning("cache.down", error=str(error), failures=self._failures)
            self._breaker_open.set(1)
            self._probe = asyncio.get_running_loop().create_task(self._wait_until_back(), name="cache-probe")

    async def _wait_until_back(self) -> None:
        """Asks the server every `breaker_seconds` until it takes commands again, then closes the breaker."""
        assert self._client is not None
        while True:
            await asyncio.sleep(self._settings.breaker_seconds)
            with contextlib.suppress(*_DOWN, exceptions.RedisError):
                async with asyncio.timeout(self._settings.connect_timeout):
                    await self._client.ping()
                break
        self._failures = 0
        self._probe = None
        self._breaker_open.set(0)
        log.info("cache.back")
