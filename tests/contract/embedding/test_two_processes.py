"""Two processes of the gateway before one provider: what one asks the other does not, and tenants share both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest
import redis

from mneme.embedded import Embedded
from mneme.embedding.v1 import embedding_pb2 as pb
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.runtime import migrations
from mneme.runtime.dev_credentials import ensure_dev_credentials, mint_dev_token
from mneme.runtime.errors import Error, from_rpc_error
from tests.support import calling
from tests.support.bedrock_server import Allowance, BedrockServer
from tests.support.deployment import environment, free_ports, start, stop, wait_until_serving

if TYPE_CHECKING:
    from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub

QUOTA = 120
PATIENCE = 20


@dataclass
class Pair:
    """Two running processes, and the provider that both ask."""

    addresses: list[str]
    provider: BedrockServer
    credentials: Path

    @asynccontextmanager
    async def stubs(self, tenant: str) -> AsyncIterator[list[EmbeddingServiceAsyncStub]]:
        """A stub of each process for a tenant."""
        token = mint_dev_token(self.credentials, tenant)
        async with calling.channel(self.addresses[0], token) as one, calling.channel(self.addresses[1], token) as two:
            yield [EmbeddingServiceStub(one), EmbeddingServiceStub(two)]

    def asked(self) -> list[str]:
        """The texts that the provider was asked for, throttled calls included."""
        return [request.body["inputText"] for request in self.provider.script.requests]


@pytest.fixture(scope="module")
def running(
    stores: Embedded, new_database: Callable[[str | None], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Both processes, with a quota for the tenant `metered`."""
    folder = tmp_path_factory.mktemp("pair")
    ensure_dev_credentials(folder)
    url = new_database("mneme").replace("://mneme@", f"://{migrations.APP_ROLE}@")
    with redis.Redis.from_url(stores.redis_url) as client:
        client.flushdb()
    with ExitStack() as stack:
        provider = BedrockServer()
        stack.enter_context(provider)
        settings = environment(url, stores.redis_url, folder) | {
            "MNEME_MODELS__EMBEDDING_PROVIDER": "bedrock",
            "MNEME_MODELS__EMBEDDING_MODEL": "amazon.titan-embed-text-v2:0",
            "MNEME_MODELS__EMBEDDING_DIMENSIONS": "256",
            "MNEME_MODELS__BEDROCK_REGION": "us-east-1",
            "MNEME_MODELS__BEDROCK_ENDPOINT_URL": provider.url,
            "MNEME_EMBEDDING__JOIN_WAIT": "10",
            "MNEME_EMBEDDING__CACHE_TIMEOUT": "5",
            "MNEME_EMBEDDING__TENANTS": json.dumps({"metered": {"tokens_per_minute": QUOTA}}),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        ports, started = free_ports(2), []
        for port in ports:
            log = folder / f"{port}.log"
            output = stack.enter_context(log.open("wb"))
            started.append((start(["embedding"], settings | {"MNEME_SERVER__PORT": str(port)}, output), log))
            stack.callback(stop, started[-1][0])
        addresses = [f"127.0.0.1:{port}" for port in ports]
        for address, (process, log) in zip(addresses, started, strict=True):
            wait_until_serving("embedding", address, process, log)
        yield Pair(addresses, provider, folder)


@pytest.fixture
def pair(running: Pair) -> Pair:
    """The processes, and a provider that was asked nothing yet and allows everything."""
    running.provider.script.requests.clear()
    running.provider.allowance, running.provider.embed_seconds = None, 0.0
    return running


async def answer(call: grpc.aio.UnaryUnaryCall[pb.EmbedRequest, pb.EmbedResponse]) -> pb.EmbedResponse | Error:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)


async def test_equal_texts_in_two_processes_make_one_call_of_the_provider(pair: Pair) -> None:
    pair.provider.embed_seconds = 0.3
    request = pb.EmbedRequest(texts=["the same question"])
    async with pair.stubs("acme") as stubs:
        answers = await asyncio.gather(*(stub.Embed(request, timeout=PATIENCE) for stub in stubs for _ in range(50)))
    assert len(pair.asked()) == 1
    assert len({tuple(one.embeddings[0].values) for one in answers}) == 1
    assert sum(one.token_count > 0 for one in answers) == 1


async def test_a_flood_in_both_processes_delays_another_tenant_by_little(pair: Pair) -> None:
    pair.provider.allowance, pair.provider.embed_seconds = Allowance(60), 0.02
    async with pair.stubs("flood") as flooding, pair.stubs("small") as small:
        floods = [
            asyncio.ensure_future(
                stub.Embed(
                    pb.EmbedRequest(texts=[f"flood {at} {n}" for n in range(100)], priority=pb.PRIORITY_BULK),
                    timeout=PATIENCE,
                )
            )
            for at, stub in enumerate(flooding)
        ]
        async with asyncio.timeout(PATIENCE):
            while len(pair.asked()) < 20:  # noqa: ASYNC110 - the provider is a thread
                await asyncio.sleep(0.01)
        request = pb.EmbedRequest(texts=["small one", "small two"], priority=pb.PRIORITY_BULK)
        await asyncio.gather(*(stub.Embed(request, timeout=PATIENCE) for stub in small))
        answers = await asyncio.gather(*floods)
    asked = pair.asked()
    last_small = max(index for index, text in enumerate(asked) if text.startswith("small"))
    later = set(asked[last_small:]) - set(asked[:last_small])
    assert len(later) > 60, "in one line for all, those who came last would be last"
    assert all(len(one.embeddings) == 100 for one in answers)


async def test_a_quota_holds_over_both_processes_together(pair: Pair) -> None:
    texts = [f"sixteen bytes {n:02}" for n in range(60)]  # four tokens each, 240 in all
    async with pair.stubs("metered") as stubs:
        answers = await asyncio.gather(
            *(answer(stubs[n % 2].Embed(pb.EmbedRequest(texts=[text]))) for n, text in enumerate(texts))
        )
    refused = [one for one in answers if isinstance(one, Error)]
    assert {one.reason for one in refused} == {errors_pb2.REASON_QUOTA_EXCEEDED}
    assert all(one.retry_after and timedelta() < one.retry_after < timedelta(minutes=1) for one in refused)
    granted = len(texts) - len(refused)
    assert len(pair.asked()) == granted
    assert QUOTA / 4 <= granted <= QUOTA / 4 + 10, "a bucket, and what flows in meanwhile"
