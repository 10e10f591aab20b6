"""Finds candidates among the passages as they were known at a moment. Exact: the past has no index of its own."""

from __future__ import annotations

from pgvector import HalfVector

from mneme.archival.records import Candidate, WordStatistics
from mneme.archival.store import conditions, history, meaning
from mneme.archival.store.search import Query, read
from mneme.runtime import lexical
from mneme.runtime.db import Connection

_KNOWN = """
WITH {words}, matched AS (
    SELECT scope, document_id, sum(weight) AS bm25, array_agg(number) FILTER (WHERE number > 0) AS numbers
    FROM lexical_hit GROUP BY scope, document_id
), known AS MATERIALIZED (
    SELECT p.id, p.created_at, p.importance, p.superseded_by, p.kind, {cosine} AS cosine, m.bm25, m.numbers,
        CASE WHEN p.kind IN (4, 5) THEN '' ELSE left(p.text, 400) END AS opening, {vector} AS vector
    FROM {source}
    LEFT JOIN matched m ON m.document_id = p.words_id AND m.scope IN (p.owner_id, p.owner_id || %(past)s)
    WHERE p.tenant_id = %(tenant)s AND p.owner_id = ANY(%(owners)s){where}
), meaning AS (
    SELECT id FROM known WHERE cosine IS NOT NULL ORDER BY cosine DESC, id LIMIT %(depth)s
), words AS (
    SELECT id FROM known WHERE bm25 IS NOT NULL ORDER BY bm25 DESC, id LIMIT %(depth)s
)
SELECT known.*, (SELECT count(bm25) FROM known) AS total, (SELECT count(*) FROM meaning) AS considered,
    CASE WHEN row_number() OVER () = 1 THEN {statistics} END AS statistics
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
        vector=meaning.VECTOR if embedded and query.with_vectors else "NULL::halfvec",
        where=where,
        statistics=lexical.statistics_column(),
    )
    rows = await (await tx.execute(statement, values)).fetchall()
    return read(rows, query) if rows else ([], WordStatistics())
