"""How many calls of a provider may run at once, learned from its answers: additive increase, multiplicative decrease.

The rule is that of Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in
Computer Networks" (1989), section 4: several processes that follow it and share one quota arrive at equal shares of
it without knowing of each other. As in TCP (RFC 5681) the limit doubles with each round of answers until the first
refusal, one overload is answered once (calls that began before a cut do not cut again), and a limit that nobody
reaches does not grow. The longer the last cut is ago, the faster it grows (H-TCP: Leith and Shorten, "H-TCP: TCP for
high-speed and long-distance networks", 2004), so that a provider that got slower, or allows more, is soon used again.

A limit is a rate too (rate = limit / latency, Little's law), and a quota may allow less than one call at once. So from
the first refusal on calls are spaced: they begin at least latency / limit apart, which keeps fractions of the limit
exact, down to far below one.
"""

from __future__ import annotations

import math

_START = 2.0
_CUT = 0.9
_CUT_INTERVAL = 0.1
_GROWTH = 0.2
"""Calls by which the limit grows in the first second after a cut; in the tenth by ten times as much."""
_LARGEST_STEP = 0.01
"""Share of the limit by which it grows with one answer at most: a small quota would only swing otherwise."""
_LEAST = 0.001
_SOON = 0.25
"""Part of the usual space that is left after a refusal, which used up nothing of the quota."""
_LATENCY_WEIGHT = 0.2
_REACHED = 0.5


class ConcurrencyLimit:
    """The limit of one provider in one process. Times are seconds of one monotonic clock."""

    def __init__(self, most: int) -> None:
        """Args:
        most: Largest limit, at least 1.
        """
        self._most = float(most)
        self._limit = min(_START, self._most)
        self._latency = 0.0
        self._cut_at: float | None = None
        self._grown_at = -math.inf
        self._next_start = -math.inf

    @property
    def value(self) -> float:
        """The limit now, at most the largest; below 1 it stands for pauses between single calls."""
        return self._limit

    def wait(self, running: int, now: float) -> float:
        """Returns the seconds until another call may begin: 0 for now, infinity while only the end of one helps."""
        if running >= math.ceil(self._limit):
            return math.inf
        return max(0.0, self._next_start - now)

    def started(self, now: float) -> None:
        """Notes that a call began."""
        if self._cut_at is not None and self._limit < self._most:
            self._next_start = max(now, self._next_start) + self._latency / self._limit

    def answered(self, began: float, now: float, running: int) -> None:
        """Notes that the provider did the work of a call.

        Args:
            began: When the call began.
            now: When it ended.
            running: Calls that ran just before it ended, itself included.
        """
        self._latency += (now - began - self._latency) * (_LATENCY_WEIGHT if self._latency else 1.0)
        passed, self._grown_at = min(now - self._grown_at, 1.0), now
        if running < self._limit * _REACHED:
            return
        growth = 1.0
        if self._cut_at is not None:
            pace = _GROWTH * max(1.0, now - self._cut_at)
            growth = min(passed * pace, self._limit * _LARGEST_STEP)
        self._limit = min(self._most, self._limit + growth)

    def throttled(self, began: float, now: float, pause: float = 0.0) -> None:
        """Notes that the provider refused a call because there are too many.

        Args:
            began: When the call began.
            now: When it ended.
            pause: Seconds for which the provider wants no call at all; 0 when it does not say.
        """
        if pause:
            self._next_start = max(self._next_start, now + pause)
        else:
            self._next_start = min(self._next_start, now + _SOON * self._latency / self._limit)
        if self._cut_at is None or (began >= self._cut_at and now >= self._cut_at + _CUT_INTERVAL):
            self._cut_at = now
            self._limit = max(_LEAST, self._limit * _CUT)
