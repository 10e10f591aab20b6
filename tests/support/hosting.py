"""Real servers with one service each, and stubs that call them as anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
import pytest
from pydantic import SecretStr

from mneme import settings as configuration
from mneme.runtime.auth import Authenticator, ServiceTokens, SuiteKeys
from mneme.runtime.call import Principal
from mneme.runtime.component import Component, Runtime
from mneme.runtime.db import Database
from mneme.runtime.dev_credentials import ensure_dev_credentials, mint_dev_token
from mneme.runtime.errors import Error, from_rpc_error
from mneme.runtime.metrics import Metrics
from mneme.runtime.peers import PROTO_SERVICES, Channels, Peers
from mneme.runtime.redis import Cache
from mneme.runtime.server import Hosted, Server
from mneme.settings import AuthSettings, Settings
from tests.support import calling

S = TypeVar("S")
Build = Callable[[Runtime], Component]


@dataclass
class Replica:
    """A server with one service, and its clients."""

    name: str
    """The service, `embedding`."""
    server: Server
    component: Component
    runtime: Runtime
    tokens: ServiceTokens
    data_dir: Path
    channels: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def stub(
        self,
        kind: Callable[[grpc.aio.Channel], S],
        *,
        tenant: str = "acme",
        user: str = "",
        service: str = "",
        scopes: tuple[str, ...] = ("admin",),
    ) -> S:
        """Returns a stub for a user credential, or for a service that acts for the user."""
        if service:
            principal = Principal(tenant, "tester", user, service)
            token = self.tokens.token(service, self.name, principal)
        else:
            token = mint_dev_token(self.data_dir, tenant, user, scopes=scopes)
        return kind(await self.channels.enter_async_context(calling.channel(self.server.address, token)))


class Hosting:
    """Starts replicas on one database and one Redis."""

    def __init__(self, database_url: str, redis_url: str, data_dir: Path) -> None:
        self._data_dir = data_dir
        credentials = ensure_dev_credentials(data_dir)
        auth = AuthSettings(jwks=str(credentials.jwks_path), suite_keys_file=credentials.suite_keys_path)
        # Patient with a busy machine; tests of slowness set their own limits.
        redis = configuration.RedisSettings(
            url=SecretStr(redis_url), command_timeout=5.0, connect_timeout=5.0, breaker_seconds=0.05
        )
        self.settings = Settings(
            auth=auth,
            database=configuration.DatabaseSettings(url=SecretStr(database_url), pool_min=0, pool_max=4),
            redis=redis,
            server=configuration.ServerSettings(port=0, drain_wait=0, stop_grace=0.2, ready_interval=0.02),
        )

    @asynccontextmanager
    async def replica(self, name: str, build: Build, **sections: Any) -> AsyncIterator[Replica]:
        """Runs one service.

        Args:
            name: The service, `embedding`.
            build: Makes its component.
            sections: Settings sections that differ, `embedding=EmbeddingSettings(…)`.
        """
        settings = self.settings.model_copy(update=sections)
        keys, metrics = SuiteKeys.load(settings.auth), Metrics()
        server = Server(settings.server, metrics=metrics, authenticator=Authenticator(settings.auth, keys))
        tokens = ServiceTokens(keys, settings.auth)
        channels = Channels(settings.peers, tokens, own_address=server.address, metrics=metrics)
        runtime = Runtime(
            settings=settings,
            database=await Database.open(settings.database, name=name, metrics=metrics),
            cache=Cache(settings.redis, metrics),
            peers=Peers(channels, name),
            metrics=metrics,
            worker_id=f"test-{name}",
            data_dir=None,
            address=server.address,
        )
        component = build(runtime)
        replica = Replica(name, server, component, runtime, tokens, self._data_dir)
        try:
            await server.start([Hosted(name, PROTO_SERVICES[name], component)])
            async with replica.channels:
                yield replica
        finally:
            await server.stop()
            await channels.close()
            await runtime.cache.close()
            await runtime.database.close()


async def failure(running: Awaitable[Any]) -> Error:
    """Returns the error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running
    return from_rpc_error(raised.value)


@pytest.fixture
def hosting(database_url: str, redis_url: str, tmp_path: Path) -> Hosting:
    """Starts replicas on a fresh database and an empty Redis."""
    return Hosting(database_url, redis_url, tmp_path)
