"""Near duplicates: told to the writer, never merged. A threshold cannot know which of two near facts is true."""

from __future__ import annotations

from collections.abc import Sequence

from mneme.archival.records import Draft, Filter, Near, Owner
from mneme.archival.store import passages, search
from mneme.runtime import call
from mneme.runtime.db import Database


async def near(
    database: Database, owner: Owner, drafts: Sequence[Draft], *, limit: int, least: float
) -> list[tuple[Near, ...] | None]:
    """Returns, a draft, the stored passages that say nearly the same, nearest first; None for one without a vector.

    Args:
        database: Where the passages are.
        owner: Whose passages.
        drafts: Passages about to be stored.
        limit: Most passages for each.
        least: Least cosine.
    """
    tenant = call.tenant()
    found: list[tuple[Near, ...] | None] = []
    async with database.tenant(tenant) as tx:
        for draft in drafts:
            if draft.embedded is None:
                found.append(None)
                continue
            wanted = Filter(user_id=draft.user_id)
            query = search.Query([owner.id], draft.embedded, "", wanted, depth=limit + 1)
            candidates, _ = await search.candidates(tx, tenant, query)
            close = {one.id: one.cosine for one in candidates if one.cosine is not None and one.cosine >= least}
            known = await passages.get_many(tx, tenant, list(close)) if close else {}
            others = [id_ for id_, passage in known.items() if passage.content_sha256 != draft.sha256]
            ordered = sorted(others, key=lambda id_: (-close[id_], id_))
            found.append(tuple(Near(id_, close[id_]) for id_ in ordered[:limit]))
    return found
