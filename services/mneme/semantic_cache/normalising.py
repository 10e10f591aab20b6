"""The form in which two spellings of one question are equal.

Only spelling is levelled: width, case, spacing, quotation marks and the final punctuation. Whatever may change the
answer stays: numbers, superscripts (2¹⁰ is not 210), signs, negation, the case of units (5 mW, 5 MW), a factorial.
"""

from __future__ import annotations

import re
import unicodedata

_QUOTES = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "„": '"'})
# Numbers written as one sign (½, ②, Ⅻ): their plain form would join the digits beside them.
_NUMBERS = ("No", "Nl")
_RAISED = ("<super>", "<sub>")
_SPACE = re.compile(r"\s+")
_FINAL = " ?!.。…~"
# A number and the short word behind it: a unit, in which case has a meaning.
_UNIT = re.compile(r"(\d\s?)([^\W\d_]{1,3})\b")
_MARK = "\ue000"


def normalise(question: str) -> str:
    """Returns the question as the exact tier compares it; the same again when normalised again."""
    once = _once(question)
    while (again := _once(once)) != once:
        once = again
    return once


def _once(question: str) -> str:
    text = unicodedata.normalize("NFC", "".join(map(_plain, question))).translate(_QUOTES)
    text = _without_end(_SPACE.sub(" ", text).strip())
    units = [match.group(2) for match in _UNIT.finditer(text)]
    folded = _UNIT.sub(lambda match: match.group(1) + _MARK, text).casefold()
    parts = folded.split(_MARK)
    if len(parts) != len(units) + 1:
        return text
    return "".join(part + unit for part, unit in zip(parts, [*units, ""], strict=True))


def _without_end(text: str) -> str:
    """The text without its final punctuation; a factorial stays."""
    kept = text.rstrip(_FINAL)
    end = text[len(kept) :]
    factorial = len(end) - len(end.lstrip("!")) if kept[-1:].isdigit() else 0
    return kept + end[:factorial]


def _plain(character: str) -> str:
    """The compatibility form of a character, unless that would change a value."""
    if unicodedata.category(character) in _NUMBERS or unicodedata.decomposition(character).startswith(_RAISED):
        return character
    return unicodedata.normalize("NFKC", character)
