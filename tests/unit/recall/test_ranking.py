"""The order of search results."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mneme.recall import ranking
from mneme.recall.records import Candidate, Message

_scores = st.one_of(st.none(), st.floats(-1, 1))
_candidates = st.lists(st.tuples(_scores, st.one_of(st.none(), st.floats(0.01, 50))), max_size=30)


def _candidate(number: int, cosine: float | None, bm25: float | None) -> Candidate:
    return Candidate(Message(message_id=f"message-{number:03}", role=1, text=""), cosine, bm25)


def test_codes_and_quotations_lean_on_words() -> None:
    for query in ("SKU-4711", "invoice 2024", 'who said "maybe"', "他说“也许”", "the ACME contract", "ann@example.com"):
        assert ranking.words_weight(query) == ranking.EXACT
    for query in ("what must I not eat?", "我不能吃什么？", "When is Ann's birthday?"):
        assert ranking.words_weight(query) == ranking.BALANCED


def test_meaning_and_words_complete_each_other() -> None:
    both = _candidate(1, 0.8, 5.0)
    words = _candidate(2, 0.1, 6.0)
    near = _candidate(3, 0.9, None)
    unrelated = _candidate(4, 0.1, None)
    hits = ranking.fused([unrelated, near, words, both], weight=0.5, min_score=0.2, limit=10)
    assert [hit.candidate for hit in hits] == [both, words, near]


def test_a_search_by_meaning_never_scores_below_zero() -> None:
    hits = ranking.by_meaning([_candidate(1, -0.4, None), _candidate(2, 0.4, None), _candidate(3, None, 2.0)], 0.0, 10)
    assert [hit.score for hit in hits] == [0.4, 0.0]
    assert len(ranking.by_meaning([_candidate(1, -0.4, None)], 0.1, 10)) == 0


@given(_candidates, st.floats(0, 1), st.floats(0, 1), st.integers(1, 10), st.randoms())
def test_fusion_is_bounded_and_does_not_depend_on_the_order(
    scores: list[tuple[float | None, float | None]], weight: float, min_score: float, limit: int, random: object
) -> None:
    candidates = [_candidate(number, cosine, bm25) for number, (cosine, bm25) in enumerate(scores)]
    hits = ranking.fused(candidates, weight=weight, min_score=min_score, limit=limit)
    assert len(hits) <= limit
    assert all(0 <= hit.score <= 1 + 1e-9 and not math.isnan(hit.score) for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ranking.fused(shuffled, weight=weight, min_score=min_score, limit=limit) == hits
    for hit in hits:
        assert hit.candidate.bm25 is not None or max(0.0, hit.candidate.cosine or 0.0) >= min_score
