"""Finding messages by words and by meaning, exactly: every message that passes the filter counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mneme.recall.records import Candidate, Filter, Found
from mneme.recall.store import meaning as nearness
from mneme.recall.store.append import SCHEMA
from mneme.recall.store.meaning import Meaning
from mneme.recall.store.rows import MESSAGE_COLUMNS, condition_of, message_of
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection

DEPTH = 100
"""Candidates that each way of searching brings at least."""


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


async def by_both(tx: Connection, wanted: Filter, text: str, meaning: Meaning, limit: int) -> Found:
    """Returns what either way finds, each candidate with both scores where it has them."""
    condition, parameters = condition_of(wanted, call.tenant())
    cursor = await tx.execute(
        f"""
        WITH {lexical.bm25_cte(SCHEMA)}, word AS (
            SELECT k.id, k.bm25, row_number() OVER (ORDER BY k.bm25 DESC, m.created_at DESC, m.id) AS place
            FROM (SELECT document_id AS id, bm25 FROM lexical_match) k {_BY_KEY}
            WHERE {condition}
        ), {nearness.cte(condition)}, candidate AS (
            SELECT id, max(bm25) AS bm25, min(place) AS place, count(*) OVER () AS total
            FROM (SELECT id, bm25, place FROM word UNION ALL SELECT id, NULL, 1 FROM near) u GROUP BY id
        )
        SELECT k.total, k.bm25, {nearness.COSINE} AS cosine,
            {MESSAGE_COLUMNS}
        FROM candidate k {_BY_KEY} WHERE k.place <= %(depth)s
        """,  # noqa: S608
        {
            **parameters,
            **lexical.bm25_parameters(scopes=[wanted.agent_id], text=text),
            **nearness.parameters(meaning, depth=max(DEPTH, limit), wanted=wanted),
        },
    )
    return _found(await cursor.fetchall())


def _found(rows: Sequence[Mapping[str, Any]]) -> Found:
    candidates = [Candidate(message_of(row), row.get("cosine"), row.get("bm25")) for row in rows]
    return Found(candidates, rows[0]["total"] if rows else 0)
