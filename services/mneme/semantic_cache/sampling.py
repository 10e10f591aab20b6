"""Offers served pairs for judging, and judges them where a judge is configured, all off the hot path."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import structlog

from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics
from mneme.runtime.redis import CacheDown
from mneme.semantic_cache.judging import Judge
from mneme.semantic_cache.store import EntryStore, HitSample, JudgedStore
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

Verdict = Callable[[str, str, bool], Awaitable[object]]
"""Records a verdict: tenant, id of the sample, whether it was wrong."""

_WAITING = 256
_BATCH = 10
_HOLD_SECONDS = 60.0
_PAUSE_SECONDS = 1.0

log = structlog.stdlib.get_logger(__name__)


class Sampler:
    """Takes a part of the pairs; when more come than can be written, they are dropped."""

    def __init__(
        self, judged: JudgedStore, entries: EntryStore, metrics: Metrics, *, rate: float, most: int, judge: Judge | None
    ) -> None:
        """Args:
        judged: Where pairs wait.
        entries: Where their answers are.
        metrics: Counts them.
        rate: Part of the served pairs that is taken; those of a closed stratum are all taken, as they let it open.
        most: Pairs of one tenant that wait at most.
        judge: Judges them here; None leaves that to callers.
        """
        self._judged = judged
        self._entries = entries
        self._counted = metrics.cache_samples
        self._rate = rate
        self._most = most
        self._judge = judge
        self._queue: asyncio.Queue[tuple[str, HitSample]] = asyncio.Queue(_WAITING)
        self._tenants: set[str] = set()
        self._kept = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def wants(self, *, served: bool) -> bool:
        """Returns whether the next pair is to be offered."""
        return self._most > 0 and (not served or random.random() < self._rate)  # noqa: S311 - a sample, no secret

    def offer(self, tenant: str, sample: HitSample) -> None:
        """Keeps a pair soon, or drops it."""
        try:
            self._queue.put_nowait((tenant, sample))
        except asyncio.QueueFull:
            self._counted.labels("dropped").inc()

    def start(self, verdict: Verdict) -> None:
        """Begins to keep pairs, and to judge them."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(), name="cache-samples")]
        if self._judge is not None:
            self._tasks.append(loop.create_task(self._judge_all(self._judge, verdict), name="cache-judge"))

    async def stop(self) -> None:
        """Ends both."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._judge is not None:
            await self._judge.close()

    async def _keep(self) -> None:
        while True:
            tenant, sample = await self._queue.get()
            try:
                kept = await self._judged.offer(tenant, sample, most=self._most)
            except Error as error:
                log.info("cache.sample_not_kept", reason=error.reason)
                kept = False
            self._counted.labels("kept" if kept else "dropped").inc()
            if kept:
                self._tenants.add(tenant)
                self._kept.set()

    async def _judge_all(self, judge: Judge, verdict: Verdict) -> None:
        """Judges what this process kept. What it leaves behind waits for JudgeSample, or goes after a day."""
        while True:
            await self._kept.wait()
            self._kept.clear()
            for tenant in list(self._tenants):
                with contextlib.suppress(Error):
                    if not await self._judge_some(judge, verdict, tenant):
                        self._tenants.discard(tenant)
            if self._tenants:
                self._kept.set()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _judge_some(self, judge: Judge, verdict: Verdict, tenant: str) -> bool:
        """Whether there was anything to judge."""
        taken = await self._judged.take(tenant, limit=_BATCH, hold=_HOLD_SECONDS)
        for one in taken:
            sample = one.sample
            answer = await self.answer(tenant, sample.entry_id)
            fits = await judge.fits(sample.asked_question, sample.stored_question, answer)
            if fits is None:
                self._counted.labels("unclear").inc()
            else:
                await verdict(tenant, sample.sample_id, not fits)
        return bool(taken)

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
