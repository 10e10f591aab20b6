"""The candidates of a search by meaning, as parts of a statement over `archival.agent_passages p`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgvector import HalfVector

from mneme.archival.records import Embedded, Filter
from mneme.runtime import vectors

CONTENT = vectors.Content(
    schema="archival",
    table="archival.agent_passages",
    owner="owner_id",
    space="embedding_config",
    vector="embedding",
    revision="revision",
)

COSINE = "CASE WHEN p.embedding_config = %(space)s THEN 1 - (p.embedding <=> %(vector)s) END"
"""Similarity of a passage to the question; NULL for a passage of another space, or still without a vector."""

# A user, a time or a quarantine drop passages too, but few where there are many.
_NARROWING = ("all_tags", "any_tags", "metadata", "kinds", "created_from", "created_before", "as_of", "recorded_as_of")


def cte(where: str) -> str:
    """Returns the common table expressions that end in `meaning(id, distance)`: the best candidates, at most `depth`.

    Args:
        where: Conditions of the filter on `p`, each with a leading AND, as `conditions.where` makes them. The statement
            also needs their parameters, those of `parameters`, and `tenant`.
    """
    return vectors.cte(CONTENT, alias="p", where=where)


def parameters(*, owners: Sequence[str], embedded: Embedded, depth: int, wanted: Filter) -> dict[str, Any]:
    """Returns the parameters of `cte` and `COSINE`: `owners`, `space`, `vector`, `depth`, `breadth`.

    Args:
        owners: Scopes to look in.
        embedded: The question.
        depth: Most candidates.
        wanted: The filter whose conditions were given to `cte`.
    """
    narrowed = any(getattr(wanted, name) for name in _NARROWING)
    return {
        "owners": list(owners),
        "space": embedded.space_id,
        "vector": HalfVector(embedded.values),
        "depth": depth,
        "breadth": vectors.breadth(depth, narrowed=narrowed),
    }
