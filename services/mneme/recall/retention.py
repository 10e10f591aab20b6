"""Deletes what is too old, in the background."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from mneme.recall.store import retention
from mneme.recall.store.retention import Due
from mneme.runtime import call, errors
from mneme.runtime.call import Call, Principal
from mneme.runtime.db import Database
from mneme.runtime.metrics import Metrics
from mneme.settings import RecallSettings

_AGENTS = 20
_LONGEST_POLL = 60.0

log = structlog.stdlib.get_logger("mneme.recall.retention")


class Keeper:
    """A task that holds the messages of each agent against the rules, once an interval.

    Which agents are due stands in the database: several replicas share them, and one that dies loses nothing, as what
    it left is found at the next look.
    """

    def __init__(self, database: Database, metrics: Metrics, settings: RecallSettings) -> None:
        self._database = database
        self._expired = metrics.memory_writes.labels("recall", "expire")
        self._settings = settings
        self._wake = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the task."""
        self._task = asyncio.create_task(self._run(), name="recall retention")

    def wake(self) -> None:
        """Says that a rule has changed."""
        self._wake.set()

    async def drain(self) -> None:
        """Lets the running batch finish and takes no more."""
        self._ending = True
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def stop(self) -> None:
        """Ends the task at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._ending:
            self._wake.clear()
            try:
                busy = await self._round()
            except Exception as error:  # noqa: BLE001 - a step runner: one broken round must not end all that follow
                log.warning("retention_failed", **errors.logged(error))
                busy = False
            if not busy:
                await self._sleep(min(self._settings.retention_interval, _LONGEST_POLL))

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return

    async def _round(self) -> bool:
        """Looks through the messages of some agents; returns whether any were due."""
        interval = timedelta(seconds=self._settings.retention_interval)
        async with self._database.work() as tx:
            due = await retention.claim(tx, days=self._settings.max_age_days, interval=interval, limit=_AGENTS)
        for one in due:
            with call.enter(Call(Principal(tenant=one.tenant, actor="recall retention", service="recall"))):
                await self._expire(one)
        return bool(due)

    async def _expire(self, due: Due) -> None:
        days, limit = self._settings.max_age_days, self._settings.retention_batch
        gone, last = 0, -1
        while last and not self._ending:
            async with self._database.tenant(due.tenant) as tx:
                last = await retention.expire(tx, due.agent_id, days=days, limit=limit)
            gone += last
            self._expired.inc(last)
        async with self._database.tenant(due.tenant) as tx:
            await retention.expire_summaries(tx, due.agent_id, days=days)
        if gone:
            log.info("messages_expired", tenant=due.tenant, agent_id=due.agent_id, messages=gone)
