"""Which pairs of a look-up are offered for judging."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mneme.runtime import ids
from mneme.semantic_cache.meaning import Considered
from mneme.semantic_cache.query import Query
from mneme.semantic_cache.sampling import Sampler
from mneme.semantic_cache.store import HitSample
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb


class Offering:
    """Offers what was served by meaning, and what only a closed stratum kept from it."""

    def __init__(self, sampler: Sampler, question_hmac: Callable[[str], str]) -> None:
        """Args:
        sampler: Takes them.
        question_hmac: Keyed hash of a question.
        """
        self._sampler = sampler
        self._question_hmac = question_hmac

    def offer(self, query: Query, served: Considered | None, considered: Sequence[Considered]) -> None:
        """Offers the pair served, or else the best that was not for its stratum alone."""
        pair = served or next((one for one in considered if one.reason == pb.MISS_REASON_STRATUM_CLOSED), None)
        if pair is None or not self._sampler.wants(served=served is not None):
            return
        scope, entry = query.address.scope, pair.stored.entry
        sample = HitSample(
            sample_id=ids.new("sample"),
            agent_id=scope.agent_id,
            user_id=scope.user_id or query.asker,
            author=entry.author,
            entry_id=entry.entry_id,
            asked_question=query.question,
            stored_question=entry.question,
            question_hmac=self._question_hmac(query.question),
            stratum=pair.stratum,
            score=pair.score,
            served=served is not None,
        )
        self._sampler.offer(scope.tenant, sample)
