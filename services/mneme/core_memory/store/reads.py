"""Reads of blocks, versions and the audit, now or as of a past moment; those of one block can lock it for a write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mneme.core_memory.blocks import Attachment, Block, Change, Rendering, Seen, Version
from mneme.core_memory.store.rows import BLOCK_COLUMNS, attachment_of, block_of, change_of, version_of
from mneme.runtime.db import Connection
from mneme.runtime.errors import invalid

_STATE_THEN = """
SELECT * FROM core_memory.block_state
WHERE tenant_id = %(tenant)s AND block_id = {block_id} AND create_time <= %(as_of)s
ORDER BY change DESC LIMIT 1
"""

_BLOCKS_THEN = f"""(
SELECT o.tenant_id, o.id, s.label, v.value, s.limit_value, s.description, o.template_name, o.is_template, s.read_only,
       s.visibility, s.metadata_, o.user_id, s.version, s.change, o.create_time, s.create_time AS update_time
FROM core_memory.block AS o
CROSS JOIN LATERAL ({_STATE_THEN.format(block_id="o.id")}) AS s
JOIN core_memory.block_version AS v ON v.tenant_id = o.tenant_id AND v.block_id = o.id AND v.version = s.version
WHERE o.tenant_id = %(tenant)s
)"""  # noqa: S608

_ATTACHMENTS_THEN = f"""(
SELECT p.tenant_id, p.agent_id, p.user_id, s.label, p.block_id, p.copy_per_user
FROM core_memory.attachment_period AS p
CROSS JOIN LATERAL ({_STATE_THEN.format(block_id="p.block_id")}) AS s
WHERE p.tenant_id = %(tenant)s AND p.start_time <= %(as_of)s AND (p.end_time IS NULL OR p.end_time > %(as_of)s)
)"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class _Read:
    """One statement over the present, and the same over the state at `as_of`."""

    now: str
    then: str

    @classmethod
    def of(cls, template: str) -> _Read:
        """Returns the statements of a template that names its tables `<blocks>` and `<attachments>`."""
        return cls(
            template.replace("<blocks>", "core_memory.block").replace("<attachments>", "core_memory.attachment"),
            template.replace("<blocks>", _BLOCKS_THEN).replace("<attachments>", _ATTACHMENTS_THEN),
        )

    def at(self, as_of: datetime | None) -> str:
        """Returns the statement for a moment; for None that of the present."""
        return self.now if as_of is None else self.then


_BY_ID = _Read.of(
    f"""
SELECT {BLOCK_COLUMNS} FROM <blocks> AS b
WHERE b.tenant_id = %(tenant)s AND b.id = %(block_id)s
"""  # noqa: S608
)

# A user's own attachment sorts before the one for all users, whose user is empty.
_BY_LABEL = _Read.of(
    f"""
SELECT {BLOCK_COLUMNS}, a.agent_id, a.user_id AS attached_user, a.copy_per_user
FROM <attachments> AS a
JOIN <blocks> AS b ON b.tenant_id = a.tenant_id AND b.id = a.block_id
WHERE a.tenant_id = %(tenant)s AND a.agent_id = %(agent_id)s AND a.label = %(label)s
  AND a.user_id IN ('', %(user_id)s)
ORDER BY a.user_id DESC LIMIT 1
"""  # noqa: S608
)

_LOCK = " FOR UPDATE OF b"

_ATTACHMENTS = _Read.of("""
SELECT agent_id, user_id AS attached_user, copy_per_user, count(*) OVER () AS total FROM <attachments> AS a
WHERE tenant_id = %(tenant)s AND block_id = %(block_id)s AND (%(bound)s = '' OR user_id IN ('', %(bound)s))
ORDER BY agent_id, user_id LIMIT %(limit)s
""")

_SEEN = """
SELECT DISTINCT ON (a.label) a.block_id FROM <attachments> AS a
JOIN <blocks> AS v ON v.tenant_id = a.tenant_id AND v.id = a.block_id
WHERE a.tenant_id = %(tenant)s AND a.agent_id = %(agent_id)s AND a.user_id IN ('', %(user_id)s)
  AND (NOT %(shared_only)s OR (a.user_id = '' AND v.visibility = 'shared'))
ORDER BY a.label, a.user_id DESC
"""

# One statement is one snapshot: the revisions are those of exactly these blocks. The sum of two counters that only
# grow is itself a counter that grows with every write to either.
_RENDER = _Read.of(
    f"""
SELECT {BLOCK_COLUMNS}, r.revision, r.shared_revision, d.deleted_on
FROM (SELECT coalesce(sum(revision), 0)::bigint AS revision,
             coalesce(sum(shared_revision) FILTER (WHERE user_id = ''), 0)::bigint AS shared_revision
      FROM core_memory.revision
      WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s AND user_id IN ('', %(user_id)s)) AS r
CROSS JOIN (SELECT min(create_time) AS deleted_on FROM core_memory.tombstone
            WHERE tenant_id = %(tenant)s
              AND ((kind = 'agent' AND subject_id = %(agent_id)s)
                OR (kind = 'user' AND subject_id = %(user_id)s))) AS d
LEFT JOIN ({_SEEN}) AS s ON true
LEFT JOIN <blocks> AS b ON b.tenant_id = %(tenant)s AND b.id = s.block_id
"""  # noqa: S608
)

