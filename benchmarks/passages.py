"""Passages with vectors and words, drawn at random: topics in few dimensions, as embeddings of real texts lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2

Matrix = np.ndarray[Any, np.dtype[np.float32]]

_TOPICS = 200
_INNER = 96
"""Dimensions in which topics and texts differ; the rest is noise."""
_NOISE = 0.05
_QUERY_NOISE = 0.3
"""How far a question lies from the text that it is drawn from, beside the distance of two texts of one topic (1)."""
_WORDS = 20_000
_TOPIC_WORDS = 300
_TEXT_WORDS = 24
_QUERY_WORDS = 6


@dataclass(frozen=True, slots=True)
class Question:
    """A search, by its words and its meaning."""

    text: str
    vector: list[float]


class Passages:
    """An endless supply of passages; the same seed draws the same ones."""

    def __init__(self, dimensions: int, space_id: str, *, seed: int = 1) -> None:
        self.space_id = space_id
        self._random = np.random.default_rng(seed)
        self._topics = 0.7 * self._normal(_TOPICS, _INNER)
        self._inner = np.linalg.qr(self._normal(dimensions, _INNER))[0].T
        self._dimensions = dimensions
        # Zipf's law, and words of one's own for each topic.
        share = 1.0 / np.arange(1, _WORDS + 1)
        self._share = share / share.sum()
        self._own = self._random.integers(0, _WORDS, size=(_TOPICS, _TOPIC_WORDS))

    def items(self, count: int) -> list[pb.PassageItem]:
        """Passages, each with its vector."""
        topics = self._random.integers(0, _TOPICS, size=count)
        vectors = self._around(topics, spread=0.7)
        return [
            pb.PassageItem(
                passage=pb.Passage(text=self._text(topic, _TEXT_WORDS)),
                vector=common_pb2.Vector(values=vector, space_id=self.space_id),
            )
            for topic, vector in zip(topics, vectors.tolist(), strict=True)
        ]

    def questions(self, near: list[pb.PassageItem]) -> list[Question]:
        """A question to each of some passages: some of its words, and a direction near its own."""
        noise = _QUERY_NOISE * 0.7 * self._normal(len(near), _INNER) @ self._inner
        return [
            Question(
                " ".join(self._random.choice(item.passage.text.split(), size=_QUERY_WORDS, replace=False)),
                _unit(np.array(item.vector.values, dtype=np.float32) + one / np.sqrt(_INNER)).tolist(),
            )
            for item, one in zip(near, noise, strict=True)
        ]

    def _around(self, topics: np.ndarray[Any, Any], *, spread: float) -> Matrix:
        inner = self._topics[topics] + spread * self._normal(len(topics), _INNER)
        return _unit(inner @ self._inner + _NOISE * self._normal(len(topics), self._dimensions))

    def _text(self, topic: int, words: int) -> str:
        common = self._random.choice(_WORDS, size=words // 2, p=self._share)
        own = self._random.choice(self._own[topic], size=words - words // 2)
        return " ".join(_word(int(number)) for number in (*common, *own))

    def _normal(self, rows: int, columns: int) -> Matrix:
        return self._random.standard_normal((rows, columns), dtype=np.float32)


def _unit(vectors: Matrix) -> Matrix:
    scaled: Matrix = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def _word(number: int) -> str:
    """A pronounceable word for a number."""
    word = ""
    for _ in range(3):
        number, syllable = divmod(number, 100)
        word += "bcdfghjklmnprstvwxyz"[syllable // 5] + "aeiou"[syllable % 5]
    return word
