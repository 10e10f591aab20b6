"""Knowledge bases and the agents that search them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from mneme.archival.records import Author, KnowledgeBase, Owner, Provenance
from mneme.archival.store import audit, history, scopes
from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime import lexical
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found

_OWN = ("passage_count", "revision")
_COLUMNS = ", ".join(f"k.{field.name}" for field in fields(KnowledgeBase) if field.name not in _OWN)

_SELECT = f"""
SELECT {_COLUMNS}, coalesce(s.passage_count, 0) AS passage_count, coalesce(s.revision, 0) AS revision
FROM archival.knowledge_base k
LEFT JOIN archival.scope s ON s.tenant_id = k.tenant_id AND s.owner_id = k.id
WHERE k.tenant_id = %(tenant)s"""  # noqa: S608

_INSERT = """
INSERT INTO archival.knowledge_base (tenant_id, id, display_name, description, metadata_, created_at, updated_at)
VALUES (%(tenant)s, %(id)s, %(display_name)s, %(description)s, %(metadata_)s, clock_timestamp(), clock_timestamp())
"""

_ATTACHED = (
    " AND k.id IN (SELECT knowledge_base_id FROM archival.attachment"
    " WHERE tenant_id = %(tenant)s AND agent_id = %(agent)s)"
)

_AGENTS = """
SELECT agent_id, count(*) OVER () AS total FROM archival.attachment
WHERE tenant_id = %(tenant)s AND knowledge_base_id = %(id)s ORDER BY agent_id LIMIT %(limit)s
"""

_ATTACHED_IDS = """
SELECT knowledge_base_id FROM archival.attachment
WHERE tenant_id = %(tenant)s AND agent_id = %(agent)s ORDER BY knowledge_base_id
"""

_ATTACH = """
INSERT INTO archival.attachment (tenant_id, agent_id, knowledge_base_id, created_at)
VALUES (%(tenant)s, %(agent)s, %(id)s, now())
ON CONFLICT (tenant_id, agent_id, knowledge_base_id) DO NOTHING
"""

_DETACH = """
DELETE FROM archival.attachment
WHERE tenant_id = %(tenant)s AND agent_id = %(agent)s AND knowledge_base_id = %(id)s
"""

_DELETE_PASSAGES = f"""
WITH gone AS (
    DELETE FROM archival.agent_passages WHERE tenant_id = %(tenant)s AND owner_id = %(id)s RETURNING *
), versions AS (
    DELETE FROM archival.passage_version WHERE tenant_id = %(tenant)s AND owner_id = %(id)s
), queued AS (
    DELETE FROM archival.index_queue WHERE tenant_id = %(tenant)s AND passage_id IN (SELECT id FROM gone)
)
{audit.INSERT}
SELECT tenant_id, statement_timestamp(), %(actor)s, user_id, 3, id, '', %(id)s, version, 0,
    encode(content_sha256, 'hex'), '', char_length(text), 0, 'its knowledge base was deleted', '{{}}', 0, false, '',
    %(trace)s
