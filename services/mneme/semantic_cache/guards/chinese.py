"""Reads a Chinese question, sign by sign where its tables know no word."""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass

from mneme.semantic_cache.guards import chinese_amounts
from mneme.semantic_cache.guards.amounts import MARK
from mneme.semantic_cache.guards.question import Question, Term
from mneme.semantic_cache.guards.tables import lines, table, words

_CHOICE = re.compile(r"([\u4e00-\u9fff]{1,2})不\1")
_HAVE_OR_NOT = re.compile(r"有没有|有無")
_PASSIVE = re.compile(r"^(.+?)被(.+)$")
_WORD = re.compile(r"[a-z]+")
_HAN = re.compile(r"[\u3400-\u9fff]")
_CLAUSE = re.compile(r"[\s,，。.;；:：!！?？、]+|(?<=了)(?=请问|能|可以)")
_END = re.compile(r"[\s?？!！。.~]+$")
_PERSONS = {re.compile("我(?!们|想问|想知道|想了解)"): "my", re.compile("[你您](?!们|家|好)"): "your"}


@dataclass(frozen=True, slots=True)
class _Tables:
    asks: tuple[tuple[str, re.Pattern[str]], ...]
    modality: tuple[tuple[str, re.Pattern[str]], ...]
    tense: tuple[tuple[str, re.Pattern[str]], ...]
    symmetric: re.Pattern[str]
    protected: re.Pattern[str]
    light: frozenset[str]
    negations: frozenset[str]
    keys: dict[str, str]
    """Words of the tables and what they become."""
    longest: int


def read(text: str) -> Question:
    """Returns the question; `text` has been found to be Chinese."""
    tables = _tables()
    plain = _END.sub("", unicodedata.normalize("NFKC", text).casefold().replace(" ", ""))
    asking = _asking(plain, tables)
    asks = next((name for name, pattern in tables.asks if pattern.search(asking)), "whether")
    modality = _first(tables.modality, asking) if asks == "whether" else ""
    tense = _first(tables.tense, asking) or "present"
    persons = {("", whose) for sign, whose in _PERSONS.items() if sign.search(plain)}
    for name, pattern in tables.asks:
        if name == asks:
            plain = pattern.sub("谁" if asks == "who" else "", plain) + ("价" if asks == "price" else "")
    both = "我" in plain and re.search("[你您]", plain) is not None
    plain = _CHOICE.sub(r"\1", _HAVE_OR_NOT.sub("有", plain))
    passive = _PASSIVE.match(plain)
    if passive is not None:
        plain = passive[2] + passive[1]
    taken = chinese_amounts.take(plain, tables.protected)
    terms = _terms(taken.text, taken.terms, tables, both=both)
    return Question(
        text,
        "zh",
        semantic=bool(terms),
        reason="" if terms else "it has no words to compare",
        asks="what" if asks == "price" else asks,
        modality=modality,
        tense=tense,
        persons=tuple(persons) if len(persons) == 1 else (),
        terms=terms,
        symmetric=tables.symmetric.search(plain) is not None,
    )


def _asking(plain: str, tables: _Tables) -> str:
    """The clause that asks, where the text tells something beside."""
    clauses = [clause for clause in _CLAUSE.split(plain) if clause]
    return next((one for one in clauses if any(pattern.search(one) for _, pattern in tables.asks)), plain)


def _first(patterns: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> str:
    """Name of the first pattern that is found; empty for none."""
    return next((name for name, pattern in patterns if pattern.search(text)), "")


def _terms(text: str, taken: list[Term], tables: _Tables, *, both: bool) -> tuple[Term, ...]:
    terms: list[Term] = []
    slots, negated, place = iter(taken), False, 0
    while place < len(text):
        word = _word(text, place, tables)
        place += len(word)
        if word in tables.negations:
            negated = True
            continue
        if word == MARK:
            term = next(slots)
        elif (word in tables.light and not (both and word in "我你您")) or not word.isalnum():
            continue
        else:
            term = Term(tables.keys.get(word, "你" if word == "您" else word), word, "word")
        terms.append(Term(term.key, term.shown, term.kind, negated=negated))
        negated = False
    if negated:
        terms.append(Term("#not", "不", "negation", negated=True))
    return tuple(terms)


def _word(text: str, place: int, tables: _Tables) -> str:
    """The longest known word here; else a word in Latin letters, or one sign."""
    protected = tables.protected.match(text, place)
    if protected is not None:
        return protected.group()
    for length in range(min(tables.longest, len(text) - place), 0, -1):
        word = text[place : place + length]
        if word in tables.keys or word in tables.light or word in tables.negations:
            return word
    latin = _WORD.match(text, place)
    return latin.group() if latin else text[place]


@functools.cache
def _tables() -> _Tables:
    chinese = table("chinese")
    keys: dict[str, str] = {}
    for line in lines(chinese["synonyms"]):
        head, *others = line.split()
        keys |= {word: keys.get(head, head) for word in (head, *others) if word not in keys}
    light, negations = words(chinese["light"]), words(chinese["negations"])
    known = [*keys, *light, *negations]
    protected = "|".join(sorted(map(re.escape, words(chinese["protected"])), key=len, reverse=True))
    return _Tables(
        asks=tuple((name, re.compile(pattern)) for name, pattern in chinese["asks"]),
        modality=tuple((name, re.compile(chinese[name])) for name in ("must", "should", "wish")),
        tense=tuple((name, re.compile(chinese[name])) for name in ("past", "future", "ongoing")),
        symmetric=re.compile(chinese["symmetric"]),
        protected=re.compile(protected),
        light=light,
        negations=negations,
        keys=keys,
        longest=max(map(len, known)),
    )
