"""What people get wrong in TASKS, found before it costs a job. Django calls this through the backend's check()."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.db import connections, router

from pgonly_django.models import Job
from pgonly_django.tasks.configuration import unused_defaults

if TYPE_CHECKING:
    from pgonly_django.tasks.backend import PostgresBackend

DOCS = "docs/queue.md#another-database"
POSTGRESQL = "django.db.backends.postgresql"


def check_task_backend(backend: PostgresBackend) -> list[checks.CheckMessage]:
    """E002: the entry in TASKS. E003, E004: the jobs' database. W001: the router says another one. W002: defaults of
    a queue that QUEUES lacks."""
    if backend.problems:
        hint = "All options: docs/queue.md#tasks."
        return [checks.Error(problem, hint=hint, id="pgonly_django.E002") for problem in backend.problems]
    where, database = f"TASKS[{backend.alias!r}]", backend.database
    error = _database_error(f"{where} keeps its jobs in", database, backend.options)
    return [error] if error else [*_routing(backend, where), *_unused_defaults(backend, where)]


def _database_error(what: str, database: str, options: Mapping[str, Any]) -> checks.CheckMessage | None:
    if database not in connections:
        message = f"{what} the database {database!r}, which is not in DATABASES."
        hint = f'Set OPTIONS["database"] to one of: {", ".join(connections)}.'
        return checks.Error(message, hint=hint, id="pgonly_django.E003")
    connection = connections[database]
    if connection.vendor != "postgresql":
        message = f"{what} {database!r}, which is {connection.vendor}."
        remedy = f'Make DATABASES[{database!r}] a PostgreSQL database (ENGINE "{POSTGRESQL}")'
        other = 'OPTIONS["database"]' if options.get("database") else 'a router or OPTIONS["database"]'
        hint = f"{remedy}, or lead the jobs to another one by {other}, see {DOCS}."
        return checks.Error(message, hint=hint, id="pgonly_django.E003")
    if not connection.settings_dict["AUTOCOMMIT"]:
        message = f"{what} {database!r}, which has AUTOCOMMIT = False."
        hint = "Take the line out: without autocommit workers neither start nor hear of jobs. Use atomic()."
        return checks.Error(message, hint=hint, id="pgonly_django.E004")
    return None


def _routing(backend: PostgresBackend, where: str) -> list[checks.CheckMessage]:
    database = backend.database
    routed = {router.db_for_read(Job), router.db_for_write(Job)} - {database}
    if not (routed and backend.options.get("database")):
        return []
    others = " and ".join(map(repr, sorted(routed)))
    message = f"{where} keeps its jobs in {database!r}, but Job.objects and the admin look in {others}."
    hint = f"Route the queue's models to {database!r}, see {DOCS}."
    return [checks.Warning(message, hint=hint, id="pgonly_django.W001")]


def _unused_defaults(backend: PostgresBackend, where: str) -> list[checks.CheckMessage]:
    names = unused_defaults(backend.queues, backend.defaults.by_queue)
    message = f'{where}["OPTIONS"]["queues"] has {{}}, which "QUEUES" lacks: no task can be enqueued there.'
    hint = 'Add the name to "QUEUES", or correct it.'
    return [checks.Warning(message.format(name), hint=hint, id="pgonly_django.W002") for name in names]
