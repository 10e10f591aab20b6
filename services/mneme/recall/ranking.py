"""The order of search results: by words, by meaning, or both."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mneme.recall.records import Candidate, Hit

BALANCED = 0.5
"""Weight of words for a plain question; the rest goes to meaning."""
EXACT = 0.8
"""Weight of words for a query that names a code, a number or a quotation: a vector blurs exactly those."""

_EXACT = re.compile(r"\d{2,}|[\"“”「」『』]|\b[A-Z]{2,}\b|\w+[-_/@]\w+")


def words_weight(query: str) -> float:
    """Returns how much words count for a query, from 0 (meaning alone) to 1 (words alone)."""
    return EXACT if _EXACT.search(query) else BALANCED


def by_words(candidates: Sequence[Candidate], limit: int) -> list[Hit]:
    """Returns the hits with the most telling words first; their score is BM25."""
    return _best([Hit(one, one.bm25) for one in candidates if one.bm25 is not None], limit)


def by_meaning(candidates: Sequence[Candidate], min_score: float, limit: int) -> list[Hit]:
    """Returns the nearest hits first; their score is max(0, cosine), at least `min_score`."""
    hits = [Hit(one, max(0.0, one.cosine)) for one in candidates if one.cosine is not None]
    return _best([hit for hit in hits if hit.score >= min_score], limit)


def fused(candidates: Sequence[Candidate], *, weight: float, min_score: float, limit: int) -> list[Hit]:
    """Returns the hits of a hybrid search, best first; their score is from 0 to 1.

    Words count by BM25 as a part of the best one, meaning by cosine between the worst and the best candidate.

    Args:
        candidates: Found by words, by meaning, or both.
        weight: How much words count, from 0 to 1.
        min_score: Least max(0, cosine) of a candidate that words did not find.
        limit: Most hits.
    """
    kept = [one for one in candidates if one.bm25 is not None or max(0.0, one.cosine or 0.0) >= min_score]
    top_bm25 = max((one.bm25 or 0.0 for one in kept), default=0.0)
    cosines = [one.cosine for one in kept if one.cosine is not None]
    low, high = min(cosines, default=0.0), max(cosines, default=0.0)
    hits = []
    for one in kept:
        words = (one.bm25 or 0.0) / top_bm25 if top_bm25 else 0.0
        meaning = 0.0 if one.cosine is None else _between(one.cosine, low, high)
        hits.append(Hit(one, weight * words + (1 - weight) * meaning))
    return _best(hits, limit)


def _between(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 1.0


def _best(hits: list[Hit], limit: int) -> list[Hit]:
    # Equal scores go to the newer message, then to a fixed order, so that a repeated search repeats its
    # answer.
    def key(hit: Hit) -> tuple[float, float, str]:
        message = hit.candidate.message
        said = message.created_at.timestamp() if message.created_at else 0.0
        return (-hit.score, -said, message.message_id)

    return sorted(hits, key=key)[:limit]
