"""Tells questions from statements, in English and Chinese."""

import re
from functools import lru_cache

from mneme.orchestrator.models.offline.words import any_of, is_chinese, pattern


@lru_cache(maxsize=4_096)
def is_question(sentence: str) -> bool:
    """True for a question or a request to tell something; false for a standing instruction dressed as one."""
    if _STANDING.search(sentence) and not _ASKS_BACK.search(sentence) and not _WH_START.match(sentence):
        return bool(_CHINESE_ASKS_HOW.search(sentence))
    if sentence.rstrip("\"'”’」） ").endswith(("?", "？")):
        return True
    if _MANNER.match(sentence):
        return False
    if is_chinese(sentence):
        return bool(_CHINESE_QUESTION.search(_CHINESE_ANY.sub("", sentence)))
    return bool(_ENGLISH_QUESTION.match(sentence))


def is_either(sentence: str) -> bool:
    """True where only the speaker knows whether it asks for something or states it ("I forgot my …")."""
    return not sentence.rstrip().endswith(("?", "？")) and bool(_EITHER.search(sentence))


def split_question(sentence: str) -> tuple[str, str]:
    """A fact stated in front of a question, or an empty text, and the question."""
    parts = _FACT_THEN_QUESTION.match(sentence)
    if parts is None:
        return "", sentence
    fact, question = parts["fact"].strip(), parts["question"].strip()
    if not _PERSONAL.search(fact) or _CONDITION.match(fact) or is_about_talk(fact) or is_question(fact):
        return "", sentence
    return fact, question


def is_about_talk(clause: str) -> bool:
    """True for talk about the conversation itself ("I told you …", "I forgot …"), which states no fact."""
    return bool(_ABOUT_TALK.search(clause))


