"""What one sentence of a text does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Role(Enum):
    """What a sentence is there for."""

    ASKS = auto()
    TELLS = auto()
    """It tells what the question is about; nothing is lost when that is only remembered."""
    LASTS = auto()
    """It tells or wants what the model must see at once, or nobody knows what it does."""


class Points(Enum):
    """Where a sentence points."""

    NOWHERE = auto()
    WITHIN = auto()
    """At a thing that another sentence of the text may name ("can I return it?")."""
    ELSEWHERE = auto()
    """At its conversation ("what about the other one?")."""


@dataclass(frozen=True, slots=True)
class Part:
    """One sentence, read."""

    role: Role
    points: Points = Points.NOWHERE
    names: bool = False
    """Whether it names a thing that another sentence may point at."""