FROM gone
"""  # noqa: S608

_DELETE = "DELETE FROM archival.knowledge_base WHERE tenant_id = %(tenant)s AND id = %(id)s"
_DELETE_SCOPE = "DELETE FROM archival.scope WHERE tenant_id = %(tenant)s AND owner_id = %(id)s"


async def create(
    tx: Connection,
    author: Author,
    *,
    knowledge_base_id: str,
    display_name: str,
    description: str,
    metadata: dict[str, Any],
) -> KnowledgeBase:
    """Returns a new knowledge base.

    Raises:
        Error: ALREADY_EXISTS, when another one of the tenant has that name.
    """
    values = {
        "tenant": author.tenant,
        "id": knowledge_base_id,
        "display_name": display_name,
        "description": description,
        "metadata_": Jsonb(metadata),
    }
    try:
        async with tx.transaction():
            await tx.execute(_INSERT, values)
    except psycopg.errors.UniqueViolation as error:
        raise _name_taken(display_name) from error
    await _record(tx, author, knowledge_base_id, common_pb2.MEMORY_CHANGE_KIND_CREATED)
    return await get(tx, author.tenant, knowledge_base_id)


async def get(tx: Connection, tenant: str, knowledge_base_id: str, *, lock: bool = False) -> KnowledgeBase:
    """Returns a knowledge base; `lock` holds it until the end of the transaction. Raises NOT_FOUND."""
    statement = f"{_SELECT} AND k.id = %(id)s{' FOR UPDATE OF k' if lock else ''}"
    row = await (await tx.execute(statement, {"tenant": tenant, "id": knowledge_base_id})).fetchone()
    if row is None:
        raise not_found(knowledge_base_id)
    return KnowledgeBase(**row)


async def page(
    tx: Connection, tenant: str, *, agent_id: str, after: tuple[datetime, str] | None, limit: int
) -> list[KnowledgeBase]:
    """Returns knowledge bases in the order of their creation, those of one agent or (empty) all, at most `limit`."""
    statement = _SELECT + (_ATTACHED if agent_id else "")
    values: dict[str, Any] = {"tenant": tenant, "agent": agent_id, "limit": limit}
    if after is not None:
        statement += " AND (k.created_at, k.id) > (%(after_time)s, %(after_id)s)"
        values |= {"after_time": after[0], "after_id": after[1]}
    found = await tx.execute(f"{statement} ORDER BY k.created_at, k.id LIMIT %(limit)s", values)
    return [KnowledgeBase(**row) for row in await found.fetchall()]


async def change(tx: Connection, author: Author, knowledge_base_id: str, values: Mapping[str, Any]) -> KnowledgeBase:
    """Writes new values by column (display_name, description, metadata_) and returns the result.

    Raises:
        Error: NOT_FOUND; ALREADY_EXISTS when another one has the new name.
    """
    tenant = author.tenant
    await get(tx, tenant, knowledge_base_id, lock=True)
    assignments = "".join(f"{column} = %({column})s, " for column in values)
    try:
        async with tx.transaction():
            await tx.execute(
                f"UPDATE archival.knowledge_base SET {assignments} updated_at = clock_timestamp()"  # noqa: S608
                " WHERE tenant_id = %(tenant)s AND id = %(id)s",
                {**_adapted(values), "tenant": tenant, "id": knowledge_base_id},
            )
    except psycopg.errors.UniqueViolation as error:
        raise _name_taken(str(values.get("display_name"))) from error
    await _record(tx, author, knowledge_base_id, common_pb2.MEMORY_CHANGE_KIND_UPDATED)
    return await get(tx, tenant, knowledge_base_id)


async def delete(tx: Connection, author: Author, knowledge_base_id: str) -> None:
    """Removes a knowledge base with its passages and attachments, after a tombstone that refuses late inserts."""
    tenant = author.tenant
    # Writers lock the scope first, then look at the tombstone.
    await scopes.lock(tx, tenant, knowledge_base_id)
    await get(tx, tenant, knowledge_base_id, lock=True)
    await scopes.bury(tx, tenant, kind="knowledge_base", subject_id=knowledge_base_id)
    key = {**audit.author_parameters(author), "id": knowledge_base_id}
    await tx.execute(_DELETE_PASSAGES, key)
    for scope in (knowledge_base_id, knowledge_base_id + history.PAST_SCOPE):
        await lexical.remove_scope(tx, "archival", scope=scope)
    await tx.execute(_DELETE, key)
    await tx.execute(_DELETE_SCOPE, key)
    await _record(tx, author, knowledge_base_id, common_pb2.MEMORY_CHANGE_KIND_DELETED)


async def agents(tx: Connection, tenant: str, knowledge_base_id: str, *, limit: int) -> tuple[list[str], int]:
    """Returns the first agents that search a knowledge base, by id, and the number of all."""
    found = await tx.execute(_AGENTS, {"tenant": tenant, "id": knowledge_base_id, "limit": limit})
    rows = await found.fetchall()
    return [row["agent_id"] for row in rows], rows[0]["total"] if rows else 0


async def attached(tx: Connection, tenant: str, agent_id: str) -> list[str]:
    """Returns the knowledge bases that an agent searches, by id."""
    found = await tx.execute(_ATTACHED_IDS, {"tenant": tenant, "agent": agent_id})
    return [row["knowledge_base_id"] for row in await found.fetchall()]


async def attach(tx: Connection, author: Author, *, agent_id: str, knowledge_base_id: str) -> None:
    """Gives an agent access; once more changes nothing. Raises NOT_FOUND."""
    await get(tx, author.tenant, knowledge_base_id, lock=True)
    key = {"tenant": author.tenant, "agent": agent_id, "id": knowledge_base_id}
    if (await tx.execute(_ATTACH, key)).rowcount:
        kind = common_pb2.MEMORY_CHANGE_KIND_ATTACHED
        await scopes.record_attachment(tx, author, agent_id=agent_id, knowledge_base_id=knowledge_base_id, kind=kind)


async def detach(tx: Connection, author: Author, *, agent_id: str, knowledge_base_id: str) -> None:
    """Takes an agent's access away; without access nothing changes. Raises NOT_FOUND."""
    await get(tx, author.tenant, knowledge_base_id, lock=True)
    key = {"tenant": author.tenant, "agent": agent_id, "id": knowledge_base_id}
    if (await tx.execute(_DETACH, key)).rowcount:
        kind = common_pb2.MEMORY_CHANGE_KIND_DETACHED
        await scopes.record_attachment(tx, author, agent_id=agent_id, knowledge_base_id=knowledge_base_id, kind=kind)


async def _record(tx: Connection, author: Author, knowledge_base_id: str, kind: int) -> None:
    """Writes to the audit that a knowledge base itself was made, renamed or deleted."""
    owner = Owner(knowledge_base_id=knowledge_base_id)
    await audit.append(tx, author, audit.Entry(kind, knowledge_base_id, owner, author.user_id, Provenance()))


def _adapted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {column: Jsonb(value) if column == "metadata_" else value for column, value in values.items()}


def _name_taken(display_name: str) -> Error:
    return Error(
        errors_pb2.REASON_ALREADY_EXISTS,
        "display_name: another knowledge base of this tenant has that name",
        metadata={"field": "display_name", "display_name": display_name},
    )
