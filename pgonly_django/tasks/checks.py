"""System checks of an entry of TASKS: mistakes are found before they cost a job. The backend's check() calls this."""

from __future__ import annotations

from collections.abc import Iterator

from django.core import checks
from django.db import connections, router

from pgonly_django.database.connect import check_vendor
from pgonly_django.models import Job
from pgonly_django.tasks.settings import TasksEntry

DOCS = "docs/how-to/queue.md#another-database"


def check_tasks_entry(entry: TasksEntry) -> list[checks.CheckMessage]:
    """E002: the entry itself. E003, E004: the jobs' database. W001: the router says another one. W002: defaults of a
    queue that QUEUES lacks."""
    if entry.problems:
        hint = "All options: docs/how-to/queue.md#tasks."
        return [checks.Error(problem, hint=hint, id="pgonly_django.E002") for problem in entry.problems]
    return _check_database(entry, entry.database) or list(_warnings(entry, entry.database))


def _check_database(entry: TasksEntry, database: str) -> list[checks.CheckMessage]:
    if database not in connections:
        message = f"{entry.place} keeps its jobs in the database {database!r}, which is not in DATABASES."
        hint = f'Set OPTIONS["database"] to one of: {", ".join(connections)}.'
        return [checks.Error(message, hint=hint, id="pgonly_django.E003")]
    how = 'OPTIONS["database"]' if entry.options.get("database") else 'a router or OPTIONS["database"]'
    instead = f"keep the jobs in another one, by {how}. See {DOCS}"
    if errors := check_vendor(database, f"{entry.place} keeps its jobs in", instead, "pgonly_django.E003"):
        return errors
    if not connections[database].settings_dict["AUTOCOMMIT"]:
        message = f"{entry.place} keeps its jobs in {database!r}, which has AUTOCOMMIT = False."
        hint = "Remove AUTOCOMMIT from it, and use atomic(): without autocommit workers do not start and get no NOTIFY."
        return [checks.Error(message, hint=hint, id="pgonly_django.E004")]
    return []


def _warnings(entry: TasksEntry, database: str) -> Iterator[checks.CheckMessage]:
    routed = {router.db_for_read(Job), router.db_for_write(Job)} - {database}
    if routed and entry.options.get("database"):
        others = " and ".join(map(repr, sorted(routed)))
        looked = f"but Job.objects and the admin look in {others}."
        message = f"{entry.place} keeps its jobs in {database!r}, {looked}"
        hint = f"Route the queue's models to {database!r}. See {DOCS}."
        yield checks.Warning(message, hint=hint, id="pgonly_django.W001")
    for name in entry.unused_defaults():
        lack = f'has {name}, which "QUEUES" lacks: no task can be enqueued there.'
        message = f'{entry.place}["OPTIONS"]["queues"] {lack}'
        hint = 'Add the name to "QUEUES", or correct it.'
        yield checks.Warning(message, hint=hint, id="pgonly_django.W002")
