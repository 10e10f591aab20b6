"""Messages that need no memory: small talk, and questions about the model itself."""

import re
from collections.abc import Iterable
from enum import StrEnum

from mneme.orchestrator.models.offline.words import any_of, pattern


class SmallTalk(StrEnum):
    """Sentences that hold nothing to remember."""

    GREETING = "greeting"
    THANKS = "thanks"
    GOODBYE = "goodbye"
    OTHER = "other"


class Topic(StrEnum):
    """Questions that memory does not answer."""

    IDENTITY = "identity"
    ABILITIES = "abilities"
    TASK = "task"
    """A request for work that needs a language model."""
    TIME = "time"


def small_talk(sentence: str) -> SmallTalk | None:
    """The kind of small talk that a whole sentence is; None for anything else."""
    return next((kind for kind, whole in _WHOLE.items() if whole.match(sentence)), None)


def without_opening(sentence: str) -> str:
    """A sentence without the greeting or thanks it begins with; empty where nothing follows."""
    return _OPENING.sub("", sentence).strip()


def topics(questions: Iterable[str]) -> frozenset[Topic]:
    """The topics that any of the questions raises."""
    return frozenset(topic for question in questions for topic, asks in _TOPICS.items() if asks.search(question))


_GREETING = any_of(
    r"hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day)",
    r"how are you(?: doing)?(?: today)?|nice to (?:meet|see) you|what'?s up|guess what|welcome back",
    r"(?:it'?s )?me again",
    r"(?:你|您|大家)好(?:呀|啊|吗)?|嗨|哈喽|早上好|上午好|下午好|晚上好|早安|早|在吗|最近(?:怎么样|好吗)|很高兴认识你",
)
_THANKS = any_of(
    r"(?:many |ok,? |great,? )?(?:thanks?|thank you|thx|cheers|much appreciated)"
    r"(?: (?:a lot|so much|very much|again))?",
    r"(?:好的?[，,]?)?(?:谢谢|多谢|感谢|辛苦了)(?:你|您|啦|了)?",
)
_GOODBYE = any_of(
    r"(?:good ?)?bye(?: bye)?|see (?:you|ya)(?: (?:later|soon|tomorrow))?|good ?night|take care",
    r"have a (?:nice|good|great) \w+",
    r"再见|拜拜|回头见|明天见|晚安",
)
_OTHER = any_of(
    r"ok(?:ay)?|yes|yeah|yep|no|nope|sure|fine|great|good|nice|cool|right|exactly|perfect|wow|hmm+",
    r"i see|got it|understood|never ?mind|sorry|please|test|testing|let me think",
    r"(?:that'?s|sounds) (?:ok|fine|great|good|nice|right|correct)|i'?m (?:fine|good|ok(?:ay)?|back|here)",
    r"i have (?:a|another|one more) question|(?:can|may) i ask .*",
    r"好的?|嗯+|是的?|对|不是|没有|没事|可以|行|明白了?|知道了|了解|哦|哈哈+|不错|没关系|对不起|抱歉|算了|测试",
    r"我(?:有|想问)(?:一?个)?问题|我回来了|我来了",
)
_EDGE = "[\\s,.!?~;:，。！？、；：…'\"’“”]*"
_WHOLE = {
    kind: re.compile(f"^{_EDGE}{words}{_EDGE}$", re.IGNORECASE)
    for kind, words in (
        (SmallTalk.GREETING, _GREETING),
        (SmallTalk.THANKS, _THANKS),
        (SmallTalk.GOODBYE, _GOODBYE),
        (SmallTalk.OTHER, _OTHER),
    )
}
_OPENING = re.compile(
    f"^{any_of(_GREETING, _THANKS, r'ok(?:ay)?|well|yes|no|sure|oh|嗯|好的|哦')}"
    r"(?:\s+(?:there|mneme|again|all))?(?:[,!.，！。]\s*|\s+(?=(?:i|i'm|my|we|please|this)\b)|\s*$)",
    re.IGNORECASE,
)
_TOPICS = {
    Topic.IDENTITY: pattern(
        r"(?:who|what) (?:exactly )?are you\b|what(?:'?s| is) your name|introduce yourself",
        r"are you (?:a |an )?(?:real |actual )?(?:human|person|bot|robot|machine|ai|llm|language model|(?:chat)?gpt)",
        r"(?:which|what) (?:language )?model (?:are|do) you",
        r"你是(?:谁|什么|哪个|人|真人|机器人|ai|语言模型)|你叫什么|你的名字|介绍一下(?:你)?自己|(?:什么|哪个)模型",
    ),
    Topic.ABILITIES: pattern(
        r"what can you (?:do|help)|how (?:can|do) (?:you (?:help|work)|i use you)\b|^help[.!?\s]*$",
        r"你(?:能|会|可以)(?:做|干)?(?:些|点)?(?:什么|啥)|你有什么(?:功能|用)|怎么(?:使)?用你",
    ),
    Topic.TASK: pattern(
        r"^(?!.*\b(?:my|i)\b)(?:(?:can|could|would|will) you )?(?:please )?"
        r"(?:write|translate|compose|draw|paint|calculate|compute|generate|code|sing)\b(?! down)",
        r"^(?!.*我的)(?:请|麻烦)?(?:你)?(?:帮我|给我|替我)?(?:写|翻译|画|算|作)(?:一|个|首|段|篇)",
    ),
    Topic.TIME: pattern(
        r"what(?:'?s| is) the (?:current )?(?:time|date)(?: (?:now|today|right now))?[?.!\s]*$",
        r"what(?:'?s| is) the current (?:time|date)\b|what(?:'?s| is) today'?s date\b",
        r"what (?:time|day|date) is (?:it|today)(?: (?:now|today|right now))?[?.!\s]*$",
        r"^(?:请问)?(?:现在|当前)(?:是)?(?:几点|什么时间)|^几点了|^今天(?:是)?(?:几号|星期几|周几|什么日子|几月几)",
    ),
}
