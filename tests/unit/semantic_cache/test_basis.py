"""Two bases are equal exactly when all revisions are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error
from mneme.semantic_cache import basis

_REVISIONS = st.dictionaries(st.text(max_size=8), st.integers(0, 2**62), max_size=5)


@given(_REVISIONS, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(revisions: dict[str, int], random: object) -> None:
    pairs = list(revisions.items())
    shuffled = pairs + pairs
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert basis.of(shuffled).digest == basis.of(pairs).digest
    assert basis.of(shuffled) == basis.of(pairs)


@given(_REVISIONS, _REVISIONS)
def test_digests_are_equal_exactly_when_revisions_are(one: dict[str, int], other: dict[str, int]) -> None:
    first, second = basis.of(one.items()), basis.of(other.items())
    assert (first.digest == second.digest) == (one == other)
    assert (first.changed(second) == []) == (one == other)


@given(_REVISIONS, st.text(max_size=8))
def test_one_write_changes_the_digest_and_is_named(revisions: dict[str, int], scope: str) -> None:
    later = revisions | {scope: revisions.get(scope, 0) + 1}
    assert basis.of(later.items()).digest != basis.of(revisions.items()).digest
    assert basis.of(later.items()).changed(basis.of(revisions.items())) == [scope]


def test_one_scope_with_two_revisions_is_refused() -> None:
    with pytest.raises(Error) as caught:
        basis.of([("a", 1), ("b", 1), ("a", 2)])
    assert caught.value.reason == errors_pb2.REASON_INVALID_FIELD


def test_scopes_that_join_alike_differ() -> None:
    assert basis.of([("a1", 2)]).digest != basis.of([("a", 12)]).digest
    assert basis.of([("a", 1), ("b", 2)]).digest != basis.of([("a1;1:b", 2)]).digest
