"""The form in which two spellings of one question are equal.

Only spelling and courtesy are levelled: width, case, spacing, quotation marks, the final punctuation, and greetings and
thanks that stand apart. Whatever may change the answer stays: numbers, superscripts (2¹⁰ is not 210), signs, negation,
the case of units (5 mW, 5 MW), a factorial, and a courtesy that is spoken of ("how do I say thanks").
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
# The closed list of what is said out of courtesy alone; punctuation must set it apart, but for 请问, which only opens.
_GREETING = re.compile(
    r"^(?:(?:hi|hello|hey|hiya|good (?:morning|afternoon|evening|day)|dear (?:all|team))"
    r"(?: there| all| team| everyone)?"
    r"|(?:hi|hello|hey)?,? ?(?:hope (?:you are|you're|all is) (?:doing )?well|hope this finds you well)"
    r"|thanks(?: in advance)?|thank you|please|excuse me|sorry if this was asked before"
    r"|(?:just a )?quick (?:question|one)"
    r"|(?:客服)?[你您]好(?:啊|呀)?|亲|在吗|早上好|下午好|晚上好|打扰一下|打扰了|不好意思)"
    r"(?: ?[,.!?:;]+ ?| [–-]+ )(?=\w)|^请问(?:一下)?[,:]? ?(?=\w)"
)
# Its quantifiers are bounded, as it is tried at every sign of the text.
_THANKS = re.compile(
    r"(?<=[\w!])(?P<end>[.!?]{0,3})(?:(?<=[.!?]) ?| ?[,;]{1,3} ?| [–-] )"
    r"(?:(?:many )?thanks|thank you|cheers|thx|please|much appreciated|谢谢|多谢|麻烦了|辛苦了)"
    r"(?: in advance| a lot| very much| so much)?[啦你您了啊]?$"
)


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
    return _bare("".join(part + unit for part, unit in zip(parts, [*units, ""], strict=True)))


def _bare(text: str) -> str:
    """The text without the greeting before it and the thanks after it; one that is nothing else stays."""
    return _THANKS.sub(r"\g<end>", _GREETING.sub("", text))


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