_LIST = f"""
SELECT {BLOCK_COLUMNS} FROM <blocks> AS b
WHERE b.tenant_id = %(tenant)s {{conditions}}
ORDER BY b.create_time, b.id LIMIT %(limit)s
"""  # noqa: S608

VERSION = """
SELECT v.id, v.block_id, v.version, v.value, v.restored_version, v.create_time, v.user_id, c.kind, c.actor,
       c.agent_id, c.source_message_ids, c.trust_level, c.from_recall, c.step_id, c.trace_id, w.reason
FROM core_memory.block_version AS v
JOIN core_memory.memory_change AS c ON c.tenant_id = v.tenant_id AND c.sequence = v.change_sequence
LEFT JOIN core_memory.change_reason AS w ON w.tenant_id = v.tenant_id AND w.sequence = v.change_sequence
WHERE v.tenant_id = %(tenant)s
"""

_OF_BLOCK = f"{VERSION} AND v.block_id = %(block_id)s"
_VERSIONS_BEFORE = f"{_OF_BLOCK} AND v.version < %(before)s ORDER BY v.version DESC LIMIT %(limit)s"
_SOME_VERSIONS = f"{_OF_BLOCK} AND v.version = ANY(%(versions)s)"

# Writers hold this lock shared from the time they record until they commit.
_AUDIT_GATE = """
WITH gate AS MATERIALIZED (SELECT pg_advisory_xact_lock(core_memory.subject_key(%(tenant)s, 'audit', '')))
SELECT clock_timestamp() AS now FROM gate
"""

_CHANGES = """
SELECT c.sequence, c.create_time, c.kind, c.resource_id, c.actor, c.user_id, c.agent_id, c.old_version,
       c.new_version, c.old_sha256, c.new_sha256, c.old_chars, c.new_chars, c.source_message_ids, c.trust_level,
       c.from_recall, c.step_id, c.trace_id, w.reason
FROM core_memory.memory_change AS c
LEFT JOIN core_memory.change_reason AS w ON w.tenant_id = c.tenant_id AND w.sequence = c.sequence
WHERE c.tenant_id = %(tenant)s AND c.sequence > %(after)s {conditions}
ORDER BY c.sequence LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFilter:
    """Which blocks to list; empty fields do not restrict."""

    agent_id: str = ""
    user_id: str = ""
    label: str = ""
    is_template: bool | None = None
    template_name: str = ""
    end_user: str = ""
    """User to whom, without an agent, only own and shared blocks are shown, and of the past own blocks only; empty for
    no restriction."""
    as_of: datetime | None = None
    """Past moment; None for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFilter:
    """Which audit entries to list; empty fields do not restrict."""

    agent_id: str = ""
    user_id: str = ""
    block_id: str = ""
    actor: str = ""
    start: datetime | None = None
    end: datetime | None = None


async def await_writers(tx: Connection, tenant: str, as_of: datetime) -> None:
    """Returns when no write under way can still change what a past moment shows.

    Raises:
        Error: REASON_INVALID_FIELD, for a moment that lies ahead.
    """
    row = await (await tx.execute(_AUDIT_GATE, {"tenant": tenant})).fetchone()
    assert row is not None
    if as_of > row["now"]:
        raise invalid("as_of", f"{as_of.isoformat()} lies ahead of {row['now'].isoformat()}")


async def find(
    tx: Connection, tenant: str, block_id: str, *, lock: bool = False, as_of: datetime | None = None
) -> Block | None:
    """Returns a block by its id, locked until the commit if asked, or as it was; None when there is none."""
    query = _BY_ID.now + _LOCK if lock else _BY_ID.at(as_of)
    parameters = {"tenant": tenant, "block_id": block_id, "as_of": as_of}
    row = await (await tx.execute(query.encode(), parameters)).fetchone()
    return block_of(row) if row else None


async def find_seen(
    tx: Connection,
    tenant: str,
    agent_id: str,
    user_id: str,
    label: str,
    *,
    lock: bool = False,
    as_of: datetime | None = None,
) -> Seen | None:
    """Returns what an agent sees, or saw, under a label for a user, the user's own block first; None for nothing."""
    query = _BY_LABEL.now + _LOCK if lock else _BY_LABEL.at(as_of)
    parameters = {"tenant": tenant, "agent_id": agent_id, "user_id": user_id, "label": label, "as_of": as_of}
    row = await (await tx.execute(query.encode(), parameters)).fetchone()
    return Seen(block_of(row), attachment_of(row)) if row else None


async def attachments(
    tx: Connection, tenant: str, block_id: str, *, limit: int, bound: str = "", as_of: datetime | None = None
) -> tuple[list[Attachment], int]:
    """Returns who sees, or saw, a block, the first ones by agent and user, and the number of all.

    With `bound` only those for this user and for all users count.
    """
    parameters = {"tenant": tenant, "block_id": block_id, "bound": bound, "limit": limit, "as_of": as_of}
    rows = await (await tx.execute(_ATTACHMENTS.at(as_of).encode(), parameters)).fetchall()
    return [attachment_of(row) for row in rows], rows[0]["total"] if rows else 0


