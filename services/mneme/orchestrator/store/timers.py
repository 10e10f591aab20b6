"""Events that are due later: texts in a content table, times in a work table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mneme.orchestrator.records import Timer
from mneme.orchestrator.store.rows import timer_of
from mneme.runtime.db import Connection

_INSERT = """
WITH head AS (
    INSERT INTO orchestrator.timer_head (timer_id, tenant_id, conversation_id, due)
    VALUES (%(timer_id)s, %(tenant)s, %(conversation_id)s, %(next_time)s)
)
INSERT INTO orchestrator.timer
    (tenant_id, timer_id, agent_id, conversation_id, user_id, actor, text, cron, time_zone, next_time)
VALUES (%(tenant)s, %(timer_id)s, %(agent_id)s, %(conversation_id)s, %(user_id)s, %(actor)s, %(text)s, %(cron)s,
        %(time_zone)s, %(next_time)s)
RETURNING *
"""

_LIST = """
SELECT * FROM orchestrator.timer
WHERE tenant_id = %(tenant)s AND %(bound_user)s IN ('', user_id)
  AND (%(conversation_id)s = '' OR conversation_id = %(conversation_id)s)
  AND (%(after_time)s::timestamptz IS NULL OR (next_time, timer_id) > (%(after_time)s, %(after)s))
ORDER BY next_time, timer_id LIMIT %(limit)s
"""

_DELETE = """
WITH head AS (DELETE FROM orchestrator.timer_head WHERE timer_id = %(timer_id)s AND tenant_id = %(tenant)s)
DELETE FROM orchestrator.timer
WHERE tenant_id = %(tenant)s AND timer_id = %(timer_id)s AND %(bound_user)s IN ('', user_id)
RETURNING timer_id
"""

_DUE = "SELECT timer_id, tenant_id FROM orchestrator.timer_head WHERE due <= now() ORDER BY due LIMIT %(limit)s"

_LOCK_DUE = """
SELECT t.* FROM orchestrator.timer_head AS h
JOIN orchestrator.timer AS t ON t.tenant_id = h.tenant_id AND t.timer_id = h.timer_id
WHERE h.timer_id = %(timer_id)s AND h.tenant_id = %(tenant)s AND h.due <= now()
FOR UPDATE OF h SKIP LOCKED
"""

_REARM = """
WITH head AS (UPDATE orchestrator.timer_head SET due = %(next_time)s WHERE timer_id = %(timer_id)s)
UPDATE orchestrator.timer SET last_time = next_time, next_time = %(next_time)s
WHERE tenant_id = %(tenant)s AND timer_id = %(timer_id)s
"""


@dataclass(frozen=True, slots=True)
class DueTimer:
    """The head of a timer whose time has come."""

    timer_id: str
    tenant: str


async def insert(tx: Connection, tenant: str, timer: Timer) -> Timer:
    """Stores a timer."""
    parameters = {
        "tenant": tenant,
        "timer_id": timer.timer_id,
        "agent_id": timer.agent_id,
        "conversation_id": timer.conversation_id,
        "user_id": timer.user_id,
        "actor": timer.actor,
        "text": timer.text,
        "cron": timer.cron,
        "time_zone": timer.time_zone,
        "next_time": timer.next_time,
    }
    row = await (await tx.execute(_INSERT, parameters)).fetchone()
    assert row is not None
    return timer_of(row)


async def list_timers(
    tx: Connection,
    tenant: str,
    *,
    bound_user: str,
    conversation_id: str,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Timer]:
    """Timers, the next due first."""
    parameters = {
        "tenant": tenant,
        "bound_user": bound_user,
        "conversation_id": conversation_id,
        "after_time": after[0] if after else None,
        "after": after[1] if after else "",
        "limit": limit,
    }
    return [timer_of(row) for row in await (await tx.execute(_LIST, parameters)).fetchall()]


async def delete(tx: Connection, tenant: str, timer_id: str, bound_user: str = "") -> bool:
    """Removes a timer; False when there is none that the caller may see."""
    parameters = {"tenant": tenant, "timer_id": timer_id, "bound_user": bound_user}
    return await (await tx.execute(_DELETE, parameters)).fetchone() is not None


async def due(tx: Connection, limit: int) -> list[DueTimer]:
    """Heads of timers whose time has come, in a work transaction."""
    rows = await (await tx.execute(_DUE, {"limit": limit})).fetchall()
    return [DueTimer(row["timer_id"], row["tenant_id"]) for row in rows]


async def lock_due(tx: Connection, tenant: str, timer_id: str) -> Timer | None:
    """A due timer, locked; None when another process has it or it is no longer due."""
    row = await (await tx.execute(_LOCK_DUE, {"tenant": tenant, "timer_id": timer_id})).fetchone()
    return timer_of(row) if row else None


async def rearm(tx: Connection, tenant: str, timer_id: str, next_time: datetime) -> None:
    """Sets a timer's next time, and its last to the one that has come."""
    await tx.execute(_REARM, {"tenant": tenant, "timer_id": timer_id, "next_time": next_time})
