"""Tells a question that stands for itself from everything else, so that nothing else is ever looked up.

A text may tell something beside its one question ("I live in Austin. When do you open?"): what it tells is kept by the
memory when the answer is reused, and is compared by the guards like the question itself. What must be learnt at once
(a name, an allergy, an instruction, a correction) makes the whole text a statement, and an elliptical question means
another thing in each conversation. Whatever is not clearly one self-contained question is not looked up: a question
taken for a statement costs one model call, the reverse may lose a fact. English and Chinese have tables; in other
languages only a text that ends with a question mark and is no fragment counts.
"""

from __future__ import annotations

import re
from enum import StrEnum

from mneme.semantic_cache.questions import chinese, english
from mneme.semantic_cache.questions.part import Part, Points, Role

__all__ = ["Kind", "classify"]


class Kind(StrEnum):
    """What a text is."""

    QUESTION = "question"
    """One question that can be answered without its conversation; it may tell what the answer depends on."""
    ELLIPTICAL = "elliptical"
    """A question that needs its conversation."""
    STATEMENT = "statement"
    """Anything else, also several questions, and a question beside something that must be learnt at once."""


_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_ABBREVIATION = re.compile(
    r"\b(dr|mr|mrs|ms|prof|st|vs|no(?=\. ?\d)|nr|inc|ltd|co|e\.g|i\.e|etc|u\.s|u\.k)\.", re.IGNORECASE
)
# Longer texts are more than a question, and would take long to read.
_LONGEST = 2_000
_SENTENCE = re.compile(r"(?<=[.!?。！？；;…])(?=\s|[^\x00-\x7f])|(?<=[。！？；])|\n+")


def classify(text: str) -> Kind:
    """Returns what a text is; one without words, or of over 2,000 characters, is a statement."""
    if len(text) > _LONGEST:
        return Kind.STATEMENT
    joined = _ABBREVIATION.sub(lambda match: match.group(1), text.replace("’", "'"))
    sentences = [part.strip() for part in _SENTENCE.split(joined) if part and re.search(r"\w", part)]
    parts = [part for sentence in sentences if (part := _part(sentence)) is not None]
    asking = sum(part.role is Role.ASKS for part in parts)
    if asking != 1 or any(part.role is Role.LASTS for part in parts):
        return Kind.STATEMENT
    named = any(part.names for part in parts if part.role is Role.TELLS)
    return Kind.ELLIPTICAL if any(_is_open(part, named=named) for part in parts) else Kind.QUESTION


def _part(sentence: str) -> Part | None:
    """What one sentence does; None for a greeting, which says nothing."""
    if _HAN.search(sentence) and not _KANA_HANGUL.search(sentence):
        return chinese.part(sentence)
    return english.part(sentence)


def _is_open(part: Part, *, named: bool) -> bool:
    """Whether it points at what the text does not name."""
    if part.points is Points.WITHIN:
        return not (named and part.role is Role.ASKS)
    return part.points is Points.ELSEWHERE
