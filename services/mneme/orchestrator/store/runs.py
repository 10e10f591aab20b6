"""Runs and their events as readers see them, cancelling, dead letters, and usage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mneme.orchestrator.records import Bill, DeadLetter, Run, UsageRow
from mneme.orchestrator.store.mailbox import CHANNEL
from mneme.orchestrator.store.rows import BILL_COLUMNS, Row, bill_of, run_of
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Connection

_GET = """
SELECT * FROM orchestrator.run
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND %(bound_user)s IN ('', user_id)
"""

_LIST = """
SELECT * FROM orchestrator.run
WHERE tenant_id = %(tenant)s AND %(bound_user)s IN ('', user_id)
  AND (%(agent_id)s = '' OR agent_id = %(agent_id)s)
  AND (%(conversation_id)s = '' OR conversation_id = %(conversation_id)s)
  AND (cardinality(%(states)s::smallint[]) = 0 OR state = ANY (%(states)s::smallint[]))
  AND (%(before)s = '' OR run_id < %(before)s)
ORDER BY run_id DESC LIMIT %(limit)s
"""

_EVENTS = """
SELECT sequence, payload FROM orchestrator.run_event
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND sequence > %(after)s
ORDER BY sequence LIMIT %(limit)s
"""

_LOCK = """
SELECT r.*, l.run_id AS active_run_id, l.waiting_until IS NOT NULL AS waiting
FROM orchestrator.run AS r
JOIN orchestrator.conversation_lease AS l ON l.conversation_id = r.conversation_id
WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run_id)s AND %(bound_user)s IN ('', r.user_id)
FOR UPDATE OF l
"""

_ASK_TO_CANCEL = """
UPDATE orchestrator.run SET cancel_requested = true
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s
RETURNING *
"""

_END = """
WITH delivered AS (
    DELETE FROM orchestrator.mailbox WHERE conversation_id = %(conversation_id)s AND run_id = %(run_id)s
), freed AS (
    UPDATE orchestrator.conversation_lease SET run_id = '', waiting_until = NULL, update_time = now()
    WHERE conversation_id = %(conversation_id)s AND run_id = %(run_id)s
), added AS (
    INSERT INTO orchestrator.run_event (tenant_id, run_id, sequence, payload)
    VALUES (%(tenant)s, %(run_id)s, %(sequence)s, %(payload)s)
), hint AS (SELECT pg_notify(%(channel)s, ''))
UPDATE orchestrator.run
SET state = %(state)s, stop_reason = %(stop_reason)s, failure = %(failure)s, end_time = now(),
    last_sequence = %(sequence)s
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND (SELECT count(*) FROM hint) > 0
RETURNING *
"""

# Without a holder, the conversation is free to be taken like that of a dead process.
_RESUME = """
WITH freed AS (
    UPDATE orchestrator.conversation_lease SET waiting_until = NULL, worker_id = '', update_time = now()
    WHERE conversation_id = %(conversation_id)s AND run_id = %(run_id)s
), hint AS (SELECT pg_notify(%(channel)s, ''))
UPDATE orchestrator.run SET state = %(queued)s, waiting_call = ''
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND (SELECT count(*) FROM hint) > 0
RETURNING *
"""

_LIST_DEAD = """
SELECT * FROM orchestrator.dead_letter
WHERE tenant_id = %(tenant)s AND %(bound_user)s IN ('', user_id)
  AND (%(agent_id)s = '' OR agent_id = %(agent_id)s)
  AND (%(before_time)s::timestamptz IS NULL OR (create_time, event_id) < (%(before_time)s, %(before)s))
