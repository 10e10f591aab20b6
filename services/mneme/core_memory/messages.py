"""Blocks, versions and audit entries as messages of the contract, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from mneme.common.v1 import common_pb2
from mneme.core_memory.blocks import (
    DEFAULT_LIMIT,
    Attachment,
    Author,
    Block,
    Change,
    ChangeKind,
    Version,
    Visibility,
)
from mneme.core_memory.v1 import core_memory_pb2 as pb
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error, invalid

METADATA_BYTES = 16 * 1024

_VISIBILITY = {
    Visibility.PRIVATE: common_pb2.BLOCK_VISIBILITY_PRIVATE,
    Visibility.SHARED: common_pb2.BLOCK_VISIBILITY_SHARED,
}
_VISIBILITY_OF = {number: visibility for visibility, number in _VISIBILITY.items()}
_KIND = {kind: common_pb2.MemoryChangeKind.Value(f"MEMORY_CHANGE_KIND_{kind.name}") for kind in ChangeKind}


def block_message(block: Block) -> pb.Block:
    """Returns a stored block as its message."""
    message = pb.Block(
        block_id=block.id,
        label=block.label,
        value=block.value,
        limit_chars=block.limit,
        description=block.description,
        read_only=block.read_only,
        is_template=block.is_template,
        template_name=block.template_name,
        visibility=_VISIBILITY[block.visibility],
        version=block.version,
        etag=block.etag,
        create_time=_timestamp(block.create_time),
        update_time=_timestamp(block.update_time),
        user_id=block.user_id,
    )
    if block.metadata:
        message.metadata.update(block.metadata)
    return message


def attachment_message(attachment: Attachment) -> pb.BlockAttachment:
    """Returns an attachment as its message."""
    return pb.BlockAttachment(
        agent_id=attachment.agent_id, user_id=attachment.user_id, copy_per_user=attachment.copy_per_user
    )


def version_message(version: Version) -> pb.BlockVersion:
    """Returns a version as its message."""
    return pb.BlockVersion(
        version_id=version.id,
        block_id=version.block_id,
        version=version.version,
        value=version.value,
        actor=version.author.actor,
        user_id=version.author.user_id,
        kind=_KIND[version.kind],
        provenance=provenance_message(version.author),
        create_time=_timestamp(version.create_time),
        restored_version=version.restored_version,
    )


def change_message(change: Change) -> common_pb2.MemoryChange:
    """Returns an audit entry as its message."""
    return common_pb2.MemoryChange(
        sequence=change.sequence,
        create_time=_timestamp(change.create_time),
        actor=change.author.actor,
        user_id=change.author.user_id,
        kind=_KIND[change.kind],
        resource_id=change.resource_id,
        agent_id=change.author.agent_id,
        old_version=change.old_version,
        new_version=change.new_version,
        old_sha256=change.old_sha256,
        new_sha256=change.new_sha256,
        old_chars=change.old_chars,
        new_chars=change.new_chars,
        provenance=provenance_message(change.author),
        trace_id=change.author.trace_id,
    )


def provenance_message(author: Author) -> common_pb2.Provenance:
    """Returns why something was written."""
    return common_pb2.Provenance(
        reason=author.reason,
        source_message_ids=author.source_message_ids,
        trust_level=common_pb2.TrustLevel.ValueType(author.trust_level),
        from_recall=author.from_recall,
        step_id=author.step_id,
    )


def new_block(message: pb.Block, template: Block | None, *, block_id: str, user_id: str) -> Block:
    """Returns the block that a creation asks for, with unset fields from the template.

    Args:
        message: The block as requested; its output-only fields are ignored.
        template: Block to take unset fields from; None for none.
        block_id: Its id.
        user_id: User whose own block it becomes; empty for none.

    Raises:
        Error: REASON_INVALID_FIELD, when there is no label, or the metadata is too large.
    """
    base = template or Block(id=block_id, label="", value="", limit=DEFAULT_LIMIT)
    label = message.label or base.label
    if not label:
        raise invalid("block.label", "must not be empty unless a template gives it")
    template_name = message.template_name or base.template_name
    return Block(
        id=block_id,
        label=label,
        value=message.value or base.value,
        limit=message.limit_chars or base.limit,
        description=message.description or base.description,
        template_name=template_name or (label if message.is_template else ""),
        is_template=message.is_template,
        read_only=message.read_only or base.read_only,
        visibility=_VISIBILITY_OF.get(message.visibility, base.visibility),
        metadata=_metadata(message) if message.HasField("metadata") else base.metadata,
        user_id=user_id,
    )


def updated_block(block: Block, request: pb.UpdateBlockRequest) -> Block:
    """Returns the block as an update leaves it; the same version number unless its text changes.

    Raises:
        Error: REASON_INVALID_UPDATE_MASK, or REASON_INVALID_FIELD for a value that the field cannot take.
    """
    paths = list(request.update_mask.paths) if request.HasField("update_mask") else None
    if paths is None:
        paths = [field.name for field, _ in request.block.ListFields() if field.name in _UPDATES]
    unknown = next((path for path in paths if path not in _UPDATES), None)
    if unknown is not None:
        raise invalid(
            "update_mask",
            f"'{unknown[:64]}' is not a field that can be changed",
            errors_pb2.REASON_INVALID_UPDATE_MASK,
            path=unknown,
        )
    changes: dict[str, Any] = {}
    for path in paths:
        name, read = _UPDATES[path]
        changes[name] = read(request.block)
    after = replace(block, **changes)
    return with_value(after, after.value, since=block)


def with_value(block: Block, value: str, *, since: Block) -> Block:
    """Returns the block with a text, and the next version number if that differs from the text it had."""
    version = since.version + 1 if value != since.value else since.version
    return replace(block, value=value, version=version)


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _label(message: pb.Block) -> str:
    if not message.label:
        raise invalid("block.label", "must not be empty")
    return message.label


def _limit(message: pb.Block) -> int:
    if not message.limit_chars:
        raise invalid("block.limit_chars", "must be at least 1", limit="1", value="0")
    return message.limit_chars


def _visibility(message: pb.Block) -> Visibility:
    if message.visibility not in _VISIBILITY_OF:
        raise invalid("block.visibility", "must be PRIVATE or SHARED")
    return _VISIBILITY_OF[message.visibility]


def _metadata(message: pb.Block) -> dict[str, Any]:
    metadata: dict[str, Any] = json_format.MessageToDict(message.metadata)
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > METADATA_BYTES:
        raise Error(
            errors_pb2.REASON_TEXT_TOO_LONG,
            f"block.metadata: {size} bytes as JSON, at most {METADATA_BYTES} are accepted",
            metadata={"field": "block.metadata", "size": str(size), "limit": str(METADATA_BYTES)},
        )
    return metadata


_UPDATES: dict[str, tuple[str, Callable[[pb.Block], Any]]] = {
    "label": ("label", _label),
    "value": ("value", lambda message: message.value),
    "limit_chars": ("limit", _limit),
    "description": ("description", lambda message: message.description),
    "read_only": ("read_only", lambda message: message.read_only),
    "visibility": ("visibility", _visibility),
    "metadata": ("metadata", _metadata),
}
