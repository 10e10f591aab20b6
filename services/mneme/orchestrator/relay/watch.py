"""Watching runs: stored events first, then live ones, to the terminal event.

A run that this process works on publishes its events as soon as they are stored, and token deltas as they arrive. A
run of another process is relayed from there, and read from the store when that process is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from mneme.orchestrator import events
from mneme.orchestrator.records import Run
from mneme.orchestrator.relay.relaying import Relay
from mneme.orchestrator.store import runs
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Database

_QUEUE_EVENTS = 1024
"""Events that a slow watcher may lag behind before token deltas are dropped and the rest is read from the store."""
_LIVE_POLL_SECONDS = 2.0
_REMOTE_POLL_SECONDS = (0.05, 1.0)
"""First and longest wait before a run that is not worked on here is looked at again."""


class Subscription:
    """One watcher's queue of live events."""

    def __init__(self, *, tokens: bool) -> None:
        self.tokens = tokens
        self._waiting: deque[pb.RunEvent] = deque()
        self._filled = asyncio.Event()

    def put(self, event: pb.RunEvent) -> None:
        """Adds an event. A piece of text joins the one before it, where that still waits; a full queue drops the event,
        and the gap in the sequence makes the watcher read the store.
        """
        if self._waiting and _continues(event, self._waiting[-1]):
            self._waiting[-1] = _joined(self._waiting[-1], event)
        elif len(self._waiting) < _QUEUE_EVENTS:
            self._waiting.append(event)
            self._filled.set()

    async def get(self, seconds: float) -> pb.RunEvent | None:
        """The next event; None when none came in time."""
        if not self._waiting:
            self._filled.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._filled.wait()
            except TimeoutError:
                return None
        return self._waiting.popleft()


def _continues(event: pb.RunEvent, before: pb.RunEvent) -> bool:
    """True for a token delta that follows right on another one of its step and attempt."""
    if not (event.HasField("token_delta") and before.HasField("token_delta")):
        return False
    new, old = event.token_delta, before.token_delta
    same = (new.step_id, new.attempt) == (old.step_id, old.attempt)
    return same and new.offset == old.offset + len(old.text)


def _joined(before: pb.RunEvent, event: pb.RunEvent) -> pb.RunEvent:
    """Two token deltas as one. A copy: other watchers have the same events in their queues."""
    joined = pb.RunEvent()
    joined.CopyFrom(before)
    joined.token_delta.text += event.token_delta.text
    return joined


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

    def __init__(self, database: Database, relay: Relay) -> None:
        self._database = database
        self._relay = relay

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
        if after < events.QUEUED_SEQUENCE:
            yield events.queued(run)
        seen = max(after, events.QUEUED_SEQUENCE)
        async with aclosing(self._all(tenant, run, subscription, local=local, after=seen)) as found:
            async for event in found:
                kind = events.kind_of(event)
                if include_inner or kind not in events.INNER:
                    yield event
                if kind in events.TERMINAL:
                    return

    async def _all(
        self, tenant: str, run: Run, subscription: Subscription, *, local: bool, after: int
    ) -> AsyncGenerator[pb.RunEvent, None]:
        """Every event after a sequence, each once, until the run has ended and all were shown."""
        last, must_read = after, not local
        wait, longest = _REMOTE_POLL_SECONDS
        while True:
            if must_read:
                stored, now = await self._stored(tenant, run.run_id, last)
                if now is None:
                    # Deleted with its conversation while it was watched: also this is an end, not a cut.
                    yield events.stamped(run, events.deleted(run.run_id), last + 1)
                    return
                for event in stored:
                    last = event.sequence
                    yield event
                if now.ended and not stored:
                    return
                if now.state == pb.RUN_STATE_RUNNING:
                    async with aclosing(self._relay.events(now, last, tokens=subscription.tokens)) as relayed:
                        async for event in relayed:
                            last = event.sequence or last
                            yield event
            live = await subscription.get(_LIVE_POLL_SECONDS if local else wait)
            wait = min(2 * wait, longest)
            must_read = live is None or live.sequence > last + 1
            local = local or live is not None
            if live is not None and not must_read and not 0 < live.sequence <= last:
                last = live.sequence or last
                yield live

    async def _stored(self, tenant: str, run_id: str, after: int) -> tuple[list[pb.RunEvent], Run | None]:
        """The next stored events, and the run as it stood before they were read; None when it is gone."""
        async with self._database.tenant(tenant) as tx:
            run = await runs.get(tx, tenant, run_id)
            if run is None:
                return [], None
            payloads = await runs.events_after(tx, tenant, run_id, after) if run.last_sequence > after else []
        return [pb.RunEvent.FromString(payload) for payload in payloads], run
