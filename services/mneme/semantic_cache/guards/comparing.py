"""Asks one guard after the other whether two questions may share an answer."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mneme.semantic_cache.guards.english_terms import Words, stem
from mneme.semantic_cache.guards.question import Question, Term, Verdict
from mneme.semantic_cache.guards.tables import lines, table, words

_AMOUNTS = ("number", "unit", "money", "date", "id")
_SHOWN = 6
# Terms up to which a word such as "between" surely joins all there is.
_SHORT = 6


def check(asked: Question, stored: Question) -> list[Verdict]:
    """Returns the guards' verdicts in the order they were asked; the first refusal ends the list, never empty."""
    verdicts = []
    for name, guard in _GUARDS:
        refusal = guard(asked, stored)
        verdicts.append(Verdict(name, not refusal, refusal))
        if refusal:
            break
    return verdicts


def _language(asked: Question, stored: Question) -> str:
    for question in (asked, stored):
        if not question.semantic:
            return question.reason
    return "" if asked.language == stored.language else f"{asked.language} and {stored.language}"


def _amount(kind: str, asked: Question, stored: Question) -> str:
    mine, theirs = (Counter(term.key for term in question.terms if term.kind == kind) for question in (asked, stored))
    return "" if mine == theirs else _both(asked, stored, mine - theirs, theirs - mine)


def _type(asked: Question, stored: Question) -> str:
    return "" if asked.asks == stored.asks else f"{asked.asks} and {stored.asks}"


def _modality(asked: Question, stored: Question) -> str:
    return "" if asked.modality == stored.modality else f"{asked.modality or 'can'} and {stored.modality or 'can'}"


def _tense(asked: Question, stored: Question) -> str:
    return "" if asked.tense == stored.tense else f"{asked.tense} and {stored.tense}"


def _person(asked: Question, stored: Question) -> str:
    if asked.asks == "how":
        # In "how do you …" one speaks of anybody.
        return ""
    theirs = dict(stored.persons)
    for thing, whose in asked.persons:
        if theirs.get(thing, whose) != whose:
            return f"{whose} and {theirs[thing]}"
    return ""


def _negation(asked: Question, stored: Question) -> str:
    mine, theirs = (Counter(t.key for t in question.terms if t.negated) for question in (asked, stored))
    return "" if mine == theirs else _both(asked, stored, mine - theirs, theirs - mine)


def _word(kind: str, asked: Question, stored: Question) -> str:
    """Compares all words, and answers for those of one kind only: what is left over is for the last guard."""
    mine, theirs = (Counter(term.key for term in question.terms) for question in (asked, stored))
    more, less = mine - theirs, theirs - mine
    if not more and not less:
        return ""
    kinds = {_kind(term, less) for term in asked.terms if term.key in more}
    kinds |= {_kind(term, more) for term in stored.terms if term.key in less}
    return _both(asked, stored, more, less) if kind == "word" or kind in kinds else ""


def _role(asked: Question, stored: Question) -> str:
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


def _both(asked: Question, stored: Question, more: Iterable[str], less: Iterable[str]) -> str:
    sides = []
    for question, keys in ((asked, set(more)), (stored, set(less))):
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


_GUARDS: tuple[tuple[str, Callable[[Question, Question], str]], ...] = (
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
