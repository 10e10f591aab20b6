"""The semantic tier: the answer to a question of the same meaning, when everything agrees that it is the same.

The index proposes entries, and their rows decide, each on what was just read: place (tenant, agent, user, fingerprint)
and epoch, end, score, guards, verifier, basis, users who asked, stratum. A part that fails or is late makes a miss.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mneme.semantic_cache import basis as bases
from mneme.semantic_cache import strata
from mneme.semantic_cache.addresses import Address, Partition, partition
from mneme.semantic_cache.basis import Basis
from mneme.semantic_cache.gate import Gate
from mneme.semantic_cache.guards import PairVerifier, Question, Verdict, check, read
from mneme.semantic_cache.neighbours import Vectors, cosine
from mneme.semantic_cache.query import Query, ended, rests_on
from mneme.semantic_cache.store import EntryStore, Row, Stored
from mneme.semantic_cache.store.index import VectorIndex
from mneme.semantic_cache.unchanged import KnowledgeCheck
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb
from mneme.semantic_cache.vectors import Embedder, Space

# Candidates that were gone are dropped from the index, and it is asked again.
_ROUNDS = 3
_LEAST_PROBABILITY = 0.9
_VERIFIER = "verifier"


@dataclass(slots=True)
class Considered:
    """An entry that a look-up considered."""

    address: Address
    stored: Stored
    tier: pb.Tier.ValueType
    score: float
    verdicts: list[Verdict] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    stratum: str = ""
    reason: pb.MissReason.ValueType = pb.MISS_REASON_UNSPECIFIED
    """Why it is not served; unspecified for the one that is."""

    @property
    def guard(self) -> str:
        """Guard that refused; empty for none."""
        refusals = [verdict.guard for verdict in self.verdicts if not verdict.passed]
        return refusals[0] if self.reason == pb.MISS_REASON_GUARD_REFUSED and refusals else ""


@dataclass(frozen=True, slots=True)
class Near:
    """Where a question stands among others, when it may be compared with them."""

    space: Space
    vector: Vectors
    closed: frozenset[str]
    """Strata that nothing is served from."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What the semantic tier says."""

    miss: pb.Miss | None = None
    """Why nothing is served; None when something is, or when the question is not compared at all."""
    found: Considered | None = None
    """What may be served."""
    considered: Sequence[Considered] = ()
    near: Near | None = None


