"""Passages: stored, read, changed, superseded, deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from pgvector import HalfVector
from psycopg.types.json import Jsonb

from mneme.archival.records import Author, Draft, Filter, Owner, Passage, Provenance
from mneme.archival.store import audit, conditions, duplicates, history, meaning, scopes
from mneme.common.v1 import common_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime import lexical
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error, not_found

PENDING, INDEXED, FAILED = 1, 2, 3

_COLUMNS = ", ".join(f"p.{field.name}" for field in fields(Passage))

# A batch travels as one JSON document, its vectors beside it in binary form. Times in a scope grow strictly, as the
# clock is read under the scope's lock: pages by (created_at, id) miss nothing that is written meanwhile.
_INSERT = f"""
WITH item AS (
    SELECT i.*, v.vector
    FROM jsonb_to_recordset(%(items)s) AS i(
        position int, id text, user_id text, text text, sha256 text, kind smallint, importance real, tags text[],
        metadata jsonb, valid_from timestamptz, valid_to timestamptz, quarantined boolean, reason text,
        source_message_ids text[], trust_level smallint, from_recall boolean, step_id text, document_id text,
        document_start bigint, document_end bigint, space text)
    LEFT JOIN unnest(%(positions)s::int[], %(vectors)b::halfvec[]) AS v(position, vector) USING (position)
), counted AS (
    UPDATE archival.scope SET revision = revision + 1, passage_count = passage_count + (SELECT count(*) FROM item)
    WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s
    RETURNING revision
), added AS (
    INSERT INTO archival.agent_passages (
        tenant_id, id, agent_id, knowledge_base_id, owner_id, user_id, text, embedding, embedding_config, metadata_,
        kind, importance, tags, valid_from, valid_to, superseded_by, superseded_reason, quarantined, reason,
        source_message_ids, trust_level, from_recall, step_id, document_id, document_start, document_end,
        content_sha256, index_state, index_error, version, revision, created_at, updated_at)
    SELECT
        %(tenant)s, id, nullif(%(agent)s, ''), nullif(%(knowledge_base)s, ''), %(owner)s, user_id, text, vector,
        CASE WHEN vector IS NULL THEN NULL ELSE space END, metadata, kind, importance, tags, valid_from, valid_to, '',
        '', quarantined, reason, source_message_ids, trust_level, from_recall, step_id, document_id, document_start,
        document_end, decode(sha256, 'hex'), CASE WHEN vector IS NULL THEN 1 ELSE 2 END, '', 1, counted.revision,
        statement_timestamp() + position * interval '1 microsecond',
        statement_timestamp() + position * interval '1 microsecond'
    FROM item, counted
), queued AS (
    INSERT INTO archival.index_queue (tenant_id, passage_id, owner_id, attempts, due_time)
    SELECT %(tenant)s, id, %(owner)s, 0, now() FROM item WHERE vector IS NULL
)
{audit.INSERT}
SELECT
    %(tenant)s, statement_timestamp() + position * interval '1 microsecond', %(actor)s, user_id,
    CASE WHEN quarantined THEN 8 ELSE 1 END, id, %(agent)s, %(knowledge_base)s, 0, 1, '', sha256, 0,
    char_length(text), reason, source_message_ids, trust_level, from_recall, step_id, %(trace)s
