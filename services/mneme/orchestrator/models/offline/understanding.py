"""What a user's message holds: things to remember, questions, requests to forget, small talk."""

import re
from dataclasses import dataclass
from functools import lru_cache

from mneme.orchestrator.models.offline.questions import is_about_talk, is_either, is_question, split_question
from mneme.orchestrator.models.offline.topics import SmallTalk, Topic, small_talk, topics, without_opening
from mneme.orchestrator.models.offline.words import any_of, is_chinese, pattern, sentences, terms

MAX_TALK_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class Understanding:
    """A message taken apart. Each list keeps the message's order; all are empty for an empty message."""

    statements: tuple[str, ...] = ()
    """Clauses worth remembering, as the user wrote them."""
    questions: tuple[str, ...] = ()
    """Questions to memory, and requests to tell something."""
    topics: frozenset[Topic] = frozenset()
    forget: tuple[str, ...] = ()
    """What should be forgotten."""
    small_talk: SmallTalk | None = None


@lru_cache(maxsize=1_024)
def understand(message: str) -> Understanding:
    """The message taken apart. One too long to be talk is a single statement, whatever it says."""
    if len(message) > MAX_TALK_CHARS:
        return Understanding((message,))
    statements: list[str] = []
    questions: list[str] = []
    forget: list[str] = []
    kind: SmallTalk | None = None
    for sentence in sentences(message):
        idle = small_talk(sentence)
        rest = "" if idle else without_opening(sentence)
        if not rest:
            kind = kind or idle or SmallTalk.GREETING
        elif wish := _wish_to_forget(rest):
            forget.append(wish)
        elif told := _TELLING.match(rest):
            statements.extend(_clauses(rest[told.end() :].rstrip("?？")))
        elif is_question(rest):
            fact, question = split_question(rest)
            fact = rest if is_either(rest) else fact or _embedded(rest)
            statements.extend(_clauses(fact) if fact else ())
            questions.append(question)
        elif statements and _CONTINUES.match(rest) and not is_about_talk(rest):
            statements[-1] = f"{statements[-1]} {rest}"
        elif terms(rest):
            statements.extend(_clauses(rest))
    to_memory = tuple(question for question in questions if not topics([question]))
    return Understanding(tuple(statements), to_memory, topics(questions), tuple(forget), kind)


def _wish_to_forget(sentence: str) -> str:
    """What the sentence asks to forget; empty when it asks no such thing."""
    wish = _FORGET.match(sentence)
    return wish["what"].strip(" .!。！了吧") if wish and not is_question(sentence) else ""


def _embedded(question: str) -> str:
    """A fact that a question takes for granted ("Does it matter that I …?"); empty for none."""
    found = _TAKEN_FOR_GRANTED.search(question)
    return found["fact"] if found else ""


def _clauses(sentence: str) -> list[str]:
    """A statement split where a new clause about the user begins; nothing for talk about the talk itself."""
    pieces = [sentence]
    if is_chinese(sentence):
        pieces = _CHINESE_JOINT.split(sentence) if sentence.startswith("我") else pieces
    elif not _DEPENDENT.match(sentence) and '"' not in sentence:
        pieces = _ENGLISH_JOINT.split(sentence)
    if len(pieces[0].split()) < 2 and not is_chinese(sentence):
        pieces = [sentence]
    kept = [piece.strip(" ,，;；") for piece in pieces if terms(piece)]
    return [piece for piece in kept if not is_about_talk(piece)]


_TELLING = pattern(
    r"^(?:did|have) i (?:ever |already )?"
    r"(?:mention(?:ed)?|tell you|told you|say|said)\s+(?:that\s+|(?=(?:i|we)(?:['’]|\s)))",
    r"^did you know\s+(?:that\s+(?=(?:i|we|my|our)\b)|(?=(?:i|we)(?:['’]|\s)))",
    r"^i (?:almost |nearly )?(?:forgot to|should|must|wanted to|want to|have to|need to) (?:also )?"
    r"(?:mention|say|tell you|add|let you know)(?: that)?,?\s+(?=(?:i|my|we|our)\b)",
    "^(?:我)?忘了(?:跟你)?(?:说|告诉你|讲)[，,]?(?=我)|^你知道吗[，,]?|^我(?:有没有)?(?:跟你)?说过(?:没有?)?[，,](?=我)",
)
"""Questions in form that tell something."""
_FORGET = re.compile(
    any_of(
        r"^(?:please )?forget(?: (?:about|that|what i (?:said|told you) about))*\s+(?!to\b|about it\b|it\b)",
        r"^(?:please )?(?:delete|remove|erase)\s+(?=(?:my|our|that|what|the|everything|all)\b)",
        r"^(?:请|麻烦)?(?:你)?(?:忘记|忘掉|忘了)(?!我?带)",
        r"^(?:请|麻烦)?(?:你)?(?:把)?(?:删除|删掉|清除)(?=我|关于|那|这|所有|记忆)",
    )
    + r"(?P<what>(?:(?![,;] ?i\b|[，；]我).){2,})$",
    re.IGNORECASE,
)
_TAKEN_FOR_GRANTED = pattern(
    r"\b(?:told you|does it matter|is it (?:ok|okay|fine|a problem)|(?:do|whether|if) you know)(?: that)?\s+"
    r"(?P<fact>i(?:['’]m|['’]ve| am| have| can['’]?t| don['’]?t)\b[^?.!]*)"
)
_FIRST_PERSON = r"(?:i|i['’]m|i['’]ve|i['’]d|i['’]ll|my|we|we['’]re|we['’]ve|our)\b"
_ENGLISH_JOINT = pattern(
    rf"\s*;\s*(?={_FIRST_PERSON})",
    rf"(?:\s*,\s*|\s+)(?:and|but|plus|also)(?:\s+also)?\s+(?={_FIRST_PERSON})",
    rf"\s*,\s*(?={_FIRST_PERSON})",
)
_CHINESE_JOINT = re.compile(r"[，,；;](?:而且|并且|另外|还有|同时|但是?|不过|然后)?(?=我(?!们?(?:就|才|会|都|也|便)))")
_CONTINUES = pattern(
    r"^(?:he|she|it|they|his|her|hers|its|their|this|that|these|those|there|both|"
    r"one of them|the new one|the other one)(?:['’]\w+)?\b",
    "^[他她它其这那]",
)
"""Sentences that nobody understands without the one before."""
_DEPENDENT = pattern(r"^(?:when|while|if|because|since|after|before|although|though|as|whenever|until|unless|once)\b")
