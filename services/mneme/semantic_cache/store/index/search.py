"""Neighbours by the server's search commands (`FT.*`), in what Redis 8, Valkey Search and MemoryDB have in common.

One index serves one vector space of all tenants, since managed servers allow ten; the partition is a tag of hex digits,
so nothing needs escaping. No range queries, no text fields, no queries by tag alone, no sorting by the server: Valkey
Search has none of them in all its versions. An entry is one hash beside its row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import redis.asyncio
from redis import exceptions

from mneme.runtime.redis import Cache, CacheDown
from mneme.semantic_cache.addresses import Partition
from mneme.semantic_cache.neighbours import Vectors, unit
from mneme.semantic_cache.store.index.port import send

T = TypeVar("T")

_GRAPH = ("M", 16, "EF_CONSTRUCTION", 200)


class SearchIndex:
    """Asks `FT.SEARCH` for the nearest."""

    name = "search"

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._known: set[str] = set()

    async def add(self, partition: Partition, digest: str, vector: Vectors, ends: float) -> None:
        """Adds an entry that is stored already, or replaces it."""
        await self._ensure(partition)
        key = _document(partition, digest)
        packed = unit(vector).astype("<f4").tobytes()

        async def command(client: redis.asyncio.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            pipeline.hset(key, mapping={"part": partition.name, "v": packed})
            pipeline.pexpireat(key, int(ends * 1000))
            await pipeline.execute()

        await self._run(partition, command)

    async def search(self, partition: Partition, vector: Vectors, limit: int) -> list[str]:
        """Returns the digests of the nearest entries."""
        await self._ensure(partition)
        query = f"(@part:{{{partition.name}}})=>[KNN {limit} @v $q AS d]"
        wanted = unit(vector).astype("<f4").tobytes()

        async def command(client: redis.asyncio.Redis) -> list[str]:
            answer = await send(
                client, "FT.SEARCH", _name(partition), query, "PARAMS", 2, "q", wanted,
                "RETURN", 1, "d", "LIMIT", 0, limit, "DIALECT", 2,
            )  # fmt: skip
            return _nearest(answer)

        return await self._run(partition, command)

    async def drop(self, partition: Partition, digests: Sequence[str]) -> None:
        """Removes entries that were found gone."""
        keys = [_document(partition, digest) for digest in digests]
        await self._run(partition, lambda client: client.unlink(*keys))

    async def close(self) -> None:
        """Nothing runs in the background."""

    async def _ensure(self, partition: Partition) -> None:
        """Makes the space's index unless it exists. FLUSHALL removes it; the next use after a refusal looks again."""
        name = _name(partition)
        if name in self._known:
            return

        async def command(client: redis.asyncio.Redis) -> None:
            if name.encode() in await send(client, "FT._LIST"):
                return
            try:
                await send(
                    client, "FT.CREATE", name, "ON", "HASH", "PREFIX", 1, _prefix(partition), "SCHEMA",
                    "part", "TAG",
                    "v", "VECTOR", "HNSW", 10, "TYPE", "FLOAT32", "DIM", partition.dimensions,
                    "DISTANCE_METRIC", "COSINE", *_GRAPH,
                )  # fmt: skip
            except exceptions.ResponseError as error:
                if "already exists" not in str(error).lower():
                    raise

        await self._run(partition, command)
        self._known.add(name)

    async def _run(self, partition: Partition, command: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
        try:
            return await self._cache.run(command)
        except exceptions.ResponseError as error:
            self._known.discard(_name(partition))
            raise CacheDown("the server's search refuses") from error


def _name(partition: Partition) -> str:
    return f"mneme:questions:{partition.space}:{partition.dimensions}"


def _prefix(partition: Partition) -> str:
    return f"mneme:vector:{partition.space}:{partition.dimensions}:"


def _document(partition: Partition, digest: str) -> str:
    return f"{_prefix(partition)}{partition.scope.tag}:{digest}"


def _nearest(answer: Any) -> list[str]:
    """Digests by rising distance. The answer is a count, then key and fields of each document in turn."""
    found = []
    for key, fields in zip(answer[1::2], answer[2::2], strict=True):
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        found.append((float(values[b"d"]), key.rpartition(b":")[2].decode()))
    order = np.argsort([distance for distance, _ in found], kind="stable")
    return [found[place][1] for place in order]