FROM item ORDER BY position
"""  # noqa: S608

_GET = f"""
SELECT {_COLUMNS} FROM archival.agent_passages p
WHERE p.tenant_id = %(tenant)s AND p.id = %(id)s AND {conditions.VISIBLE}
"""  # noqa: S608

_GET_MANY = f"SELECT {_COLUMNS} FROM {{source}} WHERE p.tenant_id = %(tenant)s AND p.id = ANY(%(ids)s)"  # noqa: S608

# A version ends at the instant at which the next one begins, also where the clock stands still or was set back.
_KEEP = f"""
WITH kept AS (
    INSERT INTO archival.passage_version (
        tenant_id, passage_id, version, owner_id, user_id, text, content_sha256, embedding, embedding_config,
        attributes, recorded_from, recorded_to)
    SELECT tenant_id, id, version, owner_id, user_id, text, content_sha256, embedding, embedding_config,
        {history.SNAPSHOT},
        updated_at, greatest(statement_timestamp(), updated_at + interval '1 microsecond')
    FROM archival.agent_passages WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)
    RETURNING passage_id, recorded_to
)"""  # noqa: S608

_CHANGE = f"""{_KEEP}
UPDATE archival.agent_passages p
SET {{assignments}}version = p.version + 1, revision = %(revision)s, updated_at = kept.recorded_to
FROM kept WHERE p.tenant_id = %(tenant)s AND p.id = kept.passage_id
RETURNING {_COLUMNS}
"""  # noqa: S608

# A predecessor was true until its successor was, if that says since when; it never ends before it began.
_SUPERSEDED = """
    superseded_by = new.successor, superseded_reason = new.why, superseded_at = kept.recorded_to,
    valid_to = greatest(p.valid_from, least(p.valid_to, coalesce(new.valid_from, kept.recorded_to))),"""

_SUPERSEDE = f"""{_KEEP}, new AS (
    SELECT wanted.id, wanted.successor, wanted.why, s.valid_from
    FROM unnest(%(ids)s::text[], %(successors)s::text[], %(reasons)s::text[]) AS wanted(id, successor, why)
    LEFT JOIN archival.agent_passages s ON s.tenant_id = %(tenant)s AND s.id = wanted.successor
)
UPDATE archival.agent_passages p
SET {_SUPERSEDED} version = p.version + 1, revision = %(revision)s, updated_at = kept.recorded_to
FROM kept JOIN new ON new.id = kept.passage_id
WHERE p.tenant_id = %(tenant)s AND p.id = kept.passage_id
RETURNING {_COLUMNS}
"""  # noqa: S608

_MOVE = f"""{_KEEP}
UPDATE archival.agent_passages p
SET document_start = moved.start, document_end = moved.finish, version = p.version + 1, revision = %(revision)s,
    updated_at = kept.recorded_to
FROM kept JOIN unnest(%(ids)s::text[], %(starts)s::bigint[], %(ends)s::bigint[]) AS moved(id, start, finish)
    ON moved.id = kept.passage_id
WHERE p.tenant_id = %(tenant)s AND p.id = kept.passage_id
RETURNING {_COLUMNS}
"""  # noqa: S608

_PIECES = f"""
SELECT {_COLUMNS} FROM archival.agent_passages p
WHERE p.tenant_id = %(tenant)s AND p.owner_id = %(owner)s AND p.document_id = %(document)s AND p.document_id <> ''
    AND p.user_id = %(user)s AND p.superseded_by = ''
ORDER BY p.document_start, p.id
"""  # noqa: S608

_DELETE = f"""
WITH gone AS (
    DELETE FROM archival.agent_passages WHERE tenant_id = %(tenant)s AND id = %(id)s RETURNING *
), versions AS (
    DELETE FROM archival.passage_version WHERE tenant_id = %(tenant)s AND passage_id = %(id)s
), queued AS (
    DELETE FROM archival.index_queue WHERE tenant_id = %(tenant)s AND passage_id = %(id)s
)
{audit.INSERT}
SELECT tenant_id, statement_timestamp(), %(actor)s, user_id, 3, id, coalesce(agent_id, ''),
    coalesce(knowledge_base_id, ''), version, 0, encode(content_sha256, 'hex'), '', char_length(text), 0, %(reason)s,
    %(source_message_ids)s, %(trust_level)s, %(from_recall)s, %(step_id)s, %(trace)s
FROM gone
"""  # noqa: S608

_ENQUEUE = """
INSERT INTO archival.index_queue (tenant_id, passage_id, owner_id, attempts, due_time)
VALUES (%(tenant)s, %(id)s, %(owner)s, 0, now())
ON CONFLICT (tenant_id, passage_id) DO UPDATE SET attempts = 0, due_time = now()
"""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A passage that another one replaces."""

    old: Passage
    successor: str
    why: str
    provenance: Provenance


