"""What the guards know of a question, and what one guard says of two."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that a question speaks of."""

    key: str
    """Equal for equal meanings: a stem, the head of a group of synonyms, or an amount in its base unit."""
    shown: str
    """As the question has it."""
    kind: str = "word"
    """Guard that answers for it: `number`, `unit`, `money`, `date`, `id`, `name`, `place`, or `word`."""
    negated: bool = False
    """Whether a negation stands before it."""
    governor: str = ""
    """Preposition that gives it its part (`from`, `to`, `than`); empty where it has none or one without weight."""


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
    asks: str = ""
    """What it asks for: `how`, `why`, `when`, `where`, `who`, `what`, `count`, `duration`, `whether`, …"""
    modality: str = ""
    """`must`, `should`, `do` ("do I …" beside "can I …"), or empty, which also stands for ability and permission."""
    tense: str = "present"
    """`past`, `present` or `future`."""
    inverted: bool = False
    """Whether it asks for the object ("whom does Ann call") and not for the subject ("who calls Ann")."""
    persons: tuple[tuple[str, str], ...] = ()
    """(thing, whose: `my` or `your`), sorted."""
    terms: tuple[Term, ...] = ()
    """What it speaks of, in order, a passive turned into the active; parts with weight between them too."""
    symmetric: bool = False
    """Whether it compares or joins, so that two things may change places."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guard says of a pair."""

    guard: str
    """Its name: `number`, `negation`, …"""
    passed: bool
    """True when it saw no difference."""
    detail: str
    """What it compared; holds nothing but words of the two questions."""
