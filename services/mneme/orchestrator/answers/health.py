"""Whether the cache answers: one that hangs must cost a turn next to nothing, also while it may well be waiting for
another caller's answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2

from mneme.runtime.lateness import in_time
from mneme.runtime.peers import PROTO_SERVICES, Peers

T = TypeVar("T")

_FAILURES = 3
"""Failures in a row after which the cache is left alone."""
_REST_SECONDS = 2.0
_ALIVE_SECONDS = 1.0
"""Time after an answer in which silence means much work, not a cache that hangs."""
_PROBE_SECONDS = 5.0
"""Longest time of a probe, however late this process is."""


class UnavailableError(Exception):
    """The cache does not answer."""


class CacheHealth:
    """Calls the cache as long as it is alive, and leaves it alone for a while when it is not."""

    def __init__(self, peers: Peers, *, timeout: float) -> None:
        """Args:
        peers: Where the cache is.
        timeout: Longest time in seconds that one that hangs may cost.
        """
        self._peers = peers
        self._timeout = timeout
        self._failures = 0
        self._rests_until = 0.0
        self._answered_at = -math.inf
        self._probe: asyncio.Task[bool] | None = None

    async def call(self, start: Callable[[], Awaitable[T]]) -> T:
        """The outcome of a call that may take long for good reasons.

        The time that a hanging cache may cost is halved: after the first half the cache is asked whether it is alive,
        once for all who wait, and has the second half to say so. A process that is late itself, because much goes on,
        allows for that. A cache that answered anybody a second ago or less is alive: whoever asks it in the second in
        which it begins to hang waits for the end of that second.

        Raises:
            UnavailableError: It is not, was not a moment ago, or refused the call.
        """
        if time.monotonic() < self._rests_until:
            raise UnavailableError
        task = asyncio.ensure_future(start())
        try:
            done, _ = await asyncio.wait([task], timeout=self._timeout / 2)
            if not done and not await self._alive(task):
                raise UnavailableError
            outcome = await task
        except grpc.aio.AioRpcError as error:
            self._failed()
            raise UnavailableError from error
        else:
            self._answered()
            return outcome
        finally:
            task.cancel()

    async def _alive(self, task: asyncio.Future[T]) -> bool:
        """Whether the cache says that it is alive, or answers the call meanwhile."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask(), name="cache-probe")
        probe = self._probe
        waited: tuple[asyncio.Future[Any], ...] = (task, probe)
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        # One whose channel is closed meanwhile is cancelled.
        return task.done() or (not probe.cancelled() and probe.result())

    async def _ask(self) -> bool:
        request = health_pb2.HealthCheckRequest(service=PROTO_SERVICES["semantic_cache"])
        while True:
            try:
                async with in_time(self._timeout / 2):
                    await self._peers.semantic_cache_health.Check(request, timeout=_PROBE_SECONDS)
            except TimeoutError:
                if self._answered_lately():
                    continue
            except grpc.aio.AioRpcError:
                pass
            else:
                self._answered()
                return True
            self._failed()
            return False

    def _answered(self) -> None:
        self._failures = 0
        self._answered_at = time.monotonic()

    def _answered_lately(self) -> bool:
        return time.monotonic() - self._answered_at < _ALIVE_SECONDS

    def _failed(self) -> None:
        if self._answered_lately():
            return
        self._failures += 1
        if self._failures >= _FAILURES:
            self._rests_until = time.monotonic() + _REST_SECONDS
