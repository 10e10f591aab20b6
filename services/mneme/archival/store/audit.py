"""The append-only audit of memory writes: ids, hashes and lengths, never text."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from mneme.archival.records import Author, ChangeFilter, MemoryChange, Owner, Provenance
from mneme.runtime.db import Connection

_COLUMNS = ", ".join(field.name for field in fields(MemoryChange))

INSERT = """
INSERT INTO archival.memory_change (
    tenant_id, create_time, actor, user_id, kind, resource_id, agent_id, knowledge_base_id, old_version, new_version,
    old_sha256, new_sha256, old_chars, new_chars, reason, source_message_ids, trust_level, from_recall, step_id,
    trace_id)
"""
"""Beginning of every statement that writes to the audit; the values follow in this order."""

_APPEND = f"""
{INSERT}
VALUES (
    %(tenant)s, coalesce(%(at)s, statement_timestamp()), %(actor)s, %(user)s, %(kind)s, %(resource)s, %(agent)s,
    %(knowledge_base)s, %(old_version)s, %(new_version)s, %(old_sha256)s, %(new_sha256)s, %(old_chars)s, %(new_chars)s,
    %(reason)s, %(source_message_ids)s, %(trust_level)s, %(from_recall)s, %(step_id)s, %(trace)s)
"""

_CONDITIONS = {
    "agent_id": "agent_id = %(agent_id)s",
    "knowledge_base_id": "knowledge_base_id = %(knowledge_base_id)s",
    "user_id": "user_id = %(user_id)s",
    "passage_id": "resource_id = %(passage_id)s",
    "actor": "actor = %(actor)s",
    "start": "create_time >= %(start)s",
    "end": "create_time < %(end)s",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One write."""

    kind: int
    resource_id: str
    owner: Owner
    user_id: str
    provenance: Provenance
    old_version: int = 0
    new_version: int = 0
    old_sha256: str = ""
    new_sha256: str = ""
    old_chars: int = 0
    new_chars: int = 0
    create_time: datetime | None = None
    """From when what was written stands; None for now."""


async def append(tx: Connection, author: Author, entry: Entry) -> None:
    """Writes one entry, in the transaction of the write it tells about."""
    await tx.execute(
        _APPEND,
        {
            **author_parameters(author),
            **provenance_parameters(entry.provenance),
            "user": entry.user_id or author.user_id,
            "at": entry.create_time,
            "kind": entry.kind,
            "resource": entry.resource_id,
            "agent": entry.owner.agent_id,
            "knowledge_base": entry.owner.knowledge_base_id,
            "old_version": entry.old_version,
            "new_version": entry.new_version,
            "old_sha256": entry.old_sha256,
            "new_sha256": entry.new_sha256,
            "old_chars": entry.old_chars,
            "new_chars": entry.new_chars,
        },
    )


def author_parameters(author: Author) -> dict[str, Any]:
    """Returns `tenant`, `actor` and `trace`."""
    return {"tenant": author.tenant, "actor": author.actor, "trace": author.trace_id}


def provenance_parameters(provenance: Provenance) -> dict[str, Any]:
    """Returns a parameter a field of the provenance, named like it."""
    return {
        "reason": provenance.reason,
        "source_message_ids": list(provenance.source_message_ids),
        "trust_level": provenance.trust_level,
        "from_recall": provenance.from_recall,
        "step_id": provenance.step_id,
    }


async def page(tx: Connection, tenant: str, wanted: ChangeFilter, *, after: int, limit: int) -> list[MemoryChange]:
    """Returns entries with a sequence greater than `after`, oldest first, at most `limit`."""
    values = {name: getattr(wanted, name) for name in _CONDITIONS if getattr(wanted, name)}
    conditions = "".join(f" AND {_CONDITIONS[name]}" for name in values)
    statement = (
        f"SELECT {_COLUMNS} FROM archival.memory_change WHERE tenant_id = %(tenant)s AND sequence > %(after)s"  # noqa: S608
        f"{conditions} ORDER BY sequence LIMIT %(limit)s"
    )
    found = await tx.execute(statement, {**values, "tenant": tenant, "after": after, "limit": limit})
    return [MemoryChange(**row) for row in await found.fetchall()]
