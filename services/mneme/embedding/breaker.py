"""A circuit breaker: after failures in a row nobody waits for a dead provider; one call at a time looks if it is back.

The state machine of Nygard, "Release It!" (2nd edition, 2018), section 5.2. The time it stays open is drawn anew each
time, so that the processes of a deployment do not all look at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

_SPREAD = 0.2


class Breaker:
    """The breaker of one provider in one process. Times are seconds of one monotonic clock.

    Whoever was let through by `allows` says how it went: `succeeded`, `failed`, or `abandoned`.
    """

    def __init__(self, failures: int, seconds: float, draw: Callable[[], float] = random.random) -> None:
        """Args:
        failures: Failures in a row that open it.
        seconds: Time it stays open, give or take a fifth.
        draw: Random numbers from 0 to 1.
        """
        self._failures_to_open = failures
        self._seconds = seconds
        self._draw = draw
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """True from the failure that opened it to the success that closes it."""
        return self._open_until is not None

    def closed_in(self, now: float) -> float:
        """Returns the seconds until a call may be tried: 0 when one may now."""
        if self._open_until is None:
            return 0.0
        # Nobody knows how long a probe takes; those who cannot be it come back after the time it stays open.
        return self._seconds if self._probing else max(0.0, self._open_until - now)

    def allows(self, now: float) -> bool:
        """Returns whether a call may be made; of an open breaker whose time is over, to one caller at a time."""
        if self._open_until is None:
            return True
        if self._probing or now < self._open_until:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """Notes an answer: the provider is there, whatever it said."""
        self._failures = 0
        self._open_until = None
        self._probing = False

    def failed(self, now: float) -> None:
        """Notes that the provider did not answer."""
        self._failures += 1
        if self._probing or self._failures >= self._failures_to_open:
            self._probing = False
            self._open_until = now + self._seconds * (1.0 + _SPREAD * (2.0 * self._draw() - 1.0))

    def abandoned(self) -> None:
        """Notes that a call ended without telling anything about the provider."""
        self._probing = False
