"""Removal of all that belongs to a deleted agent or user, and the recount that proves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from mneme.core_memory.blocks import Author, Block, ChangeKind
from mneme.core_memory.history import Forgetting
from mneme.core_memory.store import reads, writes
from mneme.core_memory.store.rows import BLOCK_COLUMNS, audit_parameters, block_of
from mneme.runtime.db import Connection

SubjectKind = Literal["agent", "user"]

_VERSIONS_A_READ = 50

# Writers hold this lock shared until they commit: once it is held alone, nothing of the subject is under way.
_ENTOMB = "SELECT pg_advisory_xact_lock(core_memory.subject_key(%(tenant)s, %(kind)s, %(subject)s))"

_TOMBSTONE = """
INSERT INTO core_memory.tombstone (tenant_id, kind, subject_id, operation_id)
VALUES (%(tenant)s, %(kind)s, %(subject)s, %(operation_id)s)
ON CONFLICT (tenant_id, kind, subject_id) DO NOTHING
"""

# All blocks that the purge may touch, locked in one order.
_LOCK_BLOCKS = """
SELECT b.id FROM core_memory.block AS b
WHERE b.tenant_id = %(tenant)s AND (
    b.id IN (SELECT block_id FROM core_memory.attachment
             WHERE tenant_id = %(tenant)s
               AND ((%(kind)s = 'agent' AND agent_id = %(subject)s) OR (%(kind)s = 'user' AND user_id = %(subject)s)))
    OR (%(kind)s = 'user' AND b.user_id = %(subject)s)
    OR (%(kind)s = 'user' AND b.id IN (SELECT block_id FROM core_memory.block_version
                                       WHERE tenant_id = %(tenant)s AND user_id = %(subject)s)))
ORDER BY b.id FOR UPDATE OF b
"""

# A block goes with the last one who sees it, and a user's own block goes in any case.
_DOOMED = f"""
SELECT {BLOCK_COLUMNS} FROM core_memory.block AS b
WHERE b.tenant_id = %(tenant)s AND b.id = ANY(%(locked)s::text[]) AND (
    (%(kind)s = 'user' AND b.user_id = %(subject)s)
    OR (EXISTS (SELECT FROM core_memory.attachment AS a WHERE a.tenant_id = b.tenant_id AND a.block_id = b.id)
        AND NOT EXISTS (SELECT FROM core_memory.attachment AS a
                        WHERE a.tenant_id = b.tenant_id AND a.block_id = b.id
                          AND CASE %(kind)s WHEN 'agent' THEN a.agent_id ELSE a.user_id END <> %(subject)s)))
ORDER BY b.id
"""  # noqa: S608

_AUDIT_DELETED = """
WITH gate AS MATERIALIZED (
    SELECT core_memory.recorded_time(%(tenant)s) AS moment
)
INSERT INTO core_memory.memory_change
    (tenant_id, actor, user_id, kind, resource_id, agent_id, old_version, new_version, old_sha256, new_sha256,
     old_chars, new_chars, trace_id, create_time)
SELECT %(tenant)s, %(actor)s, %(author_user)s, %(kind)s, %(block_id)s, %(author_agent)s, %(old_version)s,
       %(new_version)s, %(old_sha256)s, %(new_sha256)s, %(old_chars)s, %(new_chars)s, %(trace_id)s, moment
FROM gate
"""

_WRITTEN_FOR = """
SELECT DISTINCT block_id FROM core_memory.block_version
WHERE tenant_id = %(tenant)s AND user_id = %(subject)s AND NOT block_id = ANY(%(doomed)s::text[])
ORDER BY block_id
"""

_READ_VERSIONS = """
SELECT version, value, user_id FROM core_memory.block_version
WHERE tenant_id = %(tenant)s AND block_id = %(block_id)s AND version > %(after)s
ORDER BY version LIMIT %(limit)s
"""

_REWRITE_VERSION = """
UPDATE core_memory.block_version SET value = %(value)s
WHERE tenant_id = %(tenant)s AND block_id = %(block_id)s AND version = %(version)s
"""

# Kept responses hold blocks, and so their text. They are found by the block's id inside the message's bytes.
_MENTIONS = """
EXISTS (SELECT FROM unnest(%(blocks)s::text[]) AS block_id
        WHERE position(convert_to(block_id, 'UTF8') IN response) > 0)
"""

_REASONS = """
sequence IN (SELECT sequence FROM core_memory.memory_change
             WHERE tenant_id = %(tenant)s
               AND (resource_id = ANY(%(doomed)s::text[])
                 OR (%(kind)s = 'agent' AND agent_id = %(subject)s) OR (%(kind)s = 'user' AND user_id = %(subject)s)))
"""

_OF_SUBJECT = "((%(kind)s = 'agent' AND agent_id = %(subject)s) OR (%(kind)s = 'user' AND user_id = %(subject)s))"

# A state whose text was a forgotten user's goes with it: the past then shows what was there before.
_STATES = """
(block_id = ANY(%(doomed)s::text[]) OR (%(kind)s = 'user' AND (block_id, version) IN (
    SELECT v.block_id, v.version FROM core_memory.block_version AS v
    WHERE v.tenant_id = %(tenant)s AND v.user_id = %(subject)s)))
