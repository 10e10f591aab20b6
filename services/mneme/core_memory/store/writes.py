"""Writes of blocks and attachments: each one statement, with its version, audit entry and revisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from mneme.core_memory.blocks import Attachment, Author, Block, ChangeKind
from mneme.core_memory.store.rows import BLOCK_COLUMNS, audit_parameters, block_of
from mneme.errors.v1 import errors_pb2
from mneme.runtime import ids
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found

# `recorded_time` takes a lock that is shared among writers and waited for by readers of the audit and of the past: who
# has listed up to a sequence number, or read a moment, has then seen all before it. It comes after `bumped`, so that a
# writer does not wait for a counter with it.
_AUDIT = """
gate AS MATERIALIZED (
    SELECT core_memory.recorded_time(%(tenant)s) AS moment FROM (SELECT count(*) FROM bumped) AS done
), audit AS (
    INSERT INTO core_memory.memory_change
        (tenant_id, actor, user_id, kind, resource_id, agent_id, old_version, new_version, old_sha256, new_sha256,
         old_chars, new_chars, source_message_ids, trust_level, from_recall, step_id, trace_id, create_time)
    SELECT %(tenant)s, %(actor)s, %(author_user)s, %(kind)s, %(block_id)s, %(author_agent)s, %(old_version)s,
           %(new_version)s, %(old_sha256)s, %(new_sha256)s, %(old_chars)s, %(new_chars)s,
           %(source_message_ids)s::text[], %(trust_level)s, %(from_recall)s, %(step_id)s, %(trace_id)s, moment
    FROM gate
    RETURNING sequence, create_time
), why AS (
    INSERT INTO core_memory.change_reason (tenant_id, sequence, reason)
    SELECT %(tenant)s, sequence, %(reason)s FROM audit WHERE %(reason)s <> ''
)"""

_NEW_VERSION = """
made AS (
    INSERT INTO core_memory.block_version
        (tenant_id, id, block_id, version, value, change_sequence, user_id, restored_version, create_time)
    SELECT %(tenant)s, %(version_id)s, %(block_id)s, %(new_version)s, %(value)s, sequence, %(author_user)s,
           %(restored_version)s, create_time
    FROM audit WHERE %(new_version)s > %(old_version)s
), stated AS (
    INSERT INTO core_memory.block_state
        (tenant_id, block_id, change, create_time, label, limit_value, description, read_only, visibility, metadata_,
         version)
    SELECT %(tenant)s, %(block_id)s, %(change)s, create_time, %(label)s, %(limit_value)s, %(description)s,
           %(read_only)s, %(visibility)s, %(metadata_)s, %(new_version)s
    FROM audit
)"""

# Rows are locked in the order of their key, so that two edits of blocks with the same readers never deadlock.
_BUMP = """
bumped AS (
    INSERT INTO core_memory.revision AS r (tenant_id, agent_id, user_id, revision, shared_revision)
    SELECT %(tenant)s, a.agent_id, a.user_id, 1, %(shared)s
    FROM (SELECT agent_id, user_id FROM core_memory.attachment
          WHERE tenant_id = %(tenant)s AND block_id = %(block_id)s
          ORDER BY agent_id, user_id) AS a
    ON CONFLICT (tenant_id, agent_id, user_id) DO UPDATE
    SET revision = r.revision + 1, shared_revision = r.shared_revision + excluded.shared_revision
    RETURNING 1
)"""

_BUMP_ONE = """
bumped AS (
    INSERT INTO core_memory.revision AS r (tenant_id, agent_id, user_id, revision, shared_revision)
    SELECT %(tenant)s, agent_id, user_id, 1, %(shared)s FROM touched
    ON CONFLICT (tenant_id, agent_id, user_id) DO UPDATE
    SET revision = r.revision + 1, shared_revision = r.shared_revision + excluded.shared_revision
    RETURNING 1
)"""

_INSERT = f"""
WITH bumped AS (SELECT 1), {_AUDIT}, {_NEW_VERSION}
INSERT INTO core_memory.block AS b
    (tenant_id, id, label, value, limit_value, description, template_name, is_template, read_only, visibility,
     metadata_, user_id, create_time, update_time)
SELECT %(tenant)s, %(block_id)s, %(label)s, %(value)s, %(limit_value)s, %(description)s, %(template_name)s,
       %(is_template)s, %(read_only)s, %(visibility)s, %(metadata_)s, %(owner)s, create_time, create_time
