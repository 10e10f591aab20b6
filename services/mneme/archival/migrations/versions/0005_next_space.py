"""Lets passages hold a second vector, of the space that the deployment changes to."""

from alembic import op

from mneme.archival.store.meaning import CONTENT
from mneme.runtime.vectors import create_next_columns

revision = "archival_0005"
down_revision = "archival_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_next_columns(op, CONTENT, counted=("archival.scope", "owner_id", "passage_count"))
