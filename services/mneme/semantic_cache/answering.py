"""Serves an entry while it is still true, and lets one of many who ask the same answer for all.

The same question, normalised, comes first; one of the same meaning after it. A fault of any part is a miss.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mneme.runtime import call
from mneme.runtime.errors import invalid
from mneme.runtime.metrics import Metrics
from mneme.runtime.redis import CacheDown
from mneme.semantic_cache.addresses import Address
from mneme.semantic_cache.basis import DIGEST_BYTES
from mneme.semantic_cache.flight import Watchers
from mneme.semantic_cache.keeping import Keeping
from mneme.semantic_cache.meaning import Considered, Meaning, Near, Sought
from mneme.semantic_cache.offering import Offering
from mneme.semantic_cache.query import Query, ended, judge, rests_on
from mneme.semantic_cache.questions import Kind
from mneme.semantic_cache.reuse import Reuse
from mneme.semantic_cache.statistics import Counts, Statistics
from mneme.semantic_cache.store import EntryStore, Leased, Pending, Stored
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

_TOKEN = re.compile(rf"[0-9a-f]{{32}}\.[0-9a-f]{{{2 * DIGEST_BYTES}}}")
# Left to send the answer when a wait takes all the time that the caller has.
_RESERVE_SECONDS = 0.1

_NOT_LOOKED_UP = {
    Kind.STATEMENT: pb.MISS_REASON_STATEMENT,
    Kind.ELLIPTICAL: pb.MISS_REASON_ELLIPTICAL,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look-up saw."""

    outcome: pb.Hit | pb.Miss
    exact: Stored | None = None
    """Entry of the very same question."""
    served: Considered | None = None
    """What is served from the semantic tier."""
    considered: Sequence[Considered] = ()
    near: Near | None = None


@dataclass(slots=True)
class _Turn:
    """One caller's try at the right to answer."""

    query: Query
    miss: pb.Miss
    near: Near | None
    rejected: str
    """Id of an entry that was found and will not do; empty for none."""
    token: str
    lease_seconds: float
    until: float
    """When its patience ends, on the loop's clock."""
    waited: bool = False
    served: Considered | None = None
    """Another question's answer that it waited for."""

    @property
    def patience(self) -> float:
        """Seconds for which it may still wait."""
        return self.until - asyncio.get_running_loop().time()


