"""What a statement gives the value of, so that a newer one can replace it.

Some things have one value at a time: a name, an age, a home, "my shoe size". Others do not: two sentences about "my
sister", or two pets, are both true. Only the first kind has an attribute.
"""

import re
from functools import lru_cache

from mneme.orchestrator.models.offline.grammar import spoken
from mneme.orchestrator.models.offline.lexicon import concepts
from mneme.orchestrator.models.offline.words import any_of, is_chinese, pattern, stem


@lru_cache(maxsize=4_096)
def attribute(text: str) -> str:
    """What a statement or stored line gives the only value of, `home` or `favorit color`; else an empty text."""
    said = _ADVERBIAL.sub("", spoken(text))
    return _relation(said) or _possessed(said) or _of_relative(said)


def asked_attribute(question: str) -> str:
    """What a question asks the value of, as `attribute` names it; empty where that is not clear."""
    if is_chinese(question):
        return attribute(question.strip("？? "))
    asked = _ASKED.search(question)
    return attribute(f"{asked['about']} is") if asked else ""


def thing(text: str) -> str:
    """The thing that a statement or stored line is about ("the meeting"); empty for people, animals and the user."""
    said = spoken(text)
    found = _THING.match(said) or _CHINESE_THING.match(said)
    if found is None or concepts(found["head"]) & _BEINGS:
        return ""
    words = [word for word in found["head"].lower().split() if word not in _PASSING]
    return stem(words[-1]) if words else ""


def relative(text: str) -> str:
    """The relative or animal of the user that a statement or stored line is about; empty for anything else."""
    said = spoken(text)
    found = _RELATIVE.match(said) or _CHINESE_RELATIVE.match(said)
    return found["who"].lower() if found else ""


def _relation(said: str) -> str:
    relations = _CHINESE_RELATIONS if is_chinese(said) else _RELATIONS
    return next((name for name, says in relations.items() if says.search(said)), "")


def _of_relative(said: str) -> str:
    """A relation of someone of whom the user has one or few: "my daughter is 6" is about the daughter's age."""
    found = _RELATIVE.match(said) or _CHINESE_RELATIVE.match(said)
    if found is None:
        return ""
    relation = _relation(("我" if is_chinese(said) else "I ") + found["rest"])
    return f"{found['who'].lower()} {relation}" if relation in _RELATIVES_HAVE else ""


