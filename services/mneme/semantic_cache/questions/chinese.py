"""What a Chinese sentence does."""

from __future__ import annotations

import re

from mneme.semantic_cache.questions.part import Part, Points, Role

_ASKS = re.compile(r"[?？]\s*[\"'”’)）»]*\s*$")
_FRAGMENT_SIGNS = 4

_ASKS_CHINESE = re.compile(
    r"什么|甚么|啥|谁|哪|怎么|怎样|怎麼|咋|如何|为什么|为何|為什麼|几(?=[个点岁月号天年次种位家条元块])|多少|多久|多大|多长|多远|多高|多重"
    r"|是否|有没有|有沒有|能不能|可不可以|可否|能否|是不是|会不会|會不會|要不要|对不对|行不行|好不好|何时|何处|吗|嗎|么(?=[?？]|$)|([\u4e00-\u9fff])不\1"
    r"|[\u4e00-\u9fff]不$|还是"
)
_REQUEST_CHINESE = re.compile(
    r"^(?:请|麻烦)?(?:你|您)?(?:能|可以)?(?:帮我|给我)?(?:问一下|问|告诉我|解释|介绍|列出|说明|描述|比较|翻译|计算|总结)"
)
_FILLER_CHINESE = re.compile(
    r"^(?:(?:你好|您好|嗨|早上好|下午好|晚上好|请问(?:一下)?|客服|亲|在吗|在不在|有人吗|哈[喽啰]|急|救命|求助|想问一下|问一下|打扰一下|打扰了|不好意思|谢谢|多谢|麻烦了?|辛苦了|好的"
    r"|嗯)(?:啊|呀|啦|您|你|了|哈)?[\s?？~～,，。.!！:：、]*)+"
)
# What the model must learn at once: who the user is, what is good for them, how to behave, what was wrong.
_LASTS_CHINESE = re.compile(
    r"记住|记得|记下|别忘|提醒我|帮我(?:订|取消|删|改|发|买|设)|忘掉|删除我|叫我|称呼我|顺便说|以后(?:都|请|不|别|用|回|要|就)|从现在(?:起|开始)"
    r"|我(?:的名字|姓|叫(?!了|的)|是(?!.{0,8}(?:会员|顾客|用户|新手|客户|买家|想|要|说|在))|(?:的)?生日是|属|今年|出生|喜欢|爱|讨厌|偏好|更?喜|习惯|信|不(?:吃|喝"
    r"|喜欢|爱)|从不|总是)"
    r"|我(?:们)?(?:刚|已经|最近|上周|昨天|已)?(?:搬(?:家|到|去|进)?|结婚|离婚|退休|怀孕|换工作)(?!运)|过敏|不耐受|素食|吃素|糖尿病|哮喘|怀孕|孕妇"
    r"|我(?:的)?(?:新)?(?:电话|手机号|邮箱|地址|职业|工作)(?:是|为|改成)|我在.{1,8}(?:工作|上班|上学|读书)|我(?:老婆|老公|妻子|丈夫|儿子|女儿|妈妈|爸爸|姐姐|妹妹|哥哥"
    r"|弟弟|猫|狗)(?:叫|是|喜欢|今年)"
    r"|^(?:不是|不对|错了|更正|纠正|其实我|我的意思是|我是说|我说的是)|说错了|搞错了|回答(?:时|我|要)|用(?:中文|英文|英语)(?:回答|回复)"
)
# How a clause begins that only tells; "简短点" may want something.
_DECLARES_CHINESE = re.compile(
    r"^(?:亲|那个|因为|由于|如果|要是|假如|既然|虽然|但|可|刚|今天|昨天|最近|上周|现在)*(?:我|我们|咱们|本人|家里|公司|朋友|孩子|女儿|儿子|想|打算|准备|这|买|下单|订单|收到|没有|有)"
    r"|了(?:[^，,]{0,6})$|坏|破|丢|少了|不见|不合适|还没|不想|不会|不能|不小心|没法|无法"
)
_OPENS_ON_CONTEXT_CHINESE = re.compile(
    r"^(?:那么?|那|这么?|还有|然后|另外|而且|所以|但是|可是|不过|或者|以及|还(?!没|未|需)|再|又|继续|同样|真的|确定|你确定|比如|例如|其他|其它|别的)"
)
_PRONOUN_CHINESE = re.compile(r"它|[她牠]|(?<![其吉])他|这样|那样")
_POINTS_ELSEWHERE_CHINESE = re.compile(
    r"(?<!我)这(?!边|样|里|儿)|那(?!不勒斯|曲|英|几天|天|样)|其他|其它|别的|另外?一|前者|后者|上面|上述|以上|前面|后面|刚才|刚刚|之前(?:说|提|讲)"
    r"|你(?:刚|之前)?(?:说|提到|讲)的|我(?:刚|之前)(?:说|问|提)|也(?!门|许|可以$)|此(?=[人事物时种类])|该(?=[人事物产店公服])|同样|再(?:说|来|讲|给)"
)
_BARE_CHINESE = re.compile(
    r"^(?:为什么不?(?:行|可以|能)?|为何|改成.*|怎么(?:办|样|说|回事)?|什么|啥|谁|哪(?:个|里|儿|些|种|一个)?|几(?:个|点)?|多少(?:钱)?|多久|多大|何时|什么时候"
    r"|什么意思|是|对|好|可以|行|真的|是真的|确定|如何|第[一二三四五六七八九十\d]+个|下一个|换一个|详细点|具体点)(?:吗|呢|呀|啊|吧)?$"
)
_NO_SEARCH_CHINESE = re.compile(r"[我你您他她它这那]|了$|是|[,，。.;；:：!！?？]")
_SEARCH_PARTS = range(2, 6)
_COMMANDS_CHINESE = re.compile(
    r"记住|记得|记下|别忘|提醒我|帮我(?:订|取消|删|改|发|买|设)|忘掉|删除我|叫我|以后(?:都|请|别)|从现在(?:起|开始)"
)
_PARTICLE = re.compile(r"呢[?？!！。\s]*$")


