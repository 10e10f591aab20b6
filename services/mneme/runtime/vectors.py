"""Search by meaning inside scopes of any size: exact for a small one, through an index of its own for a large one.

A scope is what is searched as a whole: an agent's passages, a knowledge base, an agent's messages. The store's own
table holds each vector beside its text, and is the truth. A scope with many vectors also has a *side table*, made and
filled by the maintenance job (`runtime.vectors_maintenance`): ids and vectors of this scope only, under an HNSW index
(Malkov and Yashunin 2018, arXiv 1603.09320; pgvector's halfvec). So no index ever mixes scopes, and no search through
an index is filtered to a part of it.

Every write to a scope has a revision, higher than all before; rows carry the one that wrote them last. A side table is
complete up to the revision in `vector_table.folded`, and rows above it are compared one by one. What a side table
offers is only a candidate: filter, space and distance are those of the row itself. Where fewer pass than are asked
for, the whole scope is compared. So a search always returns its full count, and never a stale vector's place.

A row may hold a second vector, of the space that the deployment changes to (`runtime.reembedding`), in the columns
`next_space` and `next_embedding`. A search compares whichever of the two belongs to the space of its question.

A store describes the two work tables with `vector_tables`, its migration calls `create_vector_tables`, and a search
puts `cte` in front of its own statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from alembic.operations import Operations
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, MetaData, SmallInteger, Table, Text, text

BUILDING, SERVING, RETIRED = 1, 2, 3
"""States of a side table."""

BREADTH = 1000
"""Most candidates that an index brings: pgvector's limit of `hnsw.ef_search`."""

NOTED_ROWS = 256
"""The job hears of a scope when it reaches, or falls below, a multiple of so many rows."""


@dataclass(frozen=True, slots=True)
class Content:
    """A table whose rows have vectors, and the names of its columns."""

    schema: str
    table: str
    """With its schema; it has the columns `tenant_id`, `id`, `next_space` and `next_embedding`."""
    owner: str
    """The scope a row belongs to. An index begins with `tenant_id`, this column and `revision`."""
    space: str
    """The vector space of `vector`; NULL without a vector."""
    vector: str
    """A halfvec of any length."""
    revision: str
    """The scope's revision of the row's last write. Transactions that raise it take turns in their scope."""


def held(content: Content, alias: str) -> str:
    """Returns the SQL of a row's vector in the space of the parameter `space`; NULL where it has none."""
    return (
        f"CASE WHEN {alias}.{content.space} = %(space)s THEN {alias}.{content.vector}"
        f" WHEN {alias}.next_space = %(space)s THEN {alias}.next_embedding END"
    )


