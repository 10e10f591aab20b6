"""What a user's message holds: things to remember, questions, requests to forget, small talk."""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from mneme.orchestrator.models.offline.words import is_chinese, sentences, terms


class Topic(StrEnum):
    """Questions that need no memory."""

    IDENTITY = "identity"
    ABILITIES = "abilities"
    TIME = "time"
    TASK = "task"
    """A request for work that needs a language model."""


class SmallTalk(StrEnum):
    """Messages that hold nothing to remember."""

    GREETING = "greeting"
    THANKS = "thanks"
    GOODBYE = "goodbye"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Understanding:
    """A message taken apart. Each list keeps the message's order; all are empty for an empty message."""

    statements: tuple[str, ...] = ()
    """Clauses worth remembering, as the user wrote them."""
    questions: tuple[str, ...] = ()
    """Questions, and requests to tell something."""
    topics: frozenset[Topic] = frozenset()
    forget: tuple[str, ...] = ()
    """What should be forgotten."""
    small_talk: SmallTalk | None = None


_SMALL_TALK = (
    (
        SmallTalk.GREETING,
        r"(?:hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day)|how are you(?: doing)?(?: today)?|"
        r"nice to (?:meet|see) you|what'?s up|welcome back|(?:it'?s )?me again|"
        r"(?:你|您|大家)好(?:呀|啊|吗)?|嗨|哈喽|早上好|上午好|下午好|晚上好|早安|早|在吗|最近(?:怎么样|好吗)|很高兴认识你)",
    ),
    (
        SmallTalk.THANKS,
        r"(?:many |ok,? |great,? )?(?:thanks?|thank you|thx|cheers|much appreciated)(?: (?:a lot|so much|very much|again))?|"
        r"(?:好的?[，,]?)?(?:谢谢|多谢|感谢|辛苦了)(?:你|您|啦|了)?",
    ),
    (
        SmallTalk.GOODBYE,
        r"(?:good ?)?bye(?: bye)?|see (?:you|ya)(?: (?:later|soon|tomorrow))?|good ?night|take care|have a (?:nice|good|great) \w+|"
        r"再见|拜拜|回头见|明天见|晚安",
    ),
    (
        SmallTalk.OTHER,
        r"ok(?:ay)?|yes|yeah|yep|no|nope|sure|fine|great|good|nice|cool|right|exactly|perfect|wow|hmm+|i see|got it|"
        r"understood|never ?mind|sorry|please|test|testing|(?:that'?s|sounds) (?:ok|fine|great|good|nice|right|correct)|"
        r"i'?m (?:fine|good|ok(?:ay)?|back|here)|let me think|i have (?:a|another|one more) question|(?:can|may) i ask .*|"
        r"好的?|嗯+|是的?|对|不是|没有|没事|可以|行|明白了?|知道了|了解|哦|哈哈+|不错|没关系|对不起|抱歉|算了|测试|"
        r"我(?:有|想问)(?:一?个)?问题|我回来了|我来了",
    ),
)
_EDGE = "[\\s,.!?~;:，。！？、；：…'\"’“”]*"
_SMALL = tuple((kind, re.compile(f"^{_EDGE}(?:{pattern}){_EDGE}$", re.IGNORECASE)) for kind, pattern in _SMALL_TALK)
_OPENING = re.compile(
    rf"^(?:{_SMALL_TALK[0][1]}|{_SMALL_TALK[1][1]}|ok(?:ay)?|well|yes|no|sure|oh|嗯|好的|哦)(?:\s+(?:there|mneme|again|all))?"
    r"(?:[,!.，！。]\s*|\s+(?=(?:i|i'm|my|we|please|this)\b)|\s*$)",
    re.IGNORECASE,
)

