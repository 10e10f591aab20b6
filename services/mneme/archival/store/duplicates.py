"""Finds drafts whose text is stored already. Whoever writes holds the scope, so what is found stays true.

A passage that was superseded, that has ended, or that is quarantined does not stand in the way of the same text stated
anew. Sent again, a quarantined draft and one about the past meet their own copies. A piece of a document is a statement
of that document: another one may hold the same piece. The index `agent_passages_content` holds all writers to this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from mneme.archival.records import Draft, Owner, Stored
from mneme.errors.v1 import errors_pb2
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error

# LATERAL with a limit makes each text a look-up in its index, also before the table has statistics; joined freely, a
# batch of one reads the whole scope.
_SAME_TEXT = """
SELECT wanted.position, same.id
FROM unnest(
    %(positions)s::int[], %(users)s::text[], %(hashes)s::bytea[], %(quarantined)s::boolean[],
    %(ends)s::timestamptz[], %(documents)s::text[]
) AS wanted(position, user_id, sha256, quarantined, valid_to, document_id)
CROSS JOIN LATERAL (
    SELECT p.id FROM archival.agent_passages p
    WHERE p.tenant_id = %(tenant)s AND p.owner_id = %(owner)s AND p.user_id = wanted.user_id
        AND p.content_sha256 = wanted.sha256 AND p.document_id = wanted.document_id AND p.superseded_by = ''
        AND p.id <> %(but)s
        AND (NOT p.quarantined OR wanted.quarantined)
        AND (p.valid_to IS NOT DISTINCT FROM wanted.valid_to
            OR coalesce(p.valid_to, 'infinity') > now() AND coalesce(wanted.valid_to, 'infinity') > now())
    ORDER BY p.quarantined, p.created_at, p.id LIMIT 1
) same
"""

_SAME_ID = """
SELECT same.* FROM unnest(%(ids)s::text[]) AS wanted(id)
CROSS JOIN LATERAL (
    SELECT p.id, p.owner_id, p.user_id, p.content_sha256 AS sha256 FROM archival.agent_passages p
    WHERE p.tenant_id = %(tenant)s AND p.id = wanted.id
    LIMIT 1
) same
"""


class Statement(Protocol):
    """What decides whether a text says the same as another."""

    @property
    def user_id(self) -> str:
        """User whom it concerns."""

    @property
    def sha256(self) -> bytes:
        """Hash of the text."""

    @property
    def quarantined(self) -> bool:
        """Whether it is kept out of search."""

    @property
    def valid_to(self) -> datetime | None:
        """Until when it was true."""

    @property
    def document_id(self) -> str:
        """Document that it is a piece of; empty for none."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text about to be written, by its hash."""

    user_id: str
    sha256: bytes
    quarantined: bool = False
    valid_to: datetime | None = None
    document_id: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a write does with its drafts, once their scope is locked."""

    outcomes: list[Stored | Error]
    """An outcome a draft, in their order."""
    new: list[Draft]
    """Drafts that are neither duplicates nor refused."""


async def stored(
    tx: Connection, tenant: str, owner: Owner, statements: Sequence[Statement], *, but: str = ""
) -> dict[int, str]:
    """Returns the ids of passages of the owner that say the same, by the position of the statement.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        owner: Whose passages.
        statements: What is looked for.
        but: Id of a passage that does not count.
    """
    if not statements:
        return {}
    values = {
        "tenant": tenant,
        "owner": owner.id,
        "but": but,
        "positions": list(range(len(statements))),
        "users": [one.user_id for one in statements],
        "hashes": [one.sha256 for one in statements],
        "quarantined": [one.quarantined for one in statements],
        "ends": [one.valid_to for one in statements],
        "documents": [one.document_id for one in statements],
    }
    found = await tx.execute(_SAME_TEXT, values)
    return {row["position"]: row["id"] for row in await found.fetchall()}


async def sort_out(tx: Connection, tenant: str, owner: Owner, drafts: Sequence[Draft]) -> Batch:
    """Finds the drafts whose text is stored already or occurs earlier in the batch. The scope must be locked."""
    known = await stored(tx, tenant, owner, drafts)
    ids = await _same_id(tx, tenant, [draft.passage_id for draft in drafts if draft.named])
    earlier: dict[tuple[str, bytes], list[Draft]] = {}
    batch, now = Batch([], []), datetime.now(UTC)
    for position, draft in enumerate(drafts):
        key = (draft.user_id, draft.sha256)
        twin = next((one.passage_id for one in earlier.get(key, ()) if _says(one, draft, now)), known.get(position))
        taken = ids.get(draft.passage_id)
        if taken is not None and taken != (owner.id, *key):
            batch.outcomes.append(_taken(draft.passage_id))
        elif taken is not None or twin is not None:
            passage_id = twin if taken is None and twin is not None else draft.passage_id
            batch.outcomes.append(Stored(passage_id, duplicate=True))
        else:
            earlier.setdefault(key, []).append(draft)
            ids[draft.passage_id] = (owner.id, *key)
            batch.outcomes.append(Stored(draft.passage_id, duplicate=False))
            batch.new.append(draft)
    return batch


def _says(earlier: Draft, draft: Draft, now: datetime) -> bool:
    """The rule of `_SAME_TEXT`, for two drafts with the same text."""
    if (earlier.quarantined and not draft.quarantined) or earlier.document_id != draft.document_id:
        return False
    return earlier.valid_to == draft.valid_to or all(
        one.valid_to is None or one.valid_to > now for one in (earlier, draft)
    )


async def _same_id(tx: Connection, tenant: str, ids: Sequence[str]) -> dict[str, tuple[str, str, bytes]]:
    if not ids:
        return {}
    found = await tx.execute(_SAME_ID, {"tenant": tenant, "ids": list(ids)})
    return {row["id"]: (row["owner_id"], row["user_id"], row["sha256"]) for row in await found.fetchall()}


def _taken(passage_id: str) -> Error:
    return Error(
        errors_pb2.REASON_ALREADY_EXISTS,
        f"{passage_id} exists already, with another text or owner",
        metadata={"resource": passage_id},
    )
