"""gRPC in and out of the embedding gateway."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import grpc.aio

from mneme.embedding import provider as providers
from mneme.embedding.active import ActiveSpace
from mneme.embedding.dispatch import Dispatcher, Policy
from mneme.embedding.fair_queue import Urgency
from mneme.embedding.gateway import Gateway, Outcome
from mneme.embedding.provider import Embedded, InputType, Model, Provider, Result
from mneme.embedding.quota import Quotas
from mneme.embedding.space import Calibration, calibration
from mneme.embedding.store import RedisMeter, RedisVectors, SpaceStore
from mneme.embedding.v1 import embedding_pb2 as pb
from mneme.embedding.v1 import embedding_pb2_grpc as pb_grpc
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, telemetry
from mneme.runtime.auth import SuiteKeys
from mneme.runtime.component import Component, Runtime
from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics

Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingComponent(pb_grpc.EmbeddingServiceServicer):
    """The service `mneme.embedding.v1.EmbeddingService`."""

    def __init__(
        self,
        gateways: Mapping[str, Gateway],
        spaces: ActiveSpace,
        metrics: Metrics,
        thresholds: Mapping[str, Calibration],
    ) -> None:
        """Args:
        gateways: What embeds, by the id of the space.
        spaces: Knows which of them is the active one.
        metrics: The process's instruments.
        thresholds: Those of the calibrated spaces, by the id of the space.
        """
        self._thresholds = thresholds
        self._gateways = gateways
        self._spaces = spaces
        self._metrics = metrics

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicer to the server."""
        pb_grpc.add_EmbeddingServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Records the space, or compares it with the recorded one.

        Raises:
            Error: REASON_SPACE_MISMATCH; the process must not serve then.
        """
        await self._spaces.start()

    async def drain(self) -> None:
        """Nothing to hand over."""

    async def stop(self) -> None:
        """Ends running calls of the providers."""
        await self._spaces.stop()
        for gateway in self._gateways.values():
            await gateway.close()

    async def ready(self) -> None:
        """Returns once the space is known to be the recorded one; embedding itself needs no database."""
        await self._spaces.get()

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embeds a batch of texts."""
        model = await self._spaces.named(request.space_id)
        query = request.input_type == pb.INPUT_TYPE_QUERY
        try:
            outcomes = await self._gateways[model.space_id].embed(
                request.texts,
                tenant=call.tenant(),
                input_type=InputType.QUERY if query else InputType.DOCUMENT,
                truncate=request.overflow == pb.OVERFLOW_TRUNCATE,
                urgency=Urgency.BULK if request.priority == pb.PRIORITY_BULK else Urgency.INTERACTIVE,
                deadline=call.current().deadline,
            )
        except Error as error:
            self._metrics.embedding_refused_texts.labels(model.name, error.reason_name).inc(len(request.texts))
            raise
        self._count(model, outcomes)
        return pb.EmbedResponse(
            embeddings=map(_to_proto, outcomes),
            space_id=model.space_id,
            token_count=sum(outcome.token_count for outcome in outcomes),
        )

    async def GetSpace(self, request: pb.GetSpaceRequest, context: Context) -> pb.GetSpaceResponse:
        """Returns the active space, and the next one."""
        active, following = self._described(await self._spaces.get())
        return pb.GetSpaceResponse(space=active, next=following)

    async def SwitchSpace(self, request: pb.SwitchSpaceRequest, context: Context) -> pb.SwitchSpaceResponse:
        """Makes the next space the active one."""
        active, following = self._described(await self._spaces.switch(request.space_id))
        return pb.SwitchSpaceResponse(space=active, next=following)

    def _count(self, model: Model, outcomes: Sequence[Outcome]) -> None:
        metrics, price = self._metrics, model.dollars_per_million / 1_000_000
        for source, texts in Counter(outcome.source for outcome in outcomes).items():
            saved = sum(outcome.saved_tokens for outcome in outcomes if outcome.source is source)
            metrics.embedded_texts.labels(model.name, source).inc(texts)
            metrics.embedding_saved_tokens.labels(model.name, source).inc(saved)
            metrics.embedding_saved_dollars.labels(model.name).inc(saved * price)

    def _described(self, active: Model) -> tuple[pb.Space, pb.Space | None]:
        beside = self._spaces.beside(active)
        return self._space(active), self._space(beside[0]) if beside else None

    def _space(self, model: Model) -> pb.Space:
        found = pb.Space(
            space_id=model.space_id,
            provider=model.provider,
            model=model.name,
            dimensions=model.dimensions,
            max_input_tokens=model.max_tokens,
        )
        calibrated = self._thresholds.get(model.space_id)
        if calibrated is not None:
            found.calibrated = True
            found.related_threshold = calibrated.related
            found.same_question_threshold = calibrated.same_question
        return found


