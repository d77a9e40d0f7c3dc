"""Schedules in every condition, and a scheduler's look at them without a thread."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from django.db import connection
from django.utils import timezone

from pgonly_django.models import Job, Schedule, Tick
from pgonly_django.scheduling.due import DueSchedules

NEVER_OVER = lambda: False  # noqa: E731 - as an argument
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def make(name="report", **columns) -> Schedule:
    """An hourly schedule made by a person, whose tick was due a second ago, unless `columns` say otherwise."""
    now = timezone.now()
    given = {"task": "tests.jobs.add", "args": [1], "next_at": now - timedelta(seconds=1), **columns}
    if "cron" not in given:
        given.setdefault("every_seconds", 3600.0)
    return Schedule.objects.create(name=name, **given)


def make_many(number, **columns) -> list[str]:
    """Hourly schedules made by a person, unless `columns` say otherwise. Returns their names."""
    names = [f"many {each}" for each in range(number)]
    values = {"task": "tests.jobs.add", "args": [1], "every_seconds": 3600.0, **columns}
    Schedule.objects.bulk_create(Schedule(name=name, **values) for name in names)
    return names


def look(*known, due=None) -> float | None:
    """Enqueue all that is due, as a worker does whose code declares the names `known`."""
    due = due or DueSchedules("default")
    due.known = set(known)
    return due.run(NEVER_OVER)


def fresh(schedule) -> Schedule:
    return Schedule.objects.get(pk=schedule.pk)


def ticks(schedule, **filters) -> list[Tick]:
    return list(Tick.objects.filter(schedule=schedule, **filters).order_by("tick_at"))


def jobs() -> list[Job]:
    return list(Job.objects.order_by("id"))


def clock():
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


def worker_id():
    return uuid4()
