"""The backends of TASKS that keep their jobs in rows."""

from __future__ import annotations

from collections.abc import Iterable

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.database import testrun
from pgonly_django.exceptions import PgonlyError
from pgonly_django.tasks.backend import PostgresBackend

WITHOUT_DATABASE = "The jobs are stored there."
IN_OTHER_THREAD = (
    "In a coroutine, `await adrain()`; else call this in the test's own thread, or use a TransactionTestCase (in "
    "pytest-django: django_db(transaction=True))."
)


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


def databases_of(backends: Iterable[PostgresBackend]) -> list[str]:
    """See usable_databases()."""
    return usable_databases(backend.database for backend in backends)


def usable_databases(aliases: Iterable[str]) -> list[str]:
    """Those that the test may use. Raises what Django raises where it may use none of them, and in another thread than
    that of a TestCase."""
    usable: list[str] = []
    refusal: BaseException | None = None
    for alias in dict.fromkeys(aliases):
        try:
            if testrun.testcase_connection(alias) is None:
                testrun.refuse_real_database(alias, WITHOUT_DATABASE)
                testrun.refuse_other_threads(alias, IN_OTHER_THREAD)
        except testrun.Refusal as error:
            refusal = refusal or error
        else:
            usable.append(alias)
    if refusal is not None and not usable:
        raise refusal
    return usable
