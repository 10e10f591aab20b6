"""Creates passages, knowledge bases, their revisions, word statistics, audit and work queue."""

from alembic import op

from mneme.runtime.lexical import create_lexical_tables
from mneme.runtime.migrations import create_request_table, enable_row_level_security, role

revision = "archival_0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    """
    CREATE TABLE archival.agent_passages (
        tenant_id text NOT NULL,
        id text NOT NULL,
        agent_id text,
        knowledge_base_id text,
        owner_id text NOT NULL,
        user_id text NOT NULL,
        text text NOT NULL,
        embedding halfvec,
        embedding_config text,
        metadata_ jsonb NOT NULL,
        kind smallint NOT NULL,
        importance real NOT NULL,
        tags text[] NOT NULL,
        valid_from timestamptz,
        valid_to timestamptz,
        superseded_by text NOT NULL,
        superseded_reason text NOT NULL,
        superseded_at timestamptz,
        quarantined boolean NOT NULL,
        reason text NOT NULL,
        source_message_ids text[] NOT NULL,
        trust_level smallint NOT NULL,
        from_recall boolean NOT NULL,
        step_id text NOT NULL,
        document_id text NOT NULL,
        document_start bigint NOT NULL,
        document_end bigint NOT NULL,
        content_sha256 bytea NOT NULL,
        index_state smallint NOT NULL,
        index_error text NOT NULL,
        version bigint NOT NULL,
        revision bigint NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        CONSTRAINT agent_passages_pkey PRIMARY KEY (tenant_id, id),
        CONSTRAINT agent_passages_one_owner CHECK (num_nonnulls(agent_id, knowledge_base_id) = 1),
        CONSTRAINT agent_passages_owner_id CHECK (owner_id = coalesce(agent_id, knowledge_base_id)),
        CONSTRAINT agent_passages_space CHECK ((embedding IS NULL) = (embedding_config IS NULL))
    )""",
    # A scan by meaning reads every vector of a scope: they stay in the row instead of a second table beside it.
    "ALTER TABLE archival.agent_passages ALTER COLUMN embedding SET STORAGE MAIN",
    "ALTER TABLE archival.agent_passages SET (toast_tuple_target = 4096)",
    # Not unique: what is quarantined or has ended may be stated again. Writers take turns by the scope's lock.
    """
    CREATE INDEX agent_passages_content
        ON archival.agent_passages (tenant_id, owner_id, user_id, content_sha256) WHERE superseded_by = ''""",
    "CREATE INDEX agent_passages_created ON archival.agent_passages (tenant_id, owner_id, created_at)",
    "CREATE INDEX agent_passages_revision ON archival.agent_passages (tenant_id, owner_id, revision)",
    "CREATE INDEX agent_passages_user ON archival.agent_passages (tenant_id, user_id) WHERE user_id <> ''",
    """
    CREATE TABLE archival.passage_version (
        tenant_id text NOT NULL,
        passage_id text NOT NULL,
        version bigint NOT NULL,
        owner_id text NOT NULL,
        user_id text NOT NULL,
        text text NOT NULL,
        content_sha256 bytea NOT NULL,
        attributes jsonb NOT NULL,
        recorded_from timestamptz NOT NULL,
        recorded_to timestamptz NOT NULL,
        CONSTRAINT passage_version_pkey PRIMARY KEY (tenant_id, passage_id, version)
    )""",
    "CREATE INDEX passage_version_owner ON archival.passage_version (tenant_id, owner_id)",
    "CREATE INDEX passage_version_user ON archival.passage_version (tenant_id, user_id) WHERE user_id <> ''",
    """
    CREATE TABLE archival.scope (
        tenant_id text NOT NULL,
        owner_id text NOT NULL,
        revision bigint NOT NULL,
        passage_count bigint NOT NULL,
        CONSTRAINT scope_pkey PRIMARY KEY (tenant_id, owner_id)
    ) WITH (fillfactor = 70)""",
    """
    CREATE TABLE archival.knowledge_base (
        tenant_id text NOT NULL,
        id text NOT NULL,
        display_name text NOT NULL,
        description text NOT NULL,
        metadata_ jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        CONSTRAINT knowledge_base_pkey PRIMARY KEY (tenant_id, id),
        CONSTRAINT knowledge_base_display_name UNIQUE (tenant_id, display_name)
    )""",
    "CREATE INDEX knowledge_base_created ON archival.knowledge_base (tenant_id, created_at, id)",
    """
    CREATE TABLE archival.attachment (
        tenant_id text NOT NULL,
        agent_id text NOT NULL,
        knowledge_base_id text NOT NULL,
        created_at timestamptz NOT NULL,
        CONSTRAINT attachment_pkey PRIMARY KEY (tenant_id, agent_id, knowledge_base_id),
        CONSTRAINT attachment_knowledge_base FOREIGN KEY (tenant_id, knowledge_base_id)
            REFERENCES archival.knowledge_base (tenant_id, id) ON DELETE CASCADE
    )""",
    "CREATE INDEX attachment_by_knowledge_base ON archival.attachment (tenant_id, knowledge_base_id)",
    """
    CREATE TABLE archival.memory_change (
        tenant_id text NOT NULL,
        sequence bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        create_time timestamptz NOT NULL,
        actor text NOT NULL,
        user_id text NOT NULL,
        kind smallint NOT NULL,
        resource_id text NOT NULL,
        agent_id text NOT NULL,
        knowledge_base_id text NOT NULL,
        old_version bigint NOT NULL,
        new_version bigint NOT NULL,
        old_sha256 text NOT NULL,
        new_sha256 text NOT NULL,
        old_chars integer NOT NULL,
        new_chars integer NOT NULL,
        reason text NOT NULL,
        source_message_ids text[] NOT NULL,
        trust_level smallint NOT NULL,
        from_recall boolean NOT NULL,
        step_id text NOT NULL,
        trace_id text NOT NULL,
        CONSTRAINT memory_change_pkey PRIMARY KEY (tenant_id, sequence)
    )""",
    "CREATE INDEX memory_change_resource ON archival.memory_change (tenant_id, resource_id)",
    "CREATE INDEX memory_change_agent ON archival.memory_change (tenant_id, agent_id, sequence)",
    """
    CREATE TABLE archival.tombstone (
        tenant_id text NOT NULL,
        subject_kind text NOT NULL,
        subject_id text NOT NULL,
        operation_id text NOT NULL,
        create_time timestamptz NOT NULL,
        CONSTRAINT tombstone_pkey PRIMARY KEY (tenant_id, subject_kind, subject_id)
    )""",
    """
    CREATE TABLE archival.index_queue (
        tenant_id text NOT NULL,
        passage_id text NOT NULL,
        owner_id text NOT NULL,
        attempts integer NOT NULL,
        due_time timestamptz NOT NULL,
        CONSTRAINT index_queue_pkey PRIMARY KEY (tenant_id, passage_id)
    )""",
    "CREATE INDEX index_queue_due ON archival.index_queue (due_time)",
)

_CONTENT = (
    "agent_passages",
    "passage_version",
    "scope",
    "knowledge_base",
    "attachment",
    "memory_change",
    "tombstone",
)


def upgrade() -> None:
    for statement in _TABLES:
        op.execute(statement)
    for table in _CONTENT:
        enable_row_level_security(op, f"archival.{table}")
    create_request_table(op, "archival")
    create_lexical_tables(op, "archival")
    # The audit only grows. A purge may blank the reason, the one column that can quote a person.
    op.execute(f"REVOKE UPDATE, DELETE ON archival.memory_change FROM {role('archival')}")
    op.execute(f"GRANT UPDATE (reason) ON archival.memory_change TO {role('archival')}")
