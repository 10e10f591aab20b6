"""Finding messages by words and by meaning, exactly: every message that passes the filter counts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mneme.recall.records import Candidate, Filter, Found
from mneme.recall.store import meaning as nearness
from mneme.recall.store.append import SCHEMA
from mneme.recall.store.meaning import Meaning
from mneme.recall.store.rows import MESSAGE_COLUMNS, condition_of, message_of
from mneme.runtime import call, lexical, ranking
from mneme.runtime.db import Connection
from mneme.runtime.ranking import Evidence

DEPTH = 100
"""Candidates that each way of searching brings at least."""
FOLLOWED = 50
"""Of those by words, how many also bring the turn after them."""


# A fence: messages are looked up by their key for each match, whatever the planner guesses of fresh tables. The
# filter is applied outside of it.
_BY_KEY = """
CROSS JOIN LATERAL (
    SELECT * FROM recall.messages WHERE tenant_id = %(tenant)s AND id = k.id OFFSET 0
) m"""


async def newest(tx: Connection, wanted: Filter, limit: int) -> Found:
    """Returns the newest messages that pass the filter."""
    condition, parameters = condition_of(wanted, call.tenant())
    cursor = await tx.execute(
        f"""
        SELECT (SELECT count(*) FROM recall.messages m WHERE {condition}) AS total, {MESSAGE_COLUMNS}
        FROM recall.messages m WHERE {condition}
        ORDER BY m.created_at DESC, m.conversation_id DESC, m.sequence_id DESC LIMIT %(limit)s
        """,  # noqa: S608
        {**parameters, "limit": limit},
    )
    return _found(await cursor.fetchall())


async def by_words(tx: Connection, wanted: Filter, text: str, limit: int) -> Found:
    """Returns the messages in which the query's words tell most; any word may match."""
    condition, parameters = condition_of(wanted, call.tenant())
    cursor = await tx.execute(
        f"""
        WITH {lexical.bm25_cte(SCHEMA)}, word AS (
            SELECT k.id, k.bm25, count(*) OVER () AS total
            FROM (SELECT document_id AS id, bm25 FROM lexical_match) k {_BY_KEY}
            WHERE {condition} ORDER BY k.bm25 DESC, m.created_at DESC, m.id LIMIT %(limit)s
        )
        SELECT k.total, k.bm25, {MESSAGE_COLUMNS} FROM word k {_BY_KEY}
        """,  # noqa: S608
        {**parameters, **lexical.bm25_parameters(scopes=[wanted.agent_id], text=text), "limit": limit},
    )
    return _found(await cursor.fetchall())


async def by_meaning(tx: Connection, wanted: Filter, meaning: Meaning, limit: int) -> Found:
    """Returns the messages whose vectors are nearest; `total_count` is how many of them were considered."""
    condition, parameters = condition_of(wanted, call.tenant())
    cursor = await tx.execute(
        f"""
        WITH {nearness.cte(condition)}
        SELECT (SELECT count(*) FROM near) AS total, k.cosine, {MESSAGE_COLUMNS}
        FROM (SELECT * FROM near ORDER BY cosine DESC, id LIMIT %(limit)s) k {_BY_KEY}
        """,  # noqa: S608
        {**parameters, **nearness.parameters(meaning, depth=max(DEPTH, limit), wanted=wanted), "limit": limit},
    )
    return _found(await cursor.fetchall())


