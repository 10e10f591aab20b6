"""Watching runs: stored events first, then live ones, to the terminal event.

A run that this process works on publishes its events as soon as they are stored, and token deltas as they arrive. A
run of another process is read from the store: its deltas do not get here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager

from mneme.orchestrator import events
from mneme.orchestrator.records import Run
from mneme.orchestrator.store import runs
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Database
from mneme.runtime.errors import not_found

_QUEUE_EVENTS = 1024
"""Events that a slow watcher may lag behind before token deltas are dropped and the rest is read from the store."""
_LIVE_POLL_SECONDS = 2.0
_REMOTE_POLL_SECONDS = (0.05, 1.0)
"""First and longest wait before a run that is not worked on here is looked at again."""


class Subscription:
    """One watcher's queue of live events."""

    def __init__(self, *, tokens: bool) -> None:
        self.tokens = tokens
        self._queue: asyncio.Queue[pb.RunEvent] = asyncio.Queue(_QUEUE_EVENTS)

    def put(self, event: pb.RunEvent) -> None:
        """Adds an event; a full queue drops it, and the gap in the sequence makes the watcher read the store."""
        if not self._queue.full():
            self._queue.put_nowait(event)

    async def get(self, seconds: float) -> pb.RunEvent | None:
        """The next event; None when none came in time."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(seconds):
                return await self._queue.get()
        except TimeoutError:
            return None


class Hub:
    """Hands the events of this process's runs to their watchers."""

    def __init__(self) -> None:
        self._watchers: dict[str, list[Subscription]] = {}

    @contextmanager
    def subscribed(self, run_id: str, *, tokens: bool) -> Iterator[Subscription]:
        """A subscription for as long as the block runs."""
        subscription = Subscription(tokens=tokens)
        self._watchers.setdefault(run_id, []).append(subscription)
        try:
            yield subscription
        finally:
            watchers = self._watchers[run_id]
            watchers.remove(subscription)
            if not watchers:
                del self._watchers[run_id]

    def wants_tokens(self, run_id: str) -> bool:
        """True when somebody watches the run's token deltas."""
        return any(watcher.tokens for watcher in self._watchers.get(run_id, ()))

    def publish(self, run_id: str, published: Sequence[pb.RunEvent]) -> None:
        """Hands stored events to all watchers of a run."""
        for watcher in self._watchers.get(run_id, ()):
            for event in published:
                watcher.put(event)

    def publish_delta(self, run_id: str, delta: pb.RunEvent) -> None:
        """Hands a token delta to those who want them."""
        for watcher in self._watchers.get(run_id, ()):
            if watcher.tokens:
                watcher.put(delta)


class Watcher:
    """Streams runs to callers."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self._hub = hub

    async def follow(
        self,
        tenant: str,
        run: Run,
        subscription: Subscription,
        *,
        local: bool,
        after: int = 0,
        include_inner: bool = False,
    ) -> AsyncGenerator[pb.RunEvent, None]:
        """Events of a run after a sequence, to its terminal event.

        Args:
            run: As it stood after the subscription began.
            local: True when this process works on it and nothing is stored yet that was not published.
        """
        last = after
        if after < events.QUEUED_SEQUENCE:
            yield events.queued(run)
            last = events.QUEUED_SEQUENCE
        must_read = not local
        wait, longest = _REMOTE_POLL_SECONDS
        while True:
            stored, ended = await self._stored(tenant, run.run_id, last) if must_read else ([], False)
            for event in stored:
                last = event.sequence
                if include_inner or events.kind_of(event) not in events.INNER:
                    yield event
                if events.kind_of(event) in events.TERMINAL:
                    return
            if ended and not stored:
                return
            live = await subscription.get(_LIVE_POLL_SECONDS if local else wait)
            wait = min(2 * wait, longest)
            must_read = live is None or live.sequence > last + 1
            local = local or live is not None
            if live is None or must_read or 0 < live.sequence <= last:
                continue
            last = live.sequence or last
            if include_inner or events.kind_of(live) not in events.INNER:
                yield live
            if events.kind_of(live) in events.TERMINAL:
                return

    async def _stored(self, tenant: str, run_id: str, after: int) -> tuple[list[pb.RunEvent], bool]:
        """The next stored events, and whether the run had ended before they were read."""
        async with self._database.tenant(tenant) as tx:
            run = await runs.get(tx, tenant, run_id)
            if run is None:
                raise not_found(run_id)
            payloads = await runs.events_after(tx, tenant, run_id, after) if run.last_sequence > after else []
        return [pb.RunEvent.FromString(payload) for payload in payloads], run.ended
