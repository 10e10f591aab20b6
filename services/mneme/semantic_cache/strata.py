"""Strata: kinds of hits whose wrong ones are counted together, and when one of them closes.

A bound needs hundreds of verdicts, so hits are pooled by kind of scope, tier, band of score, and who let the pair pass.
A space is served from only when it was calibrated, and its calibration stands for as many right verdicts as let the
bound hold with one wrong one: so a stratum opens with a new space, one mistaken complaint does not close it, a second
does, and right verdicts open it again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from mneme.semantic_cache.bounds import wrong_upper_bound

_BANDS = (0.98, 0.95, 0.90, 0.85, 0.80, 0.70, 0.0)
_MOST_VERDICTS = 1 << 20


def exact(scope_kind: str) -> str:
    """Returns the name of the stratum of equal questions, which never closes: there the match cannot be wrong."""
    return f"{scope_kind}/exact"


def semantic(scope_kind: str, score: float, *, verified: bool = False) -> str:
    """Returns the name of a stratum of the semantic tier.

    Args:
        scope_kind: `per_user` or `shared`.
        score: Cosine of the pair.
        verified: Whether a verifier let the pair pass as well as the guards.
    """
    band = next(band for band in _BANDS if score >= band)
    return f"{scope_kind}/semantic/{band:.2f}/{'verifier' if verified else 'guards'}"


def is_closed(judged: int, wrong: int, limit: float) -> bool:
    """Returns whether a stratum's bound, with what the calibration brings along, is above the limit."""
    return wrong_upper_bound(prior(limit) + judged, wrong) > limit


@functools.cache
def prior(limit: float) -> int:
    """Returns the least number of verdicts of which one may be wrong while the bound holds."""
    low, high = 1, _MOST_VERDICTS
    while low < high:
        middle = (low + high) // 2
        if wrong_upper_bound(middle, 1) <= limit:
            high = middle
        else:
            low = middle + 1
    return low


Rule = Callable[[int, int], bool]
"""Tells from the hits judged and the wrong ones among them whether a stratum is closed."""


def closes(stratum: str) -> bool:
    """Returns whether a stratum may close: one of the semantic tier."""
    return "/semantic/" in stratum


def never(_judged: int, _wrong: int) -> bool:
    """Keeps a stratum open."""
    return False
