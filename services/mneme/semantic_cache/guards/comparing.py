"""Asks one guard after the other whether two questions may share an answer."""

from __future__ import annotations

from mneme.semantic_cache.guards.question import Question, Verdict


def check(asked: Question, stored: Question) -> list[Verdict]:
    """Returns the guards' verdicts in the order they were asked; the first refusal ends the list, never empty."""
    for question in (asked, stored):
        if not question.semantic:
            return [Verdict("language", passed=False, detail=question.reason)]
    same = asked.language == stored.language
    return [Verdict("language", same, f"{asked.language} and {stored.language}")]
