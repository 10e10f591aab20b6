"""The gateway with another provider, without Redis, before a dead provider: by settings only, and said plainly."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from pydantic import SecretStr

from mneme.embedding.service import build
from mneme.embedding.v1 import embedding_pb2 as pb
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.settings import EmbeddingSettings, ModelsSettings, RedisSettings, TenantShare
from tests.contract.embedding.openai_embeddings import OpenAIEmbeddingsServer
from tests.support.hosting import Hosting, Replica, failure
from tests.support.replies import Fault

if TYPE_CHECKING:
    from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub

NO_REDIS = RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))
PATIENT = EmbeddingSettings(breaker_failures=2, breaker_seconds=60, provider_attempts=2)


@pytest.fixture
def local_server() -> Iterator[OpenAIEmbeddingsServer]:
    """A text-embeddings server as a deployment in China runs it, beside a language model elsewhere."""
    server = OpenAIEmbeddingsServer()
    with server:
        yield server


@pytest.fixture
def bge(local_server: OpenAIEmbeddingsServer) -> ModelsSettings:
    """What such a deployment sets."""
    return ModelsSettings(
        openai_base_url="https://api.deepseek.com",
        openai_api_key=SecretStr("of the language model"),
        embedding_provider="openai",
        embedding_model="bge-m3",
        embedding_dimensions=256,
        embedding_base_url=local_server.url,
    )


@pytest.fixture
async def replica(hosting: Hosting, bge: ModelsSettings) -> AsyncIterator[Replica]:
    async with hosting.replica("embedding", build, models=bge, embedding=PATIENT) as running:
        yield running


@pytest.fixture
async def stub(replica: Replica) -> EmbeddingServiceAsyncStub:
    return await replica.stub(EmbeddingServiceStub)


def sample(replica: Replica, name: str, **labels: str) -> float:
    value = replica.runtime.metrics.registry.get_sample_value(name, {"model": "bge-m3", **labels})
    return value or 0.0


async def test_another_provider_is_a_matter_of_settings(
    stub: EmbeddingServiceAsyncStub, local_server: OpenAIEmbeddingsServer
) -> None:
    answer = await stub.Embed(pb.EmbedRequest(texts=["我对坚果过敏", "I am allergic to nuts"]))
    assert answer.space_id == "bge-m3@256"
    assert len(answer.embeddings) == 2
    (request,) = local_server.script.requests
    assert request.body["model"] == "bge-m3"
    assert "language model" not in str(request.headers), "the key belongs to another provider"
    assert (await stub.GetSpace(pb.GetSpaceRequest())).space.provider == "openai"


async def test_a_dead_provider_is_unavailable_with_a_time_to_come_back_and_soon_costs_nothing(
    stub: EmbeddingServiceAsyncStub, replica: Replica, local_server: OpenAIEmbeddingsServer
) -> None:
    local_server.script.replies.extend([Fault("down")] * 2)
    first = await failure(stub.Embed(pb.EmbedRequest(texts=["first"])))
    asked = len(local_server.script.requests)
    began = time.perf_counter()
    second = await failure(stub.Embed(pb.EmbedRequest(texts=["second"])))
    assert time.perf_counter() - began < 2
    assert len(local_server.script.requests) == asked == 2
    for error in (first, second):
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert error.reason == errors_pb2.REASON_PROVIDER_UNAVAILABLE
        assert error.retry_after is not None
        assert timedelta(seconds=40) < error.retry_after < timedelta(seconds=80)
    assert sample(replica, "mneme_embedding_breaker_open") == 1
    assert sample(replica, "mneme_embedding_refused_texts_total", reason="PROVIDER_UNAVAILABLE") == 2


async def test_a_throttled_call_is_done_within_the_deadline_or_says_when_to_come_back(
    stub: EmbeddingServiceAsyncStub, replica: Replica, local_server: OpenAIEmbeddingsServer
) -> None:
    local_server.script.replies.append(Fault("throttled"))
    await stub.Embed(pb.EmbedRequest(texts=["text"]))
    assert len(local_server.script.requests) == 2
    local_server.script.replies.append(Fault("throttled", retry_after=600))
    error = await failure(stub.Embed(pb.EmbedRequest(texts=["other"]), timeout=10))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason == errors_pb2.REASON_PROVIDER_THROTTLED
    assert error.retry_after is not None
    assert error.retry_after > timedelta(seconds=500)
    assert sample(replica, "mneme_embedding_throttled_calls_total") == 2


async def test_a_text_that_the_provider_refuses_fails_no_other_callers_text(
    stub: EmbeddingServiceAsyncStub, local_server: OpenAIEmbeddingsServer
) -> None:
    local_server.refuses = "unreadable"
    error = await failure(stub.Embed(pb.EmbedRequest(texts=["good", "unreadable", "better"])))
    assert error.reason == errors_pb2.REASON_INVALID_FIELD
    assert error.violations[0].field == "texts[1]"
    assert len((await stub.Embed(pb.EmbedRequest(texts=["good", "better"]))).embeddings) == 2


async def test_the_metrics_say_what_was_asked_and_what_was_saved(
    stub: EmbeddingServiceAsyncStub, replica: Replica
) -> None:
    answer = await stub.Embed(pb.EmbedRequest(texts=["a text of some length", "a text of some length"]))
    while not (await stub.Embed(pb.EmbedRequest(texts=["a text of some length"]))).embeddings[0].cached:
        pass
    assert sample(replica, "mneme_embedding_texts_total", source="provider") == 1
    assert sample(replica, "mneme_embedding_texts_total", source="joined") >= 1
    assert sample(replica, "mneme_embedding_texts_total", source="cache") == 1
    assert sample(replica, "mneme_embedding_saved_tokens_total", source="cache") == answer.token_count
    assert sample(replica, "mneme_embedding_batch_texts_sum") == 1
    assert sample(replica, "mneme_embedding_calls_limit") >= 2
    assert sample(replica, "mneme_embedding_calls_in_flight") == 0
    assert sample(replica, "mneme_embedding_waiting_texts", priority="bulk") == 0


async def test_saved_tokens_are_priced_as_the_operator_says(hosting: Hosting, bge: ModelsSettings) -> None:
    priced = EmbeddingSettings(dollars_per_million_tokens=1_000_000)
    async with hosting.replica("embedding", build, models=bge, embedding=priced, redis=NO_REDIS) as replica:
        stub = await replica.stub(EmbeddingServiceStub)
        await stub.Embed(pb.EmbedRequest(texts=["sixteen bytes !!", "sixteen bytes !!"]))
        assert sample(replica, "mneme_embedding_saved_dollars_total") == 4


async def test_without_redis_a_quota_holds_in_each_process(hosting: Hosting, bge: ModelsSettings) -> None:
    metered = EmbeddingSettings(tokens_per_minute=8, tenants={"free": TenantShare(tokens_per_minute=0)})
    request = pb.EmbedRequest(texts=["sixteen bytes 01", "sixteen bytes 02"])
    async with hosting.replica("embedding", build, models=bge, embedding=metered, redis=NO_REDIS) as replica:
        stub, free = await replica.stub(EmbeddingServiceStub), await replica.stub(EmbeddingServiceStub, tenant="free")
        await stub.Embed(request)
        error = await failure(stub.Embed(pb.EmbedRequest(texts=["one more"])))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.reason == errors_pb2.REASON_QUOTA_EXCEEDED
        assert error.retry_after is not None
        for _ in range(3):
            await free.Embed(request)