_SUBJECT = (
    r"(?:i|you|he|she|it|they|we|there|this|that|these|those|my|your|his|her|its|their|our|the|an?|any\w*|some\w*|"
    r"every\w*|all|[A-Z]\w+)"
)
_AUXILIARY = r"(?:do|does|did|is|are|am|was|were|can|could|will|would|should|shall|may|might|must|have|has|had|isn'?t|aren'?t|don'?t|doesn'?t|didn'?t|can'?t|won'?t)"
_WH = r"(?:what|who|whom|whose|where|when|why|which|how)(?:'?s|'?re|'?d)?"
_FILLER = r"(?:(?:and|so|but|then|now|also|well|ok(?:ay)?|please|by the way|btw|quick question|question)[,:]?\s+)*"
_ENGLISH_QUESTION = re.compile(
    rf"^{_FILLER}(?:"
    rf"(?i:{_WH})\b(?!\s+(?i:i|we|my|our|it|he|she|they|the)\b)|"
    rf"(?i:{_AUXILIARY})\s+(?i:{_SUBJECT})\b|"
    r"(?i:(?:(?:can|could|would|will) you )?(?:please )?(?:tell|remind|show|give) me\b(?!\s+to\b)|"
    r"(?:please )?(?:list|recall|look up|search(?: for)?|find|guess|name|repeat|summari[sz]e|describe|explain|suggest|recommend)\b|"
    r"i (?:forgot|forget|can'?t remember|don'?t remember|can'?t recall|wonder|am wondering|was wondering)\s+"
    rf"(?:{_WH}|if|whether|my|our)\b|"
    r"i(?:'d| would)? (?:like|want|need) to know\b|what about\b|how about\b|any (?:idea|clue)\b|"
    r"(?:write|translate|calculate|compute|draw|generate|compose|help me|make me|create)\b))"
)
_ZH_WH = (
    r"什么|谁|哪|多少|怎么|怎样|如何|为什么|为何|何时|何地|是否|是不是|有没有|能不能|会不会|要不要|可不可以|该不该|对不对|"
    r"几(?=[岁点个号月只天周年次位口人分小])|周几|星期几|多(?=[大高重久长远快])|啥|咋|吗[？?。!！]*$|呢[？?。!！]*$"
)
_ZH_ANY = re.compile("(?:什么|谁|哪[里儿]?|怎么)(?:都|也)|没(?:有)?什么|几乎|一些什么")
_ZH_REQUEST = (
    r"^(?:请|麻烦)?(?:你)?(?:告诉我|提醒我一下我?|说说我|讲讲我|列出|列一下|回忆|帮我(?:查|找|搜|回忆|想)|查一下|找一下|搜一下|"
    r"给我(?:讲|写|说)|帮我(?:写|翻译|画|算)|翻译|写一|解释|推荐|总结)|还记得我|^我(?:忘了|不记得|想不起来|想知道)(?:自己|我)"
)
_CHINESE_QUESTION = re.compile(f"{_ZH_WH}|{_ZH_REQUEST}")
_STANDING = re.compile(
    r"\b(?:always|from now on|in (?:the )?future|every time|whenever|remember that|keep in mind|note that|make sure|"
    r"don'?t forget (?:that|to)|please (?:never|don'?t|do not|call|address|use|answer|reply|respond|speak|write|keep)|"
    r"call me|address me)\b|"
    r"以后|今后|从现在起|从今往后|往后|下次|记住|请记|记一下|记得要|别忘了|请(?:总是|一直|始终|务必|都|用|叫|称呼|不要|别)|(?:叫|称呼)我",
    re.IGNORECASE,
)
_ASKS_BACK = re.compile(
    r"\b(?:do|did|can|could|would|will) you (?:still )?(?:remember|recall|know|tell)\b|还?记得.*[吗？?]", re.IGNORECASE
)
_CONDITION = re.compile(r"^(?:if|when|suppose|assuming|unless)\b|^(?:如果|要是|假如|假设|万一|当)", re.IGNORECASE)
_ABOUT_TALK = re.compile(
    r"\bi\b.{0,12}\b(?:told|mentioned|said|asked|talked|explained|forgot|forget|can'?t remember|don'?t remember|wonder|"
    r"(?:want|need|would like|'d like) to (?:know|ask)|have a question)\b|\bwe (?:talked|spoke|discussed)\b|"
    r"说过|告诉过|提到|提过|聊过|讲过|问过|问你|问一下|忘了|不记得|想知道|想问|请问",
    re.IGNORECASE,
)
_FORGET = re.compile(
    r"^(?:please )?(?:forget|delete|remove|erase)(?: (?:about|that|what i (?:said|told you) about))*\s+(?!to\b|about it\b)(?P<what>.{2,})|"
    r"^(?:请|麻烦)?(?:你)?(?:忘记|忘掉|忘了|删除|删掉|清除)(?!我?带)(?P<zh>.{2,})",
    re.IGNORECASE,
)
_TOPICS = (
    (
        Topic.IDENTITY,
        r"(?:who|what) (?:exactly )?are you\b|are you (?:a |an )?(?:real |actual )?(?:human|person|bot|robot|ai|llm|language model|machine|"
        r"claude|gpt|chatgpt)|what(?:'?s| is) your name|(?:which|what) (?:language )?model (?:are|do) you|introduce yourself|"
        r"你是(?:谁|什么|哪个|人|真人|机器人|ai|语言模型)|你叫什么|你的名字|介绍一下(?:你)?自己|(?:什么|哪个)模型",
    ),
    (
        Topic.ABILITIES,
        r"what can you (?:do|help)|how (?:can|do) (?:you (?:help|work)|i use you)|^help\b|你(?:能|会|可以)(?:做|干)?(?:些|点)?(?:什么|啥)|"
        r"你有什么(?:功能|用)|怎么(?:使)?用你",
    ),
    (
        Topic.TASK,
        r"^(?:(?:can|could|would|will) you )?(?:please )?(?:write|translate|compose|draw|paint|calculate|compute|generate|code|sing)\b(?! down)|"
        r"^(?:请|麻烦)?(?:你)?(?:帮我|给我|替我)?(?:写|翻译|画|算|作)(?:一|个|首|段|下|篇)",
    ),
    (
        Topic.TIME,
        r"what(?:'?s| is) the (?:current )?(?:time|date)\b|what time is it|what (?:day|date) is (?:it|today)|what(?:'?s| is) today'?s date|"
        r"(?:现在|当前)(?:是)?(?:几点|什么时间|什么时候)|几点了|今天(?:是)?(?:几号|星期几|周几|什么日子|几月几)",
    ),
)
_TOPIC_PATTERNS = tuple((topic, re.compile(pattern, re.IGNORECASE)) for topic, pattern in _TOPICS)
_FIRST_PERSON = r"(?:i|i'm|i've|i'd|i'll|i’m|i’ve|i’d|i’ll|my|we|we're|we've|our)"
_JOINT = re.compile(
    rf"\s*;\s*|(?:\s*,\s*|\s+)(?:and|but|plus|also)(?:\s+also)?\s+(?={_FIRST_PERSON}\b)|\s*,\s*(?={_FIRST_PERSON}\b)",
    re.IGNORECASE,
)
_ZH_JOINT = re.compile(r"[，,；;](?:而且|并且|另外|还有|同时|但是?|不过|然后)?(?=我(?!们?(?:就|才|会|都|也|便)))")
_QUESTION_TAIL = re.compile(
    rf"^(?P<left>.{{6,}}?)[,，;；]\s*(?P<right>(?:(?:and|so|but)\s+)?(?:{_WH}|{_AUXILIARY}\s+{_SUBJECT})\b.*|[^，,]*(?:{_ZH_WH}).*)$",
    re.IGNORECASE,
)
_DEPENDENT = re.compile(
    r"^(?:when|while|if|because|since|after|before|although|though|as|whenever|until|unless|once)\b", re.IGNORECASE
)


