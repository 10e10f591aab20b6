"""Operations: work that crosses services, one step after the other, until all are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from mneme.orchestrator.records import Operation, OperationStep
from mneme.orchestrator.store.rows import operation_of
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Connection

_INSERT = """
WITH head AS (
    INSERT INTO orchestrator.operation_head (operation_id, tenant_id, due)
    VALUES (%(operation_id)s, %(tenant)s, now() + %(hold)s)
)
INSERT INTO orchestrator.operation (tenant_id, operation_id, kind, state, subject, user_id, actor, input, steps)
VALUES (%(tenant)s, %(operation_id)s, %(kind)s, %(running)s, %(subject)s, %(user_id)s, %(actor)s, %(input)s,
        %(steps)s)
RETURNING *
"""

_GET = "SELECT * FROM orchestrator.operation WHERE tenant_id = %(tenant)s AND operation_id = %(operation_id)s"

_LIST = """
SELECT * FROM orchestrator.operation
WHERE tenant_id = %(tenant)s AND (%(state)s = 0 OR state = %(state)s) AND %(bound_user)s IN ('', user_id)
  AND (%(before)s = '' OR operation_id < %(before)s)
ORDER BY operation_id DESC LIMIT %(limit)s
"""

_RECORD = """
UPDATE orchestrator.operation
SET steps = %(steps)s, state = %(state)s, failure = %(failure)s,
    input = CASE WHEN %(state)s = %(running)s THEN input ELSE '' END,
    end_time = CASE WHEN %(state)s = %(running)s THEN NULL ELSE now() END
WHERE tenant_id = %(tenant)s AND operation_id = %(operation_id)s
RETURNING *
"""

_POSTPONE = """
UPDATE orchestrator.operation_head SET due = now() + %(delay)s
WHERE operation_id = %(operation_id)s AND tenant_id = %(tenant)s
"""

_CLOSE = "DELETE FROM orchestrator.operation_head WHERE operation_id = %(operation_id)s AND tenant_id = %(tenant)s"

_CLAIM = """
UPDATE orchestrator.operation_head AS h SET due = now() + %(hold)s
FROM (SELECT operation_id FROM orchestrator.operation_head WHERE due <= now()
      ORDER BY due LIMIT %(limit)s FOR UPDATE SKIP LOCKED) AS open
WHERE h.operation_id = open.operation_id
RETURNING h.operation_id, h.tenant_id
"""


@dataclass(frozen=True, slots=True)
class OpenOperation:
    """The head of an operation to work on."""

    operation_id: str
    tenant: str


async def insert(tx: Connection, tenant: str, operation: Operation, *, hold: timedelta) -> Operation:
    """Stores an operation; until `hold` is over it belongs to this process alone."""
    parameters = {
        "tenant": tenant,
        "operation_id": operation.operation_id,
        "kind": operation.kind,
        "running": pb.OPERATION_STATE_RUNNING,
        "subject": operation.subject,
        "user_id": operation.user_id,
        "actor": operation.actor,
        "input": operation.input,
        "steps": _steps(operation.steps),
        "hold": hold,
    }
    row = await (await tx.execute(_INSERT, parameters)).fetchone()
    assert row is not None
    return operation_of(row)


async def get(tx: Connection, tenant: str, operation_id: str) -> Operation | None:
    """An operation."""
    row = await (await tx.execute(_GET, {"tenant": tenant, "operation_id": operation_id})).fetchone()
    return operation_of(row) if row else None


async def list_operations(
    tx: Connection, tenant: str, *, bound_user: str, state: int, before: str, limit: int
) -> list[Operation]:
    """Operations, newest first, older than the one named `before` (empty: from the newest)."""
    parameters = {
        "tenant": tenant,
        "bound_user": bound_user,
        "state": state,
        "before": before,
        "limit": limit,
    }
    return [operation_of(row) for row in await (await tx.execute(_LIST, parameters)).fetchall()]


async def record(
    tx: Connection,
    tenant: str,
    operation_id: str,
    steps: Sequence[OperationStep],
    state: pb.OperationState.ValueType,
    failure: bytes | None = None,
) -> Operation:
    """Notes how far an operation is; one that has ended is worked on no more, and keeps no request."""
    parameters: dict[str, Any] = {
        "tenant": tenant,
        "operation_id": operation_id,
        "steps": _steps(steps),
        "state": state,
        "failure": failure,
        "running": pb.OPERATION_STATE_RUNNING,
    }
    row = await (await tx.execute(_RECORD, parameters)).fetchone()
    assert row is not None
    if state != pb.OPERATION_STATE_RUNNING:
        await tx.execute(_CLOSE, parameters)
    return operation_of(row)


async def postpone(tx: Connection, tenant: str, operation_id: str, delay: timedelta) -> None:
    """Sets when an operation is tried again."""
    await tx.execute(_POSTPONE, {"tenant": tenant, "operation_id": operation_id, "delay": delay})


async def claim(tx: Connection, *, limit: int, hold: timedelta) -> list[OpenOperation]:
    """Takes operations whose time has come; until `hold` is over they belong to this process alone."""
    rows = await (await tx.execute(_CLAIM, {"limit": limit, "hold": hold})).fetchall()
    return [OpenOperation(row["operation_id"], row["tenant_id"]) for row in rows]


def _steps(steps: Sequence[OperationStep]) -> Jsonb:
    return Jsonb(
        [{"name": s.name, "done": s.done, "attempts": s.attempts, "counts": [list(c) for c in s.counts]} for s in steps]
    )
