"""The embedding service as its callers see it: real server, real PostgreSQL, real Redis, the local model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import redis
from pydantic import SecretStr

from mneme.embedding.provider import Embedded, Model
from mneme.embedding.service import build
from mneme.embedding.store import RedisVectors
from mneme.embedding.v1 import embedding_pb2 as pb
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error
from mneme.runtime.redis import Cache
from mneme.settings import EmbeddingSettings, ModelsSettings, RedisSettings
from tests.support.bedrock_server import BedrockServer
from tests.support.hosting import Hosting, Replica, failure

if TYPE_CHECKING:
    from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub

TITAN = ModelsSettings(
    embedding_provider="bedrock",
    embedding_model="amazon.titan-embed-text-v2:0",
    embedding_dimensions=1024,
    bedrock_region="us-east-1",
)


def cosine(one: pb.Embedding, other: pb.Embedding) -> float:
    return sum(a * b for a, b in zip(one.values, other.values, strict=True))


async def from_cache(stub: EmbeddingServiceAsyncStub, request: pb.EmbedRequest) -> pb.EmbedResponse:
    """The answer once all of it comes from the cache, which is written after the first answer was given."""
    async with asyncio.timeout(10):
        while True:
            answer = await stub.Embed(request)
            if all(item.cached for item in answer.embeddings):
                return answer


async def test_vectors_come_in_order_with_the_length_one(stub: EmbeddingServiceAsyncStub) -> None:
    texts = ["I am allergic to nuts", "我对坚果过敏", "I am allergic to nuts", "x"]
    answer = await stub.Embed(pb.EmbedRequest(texts=texts))
    assert answer.space_id == "wordllama@256"
    assert answer.token_count > 0
    first, chinese, again, _ = answer.embeddings
    assert all(len(item.values) == 256 for item in answer.embeddings)
    assert all(math.hypot(*item.values) == pytest.approx(1.0, abs=1e-4) for item in answer.embeddings)
    assert first.values == again.values
    assert first.values != chinese.values


async def test_a_batch_of_the_largest_size_keeps_its_order(stub: EmbeddingServiceAsyncStub) -> None:
    texts = [f"text number {index}" for index in range(256)]
    batch = (await stub.Embed(pb.EmbedRequest(texts=texts))).embeddings
    alone = (await stub.Embed(pb.EmbedRequest(texts=[texts[200]]))).embeddings[0]
    assert batch[200].values == alone.values


async def test_the_second_time_comes_from_redis_with_the_same_vector(
    stub: EmbeddingServiceAsyncStub, redis_url: str
) -> None:
    request = pb.EmbedRequest(texts=["What must I not eat?"])
    first = await stub.Embed(request)
    second = await from_cache(stub, request)
    assert not first.embeddings[0].cached
    assert second.token_count == 0
    assert first.embeddings[0].values == second.embeddings[0].values
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys()
        assert key.decode().startswith("bedrock:embed:wordllama@256:")
        assert b"eat" not in key
        assert 3500 < client.ttl(key) <= 3600
        assert client.strlen(key) < 256 * 4


async def test_another_tenant_cannot_tell_what_was_embedded(stub: EmbeddingServiceAsyncStub, replica: Replica) -> None:
    await stub.Embed(pb.EmbedRequest(texts=["our secret plan"]))
    foreign = await replica.stub(EmbeddingServiceStub, tenant="other")
    assert not (await foreign.Embed(pb.EmbedRequest(texts=["our secret plan"]))).embeddings[0].cached


async def test_garbage_in_the_cache_is_a_miss(stub: EmbeddingServiceAsyncStub, redis_url: str) -> None:
    request = pb.EmbedRequest(texts=["text"])
    right = await from_cache(stub, request)
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys()
        client.set(key, b"\x00garbage")
    again = await stub.Embed(request)
    assert not again.embeddings[0].cached
    assert again.embeddings[0].values == right.embeddings[0].values


async def test_without_redis_it_is_only_slower(hosting: Hosting) -> None:
    nowhere = RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))
    async with hosting.replica("embedding", build, redis=nowhere) as replica:
        stub = await replica.stub(EmbeddingServiceStub)
        for _ in range(5):
            answer = await stub.Embed(pb.EmbedRequest(texts=["text"]))
            assert not answer.embeddings[0].cached


async def test_a_text_that_is_too_long_is_refused_by_index_and_limit_or_cut(
    stub: EmbeddingServiceAsyncStub,
) -> None:
    texts = ["short", "word " * 9000]
    error = await failure(stub.Embed(pb.EmbedRequest(texts=texts)))
    assert error.reason == errors_pb2.REASON_TEXT_TOO_LONG
    assert error.violations[0].field == "texts[1]"
    assert error.metadata["limit"] == "8192"
    cut = await stub.Embed(pb.EmbedRequest(texts=texts, overflow=pb.OVERFLOW_TRUNCATE))
    assert [item.truncated for item in cut.embeddings] == [False, True]
    again = await failure(stub.Embed(pb.EmbedRequest(texts=texts)))
    assert again.reason == errors_pb2.REASON_TEXT_TOO_LONG


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.EmbedRequest(), errors_pb2.REASON_INVALID_FIELD, "texts"),
        (pb.EmbedRequest(texts=["a", ""]), errors_pb2.REASON_INVALID_FIELD, "texts[1]"),
        (pb.EmbedRequest(texts=["a\0b"]), errors_pb2.REASON_INVALID_TEXT, "texts[0]"),
        (pb.EmbedRequest(texts=["a"] * 257), errors_pb2.REASON_INVALID_FIELD, "texts"),
        (pb.EmbedRequest(texts=["a" * 262145]), errors_pb2.REASON_TEXT_TOO_LONG, "texts[0]"),
        (pb.EmbedRequest(texts=["a"], input_type=9), errors_pb2.REASON_UNKNOWN_ENUM_VALUE, "input_type"),  # type: ignore[arg-type]
        (pb.EmbedRequest(texts=["a"], overflow=9), errors_pb2.REASON_UNKNOWN_ENUM_VALUE, "overflow"),  # type: ignore[arg-type]
    ],
)
async def test_bad_input_is_named(
    stub: EmbeddingServiceAsyncStub, request_: pb.EmbedRequest, reason: int, field: str
) -> None:
    error = await failure(stub.Embed(request_))
    assert (error.reason, error.metadata["field"]) == (reason, field)


async def test_a_caller_with_another_space_in_mind_is_refused(stub: EmbeddingServiceAsyncStub) -> None:
    error = await failure(stub.Embed(pb.EmbedRequest(texts=["a"], space_id="other@12")))
    assert error.reason == errors_pb2.REASON_SPACE_MISMATCH
    assert error.metadata["recorded"] == "wordllama@256"
    await stub.Embed(pb.EmbedRequest(texts=["a"], space_id="wordllama@256"))


async def test_the_space_says_what_it_is_and_from_which_cosine_texts_are_alike(stub: EmbeddingServiceAsyncStub) -> None:
    space = (await stub.GetSpace(pb.GetSpaceRequest())).space
    assert space == pb.Space(
        space_id="wordllama@256",
        provider="wordllama",
        model="wordllama",
        dimensions=256,
        max_input_tokens=8192,
        calibrated=True,
        related_threshold=0.62,
        same_question_threshold=0.54,
    )


async def test_services_that_the_contract_lists_may_call_and_others_not(replica: Replica) -> None:
    allowed = await replica.stub(EmbeddingServiceStub, service="archival")
    await allowed.Embed(pb.EmbedRequest(texts=["a"]))
    refused = await replica.stub(EmbeddingServiceStub, service="core_memory")
    error = await failure(refused.Embed(pb.EmbedRequest(texts=["a"])))
    assert error.reason == errors_pb2.REASON_CALLER_NOT_ALLOWED


async def test_a_second_start_finds_the_space_again_and_another_space_does_not_start(hosting: Hosting) -> None:
    for _ in range(2):
        async with hosting.replica("embedding", build) as replica:
            await replica.component.ready()
    with pytest.raises(Error, match=r"wordllama@256.*amazon.titan-embed-text-v2:0@1024.*mneme reembed") as caught:
        async with hosting.replica("embedding", build, models=TITAN):
            pass
    assert caught.value.reason == errors_pb2.REASON_SPACE_MISMATCH


async def test_titan_is_calibrated(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    async with hosting.replica("embedding", build, models=TITAN) as replica:
        stub = await replica.stub(EmbeddingServiceStub)
        space = (await stub.GetSpace(pb.GetSpaceRequest())).space
    assert space.calibrated
    assert space.related_threshold == pytest.approx(0.7)
    assert space.same_question_threshold == pytest.approx(0.85)


BOTH = ModelsSettings(
    next_embedding_provider="bedrock",
    next_embedding_model="amazon.titan-embed-text-v2:0",
    next_embedding_dimensions=256,
    bedrock_region="us-east-1",
)
NEXT = "amazon.titan-embed-text-v2:0@256"
QUICK = EmbeddingSettings(space_poll=0.05)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelsSettings]:
    """Settings that name the local space and Titan's beside it, on a server of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with BedrockServer() as server:
        yield BOTH.model_copy(update={"bedrock_endpoint_url": server.url})


