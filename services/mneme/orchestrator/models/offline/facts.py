"""A statement of the user as a line of memory, and what it is about, so that a newer one can replace it."""

import re
from dataclasses import dataclass
from functools import lru_cache

from mneme.orchestrator.models.offline.words import is_chinese, stem, terms

MAX_LINE_CHARS = 400
"""A longer statement is a text of its own: it goes to archival memory."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to remember."""

    line: str
    """One line for a memory block: in the third person where that is safe, else a quotation."""
    attribute: str
    """What the fact is a value of, `home` or `favorit color`; empty where several such facts can be true at
    once.
    """
    changes: bool
    """True where the user says that something changed."""
    ends: bool
    """True where the user says that something is over."""


def fact(statement: str) -> Fact:
    """The line of memory for a statement."""
    text = _LEAD.sub("", statement).strip(" ,，")
    text = _TAIL.sub("", text).strip(" ,，.。!！;；")
    line = _chinese_line(text) if is_chinese(text) else _english_line(text)
    return Fact(line, attribute(text), bool(_CHANGE.search(statement)), bool(_END.search(statement)))


def updates(new: Fact, line: str) -> bool:
    """True where a stored line is an older value of what the new fact says."""
    if new.attribute and new.attribute == attribute(line):
        return True
    if not (new.changes or new.ends):
        return False
    old_terms, new_terms = terms(_spoken(line)), terms(_spoken(new.line))
    shared = {term for term in old_terms & new_terms if not term.isdigit()}
    return len(shared) >= (1 if new.ends else 2) and len(shared) * 2 >= min(len(old_terms), len(new_terms))


@lru_cache(maxsize=4_096)
def attribute(text: str) -> str:
    """What a statement or stored line gives the value of; empty where it is not the only one of its kind."""
    spoken = _spoken(text)
    relations = _ZH_RELATIONS if is_chinese(spoken) else _RELATIONS
    found = next((name for name, pattern in relations if pattern.search(spoken)), "")
    return found or _possessed(spoken)


_LEAD = re.compile(
    r"^(?:(?:actually|please|can you|could you|also|well|so|and|but|oh|ok(?:ay)?|hey|fyi|btw|by the way|just so you know|for the record|for your information|"
    r"you should know(?: that)?|(?:i want|i'd like|i would like) you to (?:know|remember)(?: that)?|"
    r"(?:please )?(?:remember|note|keep in mind|bear in mind|don'?t forget|be aware|save|write down)(?: that| this)?)\s*[,:]?\s+(?=\S))+|"
    r"^(?:(?:请|麻烦|帮我|你|顺便说一?下?|其实|对了|另外|还有|而且|不过|但是?|请?记住|请?记一?下|记得|别忘了|嗯|哦|告诉你|跟你说|提醒你?一?下?)[，,：:、]?)+(?=[我咱本以今从不别用一-龥])",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"[,，]?\s*(?:by the way|btw|please|thanks|thank you|ok(?:ay)?\?|好吗[？?]?|好不好[？?]?|可以吗[？?]?|行吗[？?]?|谢谢|请记住|记一下)\s*[.!。！]*$",
    re.IGNORECASE,
)
_CHANGE = re.compile(
    r"\b(?:correction|not .{1,30} but|renamed|rescheduled|postponed|moved|changed|from now on|updated?|actually)\b|"
    r"改成|改为|改到|改叫|更正|纠正|其实|不是.{1,12}(?:而)?是|推迟|提前到|变成|变了|更新",
    re.IGNORECASE,
)
_END = re.compile(
    r"\b(?:no longer|any ?more|instead of|switched|gave up|given up|quit|stopped|used to|rather than|replaced?)\b|"
    r"不再|换成|换了|戒了|戒掉",
    re.IGNORECASE,
)

