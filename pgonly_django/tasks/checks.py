"""What people get wrong in TASKS, found before it costs a job. Django calls this through the backend's check()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core import checks
from django.db import connections, router

from pgonly_django.models import Job

if TYPE_CHECKING:
    from pgonly_django.tasks.backend import PostgresBackend

DOCS = "docs/queue.md#another-database"


def check_task_backend(backend: PostgresBackend) -> list[checks.CheckMessage]:
    """E003: the jobs' database is missing or not PostgreSQL. W001: the router says another one."""
    where = f"TASKS[{backend.alias!r}]"
    database = backend.database
    if database not in connections:
        known = ", ".join(connections)
        message = f"{where} keeps its jobs in the database {database!r}, which is not in DATABASES."
        hint = f'Set OPTIONS["database"] to one of: {known}.'
        return [checks.Error(message, hint=hint, id="pgonly_django.E003")]
    if connections[database].vendor != "postgresql":
        message = f"{where} keeps its jobs in {database!r}, which is {connections[database].vendor}."
        hint = 'Point OPTIONS["database"] at a PostgreSQL database.'
        return [checks.Error(message, hint=hint, id="pgonly_django.E003")]
    routed = {router.db_for_read(Job), router.db_for_write(Job)} - {database}
    if routed and backend.options.get("database"):
        others = " and ".join(map(repr, sorted(routed)))
        message = f"{where} keeps its jobs in {database!r}, but Job.objects and the admin look in {others}."
        hint = f"Route the queue's models to {database!r}, see {DOCS}."
        return [checks.Warning(message, hint=hint, id="pgonly_django.W001")]
    return []
