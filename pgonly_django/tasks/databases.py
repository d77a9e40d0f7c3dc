"""In which databases the jobs of settings.TASKS are."""

from __future__ import annotations

from django.db import router

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.models import Job
from pgonly_django.tasks.backend import PostgresBackend


def job_databases() -> list[str]:
    """Their aliases, in the order of TASKS. Where no entry is ours: where the router reads jobs, which commands and the
    admin do as well."""
    found = []
    for alias in task_backends:
        try:
            backend = task_backends[alias]
        except InvalidTaskBackend:  # Django's own check says so
            continue
        if isinstance(backend, PostgresBackend):
            found.append(backend.database)
    return list(dict.fromkeys(found)) or [router.db_for_read(Job)]