_CHANGEABLE = (
    "text",
    "kind",
    "importance",
    "tags",
    "metadata_",
    "valid_from",
    "valid_to",
    "quarantined",
    "reason",
    "source_message_ids",
    "trust_level",
    "from_recall",
    "step_id",
    "content_sha256",
    "embedding",
    "embedding_config",
    "next_embedding",
    "next_space",
    "index_state",
    "index_error",
    "superseded_by",
    "superseded_reason",
    "superseded_at",
)


async def insert(
    tx: Connection, author: Author, owner: Owner, drafts: Sequence[Draft], documents: Sequence[lexical.Document]
) -> None:
    """Stores drafts that `sort_out` found new: passages, audit and work queue in one statement, and their words.

    Args:
        tx: The tenant transaction, which holds the scope.
        author: Who writes.
        owner: Who shall own them.
        drafts: At least one; none of them is there already.
        documents: Their words, for search.
    """
    vectors = [(position, draft.embedded) for position, draft in enumerate(drafts) if draft.embedded]
    await tx.execute(
        _INSERT,
        {
            **audit.author_parameters(author),
            "owner": owner.id,
            "agent": owner.agent_id,
            "knowledge_base": owner.knowledge_base_id,
            "items": Jsonb([_item(position, draft) for position, draft in enumerate(drafts)]),
            "positions": [position for position, _ in vectors],
            "vectors": [HalfVector(embedded.values) for _, embedded in vectors],
        },
    )
    await meaning.put_beside(tx, author.tenant, ((draft.passage_id, draft.embedded) for draft in drafts))
    await lexical.index(tx, "archival", documents)


async def get(tx: Connection, tenant: str, passage_id: str, *, user: str = "", lock: bool = False) -> Passage:
    """Returns a passage.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        passage_id: Which passage.
        user: Sees only passages of this user and of all users; empty sees every one.
        lock: Holds the row until the end of the transaction.

    Raises:
        Error: NOT_FOUND.
    """
    statement = _GET + ("FOR UPDATE" if lock else "")
    row = await (await tx.execute(statement, {"tenant": tenant, "id": passage_id, "user_id": user})).fetchone()
    if row is None:
        raise not_found(passage_id)
    return Passage(**row)


async def get_many(
    tx: Connection, tenant: str, ids: Sequence[str], *, recorded_as_of: datetime | None = None
) -> dict[str, Passage]:
    """Returns passages by id, as they are or as they were known at a moment; unknown ids are left out."""
    statement = _GET_MANY.format(source=conditions.source(Filter(recorded_as_of=recorded_as_of)))
    found = await tx.execute(statement, {"tenant": tenant, "ids": list(ids), "recorded_as_of": recorded_as_of})
    return {row["id"]: Passage(**row) for row in await found.fetchall()}


async def page(
    tx: Connection, tenant: str, owner: Owner, wanted: Filter, *, after: tuple[datetime, str] | None, limit: int
) -> list[Passage]:
    """Returns passages of an owner in the order of their creation, from behind `after`, at most `limit`."""
    condition, values = conditions.where(wanted)
    if after is not None:
        condition += " AND (p.created_at, p.id) > (%(after_time)s, %(after_id)s)"
        values |= {"after_time": after[0], "after_id": after[1]}
    statement = (
        f"SELECT {_COLUMNS} FROM {conditions.source(wanted)}"  # noqa: S608
        f" WHERE p.tenant_id = %(tenant)s AND p.owner_id = %(owner)s{condition}"
        " ORDER BY p.created_at, p.id LIMIT %(limit)s"
    )
    found = await tx.execute(statement, {**values, "tenant": tenant, "owner": owner.id, "limit": limit})
    return [Passage(**row) for row in await found.fetchall()]


