"""How far each ingest has come: one row, written in the transaction that stores its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from mneme.archival.records import Author, Ingest, Owner
from mneme.archival.store import scopes
from mneme.errors.v1 import errors_pb2
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found

ERRORS_KEPT = 1000

_COLUMNS = ", ".join(field.name for field in fields(Ingest))

# A stream that begins takes the ingest over: what an earlier one still holds is refused by `_SETTLE`.
_BEGIN = f"""
WITH expired AS (
    DELETE FROM archival.ingest WHERE (tenant_id, request_id) IN (
        SELECT tenant_id, request_id FROM archival.ingest
        WHERE tenant_id = %(tenant)s AND update_time < now() - interval '7 days' AND request_id <> %(request)s
        ORDER BY update_time LIMIT 10 FOR UPDATE SKIP LOCKED)
)
INSERT INTO archival.ingest AS i (
    tenant_id, request_id, agent_id, knowledge_base_id, owner_id, user_id, stream, next_index, inserted, duplicates,
    errors, passages, create_time, update_time)
VALUES (
    %(tenant)s, %(request)s, %(agent)s, %(knowledge_base)s, %(owner)s, %(user)s, 1, 0, 0, 0, 0, 0,
    clock_timestamp(), clock_timestamp())
ON CONFLICT (tenant_id, request_id) DO UPDATE SET stream = i.stream + 1
RETURNING {_COLUMNS}
"""  # noqa: S608

_RESET = f"""
WITH forgotten AS (
    DELETE FROM archival.ingest_error WHERE tenant_id = %(tenant)s AND request_id = %(request)s
)
UPDATE archival.ingest SET next_index = 0, inserted = 0, duplicates = 0, errors = 0, passages = 0
WHERE tenant_id = %(tenant)s AND request_id = %(request)s
RETURNING {_COLUMNS}
"""  # noqa: S608

_SETTLE = """
WITH settled AS (
    UPDATE archival.ingest SET
        next_index = %(next_index)s, inserted = inserted + %(inserted)s, duplicates = duplicates + %(duplicates)s,
        errors = errors + %(errors)s, passages = passages + %(passages)s, update_time = clock_timestamp()
    WHERE tenant_id = %(tenant)s AND request_id = %(request)s AND stream = %(stream)s
    RETURNING errors
), kept AS (
    INSERT INTO archival.ingest_error (tenant_id, request_id, position, failure)
    SELECT %(tenant)s, %(request)s, refused.position, refused.failure
    FROM unnest(%(positions)s::bigint[], %(failures)s::bytea[]) WITH ORDINALITY AS refused(position, failure, number),
        settled
    WHERE settled.errors - %(errors)s + refused.number <= %(most)s
)
SELECT count(*) AS settled FROM settled
"""

_GET = f"""
SELECT {_COLUMNS} FROM archival.ingest
WHERE tenant_id = %(tenant)s AND request_id = %(request)s AND (%(user)s = '' OR user_id = %(user)s)
"""  # noqa: S608

_ERRORS = """
SELECT position, failure FROM archival.ingest_error
WHERE tenant_id = %(tenant)s AND request_id = %(request)s ORDER BY position
"""

_PENDING = """
SELECT count(*) AS pending FROM archival.index_queue q
JOIN archival.agent_passages p ON p.tenant_id = q.tenant_id AND p.id = q.passage_id AND p.index_state = 1
WHERE q.tenant_id = %(tenant)s AND q.owner_id = %(owner)s
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a batch adds to its ingest."""

    next_index: int
    """Position behind its last item."""
    inserted: int
    duplicates: int
    passages: int
    refused: Mapping[int, bytes]
    """Why items were refused, as the contract writes a failure, by position."""


async def begin(tx: Connection, author: Author, owner: Owner, request_id: str, *, first_index: int) -> Ingest:
    """Takes an ingest over for a new stream and returns where it stands.

    Args:
        tx: The tenant transaction.
        author: Who writes.
        owner: Who shall own the passages.
        request_id: Names the ingest.
        first_index: Position of the stream's first item; 0 begins anew.

    Raises:
        Error: REQUEST_ID_REUSED for another owner or user; NOT_FOUND and INVALID_STATE when items before `first_index`
            were never settled; DELETED; NOT_FOUND for an unknown knowledge base.
    """
    users = [author.user_id] if author.user_id else []
    await scopes.lock(tx, author.tenant, owner.id, users)
    await scopes.refuse_deleted(tx, author.tenant, owners=[owner], users=users)
    key = {"tenant": author.tenant, "request": request_id}
    if first_index:
        await get(tx, author.tenant, request_id, user=author.user_id)
    values = {
        "agent": owner.agent_id,
        "knowledge_base": owner.knowledge_base_id,
        "owner": owner.id,
        "user": author.user_id,
    }
    known = await _one(tx, _BEGIN, key | values)
    if known.owner != owner or known.user_id != author.user_id:
        raise Error(
            errors_pb2.REASON_REQUEST_ID_REUSED,
            f"request_id: {request_id} was used for an ingest into another owner or for another user",
            metadata={"request_id": request_id},
        )
    if first_index > known.next_index:
        raise Error(
            errors_pb2.REASON_INVALID_STATE,
            f"start.first_index: items from {known.next_index} on are still missing",
            metadata={"field": "start.first_index", "next_index": str(known.next_index)},
        )
    return known if first_index else await _one(tx, _RESET, key)


async def settle(tx: Connection, tenant: str, request_id: str, *, stream: int, progress: Progress) -> None:
    """Adds a batch to its ingest, in the transaction that stored it.

    Raises:
        Error: INVALID_STATE, when another stream feeds the ingest by now: nothing of the batch may be kept.
    """
    values = {
        "tenant": tenant,
        "request": request_id,
        "stream": stream,
        "next_index": progress.next_index,
        "inserted": progress.inserted,
        "duplicates": progress.duplicates,
        "errors": len(progress.refused),
        "passages": progress.passages,
        "positions": list(progress.refused),
        "failures": list(progress.refused.values()),
        "most": ERRORS_KEPT,
    }
    row = await (await tx.execute(_SETTLE, values)).fetchone()
    if row is None or not row["settled"]:
        raise Error(
            errors_pb2.REASON_INVALID_STATE,
            "another stream feeds this ingest by now",
            metadata={"request_id": request_id, "state": "TAKEN_OVER"},
        )


async def get(tx: Connection, tenant: str, request_id: str, *, user: str) -> Ingest:
    """Returns where an ingest stands; one user sees only their own (empty: all). Raises NOT_FOUND."""
    row = await (await tx.execute(_GET, {"tenant": tenant, "request": request_id, "user": user})).fetchone()
    if row is None:
        raise not_found(request_id)
    return Ingest(**row)


async def refused(tx: Connection, tenant: str, request_id: str) -> list[tuple[int, bytes]]:
    """Returns position and failure of the refused items, at most the first 1000, in their order."""
    rows = await (await tx.execute(_ERRORS, {"tenant": tenant, "request": request_id})).fetchall()
    return [(row["position"], bytes(row["failure"])) for row in rows]


async def pending(tx: Connection, tenant: str, owner_id: str) -> int:
    """Returns how many passages of an owner wait for a vector."""
    row = await (await tx.execute(_PENDING, {"tenant": tenant, "owner": owner_id})).fetchone()
    assert row is not None
    return int(row["pending"])


async def _one(tx: Connection, statement: str, values: Mapping[str, object]) -> Ingest:
    row = await (await tx.execute(statement, values)).fetchone()
    assert row is not None, "the statement writes one row"
    return Ingest(**row)
