"""One suite for all providers, over the wire protocols that they speak; the local model passes it too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest
from pydantic import SecretStr

from mneme.embedding import provider as providers
from mneme.embedding.provider import Embedded, InputType, Provider, Result, TooLong
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error
from mneme.settings import EmbeddingSettings, ModelsSettings
from tests.contract.embedding.openai_embeddings import OpenAIEmbeddingsServer
from tests.support.bedrock_server import BedrockServer
from tests.support.replies import Fault, Handler, Script

TITAN = "amazon.titan-embed-text-v2:0"
COHERE_V3 = "cohere.embed-multilingual-v3"
COHERE_V4 = "us.cohere.embed-v4:0"
OPENAI = "bge-m3"
REMOTE = [TITAN, COHERE_V3, COHERE_V4, OPENAI]
SETTINGS = EmbeddingSettings(provider_timeout=10)


@dataclass
class Remote:
    """A provider and the server behind it."""

    provider: Provider
    script: Script


def settings(model: str, bedrock: str, openai: str, dimensions: int = 0) -> ModelsSettings:
    if model == OPENAI:
        return ModelsSettings(
            embedding_provider="openai",
            embedding_model=model,
            embedding_dimensions=dimensions or 256,
            openai_base_url=openai,
            openai_api_key=SecretStr("key"),
        )
    return ModelsSettings(
        embedding_provider="bedrock",
        embedding_model=model,
        embedding_dimensions=dimensions or 1024,
        bedrock_region="us-east-1",
        bedrock_endpoint_url=bedrock,
    )


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BedrockServer, OpenAIEmbeddingsServer]]:
    """Both endpoints."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bedrock, openai = BedrockServer(), OpenAIEmbeddingsServer()
    with ExitStack() as stack:
        stack.enter_context(bedrock)
        stack.enter_context(openai)
        yield bedrock, openai


@pytest.fixture(params=REMOTE)
async def remote(
    request: pytest.FixtureRequest, servers: tuple[BedrockServer, OpenAIEmbeddingsServer]
) -> AsyncIterator[Remote]:
    """Each remote model in turn."""
    bedrock, openai = servers
    provider = providers.build(settings(request.param, bedrock.url, openai.url), SETTINGS)
    yield Remote(provider, openai.script if request.param == OPENAI else bedrock.script)
    await provider.close()


@pytest.fixture(params=["wordllama", *REMOTE])
async def provider(
    request: pytest.FixtureRequest, servers: tuple[BedrockServer, OpenAIEmbeddingsServer]
) -> AsyncIterator[Provider]:
    """Each model in turn, the local one too."""
    bedrock, openai = servers
    local = request.param == "wordllama"
    chosen = ModelsSettings() if local else settings(request.param, bedrock.url, openai.url)
    made = providers.build(chosen, SETTINGS)
    yield made
    await made.close()


async def embed(
    provider: Provider, *texts: str, input_type: InputType = InputType.DOCUMENT, truncate: bool = False
) -> list[Result]:
    return await provider.embed(texts[: provider.model.batch_size], input_type, truncate=truncate)


async def one(provider: Provider, text: str) -> Embedded:
    (found,) = await embed(provider, text)
    assert isinstance(found, Embedded)
    return found


async def test_a_vector_has_the_promised_size_and_length_one(provider: Provider) -> None:
    found = await one(provider, "I am allergic to nuts")
    assert found.vector.shape == (provider.model.dimensions,)
    assert found.vector.dtype == np.float32
    assert np.linalg.norm(found.vector) == pytest.approx(1.0, abs=1e-5)
    assert found.token_count > 0
    assert not found.truncated


async def test_a_batch_keeps_its_order(provider: Provider) -> None:
    texts = [f"text of number {index} 数字" for index in range(min(20, provider.model.batch_size))]
    batch = await embed(provider, *texts)
    for text, item in zip(texts, batch, strict=True):
        assert isinstance(item, Embedded)
        np.testing.assert_allclose(item.vector, (await one(provider, text)).vector, atol=1e-6)


async def test_a_text_over_the_limit_is_reported_or_cut_and_the_others_are_not(provider: Provider) -> None:
    if provider.model.name == COHERE_V4:
        return  # its 128,000 tokens are more than a message of the suite holds
    long = "many words " * 20_000
    for texts in ([long], ["short", long, "last"]):
        if len(texts) > provider.model.batch_size:
            continue
        at = texts.index(long)
        refused = await embed(provider, *texts)
        assert isinstance(refused[at], TooLong)
        assert all(isinstance(item, Embedded) for index, item in enumerate(refused) if index != at)
        cut = (await embed(provider, *texts, truncate=True))[at]
        assert isinstance(cut, Embedded)
        assert cut.truncated


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("throttled"), errors_pb2.REASON_PROVIDER_THROTTLED),
        (Fault("down"), errors_pb2.REASON_PROVIDER_UNAVAILABLE),
        (Fault("drop"), errors_pb2.REASON_PROVIDER_UNAVAILABLE),
        (Fault("denied"), errors_pb2.REASON_PROVIDER_REFUSED),
        (Fault("unknown_model"), errors_pb2.REASON_PROVIDER_REFUSED),
    ],
)
async def test_each_failure_has_its_reason(remote: Remote, fault: Fault, reason: int) -> None:
    remote.script.replies.append(fault)
    with pytest.raises(Error) as caught:
        await embed(remote.provider, "text")
    assert caught.value.reason == reason
    assert caught.value.metadata["model"] == remote.provider.model.name
    assert caught.value.retry_after is None
    assert len(remote.script.requests) == 1
    assert isinstance((await embed(remote.provider, "text"))[0], Embedded)