def part(sentence: str) -> Part | None:
    """Returns what a sentence does; None for a greeting, which says nothing."""
    marked = bool(_ASKS.search(sentence))
    text = _FILLER_CHINESE.sub("", sentence).strip(" \t,，.。!！?？;；:：\"'“”()（）")
    if not text:
        return None
    if _is_search_chinese(text):
        return Part(Role.ASKS)
    clauses = [clause for part in re.split(r"[,，;；:：]\s*", text) if (clause := part.strip())]
    asks = [bool(_ASKS_CHINESE.search(clause) or _REQUEST_CHINESE.match(clause)) for clause in clauses]
    told = [clause for clause, ask in zip(clauses, asks, strict=True) if not ask]
    if any(map(_LASTS_CHINESE.search, told)) or _COMMANDS_CHINESE.search(text):
        return Part(Role.LASTS)
    if not (marked or any(asks) or _PARTICLE.search(sentence)):
        told_only = all(map(_DECLARES_CHINESE.search, clauses))
        return Part(Role.TELLS, _points(text), names=True) if told_only else Part(Role.LASTS)
    trailing = bool(_PARTICLE.search(text)) and not any(asks)
    if trailing or (not any(asks) and len(text) <= _FRAGMENT_SIGNS):
        return Part(Role.ASKS, Points.ELSEWHERE)
    points = _points(text)
    named = points is Points.WITHIN and len(clauses) > 1 and not _PRONOUN_CHINESE.search(clauses[0])
    return Part(Role.ASKS, Points.NOWHERE if named else points)


def _is_search_chinese(text: str) -> bool:
    """Whether a text is parts with spaces between them, as nobody writes but in a search field."""
    parts = text.split()
    return len(parts) in _SEARCH_PARTS and _NO_SEARCH_CHINESE.search(text) is None


def _points(text: str) -> Points:
    if _OPENS_ON_CONTEXT_CHINESE.match(text) or _POINTS_ELSEWHERE_CHINESE.search(text):
        return Points.ELSEWHERE
    return Points.WITHIN if _PRONOUN_CHINESE.search(text) or _BARE_CHINESE.match(text) else Points.NOWHERE
