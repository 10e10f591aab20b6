"""A statement of the user as a line of memory, and whether it is news about an older one."""

import re
from dataclasses import dataclass

from mneme.orchestrator.models.offline.grammar import chinese_line, english_line, spoken
from mneme.orchestrator.models.offline.relations import attribute, relative, thing
from mneme.orchestrator.models.offline.words import any_of, is_chinese, pattern, terms

MAX_LINE_CHARS = 400
"""A longer statement is a text of its own: it goes to archival memory."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to remember."""

    line: str
    """One line for a memory block: in the third person where that is safe, else a quotation."""
    attribute: str
    """What the fact gives the only value of; empty where several such facts can be true at once."""
    changes: bool
    """True where the user says that something changed."""
    ends: bool
    """True where the user says that something is over or otherwise than before."""
    adds: bool
    """True where the user says that something comes on top."""


def fact(statement: str) -> Fact:
    """The line of memory for a statement."""
    statement = " ".join(statement.split())
    if len(statement) > MAX_LINE_CHARS:
        return Fact(statement, "", changes=False, ends=False, adds=False)
    text = _LEAD.sub("", statement).strip(" ,，")
    text = _TAIL.sub("", text).strip(" ,，.。!！;；")
    line = chinese_line(text) if is_chinese(text) else english_line(text)
    return Fact(
        line,
        attribute(text),
        changes=bool(_CHANGE.search(statement)),
        ends=bool(_END.search(statement)),
        adds=bool(_ADDITION.search(statement)),
    )


def updates(new: Fact, line: str) -> bool:
    """True where a stored line is an older value of what the new fact says."""
    if new.attribute and new.attribute == attribute(line):
        return True
    if new.adds or not (new.changes or new.ends):
        return False
    about = thing(new.line)
    if about and about == thing(line):
        return True
    if relative(new.line) != relative(line):
        return False
    old_terms, new_terms = terms(spoken(line)), terms(spoken(new.line))
    shared = {term for term in old_terms & new_terms if not term.isdigit()}
    enough = 1 if new.ends else 2
    return len(shared) >= enough and len(shared) * _PART >= min(len(old_terms), len(new_terms))


_PART = 4
"""One term of so many must be shared. Chinese terms overlap, so a new word changes two of them."""
_LEAD = re.compile(
    "^"
    + any_of(
        any_of(
            r"(?:can|could|would|will) you(?: please)?",
            r"actually|please|also|well|so|and|but|oh|ok(?:ay)?|hey|fyi|btw|by the way",
            r"just so you know|for the record|for your information|you should know(?: that)?",
            r"(?:i want|i'd like|i would like) you to (?:know|remember)(?: that)?",
            r"(?:remember|note|keep in mind|bear in mind|don'?t forget|be aware|save|write down)(?: that| this)?",
        )
        + r"\s*[,:]?\s+(?=\S)",
    )
    + "+|^"
    + any_of(
        any_of(
            "请|麻烦|帮我|你|顺便说一?下?|其实|对了|另外|还有|而且|不过|但是?|嗯|哦",
            "请?记住|请?记一?下|记得|别忘了|告诉你|跟你说|提醒你?一?下?",
        )
        + "[，,：:、]?",
    )
    + r"+(?=[\u4e00-\u9fff])",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"[,，]?\s*"
    + any_of(
        r"by the way|btw|please|thanks|thank you|ok(?:ay)?\?",
        "好吗[？?]?|好不好[？?]?|可以吗[？?]?|行吗[？?]?|谢谢|请记住|记一下",
    )
    + r"\s*[.!。！]*$",
    re.IGNORECASE,
)
_CHANGE = pattern(
    r"\b(?:renamed|updated?|actually|from now on)\b",
    r"\b(?:rescheduled|postponed|moved|changed|slipped|pushed|delayed|extended|brought forward)\b",
    r"改成|改为|改到|改叫|改在|更正|纠正|其实|不是.{1,12}(?:而)?是|推迟|延期|提前|变成|变了|更新|说错了|取消",
)
_END = pattern(
    r"\b(?:correction|i was wrong|i meant|by mistake|not .{1,30} but)\b",
    r"\b(?:no longer|any ?more|instead of|instead|rather than|used to|turns out|after all|these days|now|lately)\b",
    r"\b(?:switched|swapped|traded|upgraded|downgraded|replaced?|became|turned|gave up|given up|quit|stop(?:ped)?)\b",
    r"\b(?:closed|sold|left|retired|broke up|cancel(?:l)?ed|scratch that|the new one)\b",
    r"不再|换成|换了|换到|戒了|戒掉|已经不|原来不|升级|改[喝吃用坐学开穿看去走骑做当]|不能再",
)
_ADDITION = pattern(
    r"\b(?:also|too|as well|another|second|third|additionally|besides|both)\b", "也|还|又|另外|另一|第二|再养|再买"
)
