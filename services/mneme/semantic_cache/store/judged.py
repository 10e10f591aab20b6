"""Verdicts, strata, pairs to judge and tombstones in PostgreSQL.

A verdict holds a keyed hash of its question, never the text. A pair that waits to be judged holds both questions, for a
day at most, and goes with its verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
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
    "stratum",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("judged_count", Integer, nullable=False),
    Column("wrong_count", Integer, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("change_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("tenant_id", "stratum", name="stratum_pkey"),
)

Table(
    "hit_sample",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("sample_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("entry_id", Text, nullable=False),
    Column("asked_question", Text, nullable=False),
    Column("stored_question", Text, nullable=False),
    Column("question_hmac", Text, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("served", Boolean, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("held_until", DateTime(timezone=True), nullable=True),
    PrimaryKeyConstraint("tenant_id", "sample_id", name="hit_sample_pkey"),
    UniqueConstraint("tenant_id", "entry_id", "question_hmac", name="hit_sample_pair"),
    Index("hit_sample_create_time", "tenant_id", "create_time"),
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
WITH verdict AS (
    SELECT stratum, count(*) AS judged, count(*) FILTER (WHERE wrong) AS wrong
    FROM semantic_cache.judged_sample
    WHERE tenant_id = %(tenant)s AND (%(agent_id)s = '' OR agent_id = %(agent_id)s)
    GROUP BY stratum
), state AS (
    SELECT stratum, closed FROM semantic_cache.stratum WHERE tenant_id = %(tenant)s
)
SELECT stratum, coalesce(judged, 0) AS judged, coalesce(wrong, 0) AS wrong, coalesce(closed, false) AS closed
FROM verdict FULL JOIN state USING (stratum)
WHERE judged > 0 OR closed
ORDER BY stratum
"""

_CLOSED = "SELECT stratum FROM semantic_cache.stratum WHERE tenant_id = %(tenant)s AND closed"

_COUNT_VERDICT = """
INSERT INTO semantic_cache.stratum AS kept (tenant_id, stratum, judged_count, wrong_count, closed)
VALUES (%(tenant)s, %(stratum)s, 1, %(wrong)s, false)
ON CONFLICT (tenant_id, stratum) DO UPDATE
SET judged_count = kept.judged_count + 1, wrong_count = kept.wrong_count + excluded.wrong_count
RETURNING judged_count, wrong_count, closed
"""

_SET_CLOSED = """
UPDATE semantic_cache.stratum SET closed = %(closed)s, change_time = now()
WHERE tenant_id = %(tenant)s AND stratum = %(stratum)s
"""

_OPEN = """
UPDATE semantic_cache.stratum
SET closed = false, judged_count = 0, wrong_count = 0, change_time = now()
WHERE tenant_id = %(tenant)s AND stratum = %(stratum)s AND closed
"""

_OFFER = """
WITH ended AS (
    DELETE FROM semantic_cache.hit_sample
    WHERE tenant_id = %(tenant)s AND create_time < now() - interval '1 day'
)
INSERT INTO semantic_cache.hit_sample (
    tenant_id, sample_id, agent_id, user_id, author, entry_id, asked_question, stored_question, question_hmac, stratum,
    score, served
)
SELECT %(tenant)s, %(sample_id)s, %(agent_id)s, %(user_id)s, %(author)s, %(entry_id)s, %(asked_question)s,
       %(stored_question)s, %(question_hmac)s, %(stratum)s, %(score)s, %(served)s
WHERE (SELECT count(*) FROM semantic_cache.hit_sample WHERE tenant_id = %(tenant)s) < %(most)s
  AND NOT EXISTS (
    SELECT FROM semantic_cache.tombstone
    WHERE tenant_id = %(tenant)s
      AND ((kind = 'agent' AND subject_id = %(agent_id)s)
           OR (kind = 'user' AND subject_id IN (%(user_id)s, %(author)s)))
)
ON CONFLICT DO NOTHING
"""

