"""Removing all data of an agent, a conversation or a user, for good."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from mneme.recall.records import Purged, Subject
from mneme.recall.store.append import SCHEMA
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection

_TOMBSTONE = """
INSERT INTO recall.tombstone (tenant_id, subject_kind, subject_id, operation_id, create_time)
VALUES (%(tenant)s, %(kind)s, %(subject)s, %(operation)s, now())
ON CONFLICT (tenant_id, subject_kind, subject_id) DO NOTHING
"""


async def bury(tx: Connection, subject: Subject, operation_id: str) -> None:
    """Writes the tombstone of a subject: after the commit no new transaction can add to it."""
    await tx.execute(
        _TOMBSTONE,
        {
            "tenant": call.tenant(),
            "kind": subject.kind,
            "subject": subject.subject_id,
            "operation": operation_id,
        },
    )


@dataclass(frozen=True, slots=True)
class _Scope:
    """What a purge covers."""

    parameters: dict[str, Any]
    messages: str
    """Condition on `recall.messages`."""
    conversations: str
    """Condition on `recall.conversation`."""
    response_field: int
    """Number of the field of `mneme.recall.v1.Message` that names the subject."""


_SCOPES = {
    "agent": ("agent_id = %(subject)s", "agent_id = %(subject)s", 2),
    "conversation": ("conversation_id = %(subject)s", "conversation_id = %(subject)s", 3),
    "user": (
        "(user_id = %(subject)s OR conversation_id = ANY(%(whole)s))",
        "user_id = %(subject)s",
        4,
    ),
}


_WHOLE = """
SELECT conversation_id AS value FROM recall.conversation
WHERE tenant_id = %(tenant)s AND {conversations} ORDER BY 1 FOR UPDATE
"""

_TOUCHED = """
SELECT DISTINCT conversation_id AS value FROM recall.messages
WHERE tenant_id = %(tenant)s AND {messages} AND NOT conversation_id = ANY(%(whole)s)
"""

_REMOVE_MESSAGES = """
DELETE FROM recall.messages WHERE tenant_id = %(tenant)s AND {messages} RETURNING id, agent_id
"""


_REMOVE_VECTOR_REVISION = "DELETE FROM recall.vector_revision WHERE tenant_id = %(tenant)s AND agent_id = %(subject)s"


async def purge(tx: Connection, subject: Subject, operation_id: str) -> list[Purged]:
    """Removes everything of a buried subject and counts again, a line a table.

    The conversations of a user go as a whole, and are buried too. Where the user spoke in a conversation that
    serves nobody in particular, the user's messages go and so do that conversation's summaries, which may
    quote them.
    """
    messages, conversations, field = _SCOPES[subject.kind]
    parameters: dict[str, Any] = {"tenant": call.tenant(), "subject": subject.subject_id}
    parameters |= {"operation": operation_id, "kind": subject.kind}
    scope = _Scope(parameters, messages, conversations, field)
    parameters["whole"] = await _column(tx, _WHOLE.format(conversations=conversations), parameters)
    parameters["touched"] = await _column(tx, _TOUCHED.format(messages=messages), parameters)
    removed = await _remove(tx, scope, subject)
    return [Purged(f"{SCHEMA}.{table}", count, await _count(tx, scope, table)) for table, count in removed.items()]


async def _remove(tx: Connection, scope: _Scope, subject: Subject) -> dict[str, int]:
    parameters = scope.parameters
    if subject.kind == "agent":
        # First, as those who store vectors take it first; its side tables retire with it.
        await tx.execute(_REMOVE_VECTOR_REVISION, parameters)
    cursor = await tx.execute(_REMOVE_MESSAGES.format(messages=scope.messages), parameters)
    gone: dict[str, list[str]] = defaultdict(list)
    for row in await cursor.fetchall():
        gone[row["agent_id"]].append(row["id"])
    parameters["ids"] = [message_id for ids in gone.values() for message_id in ids]
    removed = {"messages": len(parameters["ids"])}
    removed["lexical_document"] = 0
    for agent_id in sorted(gone):
        removed["lexical_document"] += await lexical.remove(tx, SCHEMA, scope=agent_id, document_ids=gone[agent_id])
    if subject.kind == "agent":
        await lexical.remove_scope(tx, SCHEMA, scope=subject.subject_id)
    for table, statement in _REMOVALS.items():
        removed[table] = (await tx.execute(statement, parameters)).rowcount
    for statement in _REPAIRS:
        await tx.execute(statement, parameters)
    needle = _response_needle(scope.response_field, subject.subject_id)
    removed["request"] = (await tx.execute(_REMOVE_REQUESTS, {**parameters, "needle": needle})).rowcount
    return removed


_REMOVALS = {
    "tool_call": """
    DELETE FROM recall.tool_call t WHERE t.tenant_id = %(tenant)s AND (
        t.conversation_id = ANY(%(whole)s)
        OR t.conversation_id = ANY(%(touched)s) AND NOT EXISTS (
            SELECT 1 FROM recall.messages m WHERE m.tenant_id = %(tenant)s
                AND m.conversation_id = t.conversation_id AND m.sequence_id = t.sequence_id))""",
    "summary": """
    DELETE FROM recall.summary
    WHERE tenant_id = %(tenant)s AND conversation_id = ANY(%(whole)s::text[] || %(touched)s::text[])""",
    "index_queue": """
    DELETE FROM recall.index_queue WHERE tenant_id = %(tenant)s AND message_id = ANY(%(ids)s)""",
    "retention": """
    DELETE FROM recall.retention
    WHERE tenant_id = %(tenant)s AND subject_kind = %(kind)s AND subject_id = %(subject)s""",
    "retention_due": """
    DELETE FROM recall.retention_due
    WHERE tenant_id = %(tenant)s AND %(kind)s = 'agent' AND agent_id = %(subject)s""",
    "conversation": """
    DELETE FROM recall.conversation WHERE tenant_id = %(tenant)s AND conversation_id = ANY(%(whole)s)""",
}

_REPAIRS = (
    """
    INSERT INTO recall.tombstone (tenant_id, subject_kind, subject_id, operation_id, create_time)
    SELECT %(tenant)s, 'conversation', w.id, %(operation)s, now() FROM unnest(%(whole)s::text[]) AS w (id)
    ON CONFLICT (tenant_id, subject_kind, subject_id) DO NOTHING""",
    """
    UPDATE recall.conversation c SET evicted_count = (
        SELECT count(*) FROM recall.messages m WHERE m.tenant_id = %(tenant)s
            AND m.conversation_id = c.conversation_id AND m.sequence_id < c.window_start)
    WHERE c.tenant_id = %(tenant)s AND c.conversation_id = ANY(%(touched)s)""",
)

_REMOVE_REQUESTS = """
DELETE FROM recall.request WHERE tenant_id = %(tenant)s AND position(%(needle)s::bytea IN response) > 0"""

_COUNTS = {
    "messages": "SELECT count(*) AS number FROM recall.messages WHERE tenant_id = %(tenant)s AND {messages}",
    "conversation": """
    SELECT count(*) AS number FROM recall.conversation WHERE tenant_id = %(tenant)s AND {conversations}""",
    "lexical_document": """
    SELECT count(*) AS number FROM recall.lexical_document
    WHERE tenant_id = %(tenant)s AND document_id = ANY(%(ids)s)""",
    "tool_call": """
    SELECT count(*) AS number FROM recall.tool_call
    WHERE tenant_id = %(tenant)s AND conversation_id = ANY(%(whole)s)""",
    "summary": """
    SELECT count(*) AS number FROM recall.summary
    WHERE tenant_id = %(tenant)s AND conversation_id = ANY(%(whole)s::text[] || %(touched)s::text[])""",
    "index_queue": """
    SELECT count(*) AS number FROM recall.index_queue
    WHERE tenant_id = %(tenant)s AND message_id = ANY(%(ids)s)""",
    "retention": """
    SELECT count(*) AS number FROM recall.retention
    WHERE tenant_id = %(tenant)s AND subject_kind = %(kind)s AND subject_id = %(subject)s""",
    "retention_due": """
    SELECT count(*) AS number FROM recall.retention_due
    WHERE tenant_id = %(tenant)s AND %(kind)s = 'agent' AND agent_id = %(subject)s""",
    "request": """
    SELECT count(*) AS number FROM recall.request
    WHERE tenant_id = %(tenant)s AND position(%(needle)s::bytea IN response) > 0""",
}


async def _count(tx: Connection, scope: _Scope, table: str) -> int:
    statement = _COUNTS[table].format(messages=scope.messages, conversations=scope.conversations)
    needle = _response_needle(scope.response_field, scope.parameters["subject"])
    return await _number_of(tx, statement, {**scope.parameters, "needle": needle})


async def _number_of(tx: Connection, statement: str, parameters: dict[str, Any]) -> int:
    row = await (await tx.execute(statement, parameters)).fetchone()
    assert row is not None
    return int(row["number"])


async def _column(tx: Connection, statement: str, parameters: dict[str, Any]) -> list[str]:
    cursor = await tx.execute(statement, parameters)
    return [row["value"] for row in await cursor.fetchall()]


def _response_needle(field: int, value: str) -> bytes:
    """The bytes of a text field inside a stored response: a replay must not tell of what was purged."""
    raw = value.encode()
    length = bytearray()
    size = len(raw)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([field << 3 | 2]) + bytes(length) + raw
