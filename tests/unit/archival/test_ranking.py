"""Ranking: what wins between words and meaning, and what never happens."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.archival import ranking
from mneme.archival.ranking import Weights
from mneme.archival.records import Candidate, WordStatistics
from mneme.runtime.ranking import query

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WEIGHTS = Weights()
ASKED = query("where does Ann live")


def candidate(
    id_: str,
    cosine: float | None = None,
    bm25: float | None = None,
    *,
    days: float = 0,
    importance: float = 0.5,
    superseded_by: str = "",
    vector: list[float] | None = None,
) -> Candidate:
    return Candidate(
        id_,
        cosine,
        bm25,
        NOW - timedelta(days=days),
        importance,
        superseded_by,
        None if vector is None else np.array(vector, dtype=np.float32),
    )


def order(found: list[Candidate], best: float, weights: Weights = WEIGHTS) -> list[str]:
    statistics = WordStatistics(best_possible=best)
    return [r.id for r in ranking.mixed(found, statistics, ASKED, now=NOW, weights=weights)]


def test_words_decide_where_they_cover_the_query() -> None:
    found = [candidate("meaning", 0.40, None), candidate("words", 0.35, 9.0)]
    assert order(found, best=10.0)[0] == "words"


def test_meaning_decides_where_words_cover_little() -> None:
    """Equal weights would let an everyday word outvote what was meant."""
    found = [candidate("meaning", 0.80, None), candidate("words", 0.55, 1.0)]
    assert order(found, best=10.0)[0] == "meaning"


def test_without_vectors_words_are_all() -> None:
    found = [candidate("a", None, 1.0), candidate("b", None, 2.0)]
    assert order(found, best=0.0) == ["b", "a"]


def test_newer_and_more_important_win_between_equals() -> None:
    assert order([candidate("old", 0.5, days=400), candidate("new", 0.5)], best=0) == ["new", "old"]
    assert order([candidate("low", 0.5, importance=0), candidate("high", 0.5, importance=1)], best=0) == ["high", "low"]


def test_tiny_differences_of_cosine_are_noise() -> None:
    found = [candidate("a", 0.301), candidate("b", 0.300, importance=0.9)]
    assert order(found, best=0) == ["b", "a"]


def test_a_superseded_passage_ranks_below_every_successor() -> None:
    found = [
        candidate("first", 0.9, superseded_by="second"),
        candidate("second", 0.7, superseded_by="third"),
        candidate("third", 0.5),
        candidate("other", 0.6),
    ]
    ranked = ranking.successors_first(ranking.by_meaning(found), found, WEIGHTS)
    assert [r.id for r in ranked] == ["other", "third", "second", "first"]
    assert [r.validity for r in ranked] == [1.0, 1.0, WEIGHTS.superseded, WEIGHTS.superseded]


def test_a_circle_of_successors_ends() -> None:
    found = [candidate("a", 0.5, superseded_by="b"), candidate("b", 0.5, superseded_by="a")]
    assert len(ranking.successors_first(ranking.by_meaning(found), found, WEIGHTS)) == 2


def test_min_score_is_cosine_and_words_may_pass() -> None:
    ranked = ranking.by_meaning([candidate("a", 0.9), candidate("b", 0.4), candidate("c", 0.1, 3.0)])
    assert [r.id for r in ranking.at_least(ranked, 0.5, words_pass=False)] == ["a"]
    assert [r.id for r in ranking.at_least(ranked, 0.5, words_pass=True)] == ["a", "c"]
    assert ranking.at_least(ranked, 0.0, words_pass=False) == ranked


def test_diversity_parts_twins() -> None:
    found = [
        candidate("a", 0.9, vector=[1, 0]),
        candidate("twin", 0.89, vector=[1, 0]),
        candidate("other", 0.5, vector=[0, 1]),
    ]
    ranked = ranking.by_meaning(found)
    assert [r.id for r in ranking.pushed_apart(ranked, found, diversity=0.5, limit=2)] == ["a", "other"]
    assert [r.id for r in ranking.pushed_apart(ranked, found, diversity=0.0, limit=3)] == ["a", "twin", "other"]


@pytest.mark.parametrize("found", [[], [candidate("a")]])
def test_nothing_comes_of_nothing(found: list[Candidate]) -> None:
    assert ranking.by_meaning(found) == []
    assert ranking.by_words(found) == []


unit = st.floats(0, 1, allow_nan=False)
candidates = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(-1, 1)), st.one_of(st.none(), st.floats(0.01, 30)), unit, st.integers(0, 9)
    ),
    max_size=12,
).map(
    lambda rows: [
        candidate(str(n), cosine, bm25, importance=importance, superseded_by=str(after) if after != n else "")
        for n, (cosine, bm25, importance, after) in enumerate(rows)
    ]
)


@given(candidates, st.floats(0, 50))
def test_every_candidate_is_ranked_once_best_first(found: list[Candidate], best: float) -> None:
    ranked = ranking.mixed(found, WordStatistics(best_possible=best), ASKED, now=NOW, weights=WEIGHTS)
    final = ranking.successors_first(ranked, found, WEIGHTS)
    assert sorted(r.id for r in final) == sorted(c.id for c in found)
    assert all(a.score >= b.score for a, b in itertools.pairwise(final))
    assert all(r.words_share is not None and 0.0 <= r.words_share <= 1.0 for r in final)


@given(candidates)
def test_a_successor_that_was_found_is_never_below(found: list[Candidate]) -> None:
    final = ranking.successors_first(ranking.by_meaning(found), found, WEIGHTS)
    scores = {r.id: r.score for r in final}
    for c in found:
        if c.id in scores and c.superseded_by in scores:
            assert scores[c.superseded_by] >= scores[c.id] or _in_circle(c.id, found)


def _in_circle(id_: str, found: list[Candidate]) -> bool:
    following = {c.id: c.superseded_by for c in found}
    seen, now = set[str](), following.get(id_, "")
    while now and now not in seen:
        seen.add(now)
        now = following.get(now, "")
    return id_ in seen
