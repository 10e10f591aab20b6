"""Strata with their state, and pairs of questions that wait to be judged."""

from alembic import op

from mneme.runtime.migrations import enable_row_level_security

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    op.execute(
        """
        CREATE TABLE semantic_cache.stratum (
            tenant_id text NOT NULL,
            stratum text NOT NULL,
            judged_count integer NOT NULL,
            wrong_count integer NOT NULL,
            closed boolean NOT NULL,
            change_time timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT stratum_pkey PRIMARY KEY (tenant_id, stratum)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE semantic_cache.hit_sample (
            tenant_id text NOT NULL,
            sample_id text NOT NULL,
            agent_id text NOT NULL,
            user_id text NOT NULL,
            author text NOT NULL,
            entry_id text NOT NULL,
            asked_question text NOT NULL,
            stored_question text NOT NULL,
            question_hmac text NOT NULL,
            stratum text NOT NULL,
            score double precision NOT NULL,
            served boolean NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now(),
            held_until timestamptz,
            CONSTRAINT hit_sample_pkey PRIMARY KEY (tenant_id, sample_id),
            CONSTRAINT hit_sample_pair UNIQUE (tenant_id, entry_id, question_hmac)
        )
        """
    )
    op.execute("CREATE INDEX hit_sample_create_time ON semantic_cache.hit_sample (tenant_id, create_time)")
    enable_row_level_security(op, "semantic_cache.stratum")
    enable_row_level_security(op, "semantic_cache.hit_sample")


def downgrade() -> None:
    """Drops the tables."""
    for table in ("hit_sample", "stratum"):
        op.execute(f"DROP TABLE semantic_cache.{table}")