# Both ways bring their best, and the best by words also the turn after each: an answer seldom repeats the words of what
# it answers. What was said half a day before is no context. What is known of a candidate and of the turn before it is
# gathered in one pass over all hits, whatever the planner expects of them.
_BOTH = """
WITH {bm25}, word AS MATERIALIZED (
SELECT m.id, m.conversation_id, m.sequence_id, row_number() OVER () AS place
FROM (SELECT document_id AS id, bm25 FROM lexical_match ORDER BY bm25 DESC, document_id) k {by_key}
WHERE {condition} ORDER BY k.bm25 DESC, k.id LIMIT %(depth)s
), {near}, candidate AS MATERIALIZED (
SELECT k.id, b.id AS before FROM (
SELECT id FROM word UNION SELECT id FROM near UNION
SELECT a.id FROM word w CROSS JOIN LATERAL (
SELECT m.id FROM recall.messages m WHERE m.conversation_id = w.conversation_id AND m.sequence_id > w.sequence_id
AND {condition} AND m.role IN (1, 2) AND m.text <> '' ORDER BY m.sequence_id LIMIT 1) a WHERE w.place <= %(followed)s
) k {by_key} LEFT JOIN LATERAL (
SELECT b.id FROM recall.messages b WHERE b.tenant_id = %(tenant)s AND b.conversation_id = m.conversation_id
AND b.sequence_id < m.sequence_id AND b.sequence_id > m.sequence_id - 20 AND b.user_id = m.user_id AND NOT b.hidden
AND b.created_at > m.created_at - interval '12 hours' AND b.role IN (1, 2) AND b.text <> ''
ORDER BY b.sequence_id DESC LIMIT 1) b ON true
), chosen AS MATERIALIZED (SELECT id FROM candidate UNION SELECT before FROM candidate WHERE before IS NOT NULL
), {rest}, known AS (
SELECT id, bool_or(found) AS found, max(before) AS before, max(length) AS length,
array_agg(number) FILTER (WHERE number > 0) AS numbers, array_agg(frequency) FILTER (WHERE number > 0) AS frequencies
FROM (SELECT id, before, true AS found, 0 AS number, 0 AS frequency, 0 AS length FROM candidate
UNION ALL SELECT before, NULL, false, 0, 0, 0 FROM candidate WHERE before IS NOT NULL
UNION ALL SELECT document_id, NULL, NULL, number, frequency, length FROM lexical_hit
WHERE (document_id IN (SELECT id FROM chosen)) IS TRUE
UNION ALL SELECT document_id, NULL, NULL, number, frequency, length FROM lexical_rest) u
GROUP BY id
)
SELECT k.id AS known_id, k.found, k.before, k.numbers, k.frequencies, CASE WHEN k.length > 0 THEN k.length ELSE (
SELECT d.length FROM recall.lexical_document d
WHERE d.tenant_id = %(tenant)s AND d.scope = %(agent)s AND d.document_id = k.id) END AS length,
CASE WHEN row_number() OVER () = 1 THEN {statistics} END AS statistics, {cosine} AS cosine, {columns}
FROM known k LEFT JOIN LATERAL (
SELECT * FROM recall.messages WHERE tenant_id = %(tenant)s AND id = k.id AND k.found OFFSET 0) m ON true
"""


async def by_both(tx: Connection, wanted: Filter, text: str, meaning: Meaning, limit: int) -> Found:
    """Returns the best of either way, with what ranking needs to know of the words of each and of the turn before."""
    condition, parameters = condition_of(wanted, call.tenant())
    values = {
        **parameters,
        **lexical.bm25_parameters(scopes=[wanted.agent_id], text=text, beside=True),
        **nearness.parameters(meaning, depth=max(DEPTH, limit), wanted=wanted),
        "followed": FOLLOWED,
    }
    rows = await (await tx.execute(_both(condition), values)).fetchall()
    evidence = {row["known_id"]: _evidence(row) for row in rows}
    candidates = [
        Candidate(message_of(row), row["cosine"], own=evidence[row["known_id"]], before=evidence.get(row["before"]))
        for row in rows
        if row["found"]
    ]
    known = ranking.statistics(next((row["statistics"] for row in rows if row["statistics"]), None))
    return Found(candidates, len(candidates), known)


@functools.lru_cache(maxsize=256)
def _both(condition: str) -> str:
    statement = _BOTH.format(
        bm25=lexical.bm25_cte(SCHEMA),
        condition=condition,
        near=nearness.cte(condition),
        by_key=_BY_KEY,
        rest=lexical.rest_cte(SCHEMA, "chosen"),
        statistics=lexical.statistics_column(),
        cosine=nearness.COSINE,
        columns=MESSAGE_COLUMNS,
    )
    # The driver parses long statements anew each time.
    return " ".join(statement.split())


def _evidence(row: Mapping[str, Any]) -> Evidence:
    return Evidence(dict(zip(row["numbers"] or (), row["frequencies"] or (), strict=True)), row["length"] or 0)


def _found(rows: Sequence[Mapping[str, Any]]) -> Found:
    candidates = [Candidate(message_of(row), row.get("cosine"), row.get("bm25")) for row in rows]
    return Found(candidates, rows[0]["total"] if rows else 0)
