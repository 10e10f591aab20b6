"""Makes equal texts unique by an index, keeps vectors with versions, and gives ingests a durable progress."""

from alembic import op

from mneme.runtime.migrations import enable_row_level_security

revision = "archival_0003"
down_revision = "archival_0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "DROP INDEX archival.agent_passages_content",
    # One row a statement: what may be stated again differs from it in one of the last three columns.
    """
    CREATE UNIQUE INDEX agent_passages_content ON archival.agent_passages
        (tenant_id, owner_id, user_id, content_sha256, document_id, quarantined, valid_to)
        NULLS NOT DISTINCT WHERE superseded_by = ''""",
    """
    CREATE INDEX agent_passages_document ON archival.agent_passages (tenant_id, owner_id, document_id)
        WHERE document_id <> ''""",
    "ALTER TABLE archival.passage_version ADD COLUMN embedding halfvec, ADD COLUMN embedding_config text",
    """
    CREATE INDEX memory_change_knowledge_base ON archival.memory_change (tenant_id, knowledge_base_id, sequence)
        WHERE knowledge_base_id <> ''""",
    """
    CREATE INDEX memory_change_user ON archival.memory_change (tenant_id, user_id, sequence)
        WHERE user_id <> ''""",
    "CREATE INDEX memory_change_actor ON archival.memory_change (tenant_id, actor, sequence)",
    "CREATE INDEX memory_change_time ON archival.memory_change (tenant_id, create_time)",
    "CREATE INDEX index_queue_owner ON archival.index_queue (tenant_id, owner_id)",
    """
    CREATE TABLE archival.ingest (
        tenant_id text NOT NULL,
        request_id text NOT NULL,
        agent_id text NOT NULL,
        knowledge_base_id text NOT NULL,
        owner_id text NOT NULL,
        user_id text NOT NULL,
        stream bigint NOT NULL,
        next_index bigint NOT NULL,
        inserted bigint NOT NULL,
        duplicates bigint NOT NULL,
        errors bigint NOT NULL,
        passages bigint NOT NULL,
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL,
        CONSTRAINT ingest_pkey PRIMARY KEY (tenant_id, request_id)
    )""",
    "CREATE INDEX ingest_owner ON archival.ingest (tenant_id, owner_id)",
    "CREATE INDEX ingest_update_time ON archival.ingest (tenant_id, update_time)",
    """
    CREATE TABLE archival.ingest_error (
        tenant_id text NOT NULL,
        request_id text NOT NULL,
        position bigint NOT NULL,
        failure bytea NOT NULL,
        CONSTRAINT ingest_error_pkey PRIMARY KEY (tenant_id, request_id, position),
        CONSTRAINT ingest_error_ingest FOREIGN KEY (tenant_id, request_id)
            REFERENCES archival.ingest (tenant_id, request_id) ON DELETE CASCADE
    )""",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    for table in ("ingest", "ingest_error"):
        enable_row_level_security(op, f"archival.{table}")
