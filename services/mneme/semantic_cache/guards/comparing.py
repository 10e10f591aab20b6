"""Asks one guard after the other whether two questions may share an answer."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mneme.semantic_cache.guards.english_terms import Words, stem
from mneme.semantic_cache.guards.question import Question, Term, Verdict
from mneme.semantic_cache.guards.tables import lines, table, words

_AMOUNTS = ("number", "unit", "money", "date", "id")
_SHOWN = 6
# Terms up to which a word such as "between" surely joins all there is.
_SHORT = 6


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two questions, and the keys that only one of them has."""

    asked: Question
    stored: Question
    more: Counter[str]
    less: Counter[str]


def check(asked: Question, stored: Question) -> list[Verdict]:
    """Returns the guards' verdicts in the order they were asked; the first refusal ends the list, never empty."""
    mine, theirs = (Counter(term.key for term in question.terms) for question in (asked, stored))
    pair = _Pair(asked, stored, mine - theirs, theirs - mine)
    verdicts = []
    for name, guard in _GUARDS:
        refusal = guard(pair)
        verdicts.append(Verdict(name, not refusal, refusal))
        if refusal:
            break
    return verdicts


def _language(pair: _Pair) -> str:
    for question in (pair.asked, pair.stored):
        if not question.semantic:
            return question.reason
    mine, theirs = pair.asked.language, pair.stored.language
    return "" if mine == theirs else f"{mine} and {theirs}"


def _amount(kind: str, pair: _Pair) -> str:
    more = {term.key for term in pair.asked.terms if term.kind == kind and term.key in pair.more}
    less = {term.key for term in pair.stored.terms if term.kind == kind and term.key in pair.less}
    return _both(pair, more, less) if more or less else ""


def _type(pair: _Pair) -> str:
    mine, theirs = pair.asked.asks, pair.stored.asks
    return "" if mine == theirs else f"{mine} and {theirs}"


def _modality(pair: _Pair) -> str:
    mine, theirs = pair.asked.modality, pair.stored.modality
    return "" if mine == theirs else f"{mine or 'can'} and {theirs or 'can'}"


def _tense(pair: _Pair) -> str:
    mine, theirs = pair.asked.tense, pair.stored.tense
    return "" if mine == theirs else f"{mine} and {theirs}"


def _person(pair: _Pair) -> str:
    if pair.asked.asks == "how":
        # In "how do you …" one speaks of anybody.
        return ""
    theirs = dict(pair.stored.persons)
    for thing, whose in pair.asked.persons:
        if theirs.get(thing, whose) != whose:
            return f"{whose} and {theirs[thing]}"
    return ""


def _negation(pair: _Pair) -> str:
    mine, theirs = (Counter(t.key for t in one.terms if t.negated) for one in (pair.asked, pair.stored))
    return "" if mine == theirs else _both(pair, mine - theirs, theirs - mine)


def _word(kind: str, pair: _Pair) -> str:
    """Answers for the words of one kind; whatever nobody answered for is the last guard's."""
    if not pair.more and not pair.less:
        return ""
    kinds = {_kind(term, pair.less) for term in pair.asked.terms if term.key in pair.more}
    kinds |= {_kind(term, pair.more) for term in pair.stored.terms if term.key in pair.less}
    return _both(pair, pair.more, pair.less) if kind == "word" or kind in kinds else ""


def _role(pair: _Pair) -> str:
    asked, stored = pair.asked, pair.stored
    if asked.symmetric and stored.symmetric and len(asked.terms) <= _SHORT:
        return ""
    mine, theirs = _counted(asked.terms), _counted(stored.terms)
    if asked.inverted != stored.inverted and list(mine) != list(theirs):
        return "subject and object"
    crossed = _crossed(mine, theirs) or _exchanged(list(mine), list(theirs))
    return " and ".join(mine[name].shown for name in crossed)


def _counted(terms: Sequence[Term]) -> dict[tuple[str, int], Term]:
    """Terms in order, by key and occurrence."""
    seen: Counter[str] = Counter()
    counted = {}
    for term in terms:
        seen[term.key] += 1
        counted[term.key, seen[term.key]] = term
    return counted


def _crossed(mine: dict[tuple[str, int], Term], theirs: dict[tuple[str, int], Term]) -> list[tuple[str, int]]:
    """The terms whose prepositions contradict each other, or that exchanged one."""
    gained: dict[str, tuple[str, int]] = {}
    lost: dict[str, tuple[str, int]] = {}
    for name, term in mine.items():
        here, there = term.governor, theirs[name].governor
        if here and there and here != there:
            return [name]
        if here and not there:
            gained[here] = name
        elif there and not here:
            lost[there] = name
    return next(([gained[word], lost[word]] for word in gained if word in lost), [])


def _exchanged(mine: list[tuple[str, int]], theirs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """What changed places in another way than a part that moved as a whole ("in May, what …", "what … in May")."""
    start = next((at for at, (one, other) in enumerate(zip(mine, theirs, strict=True)) if one != other), None)
    if start is None:
        return []
    end = len(mine)
    while mine[end - 1] == theirs[end - 1]:
        end -= 1
    part, moved = mine[start:end], theirs[start:end]
    cut = moved.index(part[0])
    return [] if moved[cut:] + moved[:cut] == part else [part[0], part[-1]]


def _kind(term: Term, against: Counter[str]) -> str:
    """The guard that answers for a term which only one question has."""
    if term.kind in ("name", "place"):
        return term.kind
    reverse = _opposites()
    if any(other in reverse.get(term.key, ()) for other in against):
        return "opposite"
    return _meant().get(term.key, "word")


def _both(pair: _Pair, more: Iterable[str], less: Iterable[str]) -> str:
    sides = []
    for question, keys in ((pair.asked, set(more)), (pair.stored, set(less))):
        shown = [term.shown for term in question.terms if term.key in keys][:_SHOWN]
        sides.append(" ".join(dict.fromkeys(shown)) or "nothing")
    return " and ".join(sides)


@functools.cache
def _opposites() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for line in [*lines(table("english")["opposites"]), *lines(table("chinese")["opposites"])]:
        first, second = (_key(word) for word in line.split())
        found.setdefault(first, set()).add(second)
        found.setdefault(second, set()).add(first)
    return {word: frozenset(others) for word, others in found.items()}


def _key(word: str) -> str:
    if not word.isascii():
        return word
    base = stem(word)
    rows = Words.get().phrases.get(base, ())
    return next((keys[0] for phrase, keys in rows if phrase == (base,)), base)


@functools.cache
def _meant() -> dict[str, str]:
    """Guards of words by their keys."""
    guards: dict[str, str] = {}
    for language in ("english", "chinese"):
        for name, guard in (("quantified", "quantifier"), ("compared", "comparison"), ("timed", "order")):
            guards |= dict.fromkeys(words(table(language)[name]), guard)
            guards |= {_key(word): guard for word in words(table(language)[name])}
    return guards


_GUARDS: tuple[tuple[str, Callable[[_Pair], str]], ...] = (
    ("language", _language),
    *((kind, functools.partial(_amount, kind)) for kind in _AMOUNTS),
    ("negation", _negation),
    *((kind, functools.partial(_word, kind)) for kind in ("opposite", "comparison", "order", "quantifier")),
    *((kind, functools.partial(_word, kind)) for kind in ("place", "name")),
    ("tense", _tense),
    ("modality", _modality),
    ("type", _type),
    ("person", _person),
    ("word", functools.partial(_word, "word")),
    ("role", _role),
)
