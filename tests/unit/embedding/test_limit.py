"""The learned limit under simulated providers: quick, exact, and the same each time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from mneme.embedding.limit import ConcurrencyLimit

SECONDS, WARM_UP = 40.0, 10.0
REFUSAL_SECONDS = 0.005

Admits = Callable[[float], bool]


def bucket(rate: float) -> Admits:
    """Allows a rate, and what was left unused in the last second."""
    tokens, last = rate, 0.0

    def admits(now: float) -> bool:
        nonlocal tokens, last
        tokens, last = min(rate, tokens + (now - last) * rate), now
        if tokens < 1:
            return False
        tokens -= 1
        return True

    return admits


def window(rate: float) -> Admits:
    """Allows a number of calls in each second of the clock."""
    used: dict[int, int] = {}

    def admits(now: float) -> bool:
        used[int(now)] = used.get(int(now), 0) + 1
        return used[int(now)] <= rate

    return admits


@dataclass
class World:
    """Processes that ask one provider all the time."""

    admits: Admits
    latency: float
    limits: list[ConcurrencyLimit]
    later_latency: float = 0.0
    """Time of a call after the warm-up; 0 for the same as before."""
    counted_from: float = WARM_UP
    done: list[int] = field(default_factory=list)
    refused: int = 0

    def run(self) -> World:
        """Lets the time pass."""
        dice, order, events = random.Random(1), itertools.count(), list[tuple[float, int, int, float, bool | None]]()
        running = [0] * len(self.limits)
        self.done = [0] * len(self.limits)
        for process in range(len(self.limits)):
            heapq.heappush(events, (0.0, next(order), process, 0.0, None))
        while events and events[0][0] < SECONDS:
            now, _, process, began, answered = heapq.heappop(events)
            limit = self.limits[process]
            if answered is not None:
                self._judge(limit, process, now, began, running[process], answered)
                running[process] -= 1
            while (wait := limit.wait(running[process], now)) == 0:
                limit.started(now)
                running[process] += 1
                admitted = self.admits(now)
                usual = self.later_latency if self.later_latency and now > WARM_UP else self.latency
                seconds = usual * dice.uniform(0.8, 1.2) if admitted else REFUSAL_SECONDS
                heapq.heappush(events, (now + seconds, next(order), process, now, admitted))
            if wait < math.inf:
                heapq.heappush(events, (now + wait, next(order), process, 0.0, None))
        return self

    def _judge(
        self, limit: ConcurrencyLimit, process: int, now: float, began: float, running: int, answered: bool
    ) -> None:
        if answered:
            limit.answered(began, now, running)
            self.done[process] += now > self.counted_from
        else:
            limit.throttled(began, now)
            self.refused += now > self.counted_from

    @property
    def rate(self) -> float:
        """Answers a second, where they were counted."""
        return sum(self.done) / (SECONDS - self.counted_from)


@pytest.mark.parametrize("kind", [bucket, window])
@pytest.mark.parametrize(
    ("rate", "latency"), [(2, 0.1), (10, 0.1), (33, 0.08), (33, 0.4), (100, 0.005), (100, 0.1), (300, 0.02)]
)
def test_the_rate_stays_within_ten_percent_of_the_allowed_one(
    kind: Callable[[float], Admits], rate: float, latency: float
) -> None:
    world = World(kind(rate), latency, [ConcurrencyLimit(16)]).run()
    assert 0.9 * rate <= world.rate <= 1.05 * rate
    assert world.refused <= 0.3 * sum(world.done)


@pytest.mark.parametrize(("rate", "latency"), [(33, 0.08), (100, 0.1), (300, 0.02)])
def test_two_processes_arrive_at_equal_shares(rate: float, latency: float) -> None:
    slow_start, late = ConcurrencyLimit(16), ConcurrencyLimit(16)
    for _ in range(30):
        late.throttled(0.0, 0.0)
    world = World(bucket(rate), latency, [slow_start, late]).run()
    assert world.rate >= 0.9 * rate
    assert min(world.done) >= 0.35 * sum(world.done)


def test_without_refusals_all_calls_are_soon_allowed() -> None:
    limit = ConcurrencyLimit(16)
    World(lambda _: True, 0.1, [limit]).run()
    assert limit.value == 16


def test_an_idle_provider_is_not_asked_to_wait() -> None:
    limit = ConcurrencyLimit(4)
    assert limit.wait(0, 0.0) == 0
    limit.started(0.0)
    assert limit.wait(1, 0.0) == 0
    assert limit.wait(4, 0.0) == math.inf


def test_one_overload_cuts_once() -> None:
    limit = ConcurrencyLimit(1)
    limit.throttled(0.0, 1.0)
    after = limit.value
    limit.throttled(0.5, 2.0)
    assert limit.value == after
    limit.throttled(1.5, 2.0)
    assert limit.value < after


def test_a_limit_that_nobody_reaches_does_not_grow() -> None:
    limit = ConcurrencyLimit(100)
    for _ in range(10):
        limit.answered(0.0, 1.0, 2)
    reached = limit.value
    for _ in range(10):
        limit.answered(0.0, 1.0, 1)
    assert limit.value == reached


def test_a_pause_that_the_provider_asks_for_is_kept() -> None:
    limit = ConcurrencyLimit(4)
    limit.throttled(0.0, 1.0, 7.0)
    assert limit.wait(0, 1.0) == pytest.approx(7.0)
    assert limit.wait(0, 8.0) == 0


def test_a_provider_that_got_slower_is_soon_used_as_before() -> None:
    world = World(bucket(100), 0.02, [ConcurrencyLimit(32)], later_latency=0.2, counted_from=WARM_UP + 15)
    assert world.run().rate >= 90
