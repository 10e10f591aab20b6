"""Finds what an English question speaks of: its words by their meaning, each with its part in the sentence."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import snowballstemmer

from mneme.semantic_cache.guards import amounts
from mneme.semantic_cache.guards.question import Term
from mneme.semantic_cache.guards.tables import lines, table, words

_PRONOUNS = {"he": "he", "him": "he", "his": "he", "she": "she", "her": "she", "hers": "she"}
_POSSESSIVES = {"my": "my", "mine": "my", "our": "my", "ours": "my", "your": "your", "yours": "your"}
_PERSONS = {"i": "I", "me": "I", "we": "I", "us": "I", "you": "you"}
_ARTICLES = words("a an the this these those that its their some any")
_BE = words("is are am was were be been being get got gets")
_PLACED = words("in at to from near around inside outside within")
_PARTICIPLE = re.compile(r"(?:ed|en|wn|ght|ung|ade|old|aid|ent|ept|ost)$")
_UNCHANGED = words("hurt hit cut put set let shut cost read beat bet spread split")
_BRITISH = re.compile(r"(?<=[a-z]{3})is(?=(?:e|ed|es|ing|ation|ations|er|ers)$)")
_stemming = threading.Lock()


@dataclass(frozen=True, slots=True)
class Words:
    """The tables as sets."""

    light: frozenset[str]
    must: frozenset[str]
    should: frozenset[str]
    negators: frozenset[str]
    strong: frozenset[str]
    timed: frozenset[str]
    symmetric: frozenset[str]
    phrases: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]]
    """By first stem: (stems of a phrase, keys it becomes), the longest first."""

    @staticmethod
    @functools.cache
    def get() -> Words:
        """Returns the tables."""
        english = table("english")
        sets = ("light", "must", "should", "negators", "strong", "timed")
        return Words(
            **{name: words(english[name]) for name in sets},
            symmetric=frozenset(stem(word) for word in words(english["symmetric"])),
            phrases=_phrases(english["synonyms"]),
        )

    def is_symmetric(self, tokens: frozenset[str]) -> bool:
        """Whether one of the words lets two things change places."""
        return any(stem(token) in self.symmetric for token in tokens if token.isalpha())


@dataclass(slots=True)
class Collected:
    """What was found, and the state of finding it."""

    terms: list[Term] = field(default_factory=list)
    persons: set[tuple[str, str]] = field(default_factory=set)
    """(thing, whose)."""
    negated: bool = False
    governor: str = ""
    placed: bool = False
    whose: str = ""
    spoken: list[str] = field(default_factory=list)
    """Who takes part, in order: `I` or `you`."""
    be: bool = False
    last: str = ""
    """The token before."""
    verb: int | None = None
    """Where the verb of a passive stands, whose agent is being read."""


def collect(tokens: Sequence[str], taken: Sequence[Term], names: frozenset[str]) -> Collected:
    """Returns what a question speaks of.

    Args:
        tokens: Its words in lower case, with a mark for each amount.
        taken: The amounts.
        names: Those of its words that have a capital inside the sentence.
    """
    found, slots = Collected(), iter(taken)
    for token, keys in _units(tokens):
        if token == amounts.MARK:
            _add(found, next(slots))
        elif keys:
            for key in keys:
                _add(found, Term(key, token, _kind(token, names, placed=found.placed)))
        else:
            _pass_by(found, token)
        found.last = token
    _turn_passive(found)
    if len(set(found.spoken)) > 1:
        found.persons.add(("", f"{found.spoken[0]} first"))
    elif found.spoken == ["I"]:
        found.persons.add(("", "me" if {"me", "us"} & set(tokens) else "I"))
    if found.negated:
        found.terms.append(Term("#not", "not", "negation", negated=True))
    return found


def _units(tokens: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Words and phrases in order with their keys; no key for what has no meaning of its own."""
    tables, place = Words.get(), 0
    while place < len(tokens):
        token = tokens[place]
        found = _phrase(tokens, place, tables)
        if found is not None:
            length, keys = found
            yield " ".join(tokens[place : place + length]), keys
            place += length
            continue
        place += 1
        structural = token in tables.light or token in tables.negators or token in tables.strong
        modal = token in tables.must or token in tables.should
        if token in tables.timed:
            yield token, (token,)
        elif token in _PRONOUNS:
            yield token, (_PRONOUNS[token],)
        else:
            yield token, () if structural or modal or not token.isalpha() or token == amounts.MARK else (stem(token),)


