"""The candidates of a search by meaning, as parts of a statement over `archival.agent_passages p`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgvector import HalfVector

from mneme.archival.records import Embedded, Filter

COSINE = "CASE WHEN p.embedding_config = %(space)s THEN 1 - (p.embedding <=> %(vector)s) END"
"""Similarity of a passage to the question; NULL for a passage of another space, or still without a vector."""

# The vectors of a scope are compared one by one: exact, and never fewer results than asked for. The space is compared
# first, as vectors of different lengths cannot be.
_MEANING = """meaning AS MATERIALIZED (
    SELECT p.id FROM archival.agent_passages p
    WHERE p.tenant_id = %(tenant)s AND p.owner_id = ANY(%(owners)s) AND p.embedding_config = %(space)s{where}
    ORDER BY p.embedding <=> %(vector)s, p.id LIMIT %(depth)s
)"""


def cte(where: str) -> str:
    """Returns the common table expressions that end in `meaning(id)`: the best candidates, at most `depth`.

    Args:
        where: Conditions of the filter on `p`, each with a leading AND, as `conditions.where` makes them. The statement
            also needs their parameters, those of `parameters`, and `tenant`.
    """
    return _MEANING.format(where=where)


def parameters(*, owners: Sequence[str], embedded: Embedded, depth: int, wanted: Filter) -> dict[str, Any]:  # noqa: ARG001
    """Returns the parameters of `cte` and `COSINE`: `owners`, `space`, `vector`, `depth`.

    Args:
        owners: Scopes to look in.
        embedded: The question.
        depth: Most candidates.
        wanted: The filter whose conditions were given to `cte`.
    """
    return {
        "owners": list(owners),
        "space": embedded.space_id,
        "vector": HalfVector(embedded.values),
        "depth": depth,
    }
