"""Days of a calendar as spans of time."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import invalid


def span(first: str, last: str, time_zone: str, *, field: str) -> tuple[datetime | None, datetime | None]:
    """Returns the moment at which the first day begins and that at which the last one has ended, in UTC.

    Each day ends where the next begins, however long it is. A midnight that the clocks skip is the moment at which they
    do, and one that comes twice is its first time.

    Args:
        first: YYYY-MM-DD; empty for no bound.
        last: YYYY-MM-DD; empty for no bound.
        time_zone: IANA name; empty for UTC.
        field: What the days are called in an error.

    Raises:
        Error: INVALID_FIELD for no date or no time zone, INVALID_TIME_RANGE for a last day before the first.
    """
    zone = _zone(time_zone, field)
    start, end = _date(first, f"{field}.first"), _date(last, f"{field}.last")
    if start is not None and end is not None and end < start:
        raise invalid(field, f"last {end} is before first {start}", errors_pb2.REASON_INVALID_TIME_RANGE)
    after = None if end is None or end == date.max else end + timedelta(days=1)
    return _midnight(start, zone), _midnight(after, zone)


def _zone(name: str, field: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid(f"{field}.time_zone", f"'{name}' is not an IANA time zone") from None


def _date(text: str, field: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise invalid(field, f"'{text}' is not a date") from None


def _midnight(day: date | None, zone: ZoneInfo) -> datetime | None:
    # The first and the last day of all may begin, in UTC, outside of what can be said.
    if day is None or not date.min < day < date.max:
        return None
    return datetime.combine(day, time(), zone).astimezone(UTC)
