"""Rules for how long messages are kept, and the agents whose messages they are held against."""

from alembic import op

revision = "recall_0003"
down_revision = "recall_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE recall.retention (
            tenant_id text NOT NULL,
            subject_kind text NOT NULL,
            subject_id text NOT NULL,
            max_age_days integer NOT NULL,
            CONSTRAINT retention_pkey PRIMARY KEY (tenant_id, subject_kind, subject_id)
        )"""
    )
    op.execute(
        """
        CREATE TABLE recall.retention_due (
            tenant_id text NOT NULL,
            agent_id text NOT NULL,
            due_time timestamptz NOT NULL,
            CONSTRAINT retention_due_pkey PRIMARY KEY (tenant_id, agent_id)
        )"""
    )
    op.execute("CREATE INDEX retention_due_time ON recall.retention_due (due_time)")
    # A conversation is made known by an append, the hot path of a turn: only its first one comes by here.
    op.execute(
        """
        CREATE FUNCTION recall.note_agent() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO recall.retention_due (tenant_id, agent_id, due_time)
            VALUES (NEW.tenant_id, NEW.agent_id, now()) ON CONFLICT DO NOTHING;
            RETURN NULL;
        END
        $$"""
    )
    op.execute(
        """
        CREATE TRIGGER note_agent AFTER INSERT ON recall.conversation
        FOR EACH ROW EXECUTE FUNCTION recall.note_agent()"""
    )
    # Policies bind the owner too, unless they are lifted for the copy over all tenants.
    op.execute("ALTER TABLE recall.conversation NO FORCE ROW LEVEL SECURITY")
    op.execute(
        """
        INSERT INTO recall.retention_due (tenant_id, agent_id, due_time)
        SELECT DISTINCT tenant_id, agent_id, now() FROM recall.conversation"""
    )
    op.execute("ALTER TABLE recall.conversation FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("DROP TRIGGER note_agent ON recall.conversation")
    op.execute("DROP FUNCTION recall.note_agent()")
    op.execute("DROP TABLE recall.retention_due, recall.retention")
