"""The tables of schema `archival`: the single description that migrations are compared with."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import HALFVEC
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
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL

from mneme.runtime.lexical import lexical_tables
from mneme.runtime.vectors import vector_tables

metadata = MetaData(schema="archival")


def _text(name: str, **options: Any) -> Column[Any]:
    return Column(name, Text, nullable=False, **options)


def _number(name: str, type_: Any = Integer) -> Column[Any]:
    return Column(name, type_, nullable=False)


def _time(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


agent_passages = Table(
    "agent_passages",
    metadata,
    _text("tenant_id"),
    _text("id"),
    Column("agent_id", Text),
    Column("knowledge_base_id", Text),
    _text("owner_id"),
    _text("user_id"),
    _text("text"),
    Column("embedding", HALFVEC()),
    Column("embedding_config", Text),
    Column("metadata_", JSONB, nullable=False),
    _number("kind", SmallInteger),
    _number("importance", REAL),
    Column("tags", ARRAY(Text), nullable=False),
    _time("valid_from", nullable=True),
    _time("valid_to", nullable=True),
    _text("superseded_by"),
    _text("superseded_reason"),
    _time("superseded_at", nullable=True),
    Column("quarantined", Boolean, nullable=False),
    _text("reason"),
    Column("source_message_ids", ARRAY(Text), nullable=False),
    _number("trust_level", SmallInteger),
    Column("from_recall", Boolean, nullable=False),
    _text("step_id"),
    _text("document_id"),
    _number("document_start", BigInteger),
    _number("document_end", BigInteger),
    Column("content_sha256", LargeBinary, nullable=False),
    _number("index_state", SmallInteger),
    _text("index_error"),
    _number("version", BigInteger),
    _number("revision", BigInteger),
    _time("created_at"),
    _time("updated_at"),
    # The space that the deployment changes to; set without a vector where its model finds none in the text.
    Column("next_space", Text),
    Column("next_embedding", HALFVEC()),
    PrimaryKeyConstraint("tenant_id", "id", name="agent_passages_pkey"),
    CheckConstraint("num_nonnulls(agent_id, knowledge_base_id) = 1", name="agent_passages_one_owner"),
    CheckConstraint("owner_id = coalesce(agent_id, knowledge_base_id)", name="agent_passages_owner_id"),
    CheckConstraint("(embedding IS NULL) = (embedding_config IS NULL)", name="agent_passages_space"),
)
Index(
    "agent_passages_content",
    agent_passages.c.tenant_id,
    agent_passages.c.owner_id,
    agent_passages.c.user_id,
    agent_passages.c.content_sha256,
    agent_passages.c.document_id,
    agent_passages.c.quarantined,
    agent_passages.c.valid_to,
    unique=True,
    postgresql_nulls_not_distinct=True,
    postgresql_where=text("superseded_by = ''"),
)
Index(
    "agent_passages_document",
    agent_passages.c.tenant_id,
    agent_passages.c.owner_id,
    agent_passages.c.document_id,
    postgresql_where=text("document_id <> ''"),
)
Index(
    "agent_passages_created",
    agent_passages.c.tenant_id,
    agent_passages.c.owner_id,
    agent_passages.c.created_at,
)
Index(
    "agent_passages_standing",
    agent_passages.c.tenant_id,
    agent_passages.c.owner_id,
    postgresql_where=text("kind = ANY (ARRAY[2, 3])"),
)
Index(
    "agent_passages_revision",
    agent_passages.c.tenant_id,
    agent_passages.c.owner_id,
    agent_passages.c.revision,
)
Index(
    "agent_passages_begin",
    agent_passages.c.tenant_id,
    agent_passages.c.owner_id,
    agent_passages.c.valid_from,
    postgresql_where=text("valid_from IS NOT NULL"),
)
Index(
    "agent_passages_end",
    agent_passages.c.tenant_id,
    agent_passages.c.owner_id,
    agent_passages.c.valid_to,
    postgresql_where=text("valid_to IS NOT NULL"),
)
Index(
    "agent_passages_user",
    agent_passages.c.tenant_id,
    agent_passages.c.user_id,
    postgresql_where=text("user_id <> ''"),
)

passage_version = Table(
    "passage_version",
    metadata,
    _text("tenant_id"),
    _text("passage_id"),
    _number("version", BigInteger),
    _text("owner_id"),
    _text("user_id"),
    _text("text"),
    Column("content_sha256", LargeBinary, nullable=False),
    Column("embedding", HALFVEC()),
    Column("embedding_config", Text),
    Column("attributes", JSONB, nullable=False),
    _time("recorded_from"),
    _time("recorded_to"),
    PrimaryKeyConstraint("tenant_id", "passage_id", "version", name="passage_version_pkey"),
)
Index("passage_version_owner", passage_version.c.tenant_id, passage_version.c.owner_id)
Index(
    "passage_version_user",
    passage_version.c.tenant_id,
    passage_version.c.user_id,
    postgresql_where=text("user_id <> ''"),
)

scope = Table(
    "scope",
    metadata,
    _text("tenant_id"),
    _text("owner_id"),
    _number("revision", BigInteger),
    _number("passage_count", BigInteger),
    PrimaryKeyConstraint("tenant_id", "owner_id", name="scope_pkey"),
    postgresql_with={"fillfactor": "70"},
)

knowledge_base = Table(
    "knowledge_base",
    metadata,
    _text("tenant_id"),
    _text("id"),
    _text("display_name"),
    _text("description"),
    Column("metadata_", JSONB, nullable=False),
    _time("created_at"),
    _time("updated_at"),
    PrimaryKeyConstraint("tenant_id", "id", name="knowledge_base_pkey"),
    UniqueConstraint("tenant_id", "display_name", name="knowledge_base_display_name"),
)
Index(
    "knowledge_base_created",
    knowledge_base.c.tenant_id,
    knowledge_base.c.created_at,
    knowledge_base.c.id,
)

attachment = Table(
    "attachment",
    metadata,
    _text("tenant_id"),
    _text("agent_id"),
    _text("knowledge_base_id"),
    _time("created_at"),
    PrimaryKeyConstraint("tenant_id", "agent_id", "knowledge_base_id", name="attachment_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "knowledge_base_id"],
        ["archival.knowledge_base.tenant_id", "archival.knowledge_base.id"],
        name="attachment_knowledge_base",
        ondelete="CASCADE",
    ),
)
Index("attachment_by_knowledge_base", attachment.c.tenant_id, attachment.c.knowledge_base_id)

memory_change = Table(
    "memory_change",
    metadata,
    _text("tenant_id"),
    Column("sequence", BigInteger, Identity(always=True), nullable=False),
    _time("create_time"),
    _text("actor"),
    _text("user_id"),
    _number("kind", SmallInteger),
    _text("resource_id"),
    _text("agent_id"),
    _text("knowledge_base_id"),
    _number("old_version", BigInteger),
    _number("new_version", BigInteger),
    _text("old_sha256"),
    _text("new_sha256"),
    _number("old_chars"),
    _number("new_chars"),
    _text("reason"),
    Column("source_message_ids", ARRAY(Text), nullable=False),
    _number("trust_level", SmallInteger),
    Column("from_recall", Boolean, nullable=False),
    _text("step_id"),
    _text("trace_id"),
    PrimaryKeyConstraint("tenant_id", "sequence", name="memory_change_pkey"),
)
Index("memory_change_resource", memory_change.c.tenant_id, memory_change.c.resource_id)
Index("memory_change_agent", memory_change.c.tenant_id, memory_change.c.agent_id, memory_change.c.sequence)
Index(
    "memory_change_knowledge_base",
    memory_change.c.tenant_id,
    memory_change.c.knowledge_base_id,
    memory_change.c.sequence,
    postgresql_where=text("knowledge_base_id <> ''"),
)
Index(
    "memory_change_user",
    memory_change.c.tenant_id,
    memory_change.c.user_id,
    memory_change.c.sequence,
    postgresql_where=text("user_id <> ''"),
)
Index("memory_change_actor", memory_change.c.tenant_id, memory_change.c.actor, memory_change.c.sequence)
Index("memory_change_time", memory_change.c.tenant_id, memory_change.c.create_time)

tombstone = Table(
    "tombstone",
    metadata,
    _text("tenant_id"),
    _text("subject_kind"),
    _text("subject_id"),
    _text("operation_id"),
    _time("create_time"),
    PrimaryKeyConstraint("tenant_id", "subject_kind", "subject_id", name="tombstone_pkey"),
)

index_queue = Table(
    "index_queue",
    metadata,
    _text("tenant_id"),
    _text("passage_id"),
    _text("owner_id"),
    _number("attempts"),
    _time("due_time"),
    PrimaryKeyConstraint("tenant_id", "passage_id", name="index_queue_pkey"),
)
Index("index_queue_due", index_queue.c.due_time)
Index("index_queue_owner", index_queue.c.tenant_id, index_queue.c.owner_id)

ingest = Table(
    "ingest",
    metadata,
    _text("tenant_id"),
    _text("request_id"),
    _text("agent_id"),
    _text("knowledge_base_id"),
    _text("owner_id"),
    _text("user_id"),
    _number("stream", BigInteger),
    _number("next_index", BigInteger),
    _number("inserted", BigInteger),
    _number("duplicates", BigInteger),
    _number("errors", BigInteger),
    _number("passages", BigInteger),
    _time("create_time"),
    _time("update_time"),
    PrimaryKeyConstraint("tenant_id", "request_id", name="ingest_pkey"),
)
Index("ingest_owner", ingest.c.tenant_id, ingest.c.owner_id)
Index("ingest_update_time", ingest.c.tenant_id, ingest.c.update_time)

ingest_error = Table(
    "ingest_error",
    metadata,
    _text("tenant_id"),
    _text("request_id"),
    _number("position", BigInteger),
    Column("failure", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant_id", "request_id", "position", name="ingest_error_pkey"),
    ForeignKeyConstraint(
        ["tenant_id", "request_id"],
        ["archival.ingest.tenant_id", "archival.ingest.request_id"],
        name="ingest_error_ingest",
        ondelete="CASCADE",
    ),
)

request = Table(
    "request",
    metadata,
    _text("tenant_id"),
    _text("request_id"),
    _text("method"),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("tenant_id", "request_id", name="request_pkey"),
)
Index("request_create_time", request.c.create_time)

lexical_tables(metadata)
vector_tables(metadata)
