"""Searches and listings by days of a user's calendar, and where the words stand in what is found."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mneme.common.v1 import common_pb2
from mneme.recall.v1 import recall_pb2 as pb
from tests.contract.recall.conftest import Writer, assistant, texts, user
from tests.support.hosting import failure


def at(*moment: int) -> Timestamp:
    """A time in UTC."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime(*moment, tzinfo=UTC))  # type: ignore[misc, arg-type]
    return stamp


def days(first: str, last: str, zone: str = "") -> pb.MessageFilter:
    """Only messages of these days."""
    return pb.MessageFilter(dates=pb.CivilDates(first=first, last=last, time_zone=zone))


async def test_a_day_is_that_of_the_users_clock(writer: Writer) -> None:
    await writer.append(
        user("tea late on the last of February in London", create_time=at(2026, 2, 28, 17, 0)),
        user("tea at noon", create_time=at(2026, 3, 1, 12, 0)),
        user("tea late on the first in London", create_time=at(2026, 3, 1, 23, 0)),
    )

    shanghai = days("2026-03-01", "2026-03-01", "Asia/Shanghai")
    assert [one.text for one in await writer.list(filter=shanghai)] == [
        "tea late on the last of February in London",
        "tea at noon",
    ]
    assert set(texts(await writer.words("tea", filter=days("2026-03-01", "2026-03-01")))) == {
        "tea at noon",
        "tea late on the first in London",
    }
    assert texts(await writer.search(filter=days("2026-03-02", "", "Asia/Shanghai"))) == [
        "tea late on the first in London"
    ]


async def test_a_day_on_which_the_clocks_change_is_whole(writer: Writer) -> None:
    # In Berlin the 29th of March 2026 lasts from 23:00 to 22:00 UTC.
    await writer.append(
        user("before", create_time=at(2026, 3, 28, 22, 59)),
        user("first minute", create_time=at(2026, 3, 28, 23, 0)),
        user("last minute", create_time=at(2026, 3, 29, 21, 59)),
        user("after", create_time=at(2026, 3, 29, 22, 0)),
    )

    found = await writer.list(filter=days("2026-03-29", "2026-03-29", "Europe/Berlin"))
    assert [one.text for one in found] == ["first minute", "last minute"]


async def test_days_roles_and_a_time_range_hold_together(writer: Writer) -> None:
    await writer.append(
        user("tea one", create_time=at(2026, 3, 1, 8, 0)),
        assistant("tea two", create_time=at(2026, 3, 1, 9, 0)),
        user("tea three", create_time=at(2026, 3, 1, 10, 0)),
    )
    wanted = days("2026-03-01", "2026-03-01")
    wanted.roles.append(pb.ROLE_USER)
    wanted.time_range.CopyFrom(common_pb2.TimeRange(start=at(2026, 3, 1, 9, 0)))

    assert texts(await writer.words("tea", filter=wanted)) == ["tea three"]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (days("2026-02-30", ""), "filter.dates.first"),
        (days("", "tomorrow"), "filter.dates.last"),
        (days("", "", "Mars/Olympus"), "filter.dates.time_zone"),
        (days("2026-03-02", "2026-03-01"), "filter.dates"),
    ],
)
async def test_days_that_are_none_are_refused(writer: Writer, wanted: pb.MessageFilter, field: str) -> None:
    error = await failure(writer.search(filter=wanted))
    assert error.violations[0].field == field


async def test_words_are_shown_where_they_stand(writer: Writer) -> None:
    await writer.append(user("Ann is allergic to nuts"), user("我对坚果过敏"))

    for query in ({"text": pb.TextQuery(text="allergic nut")}, {"hybrid": pb.HybridQuery(text="allergic nut")}):
        (best, *_) = (await writer.search(highlight=True, **query)).results
        assert [best.message.text[one.start : one.end] for one in best.highlights] == ["allergic", "nuts"]
    chinese = (await writer.words("坚果", highlight=True)).results[0]
    assert [chinese.message.text[one.start : one.end] for one in chinese.highlights] == ["坚果"]
    assert not (await writer.words("nuts")).results[0].highlights
