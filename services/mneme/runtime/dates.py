"""Times that a question names: "on 7 May 2023", "last May", "yesterday", 去年五月, 上周. English and Chinese.

What comes back is a span of days in the asker's time zone. It is a hint for ranking: what was said in the span may tell
of another time, and what happened in it may have been told later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONTH = rf"(?P<month>{'|'.join(f'{name[:3]}(?:{name[3:]})?' for name in _MONTHS)}|sept)\b\.?"
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY = "(?P<weekday>" + "|".join(_WEEKDAYS) + ")"
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "a couple of": 2}
_COUNT = "|".join(sorted(_COUNTS, key=len, reverse=True))
_HAN_DIGITS = {"一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10}
_HAN_NUMBER = "[一二两三四五六七八九]?十[一二三四五六七八九]?|[一二两三四五六七八九]|[0-9]{1,2}"
_HAN_MONTH = f"(?<![{''.join(_HAN_DIGITS)}个0-9])(?P<number>{_HAN_NUMBER})月"
_HAN_DAY = f"(?P<day>{_HAN_NUMBER})[日号]"
_BEFORE_MONTH = "last|this|in|since|during|of|early|late|mid"
_LONGEST_AGO = 1_200


@dataclass(frozen=True, slots=True)
class Span:
    """Some days: from the first moment of one to the first moment after another."""

    start: datetime
    end: datetime


def spans(question: str, now: datetime) -> list[Span]:
    """Returns the spans that a question names, in the order of the patterns; none for none.

    Args:
        question: The words.
        now: The moment that "yesterday" counts from, with the asker's time zone.
    """
    found: list[tuple[date, date]] = []
    rest = question
    for pattern, read in _PATTERNS:
        for match in pattern.finditer(rest):
            try:
                found += read(match, now.date())
            except (ValueError, OverflowError):
                # 30 February, or a year beyond the calendar: no day at all.
                continue
        # What was understood is not read again as something shorter.
        rest = pattern.sub(" ", rest)
    return [Span(_midnight(first, now), _midnight(after, now)) for first, after in found]


def _midnight(day: date, now: datetime) -> datetime:
    return datetime.combine(day, time(), tzinfo=now.tzinfo)


def _day(year: int, month: int, day: int) -> tuple[date, date]:
    first = date(year, month, day)
    return first, first + timedelta(days=1)


def _month(year: int, month: int) -> tuple[date, date]:
    return date(year, month, 1), date(year + month // 12, month % 12 + 1, 1)


def _year(year: int) -> tuple[date, date]:
    return date(year, 1, 1), date(year + 1, 1, 1)


def _month_number(match: re.Match[str]) -> int:
    return next(number for number, name in enumerate(_MONTHS, start=1) if name.startswith(match["month"][:3].lower()))


def _past_year(month: int, today: date) -> int:
    # Without a year the latest such month that has begun is meant.
    return today.year if month <= today.month else today.year - 1


def _iso(match: re.Match[str], _today: date) -> Iterator[tuple[date, date]]:
    yield _day(int(match["year"]), int(match["number"]), int(match["day"]))


def _named_day(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    month = _month_number(match)
    yield _day(int(match["year"]) if match["year"] else _past_year(month, today), month, int(match["day"]))


def _named_month(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    month = _month_number(match)
    year = int(match["year"]) if match["year"] else _past_year(month, today)
    if not match["year"] and (match["last"] or "").lower() == "last" and month == today.month:
        year -= 1
    yield _month(year, month)


def _only_year(match: re.Match[str], _today: date) -> Iterator[tuple[date, date]]:
    yield _year(int(match["year"]))


def _relative_day(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    back = {"today": 0, "yesterday": 1, "今天": 0, "昨天": 1, "昨晚": 1, "前天": 2, "大前天": 3}
    word = match.group().lower()
    first = today - timedelta(days=back.get(word, 2))
    yield first, first + timedelta(days=1)


def _unit(unit: str, back: int, today: date) -> tuple[date, date]:
    """Returns the day, week (from Monday), month or year that lies so far back."""
    if unit == "day":
        first = today - timedelta(days=back)
        return first, first + timedelta(days=1)
    if unit == "week":
        first = today - timedelta(days=today.weekday() + 7 * back)
        return first, first + timedelta(days=7)
    if unit == "month":
        months = today.year * 12 + today.month - 1 - back
        return _month(months // 12, months % 12 + 1)
    return _year(today.year - back)


def _last_unit(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    yield _unit(match["unit"].lower(), 0 if match["which"].lower() == "this" else 1, today)


def _ago(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    count = match["count"].lower()
    back = int(count) if count.isdecimal() else _COUNTS[count]
    yield _unit(match["unit"].lower(), min(back, _LONGEST_AGO), today)


def _last_weekday(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    back = (today.weekday() - _WEEKDAYS.index(match["weekday"].lower())) % 7 or 7
    first = today - timedelta(days=back)
    yield first, first + timedelta(days=1)


def _weekend(_match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    monday = today - timedelta(days=today.weekday())
    yield monday - timedelta(days=2), monday


def _han_number(text: str) -> int:
    if text.isdecimal():
        return int(text)
    tens, ten, ones = text.partition("十")
    if not ten:
        return _HAN_DIGITS[text]
    return 10 * (_HAN_DIGITS[tens] if tens else 1) + (_HAN_DIGITS[ones] if ones else 0)


def _han_date(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    month = _han_number(match["number"])
    back = {"今年": 0, "去年": 1, "前年": 2}
    if match["year"]:
        year = int(match["year"])
    else:
        year = today.year - back[match["which"]] if match["which"] else _past_year(month, today)
    yield _day(year, month, _han_number(match["day"])) if match["day"] else _month(year, month)


def _han_unit(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    units = {"周": "week", "星期": "week", "礼拜": "week", "月": "month"}
    yield _unit(units[match["unit"]], 0 if match["which"] in ("这", "本") else len(match["which"]), today)


def _han_year(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    yield _unit("year", {"今年": 0, "去年": 1, "前年": 2}[match.group()], today)


def _han_ago(match: re.Match[str], today: date) -> Iterator[tuple[date, date]]:
    units = {"天": "day", "周": "week", "个星期": "week", "个月": "month", "年": "year"}
    yield _unit(units[match["unit"]], _han_number(match["count"]), today)


_Read = Callable[[re.Match[str], date], Iterator[tuple[date, date]]]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


# The longest first.
_PATTERNS: tuple[tuple[re.Pattern[str], _Read], ...] = (
    (_pattern(rf"\b{_YEAR}[-/.](?P<number>[01]?\d)[-/.](?P<day>[0-3]?\d)\b"), _iso),
    (_pattern(rf"\b{_DAY}\s+(?:of\s+)?{_MONTH},?(?:\s+{_YEAR})?\b"), _named_day),
    (_pattern(rf"\b{_MONTH}\s+{_DAY}\b,?(?:\s+{_YEAR}\b)?(?!\d)"), _named_day),
    # "may" is a verb more often than a month.
    (_pattern(rf"\b(?P<last>{_BEFORE_MONTH})[\s-]+{_MONTH},?(?:\s+{_YEAR}\b)?"), _named_month),
    (_pattern(rf"\b(?P<last>){_MONTH},?\s+{_YEAR}\b"), _named_month),
    (_pattern(r"\bthe\s+day\s+before\s+yesterday\b|\b(?:yesterday|today)\b|大前天|前天|昨天|昨晚|今天"), _relative_day),
    (_pattern(r"\blast\s+weekend\b|上周末"), _weekend),
    (_pattern(r"\b(?P<which>last|previous|this)\s+(?P<unit>week|month|year)\b"), _last_unit),
    (_pattern(rf"\blast\s+{_WEEKDAY}\b"), _last_weekday),
    (_pattern(rf"\b(?P<count>\d{{1,4}}|{_COUNT})\s+(?P<unit>day|week|month|year)s?\s+ago\b"), _ago),
    (_pattern(rf"(?:{_YEAR}年|(?P<which>今年|去年|前年))?的?{_HAN_MONTH}(?:份|{_HAN_DAY})?"), _han_date),
    (_pattern(r"(?P<which>上+|这|本)个?(?P<unit>周|星期|礼拜|月)"), _han_unit),
    (_pattern(rf"(?P<count>{_HAN_NUMBER})(?P<unit>天|周|个星期|个月|年)(?:之?前)"), _han_ago),
    (_pattern("今年|去年|前年"), _han_year),
    (_pattern(rf"\b(?:in|during|of|since)\s+{_YEAR}\b"), _only_year),
    (_pattern(rf"(?<!\d){_YEAR}年"), _only_year),
)  # fmt: skip
