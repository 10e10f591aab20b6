"""A question, and everything that decides whether a stored answer fits."""

from __future__ import annotations

from dataclasses import dataclass

from mneme.semantic_cache.addresses import Address
from mneme.semantic_cache.basis import Basis
from mneme.semantic_cache.neighbours import Vectors
from mneme.semantic_cache.questions import Kind
from mneme.semantic_cache.store import Stored
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb


@dataclass(frozen=True, slots=True)
class Query:
    """A question and what decides whether a stored answer fits."""

    address: Address
    """Where its answer lives."""
    kind: Kind
    """What the text is."""
    normalised: str
    """The question as it is compared."""
    question: str
    """The question as the user put it."""
    fingerprint: str
    """Hash of all that shapes an answer besides memory."""
    place: bytes
    """Of its tenant, agent, user and fingerprint."""
    basis: Basis
    """State of memory that the answer must rest on."""
    asker: str
    """User who asks, or the actor where no user is known."""
    vector: Vectors | None = None
    """The question's vector, when the caller sent one."""
    space_id: str = ""
    """Space of that vector."""
    max_age: float | None = None
    """Oldest answer accepted, in seconds; None for any."""
    users_needed: int = 1
    """Different users who must have asked before an answer is served."""


def judge(query: Query, found: Stored | None, now: float, *, waited: bool = False) -> pb.Hit | pb.Miss:
    """Returns whether an entry may be served for the very same question at a moment, in Unix seconds.

    One who waited for an answer also gets it when it rests on a later basis than asked for: it was made from the very
    state of memory that the one who waited had read, and the later basis only counts the run that made it.
    """
    if found is None:
        return pb.Miss(reason=pb.MISS_REASON_NOT_FOUND)
    if ended(query, found.entry, now):
        return pb.Miss(reason=pb.MISS_REASON_NOT_ADMITTED, best_score=1.0)
    if not rests_on(query, found, waited=waited):
        return pb.Miss(reason=pb.MISS_REASON_BASIS_CHANGED, best_score=1.0)
    return pb.Hit(entry=found.entry, tier=pb.TIER_EXACT, score=1.0)


def ended(query: Query, entry: pb.CacheEntry, now: float) -> bool:
    """Returns whether an entry is past its end, or older than the caller accepts."""
    age = now - entry.create_time.ToNanoseconds() / 1e9
    return entry.expire_time.ToNanoseconds() / 1e9 <= now or (query.max_age is not None and age > query.max_age)


def rests_on(query: Query, found: Stored, *, waited: bool = False) -> bool:
    """Returns whether an entry rests on the state of memory asked with."""
    digest = query.basis.digest
    return found.basis_digest == digest or (waited and found.acquired_digest == digest)
