"""Stores answers: the entry first, and then what lets it be found by meaning and leave by worth."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from mneme.runtime.metrics import Metrics
from mneme.runtime.redis import CacheDown
from mneme.semantic_cache.addresses import Partition, partition
from mneme.semantic_cache.meaning import Meaning
from mneme.semantic_cache.query import Query
from mneme.semantic_cache.reuse import size, worth
from mneme.semantic_cache.store import Embedded, EntryStore, Stored, WorthStore
from mneme.semantic_cache.vectors import Space

log = structlog.stdlib.get_logger(__name__)


class Keeping:
    """Stores entries with their vectors."""

    def __init__(self, entries: EntryStore, worth_store: WorthStore, meaning: Meaning, metrics: Metrics) -> None:
        """Args:
        entries: The rows.
        worth_store: Says what must go.
        meaning: Vectors, and what finds them.
        metrics: Counts what went.
        """
        self._entries = entries
        self._worth = worth_store
        self._meaning = meaning
        self._evictions = metrics.cache_evictions

    async def commit(self, query: Query, token: str, stored: Stored) -> bool:
        """Stores the answer of the token's holder; False when the right had ended or Redis is down."""
        owners = _owners(query, stored)
        kept = await self._keep(
            query, stored, lambda one: self._entries.commit(query.address, token, one, owners=owners)
        )
        with contextlib.suppress(CacheDown):
            await self.withdraw(query)
        return kept

    async def put(self, query: Query, stored: Stored) -> bool:
        """Stores an answer without a lease; False when Redis is down."""
        owners = _owners(query, stored)
        return await self._keep(query, stored, lambda one: self._entries.put(query.address, one, owners=owners))

    async def withdraw(self, query: Query) -> None:
        """Says that the question is not being answered any more. Raises CacheDown."""
        found = await self._meaning.vector(query)
        if found is not None:
            await self._entries.withdraw(self.pending_place(query, found[0]), query.address)

    @staticmethod
    def pending_place(query: Query, space: Space) -> Partition:
        """Returns where questions stand that are being answered now, also while the scope has no entries yet."""
        return partition(
            query.address.scope,
            epoch=b"",
            fingerprint=query.fingerprint,
            space_id=space.space_id,
            dimensions=space.dimensions,
        )

    async def _keep(self, query: Query, stored: Stored, write: Callable[[Stored], Awaitable[bytes | None]]) -> bool:
        found = await self._meaning.vector(query)
        if found is not None:
            space, values = found
            stored = replace(stored, embedded=Embedded(space.hash, values))
        try:
            epoch = await write(stored)
        except CacheDown:
            return False
        if epoch is None:
            return False
        # The entry stands; without the rest it is found by the same question only, or leaves at its end.
        with contextlib.suppress(CacheDown):
            if found is not None:
                await self._meaning.add(query, epoch, found[0], stored)
            await self._make_room(query, stored, found[0].dimensions if found else 0)
        return True

    async def _make_room(self, query: Query, stored: Stored, dimensions: int) -> None:
        entry, taken, tenant = stored.entry, size(stored.entry, dimensions), query.address.scope.tenant
        evicted = await self._worth.keep(
            tenant,
            entry.entry_id,
            ends=entry.expire_time.ToNanoseconds() / 1e9,
            size=taken,
            worth=worth(entry, taken),
        )
        for entry_id in evicted:
            address = await self._entries.find(tenant, entry_id)
            if address is not None and await self._entries.remove(address, entry_id):
                self._evictions.inc()
        if evicted:
            log.info("cache.evicted", tenant=tenant, count=len(evicted))


def _owners(query: Query, stored: Stored) -> list[tuple[str, str]]:
    """Everybody by whom an entry can be removed."""
    scope = query.address.scope
    owners = [("agent", scope.agent_id), ("author", stored.entry.author)]
    return [*owners, ("user", scope.user_id)] if scope.user_id else owners
