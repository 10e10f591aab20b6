"""A real server with the echo service, its credentials, and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mneme.runtime.auth import Authenticator, SuiteKeys
from mneme.runtime.dev_credentials import DevCredentials, ensure_dev_credentials, mint_dev_token
from mneme.runtime.errors import Error, from_rpc_error
from mneme.runtime.metrics import Metrics
from mneme.runtime.server import Hosted, Server
from mneme.runtime.telemetry import tracing
from mneme.settings import AuthSettings, ServerSettings
from tests.contract.runtime import echo


@dataclass
class Running:
    """A server and a client of it."""

    server: Server
    echo: echo.Echo
    metrics: Metrics
    channel: grpc.aio.Channel
    data_dir: Path
    auth: AuthSettings

    def token(self, tenant: str = "acme", user: str = "", **options: Any) -> str:
        """Returns a user credential."""
        return mint_dev_token(self.data_dir, tenant, user, **options)

    def start(self, method: str, request: Any, *, token: str | None = "", **options: Any) -> Any:
        """Begins a call of a method of the echo service; an empty token takes a default one, None sends none."""
        kinds = {"SayMany": "unary_stream", "Collect": "stream_unary", "Converse": "stream_stream"}
        make = getattr(self.channel, kinds.get(method, "unary_unary"))
        invoke = make(
            f"/{echo.SERVICE}/{method}",
            request_serializer=lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
            response_deserializer=echo.message("EchoResponse").FromString,
        )
        metadata: Sequence[tuple[str, str]] = options.pop("metadata", ())
        if token is not None:
            metadata = (*metadata, ("authorization", f"Bearer {token or self.token()}"))
        return invoke(request, metadata=metadata, timeout=options.pop("timeout", 20), **options)

    async def say(self, **fields: Any) -> Any:
        """Calls Say."""
        return await self.start("Say", echo.request(**fields))


async def failure(running: Awaitable[Any]) -> Error:
    """Returns the error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running
    error = from_rpc_error(raised.value)
    assert error.code is raised.value.code()
    return error


@pytest.fixture
def credentials(tmp_path: Path) -> DevCredentials:
    """Development credentials in a fresh folder."""
    echo.message("EchoRequest")
    return ensure_dev_credentials(tmp_path)


Launch = Callable[..., Any]


@pytest.fixture
def launch(credentials: DevCredentials, tmp_path: Path) -> Launch:
    """Returns a context manager that runs a server; keywords are server settings."""
    auth = AuthSettings(jwks=str(credentials.jwks_path), suite_keys_file=credentials.suite_keys_path)

    tracing()

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Running]:
        chosen = ServerSettings(**{"port": 0, "drain_wait": 0, "stop_grace": 0.2, "ready_interval": 0.02, **settings})
        metrics = Metrics()
        server = Server(chosen, metrics=metrics, authenticator=Authenticator(auth, SuiteKeys.load(auth)))
        component = echo.Echo()
        try:
            await server.start([Hosted("echo", echo.SERVICE, component)])
            async with grpc.aio.insecure_channel(server.address) as channel:
                yield Running(server, component, metrics, channel, tmp_path, auth)
        finally:
            if "stop" not in component.steps:
                await server.stop()

    return run


@pytest.fixture
async def running(launch: Launch) -> AsyncIterator[Running]:
    """A server with default settings."""
    async with launch() as one:
        yield one


_spans = InMemorySpanExporter()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Spans that ended during the test."""
    if not getattr(_spans, "attached", False):
        tracing().export_to(_spans, at_once=True)
        _spans.attached = True  # type: ignore[attr-defined]
    _spans.clear()
    return _spans