async def test_a_provider_that_says_when_to_come_back_is_believed(remote: Remote) -> None:
    remote.script.replies.append(Fault("throttled", retry_after=7))
    with pytest.raises(Error) as caught:
        await embed(remote.provider, "text")
    assert caught.value.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("dimensions", [1024, 512, 256])
async def test_titan_is_asked_for_normalised_vectors_of_the_configured_size(
    servers: tuple[BedrockServer, OpenAIEmbeddingsServer], dimensions: int
) -> None:
    bedrock, openai = servers
    provider = providers.build(settings(TITAN, bedrock.url, openai.url, dimensions), SETTINGS)
    assert (await one(provider, "text")).vector.shape == (dimensions,)
    (request,) = bedrock.script.requests
    assert request.path == f"/model/{TITAN}/invoke"
    assert request.body == {"inputText": "text", "dimensions": dimensions, "normalize": True}
    await provider.close()


async def test_titan_takes_no_more_than_fifty_thousand_characters(
    servers: tuple[BedrockServer, OpenAIEmbeddingsServer],
) -> None:
    bedrock, openai = servers
    provider = providers.build(settings(TITAN, bedrock.url, openai.url), SETTINGS)
    assert await embed(provider, "x" * 50_001) == [TooLong(50_000, "characters", 50_001)]
    assert not bedrock.script.requests
    (cut,) = await embed(provider, "x" * 50_001, truncate=True)
    assert isinstance(cut, Embedded)
    assert cut.truncated
    await provider.close()


@pytest.mark.parametrize("model", [COHERE_V3, COHERE_V4])
async def test_cohere_is_told_what_a_text_is_for(
    servers: tuple[BedrockServer, OpenAIEmbeddingsServer], model: str
) -> None:
    bedrock, openai = servers
    provider = providers.build(settings(model, bedrock.url, openai.url), SETTINGS)
    await embed(provider, "a", "b", input_type=InputType.QUERY)
    await embed(provider, "c")
    first, second = (request.body for request in bedrock.script.requests)
    assert (first["texts"], first["input_type"]) == (["a", "b"], "search_query")
    assert second["input_type"] == "search_document"
    assert first.get("output_dimension") == (1024 if model == COHERE_V4 else None)
    assert provider.model.asymmetric
    await provider.close()


async def test_cohere_v3_takes_2048_characters_and_the_rest_of_the_batch_goes_on(
    servers: tuple[BedrockServer, OpenAIEmbeddingsServer],
) -> None:
    bedrock, openai = servers
    provider = providers.build(settings(COHERE_V3, bedrock.url, openai.url), SETTINGS)
    first, refused, last = await embed(provider, "first", "x" * 2049, "last")
    assert refused == TooLong(2048, "characters", 2049)
    assert isinstance(first, Embedded)
    assert isinstance(last, Embedded)
    np.testing.assert_allclose(last.vector, (await one(provider, "last")).vector, atol=1e-6)
    cut = await embed(provider, "first", "x" * 2049, truncate=True)
    assert [item.truncated for item in cut if isinstance(item, Embedded)] == [False, True]
    await provider.close()


async def test_a_vector_of_another_size_than_configured_is_refused(
    servers: tuple[BedrockServer, OpenAIEmbeddingsServer],
) -> None:
    bedrock, openai = servers
    provider = providers.build(settings(OPENAI, bedrock.url, openai.url, dimensions=1024), SETTINGS)
    with pytest.raises(Error, match="256 numbers that are no vector of 1024") as caught:
        await embed(provider, "text")
    assert caught.value.reason == errors_pb2.REASON_PROVIDER_REFUSED
    await provider.close()


async def test_no_credentials_are_said_plainly(
    servers: tuple[BedrockServer, OpenAIEmbeddingsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    bedrock, openai = servers
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    provider = providers.build(settings(TITAN, bedrock.url, openai.url), SETTINGS)
    with pytest.raises(Error, match="no AWS credentials"):
        await embed(provider, "text")
    await provider.close()


@pytest.mark.parametrize(
    ("model", "dimensions", "named"),
    [
        (TITAN, 300, "embedding_dimensions"),
        (COHERE_V3, 256, "embedding_dimensions"),
        ("anthropic.claude", 0, "embedding_model"),
    ],
)
def test_settings_that_contradict_the_model_are_refused_by_name(model: str, dimensions: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        providers.build(settings(model, "", "", dimensions), SETTINGS)


@pytest.mark.parametrize(
    "answer",
    [
        b"not JSON",
        b"{}",
        b'{"data": [{"index": 0, "embedding": null}, {"index": 1, "embedding": null}]}',
        b'{"data": [{"index": 0, "embedding": ["a"]}, {"index": 1, "embedding": ["b"]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}]}',
    ],
)
async def test_an_answer_that_makes_no_sense_is_the_provider_s_fault(
    servers: tuple[BedrockServer, OpenAIEmbeddingsServer], answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(handler: Handler, _status: int, _body: bytes, _headers: dict[str, str]) -> None:
        send_whole(handler, 200, answer, {})

    send_whole = Handler.send_whole
    monkeypatch.setattr(Handler, "send_whole", tell)
    provider = providers.build(settings(OPENAI, servers[0].url, servers[1].url, dimensions=1), SETTINGS)
    with pytest.raises(Error) as raised:
        await provider.embed(["one", "two"], InputType.DOCUMENT, truncate=False)
    assert raised.value.reason == errors_pb2.REASON_PROVIDER_REFUSED
    await provider.close()
