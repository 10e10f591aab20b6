"""Neighbours by vector sets (Redis 8): one set a partition. Elements have no expiry of their own, so each carries its
end, and what has ended goes when it is met.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import redis.asyncio
from redis import exceptions

from mneme.runtime.redis import Cache, CacheDown
from mneme.semantic_cache.addresses import Partition
from mneme.semantic_cache.neighbours import Vectors, unit
from mneme.semantic_cache.store.index.port import send

T = TypeVar("T")

_FAMILY = "vectors"


class VectorSetIndex:
    """Asks `VSIM` for the nearest."""

    name = "vector_set"

    def __init__(self, cache: Cache, *, longest_life: float) -> None:
        """Args:
        cache: The client.
        longest_life: Longest life of an entry, in seconds: a set that gets none ends after it.
        """
        self._cache = cache
        self._life_ms = int(longest_life * 1000)

    async def add(self, partition: Partition, digest: str, vector: Vectors, ends: float) -> None:
        """Adds an entry that is stored already, or replaces it."""
        key, packed = partition.key(_FAMILY), unit(vector).astype("<f4").tobytes()
        attributes = f'{{"ends":{ends:.3f}}}'

        async def command(client: redis.asyncio.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            send(pipeline, "VADD", key, "FP32", packed, digest, "SETATTR", attributes)
            pipeline.pexpire(key, self._life_ms)
            await pipeline.execute()

        await self._run(command)

    async def search(self, partition: Partition, vector: Vectors, limit: int) -> list[str]:
        """Returns the digests of the nearest entries that have not ended."""
        key, packed = partition.key(_FAMILY), unit(vector).astype("<f4").tobytes()
        living = f".ends > {time.time():.3f}"

        async def command(client: redis.asyncio.Redis) -> Any:
            return await send(client, "VSIM", key, "FP32", packed, "COUNT", limit, "FILTER", living)

        return [digest.decode() for digest in await self._run(command)]

    async def drop(self, partition: Partition, digests: Sequence[str]) -> None:
        """Removes entries that were found gone."""
        key = partition.key(_FAMILY)

        async def command(client: redis.asyncio.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for digest in digests:
                send(pipeline, "VREM", key, digest)
            await pipeline.execute()

        await self._run(command)

    async def close(self) -> None:
        """Nothing runs in the background."""

    async def _run(self, command: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
        try:
            return await self._cache.run(command)
        except exceptions.ResponseError as error:
            raise CacheDown("the server's vector set refuses") from error
