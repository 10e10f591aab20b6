"""Finding messages by words and by meaning, exactly: every message that passes the filter counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgvector import HalfVector

from mneme.recall.records import Candidate, Filter, Found
from mneme.recall.store.append import SCHEMA
from mneme.recall.store.rows import MESSAGE_COLUMNS, condition_of, message_of
from mneme.runtime import call, lexical
from mneme.runtime.db import Connection

DEPTH = 100
"""Candidates that each way of searching brings at least."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A query as a vector."""

    space_id: str
    """Space it belongs to; messages of other spaces are not compared with it."""
    vector: Sequence[float]


async def newest(tx: Connection, wanted: Filter, limit: int) -> Found:
    """Returns the newest messages that pass the filter."""
    condition, parameters = condition_of(wanted, call.tenant())
    cursor = await tx.execute(
        f"""
        SELECT count(*) OVER () AS total, {MESSAGE_COLUMNS} FROM recall.messages m WHERE {condition}
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
        WITH {lexical.bm25_cte(SCHEMA)}
        SELECT count(*) OVER () AS total, w.bm25, {MESSAGE_COLUMNS}
        FROM lexical_match w JOIN recall.messages m ON m.id = w.document_id
        WHERE {condition} ORDER BY w.bm25 DESC, m.created_at DESC, m.id LIMIT %(limit)s
        """,  # noqa: S608
        {**parameters, **lexical.bm25_parameters(scopes=[wanted.agent_id], text=text), "limit": limit},
    )
    return _found(await cursor.fetchall())


async def by_meaning(tx: Connection, wanted: Filter, meaning: Meaning, limit: int) -> Found:
    """Returns the messages whose vectors are nearest; `total_count` is how many were considered."""
    condition, parameters = condition_of(wanted, call.tenant())
    cursor = await tx.execute(
        f"""
        SELECT count(*) OVER () AS total, 1 - (m.embedding <=> %(vector)s) AS cosine, {MESSAGE_COLUMNS}
        FROM recall.messages m WHERE {condition} AND m.space = %(space)s
        ORDER BY m.embedding <=> %(vector)s, m.id LIMIT %(limit)s
        """,  # noqa: S608
        {**parameters, **_meaning(meaning), "limit": limit},
    )
    found = _found(await cursor.fetchall())
    return Found(found.candidates, min(found.total_count, max(DEPTH, limit)))


async def by_both(tx: Connection, wanted: Filter, text: str, meaning: Meaning, limit: int) -> Found:
    """Returns what either way finds, each candidate with both scores where it has them."""
    condition, parameters = condition_of(wanted, call.tenant())
    cursor = await tx.execute(
        f"""
        WITH {lexical.bm25_cte(SCHEMA)}, word AS (
            SELECT m.id, w.bm25, count(*) OVER () AS total
            FROM lexical_match w JOIN recall.messages m ON m.id = w.document_id
            WHERE {condition} ORDER BY w.bm25 DESC, m.created_at DESC, m.id LIMIT %(limit)s
        ), near AS (
            SELECT m.id FROM recall.messages m WHERE {condition} AND m.space = %(space)s
            ORDER BY m.embedding <=> %(vector)s, m.id LIMIT %(limit)s
        ), candidate AS (
            SELECT id FROM word UNION SELECT id FROM near
        )
        SELECT w.bm25, CASE WHEN m.space = %(space)s THEN 1 - (m.embedding <=> %(vector)s) END AS cosine,
            (SELECT count(*) FROM candidate k WHERE NOT EXISTS (
                SELECT 1 FROM lexical_match x WHERE x.document_id = k.id))
            + coalesce((SELECT max(total) FROM word), 0) AS total, {MESSAGE_COLUMNS}
        FROM candidate k
        JOIN recall.messages m ON m.tenant_id = %(tenant)s AND m.id = k.id
        LEFT JOIN lexical_match w ON w.document_id = m.id
        """,  # noqa: S608
        {
            **parameters,
            **lexical.bm25_parameters(scopes=[wanted.agent_id], text=text),
            **_meaning(meaning),
            "limit": max(DEPTH, limit),
        },
    )
    return _found(await cursor.fetchall())


def _meaning(meaning: Meaning) -> dict[str, Any]:
    return {"space": meaning.space_id, "vector": HalfVector(list(meaning.vector))}


def _found(rows: Sequence[Mapping[str, Any]]) -> Found:
    candidates = [Candidate(message_of(row), row.get("cosine"), row.get("bm25")) for row in rows]
    return Found(candidates, rows[0]["total"] if rows else 0)
