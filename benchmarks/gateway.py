"""The embedding gateway: texts asked once, a throttled provider used as far as it allows, and what it all costs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import json
import math
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
import grpc.aio
import numpy as np
import redis.asyncio
from botocore import exceptions

from benchmarks import echo, titan
from benchmarks.processes import Deployment, deployed, echoing, free_ports, fresh_stores
from benchmarks.report import Bar, Row
from mneme.embedding.dispatch import Policy
from mneme.embedding.gateway import Gateway
from mneme.embedding.provider import Embedded, InputType, Model, Result
from mneme.embedding.quota import Quotas
from mneme.embedding.store import RedisVectors
from mneme.embedding.v1 import embedding_pb2 as pb
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.runtime.redis import Cache
from mneme.settings import Settings

if TYPE_CHECKING:
    from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub

PREFIXES = ("embed_",)

_ALLOWED = 100.0
"""Calls a second that the provider allows: 6,000 a minute."""
_CALL_SECONDS = 0.06
_WARM_SECONDS, _SECONDS = 4.0, 12.0
_NAIVE_THREADS = 16
_SAMPLES = 400
_PATIENCE = 120
_CALLS = 100
_EQUAL = 1000
_NUMBERS = itertools.count()
_TEXT = "What Maria said about the window seat when we met at the station at a quarter past {}."


async def measure() -> list[Row]:
    """The rows of this part."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(_provider())
        stores = await stack.enter_async_context(fresh_stores())
        (echoes,) = await stack.enter_async_context(echoing(1, _folder(stores)))
        extra = _settings(provider)
        rows: list[Row] = []
        async with deployed(stores, (("embedding",), ("embedding",)), extra=extra) as two:
            rows += await _coalescing(two, provider)
            rows += await _throttled(two, provider, "embed_throttled_two", baseline=None)
        async with deployed(stores, (("embedding",),), extra=extra) as one:
            naive = await _Naive(provider).run()
            rows += await _throttled(one, provider, "embed_throttled", baseline=naive)
            rows += await _waits(one, provider)
            rows += await _hits(one, stores, echoes.port)
        rows += await _alone(stores)
    return rows


@dataclass(frozen=True, slots=True)
class _Provider:
    """The throttling model, in a process of its own."""

    url: str

    async def begin(self, *, per_second: float, seconds: float = _CALL_SECONDS) -> None:
        """Sets quota and time of a call, and counts anew."""
        await self._get(f"/begin?per_second={per_second}&seconds={seconds}")

    async def counts(self) -> Mapping[str, int]:
        """Calls since then: `answered` and `throttled`."""
        return await self._get("/counts")

    async def _get(self, path: str) -> dict[str, int]:
        def read() -> dict[str, int]:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                found: dict[str, int] = json.loads(answer.read())
                return found

        return await asyncio.to_thread(read)


