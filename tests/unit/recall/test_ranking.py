"""The order of search results: what a message brings into the fusion."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from mneme.recall import ranking
from mneme.recall.records import Candidate, Found, Message, Role
from mneme.runtime.ranking import NO_WORDS, Evidence, Statistics, query

KNOWN = Statistics({1: 3.0, 2: 2.0}, mean_length=10.0, document_count=50)
ASKED = query("vegetable garden")

_evidence = st.builds(Evidence, st.dictionaries(st.sampled_from([1, 2]), st.integers(1, 5)), st.integers(5, 200))
_candidates = st.lists(st.tuples(st.one_of(st.none(), st.floats(-1, 1)), _evidence, st.one_of(st.none(), _evidence)))


def _candidate(
    number: int,
    cosine: float | None = None,
    own: Evidence = NO_WORDS,
    before: Evidence | None = None,
    text: str = "",
    role: Role = Role.USER,
) -> Candidate:
    message = Message(message_id=f"message-{number:03}", role=role, text=text, sequence=number + 1)
    return Candidate(message, cosine, own=own, before=before)


def _order(*candidates: Candidate, question: str = "vegetable garden", min_score: float = 0.0) -> list[int]:
    hits = ranking.fused(Found(candidates, 0, KNOWN), query(question), min_score=min_score, limit=10)
    return [int(hit.candidate.message.message_id.removeprefix("message-")) for hit in hits]


def test_an_answer_is_found_by_the_words_of_what_it_answers() -> None:
    asked = Evidence({1: 1, 2: 1}, 8)
    question = _candidate(1, 0.5, own=asked)
    answer = _candidate(2, 0.2, own=Evidence({}, 4), before=asked)
    elsewhere = _candidate(3, 0.3, own=Evidence({2: 1}, 8))
    assert _order(elsewhere, answer, question) == [1, 2, 3]


def test_the_users_own_words_come_before_the_agents() -> None:
    own = Evidence({1: 1}, 8)
    assert _order(_candidate(1, 0.5, own, role=Role.ASSISTANT), _candidate(2, 0.5, own)) == [2, 1]


def test_an_update_stands_above_what_it_updates() -> None:
    """Peers' complaint 28: nothing is retired, the newer of two is only shown first."""
    old = _candidate(1, 0.9, Evidence({1: 2, 2: 1}, 8), text="My vegetable garden has six beds")
    new = _candidate(2, 0.4, Evidence({1: 1, 2: 1}, 20), text="The vegetable garden now has nine beds")
    assert _order(old, new, question="How many beds has my vegetable garden?") == [2, 1]
    assert _order(old, new, question="How many beds had my vegetable garden originally?") == [1, 2]


def test_min_score_spares_only_what_holds_the_words_itself() -> None:
    near = _candidate(1, 0.6)
    far = _candidate(2, 0.1)
    words = _candidate(3, 0.1, Evidence({2: 1}, 8))
    follows = _candidate(4, 0.1, Evidence({}, 8), Evidence({2: 1}, 8))
    assert set(_order(near, far, words, follows, min_score=0.5)) == {1, 3}


def test_a_search_by_meaning_never_scores_below_zero() -> None:
    hits = ranking.by_meaning([_candidate(1, -0.4), _candidate(2, 0.4), _candidate(3)], 0.0, 10)
    assert [hit.score for hit in hits] == [0.4, 0.0]
    assert len(ranking.by_meaning([_candidate(1, -0.4)], 0.1, 10)) == 0


@given(_candidates, st.integers(1, 10), st.randoms(use_true_random=False))
def test_fusion_is_bounded_and_does_not_depend_on_the_order(
    scores: list[tuple[float | None, Evidence, Evidence | None]], limit: int, order: random.Random
) -> None:
    candidates = [_candidate(number, *parts) for number, parts in enumerate(scores)]
    hits = ranking.fused(Found(candidates, 0, KNOWN), ASKED, min_score=0.0, limit=limit)
    assert len(hits) == min(limit, len(candidates))
    assert all(0 <= hit.score <= 1 + 1e-9 and not math.isnan(hit.score) for hit in hits)
    shuffled = list(candidates)
    order.shuffle(shuffled)
    assert ranking.fused(Found(shuffled, 0, KNOWN), ASKED, min_score=0.0, limit=limit) == hits