"""

# In this order: what points to a block or a version goes before it.
_REMOVED = {
    "change_reason": _REASONS,
    "request": _MENTIONS,
    "block_state": _STATES,
    "block_version": "(block_id = ANY(%(doomed)s::text[]) OR (%(kind)s = 'user' AND user_id = %(subject)s))",
    "attachment": f"(block_id = ANY(%(doomed)s::text[]) OR {_OF_SUBJECT})",
    "attachment_period": f"(block_id = ANY(%(doomed)s::text[]) OR {_OF_SUBJECT})",
    "revision": _OF_SUBJECT,
    "block": "id = ANY(%(doomed)s::text[])",
}


@dataclass(frozen=True, slots=True)
class Count:
    """Rows of one table that a purge removed, and those it found afterwards."""

    table: str
    removed: int
    remaining: int


async def purge(
    tx: Connection, tenant: str, kind: SubjectKind, subject: str, *, operation_id: str, author: Author
) -> list[Count]:
    """Writes the subject's tombstone, removes all that is its own, and counts what is left.

    Blocks that others see too stay. Where a forgotten user's words stand in such a block, they are taken out of
    it and of all its versions.

    Args:
        tx: A fresh tenant transaction: it must not hold a lock yet.
        tenant: The tenant.
        kind: What the subject is.
        subject: Its id.
        operation_id: Operation on whose behalf it is removed.
        author: Who purges, for the audit.
    """
    parameters: dict[str, Any] = {"tenant": tenant, "kind": kind, "subject": subject}
    await tx.execute(_ENTOMB, parameters)
    await tx.execute(_TOMBSTONE, {**parameters, "operation_id": operation_id})
    locked = [row["id"] for row in await (await tx.execute(_LOCK_BLOCKS, parameters)).fetchall()]
    cursor = await tx.execute(_DOOMED, {**parameters, "locked": locked})
    doomed = [block_of(row) for row in await cursor.fetchall()]
    parameters["doomed"] = [block.id for block in doomed]
    cleaned = await _forget(tx, tenant, parameters, author) if kind == "user" else []
    for block in doomed:
        entry = audit_parameters(author, ChangeKind.DELETED, block, None)
        await tx.execute(_AUDIT_DELETED, {"tenant": tenant, **entry})
    parameters["blocks"] = [*parameters["doomed"], *cleaned]
    removed = {table: await _delete(tx, table, where, parameters) for table, where in _REMOVED.items()}
    return [
        Count(f"core_memory.{table}", removed[table], await _count(tx, table, where, parameters))
        for table, where in _REMOVED.items()
    ]


async def _forget(tx: Connection, tenant: str, parameters: dict[str, Any], author: Author) -> list[str]:
    """Takes a user's words out of the blocks that stay; returns the ids of these blocks."""
    rows = await (await tx.execute(_WRITTEN_FOR, parameters)).fetchall()
    for row in rows:
        block = await reads.find(tx, tenant, row["block_id"])
        assert block is not None
        kept = await _forget_in(tx, tenant, block, parameters["subject"])
        # A new version, also where the text is the same: the current one must not be among those removed.
        after = replace(block, value=kept, version=block.version + 1)
        await writes.update(tx, tenant, block, after, author)
    return [row["block_id"] for row in rows]


async def _forget_in(tx: Connection, tenant: str, block: Block, user: str) -> str:
    """Rewrites the versions of a block without a user's words; returns the text that is left of the newest."""
    forgetting = Forgetting(user)
    kept = ""
    async for version, value, written_for in _versions(tx, tenant, block.id):
        kept = forgetting.next(value, written_for)
        if kept != value:
            rewritten = {"tenant": tenant, "block_id": block.id, "version": version, "value": kept}
            await tx.execute(_REWRITE_VERSION, rewritten)
    return kept


async def _versions(tx: Connection, tenant: str, block_id: str) -> AsyncIterator[tuple[int, str, str]]:
    """Yields number, text and user of each version of a block, oldest first."""
    after = 0
    while True:
        parameters = {"tenant": tenant, "block_id": block_id, "after": after, "limit": _VERSIONS_A_READ}
        rows = await (await tx.execute(_READ_VERSIONS, parameters)).fetchall()
        for row in rows:
            yield row["version"], row["value"], row["user_id"]
        if len(rows) < _VERSIONS_A_READ:
            return
        after = rows[-1]["version"]


async def _delete(tx: Connection, table: str, where: str, parameters: dict[str, Any]) -> int:
    query = f"DELETE FROM core_memory.{table} WHERE tenant_id = %(tenant)s AND {where}"  # noqa: S608
    return (await tx.execute(query.encode(), parameters)).rowcount


async def _count(tx: Connection, table: str, where: str, parameters: dict[str, Any]) -> int:
    query = f"SELECT count(*) AS found FROM core_memory.{table} WHERE tenant_id = %(tenant)s AND {where}"  # noqa: S608
    row = await (await tx.execute(query.encode(), parameters)).fetchone()
    assert row is not None
    return int(row["found"])
