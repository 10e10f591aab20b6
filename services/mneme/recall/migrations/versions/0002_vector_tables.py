"""Counts the writes of vectors by agent, and creates what large agents need to be searched through an index."""

from alembic import op

from mneme.recall.store.meaning import CONTENT
from mneme.runtime.migrations import enable_row_level_security
from mneme.runtime.vectors import create_vector_tables

revision = "recall_0002"
down_revision = "recall_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE recall.vector_revision (
            tenant_id text NOT NULL,
            agent_id text NOT NULL,
            revision bigint NOT NULL,
            vector_count bigint NOT NULL,
            CONSTRAINT vector_revision_pkey PRIMARY KEY (tenant_id, agent_id)
        ) WITH (fillfactor = 70)"""
    )
    enable_row_level_security(op, "recall.vector_revision")
    # Vectors that are there already have the revision before the first.
    op.execute("ALTER TABLE recall.messages ADD COLUMN vector_revision bigint NOT NULL DEFAULT 0")
    op.execute(
        """
        CREATE INDEX messages_vector
            ON recall.messages (tenant_id, agent_id, vector_revision) WHERE space IS NOT NULL"""
    )
    create_vector_tables(op, CONTENT, counted=("recall.vector_revision", "agent_id", "vector_count"))
