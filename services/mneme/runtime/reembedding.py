"""Gives the rows of a table with vectors their vectors of another space, while they are searched and written to.

A row has two places for vectors (`runtime.vectors`): its own, and `next_space` with `next_embedding`. A row lacks a
space when neither is of it. Those that lack it are read in the order of their revisions, embedded by the caller, and
saved with a raised revision of their scope, like every write: side tables and caches notice. What is saved never lacks
the space again, so the work needs no journal: who comes after a dead process goes on where the rows say. A row that
changed between reading and saving is left out, and found again under its newer revision.

A text in which the model of that space finds nothing has `next_space` without a vector: it is found by its words.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector_async
from psycopg import errors
from psycopg.rows import DictRow, dict_row

from mneme.runtime.vectors import NOTED_ROWS, Content

Connection = psycopg.AsyncConnection[DictRow]

Busy = errors.LockNotAvailable
"""Somebody else held a lock for too long; the same call may be made again."""

_LOCK_TIMEOUT = "300ms"
"""Below the time after which PostgreSQL looks for a deadlock: who waits in vain is never the writer."""


@dataclass(frozen=True, slots=True)
class Source:
    """A table whose texts are embedded."""

    content: Content
    counter: str
    """The table whose column `revision` counts the writes of a scope. Its owner column is called like the content's."""
    columns: str
    """SQL of the columns that the embedded text is made of."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is searched as a whole."""

    tenant_id: str
    owner_id: str


@dataclass(frozen=True, slots=True)
class Count:
    """How far scopes are."""

    rows: int
    """Rows with a vector of any space."""
    lacking: int
    """Of those, rows without one of the space."""


_PUT = """
UPDATE {table} p SET next_space = %(space)s, next_embedding = v.vector
FROM unnest(%(ids)s::text[], %(vectors)b::halfvec[]) AS v (id, vector)
WHERE p.tenant_id = %(tenant)s AND p.id = v.id AND p.{space} IS NOT NULL
"""

_LACKING = "p.{space} IS NOT NULL AND p.{space} <> %(space)s AND p.next_space IS DISTINCT FROM %(space)s"

_COUNT = f"""
SELECT count(*) AS rows, count(*) FILTER (WHERE {_LACKING}) AS lacking FROM {{table}} p
WHERE p.tenant_id = %(tenant)s AND p.{{owner}} = %(owner)s AND p.{{space}} IS NOT NULL
"""  # noqa: S608

_READ = f"""
SELECT p.id, p.{{revision}} AS read_revision, {{columns}} FROM {{table}} p
WHERE p.tenant_id = %(tenant)s AND p.{{owner}} = %(owner)s AND p.{{revision}} >= %(since)s AND {_LACKING}
ORDER BY p.{{revision}} LIMIT %(limit)s
"""  # noqa: S608

_RAISE = """
UPDATE {counter} SET revision = revision + 1 WHERE tenant_id = %(tenant)s AND {owner} = %(owner)s RETURNING revision
"""

_SAVE = f"""
UPDATE {{table}} p SET next_space = %(space)s, next_embedding = v.vector, {{revision}} = %(revision)s
FROM unnest(%(ids)s::text[], %(revisions)s::bigint[]) AS r (id, revision)
LEFT JOIN unnest(%(found)s::text[], %(vectors)b::halfvec[]) AS v (id, vector) USING (id)
WHERE p.tenant_id = %(tenant)s AND p.{{owner}} = %(owner)s AND p.id = r.id AND p.{{revision}} = r.revision
    AND {_LACKING}
"""  # noqa: S608

# The rows of a scope that still hold two spaces. Their revision stays: what the active space says is the same.
_SETTLE = """
UPDATE {table} p SET
    {vector} = CASE WHEN p.{space} = %(space)s THEN p.{vector} ELSE p.next_embedding END,
    {space} = CASE WHEN p.{space} = %(space)s OR p.next_embedding IS NOT NULL THEN %(space)s END,
    index_state = CASE WHEN p.{space} = %(space)s OR p.next_embedding IS NOT NULL THEN p.index_state ELSE 3 END,
    next_space = NULL, next_embedding = NULL
FROM (
    SELECT id FROM {table} WHERE tenant_id = %(tenant)s AND {owner} = %(owner)s AND {revision} >= %(since)s
        AND next_space IS NOT NULL AND ({space} = %(space)s OR next_space = %(space)s)
    ORDER BY {revision} LIMIT %(limit)s
) s
WHERE p.tenant_id = %(tenant)s AND p.id = s.id AND p.next_space IS NOT NULL
    AND (p.{space} = %(space)s OR p.next_space = %(space)s)
RETURNING p.{revision} AS revision
"""

# The maintenance job counts a scope anew that is large enough to matter.
_RECHECK = f"""
UPDATE {{schema}}.vector_scope SET checked_count = -1
WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s AND row_count >= {NOTED_ROWS}
"""  # noqa: S608

_INDEXES = """
SELECT (SELECT count(*) FROM {schema}.vector_scope WHERE row_count <> checked_count)
    + (SELECT count(*) FROM {schema}.vector_table WHERE state = 1 AND space = %(space)s) AS missing
"""