async def render(
    tx: Connection, tenant: str, agent_id: str, user_id: str, *, shared_only: bool, as_of: datetime | None = None
) -> Rendering:
    """Returns what an agent sees for a user, by label, with the revisions of now; or what it saw."""
    parameters = {
        "tenant": tenant,
        "agent_id": agent_id,
        "user_id": user_id,
        "shared_only": shared_only,
        "as_of": as_of,
    }
    rows = await (await tx.execute(_RENDER.at(as_of).encode(), parameters)).fetchall()
    blocks = sorted((block_of(row) for row in rows if row["id"] is not None), key=lambda block: block.label)
    first = rows[0]
    return Rendering(blocks, first["revision"], first["shared_revision"], first["deleted_on"])


async def list_blocks(
    tx: Connection, tenant: str, which: BlockFilter, *, after: Sequence[Any] | None, limit: int
) -> list[Block]:
    """Returns blocks in the order of creation.

    Args:
        tx: The tenant transaction.
        tenant: The tenant.
        which: What to list.
        after: Creation time (ISO 8601) and id of the last block already listed; None from the start.
        limit: Most blocks to return.
    """
    conditions = []
    if which.agent_id:
        conditions.append(f"AND b.id IN (SELECT block_id FROM ({_SEEN}) AS s)")  # noqa: S608
    elif which.user_id:
        conditions.append("AND b.user_id = %(user_id)s")
    elif which.end_user and which.as_of is None:
        conditions.append("AND (b.user_id = %(end_user)s OR (b.user_id = '' AND b.visibility = 'shared'))")
    if which.end_user and which.as_of is not None:
        conditions.append("AND b.user_id = %(end_user)s")
    if which.label:
        conditions.append("AND b.label = %(label)s")
    if which.is_template is not None:
        conditions.append("AND b.is_template = %(is_template)s")
    if which.template_name:
        conditions.append("AND b.template_name = %(template_name)s")
    if after is not None:
        conditions.append("AND (b.create_time, b.id) > (%(after_time)s::timestamptz, %(after_id)s)")
    parameters = {
        "tenant": tenant,
        "agent_id": which.agent_id,
        "user_id": which.user_id,
        "label": which.label,
        "is_template": which.is_template,
        "template_name": which.template_name,
        "end_user": which.end_user,
        "as_of": which.as_of,
        "shared_only": False,
        "after_time": after[0] if after else None,
        "after_id": after[1] if after else None,
        "limit": limit,
    }
    query = _Read.of(_LIST.format(conditions=" ".join(conditions))).at(which.as_of)
    cursor = await tx.execute(query.encode(), parameters)
    return [block_of(row) for row in await cursor.fetchall()]


async def list_versions(tx: Connection, tenant: str, block_id: str, *, before: int, limit: int) -> list[Version]:
    """Returns the versions with a number below `before`, newest first."""
    parameters = {"tenant": tenant, "block_id": block_id, "before": before, "limit": limit}
    cursor = await tx.execute(_VERSIONS_BEFORE, parameters)
    return [version_of(row) for row in await cursor.fetchall()]


async def versions(tx: Connection, tenant: str, block_id: str, numbers: Sequence[int]) -> dict[int, Version]:
    """Returns those of the numbered versions that exist, by number."""
    parameters = {"tenant": tenant, "block_id": block_id, "versions": list(numbers)}
    cursor = await tx.execute(_SOME_VERSIONS, parameters)
    found = [version_of(row) for row in await cursor.fetchall()]
    return {version.version: version for version in found}


async def list_changes(tx: Connection, tenant: str, which: ChangeFilter, *, after: int, limit: int) -> list[Change]:
    """Returns audit entries with a sequence above `after`, oldest first; writes under way are waited for."""
    conditions = []
    if which.agent_id:
        conditions.append(
            "AND (c.agent_id = %(agent_id)s OR c.resource_id IN (SELECT block_id FROM core_memory.attachment"
            " WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s))"
        )
    if which.user_id:
        conditions.append("AND c.user_id = %(user_id)s")
    if which.block_id:
        conditions.append("AND c.resource_id = %(block_id)s")
    if which.actor:
        conditions.append("AND c.actor = %(actor)s")
    if which.start:
        conditions.append("AND c.create_time >= %(start)s")
    if which.end:
        conditions.append("AND c.create_time < %(end)s")
    parameters = {
        "tenant": tenant,
        "agent_id": which.agent_id,
        "user_id": which.user_id,
        "block_id": which.block_id,
        "actor": which.actor,
        "start": which.start,
        "end": which.end,
        "after": after,
        "limit": limit,
    }
    await tx.execute(_AUDIT_GATE, parameters)
    cursor = await tx.execute(_CHANGES.format(conditions=" ".join(conditions)).encode(), parameters)
    return [change_of(row) for row in await cursor.fetchall()]
