"""Rows of the database as the values of `blocks`."""

from __future__ import annotations

from typing import Any

from psycopg.rows import DictRow

from mneme.core_memory.blocks import Attachment, Author, Block, Change, ChangeKind, Version, Visibility

BLOCK_COLUMNS = (
    "b.id, b.label, b.value, b.limit_value, b.description, b.template_name, b.is_template, b.read_only, "
    "b.visibility, b.metadata_, b.user_id, b.version, b.change, b.create_time, b.update_time"
)


def block_of(row: DictRow) -> Block:
    """Returns the block in a row that holds BLOCK_COLUMNS."""
    return Block(
        id=row["id"],
        label=row["label"],
        value=row["value"],
        limit=row["limit_value"],
        description=row["description"],
        template_name=row["template_name"],
        is_template=row["is_template"],
        read_only=row["read_only"],
        visibility=Visibility(row["visibility"]),
        metadata=row["metadata_"],
        user_id=row["user_id"],
        version=row["version"],
        change=row["change"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def attachment_of(row: DictRow) -> Attachment:
    """Returns the attachment in a row."""
    return Attachment(row["agent_id"], row["attached_user"], row["copy_per_user"])


def author_of(row: DictRow) -> Author:
    """Returns who made an audit entry and why; an absent entry or reason gives empty fields."""
    return Author(
        actor=row["actor"],
        user_id=row["user_id"],
        agent_id=row["agent_id"],
        reason=row["reason"] or "",
        source_message_ids=tuple(row["source_message_ids"]),
        trust_level=row["trust_level"],
        from_recall=row["from_recall"],
        step_id=row["step_id"],
        trace_id=row["trace_id"],
    )


def version_of(row: DictRow) -> Version:
    """Returns the version in a row joined with its audit entry."""
    return Version(
        id=row["id"],
        block_id=row["block_id"],
        version=row["version"],
        value=row["value"],
        author=author_of(row),
        kind=ChangeKind(row["kind"]),
        restored_version=row["restored_version"],
        create_time=row["create_time"],
    )


def change_of(row: DictRow) -> Change:
    """Returns the audit entry in a row."""
    return Change(
        sequence=row["sequence"],
        create_time=row["create_time"],
        kind=ChangeKind(row["kind"]),
        resource_id=row["resource_id"],
        author=author_of(row),
        old_version=row["old_version"],
        new_version=row["new_version"],
        old_sha256=row["old_sha256"],
        new_sha256=row["new_sha256"],
        old_chars=row["old_chars"],
        new_chars=row["new_chars"],
    )


def audit_parameters(author: Author, kind: ChangeKind, before: Block | None, after: Block | None) -> dict[str, Any]:
    """Returns the parameters of an audit entry for a block that was `before` and is now `after`.

    Raises:
        ValueError: Neither is given.
    """
    block = after or before
    if block is None:
        raise ValueError("an audit entry needs a block")
    return {
        "actor": author.actor,
        "author_user": author.user_id,
        "author_agent": author.agent_id,
        "kind": kind.value,
        "block_id": block.id,
        "old_version": before.version if before else 0,
        "new_version": after.version if after else 0,
        "old_sha256": before.sha256 if before else "",
        "new_sha256": after.sha256 if after else "",
        "old_chars": len(before.value) if before else 0,
        "new_chars": len(after.value) if after else 0,
        "source_message_ids": list(author.source_message_ids),
        "trust_level": author.trust_level,
        "from_recall": author.from_recall,
        "step_id": author.step_id,
        "trace_id": author.trace_id,
        "reason": author.reason,
    }
