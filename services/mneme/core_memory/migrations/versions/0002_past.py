"""What blocks were and who saw them, so that the state at any past moment can be read."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mneme.runtime.migrations import enable_row_level_security

revision = "core_memory_0002"
down_revision = "core_memory_0001"
branch_labels = None
depends_on = None

SCHEMA = "core_memory"

# All that a transaction writes has one time, so that no moment shows half of it. The time is taken under the lock that
# readers of the past wait for: once they hold it, nothing of an earlier time can still come.
RECORDED_TIME = """
CREATE FUNCTION core_memory.recorded_time(tenant text) RETURNS timestamptz
LANGUAGE plpgsql AS $$
DECLARE
    moment text;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(core_memory.subject_key(tenant, 'audit', ''));
    moment := nullif(current_setting('core_memory.recorded_time', true), '');
    IF moment IS NULL THEN
        moment := set_config('core_memory.recorded_time', clock_timestamp()::text, true);
    END IF;
    RETURN moment::timestamptz;
END
$$;
"""

# Before this, only texts had a history: the other fields of a block are taken to have always been what they are.
KNOWN_STATES = """
INSERT INTO core_memory.block_state (tenant_id, block_id, change, create_time, label, limit_value, description,
                                     read_only, visibility, metadata_, version)
SELECT b.tenant_id, b.id, CASE WHEN v.version = b.version THEN b.change ELSE v.version END, v.create_time, b.label,
       b.limit_value, b.description, b.read_only, b.visibility, b.metadata_, v.version
FROM core_memory.block AS b
JOIN core_memory.block_version AS v ON v.tenant_id = b.tenant_id AND v.block_id = b.id
"""

KNOWN_PERIODS = """
INSERT INTO core_memory.attachment_period (tenant_id, agent_id, user_id, block_id, copy_per_user, start_time)
SELECT tenant_id, agent_id, user_id, block_id, copy_per_user, create_time FROM core_memory.attachment
"""


def upgrade() -> None:
    """Adds the tables, with what is known of the time before."""
    create_block_state()
    create_attachment_period()
    op.execute(RECORDED_TIME)
    # Policies bind the owner too: what is copied over all tenants is copied before they hold, and read without them.
    for table in ("block", "block_version", "attachment"):
        op.execute(f"ALTER TABLE {SCHEMA}.{table} NO FORCE ROW LEVEL SECURITY")
    op.execute(KNOWN_STATES)
    op.execute(KNOWN_PERIODS)
    for table in ("block", "block_version", "attachment"):
        op.execute(f"ALTER TABLE {SCHEMA}.{table} FORCE ROW LEVEL SECURITY")
    for table in ("block_state", "attachment_period"):
        enable_row_level_security(op, f"{SCHEMA}.{table}")


def downgrade() -> None:
    """Drops them."""
    op.execute(f"DROP FUNCTION {SCHEMA}.recorded_time(text)")
    op.drop_table("attachment_period", schema=SCHEMA)
    op.drop_table("block_state", schema=SCHEMA)


def column(name: str, type_: type[sa.types.TypeEngine[object]]) -> sa.Column[object]:
    """A column that is always set."""
    return sa.Column(name, type_, nullable=False)


def of_block(table: str) -> sa.ForeignKeyConstraint:
    """Ends a row with its block."""
    return sa.ForeignKeyConstraint(
        ["tenant_id", "block_id"],
        ["core_memory.block.tenant_id", "core_memory.block.id"],
        name=f"{table}_block_fkey",
        ondelete="CASCADE",
    )


def create_block_state() -> None:
    """Creates the states of blocks."""
    op.create_table(
        "block_state",
        column("tenant_id", sa.Text),
        column("block_id", sa.Text),
        column("change", sa.BigInteger),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        column("label", sa.Text),
        column("limit_value", sa.Integer),
        column("description", sa.Text),
        column("read_only", sa.Boolean),
        column("visibility", sa.Text),
        sa.Column("metadata_", postgresql.JSONB, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, comment="Text it had, in block_version"),
        sa.PrimaryKeyConstraint("tenant_id", "block_id", "change", name="block_state_pkey"),
        of_block("block_state"),
        schema=SCHEMA,
    )


def create_attachment_period() -> None:
    """Creates the periods of attachments."""
    op.create_table(
        "attachment_period",
        column("tenant_id", sa.Text),
        column("agent_id", sa.Text),
        column("user_id", sa.Text),
        column("block_id", sa.Text),
        column("copy_per_user", sa.Boolean),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True, comment="Empty while it lasts"),
        sa.PrimaryKeyConstraint(
            "tenant_id", "block_id", "agent_id", "user_id", "start_time", name="attachment_period_pkey"
        ),
        of_block("attachment_period"),
        schema=SCHEMA,
    )
    columns = ["tenant_id", "agent_id"]
    op.create_index("attachment_period_agent", "attachment_period", columns, schema=SCHEMA)
    op.create_index(
        "attachment_period_user",
        "attachment_period",
        ["tenant_id", "user_id"],
        schema=SCHEMA,
        postgresql_where=sa.text("user_id <> ''"),
    )
