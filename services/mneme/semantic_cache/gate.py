"""Which strata are closed, as PostgreSQL says; what cannot be read counts as closed."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from mneme.runtime.errors import Error
from mneme.runtime.metrics import Metrics
from mneme.semantic_cache.store import JudgedStore

_MOST_TENANTS = 10_000
# A state this many intervals old is no longer believed.
_STALE_INTERVALS = 5
_READ_SECONDS = 1.0

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _State:
    closed: frozenset[str] | None = None
    read_at: float = float("-inf")
    task: asyncio.Task[None] | None = None


class Gate:
    """The closed strata of each tenant, a few seconds old at most."""

    def __init__(self, judged: JudgedStore, metrics: Metrics, *, interval: float, patience: float) -> None:
        """Args:
        judged: Where the states are.
        metrics: Counts what closes and opens.
        interval: Age in seconds at which a state is read again.
        patience: Longest wait of a look-up for a state, in seconds.
        """
        self._judged = judged
        self._changes = metrics.cache_stratum_changes
        self._interval = interval
        self._patience = patience
        self._states: OrderedDict[str, _State] = OrderedDict()

    async def closed(self, tenant: str) -> frozenset[str] | None:
        """Returns the closed strata of a tenant; None when that cannot be told, which closes all."""
        state = self._of(tenant)
        age = time.monotonic() - state.read_at
        if age > self._interval and state.task is None:
            # Not in the caller's context: the state serves others when the caller's deadline is past.
            state.task = asyncio.get_running_loop().create_task(
                self._read(tenant, state), name="cache-gate", context=contextvars.Context()
            )
        if age > self._interval * _STALE_INTERVALS and state.task is not None:
            await asyncio.wait([state.task], timeout=self._patience)
        fresh = time.monotonic() - state.read_at <= self._interval * _STALE_INTERVALS
        return state.closed if fresh else None

    def learn(self, tenant: str, stratum: str, *, closed: bool, changed: bool) -> None:
        """Takes over what a verdict came to, so that this process acts on it at once."""
        if changed:
            self._changes.labels("closed" if closed else "opened").inc()
            log.warning("cache.stratum_changed", tenant=tenant, stratum=stratum, closed=closed)
        state = self._of(tenant)
        if state.closed is not None:
            state.closed = state.closed | {stratum} if closed else state.closed - {stratum}

    async def close(self) -> None:
        """Ends reading."""
        tasks = [state.task for state in self._states.values() if state.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _of(self, tenant: str) -> _State:
        state = self._states.setdefault(tenant, _State())
        self._states.move_to_end(tenant)
        if len(self._states) > _MOST_TENANTS:
            self._states.popitem(last=False)
        return state

    async def _read(self, tenant: str, state: _State) -> None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                state.closed = await self._judged.closed_strata(tenant)
            state.read_at = time.monotonic()
        except (Error, TimeoutError) as error:
            log.info("cache.strata_unread", error=type(error).__name__)
        finally:
            state.task = None
