"""Orders what a search found: the common fusion of words and meaning, then importance, age and validity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from mneme.archival.records import Candidate, WordStatistics
from mneme.runtime import ranking
from mneme.runtime.ranking import Query, Scored

PREFERENCE, INSTRUCTION, DOCUMENT, SUMMARY = 2, 3, 4, 5
"""Kinds of passages, as the contract numbers them."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part counts."""

    words: float = 0.7
    """Largest share of words in the mix; meaning has the rest."""
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
    words_share: float | None = None
    standing: float | None = None
    rerank: float | None = None


def by_meaning(found: Sequence[Candidate]) -> list[Ranked]:
    """Returns candidates ordered by max(0, cosine)."""
    ranked = [Ranked(c.id, max(0.0, c.cosine), c.cosine, c.bm25) for c in found if c.cosine is not None]
    return _ordered(ranked)


def by_words(found: Sequence[Candidate]) -> list[Ranked]:
    """Returns candidates that any word matched, ordered by BM25."""
    return _ordered([Ranked(c.id, c.bm25, c.cosine, c.bm25) for c in found if c.bm25 is not None])


def mixed(
    found: Sequence[Candidate],
    statistics: WordStatistics,
    asked: Query,
    *,
    now: datetime,
    weights: Weights,
    limit: int | None = None,
) -> list[Ranked]:
    """Returns candidates ordered by the mix of words and meaning, importance and age.

    Args:
        found: The best by meaning and the best by words, each with both scores.
        statistics: What the query's words could weigh; decides how far they are trusted.
        asked: The question.
        now: Moment from which age counts.
        weights: How much each part counts.
        limit: Most results; None for all candidates.
    """
    mix = replace(ranking.DEFAULT_WEIGHTS, words=weights.words, user=0.0)
    factors = {c.id: (_recency(c.created_at, now, weights), _importance(c, weights)) for c in found}
    candidates = [_common(c, math.prod(factors[c.id])) for c in found]
    scored = ranking.mixed(candidates, asked, statistics.best_possible, mix)
    share = ranking.words_share(candidates, statistics.best_possible, mix)
    scored = ranking.newer_first(scored, asked, statistics.known)
    return [_ranked(one, *factors[one.candidate.id], share) for one in scored[:limit]]


def _common(c: Candidate, factor: float) -> ranking.Candidate:
    return ranking.Candidate(
        id=c.id,
        cosine=c.cosine,
        bm25=c.bm25,
        time=c.created_at.timestamp(),
        terms=c.terms,
        preference=c.kind == PREFERENCE,
        instruction=c.kind == INSTRUCTION,
        by_user=c.kind not in (DOCUMENT, SUMMARY),
        text=c.opening,
        factor=factor,
    )


def _ranked(one: Scored, recency: float, importance: float, share: float) -> Ranked:
    c = one.candidate
    return Ranked(c.id, one.score, c.cosine, c.bm25, recency, importance, None, share, float(one.standing))


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
    if not successor:
        return [replace(r, validity=1.0) for r in ranked]
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


def _importance(c: Candidate, weights: Weights) -> float:
    return 1 + weights.importance * (2 * c.importance - 1)


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
