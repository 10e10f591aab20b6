"""Tables of schema `orchestrator`. The migrations build exactly these; a test compares them.

Content tables begin with `tenant_id` and are under row-level security. Work tables (`mailbox`, `conversation_lease`,
`worker`, `timer_head`, `operation_head`) hold ids, times and priorities only: a worker looks for work there without a
tenant and then opens a transaction under the row's tenant.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
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
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "orchestrator"
metadata = MetaData(schema=SCHEMA)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default=text("''"))


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _small(name: str) -> Column[int]:
    return Column(name, SmallInteger, nullable=False, server_default=text("0"))


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _key(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _moment(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=text("now()"))


def _perhaps(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=True)


agent = Table(
    "agent",
    metadata,
    _key("tenant_id"),
    _key("agent_id"),
    _text("user_id"),
    Column("state", SmallInteger, nullable=False, comment="AgentState of the contract"),
    Column("version", BigInteger, nullable=False, server_default=text("1"), comment="The etag"),
    Column("definition", LargeBinary, nullable=False, comment="The contract's Agent, without output fields"),
    _text("operation_id"),
    _moment("create_time"),
    _moment("update_time"),
    PrimaryKeyConstraint("tenant_id", "agent_id", name="agent_pkey"),
    Index("agent_user", "tenant_id", "user_id", "agent_id"),
)

conversation = Table(
    "conversation",
    metadata,
    _key("tenant_id"),
    _key("conversation_id"),
    _key("agent_id"),
    _text("user_id"),
    _text("display_name"),
    Column("metadata_", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _flag("deleting"),
    _moment("create_time"),
    PrimaryKeyConstraint("tenant_id", "conversation_id", name="conversation_pkey"),
    Index("conversation_agent", "tenant_id", "agent_id", "conversation_id"),
    Index("conversation_user", "tenant_id", "user_id", "conversation_id"),
)

conversation_lease = Table(
    "conversation_lease",
    metadata,
    _key("conversation_id"),
    _key("tenant_id"),
    Column("worker_id", Text, nullable=False, server_default=text("''"), comment="Worked on it last"),
    Column("epoch", BigInteger, nullable=False, server_default=text("0"), comment="Grows with each new holder"),
    Column("run_id", Text, nullable=False, server_default=text("''"), comment="Run in progress; empty for none"),
    Column("waiting_until", DateTime(timezone=True), comment="That run waits for its caller, at most until then"),
    Column("warned", Boolean, nullable=False, server_default=text("false"), comment="Of memory pressure, this period"),
    Column(
        "nudged",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Events may wait: set by whoever queues one, so that a run's end need not look in vain",
    ),
    _perhaps("paused_until"),
    _moment("update_time"),
    PrimaryKeyConstraint("conversation_id", name="conversation_lease_pkey"),
)

worker = Table(
    "worker",
    metadata,
    _key("worker_id"),
    Column("address", Text, nullable=False, comment="host:port that other replicas dial"),
    _moment("start_time"),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("worker_id", name="worker_pkey"),
)

event = Table(
    "event",
    metadata,
    _key("tenant_id"),
    _key("event_id"),
    _key("request_id"),
    Column("request_sha256", LargeBinary, nullable=False),
    _key("agent_id"),
    _key("conversation_id"),
    _key("run_id"),
    _text("user_id"),
    Column("actor", Text, nullable=False, comment="Who sent it, for the audit of what it leads to"),
    Column("kind", SmallInteger, nullable=False, comment="EventKind of the contract"),
    _key("text"),
    _text("speaker"),
    _flag("bypass_cache"),
    _moment("create_time"),
    PrimaryKeyConstraint("tenant_id", "event_id", name="event_pkey"),
    UniqueConstraint("tenant_id", "request_id", name="event_request_key"),
    Index("event_conversation", "tenant_id", "conversation_id"),
)

mailbox = Table(
    "mailbox",
    metadata,
    _key("event_id"),
    _key("tenant_id"),
    _key("conversation_id"),
    _key("run_id"),
    Column("priority", SmallInteger, nullable=False, comment="0 user, 1 system and interaction, 2 timed"),
    Column("arrival", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    PrimaryKeyConstraint("event_id", name="mailbox_pkey"),
    Index("mailbox_conversation", "conversation_id", "priority", "arrival"),
)

run = Table(
    "run",
    metadata,
    _key("tenant_id"),
    _key("run_id"),
    _key("agent_id"),
    _key("conversation_id"),
    _text("user_id"),
    _key("event_id"),
    Column("event_kind", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False, comment="RunState of the contract"),
    _small("stop_reason"),
    Column("failure", LargeBinary, nullable=True, comment="The contract's Failure"),
    Column("ahead_count", Integer, nullable=False, server_default=text("0"), comment="Events before it at acceptance"),
    Column("step_count", Integer, nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("begun_count", Integer, nullable=False, server_default=text("0"), comment="Since it was last queued"),
    _flag("cancel_requested"),
    Column("waiting_call", Text, nullable=False, server_default=text("''"), comment="Call that the caller must answer"),
    _flag("waiting_approval"),
    _number("input_tokens"),
    _number("output_tokens"),
    _number("cache_read_tokens"),
    _number("cache_write_tokens"),
    _number("model_calls"),
    _number("cost_micro_usd"),
    Column("last_sequence", BigInteger, nullable=False, server_default=text("1"), comment="1 is `queued`, not stored"),
    _moment("create_time"),
    _perhaps("start_time"),
    _perhaps("end_time"),
    PrimaryKeyConstraint("tenant_id", "run_id", name="run_pkey"),
    Index("run_conversation", "tenant_id", "conversation_id", "run_id"),
    Index("run_agent", "tenant_id", "agent_id", "run_id"),
)

run_event = Table(
    "run_event",
    metadata,
    _key("tenant_id"),
    _key("run_id"),
    Column("sequence", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False, comment="The contract's RunEvent"),
    PrimaryKeyConstraint("tenant_id", "run_id", "sequence", name="run_event_pkey"),
)

step = Table(
    "step",
    metadata,
    _key("tenant_id"),
    _key("step_id"),
    _key("run_id"),
    _key("agent_id"),
    _key("conversation_id"),
    _text("user_id"),
    Column("number", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("model", Text, nullable=False),
    _text("model_reason"),
    Column("output", JSONB, nullable=False, comment="What the model wrote: text, calls, reasoning, stop reason"),
    Column("inputs", JSONB, nullable=False, comment="Messages that entered the prompt with this step"),
    Column("expected_sequence", BigInteger, nullable=False, comment="Where its messages belong in recall"),
    Column("done", Boolean, nullable=False, server_default=text("false"), comment="Effects made, messages in recall"),
    _text("continue_reason"),
    _number("input_tokens"),
    _number("output_tokens"),
    _number("cache_read_tokens"),
    _number("cache_write_tokens"),
    _number("cost_micro_usd"),
    Column("model_microseconds", BigInteger, nullable=False, server_default=text("0")),
    Column("prompt_sha256", Text, nullable=False),
    Column("render_version", Integer, nullable=False),
    Column("references_", JSONB, nullable=False, comment="What the prompt was made of, in order"),
    _moment("create_time"),
    PrimaryKeyConstraint("tenant_id", "step_id", name="step_pkey"),
    UniqueConstraint("tenant_id", "run_id", "number", name="step_number_key"),
    Index("step_time", "tenant_id", "create_time"),
    Index("step_conversation", "tenant_id", "conversation_id"),
)

call_result = Table(
    "call_result",
    metadata,
    _key("tenant_id"),
    _key("run_id"),
    _key("call_id"),
    Column("approved", Boolean, nullable=True, comment="What the caller decided; null where nobody was asked"),
    Column("ok", Boolean, nullable=True, comment="Null until there is a result"),
    _text("text"),
    Column("details", JSONB, nullable=False, server_default=text("'{}'::jsonb"), comment="Of one that was shown"),
    PrimaryKeyConstraint("tenant_id", "run_id", "call_id", name="call_result_pkey"),
)

user_activity = Table(
    "user_activity",
    metadata,
    _key("tenant_id"),
    _key("agent_id"),
    _key("user_id"),
    Column("model_run_count", BigInteger, nullable=False, comment="Runs that asked a model: part of a cache basis"),
    PrimaryKeyConstraint("tenant_id", "agent_id", "user_id", name="user_activity_pkey"),
)

side_usage = Table(
    "side_usage",
    metadata,
    _key("tenant_id"),
    Column("day", Date, nullable=False, comment="In UTC"),
    _key("agent_id"),
    Column("purpose", Text, nullable=False, comment="What a model was asked for beside the steps of turns"),
    _key("model"),
    _number("model_calls"),
    _number("input_tokens"),
    _number("output_tokens"),
    _number("cache_read_tokens"),
    _number("cache_write_tokens"),
    _number("cost_micro_usd"),
    PrimaryKeyConstraint("tenant_id", "day", "agent_id", "purpose", "model", name="side_usage_pkey"),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    _key("tenant_id"),
    _key("event_id"),
    _key("run_id"),
    _key("agent_id"),
    _key("conversation_id"),
    _text("user_id"),
    Column("kind", SmallInteger, nullable=False),
    Column("failure", LargeBinary, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    _moment("create_time"),
    PrimaryKeyConstraint("tenant_id", "event_id", name="dead_letter_pkey"),
    Index("dead_letter_time", "tenant_id", "create_time", "event_id"),
)

timer = Table(
    "timer",
    metadata,
    _key("tenant_id"),
    _key("timer_id"),
    _key("agent_id"),
    _key("conversation_id"),
    _text("user_id"),
    _key("actor"),
    _key("text"),
    _text("cron"),
    _text("time_zone"),
    Column("next_time", DateTime(timezone=True), nullable=False),
    _perhaps("last_time"),
    _moment("create_time"),
    PrimaryKeyConstraint("tenant_id", "timer_id", name="timer_pkey"),
    Index("timer_next", "tenant_id", "next_time", "timer_id"),
    Index("timer_conversation", "tenant_id", "conversation_id"),
)

timer_head = Table(
    "timer_head",
    metadata,
    _key("timer_id"),
    _key("tenant_id"),
    _key("conversation_id"),
    Column("due", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("timer_id", name="timer_head_pkey"),
    Index("timer_head_due", "due"),
    Index("timer_head_conversation", "conversation_id"),
)

operation = Table(
    "operation",
    metadata,
    _key("tenant_id"),
    _key("operation_id"),
    Column("kind", SmallInteger, nullable=False, comment="OperationKind of the contract"),
    Column("state", SmallInteger, nullable=False, comment="OperationState of the contract"),
    _key("subject"),
    _text("user_id"),
    _key("actor"),
    Column("input", LargeBinary, nullable=False, comment="The request it works off"),
    Column("steps", JSONB, nullable=False, comment="Steps in order, with tries and counts"),
    Column("failure", LargeBinary, nullable=True),
    _moment("create_time"),
    _perhaps("end_time"),
    PrimaryKeyConstraint("tenant_id", "operation_id", name="operation_pkey"),
)

operation_head = Table(
    "operation_head",
    metadata,
    _key("operation_id"),
    _key("tenant_id"),
    Column("due", DateTime(timezone=True), nullable=False, comment="When the next try may begin"),
    PrimaryKeyConstraint("operation_id", name="operation_head_pkey"),
    Index("operation_head_due", "due"),
)

tombstone = Table(
    "tombstone",
    metadata,
    _key("tenant_id"),
    Column("kind", Text, nullable=False, comment="agent, conversation or user"),
    _key("subject_id"),
    _text("operation_id"),
    _moment("create_time"),
    PrimaryKeyConstraint("tenant_id", "kind", "subject_id", name="tombstone_pkey"),
)
