"""The job that makes, fills and drops the side tables of `runtime.vectors`, under the role that owns the schemas.

A large scope becomes searchable through an index in steps, each a transaction of its own, while it is searched and
written to: make the side table, copy its vectors in the order of their revisions, build the index, serve. Whatever was
done stays done; a job that dies leaves the next one to go on. Later rows are copied into the served table when enough
of them wait. Nothing here blocks a search, and a writer waits at most for one batch.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg import errors, sql
from psycopg.rows import DictRow, dict_row

from mneme.runtime.vectors import BUILDING, RETIRED, Content, held, side_table
from mneme.settings import MaintenanceSettings

_LOCK = 0x6D6E656D  # "mnem"
_LOCK_TIMEOUT = "300ms"
"""Below the time after which PostgreSQL looks for a deadlock: who waits in vain is never the writer."""
_COPY_ROWS = 2000
"""Rows of one transaction while there is no index yet."""
_FOLD_ROWS = 200
"""Rows of one transaction into a table with an index, where a row takes about a millisecond."""

Connection = psycopg.AsyncConnection[DictRow]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Done:
    """What one pass did."""

    promoted: int = 0
    """Scopes that are searched through an index since."""
    folded: int = 0
    """Rows copied into tables that serve."""
    retired: int = 0
    """Side tables that serve no longer."""
    dropped: int = 0
    """Side tables removed."""
    postponed: int = 0
    """Steps that met a lock held too long; the next pass takes them up."""
    elsewhere: bool = False
    """Whether another job worked on a schema, which this pass left alone."""


@dataclass(frozen=True, slots=True)
class _Side:
    """A row of `vector_table`."""

    number: int
    tenant_id: str
    owner_id: str
    space: str
    dimensions: int
    state: int
    folded: int


async def maintain(owner_url: str, contents: Sequence[Content], settings: MaintenanceSettings) -> Done:
    """Brings the side tables of all schemas up to date, once; safe to repeat, and safe when two run at once.

    Args:
        owner_url: Connection URL of the role that owns the schemas; it needs no right to bypass row-level security.
        contents: The tables with vectors.
        settings: When a scope is large, and how much memory a build may take.

    Raises:
        psycopg.OperationalError: The database went away; what was done stays done.
    """
    done = Done()
    async with await psycopg.AsyncConnection.connect(
        owner_url, autocommit=True, row_factory=dict_row, application_name="mneme maintenance"
    ) as connection:
        await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.execute(f"SET maintenance_work_mem = '{settings.build_memory_mb}MB'")
        for content in contents:
            async with _alone(connection, content.schema) as mine:
                done.elsewhere |= not mine
                if mine:
                    await _Pass(connection, content, settings, done).run()
    return done


async def watch(owner_url: str, contents: Sequence[Content], settings: MaintenanceSettings) -> None:
    """Maintains again and again until it is cancelled; what fails is logged and tried again."""
    while True:
        try:
            done = await maintain(owner_url, contents, settings)
            if done != Done(elsewhere=done.elsewhere):
                log.info(
                    "vectors.maintained",
                    promoted=done.promoted,
                    folded=done.folded,
                    retired=done.retired,
                    dropped=done.dropped,
                    postponed=done.postponed,
                )
        except psycopg.Error as error:
            log.warning("vectors.maintenance_failed", sqlstate=error.sqlstate, error=type(error).__name__)
        await asyncio.sleep(settings.interval)


@asynccontextmanager
async def _alone(connection: Connection, schema: str) -> AsyncIterator[bool]:
    """Whether the session holds the schema's lock inside the block. It ends with the session, also of a dead job."""
    key = (_LOCK, zlib.crc32(schema.encode()) & 0x7FFFFFFF)
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s) AS taken", key)
    row = await cursor.fetchone()
    taken = bool(row and row["taken"])
    try:
        yield taken
    finally:
        if taken and not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)


