"""Cuts documents into pieces that say where they stand, and compares a document with its pieces of before."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from semantic_text_splitter import TextSplitter

MIN_CHARS = 100

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text: `text[start:end]`, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Cut:
    """How texts are cut."""

    max_chars: int
    """Most characters of a piece."""
    overlap_chars: int
    """Characters that a piece repeats at most from the one before; at most half of a piece."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a stored piece stands in its document, in characters."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Changes(Generic[K]):
    """What a new text of a document does to its stored pieces."""

    gone: dict[K, K]
    """Pieces that it no longer has, each with the piece that stands in its place."""
    moved: dict[K, Span]
    """Pieces that it still has at another place, and where."""


def pieces(text: str, cut: Cut) -> list[Piece]:
    """Returns the pieces of a text in their order; none for one without letters or signs.

    A piece ends at the highest border that lets it be long: paragraph, line, sentence, word, character (Unicode's text
    segmentation, UAX 29, which knows `。！？` too). Space around a piece is left out; every other character is in one.
    """
    splitter = TextSplitter(cut.max_chars, overlap=cut.overlap_chars)
    return [Piece(part, start, start + len(part)) for start, part in splitter.chunk_indices(text) if part.strip()]


def changes(before: Mapping[K, Span], after: Mapping[K, Span]) -> Changes[K]:
    """Compares the stored pieces of a document with those it has now, by their ids.

    A piece that is gone is followed by the one that shares most characters with its old place, or else stands nearest.

    Args:
        before: Stored pieces, and where they stood.
        after: Pieces of the new text, at least one, and where they stand; some of them are in `before`.
    """
    spans = list(after.items())
    gone = {key: _successor(span, spans) for key, span in before.items() if key not in after}
    moved = {key: after[key] for key, span in before.items() if key in after and after[key] != span}
    return Changes(gone, moved)


def _successor(gone: Span, spans: Sequence[tuple[K, Span]]) -> K:
    def nearness(one: tuple[K, Span]) -> tuple[int, int]:
        _, span = one
        shared = min(gone.end, span.end) - max(gone.start, span.start)
        return (shared, -abs(gone.start - span.start))

    return max(spans, key=nearness)[0]