class Answering:
    """Look-ups, and the right to answer."""

    def __init__(
        self,
        entries: EntryStore,
        meaning: Meaning,
        keeping: Keeping,
        offering: Offering,
        reuse: Reuse,
        statistics: Statistics,
        metrics: Metrics,
    ) -> None:
        """Args:
        entries: Entries and leases.
        meaning: The semantic tier.
        keeping: Stores answers.
        offering: Takes pairs to be judged.
        reuse: Counts uses.
        statistics: Counts by tenant and agent.
        metrics: The process's instruments.
        """
        self._entries = entries
        self._meaning = meaning
        self._keeping = keeping
        self._offering = offering
        self._reuse = reuse
        self._statistics = statistics
        self._metrics = metrics
        self._watchers = Watchers()

    async def look_up(self, query: Query) -> pb.Hit | pb.Miss:
        """Returns an entry that may be served, or why there is none."""
        started = time.perf_counter()
        seen = await self._see(query, asks=True)
        self._settle(query, seen, started)
        return seen.outcome

    async def inspect(self, query: Query) -> Seen:
        """Returns what a look-up would see; counts nothing."""
        return await self._see(query, asks=False)

    async def acquire(self, query: Query, *, wait: float, lease_seconds: float) -> pb.Hit | pb.Lease | pb.Miss:
        """Returns an entry, or the right to answer, or a miss when another's answer does not come in time.

        Args:
            query: The question.
            wait: Longest wait for another's answer, in seconds; cut to the running call's deadline.
            lease_seconds: Until the right ends by itself.
        """
        started = time.perf_counter()
        seen = await self._see(query, asks=True)
        outcome = seen.outcome
        result: pb.Hit | pb.Lease | pb.Miss = outcome
        try:
            if isinstance(outcome, pb.Hit):
                await self._offer_refresh(query, outcome, lease_seconds)
            elif query.kind is Kind.QUESTION and outcome.reason != pb.MISS_REASON_UNAVAILABLE:
                turn = _turn(query, seen, outcome, wait, lease_seconds)
                result = await self._taken(turn)
                seen = replace(seen, served=turn.served)
        except CacheDown:
            if isinstance(outcome, pb.Miss):
                result = pb.Miss(reason=pb.MISS_REASON_UNAVAILABLE)
        counted = result.miss if isinstance(result, pb.Lease) else result
        self._settle(query, replace(seen, outcome=counted), started)
        return result

    async def commit(self, query: Query, token: str, stored: Stored) -> bool:
        """Stores the answer of the token's holder; False when the right had ended or Redis is down."""
        return await self._keeping.commit(query, token, replace(stored, acquired_digest=_lease_digest(token)))

    async def put(self, query: Query, stored: Stored) -> bool:
        """Stores an answer without a lease; False when Redis is down."""
        return await self._keeping.put(query, stored)

    async def abort(self, query: Query, token: str) -> None:
        """Ends the right to answer; it ends by itself when Redis is down."""
        digest = _lease_digest(token)
        try:
            await self._entries.release(query.address, digest, token)
            await self._keeping.withdraw(query)
        except CacheDown:
            return

    async def close(self) -> None:
        """Lets everyone who waits go on."""
        await self._watchers.close()

    async def _see(self, query: Query, *, asks: bool) -> Seen:
        if query.kind is not Kind.QUESTION:
            return Seen(pb.Miss(reason=_NOT_LOOKED_UP[query.kind]))
        try:
            found = await self._entries.read(query.address)
            outcome, exact = await self._judge_exact(query, found.stored, asks=asks)
            if isinstance(outcome, pb.Hit):
                return Seen(outcome, exact)
            sought = await self._meaning.look(query, found.epoch, asks=asks)
        except CacheDown:
            return Seen(pb.Miss(reason=pb.MISS_REASON_UNAVAILABLE))
        return _seen(outcome, exact, sought)

    async def _judge_exact(
        self, query: Query, stored: Stored | None, *, asks: bool
    ) -> tuple[pb.Hit | pb.Miss, Stored | None]:
        outcome = judge(query, stored, time.time())
        if stored is not None and isinstance(outcome, pb.Miss) and outcome.reason == pb.MISS_REASON_BASIS_CHANGED:
            stamped = await self._meaning.still_holds(query, stored, query.address)
            if stamped is not None:
                stored, outcome = stamped, judge(query, stamped, time.time())
        enough = await self._meaning.enough_asked(query, query.address, asks=asks)
        if isinstance(outcome, pb.Hit) and not enough:
            outcome = pb.Miss(reason=pb.MISS_REASON_NOT_ADMITTED, best_score=1.0)
        return outcome, stored

    async def _offer_refresh(self, query: Query, hit: pb.Hit, lease_seconds: float) -> None:
        """Gives one caller the right to make an answer anew that is about to end."""
        if hit.tier != pb.TIER_EXACT or hit.entry.refresh_time.ToNanoseconds() / 1e9 > time.time():
            return
        token = _token(query)
        taken = await self._entries.take(
            query.address,
            query.basis.digest,
            token=token,
            seconds=lease_seconds,
            rejected=hit.entry.entry_id,
            waited=False,
        )
        if isinstance(taken, Leased):
            hit.refresh.CopyFrom(_lease(token, lease_seconds, None))

    async def _taken(self, turn: _Turn) -> pb.Hit | pb.Lease | pb.Miss:
        """As `_take`; a caller who goes away meanwhile leaves no right behind for which others would wait."""
        try:
            return await self._take(turn)
        except asyncio.CancelledError:
            await self.abort(turn.query, turn.token)
            raise

    async def _take(self, turn: _Turn) -> pb.Hit | pb.Lease | pb.Miss:
        query = turn.query
        digest = query.basis.digest
        while turn.served is None:
            taken = await self._entries.take(
                query.address,
                digest,
                token=turn.token,
                seconds=turn.lease_seconds,
                rejected=turn.rejected,
                waited=turn.waited,
            )
            if isinstance(taken, Stored):
                turn.rejected = taken.entry.entry_id
                outcome = judge(query, taken, time.time(), waited=turn.waited)
                if isinstance(outcome, pb.Hit) and await self._meaning.enough_asked(query, query.address, asks=True):
                    return outcome
                continue
            leased = isinstance(taken, Leased)
            if turn.waited and await self._meets(turn, leased=leased):
                break
            if leased:
                joined = await self._earlier(turn)
                if joined is None:
                    return _lease(turn.token, turn.lease_seconds, turn.miss)
                turn.served = await self._join(turn, joined)
                if turn.served is not None:
                    break
            elif turn.patience <= 0 or not await self._wait(query.address, digest, turn.patience):
                return turn.miss
            turn.waited = True
        assert turn.served is not None
        return _hit(turn.served)

    async def _meets(self, turn: _Turn, *, leased: bool) -> bool:
        """Whether an answer to other words came while it waited; it needs no right to answer then."""
        if turn.near is None:
            return False
        found = await self._entries.read(turn.query.address)
        turn.served = (await self._meaning.look(turn.query, found.epoch)).found
        if turn.served is None:
            return False
        if leased:
            await self._entries.release(turn.query.address, turn.query.basis.digest, turn.token)
        return True

    async def _earlier(self, turn: _Turn) -> Pending | None:
        """Says that the question is being answered; returns one asked earlier that its answer will do for."""
        near, query = turn.near, turn.query
        if near is None or turn.patience <= 0:
            return None
        own = Pending(
            query.address,
            turn=0,
            basis_digest=query.basis.digest,
            question=query.question,
            vector=near.vector,
            ends=time.time() + turn.lease_seconds,
        )
        place = self._keeping.pending_place(query, near.space)
        number, others = await self._entries.announce(place, own, turn.lease_seconds)
        for other in sorted(others, key=lambda one: one.turn):
            earlier = other.turn < number and other.basis_digest == own.basis_digest
            if earlier and await self._meaning.agrees(query, near, other.question, other.vector):
                return other
        return None

    async def _join(self, turn: _Turn, other: Pending) -> Considered | None:
        """Waits for the answer to a question asked earlier; returns it when it may be served."""
        query, near, digest = turn.query, turn.near, turn.query.basis.digest
        assert near is not None
        await self._entries.release(query.address, digest, turn.token)
        await self._entries.withdraw(self._keeping.pending_place(query, near.space), query.address)
        if not await self._wait(other.address, digest, turn.patience):
            return None
        stored = (await self._entries.read(other.address)).stored
        if stored is None or ended(query, stored.entry, time.time()) or not rests_on(query, stored, waited=True):
            return None
        if not await self._meaning.enough_asked(query, other.address, asks=True):
            return None
        return self._meaning.joined(query, near, other.address, stored)

    async def _wait(self, address: Address, digest: bytes, seconds: float) -> bool:
        """Returns whether nobody has the right to answer any more."""
        if seconds <= 0:
            return False

        async def pending() -> bool:
            try:
                return await self._entries.pending(address, digest)
            except CacheDown:
                return False

        return await self._watchers.wait(address.lease_key(digest), pending, seconds)

    def _settle(self, query: Query, seen: Seen, started: float) -> None:
        """Counts a look-up, and offers what is to be judged."""
        outcome, scope = seen.outcome, query.address.scope
        counts = self._statistics.of(scope.tenant, scope.agent_id)
        counts.lookups += 1
        if isinstance(outcome, pb.Hit):
            label = "semantic" if outcome.tier == pb.TIER_SEMANTIC else "exact"
            _count_hit(counts, outcome)
            self._reuse.used(scope.tenant, outcome.entry, seen.near.space.dimensions if seen.near else 0)
        else:
            counts.misses[outcome.reason, outcome.guard] += 1
            label = pb.MissReason.Name(outcome.reason).removeprefix("MISS_REASON_").lower()
            if outcome.reason == pb.MISS_REASON_GUARD_REFUSED:
                self._metrics.cache_refusals.labels(outcome.guard).inc()
        self._offering.offer(query, seen.served, seen.considered)
        self._metrics.cache_lookups.labels(label).inc()
        self._metrics.cache_lookup_seconds.labels(label).observe(time.perf_counter() - started)


