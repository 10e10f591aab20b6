"""The order of what a search found by words and by meaning: one fusion for every store.

Words are BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"), meaning is the
cosine of two vectors. Both are scaled to 0..1 over the candidates and added, with a share of words that depends on how
much of the query the best candidate covers: a question that has only everyday words in common with what answers it is
decided by meaning, a name by words. A code that a candidate holds decides before all else. Fixed equal shares, or
reciprocal ranks, halve the finding of preferences that are asked for indirectly (figures in `docs/benchmarks.md`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mneme.runtime import dates, wording
from mneme.runtime.dates import Span
from mneme.runtime.lexical import K1, B, is_pair, query_terms

CONTEXT_LENGTH = 60
"""Terms up to which a text counts all words of the one before it as its own; a longer one speaks for itself."""
CONTEXT_BEFORE = 100
"""Terms up to which the words of the text before count in full; more of them count less each."""

# Differences of cosine below this are taken for noise instead of being stretched over the whole scale.
_LEAST_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part counts. A score is at most 1, whatever the weights."""

    words: float = 0.7
    """Largest share of words; meaning has the rest."""
    coverage_none: float = 0.2
    """Part of the best possible BM25 up to which words count nothing."""
    coverage_full: float = 0.45
    """Part from which words have their largest share."""
    standing: float = 0.15
    """Addition for a preference, as far as meaning decides: a need that is not named points to what people like."""
    instruction: float = 0.1
    """Addition for an instruction that stands from now on."""
    dated: float = 0.1
    """Addition for what was said at a time that the question names."""
    user: float = 0.1
    """Addition for the user's own words, unless what the agent said is asked for."""


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True, slots=True)
class Query:
    """What a question asks for."""

    terms: tuple[str, ...] = ()
    """Its terms, as they are looked for; statistics and evidence count them from 1."""
    codes: frozenset[int] = frozenset()
    """Numbers of the terms that name one thing exactly."""
    of_the_agent: bool = False
    """Whether it asks for what the agent said."""
    of_now: bool = False
    """Whether it asks how something is, not how it was."""
    spans: tuple[Span, ...] = ()
    """Times that it names."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the words of a query weigh in the scopes that were searched."""

    idf: Mapping[int, float] = field(default_factory=dict)
    """Inverse document frequency of each term that occurs, by its number; the greatest of the scopes."""
    mean_length: float = 1.0
    """Terms of a document on average."""
    document_count: int = 0
    """Documents of the largest scope."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The words of a query that a document holds."""

    frequencies: Mapping[int, int]
    """How often each term occurs, by its number."""
    length: int
    """Terms of the document."""


