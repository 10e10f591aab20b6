"""Blocks with versions, attachments, revisions, the audit and tombstones."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from mneme.runtime.migrations import create_request_table, enable_row_level_security, role

revision = "core_memory_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "core_memory"
TABLES = (
    "block",
    "block_version",
    "attachment",
    "revision",
    "memory_change",
    "change_reason",
    "tombstone",
)

# Taking the subject's lock before the look-up closes the gap in which a purge could run between look-up and insert.
REFUSE_DELETED = """
CREATE FUNCTION core_memory.subject_key(tenant text, kind text, subject text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended(concat_ws('/', 'core_memory.subject', tenant, kind, subject), 0)
$$;

CREATE FUNCTION core_memory.refuse_deleted(tenant text, subject_kind text, subject text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF subject = '' THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(core_memory.subject_key(tenant, subject_kind, subject));
    IF EXISTS (SELECT FROM core_memory.tombstone AS t
               WHERE t.tenant_id = tenant AND t.kind = subject_kind AND t.subject_id = subject) THEN
        RAISE EXCEPTION 'a deleted subject takes no writes'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'not_deleted', TABLE = subject_kind;
    END IF;
END
$$;
"""

GUARD_USER = """
CREATE FUNCTION core_memory.guard_user() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM core_memory.refuse_deleted(NEW.tenant_id, 'user', NEW.user_id);
    RETURN NEW;
END
$$;

CREATE TRIGGER guard_user BEFORE INSERT ON core_memory.block
    FOR EACH ROW EXECUTE FUNCTION core_memory.guard_user();
CREATE TRIGGER guard_user BEFORE INSERT ON core_memory.block_version
    FOR EACH ROW EXECUTE FUNCTION core_memory.guard_user();
"""

# The primary key makes a label unique among an agent's blocks for all users, and among those for one user. Between
# the two groups a label may repeat only where the first is copied per user: the copy then stands in front of it.
# A lock on the label, shared among users, makes the look-up see every rival.
GUARD_ATTACHMENT = """
CREATE FUNCTION core_memory.guard_attachment() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    key bigint := core_memory.subject_key(NEW.tenant_id, 'label', NEW.agent_id || '/' || NEW.label);
    taken boolean;
BEGIN
    PERFORM core_memory.refuse_deleted(NEW.tenant_id, 'agent', NEW.agent_id);
    PERFORM core_memory.refuse_deleted(NEW.tenant_id, 'user', NEW.user_id);
    IF NEW.user_id = '' THEN
        PERFORM pg_advisory_xact_lock(key);
        taken := NOT NEW.copy_per_user AND EXISTS (
            SELECT FROM core_memory.attachment AS a
            WHERE a.tenant_id = NEW.tenant_id AND a.agent_id = NEW.agent_id AND a.label = NEW.label
              AND a.user_id <> '' AND a.block_id <> NEW.block_id);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(key);
        taken := EXISTS (
            SELECT FROM core_memory.attachment AS a
            WHERE a.tenant_id = NEW.tenant_id AND a.agent_id = NEW.agent_id AND a.label = NEW.label
              AND a.user_id = '' AND NOT a.copy_per_user AND a.block_id <> NEW.block_id);
    END IF;
    IF taken THEN
        RAISE EXCEPTION 'an agent sees each label once'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'attachment_label_key';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER guard_attachment BEFORE INSERT OR UPDATE ON core_memory.attachment
    FOR EACH ROW EXECUTE FUNCTION core_memory.guard_attachment();
"""


def upgrade() -> None:
    """Creates the first tables."""
    create_block()
    create_block_version()
    create_attachment()
    create_revision()
    create_memory_change()
    create_tombstone()
    create_request_table(op, SCHEMA)
    for table in TABLES:
        enable_row_level_security(op, f"{SCHEMA}.{table}")
    for statements in (REFUSE_DELETED, GUARD_USER, GUARD_ATTACHMENT):
        op.execute(statements)
    for table in ("memory_change", "tombstone"):
        op.execute(f"REVOKE UPDATE, DELETE ON {SCHEMA}.{table} FROM {role(SCHEMA)}")


def downgrade() -> None:
    """Drops all of it."""
    for table in ("request", *reversed(TABLES)):
        op.drop_table(table, schema=SCHEMA)
    for function in (
        "guard_attachment()",
        "guard_user()",
        "refuse_deleted(text, text, text)",
        "subject_key(text, text, text)",
    ):
        op.execute(f"DROP FUNCTION {SCHEMA}.{function}")


def tenant() -> sa.Column[str]:
    """The column that row-level security reads."""
    return sa.Column("tenant_id", sa.Text, nullable=False)


def empty_text(name: str) -> sa.Column[str]:
    """A text column that is empty unless set."""
    return sa.Column(name, sa.Text, nullable=False, server_default=sa.text("''"))


def flag(name: str) -> sa.Column[bool]:
    """A switch that is off unless set."""
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.text("false"))


def number(name: str, default: int) -> sa.Column[int]:
    """A 64-bit number."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text(str(default)))


def moment(name: str) -> sa.Column[sa.DateTime]:
    """A time that is the transaction's unless set."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"))


def index_of_users(table: str) -> None:
    """Finds the rows of one user; most rows have none."""
    columns = ["tenant_id", "user_id"]
    where = sa.text("user_id <> ''")
    op.create_index(f"{table}_user", table, columns, schema=SCHEMA, postgresql_where=where)


def create_block() -> None:
    """Creates the blocks."""
    op.create_table(
        "block",
        tenant(),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("limit_value", sa.Integer, nullable=False, comment="Largest length of value, in characters"),
        empty_text("description"),
        empty_text("template_name"),
        flag("is_template"),
        flag("read_only"),
        sa.Column("visibility", sa.Text, nullable=False, server_default=sa.text("'private'")),
        sa.Column("metadata_", postgresql.JSONB, nullable=False, server_default=sa.text("'{}'::jsonb")),
        empty_text("user_id"),
        number("version", 1),
        sa.Column(
            "change",
            sa.BigInteger,
            nullable=False,
            server_default=sa.text("1"),
            comment="Changes of any column",
        ),
        moment("create_time"),
        moment("update_time"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="block_pkey"),
        sa.UniqueConstraint("tenant_id", "id", "label", name="block_label_key"),
        sa.CheckConstraint("char_length(value) <= limit_value", name="block_within_limit"),
        sa.CheckConstraint("visibility IN ('private', 'shared')", name="block_visibility"),
        schema=SCHEMA,
    )
    op.create_index("block_create_time", "block", ["tenant_id", "create_time", "id"], schema=SCHEMA)
    index_of_users("block")


def create_block_version() -> None:
    """Creates the versions of blocks."""
    op.create_table(
        "block_version",
        tenant(),
        sa.Column("id", sa.Text, nullable=False, comment="Derived from the request that made it"),
        sa.Column("block_id", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("change_sequence", sa.BigInteger, nullable=False, comment="Entry of memory_change"),
        empty_text("user_id"),
        number("restored_version", 0),
        moment("create_time"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="block_version_pkey"),
        sa.UniqueConstraint("tenant_id", "block_id", "version", name="block_version_number_key"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "block_id"],
            ["core_memory.block.tenant_id", "core_memory.block.id"],
            name="block_version_block_fkey",
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    index_of_users("block_version")


def create_attachment() -> None:
    """Creates the table of who sees what."""
    op.create_table(
        "attachment",
        tenant(),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False, comment="Only for this user; empty for all"),
        sa.Column("label", sa.Text, nullable=False, comment="The block's; here so that the key makes it unique"),
        sa.Column("block_id", sa.Text, nullable=False),
        flag("copy_per_user"),
        moment("create_time"),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id", "user_id", "label", name="attachment_label_key"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "block_id", "label"],
            ["core_memory.block.tenant_id", "core_memory.block.id", "core_memory.block.label"],
            name="attachment_block_fkey",
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        schema=SCHEMA,
    )
    op.create_index("attachment_block", "attachment", ["tenant_id", "block_id"], schema=SCHEMA)
    index_of_users("attachment")


def create_revision() -> None:
    """Creates the counters that grow with every write."""
    op.create_table(
        "revision",
        tenant(),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False, comment="Empty: what every user of the agent sees"),
        number("revision", 0),
        number("shared_revision", 0),
        sa.PrimaryKeyConstraint("tenant_id", "agent_id", "user_id", name="revision_pkey"),
        schema=SCHEMA,
    )
    index_of_users("revision")


def create_memory_change() -> None:
    """Creates the audit and, apart from it, the reasons."""
    op.create_table(
        "memory_change",
        tenant(),
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), nullable=False),
        moment("create_time"),
        sa.Column("actor", sa.Text, nullable=False),
        empty_text("user_id"),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        empty_text("agent_id"),
        sa.Column("old_version", sa.BigInteger, nullable=False),
        sa.Column("new_version", sa.BigInteger, nullable=False),
        empty_text("old_sha256"),
        empty_text("new_sha256"),
        sa.Column("old_chars", sa.Integer, nullable=False),
        sa.Column("new_chars", sa.Integer, nullable=False),
        sa.Column(
            "source_message_ids",
            postgresql.ARRAY(sa.Text),
            nullable=False,
            server_default=sa.text("'{}'::text[]"),
        ),
        sa.Column("trust_level", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
        flag("from_recall"),
        empty_text("step_id"),
        empty_text("trace_id"),
        sa.PrimaryKeyConstraint("tenant_id", "sequence", name="memory_change_pkey"),
        schema=SCHEMA,
    )
    for name, column in (
        ("resource", "resource_id"),
        ("agent", "agent_id"),
        ("user", "user_id"),
        ("actor", "actor"),
    ):
        columns = ["tenant_id", column, "sequence"]
        op.create_index(f"memory_change_{name}", "memory_change", columns, schema=SCHEMA)
    op.create_index("memory_change_time", "memory_change", ["tenant_id", "create_time"], schema=SCHEMA)
    op.create_table(
        "change_reason",
        tenant(),
        sa.Column("sequence", sa.BigInteger, nullable=False, comment="Entry of memory_change"),
        sa.Column("reason", sa.Text, nullable=False, comment="Free text: kept apart, so that it can be forgotten"),
        sa.PrimaryKeyConstraint("tenant_id", "sequence", name="change_reason_pkey"),
        schema=SCHEMA,
    )


def create_tombstone() -> None:
    """Creates the list of deleted agents and users."""
    op.create_table(
        "tombstone",
        tenant(),
        sa.Column("kind", sa.Text, nullable=False, comment="agent or user"),
        sa.Column("subject_id", sa.Text, nullable=False),
        empty_text("operation_id"),
        moment("create_time"),
        sa.PrimaryKeyConstraint("tenant_id", "kind", "subject_id", name="tombstone_pkey"),
        schema=SCHEMA,
    )
