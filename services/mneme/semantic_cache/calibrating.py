"""From which cosine a space's questions may share an answer, learned from pairs that somebody judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mneme.semantic_cache.bounds import wrong_upper_bound

_STEPS = tuple(round(0.40 + 0.01 * step, 2) for step in range(60))

# A higher threshold is safer; this part of the hits is worth giving for it.
_ENOUGH = 0.99


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """Two questions, what the cache thinks of them, and what is true."""

    score: float
    """Cosine."""
    passed: bool
    """Whether both are self-contained questions and all guards let the pair pass."""
    same: bool
    """Whether one answer serves both."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a threshold would bring."""

    threshold: float
    hits: int
    """Pairs that would be served."""
    wrong: int
    """Those of them with two answers."""
    same: int
    """Pairs with one answer, served or not."""

    @property
    def precision(self) -> float:
        """Share of the hits that are right; 1 without hits."""
        return 1 - self.wrong / self.hits if self.hits else 1.0

    @property
    def precision_lower_bound(self) -> float:
        """Lower bound of that share, one-sided 95 % (Clopper-Pearson); 0 without hits."""
        return 1 - wrong_upper_bound(self.hits, self.wrong)

    @property
    def hit_rate(self) -> float:
        """Share of the pairs with one answer that would be served; 0 without such pairs."""
        return (self.hits - self.wrong) / self.same if self.same else 0.0


def steps(pairs: Sequence[JudgedPair], thresholds: Iterable[float] = _STEPS) -> list[Step]:
    """Returns what each threshold would bring, in the order given."""
    same = sum(pair.same for pair in pairs)
    found = []
    for threshold in thresholds:
        hits = [pair for pair in pairs if pair.passed and pair.score >= threshold]
        found.append(Step(threshold, len(hits), sum(not pair.same for pair in hits), same))
    return found


def choose(found: Sequence[Step], precision: float) -> Step | None:
    """Returns the threshold that serves most among those whose bound holds; of nearly equal ones the highest.

    None when the bound holds nowhere: there are too many wrong hits, or too few hits to be sure.
    """
    holding = [step for step in found if step.precision_lower_bound >= precision]
    if not holding:
        return None
    most = max(step.hits - step.wrong for step in holding)
    enough = [step for step in holding if step.hits - step.wrong >= _ENOUGH * most]
    return max(enough, key=lambda step: step.threshold)


def unrelated(cosines: Sequence[float], share: float = 0.01) -> float:
    """Returns the cosine that only this share of unrelated texts reaches; 1 without any."""
    if not cosines:
        return 1.0
    ordered = sorted(cosines)
    return ordered[min(len(ordered) - 1, int((1 - share) * len(ordered)))]
