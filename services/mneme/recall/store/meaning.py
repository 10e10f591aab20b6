"""The candidates of a search by meaning, as parts of a statement over `recall.messages m`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgvector import HalfVector

from mneme.recall.records import Filter
from mneme.runtime import vectors

CONTENT = vectors.Content(
    schema="recall",
    table="recall.messages",
    owner="agent_id",
    space="space",
    vector="embedding",
    revision="vector_revision",
)

COSINE = f"1 - (({vectors.held(CONTENT, 'm')}) <=> %(vector)s)"
"""Similarity of a message to the query; NULL for a message without a vector in its space."""

_NARROWING = ("conversation_id", "user_id", "roles", "start", "end", "before_sequence")


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
    found = vectors.cte(CONTENT, alias="m", where=f" AND {condition}")
    return f"{found}, near AS (SELECT id, 1 - distance AS cosine FROM meaning)"  # noqa: S608


def parameters(meaning: Meaning, *, depth: int, wanted: Filter) -> dict[str, Any]:
    """Returns the parameters of `cte` and `COSINE`: `owners`, `space`, `vector`, `depth`, `breadth`.

    Args:
        meaning: The query.
        depth: Most candidates.
        wanted: The filter whose condition was given to `cte`.
    """
    narrowed = any(getattr(wanted, name) for name in _NARROWING)
    return {
        "owners": [wanted.agent_id],
        "space": meaning.space_id,
        "vector": HalfVector(list(meaning.vector)),
        "depth": depth,
        "breadth": vectors.breadth(depth, narrowed=narrowed),
    }