class MeasuredProvider:
    """A provider with a span, a time and a size for each of its calls."""

    def __init__(self, provider: Provider, metrics: Metrics, price: float | None = None) -> None:
        """Args:
        provider: Who is asked.
        metrics: The process's instruments.
        price: US dollars a million tokens, in place of the model's published price.
        """
        self._provider = provider
        self._metrics = metrics
        self._model = provider.model if price is None else replace(provider.model, dollars_per_million=price)

    @property
    def model(self) -> Model:
        """The model behind it."""
        return self._model

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
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
        except Error as error:
            if error.reason == errors_pb2.REASON_PROVIDER_THROTTLED:
                metrics.embedding_throttled_calls.labels(model.name).inc()
            raise
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
    """Returns the service with its models loaded."""
    settings = runtime.settings
    following = providers.next_space(settings.models)
    configured = [settings.models] if following is None else [settings.models, following]
    secret = SuiteKeys.load(settings.auth).derive("embedding cache")
    quotas = _quotas(runtime)
    gateways: dict[str, Gateway] = {}
    models: list[Model] = []
    for chosen in configured:
        provider = MeasuredProvider(
            providers.build(chosen, settings.embedding),
            runtime.metrics,
            settings.embedding.dollars_per_million_tokens,
        )
        models.append(provider.model)
        gateways[provider.model.space_id] = _gateway(provider, runtime, secret, quotas)
    if len(gateways) < len(configured):
        raise ValueError(f"models.next_embedding_*: name the active space '{models[0].space_id}' again")
    active = ActiveSpace(SpaceStore(runtime.database), models, settings.embedding.space_poll)
    own = settings.embedding.calibration_folder
    thresholds = {name: found for name in gateways if (found := calibration(name, own)) is not None}
    return EmbeddingComponent(gateways, active, runtime.metrics, thresholds)


def _gateway(provider: Provider, runtime: Runtime, secret: bytes, quotas: Quotas) -> Gateway:
    own = runtime.settings.embedding
    cache = RedisVectors(
        runtime.cache,
        provider.model,
        seconds=own.cache_seconds,
        timeout=own.cache_timeout,
        claim_seconds=own.join_wait,
    )
    policy = Policy(
        most_calls=own.provider_concurrency,
        attempts=own.provider_attempts,
        gather=own.gather_window,
        breaker_failures=own.breaker_failures,
        breaker_seconds=own.breaker_seconds,
    )
    weights = {tenant: share.weight for tenant, share in own.tenants.items()}
    gateway = Gateway(
        provider,
        cache,
        secret,
        policy=policy,
        quotas=quotas,
        weight=lambda tenant: weights.get(tenant, 1.0),
        join_wait=own.join_wait,
    )
    _show(gateway.dispatcher, provider.model.name, runtime.metrics)
    return gateway


def _show(dispatcher: Dispatcher, name: str, metrics: Metrics) -> None:
    """Lets the gauges read what the dispatcher knows, whenever somebody looks at them."""
    for urgency in Urgency:
        waiting = metrics.embedding_waiting_texts.labels(name, urgency.name.lower())
        waiting.set_function(functools.partial(dispatcher.waiting, urgency))
    metrics.embedding_calls_in_flight.labels(name).set_function(lambda: dispatcher.running)
    metrics.embedding_calls_limit.labels(name).set_function(lambda: dispatcher.limit)
    metrics.embedding_breaker_open.labels(name).set_function(lambda: dispatcher.broken)


def _quotas(runtime: Runtime) -> Quotas:
    own = runtime.settings.embedding
    named = {tenant: share.tokens_per_minute for tenant, share in own.tenants.items()}
    return Quotas(
        RedisMeter(runtime.cache, timeout=own.cache_timeout),
        default=own.tokens_per_minute,
        named={tenant: limit for tenant, limit in named.items() if limit is not None},
    )


def _to_proto(outcome: Outcome) -> pb.Embedding:
    return pb.Embedding(values=outcome.vector.tolist(), truncated=outcome.truncated, cached=outcome.source == "cache")
