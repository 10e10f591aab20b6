"""The exact tier: serves an entry while it is still true, and lets one of many equal askers answer.

A fault of Redis is a miss.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from dataclasses import dataclass, replace

from mneme.runtime import call
from mneme.runtime.errors import invalid
from mneme.runtime.metrics import Metrics
from mneme.runtime.redis import CacheDown
from mneme.semantic_cache.addresses import Address
from mneme.semantic_cache.basis import DIGEST_BYTES, Basis
from mneme.semantic_cache.flight import Watchers
from mneme.semantic_cache.questions import Kind
from mneme.semantic_cache.statistics import Counts, Statistics
from mneme.semantic_cache.store import EntryStore, Leased, Stored
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

_TOKEN = re.compile(rf"[0-9a-f]{{32}}\.[0-9a-f]{{{2 * DIGEST_BYTES}}}")
# Left to send the answer when a wait takes all the time that the caller has.
_RESERVE_SECONDS = 0.1

_NOT_LOOKED_UP = {
    Kind.STATEMENT: pb.MISS_REASON_STATEMENT,
    Kind.ELLIPTICAL: pb.MISS_REASON_ELLIPTICAL,
}


@dataclass(frozen=True, slots=True)
class Query:
    """A question and what decides whether a stored answer fits."""

    address: Address
    """Where its answer lives."""
    kind: Kind
    """What the text is."""
    normalised: str
    """The question as it is compared."""
    basis: Basis
    """State of memory that the answer must rest on."""
    max_age: float | None = None
    """Oldest answer accepted, in seconds; None for any."""


class Answering:
    """Look-ups, and the right to answer."""

    def __init__(self, entries: EntryStore, statistics: Statistics, metrics: Metrics) -> None:
        """Args:
        entries: Entries and leases.
        statistics: Counts by tenant and agent.
        metrics: The process's instruments.
        """
        self._entries = entries
        self._statistics = statistics
        self._metrics = metrics
        self._watchers = Watchers()

    async def look_up(self, query: Query) -> pb.Hit | pb.Miss:
        """Returns an entry that may be served, or why there is none."""
        started = time.perf_counter()
        outcome, _ = await self.inspect(query)
        self._count(query, outcome, started)
        return outcome

    async def inspect(self, query: Query) -> tuple[pb.Hit | pb.Miss, Stored | None]:
        """Returns what a look-up would, and the entry it considered; counts nothing."""
        if query.kind is not Kind.QUESTION:
            return pb.Miss(reason=_NOT_LOOKED_UP[query.kind]), None
        try:
            found = (await self._entries.read(query.address)).stored
        except CacheDown:
            return pb.Miss(reason=pb.MISS_REASON_UNAVAILABLE), None
        return judge(query, found, time.time()), found

    async def acquire(self, query: Query, *, wait: float, lease_seconds: float) -> pb.Hit | pb.Lease | pb.Miss:
        """Returns an entry, or the right to answer, or a miss when another's answer does not come in time.

        Args:
            query: The question.
            wait: Longest wait for another's answer, in seconds; cut to the running call's deadline.
            lease_seconds: Until the right ends by itself.
        """
        started = time.perf_counter()
        outcome, found = await self.inspect(query)
        if isinstance(outcome, pb.Miss) and query.kind is Kind.QUESTION:
            try:
                result = await self._take(query, outcome, found, wait, lease_seconds)
            except CacheDown:
                result = pb.Miss(reason=pb.MISS_REASON_UNAVAILABLE)
        else:
            result = outcome
        self._count(query, result.miss if isinstance(result, pb.Lease) else result, started)
        return result

    async def commit(self, query: Query, token: str, stored: Stored) -> bool:
        """Stores the answer of the token's holder; False when the right had ended or Redis is down."""
        acquired = replace(stored, acquired_digest=_lease_digest(token))
        try:
            return await self._entries.commit(query.address, token, acquired, owners=_owners(query, stored)) is not None
        except CacheDown:
            return False

    async def put(self, query: Query, stored: Stored) -> bool:
        """Stores an answer without a lease; False when Redis is down."""
        try:
            await self._entries.put(query.address, stored, owners=_owners(query, stored))
        except CacheDown:
            return False
        return True

    async def abort(self, query: Query, token: str) -> None:
        """Ends the right to answer; it ends by itself when Redis is down."""
        digest = _lease_digest(token)
        try:
            await self._entries.release(query.address, digest, token)
        except CacheDown:
            return

    async def close(self) -> None:
        """Lets everyone who waits go on."""
        await self._watchers.close()

    async def _take(
        self, query: Query, miss: pb.Miss, found: Stored | None, wait: float, lease_seconds: float
    ) -> pb.Hit | pb.Lease | pb.Miss:
        loop = asyncio.get_running_loop()
        left = call.remaining()
        until = loop.time() + (wait if left is None else min(wait, left - _RESERVE_SECONDS))
        digest = query.basis.digest
        token = f"{secrets.token_hex(16)}.{digest.hex()}"
        waited = False
        while True:
            rejected = found.entry.entry_id if found is not None else ""
            taken = await self._entries.take(
                query.address, digest, token=token, seconds=lease_seconds, rejected=rejected, waited=waited
            )
            if isinstance(taken, Leased):
                return _lease(token, lease_seconds, miss)
            if isinstance(taken, Stored):
                found, outcome = taken, judge(query, taken, time.time(), waited=waited)
                if isinstance(outcome, pb.Hit):
                    return outcome
                continue
            patience = until - loop.time()
            name = query.address.lease_key(digest)
            if patience <= 0 or not await self._watchers.wait(name, lambda: self._pending(query), patience):
                return miss
            waited = True

    async def _pending(self, query: Query) -> bool:
        try:
            return await self._entries.pending(query.address, query.basis.digest)
        except CacheDown:
            return False

    def _count(self, query: Query, outcome: pb.Hit | pb.Miss, started: float) -> None:
        scope = query.address.scope
        counts = self._statistics.of(scope.tenant, scope.agent_id)
        counts.lookups += 1
        if isinstance(outcome, pb.Hit):
            _count_hit(counts, outcome)
            label = "exact"
        else:
            counts.misses[outcome.reason, outcome.guard] += 1
            label = pb.MissReason.Name(outcome.reason).removeprefix("MISS_REASON_").lower()
        self._metrics.cache_lookups.labels(label).inc()
        self._metrics.cache_lookup_seconds.labels(label).observe(time.perf_counter() - started)


