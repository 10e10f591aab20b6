"""When scheduled events are due, in zones whose clocks jump."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mneme.orchestrator import schedule
from mneme.runtime.errors import Error


def at(text: str) -> datetime:
    """A time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "after", "due"),
    [
        ("0 9 * * *", "", "2026-11-22T08:00", "2026-11-22T09:00"),
        ("0 9 * * *", "", "2026-11-22T09:00", "2026-11-23T09:00"),
        ("0 9 * * *", "Asia/Shanghai", "2026-11-22T08:00", "2026-11-23T01:00"),
        ("0 9 * * MON", "Europe/Berlin", "2026-11-22T08:00", "2026-11-23T08:00"),
        ("0 0 29 2 *", "", "2026-11-22T08:00", "2028-02-29T00:00"),
        # 02:30 does not exist on 2026-03-29 in Berlin: made up for right after the jump.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T01:00"),
    ],
)
def test_the_next_time(cron: str, zone: str, after: str, due: str) -> None:
    assert schedule.next_after(cron, zone, at(after)) == at(due)


def test_an_hour_that_comes_twice_is_due_once_a_day() -> None:
    moment, days = at("2026-10-24T12:00"), []
    for _ in range(3):
        moment = schedule.next_after("30 2 * * *", "Europe/Berlin", moment)
        days.append(moment.day)

    assert days == [25, 26, 27]


@pytest.mark.parametrize(
    ("cron", "zone"),
    [("* * *", ""), ("61 * * * *", ""), ("0 0 31 2 *", ""), ("0 9 * * *", "Nowhere/Land"), ("0 9 * * *", "/etc")],
)
def test_nonsense_is_refused(cron: str, zone: str) -> None:
    with pytest.raises(Error):
        schedule.next_after(cron, zone, at("2026-11-22T08:00"))