class Meaning:
    """Looks for entries of the same meaning."""

    def __init__(
        self,
        entries: EntryStore,
        index: VectorIndex,
        embedder: Embedder,
        gate: Gate,
        knowledge: KnowledgeCheck,
        *,
        candidates: int,
        verifier: PairVerifier | None = None,
    ) -> None:
        """Args:
        entries: The rows.
        index: Proposes.
        embedder: Space and vectors.
        gate: Closed strata.
        knowledge: Second look at entries whose knowledge bases moved.
        candidates: Nearest entries that are considered.
        verifier: Judges pairs which all guards let pass; None for none.
        """
        self._entries = entries
        self._index = index
        self._embedder = embedder
        self._gate = gate
        self._knowledge = knowledge
        self._candidates = candidates
        self._verifier = verifier

    async def look(self, query: Query, epoch: bytes, *, asks: bool = True) -> Sought:
        """Returns the best entry that may be served, or why none may.

        Args:
            query: A self-contained question.
            epoch: Of the scope; empty when it has no entries.
            asks: Whether the asker counts among an entry's.

        Raises:
            CacheDown: Redis does not answer.
        """
        near = await self._near(query)
        if isinstance(near, pb.Miss):
            return Sought(miss=near)
        if near is None:
            return Sought()
        if not epoch:
            return Sought(miss=pb.Miss(reason=pb.MISS_REASON_NOT_FOUND), near=near)
        place = _partition(query, epoch, near.space)
        considered: list[Considered] = []
        for one in await self._candidates_of(query, place, near.vector):
            considered.append(one)
            one.reason = await self._refusal(query, one, near, asks=asks)
            if one.reason == pb.MISS_REASON_UNSPECIFIED:
                return Sought(found=one, considered=considered, near=near)
            if one.reason == pb.MISS_REASON_BELOW_THRESHOLD:
                break
        return Sought(miss=_miss(considered), considered=considered, near=near)

    async def agrees(self, query: Query, near: Near, question: str, vector: Vectors) -> bool:
        """Returns whether a question that is being answered would get its answer served to the one asked."""
        score = cosine(near.vector, vector)
        if score < near.space.threshold or self._stratum(query, score) in near.closed:
            return False
        return _passed(await self._verdicts(query, question))

    def joined(self, query: Query, near: Near, address: Address, stored: Stored) -> Considered:
        """Returns the answer waited for, of a question that `agrees`."""
        score = 0.0 if stored.embedded is None else cosine(near.vector, stored.embedded.values)
        return Considered(address, stored, pb.TIER_SEMANTIC, score, stratum=self._stratum(query, score))

    async def still_holds(
        self, query: Query, stored: Stored, address: Address, space: Space | None = None
    ) -> Stored | None:
        """Returns an entry with the basis asked with, when only knowledge bases moved since and nothing written there
        concerns it; None otherwise. Raises CacheDown.

        Args:
            query: The question.
            stored: An entry that rests on another basis. It is stored again with the new one.
            address: Where it lives.
            space: The active space, when it is known already.
        """
        own = basis_of(stored)
        if not KnowledgeCheck.applies(stored, query.basis, own):
            return None
        space = space or await self._embedder.space()
        if space is None or not await self._knowledge.holds(stored, query.basis, own, space):
            return None
        entry = pb.CacheEntry()
        entry.CopyFrom(stored.entry)
        del entry.basis.revisions[:]
        for scope, revision in query.basis.revisions:
            entry.basis.revisions.add(scope=scope, revision=revision)
        stamped = replace(stored, entry=entry, basis_digest=query.basis.digest)
        return stamped if await self._entries.restamp(address, stamped) else None

    async def add(self, query: Query, epoch: bytes, space: Space, stored: Stored) -> None:
        """Lets an entry be found that was stored just now. Raises CacheDown."""
        assert stored.embedded is not None
        ends = stored.entry.expire_time.ToNanoseconds() / 1e9
        await self._index.add(_partition(query, epoch, space), query.address.digest, stored.embedded.values, ends)

    async def vector(self, query: Query) -> tuple[Space, Vectors] | None:
        """Returns the question's vector in the active space; None when it is not to be compared, or cannot be told."""
        if not parse(query.question).semantic:
            return None
        space = await self._embedder.space()
        if space is None:
            return None
        given = query.vector
        if given is None or query.space_id != space.space_id or len(given) != space.dimensions:
            given = await self._embedder.embed(space, query.question)
        return None if given is None or len(given) != space.dimensions else (space, given)

    async def _near(self, query: Query) -> Near | pb.Miss | None:
        found = await self.vector(query)
        if found is None:
            return None
        closed = await self._gate.closed(query.address.scope.tenant)
        return pb.Miss(reason=pb.MISS_REASON_STRATUM_CLOSED) if closed is None else Near(*found, closed)

    async def _candidates_of(self, query: Query, place: Partition, vector: Vectors) -> list[Considered]:
        """The nearest entries that still stand, best first. Only their own rows are trusted."""
        found: list[tuple[float, str, Row]] = []
        for _ in range(_ROUNDS):
            digests = await self._index.search(place, vector, self._candidates)
            if not digests:
                return []
            epoch, rows = await self._entries.read_rows(place, digests)
            standing = {digest: row for digest, row in rows.items() if row is not None and row.epoch == epoch}
            found = [
                (cosine(vector, stored), digest, row)
                for digest, row in standing.items()
                if row.place == query.place and (stored := row.vector(place.space)) is not None
            ]
            if len(standing) == len(rows):
                break
            await self._index.drop(place, [digest for digest in rows if digest not in standing])
        found.sort(key=lambda one: -one[0])
        decoded = ((score, digest, row.decode()) for score, digest, row in found)
        scope = query.address.scope
        return [
            Considered(Address(scope, digest), stored, pb.TIER_SEMANTIC, score)
            for score, digest, stored in decoded
            if stored is not None
        ]

    async def _refusal(self, query: Query, one: Considered, near: Near, *, asks: bool) -> pb.MissReason.ValueType:
        """Why a candidate is not served; unspecified when it is."""
        entry = one.stored.entry
        one.changed = basis_of(one.stored).changed(query.basis)
        one.stratum = self._stratum(query, one.score)
        if one.score < near.space.threshold:
            return pb.MISS_REASON_BELOW_THRESHOLD
        if ended(query, entry, time.time()):
            return pb.MISS_REASON_NOT_ADMITTED
        one.verdicts = await self._verdicts(query, entry.question)
        if not _passed(one.verdicts):
            return pb.MISS_REASON_GUARD_REFUSED
        if not rests_on(query, one.stored):
            stamped = await self.still_holds(query, one.stored, one.address, near.space)
            if stamped is None:
                return pb.MISS_REASON_BASIS_CHANGED
            one.stored = stamped
        if not await self.enough_asked(query, one.address, asks=asks):
            return pb.MISS_REASON_NOT_ADMITTED
        return pb.MISS_REASON_STRATUM_CLOSED if one.stratum in near.closed else pb.MISS_REASON_UNSPECIFIED

    async def enough_asked(self, query: Query, address: Address, *, asks: bool) -> bool:
        """Returns whether enough different users asked a question, the asker included, who counts from now on.

        Args:
            query: Who asks, and how many must have asked.
            address: The question whose answer it would be.
            asks: False to look without counting.
        """
        needed = query.users_needed
        if needed <= 1 or address.scope.user_id:
            return True
        return await self._entries.count_asker(address, query.asker, needed, counts=asks) >= needed

    async def _verdicts(self, query: Query, stored: str) -> list[Verdict]:
        verdicts = check(parse(query.question), parse(stored))
        if self._verifier is not None and _passed(verdicts):
            same = await self._verifier.same_answer(query.question, stored)
            passed = same is not None and same >= _LEAST_PROBABILITY
            verdicts = [*verdicts, Verdict(_VERIFIER, passed, "no answer" if same is None else f"{same:.2f}")]
        return verdicts

    def _stratum(self, query: Query, score: float) -> str:
        return strata.semantic(query.address.scope.kind, score, verified=self._verifier is not None)


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Question:
    """Returns a question as the guards see it; the last ones are remembered."""
    return read(text)


def basis_of(stored: Stored) -> Basis:
    """Returns the revisions that an entry rests on."""
    return bases.of((revision.scope, revision.revision) for revision in stored.entry.basis.revisions)


def _passed(verdicts: Sequence[Verdict]) -> bool:
    return all(verdict.passed for verdict in verdicts)


def _miss(considered: Sequence[Considered]) -> pb.Miss:
    """The miss that the best candidate makes."""
    if not considered:
        return pb.Miss(reason=pb.MISS_REASON_NOT_FOUND)
    best = considered[0]
    return pb.Miss(reason=best.reason, guard=best.guard, best_score=best.score)


def _partition(query: Query, epoch: bytes, space: Space) -> Partition:
    return partition(
        query.address.scope,
        epoch=epoch,
        fingerprint=query.fingerprint,
        space_id=space.space_id,
        dimensions=space.dimensions,
    )
