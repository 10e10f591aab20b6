"""Finds candidates for a search, and says whether writes could change an answer. Ranking is not done here."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pgvector import HalfVector

from mneme.archival.records import Candidate, Embedded, Filter, Passage, WordStatistics
from mneme.archival.store import conditions, meaning
from mneme.runtime import lexical, ranking
from mneme.runtime.db import Connection

STANDING = 20
"""Preferences and instructions that are candidates whatever else is nearer."""

# The number of matches is hard to foresee, and a plan made for one match takes time in its square for a thousand:
# LATERAL with a limit makes it one look-up a match whatever the planner expects. Matches come best first, so that
# look-ups end with the last one wanted, unless all shall be counted.
_BEST = """
    SELECT hit.id, m.bm25, NULL::bigint AS total
    FROM (SELECT document_id AS id, bm25 FROM lexical_match ORDER BY bm25 DESC, document_id OFFSET 0) m
    CROSS JOIN LATERAL (
        SELECT p.id FROM archival.agent_passages p
        WHERE p.tenant_id = %(tenant)s AND p.id = m.id{where}
        LIMIT 1
    ) hit
    ORDER BY m.bm25 DESC, m.id LIMIT %(depth)s
"""
_COUNTED = _BEST.replace("NULL::bigint", "count(*) OVER ()")

_NONE = "SELECT NULL::text AS id, NULL::double precision AS bm25, 0::bigint AS total WHERE false"

# What somebody likes and how the agent shall behave are few, and are found among themselves too: a need that does not
# name them would find all else first.
_STANDING = """
    SELECT p.id FROM archival.agent_passages p
    WHERE p.tenant_id = %(tenant)s AND p.owner_id = ANY(%(owners)s) AND p.kind IN (2, 3)
        AND {vector} IS NOT NULL{where}
    ORDER BY {vector} <=> %(vector)s, p.id LIMIT %(standing)s
"""

_CHOSEN = "SELECT id FROM meaning UNION SELECT id FROM words UNION SELECT id FROM standing"

# One pass over all hits, whatever the planner expects of them: IS TRUE makes it look them up in a hash table.
_CANDIDATES = """
SELECT p.id, p.created_at, p.importance, p.superseded_by, p.kind, {cosine} AS cosine, c.bm25, c.numbers,
    CASE WHEN p.kind IN (4, 5) THEN '' ELSE left(p.text, 400) END AS opening,
    {vector} AS vector,
    (SELECT max(total) FROM words) AS total,
    (SELECT count(*) FROM meaning) AS considered,
    CASE WHEN row_number() OVER () = 1 THEN {statistics} END AS statistics
FROM (
    SELECT id, sum(weight) AS bm25, array_agg(number) FILTER (WHERE number > 0) AS numbers FROM (
        SELECT id, NULL::double precision AS weight, NULL::int AS number FROM chosen
        UNION ALL SELECT document_id, weight, number FROM lexical_hit
            WHERE (document_id IN (SELECT id FROM chosen)) IS TRUE
        UNION ALL SELECT document_id, weight, number FROM lexical_rest
    ) scored GROUP BY id
) c
CROSS JOIN LATERAL (
    SELECT * FROM archival.agent_passages p WHERE p.tenant_id = %(tenant)s AND p.id = c.id OFFSET 0
) p
"""

_NEAREST = """
SELECT n.distance, (SELECT count(*) FROM meaning) AS considered, p.*
FROM (SELECT id, distance FROM meaning ORDER BY distance, id LIMIT %(limit)s) n
CROSS JOIN LATERAL (
    SELECT {columns} FROM archival.agent_passages p WHERE p.tenant_id = %(tenant)s AND p.id = n.id OFFSET 0
) p
"""

_PASSAGE = tuple(field.name for field in fields(Passage))

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
    counted: bool = False
    """Whether all matches of the words are counted, not only the best looked at."""


async def candidates(tx: Connection, tenant: str, query: Query) -> tuple[list[Candidate], WordStatistics]:
    """Returns the best by meaning and the best by words, each with both scores where both can be told, unordered."""
    where, values = conditions.where(query.wanted)
    by_meaning = query.embedded is not None
    values |= lexical.bm25_parameters(scopes=query.owners, text=query.text, beside=not query.counted)
    values |= {"tenant": tenant, "depth": query.depth, "standing": STANDING}
    values |= _of_meaning(query)
    words = _NONE if not query.text else _COUNTED if query.counted else _BEST
    statement = _statement(where, words, by_meaning=by_meaning, with_vectors=by_meaning and query.with_vectors)
    rows = await (await tx.execute(statement, values)).fetchall()
    if not rows:
        return [], WordStatistics()
    return read(rows, query)


async def nearest(tx: Connection, tenant: str, query: Query, limit: int) -> tuple[list[tuple[Candidate, Passage]], int]:
    """Returns the passages whose vectors are nearest, best first, and how many were considered.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        query: What is asked for, with a vector; its words do not count.
        limit: Most passages, at most the query's depth.
    """
    where, values = conditions.where(query.wanted)
    values |= {"tenant": tenant, "depth": query.depth, "limit": limit, **_of_meaning(query)}
    rows = await (await tx.execute(_nearest_statement(where), values)).fetchall()
    considered = rows[0]["considered"] if rows else 0
    found = []
    for row in rows:
        passage = Passage(**{name: row[name] for name in _PASSAGE})
        candidate = Candidate(
            id=passage.id,
            cosine=1 - row["distance"],
            bm25=None,
            created_at=passage.created_at,
            importance=passage.importance,
            superseded_by=passage.superseded_by,
        )
        found.append((candidate, passage))
    return found, considered


def _of_meaning(query: Query) -> dict[str, Any]:
    if query.embedded is None:
        return {}
    return meaning.parameters(owners=query.owners, embedded=query.embedded, depth=query.depth, wanted=query.wanted)


@functools.lru_cache(maxsize=256)
def _nearest_statement(where: str) -> str:
    return _squeezed(f"WITH {meaning.cte(where)}{_NEAREST.format(columns=', '.join(f'p.{name}' for name in _PASSAGE))}")


@functools.lru_cache(maxsize=256)
def _statement(where: str, words: str, *, by_meaning: bool, with_vectors: bool) -> str:
    standing = _STANDING.format(where=where, vector=meaning.VECTOR) if by_meaning and words != _NONE else _NONE
    parts = (
        lexical.bm25_cte("archival"),
        meaning.cte(where) if by_meaning else f"meaning AS MATERIALIZED ({_NONE})",
        f"words AS MATERIALIZED ({words.replace('{where}', where)})",
        f"standing AS MATERIALIZED ({standing})",
        f"chosen AS MATERIALIZED ({_CHOSEN})",
        lexical.rest_cte("archival", "chosen"),
    )
    candidates = _CANDIDATES.format(
        cosine=meaning.COSINE if by_meaning else "NULL::double precision",
        vector=meaning.VECTOR if with_vectors else "NULL::halfvec",
        statistics=lexical.statistics_column(),
    )
    return _squeezed(f"WITH {', '.join(parts)}{candidates}")


def _squeezed(statement: str) -> str:
    # The driver parses long statements anew each time.
    return " ".join(statement.split())


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