@asynccontextmanager
async def _provider() -> AsyncIterator[_Provider]:
    (port,) = free_ports(1)
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.titan", str(port))
    provider = _Provider(f"http://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await provider.counts()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield provider
    finally:
        child.terminate()
        await child.wait()


def _folder(stores: Settings) -> Path:
    assert stores.data_dir is not None
    return stores.data_dir


def _settings(provider: _Provider) -> dict[str, str]:
    return {
        "MNEME_MODELS__EMBEDDING_PROVIDER": "bedrock",
        "MNEME_MODELS__EMBEDDING_MODEL": titan.MODEL,
        "MNEME_MODELS__EMBEDDING_DIMENSIONS": str(titan.DIMENSIONS),
        "MNEME_MODELS__BEDROCK_REGION": "us-east-1",
        "MNEME_MODELS__BEDROCK_ENDPOINT_URL": provider.url,
        "MNEME_SERVER__MAX_USER_CALLS": str(_EQUAL),
        "MNEME_EMBEDDING__JOIN_WAIT": "5",
        "MNEME_EMBEDDING__CACHE_TIMEOUT": "5",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
    }


def _fresh(count: int) -> list[str]:
    """Texts that nobody embedded before."""
    return [_TEXT.format(next(_NUMBERS)) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class _Caller:
    """Calls the processes in turn."""

    stubs: Sequence[EmbeddingServiceAsyncStub]
    metadata: tuple[tuple[str, str], ...]

    async def embed(self, texts: Sequence[str], *, bulk: bool = False, at: int = 0) -> None:
        priority = pb.PRIORITY_BULK if bulk else pb.PRIORITY_INTERACTIVE
        request = pb.EmbedRequest(texts=texts, priority=priority)
        await self.stubs[at % len(self.stubs)].Embed(request, metadata=self.metadata, timeout=_PATIENCE)


@asynccontextmanager
async def _calling(deployment: Deployment) -> AsyncIterator[_Caller]:
    async with AsyncExitStack() as stack:
        stubs = [
            EmbeddingServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{process.port}"))
            )
            for process in deployment.processes
        ]
        yield _Caller(stubs, (("authorization", f"Bearer {deployment.token}"),))


async def _coalescing(deployment: Deployment, provider: _Provider) -> list[Row]:
    """Equal texts at once: to one process, and to two."""
    rows: list[Row] = []
    naive = await _Naive(provider).equal(_EQUAL)
    async with _calling(deployment) as caller:
        for name, spread in (("embed_coalesce", 1), ("embed_coalesce_two", 2)):
            await provider.begin(per_second=0)
            text = _fresh(1)
            await asyncio.gather(*(caller.embed(text, at=index % spread) for index in range(_EQUAL)))
            calls = (await provider.counts())["answered"]
            rows.append(Row(name, calls, "calls", naive, Bar(1)))
    return rows


async def _throttled(deployment: Deployment, provider: _Provider, name: str, *, baseline: _Found | None) -> list[Row]:
    """More bulk work than the provider allows, from as many lanes as keep it waiting."""
    lanes = 8 * len(deployment.processes)
    async with _calling(deployment) as caller:
        await provider.begin(per_second=_ALLOWED)

        async def lane(at: int) -> None:
            while True:
                await caller.embed(_fresh(32), bulk=True, at=at)

        working = [asyncio.create_task(lane(at)) for at in range(lanes)]
        found = await _counted(provider)
        await _cancelled(working)
    return [
        Row(name, found.share, "% of allowed", baseline.share if baseline else None, Bar(90, at_least=True)),
        Row(f"{name}_wasted", found.wasted, "% of calls", baseline.wasted if baseline else None),
    ]


@dataclass(frozen=True, slots=True)
class _Found:
    """What became of the calls of some seconds."""

    share: float
    """Answered calls, in per cent of those allowed."""
    wasted: float
    """Throttled calls, in per cent of all."""


async def _counted(provider: _Provider) -> _Found:
    """Waits until things are steady, then counts."""
    await asyncio.sleep(_WARM_SECONDS)
    began, before = time.perf_counter(), await provider.counts()
    await asyncio.sleep(_SECONDS)
    after, seconds = await provider.counts(), time.perf_counter() - began
    answered, throttled = (after[key] - before[key] for key in ("answered", "throttled"))
    return _Found(100 * answered / seconds / _ALLOWED, 100 * throttled / (answered + throttled))


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Naive:
    """What is usually written: a pool of threads, and the SDK's own retries."""

    def __init__(self, provider: _Provider) -> None:
        self._provider = provider
        config = botocore.config.Config(
            max_pool_connections=_NAIVE_THREADS, retries={"mode": "standard", "total_max_attempts": 5}
        )
        self._client = boto3.Session(
            region_name="us-east-1", aws_access_key_id="bench", aws_secret_access_key="bench"
        ).client("bedrock-runtime", endpoint_url=provider.url, config=config)
        self._until = math.inf

    async def run(self) -> _Found:
        """The same work by hand."""
        await self._provider.begin(per_second=_ALLOWED)
        with concurrent.futures.ThreadPoolExecutor(_NAIVE_THREADS) as threads:
            lanes = [asyncio.get_running_loop().run_in_executor(threads, self._lane) for _ in range(_NAIVE_THREADS)]
            found = await _counted(self._provider)
            self._until = 0.0
            await asyncio.gather(*lanes)
        return found

    async def equal(self, count: int) -> int:
        """Calls of the provider for equal texts at once."""
        await self._provider.begin(per_second=0)
        (text,) = _fresh(1)
        with concurrent.futures.ThreadPoolExecutor(_NAIVE_THREADS) as threads:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(threads, self._ask, text) for _ in range(count)))
        return (await self._provider.counts())["answered"]

    def _lane(self) -> None:
        while time.monotonic() < self._until:
            try:
                self._ask(_fresh(1)[0])
            except exceptions.ClientError:
                continue  # what a caller would see as a failure

    def _ask(self, text: str) -> None:
        body = json.dumps({"inputText": text, "dimensions": titan.DIMENSIONS, "normalize": True})
        self._client.invoke_model(modelId=titan.MODEL, body=body)["body"].read()


async def _waits(deployment: Deployment, provider: _Provider) -> list[Row]:
    """Interactive calls while bulk work waits: how much longer they take than on an idle provider."""
    rows: list[Row] = []
    async with _calling(deployment) as caller:
        for name, allowed in (("embed_interactive_wait", 0.0), ("embed_interactive_wait_throttled", _ALLOWED)):
            await provider.begin(per_second=0)
            alone = await _times(lambda: caller.embed(_fresh(1)), _CALLS)
            await provider.begin(per_second=allowed)

            async def lane() -> None:
                while True:
                    await caller.embed(_fresh(256), bulk=True)

            working = [asyncio.create_task(lane()) for _ in range(4)]
            await asyncio.sleep(_WARM_SECONDS)
            beside = await _times(lambda: caller.embed(_fresh(1)), _CALLS)
            await _cancelled(working)
            call, bar = statistics.median(alone), Bar(1, of="ratio")
            rows.append(Row(name, statistics.median(beside) - statistics.median(alone), "ms", call, bar))
            rows.append(Row(f"{name}_p95", _p95(beside) - _p95(alone), "ms", call, bar))
            # What still waits is thrown away by the process, as its callers left.
            await provider.begin(per_second=0)
    return rows