def judge(query: Query, found: Stored | None, now: float, *, waited: bool = False) -> pb.Hit | pb.Miss:
    """Returns whether an entry may be served for a question at a moment, in Unix seconds.

    One who waited for an answer also gets it when it rests on a later basis than asked for: it was made from the very
    state of memory that the one who waited had read, and the later basis only counts the run that made it.
    """
    if found is None:
        return pb.Miss(reason=pb.MISS_REASON_NOT_FOUND)
    entry = found.entry
    age = now - entry.create_time.ToNanoseconds() / 1e9
    if entry.expire_time.ToNanoseconds() / 1e9 <= now or (query.max_age is not None and age > query.max_age):
        return pb.Miss(reason=pb.MISS_REASON_NOT_ADMITTED, best_score=1.0)
    digest = query.basis.digest
    if found.basis_digest != digest and not (waited and found.acquired_digest == digest):
        return pb.Miss(reason=pb.MISS_REASON_BASIS_CHANGED, best_score=1.0)
    return pb.Hit(entry=entry, tier=pb.TIER_EXACT, score=1.0)


def _lease(token: str, seconds: float, miss: pb.Miss) -> pb.Lease:
    lease = pb.Lease(lease_token=token, miss=miss)
    lease.expire_time.FromNanoseconds(int((time.time() + seconds) * 1e9))
    return lease


def _lease_digest(token: str) -> bytes:
    """The basis with which the right was taken, which may be older than the answer's."""
    if not _TOKEN.fullmatch(token):
        raise invalid("lease_token", "was not issued by Acquire")
    return bytes.fromhex(token.partition(".")[2])


def _owners(query: Query, stored: Stored) -> list[tuple[str, str]]:
    """Everybody by whom an entry can be removed."""
    scope = query.address.scope
    owners = [("agent", scope.agent_id), ("author", stored.entry.author)]
    return [*owners, ("user", scope.user_id)] if scope.user_id else owners


def _count_hit(counts: Counts, hit: pb.Hit) -> None:
    counts.exact_hits += 1
    counts.saved_tokens += hit.entry.token_count
    counts.saved_seconds += hit.entry.model_seconds
