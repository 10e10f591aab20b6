"""The standard gRPC health service: one state for each hosted service, and `""` for the process.

grpcio's own servicer keeps Watch streams open until the server's grace is over and writes under a lock that a
slow watcher holds; here a watcher only waits, and `close` lets all of them go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

METHOD_PREFIX = "/grpc.health.v1.Health/"


class Health(health_pb2_grpc.HealthServicer):
    """State of the process and of its services; everything starts as NOT_SERVING."""

    def __init__(self, services: tuple[str, ...] = ()) -> None:
        """Args:
        services: Full proto names of the hosted services.
        """
        self._serving = dict.fromkeys(("", *services), False)
        self._changed = asyncio.Event()
        self._draining = False
        self._closed = False

    def set(self, service: str, *, serving: bool) -> None:
        """Announces a service's state; while the process drains nothing becomes SERVING again."""
        wanted = serving and not self._draining
        if self._serving.get(service) != wanted:
            self._serving[service] = wanted
            self._wake()

    def drain(self) -> None:
        """Announces NOT_SERVING for everything, for good."""
        self._draining = True
        self._serving = dict.fromkeys(self._serving, False)
        self._wake()

    def close(self) -> None:
        """Ends all Watch streams, so that the server's stop need not wait for them."""
        self._closed = True
        self._wake()

    def serving(self, service: str = "") -> bool:
        """Returns whether a service is announced as SERVING."""
        return self._serving.get(service, False)

    async def wait_until_serving(self) -> None:
        """Returns when everything is SERVING."""
        while not all(self._serving.values()):
            await self._changed.wait()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Answers a service's state, NOT_FOUND for a service that is not hosted here."""
        if request.service not in self._serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service '{request.service}' is not hosted here")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Streams a service's state now and at each change."""
        last = None
        while not self._closed:
            changed, status = self._changed, self._status(request.service)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            else:
                await changed.wait()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service not in self._serving:
            return _UNKNOWN
        return SERVING if self._serving[service] else NOT_SERVING

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
