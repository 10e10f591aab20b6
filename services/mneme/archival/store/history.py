"""What passages were: their versions, and the state of an archive as it was known at a moment.

A version is current from `recorded_from` to `recorded_to`, the same instant at which the next one begins. The current
one is the passage itself, since `updated_at`. The text of a deleted passage is gone from every moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

from mneme.archival.records import Passage, PassageVersion, Provenance
from mneme.errors.v1 import errors_pb2
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection
from mneme.runtime.errors import Error

SNAPSHOT = """jsonb_build_object(
        'kind', kind, 'importance', importance, 'tags', tags, 'metadata', metadata_, 'valid_from', valid_from,
        'valid_to', valid_to, 'superseded_by', superseded_by, 'superseded_reason', superseded_reason,
        'quarantined', quarantined, 'reason', reason, 'source_message_ids', source_message_ids,
        'trust_level', trust_level, 'from_recall', from_recall, 'step_id', step_id,
        'document_start', document_start, 'document_end', document_end)"""
"""What a version keeps of a passage beside its text and its vector."""

PAST_SCOPE = " past"
"""Ends the name of the scope in which the words of replaced texts are found, apart from those of today."""

# Words of a text that a passage no longer has are indexed under its hash.
_COLUMNS = """
    p.tenant_id, p.id, p.agent_id, p.knowledge_base_id, p.owner_id, p.user_id, p.text, p.embedding, p.embedding_config,
    p.metadata_, p.kind, p.importance, p.tags, p.valid_from, p.valid_to, p.superseded_by, p.superseded_reason,
    p.quarantined, p.reason, p.source_message_ids, p.trust_level, p.from_recall, p.step_id, p.document_id,
    p.document_start, p.document_end, p.content_sha256, p.index_state, p.index_error, p.version, p.created_at,
    p.updated_at, p.id AS words_id, p.next_space, p.next_embedding"""

_VERSION_COLUMNS = """
    p.tenant_id, p.id, p.agent_id, p.knowledge_base_id, p.owner_id, p.user_id, v.text,
    CASE WHEN v.content_sha256 = p.content_sha256 THEN p.embedding ELSE v.embedding END AS embedding,
    CASE WHEN v.content_sha256 = p.content_sha256 THEN p.embedding_config ELSE v.embedding_config END
        AS embedding_config,
    v.attributes -> 'metadata' AS metadata_, (v.attributes ->> 'kind')::smallint AS kind,
    (v.attributes ->> 'importance')::real AS importance,
    ARRAY(SELECT jsonb_array_elements_text(v.attributes -> 'tags')) AS tags,
    (v.attributes ->> 'valid_from')::timestamptz AS valid_from,
    (v.attributes ->> 'valid_to')::timestamptz AS valid_to, v.attributes ->> 'superseded_by' AS superseded_by,
    v.attributes ->> 'superseded_reason' AS superseded_reason,
    (v.attributes ->> 'quarantined')::boolean AS quarantined, v.attributes ->> 'reason' AS reason,
    ARRAY(SELECT jsonb_array_elements_text(v.attributes -> 'source_message_ids')) AS source_message_ids,
    (v.attributes ->> 'trust_level')::smallint AS trust_level, (v.attributes ->> 'from_recall')::boolean AS from_recall,
    v.attributes ->> 'step_id' AS step_id, p.document_id,
    coalesce((v.attributes ->> 'document_start')::bigint, p.document_start) AS document_start,
    coalesce((v.attributes ->> 'document_end')::bigint, p.document_end) AS document_end, v.content_sha256,
    CASE WHEN v.content_sha256 = p.content_sha256 THEN p.index_state WHEN v.embedding IS NULL THEN 4 ELSE 2 END
        AS index_state,
    '' AS index_error, v.version, p.created_at, v.recorded_from AS updated_at,
    CASE WHEN v.content_sha256 = p.content_sha256 THEN p.id
        ELSE p.id || ' ' || encode(v.content_sha256, 'hex') END AS words_id,
    CASE WHEN v.content_sha256 = p.content_sha256 THEN p.next_space END AS next_space,
    CASE WHEN v.content_sha256 = p.content_sha256 THEN p.next_embedding END AS next_embedding"""

_VERSIONS = """
FROM archival.passage_version v
JOIN archival.agent_passages p ON p.tenant_id = v.tenant_id AND p.id = v.passage_id AND p.owner_id = v.owner_id
WHERE v.tenant_id = %(tenant)s"""

KNOWN = f"""
SELECT {_COLUMNS} FROM archival.agent_passages p
WHERE p.tenant_id = %(tenant)s AND p.updated_at <= %(recorded_as_of)s
UNION ALL
SELECT {_VERSION_COLUMNS} {_VERSIONS}
    AND v.recorded_from <= %(recorded_as_of)s AND v.recorded_to > %(recorded_as_of)s"""  # noqa: S608
"""The passages that were stored at `recorded_as_of`, with text and fields of that moment; one row each."""

_PASSAGE = ", ".join(f"s.{field.name}" for field in fields(Passage))

_LIST = f"""
SELECT {_PASSAGE}, s.recorded_to, coalesce(c.actor, '') AS change_actor, coalesce(c.kind, 0) AS change_kind,
    coalesce(c.reason, '') AS change_reason, coalesce(c.source_message_ids, '{{}}') AS change_source_message_ids,
    coalesce(c.trust_level, 0) AS change_trust_level, coalesce(c.from_recall, false) AS change_from_recall,
    coalesce(c.step_id, '') AS change_step_id, coalesce(c.trace_id, '') AS change_trace_id
