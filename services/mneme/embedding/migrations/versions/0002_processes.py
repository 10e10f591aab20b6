"""Who serves which spaces, asked before the deployment switches to another one."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table; running processes enter themselves."""
    op.execute(
        """
        CREATE TABLE embedding.process (
            process_id text PRIMARY KEY,
            spaces text[] NOT NULL,
            expire_time timestamptz NOT NULL
        )
        """
    )


def downgrade() -> None:
    """Drops the table."""
    op.execute("DROP TABLE embedding.process")
