"""Orders what a search found: meaning and words mixed with care, then importance, age and validity.

The mix is a weighted sum of BM25 and cosine, each scaled to 0..1 over the candidates. Words get the larger part of the
weight at most, and less the less of the query they cover: a question that shares only everyday words with what answers
it is decided by meaning, a code or a name by words. With equal weights whatever the query, preferences asked for
indirectly are found in a quarter fewer cases than by meaning alone; with these, in a twentieth fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from mneme.archival.records import Candidate, WordStatistics


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part counts."""

    words: float = 0.7
    """Largest weight of BM25 in the mix; meaning has the rest."""
    full_coverage: float = 0.5
    """Part of the query's words, by their rarity, that the best match must cover for the largest weight."""
    recency: float = 0.1
    """Part of the score that age can take away."""
    recency_days: float = 180.0
    """Age at which two thirds of that are gone."""
    importance: float = 0.1
    """How far importance moves the score: this much down for 0, up for 1."""
    superseded: float = 0.9
    """Factor for what was replaced."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A result and how its score came about; a part is None where it did not count."""

    id: str
    score: float
    cosine: float | None
    bm25: float | None
    recency: float | None = None
    importance: float | None = None
    validity: float | None = None


# Differences of cosine below this are taken for noise instead of being stretched over the whole scale.
_LEAST_SPREAD = 0.1


def by_meaning(found: Sequence[Candidate]) -> list[Ranked]:
    """Returns candidates ordered by max(0, cosine)."""
    ranked = [Ranked(c.id, max(0.0, c.cosine), c.cosine, c.bm25) for c in found if c.cosine is not None]
    return _ordered(ranked)


def by_words(found: Sequence[Candidate]) -> list[Ranked]:
    """Returns candidates that any word matched, ordered by BM25."""
    return _ordered([Ranked(c.id, c.bm25, c.cosine, c.bm25) for c in found if c.bm25 is not None])


def mixed(found: Sequence[Candidate], statistics: WordStatistics, *, now: datetime, weights: Weights) -> list[Ranked]:
    """Returns candidates ordered by the mix of words and meaning, importance and age.

    Args:
        found: The best by meaning and the best by words, each with both scores.
        statistics: What the query's words could weigh; decides how far they are trusted.
        now: Moment from which age counts.
        weights: How much each part counts.
    """
    share = words_share(found, statistics, weights)
    top_bm25 = max((c.bm25 or 0.0 for c in found), default=0.0)
    cosines = [c.cosine for c in found if c.cosine is not None]
    low, high = (min(cosines), max(cosines)) if cosines else (0.0, 0.0)
    spread = max(high - low, _LEAST_SPREAD)
    ranked = []
    for c in found:
        words = (c.bm25 or 0.0) / top_bm25 if top_bm25 else 0.0
        meaning = 0.0 if c.cosine is None else 1 - (high - c.cosine) / spread
        recency = _recency(c.created_at, now, weights)
        importance = 1 + weights.importance * (2 * c.importance - 1)
        score = (share * words + (1 - share) * meaning) * recency * importance
        ranked.append(Ranked(c.id, score, c.cosine, c.bm25, recency, importance))
    return _ordered(ranked)


def words_share(found: Sequence[Candidate], statistics: WordStatistics, weights: Weights) -> float:
    """Returns the weight of words in the mix, 0 to 1; 1 where nothing was compared by meaning."""
    if all(c.cosine is None for c in found):
        return 1.0
    top = max((c.bm25 or 0.0 for c in found), default=0.0)
    if not statistics.best_possible:
        return 0.0
    coverage = min(1.0, top / statistics.best_possible)
    return weights.words * min(1.0, coverage / weights.full_coverage)


def at_least(ranked: Sequence[Ranked], min_score: float, *, words_pass: bool) -> list[Ranked]:
    """Returns the results with a cosine of at least `min_score`, and those that words matched if `words_pass`."""
    if not min_score:
        return list(ranked)
    return [
        r for r in ranked if (r.cosine is not None and r.cosine >= min_score) or (words_pass and r.bm25 is not None)
    ]


def successors_first(ranked: Sequence[Ranked], found: Sequence[Candidate], weights: Weights) -> list[Ranked]:
    """Returns the results with each superseded one marked down, and below its successor where both were found."""
    successor = {c.id: c.superseded_by for c in found if c.superseded_by}
    scores = {r.id: r.score * (weights.superseded if r.id in successor else 1.0) for r in ranked}
    for r in ranked:
        scores[r.id] = _capped(r.id, scores, successor)
    changed = [
        replace(r, score=scores[r.id], validity=weights.superseded if r.id in successor else 1.0) for r in ranked
    ]
    depth = {r.id: _depth(r.id, successor) for r in ranked}
    return sorted(changed, key=lambda r: (-r.score, depth[r.id]))


def pushed_apart(ranked: Sequence[Ranked], found: Sequence[Candidate], *, diversity: float, limit: int) -> list[Ranked]:
    """Returns at most `limit` results, each chosen for its score less its likeness to those chosen before it.

    The scores stay what they were, so they need not fall from one result to the next.

    Args:
        ranked: Results, best first.
        found: Their candidates, with vectors; what has none is like nothing.
        diversity: 0 keeps the order, 1 looks at likeness alone after the first result.
        limit: Most results.
    """
    pool = list(ranked)
    top = max((abs(r.score) for r in pool), default=0.0) or 1.0
    vectors = {c.id: c.vector for c in found if c.vector is not None}
    likeness = dict.fromkeys((r.id for r in pool), 0.0)
    chosen: list[Ranked] = []
    while pool and len(chosen) < limit:
        best = max(
            range(len(pool)),
            key=lambda i: (1 - diversity) * pool[i].score / top - diversity * likeness[pool[i].id],
        )
        taken = pool.pop(best)
        chosen.append(taken)
        last = vectors.get(taken.id)
        if last is None:
            continue
        for r in pool:
            other = vectors.get(r.id)
            if other is not None and other.shape == last.shape:
                likeness[r.id] = max(likeness[r.id], float(np.dot(last, other)))
    return chosen


def _ordered(ranked: list[Ranked]) -> list[Ranked]:
    return sorted(ranked, key=lambda r: (-r.score, -(r.cosine or 0.0), r.id))


def _recency(created_at: datetime, now: datetime, weights: Weights) -> float:
    days = max(0.0, (now - created_at).total_seconds() / 86400)
    return 1 - weights.recency * (1 - math.exp(-days / weights.recency_days))


def _capped(id_: str, scores: dict[str, float], successor: dict[str, str]) -> float:
    """Returns the score of a result, no higher than that of any passage that replaced it, near or far."""
    lowest, seen = scores[id_], {id_}
    while (id_ := successor.get(id_, "")) and id_ not in seen:
        seen.add(id_)
        lowest = min(lowest, scores.get(id_, lowest))
    return lowest


def _depth(id_: str, successor: dict[str, str]) -> int:
    seen = {id_}
    while (id_ := successor.get(id_, "")) and id_ not in seen:
        seen.add(id_)
    return len(seen)
