"""Amounts, dates and times in Chinese text, each in a form that is equal for equal values."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from mneme.semantic_cache.guards.amounts import MARK, Taken, plain
from mneme.semantic_cache.guards.question import Term

_DIGITS = {sign: number for number, sign in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "俩": 2}
_SCALES = {"十": 10, "百": 100, "千": 1000}
_GROUPS = {"万": 10_000, "亿": 100_000_000}
_NUMERAL = re.compile(r"[零〇一二两三四五六七八九十百千万亿]+")
# "a", not "one".
_ARTICLE = re.compile(r"一(?=[个颗份些方款种件班次条张位台部本间家座])|(?<=[上下这那哪同])一")
_AFTER_DIGITS = re.compile(r"(\d+(?:\.\d+)?)([百千万亿]+)")
_N = r"(?P<n>\d+(?:\.\d+)?)"
_WEEKDAYS = {sign: number for number, sign in enumerate("一二三四五六日", start=1)} | {"天": 7, "末": 6.5}
_HALVES = {"下午": 12, "晚上": 12, "夜里": 12, "傍晚": 12, "今晚": 12}

_MONEY = (
    ("usd", "美元|美金"),
    ("eur", "欧元"),
    ("gbp", "英镑"),
    ("jpy", "日元"),
    ("hkd", "港币|港元"),
    ("cny", "块钱?|元|圆|人民币|rmb|cny"),
)
_UNITS = (
    ("86400", "s", "天|日(?!元)"),
    ("604800", "s", "个?星期|个?礼拜|周"),
    ("1", "month", "个月"),
    ("12", "month", "年(?!级)"),
    ("3600", "s", "个?小时|个?钟头"),
    ("60", "s", "分钟"),
    ("1", "s", "秒钟?"),
    ("0.001", "m", "毫米|mm"),
    ("0.01", "m", "厘米|公分|cm"),
    ("1000", "m", "公里|千米|km"),
    ("1", "m2", "平方米|平米|㎡"),
    ("1", "m", "米|m(?![a-z])"),
    ("0.0254", "m", "英寸|寸"),
    ("0.001", "kg", "毫克|mg"),
    ("1", "kg", "公斤|千克|kg"),
    ("0.5", "kg", "斤"),
    ("0.001", "kg", "克"),
    ("1000", "kg", "吨"),
    ("0.001", "l", "毫升|ml"),
    ("1", "l", "升|l(?![a-z])"),
    ("1", "%", "%|％"),
    ("1", "c", "摄氏度|℃|°c"),
    ("1", "degree", "度"),
    ("1", "fold", "折"),
    ("1", "age", "岁"),
    ("1", "gb", "gb?(?![a-z])"),
)
_TIME = re.compile(
    r"(?P<half>上午|早上|早晨|凌晨|中午|下午|傍晚|晚上|夜里|今晚)?(?P<h>\d{1,2})(?::(?P<m>\d{2})|[点时](?:(?P<half_past>半)"
    r"|(?P<mm>\d{1,2})分?|钟)?)"
)
_DATES = (
    re.compile(r"(?P<y>\d{2,4})[年.-](?P<m>\d{1,2})(?:[月.-](?P<d>\d{1,2})[日号]?|月份?)"),
    re.compile(r"(?P<m>\d{1,2})月(?:份|(?P<d>\d{1,2})[日号])?"),
    re.compile(r"(?P<y>\d{4})年?(?=[的春夏秋冬\ue000]|年|$)"),
    re.compile(r"(?P<d>\d{1,2})[日号](?![线楼店门机])"),
)
_WEEKDAY = re.compile(r"(?:星期|礼拜|周)([一二三四五六日天末])")
_ID = re.compile(r"(?=[\w.-]*\d)(?=[\w.-]*[a-zA-Z-])[a-zA-Z0-9]+(?:[.-][a-zA-Z0-9]+)*|(?<![\d:])0\d+")
_NUMBER = re.compile(r"第?\d+(?:\.\d+)?")


def take(text: str, protected: re.Pattern[str]) -> Taken:
    """Returns a text with its amounts, dates and ids taken out; words that only look like numbers stay."""
    found: list[Term] = []

    def keep(make: Callable[[re.Match[str]], Term]) -> Callable[[re.Match[str]], str]:
        def replaced(match: re.Match[str]) -> str:
            found.append(make(match))
            return f"{MARK}{chr(0xE100 + len(found) - 1)}"

        return replaced

    text = _WEEKDAY.sub(keep(lambda match: Term(f"#w{_WEEKDAYS[match[1]]}", match.group(), "date")), text)
    text = _converted(text, protected)
    for pattern, make in _STEPS:
        text = pattern.sub(keep(make), text)
    order = [ord(sign) - 0xE100 for sign in re.findall(rf"{MARK}(.)", text)]
    return Taken(re.sub(rf"{MARK}.", MARK, text), [found[place] for place in order])


def number(numeral: str) -> int:
    """Returns the value of a Chinese numeral: 两百五 is 205 only where it says 零; here it is 250."""
    if not any(sign in _SCALES or sign in _GROUPS for sign in numeral):
        return int("".join(str(_DIGITS[sign]) for sign in numeral))
    total, part, digit, scale = 0, 0, 0, 1
    for sign in numeral:
        if sign in _DIGITS:
            digit, scale = _DIGITS[sign], 1 if _DIGITS[sign] == 0 else scale
        elif sign in _SCALES:
            part, digit, scale = part + (digit or 1) * _SCALES[sign], 0, _SCALES[sign]
        else:
            total, part, digit, scale = (total + part + digit) * _GROUPS[sign], 0, 0, _GROUPS[sign]
    # 三百五 is 350, 三百零五 is 305.
    colloquial = digit and scale > 10 and numeral[-2] != "零" and numeral[-2] != "〇"
    return total + part + digit * (scale // 10 if colloquial else 1)


def _converted(text: str, protected: re.Pattern[str]) -> str:
    """The text with digits for numerals, outside of words that only look like numbers."""
    pieces, place = [], 0
    for match in protected.finditer(text):
        pieces += [_digits(text[place : match.start()]), match.group()]
        place = match.end()
    return "".join([*pieces, _digits(text[place:])])


def _digits(text: str) -> str:
    def scaled(match: re.Match[str]) -> str:
        value = Decimal(match[1])
        for sign in match[2]:
            value *= _SCALES.get(sign) or _GROUPS[sign]
        return plain(value)

    text = _AFTER_DIGITS.sub(scaled, _ARTICLE.sub("", text))
    return _NUMERAL.sub(lambda match: str(number(match.group())), text)


def _time(match: re.Match[str]) -> Term:
    hour, minute = int(match["h"]), int(match["m"] or match["mm"] or 0)
    if match["half_past"]:
        minute = 30
    if hour < 12:
        hour += _HALVES.get(match["half"] or "", 0)
    return Term(f"#{hour}:{minute:02}", match.group(), "date")


def _date(match: re.Match[str]) -> Term:
    parts = {name: int(value) for name, value in match.groupdict().items() if value}
    year = parts.get("y", 0)
    shown = f"{year + 2000 if 0 < year < 100 else year or '?'}-{parts.get('m', '?')}-{parts.get('d', '?')}"
    return Term(f"#{shown}", match.group(), "date")


def _measured(base: str, factor: str) -> Callable[[re.Match[str]], Term]:
    def make(match: re.Match[str]) -> Term:
        return Term(f"#{plain(Decimal(match['n']) * Decimal(factor))} {base}", match.group(), "unit")

    return make


def _paid(currency: str) -> Callable[[re.Match[str]], Term]:
    def make(match: re.Match[str]) -> Term:
        return Term(f"#{plain(Decimal(match['n']))} {currency}", match.group(), "money")

    return make


def _numbered(match: re.Match[str]) -> Term:
    shown = match.group()
    return Term(f"#{plain(Decimal(shown.lstrip('第')))}{'.' if shown.startswith('第') else ''}", shown, "number")


_STEPS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Term]], ...] = (
    (_ID, lambda match: Term(f"#{match.group().casefold()}", match.group(), "id")),
    *((re.compile(rf"{_N}\s?(?:{names})", re.IGNORECASE), _paid(code)) for code, names in _MONEY),
    *((pattern, _date) for pattern in _DATES),
    (_TIME, _time),
    *((re.compile(rf"{_N}\s?(?:{names})", re.IGNORECASE), _measured(base, factor)) for factor, base, names in _UNITS),
    (_NUMBER, _numbered),
)
