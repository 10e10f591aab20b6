"""Timers that go off: each becomes an event in its conversation's mailbox, once."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import structlog

from mneme.orchestrator import schedule
from mneme.orchestrator.records import Incoming, Timer
from mneme.orchestrator.store import mailbox
from mneme.orchestrator.store import timers as store
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.worker import Worker
from mneme.runtime import ids
from mneme.runtime.db import Connection, Database

_BATCH = 100

log = structlog.stdlib.get_logger("mneme.orchestrator.timers")


class Timers:
    """Looks for due timers."""

    def __init__(self, database: Database, worker: Worker) -> None:
        self._database = database
        self._worker = worker

    async def fire(self) -> None:
        """Turns every due timer into an event. A time missed while nothing ran is made up for once."""
        async with self._database.work() as tx:
            due = await store.due(tx, _BATCH)
        for head in due:
            async with self._database.tenant(head.tenant) as tx:
                timer = await store.lock_due(tx, head.tenant, head.timer_id)
                if timer is not None:
                    await self._fire(tx, head.tenant, timer)
        if due:
            self._worker.wake()

    async def _fire(self, tx: Connection, tenant: str, timer: Timer) -> None:
        try:
            await mailbox.accept(tx, tenant, _event(timer), worker_id="", take=False)
        except (mailbox.UnknownConversationError, mailbox.ClosedConversationError):
            log.info("timer_without_conversation", timer_id=timer.timer_id)
            await store.delete(tx, tenant, timer.timer_id)
            return
        if timer.cron:
            following = schedule.next_after(timer.cron, timer.time_zone, datetime.now(UTC))
            await store.rearm(tx, tenant, timer.timer_id, following)
        else:
            await store.delete(tx, tenant, timer.timer_id)


def _event(timer: Timer) -> Incoming:
    """The event of a timer's present time; its request_id makes a second one for the same time impossible."""
    return Incoming(
        event_id=ids.new("event"),
        run_id=ids.new("run"),
        request_id=ids.derived_uuid(timer.timer_id, timer.next_time.isoformat()),
        request_sha256=hashlib.sha256(timer.text.encode()).digest(),
        conversation_id=timer.conversation_id,
        kind=pb.EVENT_KIND_TIMED,
        text=timer.text,
        actor=timer.actor,
    )