def _seen(outcome: pb.Miss, exact: Stored | None, sought: Sought) -> Seen:
    """What both tiers come to; of two misses the exact tier's, unless it found nothing."""
    considered = list(sought.considered)
    if sought.found is not None:
        return Seen(_hit(sought.found), exact, sought.found, considered, sought.near)
    miss = outcome
    if sought.miss is not None and outcome.reason == pb.MISS_REASON_NOT_FOUND:
        miss = sought.miss
    return Seen(miss, exact, None, considered, sought.near)


def _hit(served: Considered) -> pb.Hit:
    return pb.Hit(entry=served.stored.entry, tier=pb.TIER_SEMANTIC, score=served.score)


def _turn(query: Query, seen: Seen, miss: pb.Miss, wait: float, lease_seconds: float) -> _Turn:
    left = call.remaining()
    patience = wait if left is None else min(wait, left - _RESERVE_SECONDS)
    return _Turn(
        query,
        miss,
        seen.near,
        rejected=seen.exact.entry.entry_id if seen.exact is not None else "",
        token=_token(query),
        lease_seconds=lease_seconds,
        until=asyncio.get_running_loop().time() + patience,
    )


def _token(query: Query) -> str:
    return f"{secrets.token_hex(16)}.{query.basis.digest.hex()}"


def _lease(token: str, seconds: float, miss: pb.Miss | None) -> pb.Lease:
    lease = pb.Lease(lease_token=token, miss=miss)
    lease.expire_time.FromNanoseconds(int((time.time() + seconds) * 1e9))
    return lease


def _lease_digest(token: str) -> bytes:
    """The basis with which the right was taken, which may be older than the answer's."""
    if not _TOKEN.fullmatch(token):
        raise invalid("lease_token", "was not issued by Acquire")
    return bytes.fromhex(token.partition(".")[2])


def _count_hit(counts: Counts, hit: pb.Hit) -> None:
    if hit.tier == pb.TIER_SEMANTIC:
        counts.semantic_hits += 1
    else:
        counts.exact_hits += 1
    counts.saved_tokens += hit.entry.token_count
    counts.saved_seconds += hit.entry.model_seconds
