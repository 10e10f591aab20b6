"""Times that questions name, in English and Chinese."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mneme.runtime.dates import spans

# A Wednesday.
NOW = datetime(2023, 11, 15, 9, 30, tzinfo=UTC)


def found(question: str, now: datetime = NOW) -> list[tuple[str, str]]:
    return [(f"{one.start:%Y-%m-%d}", f"{one.end:%Y-%m-%d}") for one in spans(question, now)]


@pytest.mark.parametrize(
    ("question", "first", "after"),
    [
        ("What did she do on 7 May 2023?", "2023-05-07", "2023-05-08"),
        ("What happened on December 24th?", "2022-12-24", "2022-12-25"),
        ("the report of 2023-02-28", "2023-02-28", "2023-03-01"),
        ("Who visited in June 2023?", "2023-06-01", "2023-07-01"),
        ("Where was he last May?", "2023-05-01", "2023-06-01"),
        ("what we said last November", "2022-11-01", "2022-12-01"),
        ("yesterday's plan", "2023-11-14", "2023-11-15"),
        ("the day before yesterday", "2023-11-13", "2023-11-14"),
        ("What did I buy last week?", "2023-11-06", "2023-11-13"),
        ("two weeks ago we met", "2023-10-30", "2023-11-06"),
        ("last Friday", "2023-11-10", "2023-11-11"),
        ("during 2022", "2022-01-01", "2023-01-01"),
        ("去年五月我们去了哪里", "2022-05-01", "2022-06-01"),
        ("昨天说了什么", "2023-11-14", "2023-11-15"),
        ("上周的会议", "2023-11-06", "2023-11-13"),
        ("上上个月花了多少", "2023-09-01", "2023-10-01"),
        ("2023年5月7日", "2023-05-07", "2023-05-08"),
        ("三个月前买的", "2023-08-01", "2023-09-01"),
        ("十二月二十五号", "2022-12-25", "2022-12-26"),
    ],
)
def test_a_time_is_understood(question: str, first: str, after: str) -> None:
    assert found(question) == [(first, after)]


@pytest.mark.parametrize(
    "question", ["She may go", "march forward", "30 February 2023", "三个月花了多少", "the 2,023 contest", ""]
)
def test_what_names_no_time_names_none(question: str) -> None:
    assert found(question) == []


def test_a_day_begins_at_the_askers_midnight() -> None:
    """At 16:30 UTC it is the next day in Shanghai."""
    shanghai = ZoneInfo("Asia/Shanghai")
    now = datetime(2023, 11, 15, 16, 30, tzinfo=UTC).astimezone(shanghai)
    (day,) = spans("昨天", now)
    assert day.start == datetime(2023, 11, 15, tzinfo=shanghai)
    assert day.end - day.start == timedelta(days=1)


_PIECES = [*"今去前年昨天上周个月日十二三5 ", "may ", "last ", "2023", "week ", "ago ", "31 "]


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join), st.integers(0, 36_500))
@example("二三天前", 0)
@example("十十月", 0)
def test_any_text_is_read_and_every_span_has_days(question: str, days: int) -> None:
    for span in spans(question, datetime(1990, 1, 1, tzinfo=UTC) + timedelta(days=days)):
        assert span.start < span.end
