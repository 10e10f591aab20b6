"""Tells the store how often entries are used, so that the worthiest stay; off the hot path, and not to the last use."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

from mneme.runtime.redis import CacheDown
from mneme.semantic_cache.store import WorthStore
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

_SECONDS = 1.0
_MOST = 10_000


def worth(entry: pb.CacheEntry, size: int) -> float:
    """Returns the tokens that one use saves, by byte; an answer without a count is worth one token."""
    return max(1, entry.token_count) / size


def size(entry: pb.CacheEntry, dimensions: int) -> int:
    """Returns about how many bytes an entry takes."""
    return entry.ByteSize() + 2 * dimensions + 200


class Reuse:
    """Uses since the last report."""

    def __init__(self, store: WorthStore) -> None:
        self._store = store
        self._gains: dict[str, dict[str, float]] = {}
        self._task: asyncio.Task[None] | None = None

    def used(self, tenant: str, entry: pb.CacheEntry, dimensions: int) -> None:
        """Counts a use of an entry."""
        gains = self._gains.setdefault(tenant, defaultdict(float))
        if len(gains) < _MOST:
            gains[entry.entry_id] += worth(entry, size(entry, dimensions))

    def start(self) -> None:
        """Begins to report."""
        self._task = asyncio.get_running_loop().create_task(self._report(), name="cache-reuse")

    async def stop(self) -> None:
        """Ends reporting; what was not reported is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            gains, self._gains = self._gains, {}
            for tenant, own in gains.items():
                with contextlib.suppress(CacheDown):
                    await self._store.used(tenant, own)
