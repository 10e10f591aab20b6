"""How often served answers are wrong, at most, by what has been judged so far."""

from __future__ import annotations

import math

_CONFIDENCE = 0.95
_STEPS = 60


def wrong_upper_bound(judged: int, wrong: int) -> float:
    """Returns the one-sided 95 % Clopper-Pearson upper bound of the share of wrong answers; 1 when none is judged.

    It is the share at which so few wrong ones among the judged would come up in one of twenty samples.
    """
    if wrong >= judged:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _at_most(wrong, judged, middle) > 1 - _CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _at_most(wrong: int, judged: int, share: float) -> float:
    """Probability of at most so many wrong ones."""
    if share in (0.0, 1.0):
        return 1.0 - share
    log_share, log_rest = math.log(share), math.log1p(-share)
    terms = (
        math.lgamma(judged + 1)
        - math.lgamma(count + 1)
        - math.lgamma(judged - count + 1)
        + count * log_share
        + (judged - count) * log_rest
        for count in range(wrong + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))
