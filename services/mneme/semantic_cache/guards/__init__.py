"""Guards: differences between two questions that a cosine cannot see.

A pair passes only when every guard sees no difference, so whatever is not understood is refused. English and Chinese
have tables; questions in other languages are never compared. Pure logic: nothing here waits, reads or remembers.
"""

from __future__ import annotations

from typing import Protocol

from mneme.semantic_cache.guards.comparing import check
from mneme.semantic_cache.guards.question import Question, Verdict
from mneme.semantic_cache.guards.reading import read

__all__ = ["PairVerifier", "Question", "Verdict", "check", "read"]


class PairVerifier(Protocol):
    """Port of a model that judges pairs which all guards let pass."""

    async def same_answer(self, asked: str, stored: str) -> float | None:
        """Returns the probability that one answer serves both; None when it cannot tell, which refuses the pair."""
        ...
