"""The tables of schema `recall`: the single description that migrations are compared with."""

from __future__ import annotations

from typing import Any

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

from mneme.runtime.lexical import lexical_tables
from mneme.runtime.vectors import vector_tables

metadata = MetaData(schema="recall")


def _key(name: str, type_: Any = Text) -> Column[Any]:
    return Column(name, type_, primary_key=True, nullable=False, autoincrement=False)


def _column(name: str, type_: Any = Text, *, nullable: bool = False) -> Column[Any]:
    return Column(name, type_, nullable=nullable)


_TIME = DateTime(timezone=True)

messages = Table(
    "messages",
    metadata,
    _key("tenant_id"),
    _key("id"),
    _column("agent_id"),
    _column("conversation_id"),
    _column("user_id"),
    _column("sequence_id", BigInteger),
    _column("role", SmallInteger),
    _column("text"),
    # JSON as text, not jsonb: it is given back byte for byte.
    _column("content"),
    _column("tool_calls", JSONB),
    _column("tool_call_id"),
    _column("tool_ok", Boolean, nullable=True),
    _column("created_at", _TIME),
    _column("step_id"),
    _column("run_id"),
    _column("token_count", Integer),
    # Serialised mneme.common.v1.Provenance.
    _column("provenance", BYTEA, nullable=True),
    _column("hidden", Boolean),
    _column("index_state", SmallInteger),
    _column("speaker"),
    _column("kind", SmallInteger),
    # Vector space of `embedding`; both are empty until the message is indexed by meaning.
    _column("space", nullable=True),
    _column("embedding", HALFVEC(), nullable=True),
    # Value of `vector_revision.revision` when the vector was written.
    Column("vector_revision", BigInteger, nullable=False, server_default=text("0")),
    # The space that the deployment changes to; set without a vector where its model finds none in the text.
    _column("next_space", nullable=True),
    _column("next_embedding", HALFVEC(), nullable=True),
    CheckConstraint("(embedding IS NULL) = (space IS NULL)", name="messages_space"),
)
Index(
    "messages_sequence",
    messages.c.tenant_id,
    messages.c.conversation_id,
    messages.c.sequence_id,
    unique=True,
)
Index(
    "messages_time",
    messages.c.tenant_id,
    messages.c.agent_id,
    messages.c.created_at,
    messages.c.conversation_id,
    messages.c.sequence_id,
)
Index(
    "messages_vector",
    messages.c.tenant_id,
    messages.c.agent_id,
    messages.c.vector_revision,
    postgresql_where=messages.c.space.is_not(None),
)
Index("messages_user", messages.c.tenant_id, messages.c.user_id, postgresql_where=messages.c.user_id != "")

conversation = Table(
    "conversation",
    metadata,
    _key("tenant_id"),
    _key("conversation_id"),
    _column("agent_id"),
    _column("user_id"),
    _column("next_sequence", BigInteger),
    # Sequence of the window's first message.
    _column("window_start", BigInteger),
    _column("evicted_count", BigInteger),
    _column("summary_version", BigInteger),
    _column("create_time", _TIME),
    CheckConstraint("window_start BETWEEN 1 AND next_sequence", name="conversation_window"),
)
Index("conversation_agent", conversation.c.tenant_id, conversation.c.agent_id)
Index(
    "conversation_user",
    conversation.c.tenant_id,
    conversation.c.user_id,
    postgresql_where=conversation.c.user_id != "",
)

# All versions stay, so that the prompt of an old step can be built again.
summary = Table(
    "summary",
    metadata,
    _key("tenant_id"),
    _key("conversation_id"),
    _key("version", BigInteger),
    _column("text"),
    _column("first_kept_sequence", BigInteger),
    _column("actor"),
    _column("create_time", _TIME),
)

# Where each call and its result stand, so that neither is ever kept without the other.
tool_call = Table(
    "tool_call",
    metadata,
    _key("tenant_id"),
    _key("conversation_id"),
    _key("call_id"),
    _column("sequence_id", BigInteger),
    _column("result_sequence", BigInteger, nullable=True),
    CheckConstraint("result_sequence > sequence_id", name="tool_call_order"),
)
Index("tool_call_sequence", tool_call.c.tenant_id, tool_call.c.conversation_id, tool_call.c.sequence_id)

tombstone = Table(
    "tombstone",
    metadata,
    _key("tenant_id"),
    _key("subject_kind"),
    _key("subject_id"),
    _column("operation_id"),
    _column("create_time", _TIME),
)

# Work, not content: a worker reads it over all tenants.
index_queue = Table(
    "index_queue",
    metadata,
    _key("tenant_id"),
    _key("message_id"),
    _column("attempts", Integer),
    _column("due_time", _TIME),
)
Index("index_queue_due", index_queue.c.due_time)

# Rules: ids and days, no content. A worker reads them over all tenants.
retention = Table(
    "retention",
    metadata,
    _key("tenant_id"),
    _key("subject_kind"),
    _key("subject_id"),
    _column("max_age_days", Integer),
)

# Agents that have messages, and when these are next looked through for what is too old.
retention_due = Table(
    "retention_due",
    metadata,
    _key("tenant_id"),
    _key("agent_id"),
    _column("due_time", _TIME),
)
Index("retention_due_time", retention_due.c.due_time)

# Counts the writes of vectors, which take turns in an agent.
vector_revision = Table(
    "vector_revision",
    metadata,
    _key("tenant_id"),
    _key("agent_id"),
    _column("revision", BigInteger),
    _column("vector_count", BigInteger),
)

lexical_tables(metadata)
vector_tables(metadata)