async def replaceable(
    tx: Connection, author: Author, owner: Owner, *, passage_id: str, successor: str
) -> Passage | None:
    """Returns a passage that a successor may replace; None when it has done so already, or is that passage itself.

    Raises:
        Error: NOT_FOUND in this owner; INVALID_STATE when another passage replaced it already.
    """
    old = await get(tx, author.tenant, passage_id, user=author.user_id, lock=True)
    if old.owner != owner:
        raise not_found(passage_id)
    if successor in (passage_id, old.superseded_by):
        return None
    if old.superseded_by:
        raise replaced_already(passage_id, old.superseded_by)
    return old


async def refuse_replaced(tx: Connection, tenant: str, successor: str) -> None:
    """Returns when a stored passage may replace others: it was not replaced itself.

    Whatever replaces something has no successor at that moment, so no chain of successors ever closes to a ring.

    Raises:
        Error: INVALID_STATE.
    """
    found = (await get_many(tx, tenant, [successor])).get(successor)
    if found is not None and found.superseded_by:
        raise replaced_already(successor, found.superseded_by)


def replaced_already(passage_id: str, successor: str) -> Error:
    """Returns the error of a passage that has a successor."""
    return Error(
        errors_pb2.REASON_INVALID_STATE,
        f"{passage_id} was replaced by {successor} already",
        metadata={"resource": passage_id, "state": "SUPERSEDED", "superseded_by": successor},
    )


async def supersede(tx: Connection, author: Author, owner: Owner, replaced: Sequence[Replacement]) -> None:
    """Ends the truth of passages and names their successors; they stay findable for the past.

    Args:
        tx: The tenant transaction, which holds the scope.
        author: Who writes.
        owner: Owner of all of them.
        replaced: Each with its successor, and why.
    """
    if not replaced:
        return
    values = {
        "tenant": author.tenant,
        "ids": [one.old.id for one in replaced],
        "successors": [one.successor for one in replaced],
        "reasons": [one.why for one in replaced],
        "revision": await scopes.bump(tx, author.tenant, owner.id),
    }
    found = {row["id"]: Passage(**row) for row in await (await tx.execute(_SUPERSEDE, values)).fetchall()}
    kind = common_pb2.MEMORY_CHANGE_KIND_SUPERSEDED
    for one in replaced:
        await audit.append(tx, author, _entry(kind, one.old, found[one.old.id], one.provenance))


async def change(
    tx: Connection,
    author: Author,
    old: Passage,
    values: Mapping[str, Any],
    provenance: Provenance,
    *,
    kind: int = common_pb2.MEMORY_CHANGE_KIND_UPDATED,
) -> Passage:
    """Writes new values to a passage whose scope and row are locked, keeps the version before, and returns the result.

    Args:
        tx: The tenant transaction.
        author: Who writes.
        old: The passage as it stands.
        values: New values by column.
        provenance: Why, for the audit.
        kind: What the audit calls it.

    Raises:
        Error: ALREADY_EXISTS, when the owner holds another passage with the new text.
    """
    assert set(values) <= set(_CHANGEABLE)
    tenant = author.tenant
    await _refuse_twin(tx, tenant, old, values)
    revision = await scopes.bump(tx, tenant, old.owner.id)
    assignments = "".join(f"{column} = %({column})s, " for column in values)
    key = {"tenant": tenant, "ids": [old.id], "revision": revision}
    row = await (await tx.execute(_CHANGE.format(assignments=assignments), {**_adapted(values), **key})).fetchone()
    assert row is not None, "the row is locked"
    new = Passage(**row)
    if values.get("index_state") == PENDING:
        await tx.execute(_ENQUEUE, {"tenant": tenant, "id": old.id, "owner": old.owner.id})
    if new.quarantined and not old.quarantined:
        kind = common_pb2.MEMORY_CHANGE_KIND_QUARANTINED
    await audit.append(tx, author, _entry(kind, old, new, provenance))
    return new


async def pieces(
    tx: Connection, tenant: str, owner: Owner, *, document_id: str, user: str, lock: bool = True
) -> list[Passage]:
    """Returns the pieces of a document that stand, in their order; `lock` holds them until the transaction ends."""
    values = {"tenant": tenant, "owner": owner.id, "document": document_id, "user": user}
    statement = _PIECES + ("FOR UPDATE" if lock else "")
    return [Passage(**row) for row in await (await tx.execute(statement, values)).fetchall()]


