"""What a statement gives the value of, so that a newer one can replace it.

Some things have one value at a time: a name, an age, a home, "my shoe size". Others do not: two sentences about "my
sister", or two pets, are both true. Only the first kind has an attribute.
"""

import re
from functools import lru_cache

from mneme.orchestrator.models.offline.grammar import spoken
from mneme.orchestrator.models.offline.words import any_of, is_chinese, pattern, stem


@lru_cache(maxsize=4_096)
def attribute(text: str) -> str:
    """What a statement or stored line gives the only value of, `home` or `favorit color`; else an empty text."""
    said = spoken(text)
    relations = _CHINESE_RELATIONS if is_chinese(said) else _RELATIONS
    found = next((name for name, says in relations.items() if says.search(said)), "")
    return found or _possessed(said)


_AM = r"\bI(?:['’]m| am| is| was)"
_ADVERBS = r"(?:now |currently |still |just |recently |already |have |has |['’]ve )*"
_MONTH = any_of("january|february|march|april|may|june|july|august|september|october|november|december", r"\d|the \d")
_RELATIONS = {
    "name": pattern(
        rf"^my (?:full |first |real )?name(?:'s)?\b|{_AM} (?:called|named)\b|^I go by\b",
        r"^(?:please )?(?:call|address) (?:me|I)\b",
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
        rf"{_AM} {_ADVERBS}(?:living|residing|based|moving) (?:in|to|at|on)\b",
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
    city country team breed brand model landlord doctor dentist gp"""
_SINGLE = frozenset(map(stem, _SINGLE_NOUNS.split()))
_CHINESE_SINGLE = any_of(
    "名字|姓名|年龄|生日|地址|住址|电话|号码|手机号|邮箱|微信|邮编|账号|用户名|昵称|密码|口令",
    "尺码|尺寸|鞋码|码|号|颜色|体重|身高|血型|星座|国籍|民族|信仰|老家|家乡|城市|国家",
    "预算|工资|薪水|收入|货币|银行|职位|经理|老板|上司|部门|团队|工位|班次|年级|专业|学校|大学",
    "截止日期|截止时间|日期|时间|时区|目标|上限|计划|航班|座位|房间|房号|楼层|车位|车牌|预约",
    "品种|品牌|型号|医生|牙医|房东",
)
_POSSESSED = re.compile(
    r"^(?P<head>(?:my|[A-Z]\w+'s)\s+(?:[\w'-]+\s+){0,4}?[\w'-]+)\s*"
    + any_of(r"\b(?:is|are|was|will be|changed|moved|has (?:been )?(?:changed|moved))\b", "=", ":"),
    re.IGNORECASE,
)
_CHINESE_POSSESSED = re.compile(
    rf"^我(?:的)?(?P<head>[^，,。是为]{{0,8}}?(?:{_CHINESE_SINGLE}|最喜欢的?[^，,。是为]{{1,6}}))"
    r"(?:已经|现在|目前)?(?:是|为|叫|改|换|变|有|：|:|在|定)"
)
_CHINESE_PASSING = re.compile("^(?:新的?|现在的?|目前的?|最新的?)")
_PASSING = frozenset({"new", "current", "now", "actual", "latest", "old", "real", "my"})
"""Words that do not change what the head noun means."""


def _possessed(said: str) -> str:
    """The thing that a sentence of the form "my X is Y" gives the only value of."""
    chinese = _CHINESE_POSSESSED.match(said)
    if chinese:
        return _CHINESE_PASSING.sub("", chinese["head"])
    english = _POSSESSED.match(said)
    if english is None:
        return ""
    head = [stem(word) for word in english["head"].split() if word.lower() not in _PASSING]
    single = bool(head) and (head[-1] in _SINGLE or "favorit" in head or "prefer" in head)
    return " ".join(head) if single else ""
