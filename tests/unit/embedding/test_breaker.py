"""The breaker opens, lets one caller look, and closes."""

from __future__ import annotations

import pytest

from mneme.embedding.breaker import Breaker


@pytest.fixture
def breaker() -> Breaker:
    """Opens after three failures, for ten seconds."""
    return Breaker(3, 10.0, lambda: 0.5)


def opened(breaker: Breaker) -> Breaker:
    for _ in range(3):
        assert breaker.allows(0.0)
        breaker.failed(0.0)
    return breaker


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    opened(breaker)
    assert breaker.is_open
    assert not breaker.allows(9.9)
    assert breaker.closed_in(4.0) == pytest.approx(6.0)


def test_an_answer_in_between_starts_the_count_anew(breaker: Breaker) -> None:
    breaker.failed(0.0)
    breaker.failed(0.0)
    breaker.succeeded()
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert not breaker.is_open


def test_after_its_time_one_caller_looks_and_the_others_learn_to_come_back(breaker: Breaker) -> None:
    opened(breaker)
    assert breaker.closed_in(10.0) == 0
    assert breaker.allows(10.0)
    assert not breaker.allows(10.0)
    assert breaker.closed_in(10.0) == 10.0


def test_a_look_that_succeeds_closes_it(breaker: Breaker) -> None:
    opened(breaker).allows(10.0)
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.allows(10.0)
    assert breaker.allows(10.0)


def test_a_look_that_fails_opens_it_again(breaker: Breaker) -> None:
    opened(breaker).allows(10.0)
    breaker.failed(12.0)
    assert not breaker.allows(21.9)
    assert breaker.allows(22.0)


def test_a_look_that_tells_nothing_lets_the_next_one_look(breaker: Breaker) -> None:
    opened(breaker).allows(10.0)
    breaker.abandoned()
    assert breaker.allows(10.0)


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 8.0), (1.0, 12.0)])
def test_processes_do_not_all_look_at_once(drawn: float, seconds: float) -> None:
    breaker = opened(Breaker(3, 10.0, lambda: drawn))
    assert breaker.closed_in(0.0) == pytest.approx(seconds)
