"""A small thesaurus: everyday concepts, the English and Chinese words for them, and which concepts touch.

It lets a question meet an answer that shares no word with it ("Where do I live?", "My flat is in …"), also
across the two languages. The words stand in `lexicon.toml`.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from mneme.orchestrator.models.offline.words import chinese_runs, english_words, is_chinese, stem

VAGUE = frozenset({"place", "date", "time", "like", "avoid", "style"})
"""Concepts that question words and modal verbs raise: weak evidence on their own."""
_SYNONYMS = 40
"""Words of a concept worth searching for: the first are the most central."""
_PROFESSION = re.compile(
    r"\b(?:am|is|was|as|be|become|became|['’]m) an? (?:[\w-]+ ){0,2}?[\w-]+(?:ist|[^h]er|or|cian|ant|yst|eer)\b"
)
"""Professions have no end, but most share a few endings."""
_NUMBERS = re.compile(r"\d|[一二三四五六七八九十百千万两]")


@dataclass(frozen=True, slots=True)
class _Index:
    """The table turned around: from words to concepts."""

    stems: Mapping[str, frozenset[str]]
    phrases: tuple[tuple[str, str], ...]
    chinese: Mapping[str, frozenset[str]]
    longest_chinese: int
    english_words: Mapping[str, Sequence[str]]
    chinese_words: Mapping[str, Sequence[str]]
    related: Mapping[str, frozenset[str]]


@lru_cache(maxsize=8_192)
def concepts(text: str) -> frozenset[str]:
    """Names of the concepts that a text touches, in either language."""
    index = _index()
    found: set[str] = set()
    lowered = text.lower()
    for phrase, name in index.phrases:
        if phrase in lowered:
            found.add(name)
            lowered = lowered.replace(phrase, " ")
    for word in english_words(lowered):
        found |= index.stems.get(stem(word), frozenset())
    if _PROFESSION.search(lowered):
        found.add("job")
    for run in chinese_runs(text):
        for word in _longest_matches(run, index):
            found |= index.chinese[word]
    return frozenset(found)


def synonyms(text: str) -> list[str]:
    """The leading words of the concepts that a text touches, in its language, without its own; empty for none."""
    index = _index()
    rows = index.chinese_words if is_chinese(text) else index.english_words
    own = set(text.lower().split())
    return [word for name in sorted(concepts(text) - VAGUE) for word in rows[name][:_SYNONYMS] if word not in own]


def related(name: str) -> frozenset[str]:
    """Names of the concepts that touch a concept."""
    return _index().related[name]


def has_number(text: str) -> bool:
    """True where a text states a number, in digits or Chinese numerals."""
    return bool(_NUMBERS.search(text))


@cache
def _index() -> _Index:
    table = tomllib.loads(files(__package__).joinpath("lexicon.toml").read_text(encoding="utf-8"))
    stems: dict[str, set[str]] = {}
    chinese: dict[str, set[str]] = {}
    phrases: list[tuple[str, str]] = []
    touching: dict[str, set[str]] = {name: set() for name in table}
    for name, row in table.items():
        for word in row["en"].split():
            if "_" in word:
                phrases.append((word.replace("_", " "), name))
            else:
                stems.setdefault(stem(word), set()).add(name)
        for word in row["zh"].split():
            chinese.setdefault(word, set()).add(name)
        for other in row.get("related", "").split():
            touching[name].add(other)
            touching[other].add(name)
    return _Index(
        stems={word: frozenset(names) for word, names in stems.items()},
        phrases=tuple(phrases),
        chinese={word: frozenset(names) for word, names in chinese.items()},
        longest_chinese=max(map(len, chinese)),
        english_words={name: row["en"].replace("_", "-").split() for name, row in table.items()},
        chinese_words={name: row["zh"].split() for name, row in table.items()},
        related={name: frozenset(names) for name, names in touching.items()},
    )


def _longest_matches(run: str, index: _Index) -> Iterator[str]:
    """The words of the table in a run of characters, longest first from the left."""
    at = 0
    while at < len(run):
        for length in range(min(index.longest_chinese, len(run) - at), 0, -1):
            if run[at : at + length] in index.chinese:
                yield run[at : at + length]
                at += length
                break
        else:
            at += 1