_SUBJECT = any_of(
    r"i|you|he|she|it|they|we|there|this|that|these|those|my|your|his|her|its|their|our|the|an?|all",
    r"any\w*|some\w*|every\w*|(?-i:[A-Z][a-z]\w*)",
)
_PRONOUN = r"(?:i|you|u|he|she|it|they|we|there|this|that|anyone|anybody|someone|everyone)"
_AUXILIARY = any_of(
    r"do|does|did|is|are|am|was|were|can|could|will|would|should|shall|may|might|must|have|has|had",
    r"isn'?t|aren'?t|don'?t|doesn'?t|didn'?t|can'?t|won'?t",
)
_INVERSION = any_of(
    rf"(?:does|did|is|are|am|was|were|can|could|will|would|should|shall|may|might|must|has|isn'?t|aren'?t)\s+{_SUBJECT}\b",
    rf"(?:do|have|had|don'?t|doesn'?t|didn'?t|can'?t|won'?t)\s+{_PRONOUN}\b",
)
"""Auxiliary before subject. Some auxiliaries also begin orders ("have a look", "don't forget")."""
_WH = r"(?:what|who|whom|whose|where|when|why|which|how)(?:'?s|'?re|'?d)?"
_FILLER = r"(?:(?:and|so|but|then|now|also|well|ok(?:ay)?|please|by the way|btw|quick question|question)[,:]?\s+)*"
_ENGLISH_QUESTION = re.compile(
    f"^{_FILLER}"
    + any_of(
        rf"{_WH}\s+{_AUXILIARY}\b",
        r"(?:what|who|where|when|why|how)(?:['’](?:s|re|d)|s)\b",
        rf"(?:in|at|to|on|for|with|from|by|of|about|since)\s+{_WH}\b",
        r"(?:is|are|does|did)\s+\w+\b(?!.*\.$)",
        r"(?:which|who|whose)\b(?!\s+(?:i|we|my|our|it|he|she|they|the)\b)[^,:.]*$",
        rf"{_WH}\s+(?:i|we|my)\s+\w+(?:\s+\w+)?$",
        rf"{_WH}\b(?!\s+(?:i|we|you|it|he|she|they)\b).*\b{_INVERSION}",
        rf"{_WH}\b(?!\s+(?:i|we|my|our|it|he|she|they|the)\b)(?:\s+\S+){{0,5}}\s*$",
        rf"(?!(?:should|had|were)\b[^?]*, ){_INVERSION}",
        r"(?:(?:can|could|would|will) you )?(?:please )?(?:tell|remind|show|give) me\b(?!\s+to\b)",
        r"(?:please )?(?:list|recall|look up|search(?: for)?|find|guess|name|repeat|summari[sz]e|describe)"
        rf"\s+(?:all|every\w*|some\w*|any\w*|me|my|our|the|an?|one|{_WH})\b(?! that\b)",
        rf"(?:please )?(?:explain|suggest|recommend)\s+(?:all|some\w*|any\w*|me|my|our|the|an?|one|{_WH})\b",
        r"i (?:forgot|forget|can'?t remember|don'?t remember|can'?t recall|wonder|am wondering|was wondering)\s+"
        rf"(?:{_WH}|if|whether|my|our)\b",
        rf"i(?:'d| would)? (?:like|want|need) to know (?:{_WH}|if|whether|about|my|more)\b",
        r"what about\b|how about\b|any (?:idea|clue)\b",
        r"(?:write|translate|calculate|compute|draw|generate|compose|help me|make me|create)\b",
    ),
    re.IGNORECASE,
)
_WH_START = re.compile(rf"^{_FILLER}{_WH}\b", re.IGNORECASE)
_CHINESE_WH = any_of(
    r"什么|谁|哪|多少|怎么|怎样|如何|为什么|为何|何时|何地|啥|咋",
    r"是否|是不是|有没有|能不能|会不会|要不要|可不可以|该不该|对不对|有.{1,8}没有[？?。]*$|.{2,}了没[？?。]*$",
    r"几(?=[岁点个号月只天周年次位口人分小楼层路条辆间])|周几|星期几|多(?=[大高重久长远快])",
    r"[吗呢][？?。!！]*$",
)
_CHINESE_ANY = re.compile(
    any_of(
        r"(?:什么|谁|哪|怎么|多少|多大|几)[^，,。？?]{0,6}?[都也]",
        r"(?:不管|无论|不论)[^，,]*|^谁(?:要是|如果)|(?<!有)没(?:有)?什么|几乎|一些什么",
    )
)
"""Question words that ask nothing: "everything", "whoever", "nothing much"."""
_CHINESE_REQUEST = any_of(
    r"^(?:请|麻烦)?(?:你)?"
    + any_of(
        r"告诉我(?!老|爸|妈|们|家|朋|同)|提醒我一下我?|(?:说说|说一下|讲讲|聊聊|谈谈|介绍一下)(?:.{0,6})我",
        r"列出|列一下|回忆|查一下|找一下|搜一下|翻译|写一|解释|推荐|总结",
        r"帮我(?:查|找|搜|回忆|想|写(?!下)|翻译|画|算)|给我(?:讲|写|说)",
    ),
    r"还记得我|^我的[^是在有叫为了，,]{1,6}$|^我(?:忘了|不记得|想不起来|想知道)(?:自己|我)",
)
_CHINESE_QUESTION = re.compile(any_of(_CHINESE_WH, _CHINESE_REQUEST))
_CHINESE_ASKS_HOW = re.compile(
    any_of(r"(?:什么|谁|哪|多少|怎么|几).*[？?]$", r"(?:应该|该|要)(?:怎么|用什么|叫).*(?:什么|怎么|谁)")
)
_STANDING = pattern(
    r"\b(?:always|from now on|in (?:the )?future|every time|whenever|call me|address me)\b",
    r"\b(?:remember that|keep in mind|note that|make sure|don'?t forget (?:that|to))\b",
    r"\b(?:can|could|would|will) you (?:please )?(?:remember|note|save|write down)\b"
    r"(?=.*(?:\b(?:that|is|are|was|am|have|has|will)\b|[:='’]))",
    r"\bplease (?:never|don'?t|do not|call|address|use|answer|reply|respond|speak|write|keep)\b",
    r"\b(?:would you mind \w+ing|can we agree|let['’]?s agree)\b",
    r"以后|今后|从现在起|从今往后|往后|下次|记住|请记|记一下|记得要|别忘了",
    r"请(?:总是|一直|始终|务必|都|用|叫|称呼|不要|别)|(?:叫|称呼)我",
)
"""Instructions that hold from now on, often put as polite questions."""
_MANNER = pattern(
    r"^(?:please )?(?:explain|describe|summari[sz]e|suggest|recommend|write|translate|speak|talk)\b(?!.*\bmy\b).*\b"
    r"(?:things|everything|anything|only|just|every|each|never|always|to me|with me|as if|like i['’]?m|units?)\b",
    r"^(?:please )?(?:explain|describe|summari[sz]e|write|translate|speak|talk)\b.*\b"
    r"(?:in|with|without) (?:\w+ )?(?:english|chinese|french|german|spanish|spelling|words|terms|language|style|points|"
    r"bullets|sentences?|emojis?|jargon)\b",
)
"""Orders about how to do a thing whenever it is done."""
_EITHER = pattern(
    r"^i (?:forgot|forget) my\b.*\b(?:at|in|on|with)\b",
    rf"^(?:please )?(?:give|show) me (?!my\b|the\b|all\b|{_WH}|everything\b|a list\b)",
    r"^(?:please )?tell me (?:when|if)\b",
    r"^我的[^是在有叫为了，,]{1,6}$|有几[个只位条辆次](?=.{4,})",
)
_ASKS_BACK = pattern(
    r"\b(?:do|did) you (?:still )?(?:remember|recall|know)\b",
    rf"\b(?:can|could|would|will) you (?:still )?(?:recall|tell|(?:remember|say) {_WH})\b",
    r"还?记得.*[吗？?]|^你.{0,4}记住.*(?:什么|哪|谁|多少|几|了吗|了没)",
)
_PERSONAL = pattern(r"\b(?:i|i'm|my|we|our)\b", "我")
_CONDITION = pattern(r"^(?:if|when|suppose|assuming|unless)\b", r"^(?:如果|要是|假如|假设|万一|当)")
_ABOUT_TALK = pattern(
    r"\bi(?:['’]ve| have)? (?:just |already |once )?(?:told|asked) you\b|\bwe (?:talked|spoke|discussed) about\b",
    r"\bi(?:['’]d| would)? (?:want|need|like) to ask (?:you|something|a question|about|if|whether)\b",
    r"\bi(?:['’]d| would)? (?:want|need|like) to know (?:if|whether|about)\b",
    r"\bi have a question\b|\bi (?:wonder|was wondering|am wondering)\b",
    r"我.{0,6}(?:说过|告诉过|提到过|提过|聊过|讲过|问过)(?!.*我)|告诉过你|跟你说过|问你|想知道|想问|请问",
)
_FACT_THEN_QUESTION = re.compile(
    r"^(?P<fact>.{6,}?)[,，;；]\s*(?P<question>"
    + any_of(
        rf"(?:(?:and|so|but)\s+)?(?:{_WH}|{_INVERSION})\b.*",
        rf"[^，,]*{_CHINESE_WH}.*",
    )
    + ")$",
    re.IGNORECASE,
)
