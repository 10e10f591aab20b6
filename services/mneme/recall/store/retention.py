"""How long messages are kept: the rules, and what is too old by them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from mneme.recall.store import window
from mneme.runtime import call
from mneme.runtime.db import Connection


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a rule is about."""

    kind: str
    """`tenant`, `agent` or `user`."""
    subject_id: str
    """Empty for the tenant."""


@dataclass(frozen=True, slots=True)
class Due:
    """An agent whose messages are to be looked through."""

    tenant: str
    agent_id: str


_SET = """
WITH gone AS (
    DELETE FROM recall.retention
    WHERE tenant_id = %(tenant)s AND subject_kind = %(kind)s AND subject_id = %(subject)s AND %(days)s = 0
), woken AS (
    UPDATE recall.retention_due SET due_time = now()
    WHERE tenant_id = %(tenant)s AND (%(kind)s <> 'agent' OR agent_id = %(subject)s)
)
INSERT INTO recall.retention (tenant_id, subject_kind, subject_id, max_age_days)
SELECT %(tenant)s, %(kind)s, %(subject)s, %(days)s WHERE %(days)s > 0
ON CONFLICT (tenant_id, subject_kind, subject_id) DO UPDATE SET max_age_days = excluded.max_age_days
"""

_GET = """
SELECT max_age_days FROM recall.retention
WHERE tenant_id = %(tenant)s AND subject_kind = %(kind)s AND subject_id = %(subject)s
"""

_COUNT = """
SELECT count(*) AS messages FROM recall.messages
WHERE tenant_id = %(tenant)s AND created_at < now() - make_interval(days => %(days)s)
    AND CASE %(kind)s WHEN 'agent' THEN agent_id = %(subject)s WHEN 'user' THEN user_id = %(subject)s ELSE true END
"""

_CLAIM = """
UPDATE recall.retention_due q SET due_time = clock_timestamp() + %(interval)s
FROM (
    SELECT d.tenant_id, d.agent_id FROM recall.retention_due d
    WHERE d.due_time <= clock_timestamp() AND (%(days)s > 0
        OR EXISTS (SELECT FROM recall.retention r WHERE r.tenant_id = d.tenant_id))
    ORDER BY d.due_time LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED
) c
WHERE q.tenant_id = c.tenant_id AND q.agent_id = c.agent_id
RETURNING q.tenant_id, q.agent_id
"""

# The shortest of all rules that apply; no rule makes it NULL, before which nothing lies.
_CUTOFF = """
now() - make_interval(days => least(nullif(%(days)s, 0), (
    SELECT min(r.max_age_days) FROM recall.retention r
    WHERE r.tenant_id = %(tenant)s AND (r.subject_kind = 'tenant'
        OR (r.subject_kind = 'agent' AND r.subject_id = %(agent)s)
        OR (r.subject_kind = 'user' AND r.subject_id = {user})))))
"""

# `head` is the message of a call, for the call and for its results: they go when all of them are old enough, and then
# together, also where the limit parts them.
_EXPIRED = f"""
WITH cutoff AS MATERIALIZED (
    SELECT u.user_id, {_CUTOFF.format(user="u.user_id")} AS moment
    FROM (SELECT DISTINCT user_id FROM recall.messages
          WHERE tenant_id = %(tenant)s AND agent_id = %(agent)s) u
), old AS (
    SELECT m.conversation_id, c.moment, CASE WHEN m.tool_call_id = '' THEN m.sequence_id ELSE (
        SELECT t.sequence_id FROM recall.tool_call t WHERE t.tenant_id = %(tenant)s
            AND t.conversation_id = m.conversation_id AND t.call_id = m.tool_call_id) END AS head
    FROM recall.messages m JOIN cutoff c ON c.user_id = m.user_id
    WHERE m.tenant_id = %(tenant)s AND m.agent_id = %(agent)s AND m.created_at < c.moment
), whole AS (
    SELECT DISTINCT o.conversation_id, o.head FROM old o
    WHERE NOT EXISTS (
        SELECT FROM recall.tool_call t JOIN recall.messages r ON r.tenant_id = %(tenant)s
            AND r.conversation_id = t.conversation_id AND r.sequence_id IN (t.sequence_id, t.result_sequence)
        WHERE t.tenant_id = %(tenant)s AND t.conversation_id = o.conversation_id AND t.sequence_id = o.head
            AND r.created_at >= o.moment)
    LIMIT %(limit)s
)
SELECT m.id FROM whole w JOIN recall.messages m ON m.tenant_id = %(tenant)s AND m.conversation_id = w.conversation_id
    AND (m.sequence_id = w.head OR m.sequence_id IN (
        SELECT t.result_sequence FROM recall.tool_call t
        WHERE t.tenant_id = %(tenant)s AND t.conversation_id = w.conversation_id AND t.sequence_id = w.head))
"""  # noqa: S608

_SUMMARIES = f"""
DELETE FROM recall.summary s USING recall.conversation c
WHERE s.tenant_id = %(tenant)s AND c.tenant_id = %(tenant)s AND c.agent_id = %(agent)s
    AND s.conversation_id = c.conversation_id AND s.create_time < {_CUTOFF.format(user="c.user_id")}
"""  # noqa: S608


async def set_rule(tx: Connection, subject: Subject, days: int) -> None:
    """Keeps the subject's messages for that many days; 0 ends the rule. The agents it touches are due at once."""
    await tx.execute(_SET, {**_key(subject), "days": days})


async def rule(tx: Connection, subject: Subject) -> int:
    """Returns the days that were set; 0 for none."""
    row = await (await tx.execute(_GET, _key(subject))).fetchone()
    return int(row["max_age_days"]) if row else 0


async def count(tx: Connection, subject: Subject, days: int) -> int:
    """Returns how many of the subject's messages are older than that many days."""
    row = await (await tx.execute(_COUNT, {**_key(subject), "days": days})).fetchone()
    return int(row["messages"]) if row else 0


async def claim(tx: Connection, *, days: int, interval: timedelta, limit: int) -> list[Due]:
    """Returns agents that are due and may have messages too old; each is due again after the interval.

    Args:
        tx: A transaction of no tenant.
        days: The deployment's own rule; 0 for none.
        interval: Time to the next look.
        limit: Most agents.
    """
    cursor = await tx.execute(_CLAIM, {"days": days, "interval": interval, "limit": limit})
    return [Due(row["tenant_id"], row["agent_id"]) for row in await cursor.fetchall()]


async def expire(tx: Connection, agent_id: str, *, days: int, limit: int) -> int:
    """Deletes messages of an agent that are too old, about `limit` at most; returns how many. 0: none is left."""
    key = {"tenant": call.tenant(), "agent": agent_id, "days": days, "limit": limit}
    ids = [row["id"] for row in await (await tx.execute(_EXPIRED, key)).fetchall()]
    return await window.delete(tx, agent_id=agent_id, user_id="", message_ids=ids) if ids else 0


async def expire_summaries(tx: Connection, agent_id: str, *, days: int) -> None:
    """Deletes versions of summaries of an agent's conversations that are too old."""
    await tx.execute(_SUMMARIES, {"tenant": call.tenant(), "agent": agent_id, "days": days})


def _key(subject: Subject) -> dict[str, str]:
    return {"tenant": call.tenant(), "kind": subject.kind, "subject": subject.subject_id}
