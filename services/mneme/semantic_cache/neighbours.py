"""Vectors of one partition in memory, and which of them are nearest: exact while they are few, a graph above.

The graph is HNSW (Malkov and Yashunin, arXiv 1603.09320) by usearch, with vectors of half precision. Which neighbours
are found is a proposal: whoever asks computes their scores from the stored rows. Not safe for concurrent use.
"""

from __future__ import annotations

import io
import itertools
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

Vectors = NDArray[np.float32]

_CONNECTIVITY = 16
_EXPANSION_ADD = 96
_EXPANSION_SEARCH = 64
_FIRST_ROWS = 64
# Room taken by a name and its place in two tables.
_NAME_BYTES = 250


class _Matrix:
    """All vectors as rows of one matrix."""

    def __init__(self, dimensions: int) -> None:
        self._rows: Vectors = np.empty((_FIRST_ROWS, dimensions), dtype=np.float32)
        self._numbers: list[int] = []
        self._places: dict[int, int] = {}

    @property
    def memory_bytes(self) -> int:
        return int(self._rows.nbytes)

    def add(self, numbers: Sequence[int], vectors: Vectors) -> None:
        needed = len(self._numbers) + len(numbers)
        if needed > len(self._rows):
            rows = np.empty((max(needed, 2 * len(self._rows)), self._rows.shape[1]), dtype=np.float32)
            rows[: len(self._numbers)] = self._rows[: len(self._numbers)]
            self._rows = rows
        self._rows[len(self._numbers) : needed] = vectors
        for number in numbers:
            self._places[number] = len(self._numbers)
            self._numbers.append(number)

    def remove(self, number: int) -> None:
        """The last row takes the place of the one that goes."""
        place, last = self._places.pop(number), self._numbers.pop()
        if last != number:
            self._rows[place] = self._rows[len(self._numbers)]
            self._numbers[place] = last
            self._places[last] = place

    def nearest(self, vector: Vectors, limit: int) -> list[int]:
        count = len(self._numbers)
        # Not `@`: the threads of a matrix product cost more than they gain where cores are busy, 0.3 ms to 10 and more.
        scores = np.vecdot(self._rows[:count], vector)
        best = np.argpartition(scores, -limit)[-limit:] if limit < count else np.arange(count)
        return [self._numbers[place] for place in best[np.argsort(-scores[best])]]

    def some(self, numbers: Sequence[int]) -> Vectors:
        """The vectors of some numbers."""
        return self._rows[[self._places[number] for number in numbers]]


class _Graph:
    """A navigable graph of all vectors."""

    def __init__(self, dimensions: int, content: bytes = b"") -> None:
        self._index = Index(
            ndim=dimensions,
            metric="cos",
            dtype="f16",
            connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION_ADD,
            expansion_search=_EXPANSION_SEARCH,
        )
        if content:
            self._index.load(content)

    @property
    def dimensions(self) -> int:
        return int(self._index.ndim)

    @property
    def memory_bytes(self) -> int:
        return int(self._index.memory_usage)

    def add(self, numbers: Sequence[int], vectors: Vectors) -> None:
        self._index.add(np.asarray(numbers, dtype=np.uint64), vectors, threads=1)

    def remove(self, number: int) -> None:
        self._index.remove(number)

    def nearest(self, vector: Vectors, limit: int) -> list[int]:
        found = self._index.search(vector, limit, threads=1)
        return [int(number) for number in found.keys]

    def content(self) -> bytes:
        """The graph as bytes."""
        saved = self._index.save()
        assert saved is not None
        return bytes(saved)


