"""A store's question stream: which questions come in which order, and which stored answer is right for each."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "data"
LENGTH = 10_000
_EXPONENT = 1.1
_NEAR_MISSES, _REPEATS = 0.2, 0.4


@dataclass(frozen=True, slots=True)
class Intent:
    """A question in several wordings, and questions that look like it and have another answer."""

    name: str
    phrasings: tuple[str, ...]
    near_misses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of the stream."""

    text: str
    answer: str
    """Which answer is right; equal for equal intents. A near-miss has one of its own, by its text."""
    answerable: bool
    """Whether the same answer was given earlier in the stream."""


@dataclass(slots=True)
class Tally:
    """What became of a stream."""

    asked: int = 0
    answerable: int = 0
    hits: int = 0
    wrong: int = 0
    wrong_within: int = 0
    """Wrong hits between two near-misses of one intent, whose answers nobody compared."""
    in_question: int = 0
    """Answerable repeats that are self-contained questions, and so looked up at all."""
    reused: int = 0
    """Answerable repeats that got their answer."""

    def count(self, asked: Asked, served: str | None, *, looked_up: bool) -> None:
        """Counts one question and the answer that was served for it; None for none."""
        self.asked += 1
        self.answerable += asked.answerable
        self.in_question += asked.answerable and looked_up
        if served is None:
            return
        self.hits += 1
        if served == asked.answer:
            self.reused += asked.answerable
            return
        self.wrong += 1
        mine, theirs = asked.answer.partition("/"), served.partition("/")
        self.wrong_within += mine[0] == theirs[0] and bool(mine[2]) and bool(theirs[2])


def intents(half: str) -> list[Intent]:
    """Returns the intents of one half: `calibration` or `report`."""
    lines = (FOLDER / f"store_questions_{half}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        Intent(row["intent"], tuple(row["phrasings"]), tuple(near["question"] for near in row["near_misses"]))
        for row in rows
    ]


def stream(known: Sequence[Intent], seed: int, length: int = LENGTH) -> list[Asked]:
    """Returns the questions in their order: intents by Zipf's law with exponent 1.1, in an order drawn by the seed.

    40 % repeat a text of the intent that was asked before, 40 % use another of its phrasings than the first one asked,
    20 % are near-misses.
    """
    drawn = random.Random(seed)
    order = drawn.sample(list(known), len(known))
    weights = [1 / (rank + 1) ** _EXPONENT for rank in range(len(order))]
    said: dict[str, list[str]] = defaultdict(list)
    answered: set[str] = set()
    asked = []
    for intent in drawn.choices(order, weights, k=length):
        text, answer = _next(intent, said[intent.name], drawn)
        asked.append(Asked(text, answer, answer in answered))
        answered.add(answer)
    return asked


def _next(intent: Intent, said: list[str], drawn: random.Random) -> tuple[str, str]:
    part = drawn.random()
    if part < _NEAR_MISSES:
        text = drawn.choice(intent.near_misses)
        return text, f"{intent.name}/{text}"
    if not said:
        text = intent.phrasings[0]
    elif part < _NEAR_MISSES + _REPEATS:
        text = drawn.choice(said)
    else:
        text = drawn.choice([phrasing for phrasing in intent.phrasings if phrasing != said[0]])
    if text not in said:
        said.append(text)
    return text, intent.name
