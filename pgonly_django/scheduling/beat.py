"""Celery beat's schedules as declarations of ours: from django-celery-beat's tables, without that package, and from
CELERY_BEAT_SCHEDULE."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.db import connections

from pgonly_django.exceptions import OptionError
from pgonly_django.scheduling.beat_crontab import FIELDS, UnusableError, cron_line
from pgonly_django.scheduling.declaration import Declaration

TABLE = "django_celery_beat_periodictask"
# Older versions have no time zone in the crontab.
TASKS = """
SELECT to_jsonb(t), to_jsonb(c), to_jsonb(i), t.last_run_at
FROM django_celery_beat_periodictask AS t
LEFT JOIN django_celery_beat_crontabschedule AS c ON c.id = t.crontab_id
LEFT JOIN django_celery_beat_intervalschedule AS i ON i.id = t.interval_id
WHERE t.task <> 'celery.backend_cleanup' ORDER BY t.name
"""
CRONTAB = tuple(name for name, _, _ in FIELDS)
# What a periodic task may say that a schedule of ours does not.
NOT_TAKEN_OVER = ("priority", "expires", "expire_seconds", "exchange", "routing_key")


@dataclass(frozen=True, slots=True)
class Found:
    """One schedule of Celery's: what it is here, or why it cannot be."""

    name: str
    declaration: Declaration | None
    reason: str = ""
    is_enabled: bool = True
    last_run_at: datetime | None = None
    notes: list[str] = field(default_factory=list)


def has_tables(database: str) -> bool:
    return TABLE in connections[database].introspection.table_names()


def from_tables(database: str, overlap: str) -> Iterator[Found]:
    """The rows of django-celery-beat."""
    with connections[database].cursor() as cursor:
        cursor.execute(TASKS)
        rows = cursor.fetchall()
    for task, crontab, every, last_run_at in rows:
        yield _from_row(_loaded(task), _loaded(crontab), _loaded(every), last_run_at, overlap)


def from_settings(entries: Mapping[str, Any], overlap: str) -> Iterator[Found]:
    """The entries of CELERY_BEAT_SCHEDULE, or of `app.conf.beat_schedule`."""
    for name, entry in sorted(entries.items()):
        options = entry.get("options") or {}
        given = {"args": entry.get("args") or (), "kwargs": entry.get("kwargs") or {}}
        try:
            timing = _timing_of(entry["schedule"])
        except (UnusableError, KeyError) as error:
            yield Found(name, None, str(error))
            continue
        yield _found(name, entry.get("task", ""), {**given, **timing}, options, overlap)


def _loaded(value: Any) -> Any:
    """Django's cursor leaves jsonb as text."""
    return json.loads(value) if isinstance(value, str) else value


def _from_row(task: dict[str, Any], crontab: Any, every: Any, last_run_at: Any, overlap: str) -> Found:
    name = task["name"]
    if task["one_off"]:
        return Found(name, None, "it runs only once: enqueue its task with .using(run_after=...)")
    try:
        given = {"args": json.loads(task["args"] or "[]"), "kwargs": json.loads(task["kwargs"] or "{}")}
        timing = _timing_of_row(crontab, every)
    except ValueError as error:  # UnusableError is one
        return Found(name, None, str(error))
    state = {"is_enabled": task["enabled"], "last_run_at": last_run_at}
    return _found(name, task["task"], {**given, **timing}, task, overlap, **state)


def _timing_of_row(crontab: Any, every: Any) -> dict[str, Any]:
    if crontab is not None:
        line = cron_line({name: crontab[name] for name in CRONTAB})
        return {"cron": line, "timezone": crontab.get("timezone") or _celery_timezone()}
    if every is not None:
        return {"every": timedelta(**{every["period"]: every["every"]})}
    raise UnusableError(
        "it is neither a crontab nor an interval (solar and clocked schedules have no equal here)"
    )


def _timing_of(schedule: Any) -> dict[str, Any]:
    """Of a number of seconds, a timedelta, or Celery's objects, which are known by their attributes."""
    if isinstance(schedule, timedelta | int | float):
        return {"every": schedule}
    if all(hasattr(schedule, name) for name in CRONTAB):
        zone = str(getattr(schedule, "tz", None) or _celery_timezone())
        return {"cron": cron_line({name: getattr(schedule, name) for name in CRONTAB}), "timezone": zone}
    if isinstance(getattr(schedule, "run_every", None), timedelta):
        return {"every": schedule.run_every}
    raise UnusableError(f"its schedule is a {type(schedule).__name__}, neither a crontab nor an interval")


def _celery_timezone() -> str:
    """Celery does not ask Django's TIME_ZONE."""
    return str(getattr(django_settings, "CELERY_TIMEZONE", None) or "UTC")


def _found(
    name: str, task: str, given: dict[str, Any], options: Mapping[str, Any], overlap: str, **state: Any
) -> Found:
    queue = options.get("queue") or None
    try:
        declaration = Declaration(name=name, task=task, queue=queue, overlap=overlap, **given).validate(name)
    except OptionError as error:
        return Found(name, None, str(error).removeprefix(f"{name}: "))
    notes = [f"{each} is not taken over" for each in NOT_TAKEN_OVER if options.get(each) is not None]
    if options.get("start_time"):
        notes.append(f"it was to start at {options['start_time']}")
        state["is_enabled"] = False
    return Found(name, declaration, notes=notes, **state)