def _phrase(tokens: Sequence[str], place: int, tables: Words) -> tuple[int, tuple[str, ...]] | None:
    """The longest known phrase here, as (number of tokens, keys); articles inside it do not count."""
    for phrase, keys in tables.phrases.get(_head(tokens[place]), ()):
        at, matched = place, 0
        while at < len(tokens) and matched < len(phrase):
            if _head(tokens[at]) == phrase[matched]:
                matched += 1
            elif not matched or tokens[at] not in _ARTICLES | _POSSESSIVES.keys():
                break
            at += 1
        if matched == len(phrase):
            return at - place, keys
    return None


def _add(found: Collected, term: Term) -> None:
    if term.key == "price" and any(other.key == "price" for other in found.terms):
        # "How much is the delivery fee": asked for twice.
        return
    found.terms.append(replace(term, negated=found.negated, governor=found.governor))
    if found.whose:
        found.persons.add((term.key, found.whose))
    found.negated, found.whose = False, ""


def _pass_by(found: Collected, word: str) -> None:
    """Takes note of a word that only joins others."""
    tables = Words.get()
    if word in tables.negators:
        found.negated = True
    elif word in _POSSESSIVES:
        found.whose = _POSSESSIVES[word]
    elif word in _ARTICLES:
        return
    elif word == "by" and found.be and found.terms and _is_participle(found.last):
        found.verb = len(found.terms) - 1
        found.governor = ""
    else:
        if found.verb is not None and len(found.terms) > found.verb + 1:
            _turn_passive(found)
        found.governor = word if word in tables.strong else ""
        found.placed = word in _PLACED
        found.be = found.be or word in _BE
        if word in _PERSONS:
            found.spoken.append(_PERSONS[word])


def _is_participle(word: str) -> bool:
    return _PARTICIPLE.search(word) is not None or word in _irregular() or word in _UNCHANGED


def _turn_passive(found: Collected) -> None:
    """Puts the agent of a passive before its verb, and what stood there behind it."""
    if found.verb is None:
        return
    before, verb, agent = found.terms[: found.verb], found.terms[found.verb], found.terms[found.verb + 1 :]
    found.terms[:] = [*agent, verb, *before] if agent else found.terms
    found.verb, found.be = None, False


def _kind(token: str, names: frozenset[str], *, placed: bool) -> str:
    if not any(part in names for part in token.split()):
        return "word"
    return "place" if placed else "name"


def is_past(word: str) -> bool:
    """Whether a word looks like a past form or participle."""
    return (len(word) > 4 and word.endswith("ed")) or (word in _irregular() and not word.endswith(("ves", "en")))


def _head(token: str) -> str:
    return stem(token) if token.isalpha() else token


@functools.lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """Returns the form that a word shares with its inflections and with its other spelling."""
    base = _irregular().get(word, word)
    base = _BRITISH.sub("iz", base)
    if base.endswith("our") and len(base) > 5:
        base = f"{base[:-3]}or"
    with _stemming:
        return str(_stemmer().stemWord(base))


@functools.cache
def _stemmer() -> Any:
    # It keeps the word in itself while it works, hence the lock around its use.
    return snowballstemmer.stemmer("english")


@functools.cache
def _irregular() -> dict[str, str]:
    forms: dict[str, str] = {}
    for line in lines(table("english")["irregular"]):
        base, *others = line.split()
        forms |= dict.fromkeys(others, base)
    return forms


def _phrases(synonyms: str) -> dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]]:
    found: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    for line in lines(synonyms):
        head, *others = (tuple(map(_head, re.findall(r"#?[^\W\d_]+", part))) for part in line.split(","))
        for phrase in (head, *others):
            found.setdefault(phrase[0], []).append((phrase, head))
    for rows in found.values():
        rows.sort(key=lambda row: -len(row[0]))
    return found
