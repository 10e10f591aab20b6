"""Which remembered lines answer a question.

Five general signals: the same attribute ("my size" is asked for, "my size is …" stands there), shared words (rare
among the lines counts more), shared or touching concepts of the thesaurus, the kind of answer asked for (a number, a
time, a place, a person), and word vectors.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log

from mneme.orchestrator.models.offline.lexicon import VAGUE, concepts, has_number, related
from mneme.orchestrator.models.offline.relations import asked_attribute, attribute
from mneme.orchestrator.models.offline.vectors import WordVectors
from mneme.orchestrator.models.offline.words import pattern, terms

_WORDS, _CONCEPTS, _ATTRIBUTE, _KIND, _VECTORS = 0.45, 0.4, 0.3, 0.1, 0.15
_TOUCHING = 0.45
"""What a touching concept counts, where the same concept counts 1."""
_KINDS = {
    "number": pattern(
        r"\bhow (?:many|much|old|tall|long|far|big|high|heavy|often)\b|\bnumber\b", "几|多少|多[大高重久长远]|号码"
    ),
    "time": pattern(
        r"\bwhen\b|\bwhat (?:day|date|time|month|year)\b|\bhow (?:long|often)\b",
        "什么时候|何时|几[点号月]|周几|星期几|日期|时间|多久",
    ),
    "place": pattern(
        r"\bwhere\b|\bwhich (?:city|town|country|place)\b", "哪里|哪儿|在哪|何地|什么地方|哪个(?:城市|国家|地方)"
    ),
    "person": pattern(r"\bwho\b|\bwhom\b|\bwhose\b|\bname\b|\bcalled\b", "谁|名字|叫什么"),
}
_PLACE = re.compile(r"\b(?:in|at|to|on|from|near)\s+(?:the\s+)?[A-Z0-9]|[在住到去来从]|[市省县区路街镇村国]")
_PERSON = re.compile(r"(?<!^)\b[A-Z][a-z]+|\b(?:named|called|name)\b|叫|名字|是")


@dataclass(frozen=True, slots=True)
class Scored:
    """A line with its evidence."""

    index: int
    """Position among the lines given."""
    score: float
    """0 to about 1.4, higher is better."""
    evidence: float
    """The part of the score that comes from words, concepts and attribute."""
    words: float
    """Part of the question's words that the line has, from 0 to 1."""
    attribute: str
    """What the line gives the value of; empty where it is not the only one of its kind."""
    asked: bool
    """True where the question asks for that attribute."""


def rank(question: str, lines: Sequence[str], vectors: WordVectors) -> list[Scored]:
    """The lines by how well they answer the question, best first; all of them, empty for no lines."""
    asked_terms, asked_concepts, asked_value = terms(question), concepts(question), asked_attribute(question)
    rarity = _rarity([terms(line) | concepts(line) for line in lines])
    scored: list[Scored] = []
    for index, line in enumerate(lines):
        words, about = _share(asked_terms, terms(line), rarity), attribute(line)
        asked = asked_value != "" and about == asked_value
        evidence = _WORDS * words + _ATTRIBUTE * asked
        evidence += _CONCEPTS * _concept_share(asked_concepts, concepts(line), rarity)
        score = evidence + _KIND * _right_kind(question, line) + _VECTORS * vectors.cosine(question, line)
        scored.append(Scored(index, score, evidence, words, about, asked))
    return sorted(scored, key=lambda item: (-item.score, -item.index))


class _Rarity:
    """How telling a feature is: near 1 where no other line has it, less where many do."""

    def __init__(self, counts: Counter[str], size: int) -> None:
        self._counts = counts
        self._size = size

    def __call__(self, feature: str) -> float:
        return log(1 + (self._size + 1) / (1 + self._counts[feature])) / log(2 + self._size)


def _rarity(features: Iterable[frozenset[str]]) -> _Rarity:
    counts: Counter[str] = Counter()
    size = 0
    for found in features:
        counts.update(found)
        size += 1
    return _Rarity(counts, size)


def _share(asked: frozenset[str], found: frozenset[str], rarity: _Rarity) -> float:
    """Part of the question's words, weighted by rarity, that the line has."""
    total = sum(map(rarity, asked))
    return sum(rarity(term) for term in asked & found) / total if total else 0.0


def _concept_share(asked: frozenset[str], found: frozenset[str], rarity: _Rarity) -> float:
    """Part of the question's concepts that the line shares or touches."""
    weights = {name: rarity(name) * (0.3 if name in VAGUE else 1.0) for name in asked}
    total = sum(weights.values())
    if not total:
        return 0.0
    met = {name: _meets(name, found) for name in weights}
    mean = sum(weight * met[name] for name, weight in weights.items()) / total
    return (mean + max(weight * met[name] for name, weight in weights.items())) / 2


def _meets(name: str, found: frozenset[str]) -> float:
    if name in found:
        return 1.0
    return _TOUCHING if related(name) & found - VAGUE else 0.0


def _right_kind(question: str, line: str) -> float:
    """1 where the line holds the kind of thing the question asks for, 0 where it does not or none is
    clear.
    """
    return float(any(_holds(kind, line) for kind, asks in _KINDS.items() if asks.search(question)))


def _holds(kind: str, line: str) -> bool:
    match kind:
        case "number":
            return has_number(line)
        case "time":
            return bool(concepts(line) & {"date", "time"}) or has_number(line)
        case "place":
            return bool(_PLACE.search(line)) or "home" in concepts(line)
    return bool(_PERSON.search(line))
