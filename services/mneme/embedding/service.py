"""gRPC in and out of the embedding gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc.aio
import structlog

from mneme.embedding import provider as providers
from mneme.embedding import space as spaces
from mneme.embedding.gateway import Gateway, Outcome
from mneme.embedding.provider import Embedded, InputType, Model, Provider, TooLong
from mneme.embedding.store import RedisVectors, SpaceStore
from mneme.embedding.v1 import embedding_pb2 as pb
from mneme.embedding.v1 import embedding_pb2_grpc as pb_grpc
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, telemetry
from mneme.runtime.auth import SuiteKeys
from mneme.runtime.component import Component, Runtime
from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics

Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)


class EmbeddingComponent(pb_grpc.EmbeddingServiceServicer):
    """The service `mneme.embedding.v1.EmbeddingService`."""

    def __init__(self, gateway: Gateway, model: Model, store: SpaceStore, metrics: Metrics) -> None:
        """Args:
        gateway: Embeds.
        model: The configured model.
        store: Knows the recorded space.
        metrics: The process's instruments.
        """
        self._gateway = gateway
        self._model = model
        self._store = store
        self._metrics = metrics
        self._claimed = False
        self._claiming = asyncio.Lock()

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer to the server."""
        pb_grpc.add_EmbeddingServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Records the space, or compares it with the recorded one.

        Raises:
            Error: REASON_SPACE_MISMATCH; the process must not serve then.
        """
        try:
            await self._claim()
        except Error as error:
            if error.reason != errors_pb2.REASON_STORE_UNAVAILABLE:
                raise
            log.warning("embedding.space_unchecked", why=error.message)

    async def drain(self) -> None:
        """Nothing to hand over."""

    async def stop(self) -> None:
        """Ends running calls of the provider."""
        await self._gateway.close()

    async def ready(self) -> None:
        """Returns once the space is known to be the recorded one; embedding itself needs no database."""
        await self._claim()

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embeds a batch of texts."""
        await self._claim()
        if request.space_id and request.space_id != self._model.space_id:
            raise self._other_space(request.space_id)
        query = request.input_type == pb.INPUT_TYPE_QUERY
        outcomes = await self._gateway.embed(
            request.texts,
            tenant=call.tenant(),
            input_type=InputType.QUERY if query else InputType.DOCUMENT,
            truncate=request.overflow == pb.OVERFLOW_TRUNCATE,
        )
        for outcome in outcomes:
            self._metrics.embedded_texts.labels(self._model.name, outcome.source).inc()
        return pb.EmbedResponse(
            embeddings=map(_to_proto, outcomes),
            space_id=self._model.space_id,
            token_count=sum(outcome.token_count for outcome in outcomes),
        )

    async def GetSpace(self, request: pb.GetSpaceRequest, context: Context) -> pb.GetSpaceResponse:
        """Returns the active space."""
        await self._claim()
        model = self._model
        found = pb.Space(
            space_id=model.space_id,
            provider=model.provider,
            model=model.name,
            dimensions=model.dimensions,
            max_input_tokens=model.max_tokens,
        )
        calibrated = spaces.calibration(model.space_id)
        if calibrated is not None:
            found.calibrated = True
            found.related_threshold = calibrated.related
            found.same_question_threshold = calibrated.same_question
        return pb.GetSpaceResponse(space=found)

    async def _claim(self) -> None:
        """Returns once the space is known to be the recorded one; nothing is embedded before."""
        if self._claimed:
            return
        async with self._claiming:
            if not self._claimed:
                spaces.check(await self._store.claim(self._model), self._model)
                self._claimed = True

    def _other_space(self, wanted: str) -> Error:
        return Error(
            errors_pb2.REASON_SPACE_MISMATCH,
            f"this deployment's vectors are '{self._model.space_id}', the request names '{wanted}'",
            metadata={"recorded": self._model.space_id, "configured": wanted},
        )


class MeasuredProvider:
    """A provider with a span, a time and a size for each of its calls."""

    def __init__(self, provider: Provider, metrics: Metrics) -> None:
        self._provider = provider
        self._metrics = metrics

    @property
    def model(self) -> Model:
        """The model behind it."""
        return self._provider.model

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Embedded | TooLong]:
        """Returns an outcome for each text, in order; see the port."""
        model, metrics, outcome = self.model, self._metrics, "error"
        metrics.embedding_batch_texts.labels(model.name).observe(len(texts))
        started = time.perf_counter()
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": model.provider,
            "gen_ai.request.model": model.name,
            "gen_ai.embeddings.dimension.count": model.dimensions,
        }
        try:
            with telemetry.span(f"embeddings {model.name}", **attributes):
                results = await self._provider.embed(texts, input_type, truncate=truncate)
            outcome = "ok"
        finally:
            elapsed = time.perf_counter() - started
            metrics.model_seconds.labels(model.provider, model.name, outcome).observe(elapsed)
        tokens = sum(result.token_count for result in results if isinstance(result, Embedded))
        metrics.model_tokens.labels(model.name, "embedding").inc(tokens)
        return results

    async def close(self) -> None:
        """Ends running calls and frees what the provider holds."""
        await self._provider.close()


def build(runtime: Runtime) -> Component:
    """Returns the service with its model loaded."""
    settings = runtime.settings
    provider = MeasuredProvider(providers.build(settings.models, settings.embedding), runtime.metrics)
    own = settings.embedding
    cache = RedisVectors(runtime.cache, provider.model, seconds=own.cache_seconds, timeout=own.cache_timeout)
    secret = SuiteKeys.load(settings.auth).derive("embedding cache")
    gateway = Gateway(provider, cache, secret)
    return EmbeddingComponent(gateway, provider.model, SpaceStore(runtime.database), runtime.metrics)


def _to_proto(outcome: Outcome) -> pb.Embedding:
    return pb.Embedding(values=outcome.vector.tolist(), truncated=outcome.truncated, cached=outcome.source == "cache")
