"""When a scheduled event is due."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import invalid

_FIELDS = 5


def check(cron: str, time_zone: str) -> None:
    """Returns when a schedule can be understood.

    Raises:
        Error: INVALID_SCHEDULE, naming the field.
    """
    next_after(cron, time_zone, datetime.now(UTC))


def next_after(cron: str, time_zone: str, moment: datetime) -> datetime:
    """The first time after a moment that a cron expression names, in UTC.

    In the night in which clocks go forward, a time that does not exist is made up for right after; in the one in
    which they go back, a time that comes twice is due once.

    Raises:
        Error: INVALID_SCHEDULE, naming the field.
    """
    try:
        zone = ZoneInfo(time_zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problem = f"'{time_zone}' is not an IANA time zone"
        raise invalid("schedule.time_zone", problem, errors_pb2.REASON_INVALID_SCHEDULE) from None
    if len(cron.split()) != _FIELDS:
        raise invalid("schedule.cron", f"'{cron}' does not have five fields", errors_pb2.REASON_INVALID_SCHEDULE)
    try:
        return next(CronSim(cron, moment.astimezone(zone))).astimezone(UTC)
    except (CronSimError, StopIteration) as error:
        problem = f"'{cron}' is not a cron expression that ever comes due: {error}"
        raise invalid("schedule.cron", problem, errors_pb2.REASON_INVALID_SCHEDULE) from None
