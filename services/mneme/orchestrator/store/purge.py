"""Removal of an agent, a conversation or a user from the orchestrator's tables, and the recount that proves it."""

from __future__ import annotations

from typing import Any, Literal

from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.runtime.db import Connection

Kind = Literal["agent", "conversation", "user"]

_BURY = """
INSERT INTO orchestrator.tombstone (tenant_id, kind, subject_id, operation_id)
VALUES (%(tenant)s, %(kind)s, %(subject)s, %(operation_id)s)
ON CONFLICT (tenant_id, kind, subject_id) DO NOTHING
"""

_BURIED = """
SELECT FROM orchestrator.tombstone WHERE tenant_id = %(tenant)s AND kind = %(kind)s AND subject_id = %(subject)s
"""

_CONVERSATIONS = "SELECT conversation_id FROM orchestrator.conversation WHERE tenant_id = %(tenant)s AND {own}"

_CLOSE = "UPDATE orchestrator.conversation SET deleting = true WHERE tenant_id = %(tenant)s AND {own} AND NOT deleting"

# Kept responses hold what was asked for, and are found by the ids in their bytes. Those to a deletion hold nothing but
# ids, and make its retry safe.
_MENTIONED = """
tenant_id = %(tenant)s AND position('.Delete' IN method) = 0 AND EXISTS (
    SELECT FROM unnest(%(mentions)s::text[]) AS id WHERE position(convert_to(id, 'UTF8') IN response) > 0)
"""

_EDITS = """
SELECT e.run_id, e.sequence, e.payload FROM orchestrator.run_event AS e
JOIN orchestrator.run AS r ON r.tenant_id = e.tenant_id AND r.run_id = e.run_id
WHERE e.tenant_id = %(tenant)s AND (%(agents)s::text[] IS NULL OR r.agent_id = ANY(%(agents)s))
  AND position(convert_to(%(block_id)s, 'UTF8') IN e.payload) > 0
"""

_REWRITE_EVENT = """
UPDATE orchestrator.run_event SET payload = %(payload)s
WHERE tenant_id = %(tenant)s AND run_id = %(run_id)s AND sequence = %(sequence)s
"""

_WORK_TABLES = ("conversation_lease", "mailbox", "timer_head")

# In the order of the list: what refers to something goes before it.
_TABLES = (
    "run_event",
    "call_result",
    "step",
    "dead_letter",
    "event",
    "run",
    "timer",
    "request",
    "user_activity",
    "side_usage",
    "conversation",
    "agent",
)

# What a subject has no rows of its own in. A user's agents go one by one, before this.
_NOT_OF: dict[Kind, tuple[str, ...]] = {
    "agent": (),
    "conversation": ("user_activity", "side_usage", "agent"),
    "user": ("side_usage", "agent"),
}


async def bury(tx: Connection, tenant: str, kind: Kind, subject: str, operation_id: str) -> None:
    """Writes the tombstone that refuses late writes, and lets the subject's conversations take no more events."""
    parameters = {"tenant": tenant, "kind": kind, "subject": subject, "operation_id": operation_id}
    await tx.execute(_BURY, parameters)
    await tx.execute(_CLOSE.format(own=_own(kind)), parameters)


async def is_buried(tx: Connection, tenant: str, kind: Kind, subject: str) -> bool:
    """Whether a subject was deleted or is being deleted."""
    cursor = await tx.execute(_BURIED, {"tenant": tenant, "kind": kind, "subject": subject})
    return cursor.rowcount > 0


async def purge(tx: Connection, tenant: str, kind: Kind, subject: str) -> list[tuple[str, int, int]]:
    """Removes everything of a buried subject; returns (table, removed, remaining) by a recount.

    The leases go first: a run that still goes on loses its fence, so it can write nothing after this.
    """
    parameters: dict[str, Any] = {"tenant": tenant, "subject": subject}
    conversations = _CONVERSATIONS.format(own=_own(kind))
    rows = await (await tx.execute(f"{conversations} ORDER BY 1", parameters)).fetchall()
    parameters["conversations"] = [row["conversation_id"] for row in rows]
    # A user's id may be as short as `7`, so only the ids of the user's conversations are looked for.
    parameters["mentions"] = parameters["conversations"] + ([] if kind == "user" else [subject])
    for table in _WORK_TABLES:
        await tx.execute(
            f"DELETE FROM orchestrator.{table} WHERE tenant_id = %(tenant)s"  # noqa: S608
            " AND conversation_id = ANY(%(conversations)s)",
            parameters,
        )
    counts = []
    for table in _TABLES:
        if table in _NOT_OF[kind]:
            continue
        where = _rows(table, kind)
        removed = await tx.execute(f"DELETE FROM orchestrator.{table} WHERE {where}", parameters)  # noqa: S608
        left = await (
            await tx.execute(f"SELECT count(*) AS left FROM orchestrator.{table} WHERE {where}", parameters)  # noqa: S608
        ).fetchone()
        counts.append((f"orchestrator.{table}", removed.rowcount, left["left"] if left else 0))
    return counts


async def strip_edits(tx: Connection, tenant: str, block_id: str, agents: list[str] | None) -> int:
    """Takes the texts out of a block's edits in runs of these agents (None: all); returns how many had some."""
    found = await (await tx.execute(_EDITS, {"tenant": tenant, "block_id": block_id, "agents": agents})).fetchall()
    stripped = 0
    for row in found:
        event = pb.RunEvent.FromString(row["payload"])
        edit = event.memory_edit
        if edit.resource_id != block_id or not (edit.before or edit.after):
            continue
        edit.ClearField("before")
        edit.ClearField("after")
        place = {"tenant": tenant, "run_id": row["run_id"], "sequence": row["sequence"]}
        await tx.execute(_REWRITE_EVENT, {**place, "payload": event.SerializeToString()})
        stripped += 1
    return stripped


def _own(kind: Kind) -> str:
    return f"{kind}_id = %(subject)s"


def _rows(table: str, kind: Kind) -> str:
    """The condition on a table's rows that belong to the subject."""
    if table == "request":
        return _MENTIONED
    where = f"tenant_id = %(tenant)s AND {_own(kind)}"
    if table in ("run_event", "call_result"):
        return f"tenant_id = %(tenant)s AND run_id IN (SELECT run_id FROM orchestrator.run WHERE {where})"  # noqa: S608
    return where