# Verbs that are safe to put into the third person by adding an ending; any other statement is quoted.
_REGULAR = frozenset(
    """like love hate dislike prefer enjoy want need live work drive play speak own use eat drink take wear
    read run swim cook bake keep collect train hope plan avoid sleep wake walk cycle travel write teach
    learn sing dance paint garden volunteer weigh smoke start finish suffer support manage lead build sell
    rent know trust visit grow call think""".split()
)
_IRREGULAR = {
    "have": "has",
    "do": "does",
    "go": "goes",
    "study": "studies",
    "fly": "flies",
    "watch": "watches",
    "am": "is",
    "'m": "is",
}
_UNCHANGED = frozenset(
    """was had did can could will would should must may might cannot can't won't couldn't wouldn't shouldn't
    mustn't went got bought moved worked lived started joined grew became turned broke met took made left
    lost won began switched changed used studied married adopted visited booked ordered quit stopped gave
    sold built""".split()
)
_NEGATED = {"don't": "does not", "do not": "does not", "haven't": "has not", "have not": "has not"}
_ADVERBS = frozenset(
    """really usually always never often just also mostly mainly recently currently now already still only
    sometimes generally normally rarely hardly absolutely actually strongly simply even both once
    finally""".split()
)
_FORMS = {"'ve": "has", "'ll": "will", "'d": "would"}
_I = re.compile(
    r"\bI(?P<form>['’](?:m|ve|ll|d))?(?![\w'’])(?P<gap>\s+)?(?P<rest>[^\s,.;!?]+(?:\s+not\b)?)?", re.IGNORECASE
)
_UNSAFE = re.compile(r"\b(?:you|your|yours|we|us|our|ours|we're|we've|let's)\b|[\"“”]", re.IGNORECASE)
_ZH_UNSAFE = re.compile(r"[你您咱“”\"]|我们|我国")
_PRONOUNS = ((r"\bmyself\b", "themself"), (r"\bmine\b", "the user's"), (r"\bme\b", "the user"))
_QUOTED = re.compile(r"^(?:The user says: [\"“](?P<en>.*)[\"”]|用户说：“(?P<zh>.*)”)$")


def _english_line(text: str) -> str:
    rewritten = None if _UNSAFE.search(text) else _third_person(text)
    if rewritten is None:
        return f'The user says: "{text}"'
    return rewritten[:1].upper() + rewritten[1:] + "."


def _chinese_line(text: str) -> str:
    if "我" not in text and "本人" not in text or _ZH_UNSAFE.search(text):
        return f"用户说：“{text}”"
    return text.replace("本人", "用户").replace("我", "用户") + "。"


def _third_person(text: str) -> str | None:
    """The text with `the user` for `I`; None where the grammar is not safe or the text is not about the
    user.
    """
    if not re.search(r"\b(?:i|my|me|mine)\b", text, re.IGNORECASE):
        return None
    out: list[str] = []
    at = 0
    while match := _I.search(text, at):
        verb = _verb(text, match)
        if verb is None:
            return None
        replacement, at_next = verb
        out.append(text[at : match.start()] + replacement)
        at = at_next
    result = "".join(out) + text[at:]
    possessive = "their" if result.startswith("the user ") else "the user's"
    result = re.sub(r"\bmy\b", possessive, result, flags=re.IGNORECASE)
    for pattern, replacement in _PRONOUNS:
        result = re.sub(pattern, replacement, result, flags=re.IGNORECASE)
    return result


def _verb(text: str, match: re.Match[str]) -> tuple[str, int] | None:
    """The subject with its verb in the third person, and where the text goes on; None where it is not
    safe.
    """
    form = (match["form"] or "").replace("’", "'").lower()
    if form:
        return f"the user {_FORMS.get(form, 'is')}", match.end("form")
    at = match.end() - len(match["rest"] or "")
    adverbs: list[str] = []
    for word in re.finditer(r"\S+", text[at:]):
        plain = word[0].strip(",.").lower().replace("’", "'")
        if plain in _ADVERBS:
            adverbs.append(plain)
            continue
        end = at + word.end()
        following = re.match(r"\s+not\b", text[end:])
        if following and plain in {"do", "have"}:
            return " ".join(["the user", *adverbs, _NEGATED[f"{plain} not"]]), end + following.end()
        conjugated = _conjugate(plain)
        if conjugated is None:
            return None
        return " ".join(["the user", *adverbs, conjugated]), end
    return None