async def put(
    tx: Connection, content: Content, tenant: str, space_id: str, vectors: Mapping[str, Iterable[float]]
) -> None:
    """Stores vectors of another space beside those of rows that this transaction wrote.

    Args:
        tx: The tenant transaction, which raised the scope's revision.
        content: The table.
        tenant: Its tenant.
        space_id: Space of the vectors; not that of the rows' own.
        vectors: By row id; may be empty.
    """
    values = {"tenant": tenant, "space": space_id, "ids": list(vectors)}
    await tx.execute(
        _PUT.format(table=content.table, space=content.space),
        {**values, "vectors": [HalfVector(list(vector)) for vector in vectors.values()]},
    )


class Rows:
    """The rows of one source, under the role that owns the schemas."""

    def __init__(self, connection: Connection, source: Source) -> None:
        self._connection = connection
        self._source = source

    async def scopes(self) -> list[Scope]:
        """Returns all scopes that have, or had, rows."""
        found = await self._execute("SELECT tenant_id, owner_id FROM {schema}.vector_scope ORDER BY 1, 2", {})
        return [Scope(**row) for row in await found.fetchall()]

    async def count(self, scope: Scope, space_id: str) -> Count:
        """Returns how many rows a scope has, and how many of them lack a space."""
        async with self._tenant(scope.tenant_id):
            row = await (await self._execute(_COUNT, _key(scope, space_id))).fetchone()
        assert row is not None
        return Count(**row)

    async def lacking(self, scope: Scope, space_id: str, *, since: int, limit: int) -> list[DictRow]:
        """Returns rows that lack a space, at most `limit`, in the order of their revisions from `since` on."""
        values = {**_key(scope, space_id), "since": since, "limit": limit}
        async with self._tenant(scope.tenant_id):
            return await (await self._execute(_READ, values)).fetchall()

    async def save(
        self, scope: Scope, space_id: str, rows: Sequence[DictRow], vectors: Mapping[str, Sequence[float]]
    ) -> int:
        """Stores the vectors of rows that `lacking` returned; returns how many did not change since.

        Args:
            scope: Whose rows.
            space_id: Space of the vectors.
            rows: As they were read.
            vectors: By row id; a row without one keeps none in that space.

        Raises:
            Busy: A writer held the scope for too long.
        """
        key = _key(scope, space_id)
        values = {
            **key,
            "ids": [row["id"] for row in rows],
            "revisions": [row["read_revision"] for row in rows],
            "found": list(vectors),
            "vectors": [HalfVector(list(vector)) for vector in vectors.values()],
        }
        async with self._tenant(scope.tenant_id):
            raised = await (await self._execute(_RAISE, key)).fetchone()
            if raised is None:
                # The scope went.
                return 0
            return (await self._execute(_SAVE, {**values, "revision": raised["revision"]})).rowcount

    async def settle(self, scope: Scope, space_id: str, *, since: int, limit: int) -> tuple[int, int]:
        """Gives up other spaces in some rows that have a vector of the space; returns how many, and where to go on.

        Raises:
            Busy: A writer held a row for too long.
        """
        values = {**_key(scope, space_id), "since": since, "limit": limit}
        async with self._tenant(scope.tenant_id):
            rows = await (await self._execute(_SETTLE, values)).fetchall()
        return len(rows), min((row["revision"] for row in rows), default=since)

    async def recheck(self, scope: Scope) -> None:
        """Has the maintenance job decide anew which spaces of the scope are worth an index."""
        await self._execute(_RECHECK, _key(scope, ""))

    async def indexes_missing(self, space_id: str) -> int:
        """Returns how many scopes are not decided about, or wait for their index in a space."""
        row = await (await self._execute(_INDEXES, {"space": space_id})).fetchone()
        assert row is not None
        return int(row["missing"])

    @asynccontextmanager
    async def _tenant(self, tenant: str) -> AsyncIterator[None]:
        async with self._connection.transaction():
            await self._connection.execute("SELECT set_config('app.tenant', %s, true)", (tenant,))
            yield

    async def _execute(self, statement: str, values: dict[str, Any]) -> psycopg.AsyncCursor[DictRow]:
        source, content = self._source, self._source.content
        names = {name: getattr(content, name) for name in ("schema", "table", "owner", "space", "vector", "revision")}
        text = statement.format(**names, counter=source.counter, columns=source.columns)
        return await self._connection.execute(text.encode(), values)


@asynccontextmanager
async def connect(owner_url: str) -> AsyncIterator[Connection]:
    """Holds a connection as the role that owns the schemas, for one task."""
    async with await psycopg.AsyncConnection.connect(
        owner_url, autocommit=True, row_factory=dict_row, application_name="mneme reembed"
    ) as connection:
        await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        await register_vector_async(connection)
        yield connection


def _key(scope: Scope, space_id: str) -> dict[str, Any]:
    return {"tenant": scope.tenant_id, "owner": scope.owner_id, "space": space_id}
