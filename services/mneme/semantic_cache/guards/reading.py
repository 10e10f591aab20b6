"""Parses a question into what the guards compare."""

from __future__ import annotations

import functools
import re

from mneme.semantic_cache.guards import chinese, english
from mneme.semantic_cache.guards.english_terms import Words, stem
from mneme.semantic_cache.guards.question import Question
from mneme.semantic_cache.guards.tables import table, words

_LONGEST = 1000
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")


def read(text: str) -> Question:
    """Returns a question as the guards see it; of a language without tables, one that is never compared."""
    if len(text) > _LONGEST:
        return _refused(text, "it is too long to be compared")
    if _HAN.search(text):
        return _refused(text, "it mixes scripts") if _KANA_HANGUL.search(text) else chinese.read(text)
    if _is_english(text):
        return english.read(text)
    return _refused(text, "its language has no tables")


def _refused(text: str, reason: str) -> Question:
    return Question(text, "other", semantic=False, reason=reason)


def _is_english(text: str) -> bool:
    """Whether more of its words are English joining words than those of its neighbours."""
    found = {word.casefold() for word in _WORD.findall(text.replace("’", "'"))}
    if any(not word.isascii() and not word.isalpha() for word in found):
        return False
    ours, others = _joining()
    foreign = len(found & others - ours)
    if not found & ours:
        # A search has no joining words: a word of the tables has to tell.
        return not foreign and text.isascii() and any(stem(word) in Words.get().phrases for word in found)
    return len(found & ours) >= 2 * foreign


@functools.cache
def _joining() -> tuple[frozenset[str], frozenset[str]]:
    english_tables = table("english")
    ours = words(english_tables["light"]) | words("not no and or but if does did because there's what's how's")
    return ours, words(english_tables["foreign"])
