"""A threshold is taken only where the pairs prove enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mneme.semantic_cache.calibrating import JudgedPair, choose, steps, unrelated

SCORES = st.floats(0, 1)
PAIRS = st.lists(st.builds(JudgedPair, SCORES, st.booleans(), st.booleans()), max_size=60)


def pairs(score: float, count: int, *, same: bool = True, passed: bool = True) -> list[JudgedPair]:
    return [JudgedPair(score, passed, same)] * count


def test_the_threshold_shuts_out_the_wrong_pairs_and_keeps_the_right_ones() -> None:
    judged = [*pairs(0.9, 400), *pairs(0.7, 40, same=False), *pairs(0.8, 100)]
    chosen = choose(steps(judged), 0.99)
    assert chosen is not None
    assert 0.7 < chosen.threshold <= 0.8
    assert (chosen.hits, chosen.wrong, chosen.hit_rate) == (500, 0, 1.0)
    assert chosen.precision_lower_bound >= 0.99


def test_a_faultless_run_of_few_hits_proves_too_little() -> None:
    assert choose(steps(pairs(0.9, 250)), 0.99) is None
    assert choose(steps(pairs(0.9, 310)), 0.99) is not None


def test_no_threshold_is_taken_where_wrong_pairs_score_as_high_as_right_ones() -> None:
    assert choose(steps([*pairs(0.9, 500), *pairs(0.99, 40, same=False)]), 0.99) is None


def test_what_a_guard_refused_is_no_hit_at_any_score() -> None:
    judged = [*pairs(0.9, 400), *pairs(1.0, 400, same=False, passed=False)]
    assert all(step.wrong == 0 for step in steps(judged))


def test_nothing_is_taken_without_pairs() -> None:
    assert choose(steps([]), 0.5) is None
    assert unrelated([]) == 1.0


@given(PAIRS)
def test_a_higher_threshold_never_serves_more(judged: list[JudgedPair]) -> None:
    found = steps(judged, [0.2, 0.5, 0.8])
    assert [step.hits for step in found] == sorted((step.hits for step in found), reverse=True)
    assert all(0 <= step.precision_lower_bound <= step.precision <= 1 for step in found)


@given(st.lists(SCORES, min_size=1, max_size=300))
def test_one_in_a_hundred_unrelated_texts_reaches_the_bar(cosines: list[float]) -> None:
    bar = unrelated(cosines)
    assert sum(cosine > bar for cosine in cosines) <= len(cosines) / 100
