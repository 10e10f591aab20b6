"""Finds the preferences and instructions of a scope without reading the rest of it."""

from alembic import op

revision = "archival_0004"
down_revision = "archival_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX agent_passages_standing ON archival.agent_passages (tenant_id, owner_id) WHERE kind IN (2, 3)""")
