"""Days of a calendar as spans of time, over changes of the clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.errors.v1 import errors_pb2
from mneme.recall import civil
from mneme.runtime.errors import Error

# Clocks that change at midnight, by half an hour, by a whole day, and never.
ZONES = (
    "UTC",
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kolkata",
)


def span(first: str, last: str, zone: str = "") -> tuple[datetime | None, datetime | None]:
    return civil.span(first, last, zone, field="dates")


@given(st.sampled_from(ZONES), st.integers(631_152_000, 2_114_380_800))
def test_each_moment_lies_in_the_day_that_its_clock_shows(zone: str, seconds: int) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    day = moment.astimezone(ZoneInfo(zone)).date()

    start, end = span(f"{day}", f"{day}", zone)

    assert start is not None
    assert end is not None
    assert start <= moment < end


@given(st.sampled_from(ZONES), st.dates(date(1990, 1, 1), date(2037, 1, 1)))
def test_days_follow_each_other_without_a_gap(zone: str, day: date) -> None:
    following = day + timedelta(days=1)

    assert span(f"{day}", f"{day}", zone)[1] == span(f"{following}", f"{following}", zone)[0]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/Sao_Paulo", "2018-11-04", 23),
        ("Asia/Shanghai", "2026-03-01", 24),
        ("Pacific/Apia", "2011-12-30", 0),
    ],
)
def test_a_day_is_as_long_as_its_clocks_say(zone: str, day: str, hours: int) -> None:
    start, end = span(day, day, zone)

    assert start is not None
    assert end is not None
    assert (end - start) == timedelta(hours=hours)


def test_an_absent_day_is_no_bound() -> None:
    assert span("", "") == (None, None)
    assert span("2026-03-01", "", "Asia/Shanghai") == (datetime(2026, 2, 28, 16, tzinfo=UTC), None)
    assert span("0001-01-01", "9999-12-31", "Asia/Shanghai") == (None, None)


@pytest.mark.parametrize(
    ("first", "last", "zone", "field", "reason"),
    [
        ("2026-02-30", "", "", "dates.first", errors_pb2.REASON_INVALID_FIELD),
        ("", "2026-13-01", "", "dates.last", errors_pb2.REASON_INVALID_FIELD),
        ("2026-03-02", "2026-03-01", "", "dates", errors_pb2.REASON_INVALID_TIME_RANGE),
        ("", "", "Mars/Olympus", "dates.time_zone", errors_pb2.REASON_INVALID_FIELD),
        ("", "", "../etc/passwd", "dates.time_zone", errors_pb2.REASON_INVALID_FIELD),
        ("", "", "Europe", "dates.time_zone", errors_pb2.REASON_INVALID_FIELD),
    ],
)
def test_what_is_no_day_is_named(
    first: str, last: str, zone: str, field: str, reason: errors_pb2.Reason.ValueType
) -> None:
    with pytest.raises(Error) as raised:
        span(first, last, zone)
    assert (raised.value.violations[0].field, raised.value.reason) == (field, reason)