def _conjugate(verb: str) -> str | None:
    if verb in _NEGATED:
        return _NEGATED[verb]
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb in _UNCHANGED:
        return verb
    return f"{verb}s" if verb in _REGULAR else None


def _spoken(text: str) -> str:
    """A stored line back in the first person, so that lines and statements compare."""
    quoted = _QUOTED.match(text.strip())
    if quoted:
        return quoted["en"] or quoted["zh"] or ""
    spoken = re.sub(r"\bthe user's\b", "my", text, flags=re.IGNORECASE)
    spoken = re.sub(r"\bthe user\b", "I", spoken, flags=re.IGNORECASE)
    return re.sub(r"用户(?!名)", "我", spoken).strip(" .。")


def _compiled(rows: dict[str, str]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in rows.items())


_AM = r"\bI(?:['’]m| am| is| was)"
_RELATIONS = _compiled(
    {
        "name": rf"^my (?:full |first |real )?name(?:'s)?\b|{_AM} (?:called|named)\b|^I go by\b|^(?:please )?(?:call|address) (?:me|I)\b|"
        r"\bI(?:['’]d| would| want| prefer|'d like)?(?: like)? (?:you to call me|to be called)\b",
        "birthday": rf"^my (?:birthday|birth ?date|date of birth)\b|{_AM} born (?:on|in (?:\d|january|february|march|april|may|june|july|august|september|october|november|december))",
        "birthplace": rf"{_AM} born in\b",
        "age": rf"^my age\b|{_AM} (?:now |already |currently )?\d{{1,3}}(?:\s+years?(?: old)?)?$|{_AM} (?:now )?[\w-]+ years old|^I (?:just )?turn(?:ed|s)? \d",
        "home": r"^I (?:now |currently |still |just |recently |have |has |['’]ve )*(?:lives?|resides?|moved|relocated|settled)\b(?! (?:with|alone|together|desks?|teams?))|"
        rf"{_AM} (?:now |currently )?(?:living|residing|based|moving) (?:in|to|at|on)\b|^my (?:home|home ?town|city|place of residence) (?:is|are) (?:in |now )?\w",
        "employer": rf"^I (?:now |currently |just |recently |have |has )*(?:works? (?:for|at|in)|joined|got a (?:new )?job (?:at|with))\b|{_AM} (?:now |currently )?(?:working|employed) (?:for|at|by|in)\b|"
        r"^my (?:(?:new|current) )?(?:employer|company|workplace)\b",
        "occupation": rf"^I (?:now |currently )?works? as\b|{_AM} (?:now |currently )?working as\b|^my (?:(?:new|current) )?(?:job|occupation|profession|job title|role)\b",
        "marital status": rf"{_AM} (?:now |currently |not )?(?:married|single|divorced|engaged|widowed)\b|^I got (?:married|divorced|engaged)\b",
        "weight": r"^I (?:now )?weighs?\b|^my weight\b",
        "height": rf"^my height\b|{_AM} [\d.,]+ ?(?:cm|m|metres|meters|feet|ft|foot)?\b.*\btall\b",
    }
)
_ZH_RELATIONS = _compiled(
    {
        "name": r"^我(?:的)?(?:全名|名字|姓名|大名|姓)|^我(?:现在)?(?:改)?(?:名)?叫|(?:称呼|叫)我",
        "birthday": r"^我(?:的)?(?:生日|出生日期)|^我(?:是)?.{0,8}[年月日号](?:出生|生的)|^我(?:出)?生于[\d一二三四五六七八九]",
        "birthplace": r"^我(?:是)?(?:出生在|生在|在.{1,8}出生)",
        "age": r"^我(?:的)?年龄|^我(?:今年|现在|已经|刚|刚满|满)*[\d一二三四五六七八九十百]+(?:周)?岁",
        "home": r"^我(?:们)?(?:家)?(?:现在|目前|已经|刚|最近|上周|上个月|去年|今年|还)*(?:住|搬|定居|居住)|^我(?:的)?家(?:现在)?(?:在|搬)|^我(?:现在)?在.{1,10}(?:住|定居|居住)",
        "employer": r"^我(?:现在|目前|刚|最近|已经)*(?:在.{1,16}(?:工作|上班|任职|就职)|(?:入职|加入|跳槽到?)了?)|^我(?:的)?(?:新)?(?:公司|单位|雇主)(?:是|叫|换)",
        "occupation": r"^我(?:的)?(?:新)?(?:职业|工作|职位|岗位|职务)(?:是|换|变|改)",
        "marital status": r"^我(?:现在|已经|还)?(?:已婚|未婚|单身|离婚|结婚了|订婚)",
        "weight": r"^我(?:的)?体重|^我(?:现在)?[\d.]+(?:公斤|斤|kg)",
        "height": r"^我(?:的)?身高|^我(?:有)?(?:一米|[\d.]+(?:米|厘米|cm))",
    }
)
# Nouns that have one value at a time: "my shoe size", "my room number". People, animals and things have many
# properties, so two sentences about "my sister" do not exclude each other.
_SINGLE = frozenset(
    map(
        stem,
        """name age birthday address phone number mobile telephone email mail size color weight height
        budget salary income password code pin passcode username handle nickname title role manager boss
        deadline goal target limit plan schedule shift time date day flight seat room floor desk appointment
        type status currency timezone zone zip postcode nationality citizenship religion star sign blood
        grade level major school university college bank hometown city country team breed brand model
        landlord doctor dentist gp""".split(),
    )
)
_ZH_SINGLE = (
    "名字|姓名|年龄|生日|地址|住址|电话|号码|手机号|邮箱|尺码|尺寸|鞋码|码|号|颜色|体重|身高|预算|工资|薪水|收入|密码|口令|用户名|昵称|职位|"
    "经理|老板|上司|截止日期|截止时间|日期|时间|目标|上限|计划|航班|座位|房间|房号|楼层|工位|车位|车牌|预约|血型|星座|国籍|民族|信仰|年级|专业|学校|大学|"
    "银行|老家|家乡|城市|国家|部门|团队|品种|品牌|型号|医生|牙医|房东|班次|时区|货币|邮编|微信|账号"
)
_POSSESSED = re.compile(
    r"^(?P<head>(?:my|[A-Z]\w+'s)\s+(?:[\w'-]+\s+){0,4}?[\w'-]+)\s*(?:\bis\b|\bare\b|\bwas\b|\bwill be\b|\bhas (?:been )?(?:changed|moved)\b|\bchanged\b|\bmoved\b|=|:)",
    re.IGNORECASE,
)
_ZH_POSSESSED = re.compile(
    rf"^我(?:的)?(?P<head>[^，,。是为]{{0,8}}?(?:{_ZH_SINGLE}|最喜欢的?[^，,。是为]{{1,6}}))(?:已经|现在|目前)?(?:是|为|叫|改|换|变|有|：|:|在|定)"
)
_PASSING = frozenset({"new", "current", "now", "actual", "latest", "old", "real", "my"})


def _possessed(spoken: str) -> str:
    """The owned thing that a sentence of the form "my X is Y" gives the only value of."""
    chinese = _ZH_POSSESSED.match(spoken)
    if chinese:
        return re.sub("^(?:新的?|现在的?|目前的?|最新的?)", "", chinese["head"])
    english = _POSSESSED.match(spoken)
    if english is None:
        return ""
    head = [stem(word) for word in english["head"].split() if word.lower() not in _PASSING]
    single = bool(head) and (head[-1] in _SINGLE or "favorit" in head or "prefer" in head)
    return " ".join(head) if single else ""
