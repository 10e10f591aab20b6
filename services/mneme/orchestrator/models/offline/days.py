"""Days that a question names: "yesterday", "on 2026-03-01", 昨天."""

import re
from dataclasses import dataclass
from datetime import date, timedelta

from mneme.orchestrator.models.offline.words import pattern


@dataclass(frozen=True, slots=True)
class Days:
    """A span of days, both ends included."""

    first: date
    last: date


def asked_days(question: str, today: date | None) -> Days | None:
    """The days whose conversation a question asks about; None where it asks about no talk or names no days.

    Args:
        today: The day of the question; None where it is not known, which leaves written dates only.
    """
    if not _TALK.search(question):
        return None
    written = _DATE.search(question)
    if written:
        return _written(*map(int, written.groups()))
    if today is None:
        return None
    back = next((span for span, names in _SPANS.items() if names.search(question)), None)
    return Days(today - timedelta(back[0]), today - timedelta(back[1])) if back else None


def _written(year: int, month: int, day: int) -> Days | None:
    try:
        found = date(year, month, day)
    except ValueError:
        return None
    return Days(found, found)


_TALK = pattern(
    r"\b(?:talk(?:ed)?|discuss(?:ed)?|sp(?:eak|oke)|say|said|tell|told|chat(?:ted)?|mention(?:ed)?|conversation)\b",
    "聊|说|谈|讲|提到|对话",
)
_DATE = re.compile(r"(\d{4})[-年](\d{1,2})[-月](\d{1,2})")
# Days back from today, first and last.
_SPANS = {
    (2, 2): pattern(r"\bday before yesterday\b", "前天"),
    (1, 1): pattern(r"\byesterday\b", "昨天"),
    (0, 0): pattern(r"\b(?:today|this morning|earlier today)\b", "今天|今早"),
    (7, 1): pattern(r"\b(?:last|past) week\b|\blast few days\b", "上周|上星期|最近几天|前几天"),
    (31, 1): pattern(r"\b(?:last|past) month\b", "上个?月"),
}
