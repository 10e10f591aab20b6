"""The other services of the suite, as stubs that call in one service's name.

Each call carries a service token for the running call's tenant, user and actor, the shorter of its own and
the running call's deadline, and the trace. Services always dial each other over gRPC, also inside one
process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceStub
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from mneme.runtime import call
from mneme.runtime.auth import ServiceTokens
from mneme.runtime.metrics import Metrics
from mneme.runtime.telemetry import tracer
from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceStub
from mneme.settings import PeersSettings

PROTO_SERVICES = {
    "orchestrator": "mneme.orchestrator.v1.AgentService",
    "core_memory": "mneme.core_memory.v1.CoreMemoryService",
    "recall": "mneme.recall.v1.RecallService",
    "archival": "mneme.archival.v1.ArchivalService",
    "embedding": "mneme.embedding.v1.EmbeddingService",
    "semantic_cache": "mneme.semantic_cache.v1.SemanticCacheService",
}

if TYPE_CHECKING:
    # These names exist in the type stubs only.
    from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceAsyncStub
    from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceAsyncStub
    from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub
    from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceAsyncStub
    from mneme.recall.v1.recall_pb2_grpc import RecallServiceAsyncStub
    from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceAsyncStub

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "xds:")
_PROPAGATOR = TraceContextTextMapPropagator()


def service_config(max_attempts: int, health_service: str = "") -> str:
    """Returns a channel's service config as JSON: round robin, health checks, and retries of UNAVAILABLE
    only.

    Args:
        max_attempts: Attempts of one call, the first included; 1 for no retry.
        health_service: Name whose health decides whether a backend gets calls; empty for no health checks.
    """
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if health_service:
        config["healthCheckConfig"] = {"serviceName": health_service}
    if max_attempts > 1:
        policy = {
            "maxAttempts": max_attempts,
            "initialBackoff": "0.05s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{}], "retryPolicy": policy}]
        config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
    return json.dumps(config)


class Channels:
    """The process's channels, one for each target and service config, kept for its life."""

    def __init__(self, settings: PeersSettings, tokens: ServiceTokens, *, own_address: str, metrics: Metrics) -> None:
        """Args:
        settings: The peers section.
        tokens: Mints what peers are shown.
        own_address: `host:port` of this process, for services without an address.
        metrics: Counts the calls.
        """
        self.settings = settings
        self.tokens = tokens
        self.metrics = metrics
        self._own_address = own_address
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    def to(self, service: str) -> grpc.aio.Channel:
        """Returns the channel to a service of the suite; opened at the first call, inside the event loop."""
        target: str = getattr(self.settings, service) or self.settings.default_address
        # Calls inside one process go on while it drains, so its own health does not decide about them.
        health = PROTO_SERVICES[service] if target else ""
        return self._channel(_target(target or self._own_address), service_config(self.settings.max_attempts, health))

    def at(self, address: str) -> grpc.aio.Channel:
        """Returns the channel to one replica, for relaying a stream to the process that holds a run."""
        return self._channel(_target(address), service_config(self.settings.max_attempts))

    async def close(self) -> None:
        """Closes all channels; running calls on them are cancelled."""
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*(channel.close() for channel in channels))

    def _channel(self, target: str, config: str) -> grpc.aio.Channel:
        key = (target, config)
        if key not in self._channels:
            self._channels[key] = self._open(target, config)
        return self._channels[key]

    def _open(self, target: str, config: str) -> grpc.aio.Channel:
        settings = self.settings
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", config),
            ("grpc.enable_retries", 1),
            ("grpc.keepalive_time_ms", int(settings.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.dns_min_time_between_resolutions_ms", int(settings.resolve_interval * 1000)),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
        ]
        if settings.tls_ca is None:
            return grpc.aio.insecure_channel(target, options=options)
        credentials = grpc.ssl_channel_credentials(settings.tls_ca.read_bytes())
        return grpc.aio.secure_channel(target, credentials, options=options)


class Peers:
    """The stubs one service calls the others with."""

    def __init__(self, channels: Channels, service: str) -> None:
        """Args:
        channels: The process's channels.
        service: Name of the calling service, which its peers' access rules list.
        """
        self._channels = channels
        self._service = service

    @cached_property
    def orchestrator(self) -> AgentServiceAsyncStub:
        """Agents and conversations."""
        return AgentServiceStub(self._to("orchestrator"))

    @cached_property
    def core_memory(self) -> CoreMemoryServiceAsyncStub:
        """Blocks."""
        return CoreMemoryServiceStub(self._to("core_memory"))

    @cached_property
    def recall(self) -> RecallServiceAsyncStub:
        """Messages and windows."""
        return RecallServiceStub(self._to("recall"))

    @cached_property
    def archival(self) -> ArchivalServiceAsyncStub:
        """Passages and knowledge bases."""
        return ArchivalServiceStub(self._to("archival"))

    @cached_property
    def embedding(self) -> EmbeddingServiceAsyncStub:
        """Text to vector."""
        return EmbeddingServiceStub(self._to("embedding"))

    @cached_property
    def semantic_cache(self) -> SemanticCacheServiceAsyncStub:
        """Answers to questions asked before."""
        return SemanticCacheServiceStub(self._to("semantic_cache"))

    @cached_property
    def semantic_cache_health(self) -> health_pb2_grpc.HealthStub:
        """Whether the semantic cache is alive, for callers whose call to it may take long."""
        return health_pb2_grpc.HealthStub(self._to("semantic_cache"))  # type: ignore[no-untyped-call]

    def orchestrator_at(self, address: str) -> AgentServiceAsyncStub:
        """Returns a stub of one orchestrator replica, for relaying a stream to the process that holds a run.

        Args:
            address: `host:port` that the replica advertises.
        """
        channel = self._channels.at(address)
        return AgentServiceStub(_CallingChannel(channel, self._channels, self._service, "orchestrator"))

    def _to(self, peer: str) -> grpc.aio.Channel:
        return _CallingChannel(self._channels.to(peer), self._channels, self._service, peer)


class _CallingChannel(grpc.aio.Channel):
    """A channel whose calls carry token, deadline and trace.

    Not a client interceptor: grpc.aio runs those in a task of their own for each call, which costs as much as
    the call itself.
    """

    def __init__(self, channel: grpc.aio.Channel, channels: Channels, service: str, peer: str) -> None:
        self._channel = channel
        self._channels = channels
        self._service = service
        self._peer = peer
        self._count = channels.metrics.peer_calls.labels(peer)
        self._finishing: set[asyncio.Task[None]] = set()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self._channel.unary_unary(method, *args, **kwargs), self._channels.settings.timeout)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self._channel.stream_unary(method, *args, **kwargs), None)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self._channel.unary_stream(method, *args, **kwargs), None)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self._channel.stream_stream(method, *args, **kwargs), None)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> _CallingChannel:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def _wrap(self, method: str, start: Callable[..., Any], default: float | None) -> Callable[..., Any]:
        name = method.removeprefix("/")

        def invoke(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Sequence[tuple[str, str | bytes]] | None = None,
            **options: Any,
        ) -> Any:
            sent = {"authorization": f"Bearer {self._token()}"}
            span = tracer.start_span(name, kind=SpanKind.CLIENT)
            _PROPAGATOR.inject(sent, trace.set_span_in_context(span))
            running = start(
                request,
                timeout=_shorter(timeout or default),
                metadata=(*sent.items(), *(metadata or ())),
                **options,
            )
            self._count.inc()
            if span.is_recording():
                running.add_done_callback(lambda done: self._finish(span, done))
            return running

        return invoke

    def _finish(self, span: Span, done: grpc.aio.Call) -> None:
        task = asyncio.ensure_future(_end(span, done))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def _token(self) -> str:
        return self._channels.tokens.token(self._service, self._peer, call.current().principal)


async def _end(span: Span, done: grpc.aio.Call) -> None:
    code = await done.code()
    span.set_attribute("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        span.set_status(StatusCode.ERROR)
    span.end()


def _shorter(wanted: float | None) -> float | None:
    remaining = call.remaining()
    if wanted is None or remaining is None:
        return wanted if remaining is None else remaining
    return min(wanted, remaining)


def _target(address: str) -> str:
    return address if address.startswith(_SCHEMES) else f"dns:///{address}"
