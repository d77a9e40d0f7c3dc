"""The backends of TASKS that keep their jobs in rows."""

from __future__ import annotations

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.database import testrun
from pgonly_django.exceptions import PgonlyError
from pgonly_django.tasks.backend import PostgresBackend


class NoRowsError(PgonlyError):
    """There is no job to look at, or to run."""


def postgres_backends() -> list[PostgresBackend]:
    """Raises NoRowsError where there are none, and outside of a test run: these rows would be real jobs."""
    if not testrun.is_on():
        raise NoRowsError(
            "pgonly_django.testing is for tests. Outside of a test run: manage.py runworker --burst runs the jobs."
        )
    backends = []
    for alias in task_backends:
        try:
            backend = task_backends[alias]
        except InvalidTaskBackend:  # Django's own check says so
            continue
        if isinstance(backend, PostgresBackend):
            backends.append(backend)
    if not backends:
        raise NoRowsError(
            "No entry of TASKS is a PostgresBackend, so there are no rows of jobs. ImmediateBackend runs a job in "
            "enqueue(), and DummyBackend keeps what was enqueued in its `results`."
        )
    return backends
