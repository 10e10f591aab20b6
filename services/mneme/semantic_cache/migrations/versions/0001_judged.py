"""Judged samples, tombstones and repeated requests."""

from alembic import op

from mneme.runtime.migrations import create_request_table, enable_row_level_security

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    op.execute(
        """
        CREATE TABLE semantic_cache.judged_sample (
            tenant_id text NOT NULL,
            sample_id text NOT NULL,
            agent_id text NOT NULL,
            user_id text NOT NULL,
            entry_id text NOT NULL,
            question_hmac text NOT NULL,
            stratum text NOT NULL,
            wrong boolean NOT NULL,
            actor text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT judged_sample_pkey PRIMARY KEY (tenant_id, sample_id)
        )
        """
    )
    op.execute("CREATE INDEX judged_sample_agent ON semantic_cache.judged_sample (tenant_id, agent_id)")
    op.execute("CREATE INDEX judged_sample_user ON semantic_cache.judged_sample (tenant_id, user_id)")
    op.execute(
        """
        CREATE TABLE semantic_cache.tombstone (
            tenant_id text NOT NULL,
            kind text NOT NULL CONSTRAINT tombstone_kind CHECK (kind IN ('agent', 'user')),
            subject_id text NOT NULL,
            operation_id text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT tombstone_pkey PRIMARY KEY (tenant_id, kind, subject_id)
        )
        """
    )
    enable_row_level_security(op, "semantic_cache.judged_sample")
    enable_row_level_security(op, "semantic_cache.tombstone")
    create_request_table(op, "semantic_cache")


def downgrade() -> None:
    """Drops the tables."""
    for table in ("request", "tombstone", "judged_sample"):
        op.execute(f"DROP TABLE semantic_cache.{table}")