async def move(
    tx: Connection, author: Author, owner: Owner, moved: Sequence[tuple[Passage, int, int]], provenance: Provenance
) -> None:
    """Writes where pieces stand in their document now, each with first character and first one after."""
    if not moved:
        return
    values = {
        "tenant": author.tenant,
        "ids": [old.id for old, _, _ in moved],
        "starts": [start for _, start, _ in moved],
        "ends": [end for _, _, end in moved],
        "revision": await scopes.bump(tx, author.tenant, owner.id),
    }
    found = {row["id"]: Passage(**row) for row in await (await tx.execute(_MOVE, values)).fetchall()}
    for old, _, _ in moved:
        kind = common_pb2.MEMORY_CHANGE_KIND_UPDATED
        await audit.append(tx, author, _entry(kind, old, found[old.id], provenance))


async def delete(tx: Connection, author: Author, old: Passage, provenance: Provenance) -> None:
    """Removes a passage whose scope and row are locked, with its versions and its words."""
    tenant, owner_id = author.tenant, old.owner.id
    await scopes.bump(tx, tenant, owner_id, added=-1)
    await lexical.remove(tx, "archival", scope=owner_id, document_ids=[old.id])
    await history.forget_words(tx, tenant, owner_id, [old.id])
    await tx.execute(
        _DELETE,
        {**audit.author_parameters(author), **audit.provenance_parameters(provenance), "id": old.id},
    )


async def _refuse_twin(tx: Connection, tenant: str, old: Passage, values: Mapping[str, Any]) -> None:
    """Raises ALREADY_EXISTS when a change makes a passage say what another one says."""
    stands = not values.get("superseded_by", old.superseded_by)
    if not stands or not {"content_sha256", "quarantined", "valid_to", "superseded_by"} & set(values):
        return
    wanted = duplicates.Text(
        old.user_id,
        values.get("content_sha256", old.content_sha256),
        values.get("quarantined", old.quarantined),
        values.get("valid_to", old.valid_to),
        old.document_id,
    )
    if await duplicates.stored(tx, tenant, old.owner, [wanted], but=old.id):
        raise Error(
            errors_pb2.REASON_ALREADY_EXISTS,
            f"{old.owner.id} holds another passage with this text",
            metadata={"resource": old.owner.id, "field": "passage.text"},
        )


def _adapted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values in the types that the database knows."""
    adapted = dict(values)
    if "metadata_" in values:
        adapted["metadata_"] = Jsonb(values["metadata_"])
    for name in ("embedding", "next_embedding"):
        if values.get(name) is not None:
            adapted[name] = HalfVector(values[name])
    return adapted


def _item(position: int, draft: Draft) -> dict[str, Any]:
    return {
        "position": position,
        "id": draft.passage_id,
        "user_id": draft.user_id,
        "text": draft.text,
        "sha256": draft.sha256.hex(),
        "kind": draft.kind,
        "importance": draft.importance,
        "tags": draft.tags,
        "metadata": draft.metadata,
        "valid_from": draft.valid_from and draft.valid_from.isoformat(),
        "valid_to": draft.valid_to and draft.valid_to.isoformat(),
        "quarantined": draft.quarantined,
        **audit.provenance_parameters(draft.provenance),
        "document_id": draft.document_id,
        "document_start": draft.document_start,
        "document_end": draft.document_end,
        "space": draft.embedded.space_id if draft.embedded else None,
    }


def _entry(kind: int, old: Passage, new: Passage, provenance: Provenance) -> audit.Entry:
    return audit.Entry(
        kind=kind,
        resource_id=old.id,
        owner=old.owner,
        user_id=old.user_id,
        provenance=provenance,
        old_version=old.version,
        new_version=new.version,
        old_sha256=old.content_sha256.hex(),
        new_sha256=new.content_sha256.hex(),
        old_chars=len(old.text),
        new_chars=len(new.text),
        create_time=new.updated_at,
    )
