"""Judged samples and tombstones in PostgreSQL. A sample holds a keyed hash of its question, never the text."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
)

from mneme.runtime.db import Connection, Database

metadata = MetaData(schema="semantic_cache")

Table(
    "judged_sample",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("sample_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("entry_id", Text, nullable=False),
    Column("question_hmac", Text, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("wrong", Boolean, nullable=False),
    Column("actor", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "sample_id", name="judged_sample_pkey"),
    Index("judged_sample_agent", "tenant_id", "agent_id"),
    Index("judged_sample_user", "tenant_id", "user_id"),
)

Table(
    "tombstone",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("operation_id", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "kind", "subject_id", name="tombstone_pkey"),
    CheckConstraint("kind IN ('agent', 'user')", name="tombstone_kind"),
)

Table(
    "request",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "request_id", name="request_pkey"),
    Index("request_create_time", "create_time"),
)

_FORGOTTEN = """
SELECT EXISTS (
    SELECT FROM semantic_cache.tombstone
    WHERE tenant_id = %(tenant)s
      AND ((kind = 'agent' AND subject_id = %(agent_id)s) OR (kind = 'user' AND subject_id = ANY(%(users)s)))
) AS forgotten
"""

_RECORD = """
INSERT INTO semantic_cache.judged_sample
    (tenant_id, sample_id, agent_id, user_id, entry_id, question_hmac, stratum, wrong, actor)
SELECT %(tenant)s, %(sample_id)s, %(agent_id)s, %(user_id)s, %(entry_id)s, %(question_hmac)s, %(stratum)s,
       %(wrong)s, %(actor)s
WHERE NOT EXISTS (
    SELECT FROM semantic_cache.tombstone
    WHERE tenant_id = %(tenant)s
      AND ((kind = 'agent' AND subject_id = %(agent_id)s) OR (kind = 'user' AND subject_id = %(user_id)s))
)
"""

_STRATA = """
SELECT stratum, count(*) AS judged, count(*) FILTER (WHERE wrong) AS wrong
FROM semantic_cache.judged_sample
WHERE tenant_id = %(tenant)s AND (%(agent_id)s = '' OR agent_id = %(agent_id)s)
GROUP BY stratum
ORDER BY stratum
"""

_TOMBSTONE = """
INSERT INTO semantic_cache.tombstone (tenant_id, kind, subject_id, operation_id)
VALUES (%(tenant)s, %(kind)s, %(subject_id)s, %(operation_id)s)
ON CONFLICT (tenant_id, kind, subject_id) DO NOTHING
"""

_PURGE = {
    "agent": "DELETE FROM semantic_cache.judged_sample WHERE tenant_id = %(tenant)s AND agent_id = %(subject_id)s",
    "user": "DELETE FROM semantic_cache.judged_sample WHERE tenant_id = %(tenant)s AND user_id = %(subject_id)s",
}

_RECOUNT = """
SELECT count(*) AS remaining FROM semantic_cache.judged_sample
WHERE tenant_id = %(tenant)s
  AND ((%(kind)s = 'agent' AND agent_id = %(subject_id)s) OR (%(kind)s = 'user' AND user_id = %(subject_id)s))
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One judged hit."""

    sample_id: str
    agent_id: str
    """Empty, as the user and the hash, when the entry was gone already: then nothing but the verdict is kept."""
    user_id: str
    entry_id: str
    question_hmac: str
    stratum: str
    wrong: bool
    actor: str


@dataclass(frozen=True, slots=True)
class Stratum:
    """Judged hits of one kind."""

    name: str
    judged: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose data is removed."""

    kind: Literal["agent", "user"]
    subject_id: str


class JudgedStore:
    """Samples and tombstones of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ping(self) -> None:
        """Returns when the database answers."""
        await self._database.ping()

    def transaction(self, tenant: str) -> AbstractAsyncContextManager[Connection]:
        """A transaction on the rows of one tenant."""
        return self._database.tenant(tenant)

    async def forgotten(self, tenant: str, *, agent_id: str, users: tuple[str, ...]) -> bool:
        """Returns whether the agent or one of the users was purged."""
        row = {"tenant": tenant, "agent_id": agent_id, "users": [user for user in users if user]}
        async with self._database.tenant(tenant) as tx:
            found = await (await tx.execute(_FORGOTTEN, row)).fetchone()
        assert found is not None
        return bool(found["forgotten"])

    async def record(self, tx: Connection, tenant: str, sample: Sample) -> None:
        """Keeps a sample, unless its agent or user was purged."""
        row = {"tenant": tenant} | {name: getattr(sample, name) for name in sample.__slots__}
        await tx.execute(_RECORD, row)

    async def strata(self, tenant: str, agent_id: str = "") -> list[Stratum]:
        """Returns what was judged, by stratum; of all agents for an empty id."""
        async with self._database.tenant(tenant) as tx:
            rows = await (await tx.execute(_STRATA, {"tenant": tenant, "agent_id": agent_id})).fetchall()
        return [Stratum(row["stratum"], row["judged"], row["wrong"]) for row in rows]

    async def bury(self, tenant: str, subject: Subject, operation_id: str) -> None:
        """Writes the tombstone that refuses everything later; committed when this returns."""
        row = {
            "tenant": tenant,
            "kind": subject.kind,
            "subject_id": subject.subject_id,
            "operation_id": operation_id,
        }
        async with self._database.tenant(tenant) as tx:
            await tx.execute(_TOMBSTONE, row)

    async def purge(self, tx: Connection, tenant: str, subject: Subject) -> tuple[int, int]:
        """Removes the samples of a subject; returns how many went, and how many a recount finds."""
        row = {"tenant": tenant, "kind": subject.kind, "subject_id": subject.subject_id}
        removed = (await tx.execute(_PURGE[subject.kind], row)).rowcount
        left = await (await tx.execute(_RECOUNT, row)).fetchone()
        assert left is not None
        return removed, left["remaining"]
