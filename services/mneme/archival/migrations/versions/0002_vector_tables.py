"""Creates what large scopes need to be searched by meaning through an index of their own."""

from alembic import op

from mneme.archival.store.meaning import CONTENT
from mneme.runtime.vectors import create_vector_tables

revision = "archival_0002"
down_revision = "archival_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_vector_tables(op, CONTENT, counted=("archival.scope", "owner_id", "passage_count"))
