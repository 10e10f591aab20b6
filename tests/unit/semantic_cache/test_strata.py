"""When a stratum closes and opens."""

from __future__ import annotations

import pytest

from mneme.semantic_cache import strata
from mneme.semantic_cache.bounds import wrong_upper_bound


@pytest.mark.parametrize(("limit", "verdicts"), [(0.01, 473), (0.02, 236), (0.005, 947)])
def test_a_calibration_stands_for_as_many_verdicts_as_allow_one_mistake(limit: float, verdicts: int) -> None:
    assert strata.prior(limit) == verdicts
    assert wrong_upper_bound(verdicts, 1) <= limit < wrong_upper_bound(verdicts - 1, 1)


def test_one_complaint_does_not_close_a_second_does_and_right_verdicts_open_again() -> None:
    assert not strata.is_closed(0, 0, 0.01)
    assert not strata.is_closed(1, 1, 0.01)
    assert strata.is_closed(2, 2, 0.01)
    needed = next(judged for judged in range(2, 1000) if not strata.is_closed(judged, 2, 0.01))
    assert wrong_upper_bound(strata.prior(0.01) + needed, 2) <= 0.01
    assert 100 < needed < 200


@pytest.mark.parametrize(
    ("score", "band"), [(1.0, "0.98"), (0.97, "0.95"), (0.95, "0.95"), (0.9, "0.90"), (0.52, "0.00")]
)
def test_strata_are_named_by_what_is_pooled(score: float, band: str) -> None:
    assert strata.semantic("shared", score) == f"shared/semantic/{band}/guards"
    assert strata.semantic("per_user", score, verified=True) == f"per_user/semantic/{band}/verifier"
    assert strata.closes(strata.semantic("shared", score))
    assert not strata.closes(strata.exact("shared"))
