"""The bound on wrong answers, against published values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.semantic_cache.bounds import wrong_upper_bound


@pytest.mark.parametrize(
    ("judged", "wrong", "bound"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (300, 0, 0.00994),
        (600, 0, 0.00498),
        (10, 0, 0.2589),
        (10, 1, 0.3942),
        (100, 5, 0.1023),
    ],
)
def test_known_values(judged: int, wrong: int, bound: float) -> None:
    assert wrong_upper_bound(judged, wrong) == pytest.approx(bound, abs=1e-4)


@given(st.integers(1, 5000), st.integers(0, 50))
def test_it_lies_above_the_share_and_falls_with_more_right_answers(judged: int, wrong: int) -> None:
    wrong = min(wrong, judged)
    bound = wrong_upper_bound(judged, wrong)
    assert wrong / judged <= bound <= 1
    assert wrong_upper_bound(judged + 1, wrong) <= bound