def vector_tables(metadata: MetaData) -> None:
    """Describes the work tables of side tables in a store's metadata. They hold ids and counts, nobody's text."""
    Table(
        "vector_scope",
        metadata,
        Column("tenant_id", Text, primary_key=True, nullable=False),
        Column("owner_id", Text, primary_key=True, nullable=False),
        Column("row_count", BigInteger, nullable=False),
        Column("checked_count", BigInteger, nullable=False, server_default=text("0")),
    )
    side = Table(
        "vector_table",
        metadata,
        Column("number", BigInteger, Identity(always=True), primary_key=True, nullable=False),
        Column("tenant_id", Text, nullable=False),
        Column("owner_id", Text, nullable=False),
        Column("space", Text, nullable=False),
        Column("dimensions", Integer, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("folded", BigInteger, nullable=False, server_default=text("'-1'::integer")),
        Column("create_time", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    )
    Index("vector_table_scope", side.c.tenant_id, side.c.owner_id, side.c.space)
    Index(
        "vector_table_serving",
        side.c.tenant_id,
        side.c.owner_id,
        side.c.space,
        unique=True,
        postgresql_where=text("state = 2"),
    )


def create_vector_tables(op: Operations | ModuleType, content: Content, *, counted: tuple[str, str, str]) -> None:
    """Creates the work tables, what keeps them true, and the function `<schema>.nearest` that `cte` calls.

    Args:
        op: Alembic's operations.
        content: The table with the vectors.
        counted: The store's table of scopes with its columns of owner and of row count. Its rows are written by every
            transaction that adds or removes rows of the scope, and removed with the scope.
    """
    scopes, owner, count = counted
    names = {**_names(content), "scopes": scopes, "scope_owner": owner, "count": count, "noted": NOTED_ROWS}
    for statement in _CREATE:
        op.execute(statement.format(**names))


def create_next_columns(op: Operations | ModuleType, content: Content, *, counted: tuple[str, str, str]) -> None:
    """Adds the columns of the next space, and notes every scope from its first row on, however small.

    Args:
        op: Alembic's operations.
        content: The table with the vectors.
        counted: As in `create_vector_tables`.
    """
    scopes, owner, count = counted
    names = {**_names(content), "scopes": scopes, "scope_owner": owner, "count": count, "noted": NOTED_ROWS}
    for statement in _CREATE_NEXT:
        op.execute(statement.format(**names))


def side_table(content: Content, number: int) -> str:
    """Returns the name of a side table."""
    return f"{content.schema}.vector_{number}"


def _names(content: Content) -> dict[str, str]:
    return {
        "schema": content.schema,
        "table": content.table,
        "owner": content.owner,
        "space": content.space,
        "vector": content.vector,
        "revision": content.revision,
    }


_CREATE = (
    """
    CREATE TABLE {schema}.vector_scope (
        tenant_id text NOT NULL,
        owner_id text NOT NULL,
        row_count bigint NOT NULL,
        checked_count bigint NOT NULL DEFAULT 0,
        CONSTRAINT vector_scope_pkey PRIMARY KEY (tenant_id, owner_id)
    )""",
    """
    CREATE TABLE {schema}.vector_table (
        number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        tenant_id text NOT NULL,
        owner_id text NOT NULL,
        space text NOT NULL,
        dimensions integer NOT NULL,
        state smallint NOT NULL,
        folded bigint NOT NULL DEFAULT '-1'::integer,
        create_time timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT vector_table_pkey PRIMARY KEY (number)
    )""",
    "CREATE INDEX vector_table_scope ON {schema}.vector_table (tenant_id, owner_id, space)",
    """
    CREATE UNIQUE INDEX vector_table_serving
        ON {schema}.vector_table (tenant_id, owner_id, space) WHERE state = 2""",
    # The rows of scopes cannot be read over all tenants, so those that are large enough to matter are noted where they
    # can. A scope that goes takes its side tables along, in the same transaction.
    """
    CREATE FUNCTION {schema}.note_vector_scope() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            DELETE FROM {schema}.vector_scope WHERE tenant_id = OLD.tenant_id AND owner_id = OLD.{scope_owner};
            UPDATE {schema}.vector_table SET state = 3
            WHERE tenant_id = OLD.tenant_id AND owner_id = OLD.{scope_owner};
        ELSE
            INSERT INTO {schema}.vector_scope (tenant_id, owner_id, row_count)
            VALUES (NEW.tenant_id, NEW.{scope_owner}, NEW.{count})
            ON CONFLICT (tenant_id, owner_id) DO UPDATE SET row_count = excluded.row_count;
        END IF;
        RETURN NULL;
    END $$""",
    """
    CREATE TRIGGER note_vector_scope_growth AFTER UPDATE ON {scopes} FOR EACH ROW
        WHEN (NEW.{count} / {noted} <> OLD.{count} / {noted})
        EXECUTE FUNCTION {schema}.note_vector_scope()""",
    """
    CREATE TRIGGER note_vector_scope_start AFTER INSERT ON {scopes} FOR EACH ROW
        WHEN (NEW.{count} >= {noted}) EXECUTE FUNCTION {schema}.note_vector_scope()""",
    """
    CREATE TRIGGER note_vector_scope_end AFTER DELETE ON {scopes} FOR EACH ROW
        EXECUTE FUNCTION {schema}.note_vector_scope()""",
    # What is deleted is gone from every side table when the transaction commits: a vector tells of its text.
    """
    CREATE FUNCTION {schema}.forget_vectors() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE side record;
    BEGIN
        FOR side IN
            SELECT DISTINCT t.number FROM {schema}.vector_table t
            WHERE (t.tenant_id, t.owner_id) IN (SELECT DISTINCT tenant_id, {owner} FROM gone)
        LOOP
            BEGIN
                EXECUTE format('DELETE FROM {schema}.vector_%s v USING gone WHERE v.id = gone.id', side.number);
            EXCEPTION WHEN undefined_table THEN NULL;
            END;
        END LOOP;
        RETURN NULL;
    END $$""",
    """
    CREATE TRIGGER forget_vectors AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION {schema}.forget_vectors()""",
    # STABLE: it sees what the calling statement sees, so `folded` and the side table belong together. Its own plan is
    # made for the side table's name; the caller's statement stays the same for all scopes and is prepared once. Where
    # the side table went in the same moment it finds nothing, and the caller compares the whole scope. No guess of the
    # planner turns it away from the index.
    """
    CREATE FUNCTION {schema}.nearest(tenant text, owner text, space text, vector halfvec, wanted integer)
    RETURNS TABLE (id text) LANGUAGE plpgsql STABLE ROWS 100 SET enable_seqscan = off AS $$
    DECLARE side bigint;
    BEGIN
        SELECT t.number INTO side FROM {schema}.vector_table t
        WHERE t.tenant_id = tenant AND t.owner_id = owner AND t.space = nearest.space AND t.state = 2;
        IF FOUND THEN
            PERFORM set_config('hnsw.ef_search', greatest(200, least(wanted, 1000))::text, true),
                set_config('hnsw.iterative_scan', 'relaxed_order', true);
            RETURN QUERY EXECUTE format(
                'SELECT v.id FROM {schema}.vector_%s v ORDER BY v.embedding <=> $1 LIMIT $2', side
            ) USING vector, wanted;
        END IF;
    EXCEPTION WHEN undefined_table THEN
        RETURN;
    END $$""",
)


_CREATE_NEXT = (
    "ALTER TABLE {table} ADD COLUMN next_space text, ADD COLUMN next_embedding halfvec",
    "ALTER TABLE {table} ALTER COLUMN next_embedding SET STORAGE MAIN",
    "DROP TRIGGER note_vector_scope_start ON {scopes}",
    # Its own rows are few; a scope that is too small for an index counts as checked.
    """
    CREATE FUNCTION {schema}.note_new_vector_scope() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO {schema}.vector_scope (tenant_id, owner_id, row_count, checked_count)
        VALUES (NEW.tenant_id, NEW.{scope_owner}, NEW.{count},
            CASE WHEN NEW.{count} < {noted} THEN NEW.{count} ELSE 0 END)
        ON CONFLICT (tenant_id, owner_id) DO UPDATE SET row_count = excluded.row_count;
        RETURN NULL;
    END $$""",
    """
    CREATE TRIGGER note_vector_scope_start AFTER INSERT ON {scopes} FOR EACH ROW
        EXECUTE FUNCTION {schema}.note_new_vector_scope()""",
    # The owner sees no tenant's rows but while this transaction holds the table for itself.
    "ALTER TABLE {scopes} NO FORCE ROW LEVEL SECURITY",
    """
    INSERT INTO {schema}.vector_scope (tenant_id, owner_id, row_count, checked_count)
    SELECT tenant_id, {scope_owner}, {count}, {count} FROM {scopes}
    ON CONFLICT (tenant_id, owner_id) DO NOTHING""",
    "ALTER TABLE {scopes} FORCE ROW LEVEL SECURITY",
)


# The inner order costs nothing on the index of revisions, and a sort on any other: it decides for the right one also
# where the planner knows nothing of the table yet.
_CTE = """nearest AS MATERIALIZED (
    SELECT n.id FROM unnest(%(owners)s::text[]) o (id)
    CROSS JOIN LATERAL {schema}.nearest(%(tenant)s, o.id, %(space)s, %(vector)s, %(breadth)s) n
), folded AS MATERIALIZED (
    SELECT c.* FROM nearest n CROSS JOIN LATERAL (
        SELECT {a}.id, {a}.{owner} AS owner, {held} <=> %(vector)s AS distance FROM {table} {a}
        WHERE {a}.tenant_id = %(tenant)s AND {a}.id = n.id AND {held} IS NOT NULL{where} OFFSET 0
    ) c
), unfolded AS (
    SELECT c.* FROM (
        SELECT o.id AS owner, CASE WHEN (SELECT count(*) FROM folded f WHERE f.owner = o.id) >= %(depth)s
            THEN t.folded ELSE -1 END AS since
        FROM unnest(%(owners)s::text[]) o (id) LEFT JOIN {schema}.vector_table t ON t.tenant_id = %(tenant)s
            AND t.owner_id = o.id AND t.space = %(space)s AND t.state = 2
    ) s CROSS JOIN LATERAL (
        SELECT r.* FROM (
            SELECT {a}.id, {held} <=> %(vector)s AS distance FROM {table} {a}
            WHERE {a}.tenant_id = %(tenant)s AND {a}.{owner} = s.owner AND {a}.{revision} > s.since
                AND {a}.{space} IS NOT NULL AND {held} IS NOT NULL{where}
            ORDER BY {a}.{revision} OFFSET 0
        ) r ORDER BY r.distance, r.id LIMIT %(depth)s
    ) c
), meaning AS MATERIALIZED (
    SELECT id, min(distance) AS distance
    FROM (SELECT id, distance FROM folded UNION ALL SELECT id, distance FROM unfolded) u
    GROUP BY id ORDER BY 2, 1 LIMIT %(depth)s
)"""


def cte(content: Content, *, alias: str, where: str) -> str:
    """Returns common table expressions that end in `meaning(id, distance)`: the nearest rows, at most `depth`.

    Exactly `depth` rows where that many pass the filter, over all scopes together. The statement needs the parameters
    `tenant`, `owners` (text[]), `space`, `vector` (halfvec), `depth` and `breadth`: how many candidates an index
    brings, at least `depth`; more when the filter drops many.

    Args:
        content: The table with the vectors.
        alias: What the filter calls that table.
        where: Conditions of the filter, each with a leading AND.
    """
    # In few characters: psycopg parses a statement of more than 4,096 anew each time.
    return " ".join(_CTE.format(**_names(content), a=alias, held=f"({held(content, alias)})", where=where).split())


def breadth(depth: int, *, narrowed: bool) -> int:
    """Returns how many candidates an index shall bring for a search.

    Args:
        depth: Candidates that are wanted.
        narrowed: Whether the filter may drop most rows.
    """
    return max(depth, BREADTH) if narrowed else depth + depth // 8
