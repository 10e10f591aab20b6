"""The work table of passages that wait for their vectors. It holds no content, so a worker claims over all tenants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgvector import HalfVector

from mneme.archival.records import Embedded
from mneme.archival.store import meaning, scopes
from mneme.runtime.db import Connection

_CLAIM = """
UPDATE archival.index_queue q
SET due_time = now() + make_interval(secs => %(lease)s), attempts = q.attempts + 1
FROM (
    SELECT tenant_id, passage_id FROM archival.index_queue
    WHERE due_time <= now() ORDER BY due_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) due
WHERE q.tenant_id = due.tenant_id AND q.passage_id = due.passage_id
RETURNING q.tenant_id, q.passage_id, q.owner_id, q.attempts
"""

_POSTPONE = """
UPDATE archival.index_queue SET due_time = now() + make_interval(secs => %(seconds)s)
WHERE tenant_id = %(tenant)s AND passage_id = ANY(%(ids)s)
"""

_TEXTS = """
SELECT id, owner_id, text, content_sha256 FROM archival.agent_passages
WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s) AND index_state IN (1, 3)
"""

# A text that changed meanwhile keeps waiting for the vector of its new words.
_SAVE = """
UPDATE archival.agent_passages p
SET embedding = v.vector, embedding_config = %(space)s, index_state = 2, index_error = '', revision = %(revision)s
FROM unnest(%(ids)s::text[], %(hashes)s::text[], %(vectors)b::halfvec[]) AS v(id, sha256, vector)
WHERE p.tenant_id = %(tenant)s AND p.owner_id = %(owner)s AND p.id = v.id
    AND p.content_sha256 = decode(v.sha256, 'hex')
"""

_FAIL = """
UPDATE archival.agent_passages SET index_state = 3, index_error = %(error)s, revision = %(revision)s
WHERE tenant_id = %(tenant)s AND id = %(id)s AND owner_id = %(owner)s AND content_sha256 = %(sha256)s
    AND (index_state, index_error) <> (3, %(error)s)
"""

_DONE = """
DELETE FROM archival.index_queue q
WHERE q.tenant_id = %(tenant)s AND q.passage_id = ANY(%(ids)s) AND NOT EXISTS (
    SELECT FROM archival.agent_passages p
    WHERE p.tenant_id = %(tenant)s AND p.id = q.passage_id AND p.index_state IN (1, 3))
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A passage that this worker shall index."""

    tenant_id: str
    passage_id: str
    owner_id: str
    attempts: int
    """How often it was claimed, this time included."""


@dataclass(frozen=True, slots=True)
class Text:
    """What is to be embedded."""

    id: str
    owner_id: str
    text: str
    content_sha256: bytes


async def claim(tx: Connection, *, limit: int, lease_seconds: float) -> list[Claim]:
    """Returns passages that are due, at most `limit`; no other worker gets them before the lease ends."""
    found = await tx.execute(_CLAIM, {"limit": limit, "lease": lease_seconds})
    return [Claim(**row) for row in await found.fetchall()]


async def postpone(tx: Connection, tenant: str, passage_ids: Sequence[str], *, seconds: float) -> None:
    """Ends a claim without a result: the passages are due again after that time."""
    await tx.execute(_POSTPONE, {"tenant": tenant, "ids": list(passage_ids), "seconds": seconds})


async def texts(tx: Connection, tenant: str, passage_ids: Sequence[str]) -> list[Text]:
    """Returns the texts of those passages that have no vector still."""
    found = await tx.execute(_TEXTS, {"tenant": tenant, "ids": list(passage_ids)})
    return [Text(**row) for row in await found.fetchall()]


async def save(tx: Connection, tenant: str, owner_id: str, done: Sequence[tuple[Text, Embedded]]) -> None:
    """Stores vectors, all of one space, of passages of one scope, which are found by meaning from the commit on."""
    revision = await scopes.lock_known(tx, tenant, owner_id)
    if revision is None:
        return
    saved = await tx.execute(
        _SAVE,
        {
            "tenant": tenant,
            "owner": owner_id,
            "revision": revision + 1,
            "space": done[0][1].space_id,
            "ids": [text.id for text, _ in done],
            "hashes": [text.content_sha256.hex() for text, _ in done],
            "vectors": [HalfVector(embedded.values) for _, embedded in done],
        },
    )
    if saved.rowcount:
        await meaning.put_beside(tx, tenant, ((text.id, embedded) for text, embedded in done))
        await scopes.bump(tx, tenant, owner_id)


async def fail(tx: Connection, tenant: str, text: Text, error: str, *, retry_seconds: float) -> None:
    """Notes that a text cannot be embedded: it is found by words only, until it changes or the next attempt succeeds.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        text: The text.
        error: Why, for people.
        retry_seconds: Time to the next attempt.
    """
    revision = await scopes.lock_known(tx, tenant, text.owner_id)
    if revision is None:
        return
    failed = await tx.execute(
        _FAIL,
        {
            "tenant": tenant,
            "owner": text.owner_id,
            "id": text.id,
            "sha256": text.content_sha256,
            "error": error,
            "revision": revision + 1,
        },
    )
    await postpone(tx, tenant, [text.id], seconds=retry_seconds)
    if failed.rowcount:
        await scopes.bump(tx, tenant, text.owner_id)


async def finish(tx: Connection, tenant: str, passage_ids: Sequence[str]) -> None:
    """Takes passages out of the queue that have a vector or are gone."""
    await tx.execute(_DONE, {"tenant": tenant, "ids": list(passage_ids)})
