"""Lets messages hold a second vector, of the space that the deployment changes to."""

from alembic import op

from mneme.recall.store.meaning import CONTENT
from mneme.runtime.vectors import create_next_columns

revision = "recall_0004"
down_revision = "recall_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_next_columns(op, CONTENT, counted=("recall.vector_revision", "agent_id", "vector_count"))
