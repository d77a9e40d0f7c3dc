"""The schedules that tick next, and those whose last tick could not be enqueued."""

from __future__ import annotations

from typing import Any

from pgonly_django.models import Schedule
from pgonly_django.models.job import ClockTimestamp

SCHEDULES_AT_MOST = 20


def schedules(alias: str) -> list[Any]:
    """SCHEDULES_AT_MOST rows, the next tick first, then the paused ones; each with `now`, the database's clock.

    Index: pgonly_schedule_due, in its order. Of the paused ones pgonly_schedule is read, which is small.
    """
    rows = Schedule.objects.using(alias).annotate(now=ClockTimestamp())
    ticking = list(rows.filter(paused_at=None, next_at__isnull=False).order_by("next_at")[:SCHEDULES_AT_MOST])
    left = SCHEDULES_AT_MOST - len(ticking)
    resting = rows.exclude(paused_at=None, next_at__isnull=False)
    return ticking + (list(resting.order_by("name")[:left]) if left else [])


def with_problem(alias: str) -> list[Schedule]:
    """SCHEDULES_AT_MOST whose last tick could not be enqueued and which are not paused. Reads pgonly_schedule, which is
    small."""
    rows = Schedule.objects.using(alias).filter(problem__isnull=False, paused_at=None).exclude(problem="")
    return list(rows.order_by("name")[:SCHEDULES_AT_MOST])
