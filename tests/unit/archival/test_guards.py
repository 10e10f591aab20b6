"""Checks of one passage and of a vector that was handed in."""

from __future__ import annotations

import numpy as np
import pytest

from mneme.archival import guards
from mneme.archival.embedder import MAX_REQUEST_BYTES, _borders
from mneme.archival.records import Embedded
from mneme.runtime.errors import Error


@pytest.mark.parametrize(
    ("space", "values", "reason"),
    [
        ("m@2", [0.6, 0.8], None),
        ("m@2", [0.6, 0.8, 0.0], "DIMENSION_MISMATCH"),
        ("n@2", [0.6, 0.8], "DIMENSION_MISMATCH"),
        ("m@2", [0.6, 0.7], "INVALID_FIELD"),
        ("m@2", [0.0, 0.0], "INVALID_FIELD"),
        ("m@2", [float("nan"), 1.0], "INVALID_FIELD"),
        ("m@2", [3e38, 3e38], "INVALID_FIELD"),
    ],
)
def test_a_vector_must_fit_the_space(space: str, values: list[float], reason: str | None) -> None:
    embedded = Embedded(space, np.array(values, dtype=np.float32))
    if reason is None:
        guards.check_vector("vector", embedded, space_id="m@2", dimensions=2)
        return
    with pytest.raises(Error) as raised:
        guards.check_vector("vector", embedded, space_id="m@2", dimensions=2)
    assert raised.value.reason_name == reason
    assert raised.value.metadata["field"] == "vector"


def test_only_a_summary_may_rest_on_recalled_text() -> None:
    guards.check_recalled(from_recall=True, kind=guards.KIND_SUMMARY)
    guards.check_recalled(from_recall=False, kind=1)
    with pytest.raises(Error):
        guards.check_recalled(from_recall=True, kind=1)


def test_texts_are_cut_into_requests_that_fit() -> None:
    assert _borders([]) == [0]
    assert _borders(["a"] * 600) == [0, 256, 512, 600]
    big = "x" * (MAX_REQUEST_BYTES // 2 + 1)
    assert _borders([big, big, "a"]) == [0, 1, 3]
