"""Tables of schema `core_memory`. The migrations build exactly these; a test compares them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(schema="core_memory")

_NOW = text("now()")
_EMPTY = text("''")


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default=_EMPTY)


def _tenant() -> Column[str]:
    return Column("tenant_id", Text, nullable=False)


block = Table(
    "block",
    metadata,
    _tenant(),
    Column("id", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("limit_value", Integer, nullable=False, comment="Largest length of value, in characters"),
    _text("description"),
    _text("template_name"),
    Column("is_template", Boolean, nullable=False, server_default=text("false")),
    Column("read_only", Boolean, nullable=False, server_default=text("false")),
    Column("visibility", Text, nullable=False, server_default=text("'private'")),
    Column("metadata_", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _text("user_id"),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("change", BigInteger, nullable=False, server_default=text("1"), comment="Changes of any column"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant_id", "id", name="block_pkey"),
    UniqueConstraint("tenant_id", "id", "label", name="block_label_key"),
    CheckConstraint("char_length(value) <= limit_value", name="block_within_limit"),
    CheckConstraint("visibility IN ('private', 'shared')", name="block_visibility"),
    Index("block_create_time", "tenant_id", "create_time", "id"),
    Index("block_user", "tenant_id", "user_id", postgresql_where=text("user_id <> ''")),
)

block_version = Table(
    "block_version",
    metadata,
    _tenant(),
    Column("id", Text, nullable=False, comment="Derived from the request that made it"),
    Column("block_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("value", Text, nullable=False),
    Column("change_sequence", BigInteger, nullable=False, comment="Entry of memory_change"),
    _text("user_id"),
    Column("restored_version", BigInteger, nullable=False, server_default=text("0")),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant_id", "id", name="block_version_pkey"),
    UniqueConstraint("tenant_id", "block_id", "version", name="block_version_number_key"),
    ForeignKeyConstraint(
        ["tenant_id", "block_id"],
        ["core_memory.block.tenant_id", "core_memory.block.id"],
        name="block_version_block_fkey",
        ondelete="CASCADE",
    ),
    Index("block_version_user", "tenant_id", "user_id", postgresql_where=text("user_id <> ''")),
)

# What a block was besides its text, after each change of any field.
block_state = Table(
    "block_state",
    metadata,
    _tenant(),
    Column("block_id", Text, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("label", Text, nullable=False),
    Column("limit_value", Integer, nullable=False),
    Column("description", Text, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("visibility", Text, nullable=False),
    Column("metadata_", JSONB, nullable=False),
    Column("version", BigInteger, nullable=False, comment="Text it had, in block_version"),
    PrimaryKeyConstraint("tenant_id", "block_id", "change", name="block_state_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "block_id"],
        ["core_memory.block.tenant_id", "core_memory.block.id"],
        name="block_state_block_fkey",
        ondelete="CASCADE",
    ),
)

attachment = Table(
    "attachment",
    metadata,
    _tenant(),
    Column("agent_id", Text, nullable=False),
    Column("user_id", Text, nullable=False, comment="Only for this user; empty for all"),
    Column("label", Text, nullable=False, comment="The block's; here so that the key makes it unique"),
    Column("block_id", Text, nullable=False),
    Column("copy_per_user", Boolean, nullable=False, server_default=text("false")),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant_id", "agent_id", "user_id", "label", name="attachment_label_key"),
    ForeignKeyConstraint(
        ["tenant_id", "block_id", "label"],
        ["core_memory.block.tenant_id", "core_memory.block.id", "core_memory.block.label"],
        name="attachment_block_fkey",
        onupdate="CASCADE",
        ondelete="CASCADE",
    ),
    Index("attachment_block", "tenant_id", "block_id"),
    Index("attachment_user", "tenant_id", "user_id", postgresql_where=text("user_id <> ''")),
)

# Who saw a block from when to when.
attachment_period = Table(
    "attachment_period",
    metadata,
    _tenant(),
    Column("agent_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("block_id", Text, nullable=False),
    Column("copy_per_user", Boolean, nullable=False),
    Column("start_time", DateTime(timezone=True), nullable=False),
    Column("end_time", DateTime(timezone=True), nullable=True, comment="Empty while it lasts"),
    PrimaryKeyConstraint("tenant_id", "block_id", "agent_id", "user_id", "start_time", name="attachment_period_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "block_id"],
        ["core_memory.block.tenant_id", "core_memory.block.id"],
        name="attachment_period_block_fkey",
        ondelete="CASCADE",
    ),
    Index("attachment_period_agent", "tenant_id", "agent_id"),
    Index("attachment_period_user", "tenant_id", "user_id", postgresql_where=text("user_id <> ''")),
)

revision = Table(
    "revision",
    metadata,
    _tenant(),
    Column("agent_id", Text, nullable=False),
    Column("user_id", Text, nullable=False, comment="Empty: what every user of the agent sees"),
    Column("revision", BigInteger, nullable=False, server_default=text("0")),
    Column("shared_revision", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("tenant_id", "agent_id", "user_id", name="revision_pkey"),
    Index("revision_user", "tenant_id", "user_id", postgresql_where=text("user_id <> ''")),
)

memory_change = Table(
    "memory_change",
    metadata,
    _tenant(),
    Column("sequence", BigInteger, Identity(always=True), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("actor", Text, nullable=False),
    _text("user_id"),
    Column("kind", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    _text("agent_id"),
    Column("old_version", BigInteger, nullable=False),
    Column("new_version", BigInteger, nullable=False),
    _text("old_sha256"),
    _text("new_sha256"),
    Column("old_chars", Integer, nullable=False),
    Column("new_chars", Integer, nullable=False),
    Column("source_message_ids", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("trust_level", SmallInteger, nullable=False, server_default=text("0")),
    Column("from_recall", Boolean, nullable=False, server_default=text("false")),
    _text("step_id"),
    _text("trace_id"),
    PrimaryKeyConstraint("tenant_id", "sequence", name="memory_change_pkey"),
    Index("memory_change_resource", "tenant_id", "resource_id", "sequence"),
    Index("memory_change_agent", "tenant_id", "agent_id", "sequence"),
    Index("memory_change_user", "tenant_id", "user_id", "sequence"),
    Index("memory_change_actor", "tenant_id", "actor", "sequence"),
    Index("memory_change_time", "tenant_id", "create_time"),
)

change_reason = Table(
    "change_reason",
    metadata,
    _tenant(),
    Column("sequence", BigInteger, nullable=False, comment="Entry of memory_change"),
    Column("reason", Text, nullable=False, comment="Free text: kept apart, so that it can be forgotten"),
    PrimaryKeyConstraint("tenant_id", "sequence", name="change_reason_pkey"),
)

tombstone = Table(
    "tombstone",
    metadata,
    _tenant(),
    Column("kind", Text, nullable=False, comment="agent or user"),
    Column("subject_id", Text, nullable=False),
    _text("operation_id"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant_id", "kind", "subject_id", name="tombstone_pkey"),
)

request = Table(
    "request",
    metadata,
    _tenant(),
    Column("request_id", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    PrimaryKeyConstraint("tenant_id", "request_id", name="request_pkey"),
    Index("request_create_time", "tenant_id", "create_time"),
)
