"""The bucket of a tenant: never more than the quota and one bucket's worth, refusals that say when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.embedding.quota import LocalMeter, Quotas, estimated_tokens
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error


class Recorded:
    """A meter that says what it is told to."""

    def __init__(self, answer: float) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int, int]] = []

    async def take(self, tenant: str, tokens: int, limit: int) -> float:
        self.asked.append((tenant, tokens, limit))
        return self.answer


def test_a_full_bucket_holds_one_minute() -> None:
    meter = LocalMeter()
    assert meter.take("a", 600, 600, 0.0) == 0
    assert meter.take("a", 10, 600, 0.0) == pytest.approx(1.0)
    assert meter.take("b", 600, 600, 0.0) == 0
    assert meter.take("a", 10, 600, 1.0) == 0
    assert meter.take("a", 1, 600, 1.0) > 0


def test_a_call_larger_than_the_quota_waits_for_a_full_bucket_and_then_owes() -> None:
    meter = LocalMeter()
    meter.take("a", 10, 600, 0.0)
    assert meter.take("a", 1200, 600, 0.0) == pytest.approx(1.0)
    assert meter.take("a", 1200, 600, 1.0) == 0
    assert meter.take("a", 1, 600, 1.0) == pytest.approx(60.1)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), max_size=200))
def test_nobody_gets_more_than_the_quota_and_a_bucket(asked: list[tuple[float, int]]) -> None:
    meter, now, granted = LocalMeter(), 0.0, 0
    for pause, tokens in asked:
        now += pause
        wait = meter.take("a", tokens, 100, now)
        granted += tokens if wait == 0 else 0
        if wait:
            assert meter.take("a", tokens, 100, now + wait + 1e-6) == 0
            now, granted = now + wait + 1e-6, granted + tokens
    assert granted <= 100 * (now / 60 + 1) + 1e-3


async def test_a_refusal_says_who_how_much_and_when() -> None:
    meter = Recorded(12.5)
    with pytest.raises(Error) as caught:
        await Quotas(meter, default=100, named={"big": 7}).charge("big", 3)
    error = caught.value
    assert error.reason == errors_pb2.REASON_QUOTA_EXCEEDED
    assert error.retry_after is not None
    assert error.retry_after.total_seconds() == 12.5
    assert error.metadata["limit"] == "7"
    assert meter.asked == [("big", 3, 7)]


async def test_without_a_quota_nobody_is_asked() -> None:
    meter = Recorded(12.5)
    await Quotas(meter).charge("a", 10)
    await Quotas(meter, default=5, named={"free": 0}).charge("free", 10)
    assert meter.asked == []


def test_tokens_are_estimated_by_bytes() -> None:
    assert estimated_tokens("a") == 1
    assert estimated_tokens("word " * 100) == 125
    assert estimated_tokens("数" * 100) == 75
