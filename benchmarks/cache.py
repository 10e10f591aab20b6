"""The semantic cache: look-ups of the same question, of other words at any size, and of the cache as published."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio
import numpy as np
import redis.asyncio

from benchmarks import echo, turn
from benchmarks.naive_cache import NaiveCache
from benchmarks.processes import TENANT, deployed, echoing, fresh_stores
from benchmarks.report import Bar, Row
from mneme.common.v1 import common_pb2
from mneme.runtime.redis import Cache
from mneme.semantic_cache.addresses import Partition, Scope, partition, place, space_hash
from mneme.semantic_cache.basis import Basis
from mneme.semantic_cache.neighbours import Vectors, unit
from mneme.semantic_cache.store import Embedded, Stored
from mneme.semantic_cache.store.index import ProcessIndex
from mneme.semantic_cache.store.rows import encode
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceStub
from mneme.settings import Settings

if TYPE_CHECKING:
    from mneme.semantic_cache.v1.semantic_cache_pb2_grpc import SemanticCacheServiceAsyncStub

PREFIXES = ("cache_exact", "cache_semantic", "cache_flat", "cache_naive_10k", "cache_graph")

_SIZES = (1_000, 10_000, 100_000)
_SPACE, _DIMENSIONS = "wordllama@256", 256
_FINGERPRINT = "a" * 64
_LIFE = 3600.0
_WARM_UP, _SAMPLES, _RUNS = 50, 200, 5
_NAIVE_SAMPLES = 3
_THRESHOLD = 0.85
_READ_SECONDS = 300.0
_CLUSTERS, _SPREAD = 1000, 0.6
_CHUNK = 500
_PAYLOAD = b"x" * 1400
# Every look-up finds its entry in the memory of a process that follows all three scopes.
_INDEX_BYTES = str(1 << 30)

Ask = Callable[[int], Awaitable[float]]


async def measure() -> list[Row]:
    """The rows of this part."""
    async with fresh_stores() as stores, _redis(stores) as client:
        known = _vectors(max(_SIZES))
        naive = await _naive(client, known)
        for size in _SIZES:
            await _fill(client, size, known[:size])
        built = await _build(stores, known)
        environment = {
            "MNEME_SEMANTIC_CACHE__ENTRY_SECONDS": str(_LIFE),
            "MNEME_SEMANTIC_CACHE__INDEX_BYTES": _INDEX_BYTES,
            # A busy machine shall be slow, and not without a cache.
            "MNEME_REDIS__COMMAND_TIMEOUT": "2",
        }
        async with (
            deployed(stores, (("embedding", "archival", "semantic_cache"),), extra=environment) as deployment,
            _least(stores, client) as least,
            grpc.aio.insecure_channel(deployment.address) as channel,
        ):
            stub = _Asker(SemanticCacheServiceStub(channel), deployment.token, known)
            return await _rows(stub, least, naive, built)


async def _rows(asker: _Asker, least: Ask, naive: float, built: float) -> list[Row]:
    by_hand, exact = await _interleaved(least, asker.exact)
    for size in _SIZES:
        await asker.until_read(size)
    near = {size: (await _interleaved(least, asker.near(size)))[1] for size in _SIZES}
    p50 = {size: _percentile(runs, 50) for size, runs in near.items()}
    least_p50, largest = _percentile(by_hand, 50), max(_SIZES)
    return [
        Row("cache_exact", _percentile(exact, 50), "ms", least_p50, Bar(2, "ratio")),
        Row("cache_exact_p99", _percentile(exact, 99), "ms", _percentile(by_hand, 99)),
        Row("cache_semantic_100k", p50[largest], "ms", least_p50, Bar(4)),
        Row("cache_semantic_100k_p99", _percentile(near[largest], 99), "ms", _percentile(by_hand, 99)),
        Row("cache_semantic_10k", p50[10_000], "ms", least_p50),
        Row("cache_flat", p50[largest], "ms", p50[min(_SIZES)], Bar(1.5, "ratio")),
        Row("cache_naive_10k", naive, "ms", p50[10_000], Bar(1000, "ratio", at_least=True)),
        Row("cache_graph_100k", built, "s"),
    ]


class _Asker:
    """Asks the running service."""

    def __init__(self, stub: SemanticCacheServiceAsyncStub, token: str, known: Vectors) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._known = known
        self._noise = np.random.default_rng(7)

    async def exact(self, number: int) -> float:
        """Milliseconds of a look-up of the same question."""
        key = self._key(1_000, number, "How do I reset the password of device {}?")
        if not number:
            await self._store(key)
        key.question = "How do I reset the password of device 0?"
        key.ClearField("vector")
        return await self._look_up(key, pb.TIER_EXACT)

    def near(self, size: int) -> Ask:
        """Milliseconds of a look-up by other words in a scope of some size, the vector given."""

        async def ask(_number: int) -> float:
            number = int(self._noise.integers(size))
            return await self._look_up(
                self._key(size, number, "How can I reset the password of device {}?"), pb.TIER_SEMANTIC
            )

        return ask

    async def until_read(self, size: int) -> None:
        """Returns when the service has read a scope."""
        async with asyncio.timeout(_READ_SECONDS):
            while True:
                with contextlib.suppress(RuntimeError):
                    await self.near(size)(0)
                    return

    async def _store(self, key: pb.CacheKey) -> None:
        put = pb.PutRequest(request_id=str(uuid.uuid4()), key=key, entry=pb.CacheEntry(answer="By mail."))
        assert (await self._stub.Put(put, metadata=self._metadata)).stored

    def _key(self, size: int, number: int, wording: str) -> pb.CacheKey:
        beside = self._known[number] + 0.02 * self._noise.normal(size=_DIMENSIONS).astype(np.float32)
        return pb.CacheKey(
            scope=pb.CacheScope(agent_id=_scope(size).agent_id),
            question=wording.format(number),
            fingerprint=_FINGERPRINT,
            vector=common_pb2.Vector(values=unit(beside).tolist(), space_id=_SPACE),
        )

    async def _look_up(self, key: pb.CacheKey, tier: pb.Tier.ValueType) -> float:
        request = pb.LookupRequest(key=key)
        began = time.perf_counter()
        response = await self._stub.Lookup(request, metadata=self._metadata)
        took = 1000 * (time.perf_counter() - began)
        if response.hit.tier != tier:
            raise RuntimeError(f"expected {pb.Tier.Name(tier)}, got {response}")
        return took


async def _interleaved(least: Ask, ask: Ask) -> tuple[list[list[float]], list[list[float]]]:
    """Five runs of the least a look-up can cost, and of look-ups, in turn."""
    for number in range(_WARM_UP):
        await ask(number)
        await least(number)
    by_hand, asked = [], []
    for _ in range(_RUNS):
        by_hand.append([await least(number) for number in range(_SAMPLES)])
        asked.append([await ask(number) for number in range(1, _SAMPLES + 1)])
    return by_hand, asked


def _percentile(runs: Sequence[Sequence[float]], percent: int) -> float:
    """The median of the runs' percentiles."""
    return statistics.median(turn.percentile(run, percent) for run in runs)


