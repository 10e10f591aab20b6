"""Scopes: one row an owner that counts its writes and serialises them, and the tombstones that refuse late ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from mneme.archival.records import Author, Owner, Provenance
from mneme.archival.store import audit
from mneme.errors.v1 import errors_pb2
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found

_LOCK = """
SELECT revision FROM archival.scope
WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s FOR UPDATE
"""

_MAKE = """
INSERT INTO archival.scope (tenant_id, owner_id, revision, passage_count)
VALUES (%(tenant)s, %(owner)s, 0, 0)
ON CONFLICT (tenant_id, owner_id) DO NOTHING
"""

# A purge of the user takes the same lock exclusively: what it does not see yet, it waits for.
_LOCK_USERS = """
SELECT pg_advisory_xact_lock_shared(hashtextextended(name, 0))
FROM (SELECT unnest(%(names)s::text[]) AS name ORDER BY 1) AS ordered
"""

_LOCK_USER_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))"

_DEAD = """
SELECT subject_id, create_time FROM archival.tombstone
WHERE tenant_id = %(tenant)s AND (subject_kind, subject_id) IN (
    SELECT * FROM unnest(%(kinds)s::text[], %(ids)s::text[]))
LIMIT 1
"""

_BURY = """
INSERT INTO archival.tombstone (tenant_id, subject_kind, subject_id, operation_id, create_time)
VALUES (%(tenant)s, %(kind)s, %(id)s, %(operation)s, now())
ON CONFLICT (tenant_id, subject_kind, subject_id) DO NOTHING
"""

_EXISTS = "SELECT 1 FROM archival.knowledge_base WHERE tenant_id = %(tenant)s AND id = %(id)s"

_BUMP = """
UPDATE archival.scope SET revision = revision + 1, passage_count = passage_count + %(added)s
WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s
RETURNING revision
"""

_NEXT = """
SELECT p.{column} AS moment FROM archival.agent_passages p
WHERE p.tenant_id = %(tenant)s AND p.owner_id = searched.owner_id AND p.{column} > now() AND NOT p.quarantined
    AND (%(all_users)s OR p.user_id IN ('', %(user_id)s))
