"""The candidates of a search by meaning, as parts of a statement over `recall.messages m`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgvector import HalfVector

COSINE = "CASE WHEN m.space = %(space)s THEN 1 - (m.embedding <=> %(vector)s) END"
"""Similarity of a message to the query; NULL for a message of another space, or still without a vector."""

_NEAR = """near AS MATERIALIZED (
    SELECT m.id, 1 - (m.embedding <=> %(vector)s) AS cosine
    FROM recall.messages m WHERE {condition} AND m.space = %(space)s
    ORDER BY m.embedding <=> %(vector)s, m.id LIMIT %(depth)s
)"""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A query as a vector."""

    space_id: str
    """Space it belongs to; messages of other spaces are not compared with it."""
    vector: Sequence[float]


def cte(condition: str) -> str:
    """Returns the common table expressions that end in `near(id, cosine)`: the best candidates, at most `depth`.

    Args:
        condition: The filter on `m`, as `rows.condition_of` makes it. The statement also needs its parameters and those
            of `parameters`.
    """
    return _NEAR.format(condition=condition)


def parameters(meaning: Meaning, *, depth: int) -> dict[str, Any]:
    """Returns the parameters of `cte` and `COSINE`: `space`, `vector`, `depth`."""
    return {"space": meaning.space_id, "vector": HalfVector(list(meaning.vector)), "depth": depth}
