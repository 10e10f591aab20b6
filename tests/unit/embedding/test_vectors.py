"""Vectors survive the way into the cache and out, and bad ones are noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mneme.embedding.vectors import pack, unit, unpack

_FINITE = st.floats(-1e6, 1e6, width=32)


@given(st_numpy.arrays(np.float32, 16, elements=_FINITE).filter(lambda v: float(np.linalg.norm(v)) > 1e-3))
def test_what_was_packed_comes_back_exactly(values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    vector = unit(values, 16)
    assert vector is not None
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    back = unpack(pack(vector), 16)
    assert back is not None
    np.testing.assert_array_equal(back, vector)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0], [1.0, 2.0, 3.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_a_vector_without_direction_or_of_another_size_is_none(values: list[float]) -> None:
    assert unit(values, 2) is None


@given(st.binary(max_size=64))
def test_foreign_bytes_are_no_vector(packed: bytes) -> None:
    assert unpack(packed, 16) is None


def test_a_vector_of_another_size_is_not_unpacked() -> None:
    vector = unit([3.0, 4.0], 2)
    assert vector is not None
    assert unpack(pack(vector), 3) is None