_ASKED = pattern(
    r"(?:\b(?:do|does|did|is|are|was|am|remember|know|tell me|remind me(?: of| what)?)|['’]s)\s+"
    r"(?P<about>(?:i|my)\b[^?!.,]*)"
)
_ADVERBIAL = pattern(
    r"^(?:today|yesterday|now|recently|lately|currently|actually|finally|these days|from now on|well|so|"
    r"update|news|note|fyi|by the way|btw|"
    r"(?:last|this|next|since|as of|starting|in|on) [\w']+(?: [\w']+)?)[,:]?\s+(?=(?:i|my|we|our)\b)"
)
_AM = r"\bI(?:['’]m| am| is| was)"
_ADVERBS = r"(?:now |currently |still |just |recently |already |have |has |['’]ve )*"
_MONTH = any_of("january|february|march|april|may|june|july|august|september|october|november|december", r"\d|the \d")
_RELATIONS = {
    "name": pattern(
        rf"^my (?:full |first |real )?name(?:'s)?\b|{_AM} (?:called|named)\b|^I go by\b",
        r"\b(?:call|address) (?:me|I)\b(?! (?:when|if|at|on|before|after|back|later|between|tomorrow|again)\b)",
        r"\bI(?:['’]d| would| want| prefer)?(?: like)? (?:you to call me|to be called)\b",
    ),
    "birthday": pattern(
        rf"^my (?:birthday|birth ?date|date of birth)\b|{_AM} born (?:on\b|in {_MONTH})",
    ),
    "birthplace": pattern(rf"{_AM} born in\b"),
    "age": pattern(
        rf"^my age\b|{_AM} {_ADVERBS}\d{{1,3}}(?:\s+years?(?: old)?)?$|{_AM} {_ADVERBS}[\w-]+ years old",
        r"^I (?:just )?turn(?:ed|s)? \d",
    ),
    "home": pattern(
        rf"^I {_ADVERBS}(?:lives?|resides?|moved|relocated|settled)\b(?! (?:with|alone|together|desks?|teams?))",
        rf"{_AM} {_ADVERBS}(?:living|residing|based|moving|relocating) (?:in|to|at|on)\b",
        r"^I\b.*\bmoved (?:in|into|back)\b",
        rf"^we(?:['’]ve| have)? {_ADVERBS}(?:lives?|moved|relocated|settled)\b(?! (?:desks?|teams?))",
        rf"{_AM} {_ADVERBS}in [A-Z]\w+ (?:now|these days|at the moment|currently)\b",
        r"^my (?:home|home ?town|city|place of residence) (?:is|are) (?:in |now )?\w",
    ),
    "employer": pattern(
        rf"^I {_ADVERBS}(?:works? (?:for|at|in)|joined|got a (?:new )?job (?:at|with))\b",
        rf"{_AM} {_ADVERBS}(?:working|employed) (?:for|at|by|in)\b",
        r"^my (?:(?:new|current) )?(?:employer|company|workplace)\b",
    ),
    "occupation": pattern(
        rf"^I {_ADVERBS}works? as\b|{_AM} {_ADVERBS}working as\b",
        r"^my (?:(?:new|current) )?(?:job|occupation|profession|job title|role)\b",
    ),
    "marital status": pattern(
        rf"{_AM} {_ADVERBS}(?:not )?(?:married|single|divorced|engaged|widowed)\b",
        r"^I got (?:married|divorced|engaged)\b",
    ),
    "weight": pattern(r"^I (?:now )?weighs?\b|^my weight\b"),
    "height": pattern(rf"^my height\b|{_AM} [\d.,]+ ?(?:cm|m|metres|meters|feet|ft|foot)?\b.*\btall\b"),
}
_NOW = r"(?:现在|目前|已经|刚刚?|最近|上周|上个月|去年|今年|还)*"
_CHINESE_RELATIONS = {
    "name": pattern(r"^我(?:的)?(?:全名|名字|姓名|大名|姓)", r"^我(?:现在)?(?:改)?(?:名)?叫", r"(?:称呼|叫)我"),
    "birthday": pattern(
        r"^我(?:的)?(?:生日|出生日期)",
        r"^我(?:是)?.{0,8}[年月日号](?:出生|生的)",
        r"^我(?:出)?生于[\d一二三四五六七八九]",
    ),
    "birthplace": pattern(r"^我(?:是)?(?:出生在|生在|在.{1,8}出生)"),
    "age": pattern(r"^我(?:的)?年龄", rf"^我{_NOW}(?:满)?[\d一二三四五六七八九十百]+(?:周)?岁"),
    "home": pattern(
        rf"^我(?:们)?(?:家)?{_NOW}(?:住|搬|定居|居住)",
        r"^我(?:的)?家(?:现在)?(?:在|搬)",
        r"^我(?:现在)?在.{1,10}(?:住|定居|居住)",
    ),
    "employer": pattern(
        rf"^我{_NOW}(?:在.{{1,16}}(?:工作|上班|任职|就职)|(?:入职|加入|跳槽到?)了?)",
        r"^我(?:的)?(?:新)?(?:公司|单位|雇主)(?:是|叫|换)",
    ),
    "occupation": pattern(r"^我(?:的)?(?:新)?(?:职业|工作|职位|岗位|职务)(?:是|换|变|改)"),
    "marital status": pattern(rf"^我{_NOW}(?:已婚|未婚|单身|离婚|结婚了|订婚)"),
    "weight": pattern(r"^我(?:的)?体重|^我(?:现在)?[\d.]+(?:公斤|斤|kg)"),
    "height": pattern(r"^我(?:的)?身高|^我(?:有)?(?:一米|[\d.]+(?:米|厘米|cm))"),
}
_SINGLE_NOUNS = """name age birthday address phone number mobile telephone email mail size color weight height budget
    salary income password code pin passcode username handle nickname title role manager boss deadline goal target limit
    plan schedule shift time date day flight seat room floor desk appointment type status currency timezone zone zip
    postcode nationality citizenship religion star sign blood grade level major school university college bank hometown
    city country team breed brand model landlord doctor dentist gp office gym locker line
    route bus station plate"""
