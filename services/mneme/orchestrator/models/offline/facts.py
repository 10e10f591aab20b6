"""A statement of the user as a line of memory, and whether it is news about an older one."""

import re
from dataclasses import dataclass

from mneme.orchestrator.models.offline.grammar import chinese_line, english_line, spoken
from mneme.orchestrator.models.offline.relations import attribute
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
    """True where the user says that something is over."""


def fact(statement: str) -> Fact:
    """The line of memory for a statement."""
    statement = " ".join(statement.split())
    if len(statement) > MAX_LINE_CHARS:
        return Fact(statement, "", changes=False, ends=False)
    text = _LEAD.sub("", statement).strip(" ,，")
    text = _TAIL.sub("", text).strip(" ,，.。!！;；")
    line = chinese_line(text) if is_chinese(text) else english_line(text)
    return Fact(line, attribute(text), bool(_CHANGE.search(statement)), bool(_END.search(statement)))


def updates(new: Fact, line: str) -> bool:
    """True where a stored line is an older value of what the new fact says."""
    if new.attribute and new.attribute == attribute(line):
        return True
    if not (new.changes or new.ends):
        return False
    old_terms, new_terms = terms(spoken(line)), terms(spoken(new.line))
    shared = {term for term in old_terms & new_terms if not term.isdigit()}
    return len(shared) >= (1 if new.ends else 2) and len(shared) * 2 >= min(len(old_terms), len(new_terms))


_LEAD = re.compile(
    "^"
    + any_of(
        any_of(
            r"actually|please|can you|could you|also|well|so|and|but|oh|ok(?:ay)?|hey|fyi|btw|by the way",
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
    r"\b(?:correction|not .{1,30} but|renamed|rescheduled|postponed|moved|changed|from now on|updated?|actually)\b",
    r"改成|改为|改到|改叫|更正|纠正|其实|不是.{1,12}(?:而)?是|推迟|提前到|变成|变了|更新",
)
_END = pattern(
    r"\b(?:no longer|any ?more|instead of|switched|gave up|given up|quit|stopped|used to|rather than|replaced?)\b",
    r"不再|换成|换了|戒了|戒掉",
)