ORDER BY create_time DESC, event_id DESC LIMIT %(limit)s
"""

_GET_DEAD = """
SELECT r.* FROM orchestrator.dead_letter AS d
JOIN orchestrator.run AS r ON r.tenant_id = d.tenant_id AND r.run_id = d.run_id
WHERE d.tenant_id = %(tenant)s AND d.event_id = %(event_id)s AND %(bound_user)s IN ('', d.user_id)
FOR UPDATE OF d
"""

# The run goes on where it failed: its last event, the failure, becomes the news that it was begun again, so that
# exactly one terminal event ends a run, at its end.
_RETRY = """
WITH removed AS (
    DELETE FROM orchestrator.dead_letter WHERE tenant_id = %(tenant)s AND event_id = %(event_id)s
), queued AS (
    INSERT INTO orchestrator.mailbox (event_id, tenant_id, conversation_id, run_id, priority)
    VALUES (%(event_id)s, %(tenant)s, %(conversation_id)s, %(run_id)s, %(priority)s)
), nudge AS (
    UPDATE orchestrator.conversation_lease SET nudged = true WHERE conversation_id = %(conversation_id)s
), renamed AS (
    UPDATE orchestrator.run_event SET payload = %(payload)s
    WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND sequence = %(sequence)s
), hint AS (SELECT pg_notify(%(channel)s, ''))
UPDATE orchestrator.run
SET state = %(queued)s, stop_reason = 0, failure = NULL, end_time = NULL, cancel_requested = false, begun_count = 0
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND (SELECT count(*) FROM hint) > 0
RETURNING *
"""

# What is nobody's in particular is counted by day alone, and so belongs to a span that touches its day.
_USAGE = f"""
SELECT to_char(create_time AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, model, '' AS purpose, count(*) AS model_calls,
       {", ".join(f"sum({column})::bigint AS {column}" for column in BILL_COLUMNS.split(", "))},
       sum(cost_micro_usd)::bigint AS cost_micro_usd
FROM orchestrator.step
WHERE tenant_id = %(tenant)s AND (%(agent_id)s = '' OR agent_id = %(agent_id)s)
  AND (%(user_id)s = '' OR user_id = %(user_id)s)
  AND create_time >= coalesce(%(start)s, '-infinity'::timestamptz)
  AND create_time < coalesce(%(end)s, 'infinity'::timestamptz)
GROUP BY 1, 2
UNION ALL
SELECT to_char(day, 'YYYY-MM-DD'), model, purpose, sum(model_calls)::bigint,
       {", ".join(f"sum({column})::bigint" for column in BILL_COLUMNS.split(", "))}, sum(cost_micro_usd)::bigint
FROM orchestrator.side_usage
WHERE tenant_id = %(tenant)s AND (%(agent_id)s = '' OR agent_id = %(agent_id)s) AND %(user_id)s = ''
  AND day >= (coalesce(%(start)s, '-infinity'::timestamptz) AT TIME ZONE 'UTC')::date
  AND day <= (coalesce(%(end)s, 'infinity'::timestamptz) AT TIME ZONE 'UTC')::date
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""  # noqa: S608


async def get(tx: Connection, tenant: str, run_id: str, bound_user: str = "") -> Run | None:
    """A run that the caller may see."""
    parameters = {"tenant": tenant, "run_id": run_id, "bound_user": bound_user}
    row = await (await tx.execute(_GET, parameters)).fetchone()
    return run_of(row) if row else None


async def list_runs(
    tx: Connection,
    tenant: str,
    *,
    bound_user: str,
    agent_id: str,
    conversation_id: str,
    states: Sequence[int],
    before: str,
    limit: int,
) -> list[Run]:
    """Runs, newest first, older than the one named `before` (empty: from the newest)."""
    parameters = {
        "tenant": tenant,
        "bound_user": bound_user,
        "agent_id": agent_id,
        "conversation_id": conversation_id,
        "states": list(states),
        "before": before,
        "limit": limit,
    }
    return [run_of(row) for row in await (await tx.execute(_LIST, parameters)).fetchall()]


async def events_after(tx: Connection, tenant: str, run_id: str, after: int, limit: int = 500) -> list[bytes]:
    """Stored events of a run after a sequence, in order, as the contract's bytes."""
    parameters = {"tenant": tenant, "run_id": run_id, "after": after, "limit": limit}
    return [bytes(row["payload"]) for row in await (await tx.execute(_EVENTS, parameters)).fetchall()]


async def lock(tx: Connection, tenant: str, run_id: str, bound_user: str) -> tuple[Run, bool] | None:
    """A run, and whether a worker is busy with it; until the transaction's end nobody takes or ends it."""
    parameters = {"tenant": tenant, "run_id": run_id, "bound_user": bound_user}
    if await (await tx.execute(_LOCK, parameters)).fetchone() is None:
        return None
    # The first statement may have waited for the lock with an old view of the run.
    row = await (await tx.execute(_LOCK, parameters)).fetchone()
    assert row is not None
    return run_of(row), row["active_run_id"] == run_id and not row["waiting"]


async def ask_to_cancel(tx: Connection, tenant: str, run_id: str) -> Run:
    """Asks the worker of a run to stop after its current step."""
    row = await (await tx.execute(_ASK_TO_CANCEL, {"tenant": tenant, "run_id": run_id})).fetchone()
    assert row is not None
    return run_of(row)


async def resume(tx: Connection, tenant: str, run: Run) -> Run:
    """Lets a locked run that waits for its caller go on."""
    parameters = {
        "tenant": tenant,
        "run_id": run.run_id,
        "conversation_id": run.conversation_id,
        "queued": pb.RUN_STATE_QUEUED,
        "channel": CHANNEL,
    }
    row = await (await tx.execute(_RESUME, parameters)).fetchone()
    assert row is not None
    return run_of(row)


async def end_idle(
    tx: Connection,
    tenant: str,
    run: Run,
    *,
    state: pb.RunState.ValueType,
    stop_reason: pb.StopReason.ValueType,
    failure: bytes | None,
    event: bytes,
) -> Run:
    """Ends a locked run that no worker is busy with: a queued or waiting one."""
    parameters = {
        "tenant": tenant,
        "run_id": run.run_id,
        "conversation_id": run.conversation_id,
        "sequence": run.last_sequence + 1,
        "payload": event,
        "state": state,
        "stop_reason": stop_reason,
        "failure": failure,
        "channel": CHANNEL,
    }
    row = await (await tx.execute(_END, parameters)).fetchone()
    assert row is not None
    return run_of(row)


async def list_dead_letters(
    tx: Connection,
    tenant: str,
    *,
    bound_user: str,
    agent_id: str,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[DeadLetter]:
    """Dead letters, newest first."""
    parameters = {
        "tenant": tenant,
        "bound_user": bound_user,
        "agent_id": agent_id,
        "before_time": before[0] if before else None,
        "before": before[1] if before else "",
        "limit": limit,
    }
    return [_dead_letter(row) for row in await (await tx.execute(_LIST_DEAD, parameters)).fetchall()]


async def dead_run(tx: Connection, tenant: str, event_id: str, bound_user: str) -> Run | None:
    """The run of a dead letter, which stays locked until the transaction's end."""
    parameters = {"tenant": tenant, "event_id": event_id, "bound_user": bound_user}
    row = await (await tx.execute(_GET_DEAD, parameters)).fetchone()
    return run_of(row) if row else None


async def retry(tx: Connection, tenant: str, run: Run, *, priority: int, event: bytes) -> Run:
    """Puts a dead event back into its mailbox, at the end of its class."""
    parameters = {
        "tenant": tenant,
        "event_id": run.event_id,
        "run_id": run.run_id,
        "conversation_id": run.conversation_id,
        "priority": priority,
        "sequence": run.last_sequence,
        "payload": event,
        "queued": pb.RUN_STATE_QUEUED,
        "channel": CHANNEL,
    }
    row = await (await tx.execute(_RETRY, parameters)).fetchone()
    assert row is not None
    return run_of(row)


async def usage(
    tx: Connection,
    tenant: str,
    *,
    agent_id: str,
    user_id: str,
    start: datetime | None,
    end: datetime | None,
) -> list[UsageRow]:
    """Tokens and cost by day, model and purpose."""
    parameters: dict[str, Any] = {
        "tenant": tenant,
        "agent_id": agent_id,
        "user_id": user_id,
        "start": start,
        "end": end,
    }
    rows = await (await tx.execute(_USAGE, parameters)).fetchall()
    return [UsageRow(row["day"], row["model"], bill_of(row), row["purpose"]) for row in rows]


def total(rows: Sequence[UsageRow]) -> Bill:
    """The sum of usage rows; zero for none."""
    return sum((row.bill for row in rows), Bill())


def _dead_letter(row: Row) -> DeadLetter:
    return DeadLetter(
        row["event_id"],
        row["run_id"],
        row["conversation_id"],
        row["kind"],
        bytes(row["failure"]),
        row["attempt_count"],
        row["create_time"],
    )
