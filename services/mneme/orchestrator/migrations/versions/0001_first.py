"""Agents, conversations with their mailboxes and leases, runs with their journal, timers, operations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mneme.runtime.migrations import create_request_table, enable_row_level_security

revision = "orchestrator_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "orchestrator"
CONTENT_TABLES = (
    "agent",
    "conversation",
    "event",
    "run",
    "run_event",
    "step",
    "call_result",
    "user_activity",
    "dead_letter",
    "timer",
    "operation",
    "tombstone",
)
WORK_TABLES = ("conversation_lease", "worker", "mailbox", "timer_head", "operation_head")


def upgrade() -> None:
    """Creates the first tables."""
    create_agent()
    create_conversation()
    create_conversation_lease()
    create_worker()
    create_event()
    create_mailbox()
    create_run()
    create_run_event()
    create_step()
    create_call_result()
    create_user_activity()
    create_dead_letter()
    create_timer()
    create_timer_head()
    create_operation()
    create_operation_head()
    create_tombstone()
    create_request_table(op, SCHEMA)
    for table in CONTENT_TABLES:
        enable_row_level_security(op, f"{SCHEMA}.{table}")
    # Rows of these change with every turn: room on the page keeps the changes off the indexes.
    for table in ("conversation_lease", "worker", "run"):
        op.execute(f"ALTER TABLE {SCHEMA}.{table} SET (fillfactor = 70)")


def downgrade() -> None:
    """Drops all of it."""
    for table in ("request", *CONTENT_TABLES, *WORK_TABLES):
        op.drop_table(table, schema=SCHEMA)


def create_agent() -> None:
    """Creates the agents."""
    op.create_table(
        "agent",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False, comment="AgentState of the contract"),
        sa.Column("version", sa.BigInteger, server_default=sa.text("1"), nullable=False, comment="The etag"),
        sa.Column("definition", sa.LargeBinary, nullable=False, comment="The contract's Agent, without output fields"),
        sa.Column("operation_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id", name="agent_pkey"),
        schema="orchestrator",
    )
    op.create_index("agent_user", "agent", ["tenant_id", "user_id", "agent_id"], unique=False, schema="orchestrator")


def create_conversation() -> None:
    """Creates the conversations."""
    op.create_table(
        "conversation",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("display_name", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("metadata_", postgresql.JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("deleting", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "conversation_id", name="conversation_pkey"),
        schema="orchestrator",
    )
    op.create_index(
        "conversation_agent",
        "conversation",
        ["tenant_id", "agent_id", "conversation_id"],
        unique=False,
        schema="orchestrator",
    )
    op.create_index(
        "conversation_user",
        "conversation",
        ["tenant_id", "user_id", "conversation_id"],
        unique=False,
        schema="orchestrator",
    )


def create_conversation_lease() -> None:
    """Creates the leases: who works on a conversation."""
    op.create_table(
        "conversation_lease",
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("worker_id", sa.Text, server_default=sa.text("''"), nullable=False, comment="Worked on it last"),
        sa.Column(
            "epoch", sa.BigInteger, server_default=sa.text("0"), nullable=False, comment="Grows with each new holder"
        ),
        sa.Column(
            "run_id", sa.Text, server_default=sa.text("''"), nullable=False, comment="Run in progress; empty for none"
        ),
        sa.Column(
            "waiting_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="That run waits for its caller, at most until then",
        ),
        sa.Column(
            "warned",
            sa.Boolean,
            server_default=sa.text("false"),
            nullable=False,
            comment="Of memory pressure, this period",
        ),
        sa.Column(
            "nudged",
            sa.Boolean,
            server_default=sa.text("false"),
            nullable=False,
            comment="Events may wait: set by whoever queues one, so that a run's end need not look in vain",
        ),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("update_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", name="conversation_lease_pkey"),
        schema="orchestrator",
    )


def create_worker() -> None:
    """Creates the processes that work."""
    op.create_table(
        "worker",
        sa.Column("worker_id", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False, comment="host:port that other replicas dial"),
        sa.Column("start_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="worker_pkey"),
        schema="orchestrator",
    )


def create_event() -> None:
    """Creates the events with their texts."""
    op.create_table(
        "event",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("request_sha256", sa.LargeBinary, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("actor", sa.Text, nullable=False, comment="Who sent it, for the audit of what it leads to"),
        sa.Column("kind", sa.SmallInteger, nullable=False, comment="EventKind of the contract"),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("speaker", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("bypass_cache", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="event_pkey"),
        sa.UniqueConstraint("tenant_id", "request_id", name="event_request_key"),
        schema="orchestrator",
    )
    op.create_index(
        "event_conversation", "event", ["tenant_id", "conversation_id"], unique=False, schema="orchestrator"
    )


def create_mailbox() -> None:
    """Creates the heads of waiting and running events."""
    op.create_table(
        "mailbox",
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False, comment="0 user, 1 system and interaction, 2 timed"),
        sa.Column("arrival", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="mailbox_pkey"),
        schema="orchestrator",
    )
    op.create_index(
        "mailbox_conversation",
        "mailbox",
        ["conversation_id", "priority", "arrival"],
        unique=False,
        schema="orchestrator",
    )


def create_run() -> None:
    """Creates the runs."""
    op.create_table(
        "run",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_kind", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False, comment="RunState of the contract"),
        sa.Column("stop_reason", sa.SmallInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("failure", sa.LargeBinary, nullable=True, comment="The contract's Failure"),
        sa.Column(
            "ahead_count",
            sa.Integer,
            server_default=sa.text("0"),
            nullable=False,
            comment="Events before it at acceptance",
        ),
        sa.Column("step_count", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer, server_default=sa.text("0"), nullable=False),
        sa.Column(
            "begun_count",
            sa.Integer,
            server_default=sa.text("0"),
            nullable=False,
            comment="Since it was last queued",
        ),
        sa.Column("cancel_requested", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.Column(
            "waiting_call",
            sa.Text,
            server_default=sa.text("''"),
            nullable=False,
            comment="Call that the caller must answer",
        ),
        sa.Column("waiting_approval", sa.Boolean, server_default=sa.text("false"), nullable=False),
        sa.Column("input_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("model_calls", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column(
            "last_sequence",
            sa.BigInteger,
            server_default=sa.text("1"),
            nullable=False,
            comment="1 is `queued`, not stored",
        ),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name="run_pkey"),
        schema="orchestrator",
    )
    op.create_index("run_agent", "run", ["tenant_id", "agent_id", "run_id"], unique=False, schema="orchestrator")
    op.create_index(
        "run_conversation", "run", ["tenant_id", "conversation_id", "run_id"], unique=False, schema="orchestrator"
    )


def create_run_event() -> None:
    """Creates the durable events of runs."""
    op.create_table(
        "run_event",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False, comment="The contract's RunEvent"),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "sequence", name="run_event_pkey"),
        schema="orchestrator",
    )


def create_step() -> None:
    """Creates the journal."""
    op.create_table(
        "step",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("step_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_reason", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column(
            "output",
            postgresql.JSONB,
            nullable=False,
            comment="What the model wrote: text, calls, reasoning, stop reason",
        ),
        sa.Column(
            "inputs",
            postgresql.JSONB,
            nullable=False,
            comment="Messages that entered the prompt with this step",
        ),
        sa.Column("expected_sequence", sa.BigInteger, nullable=False, comment="Where its messages belong in recall"),
        sa.Column(
            "done",
            sa.Boolean,
            server_default=sa.text("false"),
            nullable=False,
            comment="Effects made, messages in recall",
        ),
        sa.Column("continue_reason", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("input_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("model_microseconds", sa.BigInteger, server_default=sa.text("0"), nullable=False),
        sa.Column("prompt_sha256", sa.Text, nullable=False),
        sa.Column("render_version", sa.Integer, nullable=False),
        sa.Column(
            "references_",
            postgresql.JSONB,
            nullable=False,
            comment="What the prompt was made of, in order",
        ),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "step_id", name="step_pkey"),
        sa.UniqueConstraint("tenant_id", "run_id", "number", name="step_number_key"),
        schema="orchestrator",
    )
    op.create_index("step_conversation", "step", ["tenant_id", "conversation_id"], unique=False, schema="orchestrator")
    op.create_index("step_time", "step", ["tenant_id", "create_time"], unique=False, schema="orchestrator")


def create_call_result() -> None:
    """Creates the results of calls that callers answer, and of those made before them in the same step."""
    op.create_table(
        "call_result",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column(
            "approved", sa.Boolean, nullable=True, comment="What the caller decided; null where nobody was asked"
        ),
        sa.Column("ok", sa.Boolean, nullable=True, comment="Null until there is a result"),
        sa.Column("text", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column(
            "details",
            postgresql.JSONB,
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
            comment="Of one that was shown",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "call_id", name="call_result_pkey"),
        schema="orchestrator",
    )


def create_user_activity() -> None:
    """Creates the counts that a cache basis rests on."""
    op.create_table(
        "user_activity",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column(
            "model_run_count", sa.BigInteger, nullable=False, comment="Runs that asked a model: part of a cache basis"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id", "user_id", name="user_activity_pkey"),
        schema="orchestrator",
    )


def create_dead_letter() -> None:
    """Creates the events given up."""
    op.create_table(
        "dead_letter",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("failure", sa.LargeBinary, nullable=False),
        sa.Column("attempt_count", sa.Integer, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="dead_letter_pkey"),
        schema="orchestrator",
    )
    op.create_index(
        "dead_letter_time", "dead_letter", ["tenant_id", "create_time", "event_id"], unique=False, schema="orchestrator"
    )


def create_timer() -> None:
    """Creates the timers with their texts."""
    op.create_table(
        "timer",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("timer_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("cron", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("time_zone", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("next_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "timer_id", name="timer_pkey"),
        schema="orchestrator",
    )
    op.create_index(
        "timer_conversation", "timer", ["tenant_id", "conversation_id"], unique=False, schema="orchestrator"
    )
    op.create_index("timer_next", "timer", ["tenant_id", "next_time", "timer_id"], unique=False, schema="orchestrator")


def create_timer_head() -> None:
    """Creates the heads of timers."""
    op.create_table(
        "timer_head",
        sa.Column("timer_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("timer_id", name="timer_head_pkey"),
        schema="orchestrator",
    )
    op.create_index("timer_head_conversation", "timer_head", ["conversation_id"], unique=False, schema="orchestrator")
    op.create_index("timer_head_due", "timer_head", ["due"], unique=False, schema="orchestrator")


def create_operation() -> None:
    """Creates the operations."""
    op.create_table(
        "operation",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("operation_id", sa.Text, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False, comment="OperationKind of the contract"),
        sa.Column("state", sa.SmallInteger, nullable=False, comment="OperationState of the contract"),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("input", sa.LargeBinary, nullable=False, comment="The request it works off"),
        sa.Column(
            "steps",
            postgresql.JSONB,
            nullable=False,
            comment="Steps in order, with tries and counts",
        ),
        sa.Column("failure", sa.LargeBinary, nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "operation_id", name="operation_pkey"),
        schema="orchestrator",
    )


def create_operation_head() -> None:
    """Creates the heads of open operations."""
    op.create_table(
        "operation_head",
        sa.Column("operation_id", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False, comment="When the next try may begin"),
        sa.PrimaryKeyConstraint("operation_id", name="operation_head_pkey"),
        schema="orchestrator",
    )
    op.create_index("operation_head_due", "operation_head", ["due"], unique=False, schema="orchestrator")


def create_tombstone() -> None:
    """Creates the list of what was deleted."""
    op.create_table(
        "tombstone",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False, comment="agent, conversation or user"),
        sa.Column("subject_id", sa.Text, nullable=False),
        sa.Column("operation_id", sa.Text, server_default=sa.text("''"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "kind", "subject_id", name="tombstone_pkey"),
        schema="orchestrator",
    )