async def _hits(deployment: Deployment, stores: Settings, echo_port: int) -> list[Row]:
    """A cached text: through the service beside an echo call and a bare GET."""
    text = _fresh(1)
    async with (
        _calling(deployment) as caller,
        redis.asyncio.from_url(stores.redis.url.get_secret_value()) as bare,
        grpc.aio.insecure_channel(f"127.0.0.1:{echo_port}") as channel,
    ):
        await caller.embed(text)
        await asyncio.sleep(0.2)
        (key,) = [key async for key in bare.scan_iter("bedrock:embed:*", count=10_000)][-1:]
        call: Any = channel.unary_unary(echo.METHOD)

        async def by_hand() -> None:
            await call(text[0].encode())
            await bare.get(key)

        await _times(by_hand, _SAMPLES // 4)
        hand = await _times(by_hand, _SAMPLES)
        await _times(lambda: caller.embed(text), _SAMPLES // 4)
        hits = await _times(lambda: caller.embed(text), _SAMPLES)
    return [
        Row("embed_cache_hit", statistics.median(hits), "ms", statistics.median(hand)),
        Row("embed_cache_hit_p95", _p95(hits), "ms", _p95(hand)),
    ]


class _Instant:
    """A model in no time, to see what everything else takes."""

    model = Model("bench", "instant", titan.DIMENSIONS, 8192, 96)

    def __init__(self) -> None:
        vector = np.full(titan.DIMENSIONS, titan.DIMENSIONS**-0.5, np.float32)
        self._answer = Embedded(vector, 20)

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        return [self._answer for _ in texts]

    async def close(self) -> None:
        pass


class _NoCache:
    """A cache that holds nothing."""

    async def get(self, keys: Sequence[str]) -> Mapping[str, Embedded]:
        return {}

    async def put(self, vectors: Mapping[str, Embedded]) -> None:
        pass

    async def claim(self, keys: Sequence[str], *, urgent: bool) -> set[str]:
        return set(keys)

    async def unclaimed(self, keys: Sequence[str]) -> set[str]:
        return set(keys)

    async def release(self, keys: Sequence[str]) -> None:
        pass


async def _alone(stores: Settings) -> list[Row]:
    """The gateway in this process, without RPC: overhead of a text, and a hit beside a bare GET."""
    rows: list[Row] = []
    provider = _Instant()
    for name, count in (("embed_overhead", 1), ("embed_overhead_256", 256)):
        gateway = Gateway(provider, _NoCache(), b"secret", policy=Policy(), quotas=Quotas(_Unasked()))
        times = await _times(functools.partial(_embed_fresh, gateway, count), _SAMPLES)
        bare = await _times(functools.partial(_bare, provider, count), _SAMPLES)
        rows.append(
            Row(name, 1000 * statistics.median(times) / count, "us/text", 1000 * statistics.median(bare) / count)
        )
        await gateway.close()
    cache = Cache(stores.redis)
    vectors = RedisVectors(cache, provider.model, seconds=3600, timeout=5, claim_seconds=1)
    gateway = Gateway(provider, vectors, b"secret", policy=Policy(), quotas=Quotas(_Unasked()))
    text = _fresh(1)
    await _embed(gateway, text)
    (key,) = gateway.keys(text, "bench", InputType.DOCUMENT)
    await asyncio.sleep(0.2)
    hits = await _times(lambda: _embed(gateway, text), _SAMPLES)
    async with redis.asyncio.from_url(stores.redis.url.get_secret_value()) as client:
        gets = await _times(lambda: client.get(f"bedrock:embed:{provider.model.space_id}:{key}"), _SAMPLES)
    rows.append(Row("embed_cache_hit_inside", statistics.median(hits), "ms", statistics.median(gets)))
    await gateway.close()
    await cache.close()
    return rows


class _Unasked:
    """A meter that no quota leads to."""

    async def take(self, tenant: str, tokens: int, limit: int) -> float:
        raise AssertionError("there is no quota")


async def _embed(gateway: Gateway, texts: Sequence[str]) -> None:
    await gateway.embed(texts, tenant="bench", input_type=InputType.DOCUMENT, truncate=False)


async def _embed_fresh(gateway: Gateway, count: int) -> None:
    await _embed(gateway, _fresh(count))


async def _bare(provider: _Instant, count: int) -> None:
    texts, size = _fresh(count), provider.model.batch_size
    for start in range(0, len(texts), size):
        await provider.embed(texts[start : start + size], InputType.DOCUMENT, truncate=False)


async def _times(work: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of each of some runs, one after another."""
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await work()
        times.append(1000.0 * (time.perf_counter() - began))
    return times


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]
