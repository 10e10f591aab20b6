"""Finds what next begins or ends to be true in a scope without reading the rest of it."""

from alembic import op

revision = "archival_0006"
down_revision = "archival_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE INDEX agent_passages_begin ON archival.agent_passages (tenant_id, owner_id, valid_from)
        WHERE valid_from IS NOT NULL""")
    op.execute("""
        CREATE INDEX agent_passages_end ON archival.agent_passages (tenant_id, owner_id, valid_to)
        WHERE valid_to IS NOT NULL""")
