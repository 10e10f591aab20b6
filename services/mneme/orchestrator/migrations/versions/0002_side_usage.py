"""What models cost beside the steps of turns."""

import sqlalchemy as sa
from alembic import op

from mneme.runtime.migrations import enable_row_level_security

revision = "orchestrator_0002"
down_revision = "orchestrator_0001"
branch_labels = None
depends_on = None

SCHEMA = "orchestrator"
NUMBERS = (
    "model_calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cost_micro_usd",
)


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "side_usage",
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False, comment="In UTC"),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False, comment="What a model was asked for beside the steps of turns"),
        sa.Column("model", sa.Text, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")) for name in NUMBERS),
        sa.PrimaryKeyConstraint("tenant_id", "day", "agent_id", "purpose", "model", name="side_usage_pkey"),
        schema=SCHEMA,
    )
    enable_row_level_security(op, f"{SCHEMA}.side_usage")


def downgrade() -> None:
    """Drops it."""
    op.drop_table("side_usage", schema=SCHEMA)
