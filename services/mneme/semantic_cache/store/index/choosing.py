"""Chooses the index by asking the server what it can do, not by its version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import redis.asyncio
import structlog
from redis import exceptions

from mneme.runtime.redis import Cache, CacheDown
from mneme.semantic_cache.addresses import Partition
from mneme.semantic_cache.neighbours import Vectors
from mneme.semantic_cache.store.index.port import VectorIndex, send
from mneme.semantic_cache.store.index.process import ProcessIndex
from mneme.semantic_cache.store.index.search import SearchIndex
from mneme.semantic_cache.store.index.vector_set import VectorSetIndex

_PROBED = "mneme:probe"

log = structlog.get_logger(__name__)


class ChosenIndex:
    """The index that fits the server; chosen at the first use that reaches it."""

    def __init__(self, cache: Cache, *, process: ProcessIndex, longest_life: float) -> None:
        """Args:
        cache: The client.
        process: Used where the server has no vectors.
        longest_life: Longest life of an entry, in seconds.
        """
        self._cache = cache
        self._process = process
        self._longest_life = longest_life
        self._chosen: VectorIndex | None = None
        self._choosing = asyncio.Lock()

    @property
    def name(self) -> str:
        """Name of the index chosen; empty before."""
        return self._chosen.name if self._chosen else ""

    async def add(self, partition: Partition, digest: str, vector: Vectors, ends: float) -> None:
        """Adds an entry that is stored already, or replaces it."""
        await (await self._index()).add(partition, digest, vector, ends)

    async def search(self, partition: Partition, vector: Vectors, limit: int) -> list[str]:
        """Returns the digests of the nearest entries, about in order."""
        return await (await self._index()).search(partition, vector, limit)

    async def drop(self, partition: Partition, digests: Sequence[str]) -> None:
        """Removes entries that were found gone."""
        await (await self._index()).drop(partition, digests)

    async def close(self) -> None:
        """Ends background work."""
        await self._process.close()

    async def _index(self) -> VectorIndex:
        if self._chosen is None:
            async with self._choosing:
                self._chosen = self._chosen or await self._choose()
                log.info("cache.index_chosen", index=self._chosen.name)
        return self._chosen

    async def _choose(self) -> VectorIndex:
        if await self._understands("FT._LIST"):
            return SearchIndex(self._cache)
        if await self._understands("VCARD", _PROBED):
            return VectorSetIndex(self._cache, longest_life=self._longest_life)
        return self._process

    async def _understands(self, *command: str) -> bool:
        async def ask(client: redis.asyncio.Redis) -> bool:
            try:
                await send(client, *command)
            except exceptions.NoPermissionError:
                return False
            except exceptions.ResponseError as error:
                if "unknown command" not in str(error).lower():
                    raise CacheDown("the server does not say what it can do") from error
                return False
            return True

        return await self._cache.run(ask)
