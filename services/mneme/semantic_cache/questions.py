"""Tells a question that stands for itself from everything else, so that nothing else is ever looked up.

A statement must reach the model, which may have to remember it; an elliptical question means another thing in each
conversation. Both mistakes are not alike: a question taken for a statement costs one model call, a statement taken for
a question may lose a fact. So whatever is not clearly a self-contained question is not looked up. English and
Chinese have tables; in other languages only a text that ends with a question mark and is no fragment counts.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Kind(StrEnum):
    """What a text is."""

    QUESTION = "question"
    """A question that can be answered without its conversation."""
    ELLIPTICAL = "elliptical"
    """A question that needs its conversation."""
    STATEMENT = "statement"
    """Anything else, also where only one sentence of several is one."""


_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_ASKS = re.compile(r"[?？؟;]\s*[\"'”’)）»]*\s*$")
_ABBREVIATION = re.compile(r"\b(dr|mr|mrs|ms|prof|st|vs|no|nr|inc|ltd|co|e\.g|i\.e|etc|u\.s|u\.k)\.", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?。！？；;…])(?=\s|[^\x00-\x7f])|(?<=[。！？；])|\n+")
_FRAGMENT_WORDS = 4


def classify(text: str) -> Kind:
    """Returns what a text is, as the worst of its sentences: statement, then elliptical, then question."""
    joined = _ABBREVIATION.sub(lambda match: match.group(1), text.replace("’", "'"))
    sentences = [part.strip() for part in _SENTENCE.split(joined) if part and re.search(r"\w", part)]
    kinds = {_sentence(sentence) for sentence in sentences} - {None}
    if not kinds or Kind.STATEMENT in kinds:
        return Kind.STATEMENT
    return Kind.ELLIPTICAL if Kind.ELLIPTICAL in kinds else Kind.QUESTION


def _sentence(sentence: str) -> Kind | None:
    """The kind of one sentence; None for a greeting, which says nothing."""
    if _HAN.search(sentence) and not _KANA_HANGUL.search(sentence):
        return _chinese(sentence)
    return _english(sentence)


# English

_FILLER = re.compile(
    r"^(?:(?:hi|hello|hey|hiya|good (?:morning|afternoon|evening|day)|dear (?:all|team)|please|pls|thanks|thank you"
    r"|cheers|thx|ta)(?: very much| so much| a lot| in advance| there| all| team)?\b[\s,.!:;-]*"
    r"|(?:many thanks|ok|okay|well|so|um+|excuse me|sorry|quick (?:question|one)|question|just wondering"
    r"|(?:i )?hope (?:you are|you're|all is|this finds you) (?:doing )?well|much appreciated)\b[\s,.!:;-]*)+",
    re.IGNORECASE,
)
# "I'd like to know whether …" asks, and tells nothing.
_ASKS_INDIRECTLY = re.compile(
    r"^(?:(?:and|so|hi|hello)\W+)?(?:i(?:'d| would) (?:like|love) to (?:know|ask|find out|check)|i(?: want(?:ed)?"
    r"| need) to (?:know|ask|check)"
    r"|i(?:'m| am| was)(?: just)? (?:wondering|curious|asking)|(?:can|could|may|might) i (?:just )?(?:ask|check|know)"
    r"|(?:do|would) you (?:happen to )?know|(?:can|could|would|will) you (?:please |kindly )?(?:tell me|let me know"
    r"|say|confirm|check)"
    r"|(?:just )?wondering|(?:please )?(?:tell me|let me know)|any idea)(?: about)?,? "
    r"(?=(?:if|whether|what|which|who|whom|whose|where|when|why|how)\b)(?:(?:if|whether)\b)?",
    re.IGNORECASE,
)
_INTERROGATIVE = r"what(?:'s|s|'re)?|who(?:'s|m|se)?|which|where(?:'s)?|when(?:'s)?|why(?:'s)?|how(?:'s)?"
_AUXILIARY = (
    r"is|are|am|was|were|do|does|did|can|could|will|would|shall|should|may|might|must|has|have|had"
    r"|isn't|aren't|wasn't|weren't|don't|doesn't|didn't|can't|cannot|couldn't|won't|wouldn't|shouldn't|hasn't|haven't"
)
_SUBJECT = (
    r"i|you|he|she|it|we|they|there|the|a|an|my|your|his|her|its|our|their|this|that|these|those|any|some|all|every"
    r"|each|both|no|most|many|more|people|someone|anyone|everyone"
)
_PREPOSITION = r"(?:in|on|at|for|from|to|of|with|by|about|under|until|since|during|after|before)\s+"
_ASKS_ENGLISH = re.compile(rf"^(?:{_PREPOSITION})?(?:{_INTERROGATIVE}|{_AUXILIARY})\b", re.IGNORECASE)
# Without a question mark the order of words must show it: "where is the shop", not "where I live".
_ASKS_UNMARKED = re.compile(
    rf"^(?:{_PREPOSITION})?(?:"
    rf"(?:what|which|where|when|why|how)(?:'s|s|'re)?\b(?!\s+(?:i|you|he|she|it|we|they|an?|my|your|our|the)\b)"
    rf"|who(?:'s|m|se)?\b(?!\s+(?:i|you|we|they)\b)"
    rf"|(?:is|are|am|was|were|does|did|can|could|will|would|shall|should|may|must|has)(?:n't)?\s+(?:{_SUBJECT}|\w+s?)\b"
    rf"|(?:do|have|had|don't|haven't)\s+(?:{_SUBJECT})\b(?!.*\bplease$))",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"^(?:(?:can|could|would|will) you (?:please )?)?(?:tell me|explain|describe|define|list|name|show me|summari[sz]e"
    r"|compare|translate|calculate|compute|give me (?:a|an|the|some|all|examples?))\b",
    re.IGNORECASE,
)
# A clause of this kind tells something, also in front of a question.
_TELLS = re.compile(
    r"^(?:and |but |because |since |as |if |when |while |now )?(?:i|i'm|i've|i'd|i'll|we|we're|we've|my|our|this is"
    r"|that is|that's|it's|it is|call me|remember|note that|fyi|for your information|there is"
    r"|there are|let me|let's)\b",
    re.IGNORECASE,
)
_COMMANDS = re.compile(
    r"^(?:(?:can|could|will|would) you (?:please |kindly )?|please |kindly )?"
    r"(?:remember|memori[sz]e|note|write|remind|save|store|forget|delete|remove|update|change|book|order|buy|cancel"
    r"|send"
    r"|schedule|call|set|sign|make sure|keep in mind)\b",
    re.IGNORECASE,
)
_OPENS_ON_CONTEXT = re.compile(
    r"^(?:and|but|or|then|also|plus|what about|how about|what else|who else|where else|anything else|any others?"
    r"|anyone else|which ones?|what if(?=(?: \S+){0,2}$)|same|really|are you sure|such as|like what|how so|how come"
    r"|why not|more|continue|go on|again|yes|no|nope|yeah)\b",
    re.IGNORECASE,
)
_POINTS_ELSEWHERE = re.compile(
    r"\b(?:it|its|it's|they|them|their|theirs|they're|he|she|him|her|hers|his|he's|she's|these|those"
    r"|(?:the |that |this |which |another |other |first |second |third |last |next )ones?"
    r"|others|(?:the|any) other(?! way| hand| side)|another(?=$| one)|former|latter|previous|previously|the above"
    r"|above$|below$"
    r"|aforementioned|earlier$|instead$|(?:what|who|where|anything) else$|there (?:anything|anyone) else|too$|either$"
    r"|(?:have|take|get) both$|the two (?:is|are)|which of the two|that again|say again|again$(?<=^.{25})"
    r"|same(?=$| (?:for|in|with|about|question|goes|as)\b)|likewise|as well$|just now|so far"
    r"|you (?:just )?(?:said|mentioned|told|meant|wrote|suggested|listed)"
    r"|(?:did|have|had) (?:i|you|we) (?:just )?(?:say|said|mention|mentioned|tell|told|ask|asked|mean|discuss)"
    r"|we (?:just )?(?:discussed|talked|said)"
    r"|this(?! (?:year|month|week|weekend|morning|afternoon|evening|quarter|season|spring|summer|autumn|winter|time)\b)"
    r"|(?:^|, )that (?:is|was)|that(?=$|\s+(?:one|mean|means|work|works|cost|costs|be|for|in|of|to|at|on|go|go\w*"
    r"|do|does|still)\b)"
    r"|(?:is|are|was|were|do|does|did|about|of|for|with|like|after|before|than|why|how|if|would|will|can|could) that"
    r"|(?:over|in|out|up|from|go|get|going|back|be|been|were|to) there|here)\b",
    re.IGNORECASE,
)
# An "it" that stands for nothing, or for what the same sentence named before.
_EMPTY_IT = re.compile(
    r"\bhow (?:much )?\w+ is it (?:to|when|if)\b|\b(?:than|from|to) the one (?=i|you|we|that|which)"
    r"|\b(?:is|was|would|will) it (?:be )?(?!close|near|next|similar|equal|related|going back)"
    r"(?:[a-z]+ ){0,2}[a-z]+(?: for (?:me|us|my \w+|\w+))? (?:to|that|if)\b"
    r"|\b(?:does|did|will|would) it (?:take|cost)(?: (?:me|us|you|one|people|customers))? (?:to|for)\b"
    r"|^it(?:'s| is) [a-z]+ (?:to|that|for)\b|\bwill it (?:rain|snow)\b",
    re.IGNORECASE,
)
_NAMED_BEFORE = re.compile(
    r"(?P<named>\b(?:when|once|if|after|while|as soon as|because|since|until) (?:the|my|your|our"
    r"|an?) (?:[\w'-]+ ){1,4}?"
    r"(?:is|are|was|were|has|have|does|did|breaks?|arrives?|arrived|broke|comes?|came|gets?|got|doesn't"
    r"|isn't)\b[^,?-]*(?:,| -|–) .*?)"
    r"\b(?:it|they|them)\b"
    r"|(?P<object>\b(?:the|my|your|our|an?) (?:[\w'-]+ ){1,4}(?:without|before|after|and|or)(?: [\w']+){1,3}) (?:it"
    r"|them)\b"
    r"|(?P<subject>\b(?:[\w'-]+ ){3,}(?:if|when|because|once|until|unless|after|before|and what is)) (?:it"
    r"|they)(?= [a-z]+|'re\b|'s\b|$)"
    r"|(?P<either>\b(?:is|are) (?:the|my|your|our|an?) (?:[\w'-]+ ){2,8}or how \w+ (?:does|do|is|are)) (?:it|they)\b",
    re.IGNORECASE,
)
# Words with which a search asks without a verb: "gold membership annual fee".
_SEARCHES = re.compile(
    r"\b(?:prices?|costs?|fees?|charges?|rates?|hours|times?|address|policy|options?|how|where|when|which|size"
    r"|sizes|sizing|chart"
    r"|weight|limit|deadline|requirements?|eligibility|compatib\w+|availab\w+|possible|allowed|discounts?|warranty"
    r"|guide|instructions"
    r"|contact|number|dimensions|capacity|resolution|difference|vs|service|documents|replacement|delivery|return"
    r"|refund)\b",
    re.IGNORECASE,
)
_NO_SEARCH = re.compile(
    r"\b(?:i|i'm|i've|me|my|mine|we|our|us|you|your|he|she|it|they|this|that|these|those|is|are|was|were|am|be|been"
    r"|has|have|had"
    r"|do|does|did|will|would|please|not|no|yes|the (?:other|same)|one)\b|[.,!;:=]|n't\b",
    re.IGNORECASE,
)
_SEARCH_WORDS = range(3, 9)
_BARE = re.compile(
    rf"^(?:(?:{_INTERROGATIVE}|much|many|long|far|old|often|for|so|then|now|exactly|really|not|to|from|with"
    rf"|(?:{_AUXILIARY})|i|you|we|there|one)\s*)+$",
    re.IGNORECASE,
)
_WHO_ARE_YOU = re.compile(
    r"^(?:who|how|what) (?:are|can|do) you(?: do)?$|^(?:who|what) am i$|^how old are you$", re.IGNORECASE
)


def _english(sentence: str) -> Kind | None:
    marked = bool(_ASKS.search(sentence))
    text = _FILLER.sub("", sentence).strip(" \t,.!?？;:\"'()")
    if not text:
        return None
    indirect = _ASKS_INDIRECTLY.match(text)
    if indirect is not None or _is_search(text, marked=marked):
        rest = text[indirect.end() :].strip() if indirect else ""
        return Kind.ELLIPTICAL if rest and _needs_context(rest) else Kind.QUESTION
    clauses = [clause.strip() for clause in re.split(r"[,;:]\s|\s[-–—]\s", text)]
    asks = [bool(_ASKS_ENGLISH.match(clause) or _REQUEST.match(clause)) for clause in clauses]
    told = any(_TELLS.match(clause) and not ask for clause, ask in zip(clauses, asks, strict=True))
    if told or _COMMANDS.match(text):
        return Kind.STATEMENT
    if not marked and not any(_ASKS_UNMARKED.match(clause) or _REQUEST.match(clause) for clause in clauses):
        return Kind.ELLIPTICAL if _OPENS_ON_CONTEXT.match(text) else Kind.STATEMENT
    fragment = not any(asks) and len(text.split()) <= _FRAGMENT_WORDS
    if fragment or _needs_context(text):
        return Kind.ELLIPTICAL
    return Kind.QUESTION


def _is_search(text: str, *, marked: bool) -> bool:
    """Whether a text without a verb names all that is asked for, as one types into a search field."""
    words = text.split()
    if (
        not text.isascii()
        or len(words) not in _SEARCH_WORDS
        or _NO_SEARCH.search(text)
        or _OPENS_ON_CONTEXT.match(text)
    ):
        return False
    return not _ASKS_ENGLISH.match(text) and (
        (marked and len(words) > _FRAGMENT_WORDS) or _SEARCHES.search(text) is not None
    )


def _needs_context(text: str) -> bool:
    if _WHO_ARE_YOU.match(text):
        return False
    rest = _EMPTY_IT.sub(" ", text)
    rest = _NAMED_BEFORE.sub(lambda match: next(part for part in match.groups() if part), rest)
    return bool(_OPENS_ON_CONTEXT.match(text) or _BARE.match(text) or _POINTS_ELSEWHERE.search(rest))


# Chinese

_ASKS_CHINESE = re.compile(
    r"什么|甚么|啥|谁|哪|怎么|怎样|怎麼|咋|如何|为什么|为何|為什麼|几(?=[个点岁月号天年次种位家条元块])|多少|多久|多大|多长|多远|多高|多重"
    r"|是否|有没有|有沒有|能不能|可不可以|可否|能否|是不是|会不会|會不會|要不要|对不对|行不行|好不好|何时|何处|吗|嗎|么(?=[?？]|$)"
)
_REQUEST_CHINESE = re.compile(
    r"^(?:请|麻烦)?(?:你|您)?(?:能|可以)?(?:帮我|给我)?(?:问一下|问|告诉我|解释|介绍|列出|说明|描述|比较|翻译|计算|总结)"
)
_FILLER_CHINESE = re.compile(
    r"^(?:(?:你好|您好|嗨|早上好|下午好|晚上好|请问|打扰一下|打扰了|不好意思|谢谢|多谢|麻烦了?|辛苦了|好的|嗯)(?:啊|呀|啦|您|你|了)?[\s,，。.!！:：、]*)+"
)
_TELLS_CHINESE = re.compile(r"^(?:我|我们|咱们|本人|请?记住|请?记得|请?记下|顺便说|因为我|由于我|如果我|既然我)")
_COMMANDS_CHINESE = re.compile(r"记住|记得|记下|别忘|提醒我|帮我(?:订|取消|删|改|发|买|设)|忘掉|删除我|叫我")
_OPENS_ON_CONTEXT_CHINESE = re.compile(
    r"^(?:那么?|那|这么?|还有|然后|另外|而且|所以|但是|可是|不过|或者|以及|还|再|又|继续|同样|真的|确定|你确定|比如|例如|其他|其它|别的)"
)
_POINTS_ELSEWHERE_CHINESE = re.compile(
    r"它|[她牠]|(?<![其吉])他|这(?!边)|那(?!不勒斯|曲|英|几天)|其他|其它|别的|另外?一|前者|后者|上面|上述|以上|前面|后面|刚才|刚刚|之前(?:说|提|讲)"
    r"|你(?:刚|之前)?(?:说|提到|讲)的|我(?:刚|之前)(?:说|问|提)|也(?!门|许|可以$)|此(?=[人事物时种类])|该(?=[人事物产店公服])|同样|再(?:说|来|讲|给)"
)
_BARE_CHINESE = re.compile(
    r"^(?:为什么不?(?:行|可以|能)?|为何|改成.*|怎么(?:办|样|说|回事)?|什么|啥|谁|哪(?:个|里|儿|些|种|一个)?|几(?:个|点)?|多少(?:钱)?|多久|多大|何时|什么时候"
    r"|什么意思|是|对|好|可以|行|真的|是真的|确定|如何|第[一二三四五六七八九十\d]+个|下一个|换一个|详细点|具体点)(?:吗|呢|呀|啊|吧)?$"
)
_NO_SEARCH_CHINESE = re.compile(r"[我你您他她它这那]|了$|是|[,，。.;；:：!！?？]")
_SEARCH_PARTS = range(2, 6)
_PARTICLE = re.compile(r"呢[?？!！。\s]*$")


def _is_search_chinese(text: str) -> bool:
    """Whether a text is parts with spaces between them, as nobody writes but in a search field."""
    parts = text.split()
    return len(parts) in _SEARCH_PARTS and _NO_SEARCH_CHINESE.search(text) is None


def _chinese(sentence: str) -> Kind | None:
    marked = bool(_ASKS.search(sentence))
    text = _FILLER_CHINESE.sub("", sentence).strip(" \t,，.。!！?？;；:：\"'“”()（）")
    if not text:
        return None
    if _is_search_chinese(text):
        return Kind.QUESTION
    clauses = [clause.strip() for clause in re.split(r"[,，;；:：]\s*", text) if clause.strip()]
    asks = [bool(_ASKS_CHINESE.search(clause) or _REQUEST_CHINESE.match(clause)) for clause in clauses]
    told = any(_TELLS_CHINESE.match(clause) and not ask for clause, ask in zip(clauses, asks, strict=True))
    if told or _COMMANDS_CHINESE.search(text) or not (marked or any(asks) or _PARTICLE.search(sentence)):
        return Kind.STATEMENT
    trailing = bool(_PARTICLE.search(text)) and not any(asks)
    fragment = not any(asks) and len(text) <= _FRAGMENT_WORDS
    context = (
        _OPENS_ON_CONTEXT_CHINESE.match(text) or _BARE_CHINESE.match(text) or _POINTS_ELSEWHERE_CHINESE.search(text)
    )
    if trailing or fragment or context:
        return Kind.ELLIPTICAL
    return Kind.QUESTION
