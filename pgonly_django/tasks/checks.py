"""What people get wrong in TASKS, found before it costs a job. Django calls this through the backend's check()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.core import checks
from django.db import connections

if TYPE_CHECKING:
    from pgonly_django.tasks.backend import PostgresBackend


def check_task_backend(backend: PostgresBackend) -> list[checks.CheckMessage]:
    """E002: the app is not installed. E003: the jobs' database is missing or not PostgreSQL."""
    where = f"TASKS[{backend.alias!r}]"
    if not apps.is_installed("pgonly_django"):
        hint = 'Add "pgonly_django" to INSTALLED_APPS, then: python manage.py migrate'
        return [checks.Error(f"{where} needs the app pgonly_django.", hint=hint, id="pgonly_django.E002")]
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
    return []
