"""What a text gives away by its wording: a standing wish, a change, a question about now. English and Chinese.

These are cues for ranking, never filters: a text without them can be any of these, and a cue alone proves nothing.
"""

from __future__ import annotations

import re

READ_CHARS = 1_000
"""Characters of a text that are looked at; people say early what they want."""

_HOW_MUCH = (
    "really|always|usually|generally|strongly|absolutely|also|only|never|rather|particularly|much|just|personally"
    "|typically|definitely|still|tend to|try to"
)
_LIKING = (
    "prefer|like|love|hate|dislike|avoid|enjoy|favou?r|detest|loathe|despise|appreciate|stand|tolerate|eat|drink"
    "|allergic|intolerant|averse|vegan|vegetarian|passionate|opposed|sensitive|fond|into"
)
_STANDING = re.compile(
    rf"""
    \b(?:i|we)(?:\ (?:{_HOW_MUCH}))*(?:'m|'ve|'d|\ (?:am|are|have|do|would|will|can|can't|cannot))?(?:\ not|n't)?
        (?:\ (?:{_HOW_MUCH}))*
        \ (?:{_LIKING})\b
    |\bmy\ (?:favou?rite|preference|preferred)\b
    |\b(?:allerg(?:y|ic)|aversion|preference\ for|fan\ of|opposed\ to)\b
    |我[们]?(?:很|最|也|都|更|特别|非常|比较|一直|真的|从不|从来不|从来没|不太|不|只|没法|受不了)*(?:喜欢|喜爱|爱吃|爱喝|爱看|爱听|热爱
        |讨厌|偏好|偏爱|习惯|倾向|吃|喝|过敏|能吃|能喝|接受)
    |受不了|过敏|忌口|吃素|我的(?:最爱|偏好|习惯)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_INSTRUCTION = re.compile(
    r"""
    (?:^|[.!?]\s+)(?:please\s+|and\s+)?(?:always|never|do\ not\ ever|don't\ ever|from\ now\ on)\b,?\s+\w+
    |\b(?:whenever|when|every\ time|each\ time)\ i\ ask\b
    |(?:^|[。！？，\s])(?:请)?(?:总是|始终|务必|一律|千万不要|千万别|永远不要|从现在起|从今以后|以后(?:都|请|不要|别))
    |每(?:当|次)我(?:问|说|提)
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
# fmt: off
_STANDING_HINTS = (
    "prefer", "like", "love", "hate", "dislike", "avoid", "enjoy", "favor", "favour", "detest", "loathe", "despise",
    "appreciate", "stand", "tolerate", "eat", "drink", "allerg", "intoleran", "averse", "aversion", "vegan",
    "vegetarian", "passionate", "opposed", "sensitive", "fond", "into", "fan",
    "喜", "爱", "热", "讨厌", "偏", "习惯", "倾向", "吃", "喝", "过敏", "接受", "受不了", "忌口",
)
# fmt: on
_INSTRUCTION_HINTS = (
    *("always", "never", "ever", "from now", "i ask"),
    *["总是", "始终", "务必", "一律", "千万", "永远不要", "从现在起", "从今以后", "以后", "每当我", "每次我"],
)
_MOVED = (
    r"(?:chang|updat|increas|decreas|reduc|rais|lower|improv|extend|shorten|postpon|reschedul|mov|switch|replac|bump"
    r"|expand|upgrad|downgrad|revis|shift|delay|promot)\w*|grown?|grew|ris(?:en|e)|rose|dropped|reached|cut"
)
_CHANGE = re.compile(
    rf"""
    \b(?:recently|lately|already|no\ longer|not\ any\ ?more|nowadays|these\ days|from\ now\ on|as\ of\ (?:now|today)
    |(?:has|have|had|is|are|'s|'re|'ve)\ (?:now|since)|(?:so|but)\ now
    |now\ (?:has|have|is|are|at|reached|it|i|we|the|my|our)
    |(?:{_MOVED})\s+(?:\w+\W+){{0,6}}?(?:to|from|by|with|into)
    |(?:the|my|our|a)\ (?:new|latest|revised|updated)|changed\ my\ mind|instead\ of|turns\ out|correction|actually)\b
    |现在(?:是|有|在|住|叫|用|改|换|变|已)|最近|不再|已经|改(?:为|成|到|用|在)|换(?:成|到|了)|搬(?:到|去|家)|变成
    |更新|(?:增加|减少|提高|降低|上升|下降|推迟|提前|延长|缩短|升级|调整|涨|降)(?:到|至|为|了)|新的|其实
    """,
    re.VERBOSE | re.IGNORECASE,
)
_OF_THE_PAST = re.compile(
    r"\b(?:originally|initially|previously|before|used to|at first|first|earlier|in the past|back then)\b"
    r"|原来|原先|以前|之前|最初|当初|曾经|起初",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:what|which|when|where|who|whom|whose|how (?:many|much|long|often|far|old|big|large|high|fast)|do i|am i"
    r"|is my|are my)\b|几|多少|什么|哪|谁|多(?:久|远|大|高|快)|吗|何时",
    re.IGNORECASE,
)
_OF_THE_AGENT = re.compile(
    r"\b(?:did|have|had) you\b|\byou(?:'ve| had| have)? "
    r"(?:said|told|suggest\w*|recommend\w*|mention\w*|gave|give|wrote|explain\w*|propos\w*|advis\w*|list\w*)\b"
    r"|你(?:之前|上次|曾经|刚才)?(?:说|讲|建议|推荐|提到|告诉|写|给|列)",
    re.IGNORECASE,
)
_CODE = re.compile(r"[a-z]+[._/:-]?\d{2,}.*|\d{6,}|(?=.*\d)(?=.*[a-f])[0-9a-f]+(?:-[0-9a-f]+)+|.+@.+", re.IGNORECASE)


def is_standing(text: str) -> bool:
    """Returns whether a text states what somebody likes, avoids or cannot bear."""
    return _hints(text, _STANDING_HINTS) and bool(_STANDING.search(text, 0, READ_CHARS))


def is_instruction(text: str) -> bool:
    """Returns whether a text says how to behave from now on."""
    return _hints(text, _INSTRUCTION_HINTS) and bool(_INSTRUCTION.search(text, 0, READ_CHARS))


def states_change(text: str) -> bool:
    """Returns whether a text says that something is otherwise than it was."""
    return bool(_CHANGE.search(text, 0, READ_CHARS))


def asks_of_now(question: str) -> bool:
    """Returns whether a question asks for a value as it is, not as it was."""
    return bool(_ASKS.search(question)) and not _OF_THE_PAST.search(question)


def asks_of_the_agent(question: str) -> bool:
    """Returns whether a question is about what the agent said."""
    return bool(_OF_THE_AGENT.search(question))


def is_code(term: str) -> bool:
    """Returns whether a term identifies one thing: an order number, a part number, an address, a long number."""
    return bool(_CODE.fullmatch(term))


def _hints(text: str, hints: tuple[str, ...]) -> bool:
    # A tenth of the time of the patterns, which most texts are spared so.
    opening = text[:READ_CHARS].casefold()
    return any(hint in opening for hint in hints)