async def space_of(stub: EmbeddingServiceAsyncStub) -> str:
    return (await stub.GetSpace(pb.GetSpaceRequest())).space.space_id


async def test_the_next_space_embeds_beside_the_active_one(hosting: Hosting, both: ModelsSettings) -> None:
    async with hosting.replica("embedding", build, models=both) as replica:
        stub = await replica.stub(EmbeddingServiceStub)
        spaces = await stub.GetSpace(pb.GetSpaceRequest())
        assert (spaces.space.space_id, spaces.next.space_id) == ("wordllama@256", NEXT)
        active = await stub.Embed(pb.EmbedRequest(texts=["text"]))
        following = await stub.Embed(pb.EmbedRequest(texts=["text"], space_id=NEXT))
    assert (active.space_id, following.space_id) == ("wordllama@256", NEXT)
    assert active.embeddings[0].values != following.embeddings[0].values


async def test_a_switch_is_durable_reaches_all_processes_and_can_be_taken_back(
    hosting: Hosting, both: ModelsSettings
) -> None:
    sections = {"models": both, "embedding": QUICK}
    async with (
        hosting.replica("embedding", build, **sections) as one,
        hosting.replica("embedding", build, **sections) as other,
    ):
        switching = await one.stub(EmbeddingServiceStub, service="archival")
        following = await other.stub(EmbeddingServiceStub)
        answer = await switching.SwitchSpace(pb.SwitchSpaceRequest(space_id=NEXT))
        assert (answer.space.space_id, answer.next.space_id) == (NEXT, "wordllama@256")
        async with asyncio.timeout(10):
            while await space_of(following) != NEXT:
                pass
        assert (await following.Embed(pb.EmbedRequest(texts=["text"]))).space_id == NEXT
        again = await switching.SwitchSpace(pb.SwitchSpaceRequest(space_id=NEXT))
        assert again.space.space_id == NEXT
    with pytest.raises(Error, match=r"vectors are 'amazon.titan.*, the settings name 'wordllama@256'"):
        async with hosting.replica("embedding", build):
            pass
    async with hosting.replica("embedding", build, **sections) as later:
        stub = await later.stub(EmbeddingServiceStub, service="archival")
        assert await space_of(stub) == NEXT
        back = await stub.SwitchSpace(pb.SwitchSpaceRequest(space_id="wordllama@256"))
        assert back.space.space_id == "wordllama@256"


