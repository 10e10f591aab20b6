"""Neighbours in memory: the same answers however they were added, removed, promoted and restored."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme.semantic_cache.neighbours import Neighbours, Vectors, cosine, unit

DIMENSIONS = 16
LATER = time.time() + 3600


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def vectors(count: int, seed: int = 1) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32))


KNOWN = vectors(40)


def promote(neighbours: Neighbours, count: int, removed: list[bytes] | None = None) -> None:
    """Moves one portion on; what is removed goes while it is built."""
    numbers, found = neighbours.portion(count)
    neighbours.remove(removed or [])
    neighbours.build(numbers, found)
    neighbours.settle(numbers)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 39), st.integers(0, 39)),
        st.tuples(st.just("remove"), st.integers(0, 39), st.just(0)),
        st.tuples(st.just("promote"), st.integers(1, 5), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([3, 1000]))
def test_the_nearest_is_found_after_any_changes(steps: list[tuple[str, int, int]], exact_limit: int) -> None:
    """With so few vectors a graph finds all that an exact comparison finds."""
    neighbours, expected = Neighbours(DIMENSIONS, exact_limit=exact_limit), dict[int, int]()
    for kind, number, vector in steps:
        if kind == "add":
            neighbours.add([name(number)], KNOWN[[vector]], [LATER])
            expected[number] = vector
        elif kind == "remove":
            neighbours.remove([name(number)])
            expected.pop(number, None)
        elif neighbours.promotes:
            promote(neighbours, number)
        assert len(neighbours) == len(expected)
    for number, vector in expected.items():
        same = {name(other) for other, of_other in expected.items() if of_other == vector}
        assert set(neighbours.search(KNOWN[vector], len(same))) == same, number
    assert set(neighbours.search(KNOWN[0], 100)) == {name(number) for number in expected}


def test_a_promoted_scope_stays_a_graph_and_answers_all_the_while() -> None:
    neighbours = Neighbours(DIMENSIONS, exact_limit=10)
    neighbours.add([name(number) for number in range(40)], KNOWN, [LATER] * 40)
    while neighbours.promotes:
        assert neighbours.exact
        assert neighbours.search(KNOWN[30], 1) == [name(30)]
        promote(neighbours, 7)
    assert not neighbours.exact
    assert neighbours.search(KNOWN[30], 1) == [name(30)]
    neighbours.remove([name(number) for number in range(1, 40)])
    assert not neighbours.exact
    assert neighbours.search(KNOWN[30], 8) == [name(0)]


@pytest.mark.parametrize("exact_limit", [2, 1000])
def test_what_has_ended_makes_room_for_what_has_not(exact_limit: int) -> None:
    neighbours = Neighbours(DIMENSIONS, exact_limit=exact_limit)
    ends = [time.time() - 1] * 30 + [LATER] * 10
    neighbours.add([name(number) for number in range(40)], KNOWN, ends)
    while neighbours.promotes:
        promote(neighbours, 100)
    found = set[bytes]()
    while not found:
        found = set(neighbours.search(KNOWN[0], 8))
    assert found <= {name(number) for number in range(30, 40)}
    neighbours.sweep()
    assert len(neighbours) == 10


def test_a_snapshot_restores_the_same_and_goes_on() -> None:
    neighbours = Neighbours(DIMENSIONS, exact_limit=5)
    neighbours.add([name(number) for number in range(30)], KNOWN[:30], [LATER] * 30)
    while neighbours.promotes:
        promote(neighbours, 100)
    restored = Neighbours(DIMENSIONS, exact_limit=5)
    restored.restore(neighbours.snapshot())
    restored.add([name(35)], KNOWN[[35]], [LATER])
    restored.remove([name(2)])
    assert len(restored) == 30
    assert restored.search(KNOWN[35], 1) == [name(35)]
    assert restored.search(KNOWN[7], 1) == [name(7)]
    assert name(2) not in restored.search(KNOWN[2], 30)
    assert len(neighbours) == 30


def test_a_snapshot_of_other_dimensions_is_refused() -> None:
    neighbours = Neighbours(8, exact_limit=0)
    neighbours.add([name(1)], np.ones((1, 8), dtype=np.float32), [LATER])
    promote(neighbours, 1)
    with pytest.raises(ValueError, match="dimensions"):
        Neighbours(DIMENSIONS, exact_limit=0).restore(neighbours.snapshot())


def test_cosines_are_never_negative_and_of_nothing_are_nothing() -> None:
    one = np.array([1.0, 0.0], dtype=np.float32)
    assert cosine(one, -one) == 0.0
    assert cosine(one, 3 * one) == 1.0
    assert cosine(one, np.zeros(2, dtype=np.float32)) == 0.0
    assert cosine(one, np.ones(3, dtype=np.float32)) == 0.0


def test_what_goes_while_a_portion_is_built_is_gone() -> None:
    neighbours = Neighbours(DIMENSIONS, exact_limit=5)
    neighbours.add([name(number) for number in range(40)], KNOWN, [LATER] * 40)
    promote(neighbours, 20)
    promote(neighbours, 20, removed=[name(3), name(25)])
    assert not neighbours.exact
    assert set(neighbours.search(KNOWN[3], 40)) == {name(number) for number in range(40) if number not in (3, 25)}