_SINGLE = frozenset(map(stem, _SINGLE_NOUNS.split()))
_CHINESE_SINGLE = any_of(
    "名字|姓名|年龄|生日|地址|住址|电话|号码|手机号|邮箱|微信|邮编|账号|用户名|昵称|密码|口令",
    "尺码|尺寸|鞋码|码|号|颜色|体重|身高|血型|星座|国籍|民族|信仰|老家|家乡|城市|国家",
    "预算|工资|薪水|收入|货币|银行|职位|经理|老板|上司|部门|团队|工位|班次|年级|专业|学校|大学",
    "截止日期|截止时间|日期|时间|时区|目标|上限|计划|航班|座位|房间|房号|楼层|车位|车牌|预约",
    "品种|品牌|型号|医生|牙医|房东",
)
_OWN = r"(?P<head>(?:my|[A-Z]\w+'s)\s+(?:[\w'-]+\s+){0,4}?[\w'-]+)"
_IS = any_of(
    r"\b(?:is|are|was|will be|changed|moved|has (?:been )?(?:changed|moved))\b",
    r"\b(?:went (?:up|down)|rose|dropped|increased|decreased|grew|got (?:changed|moved|rescheduled))\b",
    "=",
    ":",
)
_POSSESSED = (
    pattern(rf"^{_OWN}\s*{_IS}"),
    pattern(rf"^(?:I(?:['’]ve| have)? )?(?:just |recently )?(?:change|update|set|switch)e?d? {_OWN} (?:from .+ )?to\b"),
    pattern(
        r"^I(?:['’]ve| have| has)? (?:just )?(?:got|have)? ?an? (?P<head>new (?:[\w'-]+\s+){0,2}?[\w'-]+)\s*"
        r"(?::|,|which is|-|–|—|\()"
    ),
)
"""A thing and its value: "my X is …", "I changed my X to …", "I have a new X: …"."""
_CHINESE_POSSESSED = re.compile(
    rf"^我(?:的)?(?P<head>[^，,。是为]{{0,8}}?(?:{_CHINESE_SINGLE}|最喜欢的?[^，,。是为]{{1,6}}))"
    r"(?:已经|现在|目前)?(?:是|为|叫|改|换|变|有|：|:|在|定)"
)
_CHINESE_PASSING = re.compile("^(?:新的?|现在的?|目前的?|最新的?)")
_PASSING = frozenset({"new", "current", "now", "actual", "latest", "old", "real", "my", "our", "the"})
"""Words that do not change what the head noun means."""
_BEINGS = frozenset({"family", "spouse", "friend", "pet"})
_THING = pattern(
    r"^(?:my|our|the)\s+(?P<head>(?:[\w'-]+\s+){0,3}?[\w'-]+)\s+"
    r"(?:is|are|was|were|will|has|have|got|starts?|begins?|takes?|moved|slipped|changed|leaves?|opens?|ends?)\b"
)
_CHINESE_THING = re.compile(
    r"^(?:我们?的|我们|这个|那个|本次)?(?P<head>[^我你他她，,。\s]{1,6}?)(?:已经|现在)?(?:改到|改在|改成|推迟|提前|延期|取消|定在|安排在|是|在)"
)
_RELATIVES_HAVE = frozenset({"age", "home", "employer", "occupation"})
_KIN = any_of(
    "mother|father|mum|mom|dad|wife|husband|spouse|partner|girlfriend|boyfriend|son|daughter|sister|brother",
    "child|baby|grandmother|grandfather|boss|manager|dog|cat",
)
_RELATIVE = pattern(rf"^my (?P<who>(?:(?:older|younger|elder|little|big|twin) )?{_KIN}) (?P<rest>.+)$")
_CHINESE_KIN = any_of(
    "妈妈?|爸爸?|母亲|父亲|老婆|老公|妻子|丈夫|女朋友|男朋友|儿子|女儿|姐姐|妹妹|哥哥|弟弟",
    "奶奶|爷爷|外婆|外公|孩子|狗|猫",
)
_CHINESE_RELATIVE = re.compile(f"^我(?:的)?(?P<who>{_CHINESE_KIN})(?P<rest>.+)$")


def _possessed(said: str) -> str:
    """The thing that a sentence of the form "my X is Y" gives the only value of."""
    chinese = _CHINESE_POSSESSED.match(said)
    if chinese:
        return _CHINESE_PASSING.sub("", chinese["head"])
    english = next(filter(None, (form.match(said) for form in _POSSESSED)), None)
    if english is None:
        return ""
    head = [stem(word) for word in english["head"].split() if word.lower() not in _PASSING]
    single = bool(head) and (head[-1] in _SINGLE or "favorit" in head or "prefer" in head)
    return " ".join(head) if single else ""
