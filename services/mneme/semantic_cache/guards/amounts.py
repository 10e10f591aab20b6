"""Amounts, dates, times and ids in English text, each in a form that is equal for equal values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from mneme.semantic_cache.guards.question import Term

MARK = "\ue000"
"""Stands in the text for the next amount taken out of it."""


def _numbered(names: str, start: int) -> dict[str, int]:
    """Names by their place; those with a stroke between them share one."""
    return {name: number for number, shared in enumerate(names.split(), start=start) for name in shared.split("/")}


_ONES = _numbered(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
    0,
)
_TENS = {
    name: 10 * number for name, number in _numbered("twenty thirty forty fifty sixty seventy eighty ninety", 2).items()
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "billion": 1_000_000_000}
_ORDINALS = _numbered("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", 1)
_NUMBER_WORD = "|".join([*_ONES, *_TENS, *_SCALES])
_SPELLED = re.compile(
    rf"\b(?:(?:a|an)\s+(?=hundred|thousand|million|billion))?(?:{_NUMBER_WORD})"
    rf"(?:(?:[\s-]+|\s+and\s+)(?:{_NUMBER_WORD}))*\b",
    re.IGNORECASE,
)
_ORDINAL = re.compile(rf"\b(?:{'|'.join(_ORDINALS)})\b", re.IGNORECASE)

_MONTHS = _numbered(
    "january/jan february/feb march/mar april/apr may june/jun july/jul august/aug september/sept/sep october/oct "
    "november/nov december/dec",
    1,
)
_DAYS = _numbered("monday/mon tuesday/tue/tues wednesday/wed thursday/thu/thurs friday/fri saturday sunday", 1)
_MONTH = "|".join(sorted((name for name in _MONTHS if name != "may"), key=len, reverse=True))
_DATES = (
    re.compile(r"\b(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})\b"),
    re.compile(
        rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+(?P<n>{_MONTH}|may)\b\.?(?:,?\s+(?P<y>\d{{4}}))?",
        re.IGNORECASE,
    ),
    re.compile(
        rf"\b(?P<n>{_MONTH}|may)\b\.?\s+(?:the\s+)?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(?P<y>\d{{4}}))?",
        re.IGNORECASE,
    ),
    re.compile(rf"(?<=\w\s)(?P<n>{_MONTH}|May)\b\.?(?!\s+(?:I|we|you|one|a|the)\b)(?:\s+(?P<y>\d{{4}}))?"),
    re.compile(rf"\b(?P<n>{_MONTH})\b", re.IGNORECASE),
)
_SLASHED = re.compile(r"\b\d{1,4}[./]\d{1,2}[./]\d{2,4}\b")
_DAY = re.compile(rf"\b({'|'.join(sorted(_DAYS, key=len, reverse=True))})s?\b", re.IGNORECASE)
_TIMES = (
    re.compile(r"\b(?P<h>\d{1,2})(?:[:.](?P<m>\d{2}))?\s*(?P<half>[ap])\.?m\b\.?", re.IGNORECASE),
    re.compile(r"\b(?P<h>\d{1,2}):(?P<m>\d{2})(?P<half>)\b"),
    re.compile(r"\b(?P<h>\d{1,2})(?P<m>)\s+in\s+the\s+(?P<half>[ap])?(?:morning|fternoon|evening)\b", re.IGNORECASE),
    re.compile(r"\b(?P<h>\d{1,2})\s*o'?\s?clock(?P<m>)(?:\s+in\s+the\s+(?P<half>[ap])?\w+)?", re.IGNORECASE),
)
_NAMED_TIMES = {"noon": "12:00", "midday": "12:00", "midnight": "0:00"}
_NAMED_TIME = re.compile(r"\b(noon|midday|midnight)\b", re.IGNORECASE)

_CURRENCIES = {
    "usd": "$ us$ usd dollar dollars buck bucks",
    "eur": "€ eur euro euros",
    "gbp": "£ gbp pound_sterling pounds_sterling quid",
    "jpy": "jpy yen",
    "cny": "¥ cny rmb yuan renminbi",
    "inr": "₹ inr rs rupee rupees",
    "chf": "chf franc francs",
    "cad": "cad",
    "aud": "aud",
    "cent": "cent cents ¢",
}
_CURRENCY = {name.replace("_", " "): code for code, names in _CURRENCIES.items() for name in names.split()}
_SIGN = r"US\$|[$€£¥₹]"
_CODE = "|".join(sorted((name for name in _CURRENCY if name.isalpha() or " " in name), key=len, reverse=True))
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_MONEY = (
    re.compile(rf"(?P<c>{_SIGN})\s?(?P<n>{_DIGITS})(?P<k>k|m|bn)?\b", re.IGNORECASE),
    re.compile(
        rf"\b(?P<c>usd|eur|gbp|jpy|cny|rmb|inr|chf|cad|aud|rs)\.?\s?(?P<n>{_DIGITS})(?P<k>k|m|bn)?\b", re.IGNORECASE
    ),
    re.compile(rf"(?<![\w.])(?P<n>{_DIGITS})\s?(?P<k>k|m|bn)?\s?(?P<c>{_SIGN}|(?:{_CODE})\b)", re.IGNORECASE),
)
_THOUSANDS = {"k": 1000, "m": 1_000_000, "bn": 1_000_000_000}

# Dimension, factor to its base unit, spellings. Those whose case has a meaning are listed apart.
_UNITS: tuple[tuple[str, str, str], ...] = (
    ("m", "0.001", "mm millimeter millimeters millimetre millimetres"),
    ("m", "0.01", "cm centimeter centimeters centimetre centimetres"),
    ("m", "1", "m meter meters metre metres"),
    ("m", "1000", "km kilometer kilometers kilometre kilometres"),
    ("m", "0.0254", "inch inches"),
    ("m", "0.3048", "ft foot feet"),
    ("m", "0.9144", "yd yard yards"),
    ("m", "1609.344", "mile miles"),
    ("kg", "0.000001", "mg milligram milligrams"),
    ("kg", "0.001", "g gram grams gramme grammes"),
    ("kg", "1", "kg kgs kilo kilos kilogram kilograms"),
    ("kg", "0.45359237", "lb lbs pound pounds"),
    ("kg", "0.028349523125", "oz ounce ounces"),
    ("kg", "1000", "tonne tonnes"),
    ("l", "0.001", "ml milliliter milliliters millilitre millilitres"),
    ("l", "0.01", "cl"),
    ("l", "1", "l liter liters litre litres"),
    ("gallon", "1", "gallon gallons gal"),
    ("s", "0.001", "ms millisecond milliseconds"),
    ("s", "1", "s sec secs second seconds"),
    ("s", "60", "min mins minute minutes"),
    ("s", "3600", "h hr hrs hour hours"),
    ("s", "86400", "day days"),
    ("s", "604800", "week weeks wk wks"),
    ("month", "1", "month months"),
    ("month", "12", "year years yr yrs"),
    ("working day", "1", "working_day working_days business_day business_days weekday weekdays"),
    ("%", "1", "% percent per_cent pct"),
    ("kb", "1", "kb"),
    ("mb", "1", "mb megabyte megabytes"),
    ("gb", "1", "gb gig gigs gigabyte gigabytes"),
    ("tb", "1", "tb terabyte terabytes"),
    ("c", "1", "°c celsius degrees_celsius"),
    ("f", "1", "°f fahrenheit degrees_fahrenheit"),
    ("degree", "1", "° degree degrees"),
    ("m2", "1", "m² sqm square_meters square_metres"),
    ("mph", "1", "mph"),
    ("kmh", "1", "km/h kmh kph"),
    ("v", "1", "v volt volts"),
    ("kcal", "1", "kcal calories"),
)
_CASED_UNITS = {
    "mW": ("w", "0.001"),
    "W": ("w", "1"),
    "watt": ("w", "1"),
    "watts": ("w", "1"),
    "kW": ("w", "1000"),
    "MW": ("w", "1000000"),
    "Mb": ("megabit", "1"),
    "Mbit": ("megabit", "1"),
    "Mbps": ("mbps", "1"),
    "MBps": ("megabytes a second", "1"),
    "Wh": ("wh", "1"),
    "kWh": ("wh", "1000"),
    "mAh": ("mah", "1"),
}
_UNIT = {name.replace("_", " "): (base, factor) for base, factor, names in _UNITS for name in names.split()}
_UNIT_WORD = "|".join(re.escape(name) for name in sorted([*_UNIT, *_CASED_UNITS], key=len, reverse=True))
_MEASURE = re.compile(rf"(?<![\w.])(?P<n>{_DIGITS})[\s-]?(?P<u>{_UNIT_WORD})(?![\w²])", re.IGNORECASE)
_A_UNIT = re.compile(
    r"\b(?:a|an|one)\s+(?P<u>second|minute|hour|day|week|month|year|kilo|kilogram|pound|litre|liter|meter|metre"
    r"|mile)\b",
    re.IGNORECASE,
)
_NTH = re.compile(r"(?<![\w.])(\d+)(?:st|nd|rd|th)\b", re.IGNORECASE)
_NUMBER = re.compile(rf"(?<![\w.])[-+]?(?:{_DIGITS})(?!\w)")
_ID = re.compile(r"(?<!\w)#?(?=[\w./-]*\d)(?=[\w./-]*[^\W\d_]|[\d.]+[/-]\d|#)\w+(?:[./-]\w+)*|#\d+")
_DIGIT = re.compile(r"\d")
_ONE_ALONE = re.compile(r"\b(?:one|ones)\b", re.IGNORECASE)


@dataclass(slots=True)
class Taken:
    """A text whose amounts were taken out, and these in its order."""

    text: str
    """With a `MARK` for each amount, between spaces."""
    terms: list[Term] = field(default_factory=list)
    """The amounts."""


def take(text: str) -> Taken:
    """Returns a text, in its own case, with its amounts, dates and ids taken out."""
    found: list[Term] = []

    def keep(make: Callable[[re.Match[str]], Term | None]) -> Callable[[re.Match[str]], str]:
        def replaced(match: re.Match[str]) -> str:
            term = make(match)
            if term is None:
                return match.group()
            found.append(term)
            return f" {MARK}{chr(0xE100 + len(found) - 1)} "

        return replaced

    text = _SPELLED.sub(_digits, text)
    text = _ORDINAL.sub(_ordinal, text)
    for pattern, make in _NAMED_STEPS if _DIGIT.search(text) is None else _STEPS:
        text = pattern.sub(keep(make), text)
    order = [ord(sign) - 0xE100 for sign in re.findall(rf"{MARK}(.)", text)]
    return Taken(re.sub(rf"{MARK}.", MARK, _ONE_ALONE.sub(" ", text)), [found[place] for place in order])


def _digits(match: re.Match[str]) -> str:
    words = re.findall(r"[a-z]+", match.group().lower())
    if words == ["one"]:
        return match.group()
    total, part = 0, 0
    for word in words:
        if word in _ONES or word in _TENS:
            part += _ONES.get(word, 0) + _TENS.get(word, 0)
        elif word == "hundred":
            part = (part or 1) * 100
        elif word in _SCALES:
            total, part = total + (part or 1) * _SCALES[word], 0
    return str(total + part)


def _ordinal(match: re.Match[str]) -> str:
    before = match.string[: match.start()].rstrip()
    if match.group().lower() == "second" and (before[-1:].isdigit() or before.lower().endswith((" a", " one", " per"))):
        return match.group()
    return f"{_ORDINALS[match.group().lower()]}th"


def _date(match: re.Match[str]) -> Term:
    parts = match.groupdict()
    month = _MONTHS[parts["n"].lower()] if parts.get("n") else int(parts["m"])
    day = int(parts["d"]) if parts.get("d") else 0
    return Term(f"#{parts.get('y') or '?'}-{month}-{day or '?'}", match.group().strip(), "date")


def _time(match: re.Match[str]) -> Term | None:
    hour, minute = int(match["h"]), int(match["m"] or 0)
    if hour > 24 or minute > 59:
        return None
    half = (match["half"] or "").lower()
    if half == "p" and hour < 12:
        hour += 12
    elif half == "a" and hour == 12:
        hour = 0
    return Term(f"#{hour}:{minute:02}", match.group().strip(), "date")


def _money(match: re.Match[str]) -> Term:
    value = Decimal(match["n"].replace(",", "")) * _THOUSANDS.get((match["k"] or "").lower(), 1)
    sign = match["c"].lower()
    return Term(f"#{plain(value)} {_CURRENCY[sign]}", match.group().strip(), "money")


def _measure(match: re.Match[str]) -> Term:
    base, factor = _CASED_UNITS.get(match["u"]) or _UNIT.get(match["u"].lower()) or (match["u"], "1")
    value = Decimal(match["n"].replace(",", "")) * Decimal(factor)
    return Term(f"#{plain(value)} {base}", match.group().strip(), "unit")


def _a_unit(match: re.Match[str]) -> Term:
    base, factor = _UNIT[match["u"].lower()]
    return Term(f"#{plain(Decimal(factor))} {base}", match.group(), "unit")


def _number(match: re.Match[str]) -> Term:
    shown = match.group()
    digits = re.sub(r"[,+]", "", shown)
    return Term(f"#{plain(Decimal(digits))}", shown, "number")


def plain(value: Decimal) -> str:
    """Returns a number without trailing zeros or exponent, at most nine digits behind the point."""
    return f"{value.quantize(Decimal('1e-9')).normalize():f}"


_STEPS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Term | None]], ...] = (
    *((pattern, _money) for pattern in _MONEY),
    (_SLASHED, lambda match: Term(f"#{match.group()}", match.group(), "date")),
    *((pattern, _date) for pattern in _DATES),
    *((pattern, _time) for pattern in _TIMES),
    (_NAMED_TIME, lambda match: Term(f"#{_NAMED_TIMES[match.group().lower()]}", match.group(), "date")),
    (_DAY, lambda match: Term(f"#w{_DAYS[match[1].lower()]}", match.group(), "date")),
    (_NTH, lambda match: Term(f"#{match[1]}.", match.group(), "number")),
    (_MEASURE, _measure),
    (_A_UNIT, _a_unit),
    (_ID, lambda match: Term(f"#{match.group().casefold().lstrip('#')}", match.group(), "id")),
    (_NUMBER, _number),
)
_NAMED_STEPS = tuple(step for step in _STEPS if step[0] in (*_DATES[3:], _NAMED_TIME, _DAY, _A_UNIT))
"""Those that find something in a text without a digit."""
