"""Finds candidates among the passages as they were known at a moment. Exact: the past has no index of its own."""

from __future__ import annotations

from typing import Any

from pgvector import HalfVector

from mneme.archival.records import Candidate, WordStatistics
from mneme.archival.store import conditions, history, meaning
from mneme.archival.store.search import Query
from mneme.runtime import lexical
from mneme.runtime.db import Connection

_KNOWN = """
WITH {words}, known AS MATERIALIZED (
    SELECT p.id, p.created_at, p.importance, p.superseded_by, {cosine} AS cosine, m.bm25,
        {vector} AS vector
    FROM {source}
    LEFT JOIN lexical_match m ON m.document_id = p.words_id
        AND m.scope IN (p.owner_id, p.owner_id || %(past)s)
    WHERE p.tenant_id = %(tenant)s AND p.owner_id = ANY(%(owners)s){where}
), meaning AS (
    SELECT id FROM known WHERE cosine IS NOT NULL ORDER BY cosine DESC, id LIMIT %(depth)s
), words AS (
    SELECT id FROM known WHERE bm25 IS NOT NULL ORDER BY bm25 DESC, id LIMIT %(depth)s
)
SELECT known.*, (SELECT count(bm25) FROM known) AS total, (SELECT count(*) FROM meaning) AS considered,
    (SELECT max(idf) FROM (SELECT sum(idf) AS idf FROM lexical_asked GROUP BY scope) asked) AS best
FROM known WHERE id IN (SELECT id FROM meaning UNION ALL SELECT id FROM words)
"""


async def candidates(tx: Connection, tenant: str, query: Query) -> tuple[list[Candidate], WordStatistics]:
    """Returns the best by meaning and the best by words at the filter's `recorded_as_of`, unordered.

    A text that was replaced since is found by the words and by the vector it had then.
    """
    owners, embedded, wanted = query.owners, query.embedded, query.wanted
    where, values = conditions.where(wanted)
    scopes = [name for owner in owners for name in (owner, owner + history.PAST_SCOPE)]
    values |= lexical.bm25_parameters(scopes=scopes, text=query.text)
    values |= {"tenant": tenant, "owners": list(owners), "depth": query.depth, "past": history.PAST_SCOPE}
    if embedded is not None:
        values |= {"space": embedded.space_id, "vector": HalfVector(embedded.values)}
    statement = _KNOWN.format(
        words=lexical.bm25_cte("archival"),
        source=conditions.source(wanted),
        cosine=meaning.COSINE if embedded else "NULL::double precision",
        vector="p.embedding" if embedded and query.with_vectors else "NULL::halfvec",
        where=where,
    )
    rows = await (await tx.execute(statement, values)).fetchall()
    if not rows:
        return [], WordStatistics()
    first = rows[0]
    statistics = WordStatistics(first["total"], first["considered"], float(first["best"] or 0))
    return [_candidate(row) for row in rows], statistics


def _candidate(row: dict[str, Any]) -> Candidate:
    return Candidate(
        id=row["id"],
        cosine=row["cosine"],
        bm25=row["bm25"],
        created_at=row["created_at"],
        importance=row["importance"],
        superseded_by=row["superseded_by"],
        vector=row["vector"].to_numpy().astype("float32") if row["vector"] is not None else None,
    )