class _Pass:
    """One pass over one schema."""

    def __init__(self, connection: Connection, content: Content, settings: MaintenanceSettings, done: Done) -> None:
        self._connection = connection
        self._settings = settings
        self._done = done
        self._content = content

    async def run(self) -> None:
        await self._check_scopes()
        for side in await self._sides():
            try:
                if side.state == RETIRED:
                    await self._drop(side)
                elif side.state == BUILDING:
                    await self._build(side)
                else:
                    await self._fold(side)
            except errors.LockNotAvailable:
                self._postpone(side.owner_id)

    async def _check_scopes(self) -> None:
        """Decides for each scope whose size changed which spaces of it are worth an index."""
        for scope in await self._rows("SELECT * FROM {schema}.vector_scope WHERE row_count <> checked_count"):
            key = {"tenant": scope["tenant_id"], "owner": scope["owner_id"], "count": scope["row_count"]}
            key["checked"] = scope["checked_count"]
            # Counted without a lock, as it takes long.
            async with self._tenant(scope["tenant_id"]):
                spaces = await self._rows(
                    """
                    SELECT v.space, count(*) AS rows, max(vector_dims(v.vector)) AS dimensions FROM {table} p
                    CROSS JOIN LATERAL (VALUES ({space}, {vector}), (next_space, next_embedding)) v (space, vector)
                    WHERE tenant_id = %(tenant)s AND {owner} = %(owner)s AND v.vector IS NOT NULL
                    GROUP BY 1 ORDER BY 1
                    """,
                    key,
                )
            try:
                async with self._tenant(scope["tenant_id"]):
                    await self._decide(key, spaces)
            except errors.LockNotAvailable:
                self._postpone(scope["owner_id"])

    async def _decide(self, key: dict[str, Any], spaces: Sequence[DictRow]) -> None:
        checked = await self._execute(
            "UPDATE {schema}.vector_scope SET checked_count = %(count)s"
            " WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s AND checked_count = %(checked)s",
            key,
        )
        if not checked.rowcount:
            # While it was counted the scope went, or somebody asked to count it anew.
            return
        rows = {row["space"]: row["rows"] for row in spaces}
        standing = await self._rows(
            "SELECT * FROM {schema}.vector_table WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s AND state <> 3",
            key,
        )
        for one in standing:
            # Half of the bound: a scope around it does not go back and forth.
            if rows.get(one["space"], 0) < self._settings.exact_rows // 2:
                await self._retire(one["number"])
        known = {one["space"] for one in standing}
        for row in spaces:
            if row["rows"] > self._settings.exact_rows and row["space"] not in known:
                await self._create(key, row["space"], row["dimensions"])

    async def _create(self, key: dict[str, Any], space: str, dimensions: int) -> None:
        cursor = await self._execute(
            """
            INSERT INTO {schema}.vector_table (tenant_id, owner_id, space, dimensions, state)
            VALUES (%(tenant)s, %(owner)s, %(space)s, %(dimensions)s, 1) RETURNING number
            """,
            {**key, "space": space, "dimensions": dimensions},
        )
        row = await cursor.fetchone()
        assert row is not None
        name = side_table(self._content, row["number"])
        # The tenant stands in the policy instead of a column: it is compared once a search, not once a row.
        mine = sql.SQL("current_setting('app.tenant', true) = {}").format(key["tenant"]).as_string()
        for statement in (
            f"CREATE TABLE {name} (id text PRIMARY KEY, embedding halfvec({dimensions}) NOT NULL)",
            # In the row, so that there is no third table beside the two.
            f"ALTER TABLE {name} ALTER id SET STORAGE PLAIN, ALTER embedding SET STORAGE PLAIN",
            f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY tenant_isolation ON {name} USING ({mine}) WITH CHECK ({mine})",
        ):
            await self._connection.execute(statement.encode())

    async def _build(self, side: _Side) -> None:
        """Copies, builds the index, and lets the table serve."""
        await self._copy(side, _COPY_ROWS)
        await self._index(side)
        folded = await self._copy(side, _FOLD_ROWS)
        served = await self._execute(
            "UPDATE {schema}.vector_table SET state = 2 WHERE number = %(number)s AND state = 1",
            {"number": side.number},
        )
        self._done.promoted += served.rowcount
        log.info("vectors.promoted", schema=self._content.schema, table=side.number, behind=folded)

    async def _index(self, side: _Side) -> None:
        """Builds the HNSW index. Concurrently, as deletions reach the table already."""
        name = side_table(self._content, side.number)
        index = f"vector_{side.number}_nearest"
        state = await self._rows(
            "SELECT i.indisvalid AS valid FROM pg_index i WHERE i.indexrelid = to_regclass(%(name)s)",
            {"name": f"{self._content.schema}.{index}"},
        )
        if state and state[0]["valid"]:
            return
        if state:
            # A build that died.
            await self._connection.execute(f"DROP INDEX {self._content.schema}.{index}".encode())
        # It waits for transactions that are older, and nobody waits for it.
        await self._connection.execute("SET lock_timeout = 0")
        try:
            await self._connection.execute(
                f"CREATE INDEX CONCURRENTLY {index} ON {name} USING hnsw (embedding halfvec_cosine_ops)"
                " WITH (m = 16, ef_construction = 64)".encode()
            )
        finally:
            if not self._connection.closed:
                await self._connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")

    async def _fold(self, side: _Side) -> None:
        """Copies what waits beside a table that serves, if it is enough."""
        async with self._tenant(side.tenant_id):
            waiting = await self._rows(
                """
                SELECT count(*) AS rows FROM (
                    SELECT FROM {table} p WHERE tenant_id = %(tenant)s AND {owner} = %(owner)s
                        AND {revision} > (SELECT folded FROM {schema}.vector_table WHERE number = %(number)s)
                        AND {space} IS NOT NULL AND {held} IS NOT NULL LIMIT %(enough)s) counted
                """,
                {**self._key(side), "enough": self._settings.fold_rows},
            )
        if waiting[0]["rows"] >= self._settings.fold_rows:
            self._done.folded += await self._copy(side, _FOLD_ROWS)

    async def _copy(self, side: _Side, batch: int) -> int:
        """Copies all rows above the side table's revision; returns how many."""
        copied = 0
        while True:
            async with self._tenant(side.tenant_id):
                step = await self._copy_batch(side, batch)
            if step is None:
                return copied
            copied += step

    async def _copy_batch(self, side: _Side, batch: int) -> int | None:
        """Copies whole revisions, `batch` rows or a few more; returns how many rows changed, None at the end."""
        key = {**self._key(side), "batch": batch}
        bounds = await self._rows(
            """
            SELECT t.folded AS since, (SELECT max(revision) FROM (
                SELECT {revision} AS revision FROM {table} p WHERE tenant_id = %(tenant)s AND {owner} = %(owner)s
                    AND {revision} > t.folded AND {space} IS NOT NULL AND {held} IS NOT NULL
                ORDER BY 1 LIMIT %(batch)s) next) AS upto
            FROM {schema}.vector_table t WHERE t.number = %(number)s AND t.state <> 3
            """,
            key,
        )
        if not bounds or bounds[0]["upto"] is None:
            return None
        key |= bounds[0]
        # A row that is just being deleted is waited for: copied after its deletion, nobody would remove it again. The
        # rows come before `vector_table`, as in the deletion of a scope, so the two never wait for each other.
        copied = await self._execute(
            """
            INSERT INTO {side} AS v (id, embedding)
            SELECT id, {held} FROM {table} p WHERE tenant_id = %(tenant)s AND {owner} = %(owner)s
                AND {revision} > %(since)s AND {revision} <= %(upto)s AND {space} IS NOT NULL
                AND {held} IS NOT NULL
            FOR KEY SHARE
            ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding
                WHERE v.embedding IS DISTINCT FROM excluded.embedding
            """.replace("{side}", side_table(self._content, side.number)),
            key,
        )
        await self._execute("UPDATE {schema}.vector_table SET folded = %(upto)s WHERE number = %(number)s", key)
        return copied.rowcount

    def _postpone(self, owner_id: str) -> None:
        self._done.postponed += 1
        log.info("vectors.postponed", schema=self._content.schema, scope=owner_id)

    async def _retire(self, number: int) -> None:
        await self._execute("UPDATE {schema}.vector_table SET state = 3 WHERE number = %(number)s", {"number": number})
        self._done.retired += 1

    async def _drop(self, side: _Side) -> None:
        async with self._connection.transaction():
            await self._connection.execute(f"DROP TABLE IF EXISTS {side_table(self._content, side.number)}".encode())
            await self._execute("DELETE FROM {schema}.vector_table WHERE number = %(number)s", {"number": side.number})
        self._done.dropped += 1

    async def _sides(self) -> list[_Side]:
        # Those that serve come first: a long build must not keep fresh rows waiting.
        rows = await self._rows(
            "SELECT number, tenant_id, owner_id, space, dimensions, state, folded FROM {schema}.vector_table"
            " ORDER BY state = 2 DESC, state DESC, number"
        )
        return [_Side(**row) for row in rows]

    def _key(self, side: _Side) -> dict[str, Any]:
        return {"tenant": side.tenant_id, "owner": side.owner_id, "space": side.space, "number": side.number}

    @asynccontextmanager
    async def _tenant(self, tenant: str) -> AsyncIterator[None]:
        """A transaction on the rows of one tenant; the owner of the tables sees no others either."""
        async with self._connection.transaction():
            await self._connection.execute("SELECT set_config('app.tenant', %s, true)", (tenant,))
            yield

    async def _rows(self, statement: str, values: dict[str, Any] | None = None) -> list[DictRow]:
        return await (await self._execute(statement, values or {})).fetchall()

    async def _execute(self, statement: str, values: dict[str, Any]) -> psycopg.AsyncCursor[DictRow]:
        content = self._content
        for name in ("schema", "table", "owner", "space", "vector", "revision"):
            statement = statement.replace(f"{{{name}}}", getattr(content, name))
        statement = statement.replace("{held}", f"({held(content, 'p')})")
        return await self._connection.execute(statement.encode(), values)
