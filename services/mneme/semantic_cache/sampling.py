"""Keeps a part of the served pairs for whoever judges them, off the hot path."""

from __future__ import annotations

import asyncio
import random

import structlog

from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics
from mneme.runtime.redis import CacheDown
from mneme.semantic_cache.store import EntryStore, HitSample, JudgedStore
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

_WAITING = 256

log = structlog.stdlib.get_logger(__name__)


class Sampler:
    """Takes a part of the pairs; when more come than can be written, they are dropped."""

    def __init__(self, judged: JudgedStore, entries: EntryStore, metrics: Metrics, *, rate: float, most: int) -> None:
        """Args:
        judged: Where pairs wait.
        entries: Where their answers are.
        metrics: Counts them.
        rate: Part of the served pairs that is taken; those of a closed stratum are all taken, as they let it open.
        most: Pairs of one tenant that wait at most.
        """
        self._judged = judged
        self._entries = entries
        self._counted = metrics.cache_samples
        self._rate = rate
        self._most = most
        self._queue: asyncio.Queue[tuple[str, HitSample]] = asyncio.Queue(_WAITING)
        self._task: asyncio.Task[None] | None = None

    def wants(self, *, served: bool) -> bool:
        """Returns whether the next pair is to be offered."""
        return self._most > 0 and (not served or random.random() < self._rate)  # noqa: S311 - a sample, no secret

    def offer(self, tenant: str, sample: HitSample) -> None:
        """Keeps a pair soon, or drops it."""
        try:
            self._queue.put_nowait((tenant, sample))
        except asyncio.QueueFull:
            self._counted.labels("dropped").inc()

    def start(self) -> None:
        """Begins to keep pairs."""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="cache-samples")

    async def stop(self) -> None:
        """Ends it; pairs that are not kept yet are dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            tenant, sample = await self._queue.get()
            try:
                kept = await self._judged.offer(tenant, sample, most=self._most)
            except Error as error:
                log.info("cache.sample_not_kept", reason=error.reason)
                kept = False
            self._counted.labels("kept" if kept else "dropped").inc()

    async def answer(self, tenant: str, entry_id: str) -> str:
        """Returns the answer of an entry; empty when it is gone."""
        entry = await self.entry(tenant, entry_id)
        return "" if entry is None else entry.answer

    async def entry(self, tenant: str, entry_id: str) -> pb.CacheEntry | None:
        """Returns an entry by its id; None when it is gone."""
        try:
            address = await self._entries.find(tenant, entry_id)
            stored = (await self._entries.read(address)).stored if address else None
        except CacheDown:
            return None
        return stored.entry if stored is not None and stored.entry.entry_id == entry_id else None
