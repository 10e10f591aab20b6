"""Compares questions for `mneme cache` as the semantic cache does: its guards here, vectors from the suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.client import Client
from mneme.embedding.v1 import embedding_pb2
from mneme.semantic_cache.calibrating import JudgedPair, unrelated
from mneme.semantic_cache.guards import Question, Verdict, check, read
from mneme.semantic_cache.normalising import normalise
from mneme.semantic_cache.questions import Kind, classify

_BATCH = 256
_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the cache thinks of two questions."""

    asked: str
    stored: str
    score: float
    kinds: tuple[Kind, Kind]
    verdicts: Sequence[Verdict]
    threshold: float
    exact: bool

    @property
    def passed(self) -> bool:
        """Whether both stand for themselves and all guards let them pass."""
        return all(kind is Kind.QUESTION for kind in self.kinds) and (self.exact or self.verdicts[-1].passed)

    def as_dict(self) -> dict[str, Any]:
        """The comparison in the shape of ExplainResponse."""
        guards = [
            {"guard": verdict.guard, "passed": verdict.passed, "detail": verdict.detail} for verdict in self.verdicts
        ]
        candidate = {"entry": {"question": self.stored}, "score": self.score, "guards": guards}
        shown: dict[str, Any] = {"candidates": [candidate], "normalised_question": normalise(self.asked)}
        if self.passed and (self.exact or self.score >= self.threshold):
            return shown | {"hit": {"score": 1.0 if self.exact else self.score}}
        return shown | {"miss": self._miss()}

    def _miss(self) -> dict[str, Any]:
        for kind in self.kinds:
            if kind is not Kind.QUESTION:
                return {"reason": f"MISS_REASON_{kind.name}"}
        if self.score < self.threshold:
            return {"reason": "MISS_REASON_BELOW_THRESHOLD", "best_score": self.score}
        return {
            "reason": "MISS_REASON_GUARD_REFUSED",
            "guard": self.verdicts[-1].guard,
            "best_score": self.score,
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one question of a dry run."""

    question: str
    outcome: str
    """`exact`, `semantic`, `miss`, or why it is not looked up."""
    of: str = ""
    """The question whose answer it would get; for a refusal, the nearest one."""
    score: float = 0.0
    refusal: str = ""
    """Guard that refused the nearest one, and what it compared."""

    @property
    def is_hit(self) -> bool:
        """Whether it would be served."""
        return self.outcome in ("exact", "semantic")


@dataclass(slots=True)
class Comparer:
    """Compares questions in the active space of a suite."""

    client: Client
    space: embedding_pb2.Space
    _vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _read: dict[str, Question] = field(default_factory=dict)

    @staticmethod
    async def open(client: Client) -> Comparer:
        """Returns a comparer for the suite's active space."""
        return Comparer(client, (await client.embedding.GetSpace(embedding_pb2.GetSpaceRequest())).space)

    @property
    def threshold(self) -> float:
        """The calibrated threshold; 1 for a space without one, which compares nothing."""
        return self.space.same_question_threshold if self.space.calibrated else 1.0

    async def prepare(self, texts: Sequence[str]) -> None:
        """Fetches the vectors of all texts."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            request = embedding_pb2.EmbedRequest(texts=part, space_id=self.space.space_id)
            answer = await self.client.embedding.Embed(request)
            for text, found in zip(part, answer.embeddings, strict=True):
                self._vectors[text] = np.asarray(found.values, dtype=np.float32)

    async def compare(self, asked: str, stored: str) -> Comparison:
        """Returns what the cache thinks of two questions."""
        await self.prepare([asked, stored])
        return Comparison(
            asked,
            stored,
            self.cosine(asked, stored),
            (classify(asked), classify(stored)),
            check(self.question(asked), self.question(stored)),
            self.threshold,
            exact=normalise(asked) == normalise(stored),
        )

    def cosine(self, one: str, other: str) -> float:
        """Returns max(0, cosine) of two prepared texts."""
        return max(0.0, float(self._vectors[one] @ self._vectors[other]))

    def vector(self, text: str) -> NDArray[np.float32]:
        """Returns a prepared text's vector, float32[dimensions]."""
        return self._vectors[text]

    def question(self, text: str) -> Question:
        """Returns a question as the guards see it."""
        if text not in self._read:
            self._read[text] = read(text)
        return self._read[text]


async def judged_pairs(comparer: Comparer, files: Sequence[Path]) -> tuple[list[JudgedPair], list[float]]:
    """Returns the pairs of the files as the cache sees them, and cosines of questions that have nothing in common.

    Raises:
        ValueError: A line is no pair; the text names it.
    """
    rows = [row for file in files for row in _rows(file)]
    await comparer.prepare([text for first, second, _ in rows for text in (first, second)])
    judged = []
    for first, second, same in rows:
        one = await comparer.compare(first, second)
        judged.append(JudgedPair(one.score, one.passed and not one.exact, same))
    neighbours = pairwise(dict.fromkeys(first for first, _, _ in rows))
    return judged, [comparer.cosine(one, other) for one, other in neighbours]


def related(cosines: Sequence[float]) -> float:
    """Returns the cosine from which texts are related: one in a hundred unrelated ones reaches it."""
    return round(unrelated(cosines), 2)


async def replay(comparer: Comparer, questions: Sequence[str], threshold: float | None) -> list[Seen]:
    """Returns what would become of each question if all were asked in this order by one user."""
    await comparer.prepare(questions)
    least = comparer.threshold if threshold is None else threshold
    exact: dict[str, str] = {}
    stored: list[str] = []
    seen = []
    for question in questions:
        found = _look_up(comparer, question, exact, stored, least)
        seen.append(found)
        if found.outcome == "miss":
            exact[normalise(question)] = question
            stored.append(question)
    return seen


def tried(one: Seen) -> dict[str, Any]:
    """The outcome of one question as JSON values."""
    return {
        "question": one.question,
        "outcome": one.outcome,
        "of": one.of,
        "score": round(one.score, 4),
        "refusal": one.refusal,
    }


def _look_up(comparer: Comparer, question: str, exact: dict[str, str], stored: Sequence[str], threshold: float) -> Seen:
    kind = classify(question)
    if kind is not Kind.QUESTION:
        return Seen(question, kind.value)
    same = exact.get(normalise(question))
    if same is not None:
        return Seen(question, "exact", same, 1.0)
    if not stored:
        return Seen(question, "miss")
    scores = np.stack([comparer.vector(text) for text in stored]) @ comparer.vector(question)
    nearest = Seen(question, "miss")
    for place in np.argsort(-scores)[:_CANDIDATES]:
        other, score = stored[place], float(scores[place])
        if score < threshold:
            break
        last = check(comparer.question(question), comparer.question(other))[-1]
        if last.passed:
            return Seen(question, "semantic", other, score)
        if not nearest.of:
            nearest = Seen(question, "miss", other, score, f"{last.guard}: {last.detail}")
    return nearest


def _rows(file: Path) -> list[tuple[str, str, bool]]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append((str(row["q1"]), str(row["q2"]), bool(row["same"])))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f'{file}, line {number}: not a pair {{"q1": …, "q2": …, "same": 0 or 1}}') from error
    return rows
