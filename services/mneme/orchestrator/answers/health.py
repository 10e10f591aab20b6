"""Whether the cache answers: one that hangs must cost a turn next to nothing, also while it may well be waiting for
another caller's answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2

from mneme.runtime.lateness import in_time
from mneme.runtime.peers import PROTO_SERVICES, Peers

T = TypeVar("T")

_FAILURES = 3
"""Calls in a row without an answer after which the cache is left alone."""
_REST_SECONDS = 2.0
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

    async def call(self, start: Callable[[], Awaitable[T]]) -> T:
        """The outcome of a call that may take long for good reasons.

        The time that a hanging cache may cost is halved: after the first half the cache is asked whether it is alive,
        and has the second half to say so. A process that is late itself, because much goes on, allows for that.

        Raises:
            UnavailableError: It is not, was not a moment ago, or refused the call.
        """
        if time.monotonic() < self._rests_until:
            raise UnavailableError
        task = asyncio.ensure_future(start())
        try:
            done, _ = await asyncio.wait([task], timeout=self._timeout / 2)
            if not done:
                await self._check(task)
            outcome = await task
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            self._failures += 1
            if self._failures >= _FAILURES:
                self._rests_until = time.monotonic() + _REST_SECONDS
            raise UnavailableError from error
        else:
            self._failures = 0
            return outcome
        finally:
            task.cancel()

    async def _check(self, task: asyncio.Future[T]) -> None:
        request = health_pb2.HealthCheckRequest(service=PROTO_SERVICES["semantic_cache"])
        try:
            async with in_time(self._timeout / 2):
                await self._peers.semantic_cache_health.Check(request, timeout=_PROBE_SECONDS)
        except (grpc.aio.AioRpcError, TimeoutError):
            if not task.done():
                raise
