"""Cuts documents into pieces that say where they stand, and compares a document with its pieces of before."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from semantic_text_splitter import TextSplitter

MIN_CHARS = 100

_SCRAP_PART = 4

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


def pieces(text: str, cut: Cut, *, before: Sequence[str] = ()) -> list[Piece]:
    """Returns the pieces of a text in their order; none for one without letters or signs.

    A piece ends at the highest border that lets it be long: paragraph, line, sentence, word, character (Unicode's text
    segmentation, UAX 29, which knows `。！？` too). Space around a piece is left out; every other character is in one.

    Args:
        text: The document.
        cut: How long pieces are.
        before: Pieces of an earlier text of the document, in their order: those that it still has stay pieces, and only
            what lies between them is cut anew. Without that an insertion would move every border behind it.
    """
    made: list[Piece] = []
    reached = 0
    for kept in _kept(text, cut, before):
        made += [*_cut(text, cut, reached, kept.start), kept]
        reached = max(reached, kept.end)
    return made + _cut(text, cut, reached, len(text))


def _cut(text: str, cut: Cut, start: int, end: int) -> list[Piece]:
    if start >= end:
        return []
    splitter = TextSplitter(cut.max_chars, overlap=cut.overlap_chars)
    found = splitter.chunk_indices(text[start:end])
    return [Piece(part, start + at, start + at + len(part)) for at, part in found if part.strip()]


def _kept(text: str, cut: Cut, before: Sequence[str]) -> list[Piece]:
    """Returns earlier pieces that the text still has in their order, but for those beside a scrap of new text."""
    found: list[Piece] = []
    for part in before:
        start = text.find(part, found[-1].start + 1 if found else 0)
        piece = Piece(part, start, start + len(part))
        if start >= 0 and len(part) <= cut.max_chars and _stands_alone(text, piece):
            found.append(piece)
    kept: list[Piece] = []
    for piece in found:
        gap = text[kept[-1].end if kept else 0 : piece.start].strip()
        # A scrap says too little to be found alone: it is cut again together with the piece after it.
        if not 0 < len(gap) < cut.max_chars // _SCRAP_PART:
            kept.append(piece)
    return kept


def _stands_alone(text: str, piece: Piece) -> bool:
    """Returns whether a piece neither begins nor ends within a word."""
    borders = (text[max(piece.start - 1, 0) : piece.start + 1], text[piece.end - 1 : piece.end + 1])
    return not any(len(border) == 2 and border.isalnum() for border in borders)


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
