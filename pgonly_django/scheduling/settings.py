"""PGONLY["SCHEDULES"]: schedules by name, for those that belong to a deployment and not to code.

{"nightly": {"task": "app.tasks.report", "cron": "0 3 * * *"}}; an entry wins over a decorator's schedule of that name,
and None switches that off.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import QuerySet

from pgonly_django.compat import InvalidTask
from pgonly_django.conf import settings, unknown_key
from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError, WrongArgumentsError
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.schedule import CONFIRM_EVERY, Schedule
from pgonly_django.models.worker import Worker
from pgonly_django.scheduling.declaration import Declaration, as_scheduled
from pgonly_django.scheduling.decorators import declarations
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.registry import UnknownTaskError, import_task

KEYS = tuple(each.name for each in fields(Declaration) if each.name != "name")
FORGOTTEN_AFTER = 3 * CONFIRM_EVERY
# A service whose only worker was killed may be back within minutes, which is longer than a lease.
LIVE_WITHIN = timedelta(minutes=6)
HINT = "See docs/how-to/schedules.md#settings."


def declared(database: str) -> dict[str, Declaration]:
    """Returns all schedules of code and settings whose jobs belong to this database, by name."""
    mine = {name: each for name, (task, each) in declarations().items() if _database_of(task) == database}
    for name, entry, problem in _read():
        if not problem:
            mine.pop(name, None)
        if entry is not None and _belongs(entry, database):
            mine[name] = entry
    return mine


def check_schedules(**_: object) -> list[checks.CheckMessage]:
    """E301: an entry is wrong. W301: the task of an entry cannot be enqueued; workers try it all the same."""
    try:
        found = list(_read())
    except ImproperlyConfigured:
        return []  # E001 says so
    errors: list[checks.CheckMessage] = [
        checks.Error(problem, hint=HINT, id="pgonly_django.E301") for _, _, problem in found if problem
    ]
    warnings = [_what_is_wrong_with_call(entry) for _, entry, _ in found if entry is not None]
    return errors + [checks.Warning(text, hint=HINT, id="pgonly_django.W301") for text in warnings if text]


def _read() -> list[tuple[str, Declaration | None, str]]:
    """Returns (name, entry, what is wrong with it)."""
    return [_read_entry(name, raw) for name, raw in settings().schedules.items()]


def _read_entry(name: Any, raw: Any) -> tuple[str, Declaration | None, str]:
    where = f'PGONLY["SCHEDULES"][{name!r}]'
    if raw is None and isinstance(name, str):
        return name, None, ""
    if not isinstance(raw, Mapping):
        return str(name), None, f"{where} must be a dict, or None for none, got {raw!r}."
    wrong = [unknown_key(f'{where}["%s"]', key, KEYS) for key in raw if key not in KEYS]
    if "task" not in raw:
        wrong.append(f'{where} lacks "task", the dotted path of its task.')
    if wrong:
        return str(name), None, " ".join(wrong)
    try:
        return str(name), Declaration(name=name, **raw).validate(where), ""
    except OptionError as error:
        return str(name), None, str(error)


def _what_is_wrong_with_call(entry: Declaration) -> str:
    where = f'PGONLY["SCHEDULES"][{entry.name!r}]'
    try:
        task = import_task(entry.task)
        call_signature(task.func, task.takes_context).check(entry.args, entry.kwargs)
        as_scheduled(task, entry)
    except (UnknownTaskError, WrongArgumentsError, InvalidTask, OptionError) as error:
        return f"{where}: {error}"
    return ""


def _belongs(entry: Declaration, database: str) -> bool:
    """Returns whether it belongs here. If its task cannot be imported, it belongs everywhere: its page says why."""
    try:
        task = import_task(entry.task)
    except UnknownTaskError:
        return True
    return _database_of(task) == database


def _database_of(task: Any) -> str | None:
    """Returns the database of the task's jobs; None for another backend's task, which nothing schedules."""
    try:
        return getattr(task.get_backend(), "database", None)
    except Exception:  # noqa: BLE001 - TASKS has no such entry (any more), or it cannot be set up
        return None


def declare(database: str, worker_id: UUID, lease_for: timedelta) -> set[str]:
    """Brings the rows into line with what this process declares, and returns its names. Raises django.db.Error.

    Workers with other code may do the same. A row that the code no longer has ends in two steps. It no longer ticks
    when no worker has that code (see DueSchedules). It is deleted when no worker has confirmed it for FORGOTTEN_AFTER,
    or at once if no other worker is alive; not while a worker sleeps, which confirms no rows. During a rolling deploy
    neither version deletes what the other one needs. A row that a person paused, edited or made stays.
    """
    mine = declared(database)
    rows: Any = Schedule.objects.using(database)
    rows.declare({name: each.columns() for name, each in mine.items()})
    others = Worker.objects.using(database).live(max(lease_for, LIVE_WITHIN)).exclude(pk=worker_id)
    if not others.asleep().exists():
        _delete_stale(database, mine, is_alone=not others.exists())
    return set(mine)


def needs_confirming(database: str) -> bool:
    """Returns whether there is a row that some code declares: then call declare() every CONFIRM_EVERY."""
    return Schedule.objects.using(database).filter(declared__isnull=False).exists()


def _delete_stale(database: str, mine: Collection[str], *, is_alone: bool) -> None:
    with transaction.atomic(using=database):
        rows: QuerySet[Schedule] = Schedule.objects.using(database).exclude(name__in=mine)
        rows = rows.filter(declared__isnull=False, edited_at=None, paused_at=None)
        if not is_alone:
            rows = rows.filter(declared_at__lt=ClockTimestamp() - FORGOTTEN_AFTER)
        # The row is locked first: a worker that has the code may be at its tick.
        names = [row.name for row in rows.select_for_update(skip_locked=True)]
        Schedule.objects.using(database).filter(name__in=names).delete()
    for name in names:
        message = f"The schedule {name} is not declared any more and was deleted."
        emit("scheduling.removed", message, level=logging.INFO, schedule=name)
