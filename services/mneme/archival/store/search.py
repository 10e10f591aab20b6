"""Finds candidates for a search, and says whether writes could change an answer. Ranking is not done here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgvector import HalfVector

from mneme.archival.records import Candidate, Embedded, Filter, WordStatistics
from mneme.archival.store import conditions, meaning
from mneme.runtime import lexical, ranking
from mneme.runtime.db import Connection

STANDING = 20
"""Preferences and instructions that are candidates whatever else is nearer."""

# The number of matches is hard to foresee, and a plan made for one match takes time in its square for a thousand:
# LATERAL with a limit makes it one look-up a match whatever the planner expects, the grouping below one pass.
_WORDS = """
    SELECT hit.id, m.bm25, count(*) OVER () AS total FROM lexical_match m
    CROSS JOIN LATERAL (
        SELECT p.id FROM archival.agent_passages p
        WHERE p.tenant_id = %(tenant)s AND p.id = m.document_id{where}
        LIMIT 1
    ) hit
    ORDER BY m.bm25 DESC, hit.id LIMIT %(depth)s
"""

_NONE = "SELECT NULL::text AS id, NULL::double precision AS bm25, 0::bigint AS total WHERE false"

# What somebody likes and how the agent shall behave are few, and are found among themselves too: a need that does not
# name them would find all else first.
_STANDING = f"""
    SELECT p.id FROM archival.agent_passages p
    WHERE p.tenant_id = %(tenant)s AND p.owner_id = ANY(%(owners)s) AND p.kind IN (2, 3)
        AND {meaning.VECTOR} IS NOT NULL{{where}}
    ORDER BY {meaning.VECTOR} <=> %(vector)s, p.id LIMIT %(standing)s
"""  # noqa: S608

# One pass over all hits, whatever the planner expects of them.
_CANDIDATES = """
SELECT p.id, p.created_at, p.importance, p.superseded_by, p.kind, {cosine} AS cosine, c.bm25, c.numbers,
    CASE WHEN p.kind IN (4, 5) THEN '' ELSE left(p.text, 400) END AS opening,
    {vector} AS vector,
    (SELECT max(total) FROM words) AS total,
    (SELECT count(*) FROM meaning) AS considered,
    CASE WHEN row_number() OVER () = 1 THEN {statistics} END AS statistics
FROM (
    SELECT id, sum(weight) AS bm25, array_agg(number) FILTER (WHERE number > 0) AS numbers FROM (
        SELECT id, NULL::double precision AS weight, NULL::int AS number, true AS chosen FROM meaning
        UNION ALL SELECT id, NULL, NULL, true FROM words
        UNION ALL SELECT id, NULL, NULL, true FROM standing
        UNION ALL SELECT document_id, weight, number, false FROM lexical_hit
    ) scored GROUP BY id HAVING bool_or(chosen)
) c
JOIN archival.agent_passages p ON p.tenant_id = %(tenant)s AND p.id = c.id
"""

_CHANGED = """
SELECT s.revision, s.revision > %(since)s AND (
    (SELECT count(*) FROM archival.agent_passages p
        WHERE p.tenant_id = %(tenant)s AND p.owner_id = %(owner)s AND p.id = ANY(%(ids)s)
            AND p.revision <= %(since)s) < cardinality(%(ids)s::text[])
    OR EXISTS (SELECT FROM archival.agent_passages p
        WHERE p.tenant_id = %(tenant)s AND p.owner_id = %(owner)s AND p.revision > %(since)s
            AND NOT p.quarantined AND (p.valid_to IS NULL OR p.valid_to > now())
            AND {closer})) AS changed
FROM (SELECT coalesce((SELECT revision FROM archival.scope
    WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s), 0) AS revision) s