class Neighbours:
    """Named vectors that end at some moment."""

    def __init__(self, dimensions: int, *, exact_limit: int) -> None:
        """Args:
        dimensions: Components of a vector.
        exact_limit: Vectors from which a graph takes the place of the exact comparison; it stays a graph.
        """
        self.dimensions = dimensions
        self._exact_limit = exact_limit
        self._matrix: _Matrix | None = _Matrix(dimensions)
        self._graph: _Graph | None = None
        # In the matrix and not in the graph yet; a graph that lacks some does not answer.
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self._building = False
        # Removed while a portion is built, which the graph must not be touched by.
        self._left: list[int] = []
        self._names: dict[int, tuple[bytes, float]] = {}
        self._numbers: dict[bytes, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def exact(self) -> bool:
        """Whether all vectors are compared."""
        return self._matrix is not None

    @property
    def memory_bytes(self) -> int:
        """About what all of it takes in memory."""
        kept = sum(kept.memory_bytes for kept in (self._matrix, self._graph) if kept is not None)
        return kept + _NAME_BYTES * len(self._numbers)

    @property
    def work(self) -> int:
        """Multiplications of one search."""
        count = len(self._numbers) if self.exact else 500
        return count * self.dimensions

    def add(self, names: Sequence[bytes], vectors: Vectors, ends: Sequence[float]) -> None:
        """Adds vectors, or replaces those of the same name.

        Args:
            names: 32 bytes each; a repeated one counts as its last.
            vectors: float32[count, dimensions], of any length but 0.
            ends: When each ends, in Unix seconds.
        """
        last = {name: place for place, name in enumerate(names)}
        places = list(last.values())
        self.remove(last)
        numbers = range(self._next, self._next + len(places))
        self._next += len(places)
        if self._matrix is not None:
            self._matrix.add(numbers, unit(vectors[places]))
            self._waiting.update(dict.fromkeys(numbers))
        else:
            self._some_graph().add(numbers, unit(vectors[places]))
        for number, place in zip(numbers, places, strict=True):
            self._names[number] = (names[place], ends[place])
            self._numbers[names[place]] = number

    def remove(self, names: Iterable[bytes]) -> None:
        """Removes vectors; unknown names do not matter."""
        for name in names:
            number = self._numbers.pop(name, None)
            if number is None:
                continue
            del self._names[number]
            if number in self._waiting:
                del self._waiting[number]
            elif self._building:
                self._left.append(number)
            elif self._graph is not None:
                self._graph.remove(number)
            if self._matrix is not None:
                self._matrix.remove(number)

    @property
    def promotes(self) -> bool:
        """Whether a matrix is larger than it shall be, and is to become a graph portion by portion."""
        return self._matrix is not None and len(self) > self._exact_limit

    def portion(self, count: int) -> tuple[list[int], Vectors]:
        """Returns so many numbers and vectors that are to move on into the graph; `build` and `settle` follow."""
        assert self._matrix is not None
        self._building = True
        numbers = list(itertools.islice(self._waiting, count))
        return numbers, self._matrix.some(numbers)

    def build(self, numbers: Sequence[int], vectors: Vectors) -> None:
        """Puts a portion into the graph; while it runs in a thread, the matrix may be searched and changed."""
        if numbers:
            self._some_graph().add(numbers, vectors)

    def settle(self, numbers: Sequence[int]) -> None:
        """Ends a portion. The graph answers as soon as it has all vectors, and the matrix goes then."""
        self._building = False
        for number in numbers:
            if number in self._waiting:
                del self._waiting[number]
            else:
                self._left.append(number)
        for number in self._left:
            self._some_graph().remove(number)
        self._left.clear()
        if not self._waiting:
            self._matrix = None

    def search(self, vector: Vectors, limit: int) -> list[bytes]:
        """Returns the names of the nearest vectors that have not ended, best first; fewer where there are fewer."""
        now, found = time.time(), []
        while len(self):
            kept = self._matrix or self._some_graph()
            numbers = kept.nearest(unit(vector), min(limit, len(self)))
            ended = [self._names[number][0] for number in numbers if self._names[number][1] <= now]
            found = [self._names[number][0] for number in numbers if self._names[number][1] > now]
            self.remove(ended)
            if not ended or not len(self):
                break
        return found

    def sweep(self) -> None:
        """Removes what has ended."""
        now = time.time()
        self.remove([name for name, ends in list(self._names.values()) if ends <= now])

    def snapshot(self) -> bytes:
        """Returns a graph with its names as bytes; not for an exact one, which is quickly read again."""
        assert self._graph is not None
        file = io.BytesIO()
        np.savez(
            file,
            numbers=np.fromiter(self._names, dtype=np.uint64, count=len(self._names)),
            names=np.frombuffer(b"".join(name for name, _ in self._names.values()), dtype=np.uint8).reshape(-1, 32),
            ends=np.fromiter((end for _, end in self._names.values()), dtype=np.float64, count=len(self._names)),
            graph=np.frombuffer(self._graph.content(), dtype=np.uint8),
        )
        return file.getvalue()

    def restore(self, snapshot: bytes) -> None:
        """Takes a snapshot's content in place of the own.

        Raises:
            ValueError: The bytes are no such snapshot.
            KeyError: A part is missing.
            RuntimeError: The graph cannot be read.
        """
        with np.load(io.BytesIO(snapshot), allow_pickle=False) as parts:
            numbers, names, ends = parts["numbers"].tolist(), parts["names"], parts["ends"].tolist()
            graph = _Graph(self.dimensions, parts["graph"].tobytes())
        if graph.dimensions != self.dimensions:
            raise ValueError("the graph has another number of dimensions")
        self._names = {number: (name.tobytes(), end) for number, name, end in zip(numbers, names, ends, strict=True)}
        self._numbers = {name: number for number, (name, _) in self._names.items()}
        self._next = max(numbers, default=-1) + 1
        self._graph, self._matrix = graph, None
        self._waiting.clear()

    def _some_graph(self) -> _Graph:
        if self._graph is None:
            self._graph = _Graph(self.dimensions)
        return self._graph


def unit(vectors: Vectors) -> Vectors:
    """Returns vectors of length 1; one of length 0 stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
    return scaled


def cosine(one: Vectors, other: Vectors) -> float:
    """Returns max(0, cosine) of two vectors; 0 where one has no length or they differ in size."""
    if one.shape != other.shape:
        return 0.0
    length = math.sqrt(float(one @ one) * float(other @ other))
    return min(1.0, max(0.0, float(one @ other) / length)) if length else 0.0