@lru_cache(maxsize=1_024)
def understand(message: str) -> Understanding:
    """The message taken apart."""
    statements: list[str] = []
    questions: list[str] = []
    forget: list[str] = []
    small_talk: SmallTalk | None = None
    for sentence in sentences(message):
        kind = _small_talk(sentence)
        rest = "" if kind else _OPENING.sub("", sentence).strip()
        if kind or not rest:
            small_talk = small_talk or kind or SmallTalk.GREETING
            continue
        wish = _FORGET.match(rest)
        if wish and not is_question(rest):
            forget.append((wish["what"] or wish["zh"]).strip(" .!。！了吧"))
        elif is_question(rest):
            fact, question = _split_question(rest)
            statements.extend(_clauses(fact) if fact else ())
            questions.append(question)
        elif terms(rest):
            statements.extend(_clauses(rest))
    topics = frozenset(topic for topic, pattern in _TOPIC_PATTERNS if any(map(pattern.search, questions)))
    return Understanding(tuple(statements), tuple(questions), topics, tuple(forget), small_talk)


@lru_cache(maxsize=4_096)
def is_question(sentence: str) -> bool:
    """True for a question or a request to tell something; false for a standing instruction dressed as one."""
    if _STANDING.search(sentence) and not _ASKS_BACK.search(sentence) and not _ENGLISH_WH_START.match(sentence):
        return bool(_ZH_STRONG.search(sentence))
    if sentence.rstrip("\"'”’」） ").endswith(("?", "？")):
        return True
    if is_chinese(sentence):
        return bool(_CHINESE_QUESTION.search(_ZH_ANY.sub("", sentence)))
    return bool(_ENGLISH_QUESTION.match(sentence))


_ENGLISH_WH_START = re.compile(rf"^{_FILLER}{_WH}\b", re.IGNORECASE)
_ZH_STRONG = re.compile(r"(?:什么|谁|哪|多少|怎么|几).*[？?]$|(?:应该|该|要)(?:怎么|用什么|叫).*(?:什么|怎么|谁)")


def _small_talk(sentence: str) -> SmallTalk | None:
    return next((kind for kind, pattern in _SMALL if pattern.match(sentence)), None)


def _split_question(sentence: str) -> tuple[str, str]:
    """A stated fact in front of a question, or an empty text, and the question."""
    parts = _QUESTION_TAIL.match(sentence)
    if parts is None:
        return "", sentence
    left, right = parts["left"].strip(), parts["right"].strip()
    personal = re.search(r"\b(?:i|i'm|my|we|our)\b|我", left, re.IGNORECASE)
    if not personal or _CONDITION.match(left) or _ABOUT_TALK.search(left) or is_question(left):
        return "", sentence
    return left, right


def _clauses(sentence: str) -> list[str]:
    """A statement split where a new clause about the user begins; nothing for talk about the talk itself."""
    if _DEPENDENT.match(sentence) or '"' in sentence or "“" in sentence:
        pieces = [sentence]
    elif is_chinese(sentence):
        pieces = _ZH_JOINT.split(sentence) if sentence.startswith("我") else [sentence]
    else:
        pieces = _JOINT.split(sentence)
        if len(pieces[0].split()) < 2:
            pieces = [sentence]
    kept = [piece.strip(" ,，;；") for piece in pieces if len(terms(piece)) > 0]
    return [piece for piece in kept if not _ABOUT_TALK.search(piece)]