"""

# A passage that still waits for its vector could be anything.
_CLOSER = f"coalesce({meaning.COSINE} >= %(kth_score)s, true)"


@dataclass(frozen=True, slots=True)
class Query:
    """What a search asks for."""

    owners: Sequence[str]
    """Scopes to look in."""
    embedded: Embedded | None
    """Vector to compare with; None compares none."""
    text: str
    """Words to look for; empty looks for none."""
    wanted: Filter
    depth: int
    """Candidates by meaning, and again by words."""
    with_vectors: bool = False


async def candidates(tx: Connection, tenant: str, query: Query) -> tuple[list[Candidate], WordStatistics]:
    """Returns the best by meaning and the best by words, each with both scores where both can be told, unordered."""
    where, values = conditions.where(query.wanted)
    words = lexical.bm25_parameters(scopes=query.owners, text=query.text)
    values |= {**words, "tenant": tenant, "depth": query.depth}
    if query.embedded is not None:
        values |= meaning.parameters(
            owners=query.owners, embedded=query.embedded, depth=query.depth, wanted=query.wanted
        )
    by_meaning = query.embedded is not None
    statement = ", ".join(
        (
            f"WITH {lexical.bm25_cte('archival')}",
            meaning.cte(where) if by_meaning else f"meaning AS MATERIALIZED ({_NONE})",
            f"words AS MATERIALIZED ({_WORDS.format(where=where) if query.text else _NONE})",
            f"standing AS MATERIALIZED ({_STANDING.format(where=where) if by_meaning and query.text else _NONE})",
        )
    ) + _CANDIDATES.format(
        cosine=meaning.COSINE if by_meaning else "NULL::double precision",
        vector=meaning.VECTOR if query.with_vectors and by_meaning else "NULL::halfvec",
        statistics=lexical.statistics_column(),
    )
    rows = await (await tx.execute(statement, {**values, "standing": STANDING})).fetchall()
    if not rows:
        return [], WordStatistics()
    return read(rows, query)


def read(rows: Sequence[dict[str, Any]], query: Query) -> tuple[list[Candidate], WordStatistics]:
    """Returns the candidates that a statement found, at least one, and what the query's words weigh there."""
    known = ranking.statistics(next((row["statistics"] for row in rows if row["statistics"]), None))
    best = ranking.best_possible(ranking.query(query.text), known)
    statistics = WordStatistics(rows[0]["total"] or 0, rows[0]["considered"], best, known)
    return [_candidate(row) for row in rows], statistics


async def unchanged(
    tx: Connection,
    tenant: str,
    knowledge_base_id: str,
    *,
    since: int,
    passage_ids: Sequence[str],
    embedded: Embedded | None,
    kth_score: float,
) -> tuple[bool, int]:
    """Returns whether no write after revision `since` could change an answer, and the revision of this moment.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        knowledge_base_id: The scope.
        since: Revision at which the answer was made.
        passage_ids: What it was made from: a change of one of them changes it.
        embedded: The question; None makes every write count.
        kth_score: Least cosine among those passages; a newer passage below it could not have been among them.
    """
    values: dict[str, Any] = {
        "tenant": tenant,
        "owner": knowledge_base_id,
        "since": since,
        "ids": sorted(set(passage_ids)),
        "kth_score": kth_score,
    }
    if embedded is not None:
        values |= {"space": embedded.space_id, "vector": HalfVector(embedded.values)}
    statement = _CHANGED.format(closer=_CLOSER if embedded is not None else "true")
    row = await (await tx.execute(statement, values)).fetchone()
    assert row is not None
    return not row["changed"] and row["revision"] >= since, int(row["revision"])


def _candidate(row: dict[str, Any]) -> Candidate:
    return Candidate(
        id=row["id"],
        cosine=row["cosine"],
        bm25=row["bm25"],
        created_at=row["created_at"],
        importance=row["importance"],
        superseded_by=row["superseded_by"],
        vector=row["vector"].to_numpy().astype("float32") if row["vector"] is not None else None,
        kind=row["kind"],
        opening=row["opening"],
        terms=frozenset(row["numbers"] or ()),
    )
