"""Creates messages, conversations, summaries, tool calls, word statistics, tombstones and work queue."""

from alembic import op

from mneme.runtime.lexical import create_lexical_tables
from mneme.runtime.migrations import create_request_table, enable_row_level_security

revision = "recall_0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    """
    CREATE TABLE recall.messages (
        tenant_id text NOT NULL,
        id text NOT NULL,
        agent_id text NOT NULL,
        conversation_id text NOT NULL,
        user_id text NOT NULL,
        sequence_id bigint NOT NULL,
        role smallint NOT NULL,
        text text NOT NULL,
        content text NOT NULL,
        tool_calls jsonb NOT NULL,
        tool_call_id text NOT NULL,
        tool_ok boolean,
        created_at timestamptz NOT NULL,
        step_id text NOT NULL,
        run_id text NOT NULL,
        token_count integer NOT NULL,
        provenance bytea,
        hidden boolean NOT NULL,
        index_state smallint NOT NULL,
        speaker text NOT NULL,
        kind smallint NOT NULL,
        space text,
        embedding halfvec,
        CONSTRAINT messages_pkey PRIMARY KEY (tenant_id, id),
        CONSTRAINT messages_space CHECK ((embedding IS NULL) = (space IS NULL))
    ) WITH (toast_tuple_target = 4096)""",
    # A scan by meaning reads every vector of an agent: they stay in the row instead of a second table beside
    # it.
    "ALTER TABLE recall.messages ALTER COLUMN embedding SET STORAGE MAIN",
    "CREATE UNIQUE INDEX messages_sequence ON recall.messages (tenant_id, conversation_id, sequence_id)",
    """
    CREATE INDEX messages_time
        ON recall.messages (tenant_id, agent_id, created_at, conversation_id, sequence_id)""",
    "CREATE INDEX messages_user ON recall.messages (tenant_id, user_id) WHERE user_id <> ''",
    """
    CREATE TABLE recall.conversation (
        tenant_id text NOT NULL,
        conversation_id text NOT NULL,
        agent_id text NOT NULL,
        user_id text NOT NULL,
        next_sequence bigint NOT NULL,
        window_start bigint NOT NULL,
        evicted_count bigint NOT NULL,
        summary_version bigint NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT conversation_pkey PRIMARY KEY (tenant_id, conversation_id),
        CONSTRAINT conversation_window CHECK (window_start BETWEEN 1 AND next_sequence)
    ) WITH (fillfactor = 70)""",
    "CREATE INDEX conversation_agent ON recall.conversation (tenant_id, agent_id)",
    "CREATE INDEX conversation_user ON recall.conversation (tenant_id, user_id) WHERE user_id <> ''",
    """
    CREATE TABLE recall.summary (
        tenant_id text NOT NULL,
        conversation_id text NOT NULL,
        version bigint NOT NULL,
        text text NOT NULL,
        first_kept_sequence bigint NOT NULL,
        actor text NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT summary_pkey PRIMARY KEY (tenant_id, conversation_id, version)
    )""",
    """
    CREATE TABLE recall.tool_call (
        tenant_id text NOT NULL,
        conversation_id text NOT NULL,
        call_id text NOT NULL,
        sequence_id bigint NOT NULL,
        result_sequence bigint,
        CONSTRAINT tool_call_pkey PRIMARY KEY (tenant_id, conversation_id, call_id),
        CONSTRAINT tool_call_order CHECK (result_sequence > sequence_id)
    )""",
    "CREATE INDEX tool_call_sequence ON recall.tool_call (tenant_id, conversation_id, sequence_id)",
    """
    CREATE TABLE recall.tombstone (
        tenant_id text NOT NULL,
        subject_kind text NOT NULL,
        subject_id text NOT NULL,
        operation_id text NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT tombstone_pkey PRIMARY KEY (tenant_id, subject_kind, subject_id)
    )""",
    """
    CREATE TABLE recall.index_queue (
        tenant_id text NOT NULL,
        message_id text NOT NULL,
        attempts integer NOT NULL,
        due_time timestamptz NOT NULL,
        CONSTRAINT index_queue_pkey PRIMARY KEY (tenant_id, message_id)
    )""",
    "CREATE INDEX index_queue_due ON recall.index_queue (due_time)",
)


def upgrade() -> None:
    for statement in _TABLES:
        op.execute(statement)
    for table in ("messages", "conversation", "summary", "tool_call", "tombstone"):
        enable_row_level_security(op, f"recall.{table}")
    create_request_table(op, "recall")
    create_lexical_tables(op, "recall")
