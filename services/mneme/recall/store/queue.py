"""The work of indexing by meaning: claimed over all tenants, done inside each one's own transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pgvector import HalfVector

from mneme.recall.records import IndexState
from mneme.recall.store.meaning import CONTENT
from mneme.runtime import call, reembedding
from mneme.runtime.db import Connection


@dataclass(frozen=True, slots=True)
class Claim:
    """One message that this worker indexes until its lease ends."""

    tenant: str
    message_id: str
    attempts: int
    """Claims of it so far, this one included."""


@dataclass(frozen=True, slots=True)
class Unindexed:
    """A message without a vector."""

    message_id: str
    role: int
    text: str
    speaker: str


# The lease is the due time itself: a worker that dies leaves its claims to the next one when it has passed.
_CLAIM = """
UPDATE recall.index_queue q SET due_time = clock_timestamp() + %(lease)s, attempts = q.attempts + 1
FROM (
    SELECT tenant_id, message_id FROM recall.index_queue
    WHERE due_time <= clock_timestamp() ORDER BY due_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) d
WHERE q.tenant_id = d.tenant_id AND q.message_id = d.message_id
RETURNING q.tenant_id, q.message_id, q.attempts
"""


async def claim(tx: Connection, *, limit: int, lease: timedelta) -> list[Claim]:
    """Returns up to `limit` due messages, no other worker's while the lease lasts. Needs no tenant."""
    cursor = await tx.execute(_CLAIM, {"limit": limit, "lease": lease})
    return [Claim(row["tenant_id"], row["message_id"], row["attempts"]) for row in await cursor.fetchall()]


_RELEASE = """
UPDATE recall.index_queue q SET due_time = clock_timestamp() + d.delay
FROM unnest(%(tenants)s::text[], %(ids)s::text[], %(delays)s::interval[]) AS d (tenant_id, message_id, delay)
WHERE q.tenant_id = d.tenant_id AND q.message_id = d.message_id
"""


async def release(tx: Connection, claims: Sequence[Claim], delays: Sequence[timedelta]) -> None:
    """Gives claims back, each due again after its delay. Needs no tenant."""
    parameters = {
        "tenants": [one.tenant for one in claims],
        "ids": [one.message_id for one in claims],
        "delays": list(delays),
    }
    await tx.execute(_RELEASE, parameters)


_TEXTS = """
SELECT id, role, left(text, %(chars)s) AS text, speaker FROM recall.messages
WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)
"""


async def texts(tx: Connection, message_ids: Sequence[str], *, chars: int) -> list[Unindexed]:
    """Returns the first `chars` characters of messages; deleted ones are left out."""
    key = {"tenant": call.tenant(), "ids": list(message_ids), "chars": chars}
    cursor = await tx.execute(_TEXTS, key)
    return [Unindexed(row["id"], row["role"], row["text"], row["speaker"]) for row in await cursor.fetchall()]


# Agents are counted in one order, so writers of several never wait for each other in a circle.
_STORE = """
WITH v AS (
    SELECT m.id, m.agent_id, m.space IS NULL AS first, u.embedding
    FROM unnest(%(ids)s::text[], %(vectors)b::halfvec[]) AS u (id, embedding)
    JOIN recall.messages m ON m.tenant_id = %(tenant)s AND m.id = u.id
), counted AS (
    INSERT INTO recall.vector_revision AS r (tenant_id, agent_id, revision, vector_count)
    SELECT %(tenant)s, agent_id, 1, count(*) FILTER (WHERE first) FROM v GROUP BY agent_id ORDER BY agent_id
    ON CONFLICT (tenant_id, agent_id) DO UPDATE
    SET revision = r.revision + 1, vector_count = r.vector_count + excluded.vector_count
    RETURNING r.agent_id, r.revision
)
UPDATE recall.messages m
SET space = %(space)s, embedding = v.embedding, index_state = %(indexed)s, vector_revision = counted.revision
FROM v JOIN counted USING (agent_id)
WHERE m.tenant_id = %(tenant)s AND m.id = v.id
"""

_FAIL = """
UPDATE recall.messages SET index_state = %(failed)s
WHERE tenant_id = %(tenant)s AND id = %(id)s AND index_state = %(pending)s
"""

_DONE = "DELETE FROM recall.index_queue WHERE tenant_id = %(tenant)s AND message_id = ANY(%(ids)s)"


async def store_vectors(tx: Connection, space_id: str, vectors: Mapping[str, Sequence[float]]) -> None:
    """Stores the vector of each message id, in the space that is active."""
    parameters = {
        "tenant": call.tenant(),
        "space": space_id,
        "indexed": int(IndexState.INDEXED),
        "ids": list(vectors),
        "vectors": [HalfVector(list(vector)) for vector in vectors.values()],
    }
    await tx.execute(_STORE, parameters)


async def store_beside(tx: Connection, space_id: str, vectors: Mapping[str, Sequence[float]]) -> None:
    """Stores vectors of the other space beside those that `store_vectors` stored in this transaction."""
    await reembedding.put(tx, CONTENT, call.tenant(), space_id, vectors)


async def done(tx: Connection, message_ids: Sequence[str]) -> None:
    """Takes messages off the queue."""
    await tx.execute(_DONE, {"tenant": call.tenant(), "ids": list(message_ids)})


async def fail(tx: Connection, message_id: str) -> None:
    """Notes that a message could not be embedded; it stays on the queue."""
    states = {"failed": int(IndexState.FAILED), "pending": int(IndexState.PENDING)}
    await tx.execute(_FAIL, {"tenant": call.tenant(), "id": message_id, **states})