_TAKE = """
UPDATE semantic_cache.hit_sample SET held_until = now() + make_interval(secs => %(hold)s)
WHERE tenant_id = %(tenant)s AND sample_id IN (
    SELECT sample_id FROM semantic_cache.hit_sample
    WHERE tenant_id = %(tenant)s AND (held_until IS NULL OR held_until < now())
    ORDER BY create_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING sample_id, agent_id, user_id, author, entry_id, asked_question, stored_question, question_hmac, stratum,
          score, served, create_time
"""

_SETTLE = """
DELETE FROM semantic_cache.hit_sample WHERE tenant_id = %(tenant)s AND sample_id = %(sample_id)s
RETURNING agent_id, user_id, entry_id, question_hmac, stratum
"""

_TOMBSTONE = """
INSERT INTO semantic_cache.tombstone (tenant_id, kind, subject_id, operation_id)
VALUES (%(tenant)s, %(kind)s, %(subject_id)s, %(operation_id)s)
ON CONFLICT (tenant_id, kind, subject_id) DO NOTHING
"""

_PURGED = {
    "semantic_cache.judged_sample": {
        "agent": "DELETE FROM semantic_cache.judged_sample WHERE tenant_id = %(tenant)s AND agent_id = %(subject_id)s",
        "user": "DELETE FROM semantic_cache.judged_sample WHERE tenant_id = %(tenant)s AND user_id = %(subject_id)s",
    },
    "semantic_cache.hit_sample": {
        "agent": "DELETE FROM semantic_cache.hit_sample WHERE tenant_id = %(tenant)s AND agent_id = %(subject_id)s",
        "user": "DELETE FROM semantic_cache.hit_sample"
        " WHERE tenant_id = %(tenant)s AND %(subject_id)s IN (user_id, author)",
    },
}

_RECOUNT = {
    "semantic_cache.judged_sample": """
SELECT count(*) AS remaining FROM semantic_cache.judged_sample
WHERE tenant_id = %(tenant)s
  AND ((%(kind)s = 'agent' AND agent_id = %(subject_id)s) OR (%(kind)s = 'user' AND user_id = %(subject_id)s))
""",
    "semantic_cache.hit_sample": """
SELECT count(*) AS remaining FROM semantic_cache.hit_sample
WHERE tenant_id = %(tenant)s
  AND ((%(kind)s = 'agent' AND agent_id = %(subject_id)s)
       OR (%(kind)s = 'user' AND %(subject_id)s IN (user_id, author)))
""",
}

