"""The record of the active embedding space."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table with its one possible row."""
    op.execute(
        """
        CREATE TABLE embedding.space (
            singleton boolean PRIMARY KEY DEFAULT true CONSTRAINT space_only CHECK (singleton),
            provider text NOT NULL,
            model text NOT NULL,
            dimensions integer NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def downgrade() -> None:
    """Drops the table."""
    op.execute("DROP TABLE embedding.space")