NO_WORDS = Evidence({}, 0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was found, with all that its rank depends on."""

    id: str
    cosine: float | None = None
    """None where nothing was compared."""
    bm25: float | None = None
    """None where no word matched."""
    time: float = 0.0
    """Newer is greater; decides between equals."""
    terms: frozenset[int] = frozenset()
    """Numbers of the terms it holds."""
    preference: bool = False
    """Stored as a preference."""
    instruction: bool = False
    """Stored as an instruction."""
    by_user: bool = False
    """The user's own words."""
    text: str = ""
    """Where its wording may tell more: a preference, an instruction, a change."""
    factor: float = 1.0
    """What the score is multiplied with: age, importance."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate in its place."""

    candidate: Candidate
    score: float
    """0..1 times the candidate's factor. Where a code is asked for, what holds one begins at 0.6."""
    standing: bool = False
    """Whether it was raised as a preference or an instruction."""


def query(text: str, now: datetime | None = None) -> Query:
    """Returns what a question asks for.

    Args:
        text: Its words.
        now: The moment it is asked, in the asker's time zone; None leaves times that it names alone.
    """
    terms = tuple(query_terms(text))
    return Query(
        terms=terms,
        codes=frozenset(number for number, term in enumerate(terms, start=1) if wording.is_code(term)),
        of_the_agent=wording.asks_of_the_agent(text),
        of_now=wording.asks_of_now(text),
        spans=tuple(dates.spans(text, now)) if now else (),
    )


def statistics(rows: Sequence[Sequence[Any]] | None) -> Statistics:
    """Returns the statistics in the value of `lexical.statistics_column`; None where no term occurs."""
    if not rows:
        return Statistics()
    idf: dict[int, float] = {}
    for _, number, value, _, _ in rows:
        idf[number] = max(value, idf.get(number, 0.0))
    lengths = {scope: (mean, count) for scope, _, _, mean, count in rows}
    count = sum(documents for _, documents in lengths.values())
    mean = sum(mean * documents for mean, documents in lengths.values()) / count
    return Statistics(idf, mean, max(documents for _, documents in lengths.values()))


def best_possible(asked: Query, known: Statistics) -> float:
    """Returns the sum of the terms' weights.

    A term that occurs nowhere counts like the rarest there could be; a pair of characters that does is no word.
    """
    unknown = sum(number not in known.idf and not is_pair(term) for number, term in enumerate(asked.terms, start=1))
    return sum(known.idf.values()) + unknown * math.log(1 + (known.document_count + 0.5) / 0.5)


def bm25(own: Evidence, before: Evidence | None, known: Statistics) -> float | None:
    """Returns BM25 of a text that goes on from the one before it; None where neither holds a term.

    A short text rarely repeats what it answers, so terms of the text before count as its own, each as much as both are
    short (weighted fields, as in BM25F). Mean lengths are those of a text with its context.

    Args:
        own: The text.
        before: The text before it, if any.
        known: Statistics of the scope.
    """
    share = 0.0
    if before is not None and before.frequencies:
        share = _part(CONTEXT_LENGTH, own.length) * _part(CONTEXT_BEFORE, before.length)
    frequencies: dict[int, float] = dict(own.frequencies)
    length = float(own.length)
    if share and before is not None:
        for number, frequency in before.frequencies.items():
            frequencies[number] = frequencies.get(number, 0.0) + share * frequency
        length += share * before.length
    if not frequencies:
        return None
    mean = known.mean_length
    usual = mean * (1 + _part(CONTEXT_LENGTH, mean) * _part(CONTEXT_BEFORE, mean))
    worn = K1 * (1 - B + B * length / usual)
    return sum(known.idf.get(number, 0.0) * f * (K1 + 1) / (f + worn) for number, f in frequencies.items())


def words_share(found: Sequence[Candidate], best: float, weights: Weights = DEFAULT_WEIGHTS) -> float:
    """Returns the share of words in the mix, 0 to 1; 1 where nothing was compared by meaning.

    Args:
        found: The candidates.
        best: What the words could weigh at most.
        weights: How much each part counts.
    """
    if all(one.cosine is None for one in found):
        return 1.0
    if best <= 0:
        return 0.0
    coverage = max((one.bm25 or 0.0 for one in found), default=0.0) / best
    low, full = weights.coverage_none, weights.coverage_full
    return weights.words * min(1.0, max(0.0, (coverage - low) / (full - low)))


def mixed(found: Sequence[Candidate], asked: Query, best: float, weights: Weights = DEFAULT_WEIGHTS) -> list[Scored]:
    """Returns the candidates, best first; equals by cosine, then the newer first, then by id.

    Args:
        found: The best by meaning and the best by words, each with both scores where both can be told.
        asked: The question.
        best: What its words could weigh at most.
        weights: How much each part counts.
    """
    share = words_share(found, best, weights)
    top = max((one.bm25 or 0.0 for one in found), default=0.0)
    cosines = [one.cosine for one in found if one.cosine is not None]
    high = max(cosines, default=0.0)
    spread = max(high - min(cosines, default=0.0), _LEAST_SPREAD)
    indirect = max(0.0, 1 - share / weights.words) if weights.words else 1.0
    whole = 1 + weights.standing + weights.instruction + weights.user + (weights.dated if asked.spans else 0)
    scored = []
    for one in found:
        words = (one.bm25 or 0.0) / top if top else 0.0
        meaning = 0.0 if one.cosine is None else 1 - (high - one.cosine) / spread
        score = share * words + (1 - share) * meaning
        preference = indirect > 0 and (one.preference or wording.is_standing(one.text))
        instruction = one.instruction or wording.is_instruction(one.text)
        score += weights.standing * indirect * preference + weights.instruction * instruction
        score += weights.dated * any(span.start.timestamp() <= one.time < span.end.timestamp() for span in asked.spans)
        score += weights.user * (one.by_user and not asked.of_the_agent)
        score = score / whole * one.factor
        if asked.codes:
            score = 0.6 * bool(asked.codes & one.terms) + 0.4 * score
        scored.append(Scored(one, score, preference or instruction))
    return ordered(scored)


def ordered(scored: Sequence[Scored]) -> list[Scored]:
    """Returns results in their order, the same whatever order they came in."""

    def key(one: Scored) -> tuple[float, float, float, str]:
        return (-one.score, -(one.candidate.cosine or 0.0), -one.candidate.time, one.candidate.id)

    return sorted(scored, key=key)


def newer_first(ranked: Sequence[Scored], asked: Query, known: Statistics, *, within: int = 10) -> list[Scored]:
    """Returns results with what was updated directly above what it updates, where a question asks how things are.

    The newer of two is an update when it is worded as a change, both are the user's words, and they share most of what
    they have of the question. Only the first `within` change places, so nobody falls out of them.

    Args:
        ranked: Results, best first.
        asked: The question.
        known: What its terms weigh.
        within: Results that are looked at.
    """
    if not asked.of_now:
        return list(ranked)
    places = {one.candidate.id: float(place) for place, one in enumerate(ranked[:within])}
    top = [one.candidate for one in ranked[:within] if one.candidate.by_user]
    # The oldest first, so that a chain of updates ends with its newest on top.
    for newer in sorted(top, key=lambda one: (one.time, one.id)):
        if wording.states_change(newer.text):
            above = [
                places[older.id] for older in top if older.time < newer.time and _about_the_same(newer, older, known)
            ]
            if above:
                places[newer.id] = min(places[newer.id], math.nextafter(min(above), -1.0))
    return _falling([*sorted(ranked[:within], key=lambda one: places[one.candidate.id]), *ranked[within:]])


def _falling(scored: Sequence[Scored]) -> list[Scored]:
    """Gives what was put above another at least the other's score."""
    lowest, fallen = -math.inf, []
    for one in reversed(scored):
        lowest = max(lowest, one.score)
        fallen.append(one if one.score == lowest else replace(one, score=lowest))
    return fallen[::-1]


def _about_the_same(newer: Candidate, older: Candidate, known: Statistics) -> bool:
    shared, of_newer, of_older = (
        sum(known.idf.get(number, 0.0) for number in numbers)
        for numbers in (newer.terms & older.terms, newer.terms, older.terms)
    )
    return shared > 0 and shared >= 0.5 * of_newer and of_newer >= 0.5 * of_older


def _part(limit: float, length: float) -> float:
    return min(1.0, limit / length) if length else 1.0