ORDER BY p.{column} LIMIT 1
"""

_REVISIONS = f"""
SELECT searched.owner_id, coalesce(s.revision, 0) AS revision, least(begin.moment, ending.moment) AS next_change
FROM (
    SELECT %(agent)s::text AS owner_id
    UNION ALL SELECT knowledge_base_id FROM archival.attachment WHERE tenant_id = %(tenant)s AND agent_id = %(agent)s
) searched
LEFT JOIN archival.scope s ON s.tenant_id = %(tenant)s AND s.owner_id = searched.owner_id
LEFT JOIN LATERAL ({_NEXT.format(column="valid_from")}) begin ON true
LEFT JOIN LATERAL ({_NEXT.format(column="valid_to")}) ending ON true
"""  # noqa: S608 - the names of two columns of ours


async def lock(tx: Connection, tenant: str, owner_id: str, users: Iterable[str] = ()) -> int:
    """Holds the scope until the end of the transaction; returns its revision. All writers come through here.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        owner_id: The scope.
        users: Users whom the write concerns; their purge waits for it.
    """
    names = sorted({_user_lock(tenant, user) for user in users if user})
    if names:
        await tx.execute(_LOCK_USERS, {"names": names})
    key = {"tenant": tenant, "owner": owner_id}
    row = await (await tx.execute(_LOCK, key)).fetchone()
    if row is None:
        await tx.execute(_MAKE, key)
        row = await (await tx.execute(_LOCK, key)).fetchone()
    assert row is not None
    return int(row["revision"])


async def lock_known(tx: Connection, tenant: str, owner_id: str) -> int | None:
    """Holds the scope like `lock`, but returns None for one that was never written to or was purged."""
    row = await (await tx.execute(_LOCK, {"tenant": tenant, "owner": owner_id})).fetchone()
    return None if row is None else int(row["revision"])


async def lock_user_alone(tx: Connection, tenant: str, user: str) -> None:
    """Waits for running writes that concern a user, and keeps new ones out until the end of the transaction."""
    await tx.execute(_LOCK_USER_ALONE, {"name": _user_lock(tenant, user)})


async def refuse_deleted(
    tx: Connection, tenant: str, *, owners: Sequence[Owner] = (), users: Iterable[str] = ()
) -> None:
    """Returns when nothing that a write concerns was deleted, and its knowledge bases exist.

    Raises:
        Error: DELETED for a deleted agent, knowledge base or user; NOT_FOUND for an unknown knowledge base.
    """
    subjects = [("agent", owner.agent_id) for owner in owners if owner.agent_id]
    subjects += [("knowledge_base", owner.knowledge_base_id) for owner in owners if owner.knowledge_base_id]
    subjects += [("user", user) for user in sorted(set(users)) if user]
    found = await tx.execute(
        _DEAD, {"tenant": tenant, "kinds": [kind for kind, _ in subjects], "ids": [id_ for _, id_ in subjects]}
    )
    row = await found.fetchone()
    if row is not None:
        raise Error(
            errors_pb2.REASON_DELETED,
            f"{row['subject_id']} was deleted on {row['create_time']:%Y-%m-%d}",
            metadata={"resource": row["subject_id"]},
        )
    for owner in owners:
        if owner.knowledge_base_id:
            await require_knowledge_base(tx, tenant, owner.knowledge_base_id)


async def require_knowledge_base(tx: Connection, tenant: str, knowledge_base_id: str) -> None:
    """Returns when the knowledge base exists; raises NOT_FOUND otherwise."""
    found = await tx.execute(_EXISTS, {"tenant": tenant, "id": knowledge_base_id})
    if await found.fetchone() is None:
        raise not_found(knowledge_base_id)


async def bury(tx: Connection, tenant: str, *, kind: str, subject_id: str, operation_id: str = "") -> None:
    """Writes the tombstone of an `agent`, `user`, `conversation` or `knowledge_base`; a second one changes nothing."""
    await tx.execute(_BURY, {"tenant": tenant, "kind": kind, "id": subject_id, "operation": operation_id})


async def bump(tx: Connection, tenant: str, owner_id: str, *, added: int = 0) -> int:
    """Counts a write to a locked scope, and the passages it added or (negative) removed; returns the new revision."""
    row = await (await tx.execute(_BUMP, {"tenant": tenant, "owner": owner_id, "added": added})).fetchone()
    assert row is not None, "a scope is locked before it is written to"
    return int(row["revision"])


async def revisions(
    tx: Connection, tenant: str, agent_id: str, *, user_id: str, all_users: bool
) -> tuple[dict[str, int], datetime | None]:
    """Returns the revisions of what an agent searches, and when a passage there next begins or ends to be true.

    Args:
        tx: A transaction of the tenant.
        tenant: The tenant.
        agent_id: The agent. Its own scope is there always, with 0 where nothing was written yet; so is each attached
            knowledge base.
        user_id: Whose passages count for the moment, beside those of no user.
        all_users: Whether those of every user count.
    """
    key = {"tenant": tenant, "agent": agent_id, "user_id": user_id, "all_users": all_users}
    rows = await (await tx.execute(_REVISIONS, key)).fetchall()
    moments = [row["next_change"] for row in rows if row["next_change"] is not None]
    return {row["owner_id"]: int(row["revision"]) for row in rows}, min(moments, default=None)


async def record_attachment(
    tx: Connection, author: Author, *, agent_id: str, knowledge_base_id: str, kind: int
) -> None:
    """Writes to the audit that an agent got or lost access to a knowledge base."""
    entry = audit.Entry(
        kind=kind,
        resource_id=knowledge_base_id,
        owner=Owner(agent_id=agent_id),
        user_id=author.user_id,
        provenance=Provenance(),
    )
    await audit.append(tx, author, entry)


def _user_lock(tenant: str, user: str) -> str:
    return f"archival user {len(tenant)} {tenant} {user}"