IsClosed = Callable[[int, int], bool]
"""Tells from the hits judged and the wrong ones among them whether a stratum is closed."""


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
class HitSample:
    """A pair of questions of which one was, or would have been, answered with the answer to the other."""

    sample_id: str
    agent_id: str
    user_id: str
    """Who asked; empty where that is not known."""
    author: str
    """Who asked first."""
    entry_id: str
    asked_question: str
    stored_question: str
    question_hmac: str
    stratum: str
    score: float
    served: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """A pair that somebody judges now."""

    sample: HitSample
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Counted:
    """What a verdict came to."""

    stratum: str
    closed: bool
    changed: bool
    """Whether it closed or opened the stratum."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A judged pair: whose entry it was, and what the verdict came to."""

    entry_id: str
    counted: Counted | None
    """None when the agent or user was purged meanwhile."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Judged hits of one kind."""

    name: str
    judged: int
    wrong: int
    closed: bool


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

    async def record(self, tx: Connection, tenant: str, sample: Sample, is_closed: IsClosed) -> Counted | None:
        """Keeps a verdict and counts it for its stratum; nothing of one whose agent or user was purged.

        Args:
            tx: A transaction of the tenant.
            tenant: Whose it is.
            sample: The verdict; one without an agent, whose entry was gone, counts for no stratum.
            is_closed: Decides about the stratum.
        """
        row = {"tenant": tenant} | _row(sample)
        if not (await tx.execute(_RECORD, row)).rowcount or not sample.agent_id:
            return None
        counted = await (await tx.execute(_COUNT_VERDICT, row | {"wrong": int(sample.wrong)})).fetchone()
        assert counted is not None
        closed = is_closed(counted["judged_count"], counted["wrong_count"])
        if closed != counted["closed"]:
            await tx.execute(_SET_CLOSED, {"tenant": tenant, "stratum": sample.stratum, "closed": closed})
        return Counted(sample.stratum, closed, changed=closed != counted["closed"])

    async def strata(self, tenant: str, agent_id: str = "") -> list[Stratum]:
        """Returns what was judged, by stratum; of all agents for an empty id."""
        async with self._database.tenant(tenant) as tx:
            rows = await (await tx.execute(_STRATA, {"tenant": tenant, "agent_id": agent_id})).fetchall()
        return [Stratum(row["stratum"], row["judged"], row["wrong"], row["closed"]) for row in rows]

    async def closed_strata(self, tenant: str) -> frozenset[str]:
        """Returns the names of a tenant's closed strata."""
        async with self._database.tenant(tenant) as tx:
            rows = await (await tx.execute(_CLOSED, {"tenant": tenant})).fetchall()
        return frozenset(row["stratum"] for row in rows)

    async def open_stratum(self, tx: Connection, tenant: str, stratum: str) -> bool:
        """Opens a stratum and lets it count anew; False when it was not closed."""
        return bool((await tx.execute(_OPEN, {"tenant": tenant, "stratum": stratum})).rowcount)

    async def offer(self, tenant: str, sample: HitSample, *, most: int) -> bool:
        """Keeps a pair to be judged, unless too many wait, it does itself, or its agent or users were purged."""
        async with self._database.tenant(tenant) as tx:
            row = {"tenant": tenant, "most": most} | _row(sample)
            return bool((await tx.execute(_OFFER, row)).rowcount)

    async def take(self, tenant: str, *, limit: int, hold: float) -> list[Taken]:
        """Returns the oldest pairs that nobody judges, oldest first; they are the caller's for `hold` seconds."""
        async with self._database.tenant(tenant) as tx:
            rows = await (await tx.execute(_TAKE, {"tenant": tenant, "limit": limit, "hold": hold})).fetchall()
        taken = [
            Taken(HitSample(**{k: v for k, v in row.items() if k != "create_time"}), row["create_time"]) for row in rows
        ]
        return sorted(taken, key=lambda one: one.create_time)

    async def settle(
        self, tx: Connection, tenant: str, sample_id: str, *, wrong: bool, actor: str, is_closed: IsClosed
    ) -> Settled | None:
        """Turns a pair that waits into a verdict; None when it is gone."""
        row = await (await tx.execute(_SETTLE, {"tenant": tenant, "sample_id": sample_id})).fetchone()
        if row is None:
            return None
        sample = Sample(sample_id=sample_id, wrong=wrong, actor=actor, **row)
        return Settled(sample.entry_id, await self.record(tx, tenant, sample, is_closed))

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

    async def purge(self, tx: Connection, tenant: str, subject: Subject) -> dict[str, tuple[int, int]]:
        """Removes verdicts and pairs of a subject; returns (removed, found by a recount) by table."""
        row = {"tenant": tenant, "kind": subject.kind, "subject_id": subject.subject_id}
        counts = {}
        for table, removal in _PURGED.items():
            removed = (await tx.execute(removal[subject.kind], row)).rowcount
            left = await (await tx.execute(_RECOUNT[table], row)).fetchone()
            assert left is not None
            counts[table] = (removed, left["remaining"])
        return counts


def _row(sample: Sample | HitSample) -> dict[str, Any]:
    return {field.name: getattr(sample, field.name) for field in fields(sample)}
