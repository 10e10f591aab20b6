"""The table of services, and how a process hosts any subset of them.

Nothing else knows all services: a process is this table, a set of names and the settings.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import cast

from mneme.runtime import ids, server, telemetry
from mneme.runtime.auth import Authenticator, ServiceTokens, SuiteKeys
from mneme.runtime.component import Component, Runtime
from mneme.runtime.db import Database
from mneme.runtime.metrics import Metrics, MetricsPage
from mneme.runtime.peers import PROTO_SERVICES, Channels, Peers
from mneme.runtime.redis import Cache
from mneme.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """A row of the table."""

    name: str
    """Name in settings, flags and access rules; also the schema it owns."""
    peers: tuple[str, ...]
    """Services it calls."""

    @property
    def proto_service(self) -> str:
        """Full name of its proto service."""
        return PROTO_SERVICES[self.name]

    def build(self, runtime: Runtime) -> Component:
        """The service itself. Its code is imported only where it runs: a process of one loads no other's libraries."""
        module = importlib.import_module(f"mneme.{self.name}.service")
        return cast("Callable[[Runtime], Component]", module.build)(runtime)


SERVICES = (
    Service("embedding", peers=()),
    Service("core_memory", peers=()),
    Service("recall", peers=("embedding",)),
    Service("archival", peers=("embedding",)),
    Service("semantic_cache", peers=("embedding", "archival")),
    Service("orchestrator", peers=("embedding", "core_memory", "recall", "archival", "semantic_cache")),
)
"""In the order in which they start; they stop in the reverse order."""

NAMES = tuple(service.name for service in SERVICES)


def select(names: Sequence[str]) -> tuple[Service, ...]:
    """The named rows in start order; all of them for no names.

    Raises:
        ValueError: A name is unknown; the message lists those there are.
    """
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise ValueError(f"unknown service {', '.join(unknown)}; the services are {', '.join(NAMES)}")
    return tuple(service for service in SERVICES if not names or service.name in names)


@asynccontextmanager
async def running(settings: Settings, names: Sequence[str] = ()) -> AsyncIterator[server.Server]:
    """Serves inside the block, from the moment when every service is ready; drains at its end.

    Raises:
        server.PortTakenError: The port cannot be bound.
        ValueError: A name is unknown, or a setting is missing.
    """
    async with _assembled(settings, select(names)) as (bound, hosted):
        try:
            await bound.start(hosted)
            await bound.wait_until_serving()
            yield bound
        finally:
            await bound.stop()


async def serve(
    settings: Settings, names: Sequence[str] = (), listening: Callable[[server.Server], None] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        settings: All settings.
        names: Services to host; all of them for none.
        listening: Called once, when every service is ready.

    Raises:
        server.PortTakenError: The port cannot be bound.
        ValueError: A name is unknown, or a setting is missing.
    """
    async with _assembled(settings, select(names)) as (bound, hosted):
        announcing = asyncio.create_task(_announce(bound, listening), name="announce")
        try:
            await server.serve(bound, hosted)
        finally:
            announcing.cancel()


async def _announce(bound: server.Server, listening: Callable[[server.Server], None] | None) -> None:
    await bound.wait_until_serving()
    if listening is not None:
        listening(bound)


def _metrics_page(metrics: Metrics, settings: Settings) -> MetricsPage:
    host, port = settings.server.metrics_host, settings.server.metrics_port
    try:
        return MetricsPage.open(metrics, host=host, port=port)
    except OSError as error:
        raise server.PortTakenError(
            f"cannot serve metrics on {host}:{port} (MNEME_SERVER__METRICS_PORT): {error.strerror}"
        ) from error


@asynccontextmanager
async def _assembled(
    settings: Settings, services: Sequence[Service]
) -> AsyncIterator[tuple[server.Server, list[server.Hosted]]]:
    """A bound server and its components, on pools and channels that are closed at the end in reverse order."""
    worker_id = ids.new("worker")
    pipeline = telemetry.setup(
        settings.telemetry,
        services=[service.name for service in services],
        version=version("mneme"),
        worker_id=worker_id,
    )
    async with AsyncExitStack() as stack:
        stack.callback(pipeline.flush)
        metrics = Metrics()
        if settings.server.metrics_port >= 0:
            page = _metrics_page(metrics, settings)
            stack.callback(page.close)
        keys = SuiteKeys.load(settings.auth)
        bound = server.Server(settings.server, metrics=metrics, authenticator=Authenticator(settings.auth, keys))
        channels = Channels(
            settings.peers, ServiceTokens(keys, settings.auth), own_address=bound.address, metrics=metrics
        )
        stack.push_async_callback(channels.close)
        cache = Cache(settings.redis, metrics)
        stack.push_async_callback(cache.close)
        pool = "+".join(service.name for service in services)
        database = await Database.open(settings.database, name=pool, metrics=metrics)
        stack.push_async_callback(database.close)
        hosted = [
            server.Hosted(
                service.name,
                service.proto_service,
                service.build(
                    Runtime(
                        settings=settings,
                        database=database,
                        cache=cache,
                        peers=Peers(channels, service.name),
                        metrics=metrics,
                        worker_id=worker_id,
                        data_dir=settings.data_dir,
                        address=bound.address,
                    )
                ),
            )
            for service in services
        ]
        yield bound, hosted
