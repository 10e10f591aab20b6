"""What the guards know of a question, and what one guard says of two."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question, parsed once; `read` makes it."""

    text: str
    """As it was asked."""
    language: str
    """`en`, `zh`, or `other`."""
    semantic: bool
    """Whether it may be compared with other questions at all; false keeps it to the exact tier."""
    reason: str
    """Why not, in a few words without any of its text; empty when it may."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guard says of a pair."""

    guard: str
    """Its name: `number`, `negation`, …"""
    passed: bool
    """True when it saw no difference."""
    detail: str
    """What it compared; holds nothing but words of the two questions."""
