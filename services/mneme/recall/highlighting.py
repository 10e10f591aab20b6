"""Where the words of a query stand in a text, by the same terms that find it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from mneme.runtime import lexical

READ_CHARS = 20_000
"""Characters of a text that are looked at."""
MAX_RANGES = 100
"""Most ranges of one text."""

# Scripts without spaces are found by single characters and by pairs of neighbours, the rest by words.
_HAN = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_CHUNK = re.compile(r"\S+")
_WORD = re.compile(r"\w+")

Range = tuple[int, int]


class Highlighter:
    """Marks the words of one query in texts. Remembers words it has met, as texts repeat them."""

    def __init__(self, query: str) -> None:
        self._terms = frozenset(lexical.query_terms(query))
        self._met: dict[str, bool] = {}

    def ranges(self, text: str) -> list[Range]:
        """Returns the pieces of a text (start and end in characters) that hold a word of the query, in order.

        Neighbouring pieces are one. Empty where no word matches.
        """
        found = _joined(self._found(text[:READ_CHARS]))
        return list(islice(found, MAX_RANGES))

    def _found(self, text: str) -> Iterator[Range]:
        for chunk in _CHUNK.finditer(text):
            place = 0
            for run in _HAN.finditer(chunk.group()):
                yield from self._words(chunk.group()[place : run.start()], chunk.start() + place)
                yield from self._characters(run.group(), chunk.start() + run.start())
                place = run.end()
            yield from self._words(chunk.group()[place:], chunk.start() + place)

    def _words(self, chunk: str, offset: int) -> Iterator[Range]:
        """The words of a piece without spaces that match; all of it, where only the whole does (a code)."""
        words = list(_WORD.finditer(chunk))
        if not words or not self._matches(chunk):
            return
        start, end = words[0].start(), words[-1].end()
        # A mark beside the words may be what makes them the term.
        whole = (offset + start, offset + end) if self._matches(chunk[start:end]) else (offset, offset + len(chunk))
        matching = [word for word in words if self._matches(word.group())]
        yield from [(offset + word.start(), offset + word.end()) for word in matching] or [whole]

    def _characters(self, run: str, offset: int) -> Iterator[Range]:
        """The pairs of a run that match; single characters where no pair does."""
        for size in (2, 1):
            starts = [start for start in range(len(run) - size + 1) if self._matches_all(run[start : start + size])]
            if starts:
                yield from ((offset + start, offset + start + size) for start in starts)
                return

    def _matches(self, piece: str) -> bool:
        if piece not in self._met:
            self._met[piece] = not self._terms.isdisjoint(lexical.terms(piece))
        return self._met[piece]

    def _matches_all(self, characters: str) -> bool:
        terms = lexical.terms(characters)
        return bool(terms) and max(terms, key=len) in self._terms


def _joined(ranges: Iterator[Range]) -> Iterator[Range]:
    """Yields ranges in order, those that touch or overlap as one."""
    current: Range | None = None
    for start, end in ranges:
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current


def all_ranges(query: str, texts: Sequence[str]) -> list[list[Range]]:
    """Returns the ranges of each text."""
    highlighter = Highlighter(query)
    return [highlighter.ranges(text) for text in texts]