FROM audit
RETURNING {BLOCK_COLUMNS}
"""  # noqa: S608

_UPDATE = f"""
WITH {_BUMP}, {_AUDIT}, {_NEW_VERSION}
UPDATE core_memory.block AS b
SET label = %(label)s, value = %(value)s, limit_value = %(limit_value)s, description = %(description)s,
    read_only = %(read_only)s, visibility = %(visibility)s, metadata_ = %(metadata_)s, version = %(new_version)s,
    change = %(change)s, update_time = audit.create_time
FROM audit
WHERE b.tenant_id = %(tenant)s AND b.id = %(block_id)s
RETURNING {BLOCK_COLUMNS}
"""  # noqa: S608

_DELETE = f"""
WITH {_BUMP}, {_AUDIT}
DELETE FROM core_memory.block WHERE tenant_id = %(tenant)s AND id = %(block_id)s
"""  # noqa: S608

# No row comes back when the attachment is there already, as asked or for another block.
_ATTACH = """
INSERT INTO core_memory.attachment AS a (tenant_id, agent_id, user_id, label, block_id, copy_per_user)
VALUES (%(tenant)s, %(agent_id)s, %(user_id)s, %(label)s, %(block_id)s, %(copy_per_user)s)
ON CONFLICT (tenant_id, agent_id, user_id, label) DO UPDATE SET copy_per_user = excluded.copy_per_user
WHERE a.block_id = excluded.block_id AND a.copy_per_user <> excluded.copy_per_user
RETURNING agent_id
"""

_IS_ATTACHED = """
SELECT 1 FROM core_memory.attachment
WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s AND user_id = %(user_id)s AND block_id = %(block_id)s
"""

_PERIOD_ENDED = f"""
WITH touched AS (SELECT %(agent_id)s AS agent_id, %(user_id)s AS user_id), {_BUMP_ONE}, {_AUDIT}, ended AS (
    UPDATE core_memory.attachment_period SET end_time = audit.create_time FROM audit
    WHERE tenant_id = %(tenant)s AND block_id = %(block_id)s AND agent_id = %(agent_id)s AND user_id = %(user_id)s
      AND end_time IS NULL
)"""  # noqa: S608

_ATTACHED = f"""{_PERIOD_ENDED}
INSERT INTO core_memory.attachment_period (tenant_id, agent_id, user_id, block_id, copy_per_user, start_time)
SELECT %(tenant)s, %(agent_id)s, %(user_id)s, %(block_id)s, %(copy_per_user)s, create_time FROM audit
"""  # noqa: S608

_DETACHED = f"{_PERIOD_ENDED} SELECT FROM audit"

_DETACH = """
DELETE FROM core_memory.attachment
WHERE tenant_id = %(tenant)s AND agent_id = %(agent_id)s AND user_id = %(user_id)s AND block_id = %(block_id)s
"""


async def insert(tx: Connection, tenant: str, block: Block, author: Author) -> Block:
    """Stores a new block with its first version; returns it as stored.

    Raises:
        Error: REASON_ALREADY_EXISTS, REASON_DELETED.
    """
    parameters = _parameters(tenant, author, ChangeKind.CREATED, None, block)
    with _named(block):
        row = await (await tx.execute(_INSERT, parameters)).fetchone()
    assert row is not None
    return block_of(row)


async def update(
    tx: Connection,
    tenant: str,
    before: Block,
    after: Block,
    author: Author,
    *,
    kind: ChangeKind = ChangeKind.UPDATED,
    restored_version: int = 0,
) -> Block:
    """Stores a change of a locked block, with a version when its number grew; returns it as stored.

    Raises:
        Error: REASON_ALREADY_EXISTS when an agent sees another block of the new label, REASON_DELETED.
    """
    parameters = _parameters(tenant, author, kind, before, after, restored_version)
    with _named(after):
        row = await (await tx.execute(_UPDATE, parameters)).fetchone()
    assert row is not None
    return block_of(row)


async def delete(tx: Connection, tenant: str, block: Block, author: Author) -> None:
    """Deletes a locked block with its versions and attachments; the audit keeps the fact."""
    parameters = _parameters(tenant, author, ChangeKind.DELETED, block, None)
    await tx.execute(_DELETE, parameters)


async def attach(tx: Connection, tenant: str, block: Block, attachment: Attachment, author: Author) -> None:
    """Lets an agent see a locked block; nothing happens when it does so already.

    Raises:
        Error: REASON_ALREADY_EXISTS when the agent sees another block of that label, REASON_DELETED.
    """
    parameters = {
        **_parameters(tenant, author, ChangeKind.ATTACHED, block, block),
        "agent_id": attachment.agent_id,
        "user_id": attachment.user_id,
        "copy_per_user": attachment.copy_per_user,
        "author_agent": attachment.agent_id,
        "author_user": attachment.user_id or author.user_id,
    }
    with _named(block, attachment.agent_id):
        if await (await tx.execute(_ATTACH, parameters)).fetchone() is not None:
            await tx.execute(_ATTACHED, parameters)
        elif await (await tx.execute(_IS_ATTACHED, parameters)).fetchone() is None:
            raise _label_taken(block, attachment.agent_id)


async def detach(tx: Connection, tenant: str, block: Block, attachment: Attachment, author: Author) -> None:
    """Takes a locked block from an agent.

    Raises:
        Error: REASON_NOT_FOUND, when it is not attached like this.
    """
    parameters = {
        **_parameters(tenant, author, ChangeKind.DETACHED, block, block),
        "agent_id": attachment.agent_id,
        "user_id": attachment.user_id,
        "author_agent": attachment.agent_id,
        "author_user": attachment.user_id or author.user_id,
    }
    if not (await tx.execute(_DETACH, parameters)).rowcount:
        raise not_found(f"attachment of {block.id} to {attachment.agent_id}")
    await tx.execute(_DETACHED, parameters)


async def refuse_deleted(tx: Connection, tenant: str, subjects: Sequence[tuple[str, str]]) -> None:
    """Returns when none of the subjects was deleted, and keeps them from being deleted until the commit.

    Called before any row is locked, as a purge takes the same locks first.

    Args:
        tx: The tenant transaction.
        tenant: The tenant.
        subjects: Pairs of kind (`agent` or `user`) and id; an empty id counts as none.

    Raises:
        Error: REASON_DELETED, naming the first subject that was.
    """
    for kind, subject in sorted(set(subjects)):
        if subject:
            with _named(None, subject):
                await tx.execute(
                    "SELECT core_memory.refuse_deleted(%(tenant)s, %(kind)s, %(subject)s)",
                    {"tenant": tenant, "kind": kind, "subject": subject},
                )


def _parameters(
    tenant: str,
    author: Author,
    kind: ChangeKind,
    before: Block | None,
    after: Block | None,
    restored_version: int = 0,
) -> dict[str, Any]:
    parameters = {"tenant": tenant, **audit_parameters(author, kind, before, after)}
    parameters["shared"] = int(any(block is not None and block.visibility == "shared" for block in (before, after)))
    if after is None:
        return parameters
    return {
        **parameters,
        "version_id": ids.derived("version", author.request_id, after.id, after.version),
        "change": before.change + 1 if before else 1,
        "restored_version": restored_version,
        "label": after.label,
        "value": after.value,
        "limit_value": after.limit,
        "description": after.description,
        "template_name": after.template_name,
        "is_template": after.is_template,
        "read_only": after.read_only,
        "visibility": after.visibility.value,
        "metadata_": Jsonb(after.metadata),
        "owner": after.user_id,
    }


@contextmanager
def _named(block: Block | None, subject: str = "") -> Iterator[None]:
    """Turns the constraints that a write can run into into typed errors."""
    try:
        yield
    except psycopg.errors.IntegrityError as error:
        constraint = error.diag.constraint_name
        if constraint == "not_deleted":
            kind = error.diag.table_name
            name = subject if subject.startswith(f"{kind}-") else f"the {kind}"
            raise Error(
                errors_pb2.REASON_DELETED, f"{name} was deleted", metadata={"resource": subject or f"{kind}"}
            ) from None
        if constraint == "attachment_label_key" and block is not None:
            raise _label_taken(block, subject) from None
        if constraint == "block_pkey" and block is not None:
            raise Error(
                errors_pb2.REASON_ALREADY_EXISTS, f"{block.id} exists already", metadata={"resource": block.id}
            ) from None
        raise


def _label_taken(block: Block, agent_id: str) -> Error:
    return Error(
        errors_pb2.REASON_ALREADY_EXISTS,
        f"label '{block.label}' is already attached to {agent_id or 'an agent that sees this block'}",
        metadata={"resource": block.id, "label": block.label, "agent_id": agent_id},
    )
