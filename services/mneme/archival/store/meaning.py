"""The candidates of a search by meaning, as parts of a statement over `archival.agent_passages p`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pgvector import HalfVector

from mneme.archival.records import Embedded, Filter
from mneme.runtime import reembedding, vectors
from mneme.runtime.db import Connection

CONTENT = vectors.Content(
    schema="archival",
    table="archival.agent_passages",
    owner="owner_id",
    space="embedding_config",
    vector="embedding",
    revision="revision",
)

VECTOR = f"({vectors.held(CONTENT, 'p')})"
"""A passage's vector in the space of the question; NULL where it has none, or none yet."""

COSINE = f"1 - ({VECTOR} <=> %(vector)s)"
"""Similarity of a passage to the question; NULL for a passage without a vector in its space."""

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


async def put_beside(tx: Connection, tenant: str, made: Iterable[tuple[str, Embedded | None]]) -> None:
    """Stores the vectors of the other space beside those just written, in a transaction that raised the revision.

    Args:
        tx: The tenant transaction.
        tenant: Its tenant.
        made: Passage ids and their vectors.
    """
    beside = [(id_, one.beside) for id_, one in made if one is not None and one.beside is not None]
    if beside:
        values = {id_: one.values for id_, one in beside}
        await reembedding.put(tx, CONTENT, tenant, beside[0][1].space_id, values)
