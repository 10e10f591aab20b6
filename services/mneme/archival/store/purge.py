"""Removes everything of an agent or a user, and counts again."""

from __future__ import annotations

from typing import Any

from mneme.archival.records import PurgeCount
from mneme.archival.store import history, scopes
from mneme.runtime import lexical
from mneme.runtime.db import Connection

# A replayed response holds the passage that was stored. Protobuf writes a text field as tag, length, text;
# owner.agent_id has tag 0x0a, passage.user_id 0x1a.
_RESPONSES = "archival.request WHERE tenant_id = %(tenant)s AND position(%(mark)s::bytea IN response) > 0"

_SCOPES = f"scope IN (%(id)s, %(id)s || '{history.PAST_SCOPE}')"
_INGESTS = "SELECT request_id FROM archival.ingest WHERE tenant_id = %(tenant)s"

_AGENT_TABLES = {
    "archival.agent_passages": "tenant_id = %(tenant)s AND owner_id = %(id)s",
    "archival.passage_version": "tenant_id = %(tenant)s AND owner_id = %(id)s",
    "archival.index_queue": "tenant_id = %(tenant)s AND owner_id = %(id)s",
    "archival.attachment": "tenant_id = %(tenant)s AND agent_id = %(id)s",
    "archival.scope": "tenant_id = %(tenant)s AND owner_id = %(id)s",
    "archival.lexical_posting": f"tenant_id = %(tenant)s AND {_SCOPES}",
    "archival.lexical_document": f"tenant_id = %(tenant)s AND {_SCOPES}",
    "archival.lexical_term": f"tenant_id = %(tenant)s AND {_SCOPES}",
    "archival.lexical_scope": f"tenant_id = %(tenant)s AND {_SCOPES}",
    "archival.ingest_error": f"tenant_id = %(tenant)s AND request_id IN ({_INGESTS} AND owner_id = %(id)s)",
    "archival.ingest": "tenant_id = %(tenant)s AND owner_id = %(id)s",
}

_USER_TABLES = {
    "archival.agent_passages": "tenant_id = %(tenant)s AND user_id = %(id)s",
    "archival.passage_version": "tenant_id = %(tenant)s AND user_id = %(id)s",
    "archival.ingest_error": f"tenant_id = %(tenant)s AND request_id IN ({_INGESTS} AND user_id = %(id)s)",
    "archival.ingest": "tenant_id = %(tenant)s AND user_id = %(id)s",
}

_USER_PASSAGES = """
SELECT owner_id, array_agg(id) AS ids FROM archival.agent_passages
WHERE tenant_id = %(tenant)s AND user_id = %(id)s GROUP BY owner_id ORDER BY owner_id
"""

_USER_QUEUE = "DELETE FROM archival.index_queue WHERE tenant_id = %(tenant)s AND passage_id = ANY(%(ids)s)"

# A reason is written by people and models and can quote; ids, hashes and lengths stay.
_REASONS = "archival.memory_change WHERE tenant_id = %(tenant)s AND reason <> '' AND {column} = %(id)s"


async def agent(tx: Connection, tenant: str, agent_id: str, operation_id: str) -> list[PurgeCount]:
    """Removes an agent's archive and its access to knowledge bases; returns a count a table."""
    await scopes.lock(tx, tenant, agent_id)
    await scopes.bury(tx, tenant, kind="agent", subject_id=agent_id, operation_id=operation_id)
    key = {"tenant": tenant, "id": agent_id, "mark": _field(0x0A, agent_id)}
    counts = [await _remove(tx, table, condition, key) for table, condition in _AGENT_TABLES.items()]
    return [*counts, await _forget_responses(tx, key), await _forget_reasons(tx, "agent_id", key)]


async def user(tx: Connection, tenant: str, user_id: str, operation_id: str) -> list[PurgeCount]:
    """Removes a user's passages from every agent and knowledge base; returns a count a table."""
    await scopes.lock_user_alone(tx, tenant, user_id)
    await scopes.bury(tx, tenant, kind="user", subject_id=user_id, operation_id=operation_id)
    key = {"tenant": tenant, "id": user_id, "mark": _field(0x1A, user_id)}
    found = await (await tx.execute(_USER_PASSAGES, key)).fetchall()
    documents = 0
    for row in found:
        await scopes.lock(tx, tenant, row["owner_id"])
        documents += await lexical.remove(tx, "archival", scope=row["owner_id"], document_ids=row["ids"])
        documents += await history.forget_words(tx, tenant, row["owner_id"], row["ids"])
        await tx.execute(_USER_QUEUE, {**key, "ids": row["ids"]})
        await scopes.bump(tx, tenant, row["owner_id"], added=-len(row["ids"]))
    counts = [await _remove(tx, table, condition, key) for table, condition in _USER_TABLES.items()]
    words = PurgeCount("archival.lexical_document", documents, 0)
    return [*counts, words, await _forget_responses(tx, key), await _forget_reasons(tx, "user_id", key)]


async def conversation(tx: Connection, tenant: str, conversation_id: str, operation_id: str) -> list[PurgeCount]:
    """Writes the tombstone only: passages belong to agents and users, not to the conversation that made them."""
    await scopes.bury(tx, tenant, kind="conversation", subject_id=conversation_id, operation_id=operation_id)
    return [PurgeCount("archival.agent_passages", 0, 0)]


async def _remove(tx: Connection, table: str, condition: str, key: dict[str, Any]) -> PurgeCount:
    removed = (await tx.execute(f"DELETE FROM {table} WHERE {condition}", key)).rowcount  # noqa: S608
    return PurgeCount(table, removed, await _count(tx, f"{table} WHERE {condition}", key))


async def _forget_responses(tx: Connection, key: dict[str, Any]) -> PurgeCount:
    removed = (await tx.execute(f"DELETE FROM {_RESPONSES}", key)).rowcount  # noqa: S608
    return PurgeCount("archival.request", removed, await _count(tx, _RESPONSES, key))


async def _forget_reasons(tx: Connection, column: str, key: dict[str, Any]) -> PurgeCount:
    rows = _REASONS.format(column=column)
    statement = rows.replace(" WHERE", " SET reason = '' WHERE", 1)
    removed = (await tx.execute(f"UPDATE {statement}", key)).rowcount
    return PurgeCount("archival.memory_change (reasons)", removed, await _count(tx, rows, key))


async def _count(tx: Connection, rows: str, key: dict[str, Any]) -> int:
    row = await (await tx.execute(f"SELECT count(*) AS remaining FROM {rows}", key)).fetchone()  # noqa: S608
    assert row is not None
    return int(row["remaining"])


def _field(tag: int, value: str) -> bytes:
    raw = value.encode()
    length = bytes([len(raw)]) if len(raw) < 128 else bytes([len(raw) & 0x7F | 0x80, len(raw) >> 7])
    return bytes([tag]) + length + raw
