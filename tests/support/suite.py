"""The suite, or some of its services, in this process on a free port, and stubs that call it as anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
import pytest

from mneme import registry, settings
from mneme.runtime.dev_credentials import ensure_dev_credentials, mint_dev_token
from mneme.settings import Settings
from tests.support import calling

S = TypeVar("S")
Serve = Callable[..., Awaitable["Suite"]]


@dataclass
class Suite:
    """Running services and their clients."""

    address: str
    settings: Settings
    credentials: Path
    channels: AsyncExitStack = field(default_factory=AsyncExitStack)
    _open: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def token(self, *, tenant: str = "acme", user: str = "", **options: Any) -> str:
        """A user credential."""
        return mint_dev_token(self.credentials, tenant, user, **options)

    def channel(self, *, tenant: str = "acme", user: str = "", token: str | None = None) -> grpc.aio.Channel:
        """A channel that sends a credential with each call; an empty token sends none."""
        key = repr((tenant, user, token))
        if key not in self._open:
            sent = self.token(tenant=tenant, user=user) if token is None else token
            self._open[key] = calling.channel(self.address, sent)
            self.channels.push_async_callback(self._open[key].close)
        return self._open[key]

    def stub(self, kind: Callable[[grpc.aio.Channel], S], *, tenant: str = "acme", user: str = "") -> S:
        """A stub that calls as a tenant's user."""
        return kind(self.channel(tenant=tenant, user=user))


@pytest.fixture
def suite_settings(database_url: str, owner_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a suite on fresh stores, with offline models, that stops without waiting for other replicas."""
    credentials = ensure_dev_credentials(tmp_path)
    overrides: dict[str, Any] = {
        "data_dir": tmp_path,
        "server": {"port": 0, "drain_wait": 0, "stop_grace": 1, "ready_interval": 0.05},
        "auth": {"jwks": str(credentials.jwks_path), "suite_keys_file": credentials.suite_keys_path},
        "database": {"url": database_url, "owner_url": owner_url, "pool_max": 8},
        # Patient with a busy machine; tests of slowness set their own limits.
        "redis": {"url": redis_url, "command_timeout": 5, "connect_timeout": 5},
        "orchestrator": {"cache_timeout": 5},
        "telemetry": {"log_level": "warning"},
    }
    return settings.load(overrides=overrides)


@pytest.fixture
async def serve(suite_settings: Settings, tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts the named services (all of them for no names): `await serve("recall", "embedding")`.

    Keyword arguments replace sections of the settings: `await serve(recall=RecallSettings(…))`.
    """
    async with AsyncExitStack() as stack:

        async def start(*names: str, **sections: Any) -> Suite:
            effective = suite_settings.model_copy(update=sections)
            server = await stack.enter_async_context(registry.running(effective, names))
            return Suite(server.address, effective, tmp_path, await stack.enter_async_context(AsyncExitStack()))

        yield start


@pytest.fixture
async def suite(serve: Serve) -> Suite:
    """All six services."""
    return await serve()
