"""How many runs ended in a period and how, in parts of equal length: from pgonly_job_stats."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from django.db import connections

from pgonly_django.tables import qualified


@dataclass(frozen=True, slots=True)
class Parts:
    granularity: str
    length: timedelta  # of one part
    count: int

    @property
    def whole(self) -> timedelta:
        return self.length * self.count


class Period(Enum):
    HOUR = Parts("minute", timedelta(minutes=1), 60)
    DAY = Parts("hour", timedelta(hours=1), 24)
    WEEK = Parts("hour", timedelta(hours=4), 42)


class Ended(NamedTuple):
    """What ended in one part of the period."""

    starts_at: datetime
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    interrupted: int = 0
    crashed: int = 0


PRESENT_PART = "SELECT date_bin(%(length)s::interval, clock_timestamp(), timestamptz '2000-01-01 00:00+00')"
# Index: pgonly_job_stats_once, the rows of the period: one for each task, queue and minute, or hour.
ENDED = qualified("""
SELECT date_bin(%(length)s::interval, starts_at, timestamptz '2000-01-01 00:00+00'),
    sum(succeeded)::int8, sum(failed)::int8, sum(retried)::int8, sum(interrupted)::int8, sum(crashed)::int8
FROM pgonly_job_stats
WHERE granularity = %(granularity)s::text AND starts_at >= %(since)s::timestamptz
GROUP BY 1
""")


def throughput(alias: str, period: Period) -> list[Ended]:
    """One entry for each part of the period, the present one last; zeros where nothing ended. It lags by 15 s, since
    workers write that often."""
    parts = period.value
    with connections[alias].cursor() as cursor:
        cursor.execute(PRESENT_PART, {"length": str(parts.length)})
        ((last,),) = cursor.fetchall()
        since = last - parts.length * (parts.count - 1)
        facts = {"length": str(parts.length), "granularity": parts.granularity, "since": since}
        cursor.execute(ENDED, facts)
        found = {row[0]: Ended(*row) for row in cursor.fetchall()}
    starts = (since + parts.length * number for number in range(parts.count))
    return [found.get(start, Ended(start)) for start in starts]


# Index: pgonly_job_stats_once, the rows of two hours.
FAILED = qualified("""
SELECT coalesce(sum(failed) FILTER (WHERE starts_at > statement_timestamp() - interval '1 hour'), 0)::int8,
    coalesce(sum(failed) FILTER (WHERE starts_at <= statement_timestamp() - interval '1 hour'), 0)::int8
FROM pgonly_job_stats
WHERE granularity = 'minute' AND starts_at > statement_timestamp() - interval '2 hours'
""")


class Failed(NamedTuple):
    last_hour: int
    hour_before: int


def failed_jobs(alias: str) -> Failed:
    """How many jobs failed for the last time within the last hour, and in the hour before it."""
    with connections[alias].cursor() as cursor:
        cursor.execute(FAILED)
        return Failed(*(cursor.fetchone() or (0, 0)))
