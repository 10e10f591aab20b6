"""Reads an English question."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from itertools import pairwise

from mneme.semantic_cache.guards import amounts
from mneme.semantic_cache.guards.english_terms import Words, collect, is_past
from mneme.semantic_cache.guards.question import Question
from mneme.semantic_cache.guards.tables import table, words

_CONTRACTIONS = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\bcan(?:'t|not)\b", "can not"),
        (r"\bwon't\b", "will not"),
        (r"\bshan't\b", "shall not"),
        (r"n't\b", " not"),
        (r"\b(what|who|where|when|why|how|that|there|it|he|she)(?:'s\b|s(?= (?:the|a|an|your|my)\b))", r"\1 is"),
        (r"'re\b", " are"),
        (r"'ve\b", " have"),
        (r"'ll\b", " will"),
        (r"'d\b", " would"),
        (r"\bi'?m\b", "i am"),
        (r"\bid(?= (?:like|love)\b)", "i would"),
        (r"\bgonna\b", "going to"),
        (r"\bwanna\b", "want to"),
        (r"'s?(?=\W|$)", " "),
    )
)
_TOKEN = re.compile(rf"{amounts.MARK}|#?[^\W\d_]+|[,;:()]")
_CAPITAL = re.compile(r"(?<=[\w,;:'\")]\s)[\"'(]?([A-Z][\w'-]*)")
_SPACE = re.compile(r"\s+")
_CLAUSE = re.compile(r"^ *|[.!?,;:] +| [-–—] +")
_QUESTION = re.compile(
    r"(?:(?:and|so|but|in|on|at|for|from|to|of|with|by|until|since) )*(?:#\w+|what|which|who|whom|whose|where|why|how"
    r"|when(?! (?:i|you|we|they|it|the|my|your|an?)\b)"
    r"|is|are|am|was|were|do|does|did|can|could|will|would|shall|should|may|might|must|has|have|had)\b"
)
_WH = {
    "how": "how",
    "why": "why",
    "when": "when",
    "where": "where",
    "who": "who",
    "whom": "who",
    "whose": "whose",
    "what": "what",
    "which": "what",
    "#count": "count",
    "#duration": "duration",
    "#often": "often",
    "#far": "far",
    "#age": "age",
    "#degree": "degree",
    "#amount": "amount",
}
_ASKS_WHAT = words("list name describe explain give define summarize tell show")
_AUXILIARIES = words("is are am was were do does did can could will would shall should may might must has have had")
_PRESENT = words("is are am do does can could will would shall should may might must")
_INVERTING = words("do does did will would can could should must has have had")
_FUTURE = words("will shall")
# "Will you send …" offers, as "do you send …" does.
_OFFERS = words("you your")
_PLANNED = words("when duration how where why often")
_DO_I = {(auxiliary, who) for auxiliary in ("do", "will", "did", "shall") for who in ("i", "we")}
_RELATIVE = words("that which")
_PAST = words("was were did had")


def read(text: str) -> Question:
    """Returns the question; `text` has been found to be English."""
    spoken = text.replace("’", "'").replace("‘", "'").replace("`", "'")
    for pattern, replacement in _CONTRACTIONS:
        spoken = pattern.sub(replacement, spoken)
    taken = amounts.take(spoken)
    names = frozenset(match.casefold() for match in _CAPITAL.findall(taken.text))
    plain = f" {_SPACE.sub(' ', taken.text.casefold()).strip(' ?!.')} "
    auxiliaries = frozenset(_asking(plain).split()) & (_PRESENT | _PAST)
    for pattern, replacement in _frames():
        plain, count = pattern.subn(replacement, plain)
        if count:
            plain = _SPACE.sub(" ", plain)
    tokens: list[str] = _TOKEN.findall(plain)
    found, known = collect(tokens, taken.terms, names), frozenset(tokens)
    asking: list[str] = _TOKEN.findall(_asking(plain))
    asks = _asks(asking, marked="?" in text)
    return Question(
        text,
        "en",
        semantic=bool(found.terms),
        reason="" if found.terms else "it has no words to compare",
        asks=asks,
        modality=_modality(asks, asking),
        tense=_tense(asks, asking, auxiliaries),
        inverted=_is_inverted(asking),
        persons=tuple(sorted(found.persons)),
        terms=tuple(found.terms),
        symmetric=Words.get().is_symmetric(known),
    )


def _asking(plain: str) -> str:
    """The text from its first clause that begins like a question; all of it when none does."""
    for start in _CLAUSE.finditer(plain):
        if _QUESTION.match(plain, start.end()):
            return plain[start.end() :]
    return plain


@functools.cache
def _frames() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in table("english")["frames"])


def _asks(tokens: Sequence[str], *, marked: bool) -> str:
    first = next((token for token in tokens if token.isalpha() or token.startswith("#")), "")
    if first in _AUXILIARIES:
        return "whether"
    asked = next((_WH[token] for token in tokens if token in _WH), "")
    if asked:
        return asked
    # Without a verb it is a search, which names what it asks for, or asks whether it is there.
    verbal = any(token in _AUXILIARIES or token in ("possible", "allowed", "available") for token in tokens)
    return "whether" if (verbal or marked) and first not in _ASKS_WHAT else "what"


def _is_inverted(tokens: Sequence[str]) -> bool:
    """Whether an auxiliary stands between what is asked for and who acts."""
    at = next((place for place, token in enumerate(tokens) if _WH.get(token) in ("who", "what", "count")), None)
    return at is not None and any(token in _INVERTING for token in tokens[at + 1 : at + 4])


def _tense(asks: str, tokens: Sequence[str], auxiliaries: frozenset[str]) -> str:
    if _is_past(asks, tokens, auxiliaries):
        return "past"
    if asks in _PLANNED:
        # "When will it come", "when does it come".
        return "present"
    return "future" if auxiliaries & _FUTURE and not frozenset(tokens) & _OFFERS else "present"


def _is_past(asks: str, tokens: Sequence[str], auxiliaries: frozenset[str]) -> bool:
    """Whether it asks about the past: by its auxiliary, or by its verb where it has none ("who won")."""
    known = frozenset(tokens)
    if any(token in _PAST and before not in _RELATIVE for before, token in pairwise(["", *tokens])):
        return True
    unmarked = not auxiliaries and asks in ("who", "what", "count", "whose")
    perfect = ("has" in known or "have" in known) and not auxiliaries & _PRESENT
    return (unmarked or perfect) and any(is_past(token) for token in tokens)


def _modality(asks: str, tokens: Sequence[str]) -> str:
    known = frozenset(tokens)
    if known & Words.get().must:
        return "must"
    if asks != "whether":
        return ""
    if known & Words.get().should:
        return "should"
    return "do" if tuple(tokens[:2]) in _DO_I else ""