async def test_no_switch_while_a_running_process_cannot_follow(hosting: Hosting, both: ModelsSettings) -> None:
    async with hosting.replica("embedding", build, models=both) as replica:
        stub = await replica.stub(EmbeddingServiceStub, service="archival")
        async with hosting.replica("embedding", build):
            error = await failure(stub.SwitchSpace(pb.SwitchSpaceRequest(space_id=NEXT)))
            assert error.reason == errors_pb2.REASON_SPACE_MISMATCH
            assert (error.metadata["processes"], error.metadata["without"]) == ("2", "1")
            assert "models.next_embedding_*" in error.message
            assert await space_of(stub) == "wordllama@256"
        # It ended and said so; nobody has to wait for it to be forgotten.
        assert (await stub.SwitchSpace(pb.SwitchSpaceRequest(space_id=NEXT))).space.space_id == NEXT


async def test_a_space_that_nobody_configured_cannot_become_active(replica: Replica) -> None:
    stub = await replica.stub(EmbeddingServiceStub, service="archival")
    error = await failure(stub.SwitchSpace(pb.SwitchSpaceRequest(space_id=NEXT)))
    assert error.reason == errors_pb2.REASON_SPACE_MISMATCH
    user = await replica.stub(EmbeddingServiceStub)
    refused = await failure(user.SwitchSpace(pb.SwitchSpaceRequest(space_id=NEXT)))
    assert refused.reason == errors_pb2.REASON_CALLER_NOT_ALLOWED


async def test_a_next_space_that_is_the_active_one_is_refused_at_the_start(hosting: Hosting) -> None:
    same = ModelsSettings(
        next_embedding_provider="wordllama", next_embedding_model="wordllama", next_embedding_dimensions=256
    )
    with pytest.raises(ValueError, match="next_embedding"):
        async with hosting.replica("embedding", build, models=same):
            pass


async def test_a_claim_is_for_one_until_it_is_given_up_or_the_vector_is_there(cache: Cache) -> None:
    model = Model("bedrock", "model", 2, 10, 1)
    vectors = RedisVectors(cache, model, seconds=60, timeout=5, claim_seconds=60)
    vector = Embedded(np.array([0.6, 0.8], np.float32), 7, truncated=True)
    assert await vectors.claim(["a", "b"], urgent=False) == {"a", "b"}
    assert await vectors.claim(["a"], urgent=False) == set()
    assert await vectors.claim(["a"], urgent=True) == {"a"}, "somebody waits, and the other one does not hurry"
    await vectors.release(["a"])
    assert await vectors.unclaimed(["a", "b"]) == {"a"}
    assert await vectors.claim(["a"], urgent=True) == {"a"}
    await vectors.put({"a": vector})
    assert await vectors.unclaimed(["a"]) == {"a"}
    assert await vectors.claim(["a"], urgent=True) == set(), "it came between the look and the claim"
    assert await vectors.unclaimed(["a"]) == {"a"}, "nobody is to wait for a claim on what is there"
    kept = (await vectors.get(["a", "b"]))["a"]
    assert (kept.vector.tolist(), kept.token_count, kept.truncated) == (vector.vector.tolist(), 7, True)