FROM (
    SELECT {_COLUMNS}, NULL::timestamptz AS recorded_to FROM archival.agent_passages p
    WHERE p.tenant_id = %(tenant)s AND p.id = %(id)s
    UNION ALL
    SELECT {_VERSION_COLUMNS}, v.recorded_to {_VERSIONS} AND v.passage_id = %(id)s
) s
LEFT JOIN LATERAL (
    SELECT * FROM archival.memory_change m
    WHERE m.tenant_id = %(tenant)s AND m.resource_id = s.id AND m.new_version = s.version
    ORDER BY m.sequence DESC LIMIT 1
) c ON true
WHERE (s.version < %(before)s OR %(before)s = 0) AND (s.version = %(only)s OR %(only)s = 0)
ORDER BY s.version DESC LIMIT %(limit)s
"""  # noqa: S608

_HAS_WORDS = """
SELECT 1 FROM archival.lexical_document WHERE tenant_id = %(tenant)s AND scope = %(scope)s AND document_id = %(id)s
"""

_PAST_WORDS = """
SELECT DISTINCT passage_id || ' ' || encode(content_sha256, 'hex') AS words_id FROM archival.passage_version
WHERE tenant_id = %(tenant)s AND passage_id = ANY(%(ids)s)
"""

_STOOD = """
SELECT (attributes ->> 'valid_to')::timestamptz AS valid_to FROM archival.passage_version
WHERE tenant_id = %(tenant)s AND passage_id = %(id)s AND attributes ->> 'superseded_by' = ''
ORDER BY version DESC LIMIT 1
"""


async def keep_words(tx: Connection, passage: Passage) -> None:
    """Lets a text that is about to be replaced be found by its words in searches of the past."""
    scope, words_id = passage.owner.id + PAST_SCOPE, f"{passage.id} {passage.content_sha256.hex()}"
    known = await tx.execute(_HAS_WORDS, {"tenant": call.tenant(), "scope": scope, "id": words_id})
    if await known.fetchone() is None:
        await lexical.index(tx, "archival", [lexical.document(scope=scope, document_id=words_id, text=passage.text)])


async def forget_words(tx: Connection, tenant: str, owner_id: str, passage_ids: Sequence[str]) -> int:
    """Takes the words of replaced texts of passages out of the index, before their versions go; returns how many."""
    found = await tx.execute(_PAST_WORDS, {"tenant": tenant, "ids": list(passage_ids)})
    words = [row["words_id"] for row in await found.fetchall()]
    return await lexical.remove(tx, "archival", scope=owner_id + PAST_SCOPE, document_ids=words) if words else 0


async def page(tx: Connection, tenant: str, passage_id: str, *, before: int, limit: int) -> list[PassageVersion]:
    """Returns versions of a passage older than number `before` (0: all), newest first, at most `limit`."""
    return await _list(tx, tenant, passage_id, before=before, only=0, limit=limit)


async def version(tx: Connection, tenant: str, passage_id: str, number: int) -> PassageVersion:
    """Returns one version of a passage. Raises NOT_FOUND when there is none of that number."""
    found = await _list(tx, tenant, passage_id, before=0, only=number, limit=1)
    if not found:
        raise Error(
            errors_pb2.REASON_NOT_FOUND,
            f"{passage_id} has no version {number}",
            metadata={"resource": passage_id, "version": str(number)},
        )
    return found[0]


async def end_before_supersession(tx: Connection, tenant: str, passage_id: str) -> datetime | None:
    """Returns the `valid_to` that a superseded passage had before; None where it had none."""
    row = await (await tx.execute(_STOOD, {"tenant": tenant, "id": passage_id})).fetchone()
    return row["valid_to"] if row else None


async def _list(
    tx: Connection, tenant: str, passage_id: str, *, before: int, only: int, limit: int
) -> list[PassageVersion]:
    values = {"tenant": tenant, "id": passage_id, "before": before, "only": only, "limit": limit}
    rows = await (await tx.execute(_LIST, values)).fetchall()
    return [
        PassageVersion(
            passage=Passage(**{field.name: row[field.name] for field in fields(Passage)}),
            recorded_to=row["recorded_to"],
            actor=row["change_actor"],
            kind=row["change_kind"],
            provenance=Provenance(
                reason=row["change_reason"],
                source_message_ids=tuple(row["change_source_message_ids"]),
                trust_level=row["change_trust_level"],
                from_recall=row["change_from_recall"],
                step_id=row["change_step_id"],
            ),
            trace_id=row["change_trace_id"],
        )
        for row in rows
    ]
