"""The order of search results: by words, by meaning, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mneme.recall.records import Candidate, Found, Hit, Message, Role
from mneme.runtime import ranking
from mneme.runtime.ranking import Query


def by_words(candidates: Sequence[Candidate], limit: int) -> list[Hit]:
    """Returns the hits with the most telling words first; their score is BM25."""
    return _best([Hit(one, one.bm25) for one in candidates if one.bm25 is not None], limit)


def by_meaning(candidates: Sequence[Candidate], min_score: float, limit: int) -> list[Hit]:
    """Returns the nearest hits first; their score is max(0, cosine), at least `min_score`."""
    hits = [Hit(one, max(0.0, one.cosine)) for one in candidates if one.cosine is not None]
    return _best([hit for hit in hits if hit.score >= min_score], limit)


def fused(found: Found, asked: Query, *, min_score: float, limit: int) -> list[Hit]:
    """Returns the hits of a hybrid search, best first; their score is from 0 to 1.

    A short turn is also found by the words of the turn before it; its BM25 counts them.

    Args:
        found: Found by words, by meaning, or both.
        asked: The question.
        min_score: Least max(0, cosine) of a candidate that holds none of the words itself.
        limit: Most hits.
    """
    kept = {
        one.message.message_id: one
        for one in found.candidates
        if one.own.frequencies or max(0.0, one.cosine or 0.0) >= min_score
    }
    ranked = ranking.mixed(
        [_candidate(one, found) for one in kept.values()], asked, ranking.best_possible(asked, found.statistics)
    )
    ranked = ranking.newer_first(ranked, asked, found.statistics)
    return [Hit(replace(kept[one.candidate.id], bm25=one.candidate.bm25), one.score) for one in ranked[:limit]]


def _candidate(one: Candidate, found: Found) -> ranking.Candidate:
    message = one.message
    by_user = message.role == Role.USER
    return ranking.Candidate(
        id=message.message_id,
        cosine=one.cosine,
        bm25=ranking.bm25(one.own, one.before, found.statistics),
        time=_said(message),
        terms=frozenset(one.own.frequencies),
        by_user=by_user,
        text=message.text if by_user else "",
    )


def _best(hits: list[Hit], limit: int) -> list[Hit]:
    # Equal scores go to the newer message, then to a fixed order, so that a repeated search repeats its
    # answer.
    def key(hit: Hit) -> tuple[float, float, str]:
        message = hit.candidate.message
        return (-hit.score, -_said(message), message.message_id)

    return sorted(hits, key=key)[:limit]


def _said(message: Message) -> float:
    # Messages that were stored together may have one time; their sequence tells them apart.
    said = message.created_at.timestamp() if message.created_at else 0.0
    return said + 1e-6 * message.sequence