@asynccontextmanager
async def _least(stores: Settings, client: redis.asyncio.Redis) -> AsyncIterator[Ask]:
    """Milliseconds of an echo call and one round trip to Redis."""
    assert stores.data_dir is not None
    await client.set("benchmarks:value", _PAYLOAD)
    async with AsyncExitStack() as stack:
        (process,) = await stack.enter_async_context(echoing(1, stores.data_dir))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{process.port}"))
        await asyncio.wait_for(channel.channel_ready(), 30)
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(echo.METHOD)

        async def ask(_number: int) -> float:
            began = time.perf_counter()
            await call(_PAYLOAD)
            await client.get("benchmarks:value")
            return 1000 * (time.perf_counter() - began)

        yield ask


@asynccontextmanager
async def _redis(stores: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the suite's server, which may take what 100,000 entries need."""
    async with redis.asyncio.Redis.from_url(stores.redis.url.get_secret_value()) as client:
        await client.config_set("maxmemory", "0")
        yield client


def _vectors(count: int) -> Vectors:
    """Unit vectors in clusters, as questions lie, float32[count, 256]; always the same."""
    chance = np.random.default_rng(1)
    centres = chance.normal(size=(_CLUSTERS, _DIMENSIONS))
    return unit(
        (centres[chance.integers(_CLUSTERS, size=count)] + _SPREAD * chance.normal(size=(count, _DIMENSIONS))).astype(
            np.float32
        )
    )


def _scope(size: int) -> Scope:
    return Scope(TENANT, f"agent-{size}")


def _epoch(size: int) -> bytes:
    return b"%016d" % size


def _partition(size: int) -> Partition:
    return partition(
        _scope(size), epoch=_epoch(size), fingerprint=_FINGERPRINT, space_id=_SPACE, dimensions=_DIMENSIONS
    )


async def _fill(client: redis.asyncio.Redis, size: int, known: Vectors) -> None:
    """Stores entries in one scope as the service does, but many at once and past its RPCs."""
    scope, epoch, part = _scope(size), _epoch(size), _partition(size)
    life, space, nothing = int(_LIFE * 1000), space_hash(_SPACE).hex(), Basis().digest
    await client.set(scope.epoch_key, epoch, px=life)
    now = time.time()
    for start in range(0, size, _CHUNK):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(size, start + _CHUNK)):
            entry = pb.CacheEntry(
                entry_id=f"entry-{secrets.token_hex(16)}",
                question=f"How do I reset the password of device {number}?",
                answer="Open the settings of the device, choose accounts, and ask for a link by mail.",
            )
            entry.create_time.FromSeconds(int(now))
            entry.expire_time.FromSeconds(int(now + _LIFE))
            stored = Stored(
                entry,
                basis_digest=nothing,
                acquired_digest=nothing,
                place=place(scope, _FINGERPRINT),
                embedded=Embedded(space, known[number]),
            )
            digest = secrets.token_bytes(32)
            pipeline.set(part.entry_key(digest.hex()), epoch + encode(stored), px=life)
            pipeline.xadd(part.key("stream"), {"d": digest, "e": repr(now + _LIFE)})
        await pipeline.execute()


async def _build(stores: Settings, known: Vectors) -> float:
    """Seconds that a process takes to read the largest scope and build its graph; it leaves the snapshot of it."""
    cache = Cache(stores.redis)
    index = ProcessIndex(cache, exact_limit=10_000, memory_bytes=1 << 30, longest_life=_LIFE, patience=600.0)
    began = time.perf_counter()
    await index.search(_partition(max(_SIZES)), known[0], 8)
    took = time.perf_counter() - began
    await cache.close()
    return took


async def _naive(client: redis.asyncio.Redis, known: Vectors) -> float:
    """Milliseconds of a look-up by other words among 10,000 entries of the published cache, alone on the server."""
    size = 10_000
    naive = NaiveCache(client, _THRESHOLD)
    items = dict(
        NaiveCache.item(f"How do I reset the password of device {number}?", known[number].tolist(), "By mail.")
        for number in range(size)
    )
    await client.mset(items)
    samples = []
    for number in range(_NAIVE_SAMPLES):
        began = time.perf_counter()
        answer = await naive.look_up(f"How can I reset the password of device {number}?", known[number].tolist())
        samples.append(1000 * (time.perf_counter() - began))
        assert answer == "By mail."
    await client.delete(*items)
    return statistics.median(samples)
