"""The backends of TASKS that keep their jobs in rows, the databases of these, and the names of their queues."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pgonly_django.conf import settings
from pgonly_django.database import testrun
from pgonly_django.exceptions import PgonlyError, WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.tasks.backend import PostgresBackend, our_backends

QUEUE_SIMILARITY = 0.75  # "mial" and "mail"
_STEM = re.compile(r"^[a-zA-Z]*")  # of "tenant-7" and "tenant-8" the same
WITHOUT_DATABASE = "The jobs are stored there."
IN_OTHER_THREAD = (
    "In a coroutine, `await adrain()`; else call this in the test's own thread, or use a TransactionTestCase (in "
    "pytest-django: django_db(transaction=True))."
)


class NoRowsError(PgonlyError):
    """There is no job to look at, or to run."""


def postgres_backends() -> list[PostgresBackend]:
    """Returns the backends. Raises NoRowsError without any, and outside of a test run: these jobs would be real."""
    if not testrun.is_on():
        raise NoRowsError(
            "pgonly_django.testing is for tests. Outside of a test run: manage.py runworker --burst runs the jobs."
        )
    backends = list(our_backends())
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
    """Returns the databases that the test may use. Raises what Django raises where it may use none of them, and in
    another thread than that of a TestCase."""
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


def check_queue(call: str, name: Any, backends: Sequence[PostgresBackend], databases: Sequence[str]) -> None:
    """Raises WrongArgumentsError for a name that no job can have: what is asserted of it would always hold. Where a
    backend allows every name (`QUEUES` is []), only for one that looks like a misspelt other name and has no jobs."""
    known = set(settings().queues).union(*(backend.queues for backend in backends))
    for alias in databases:
        known |= set(Job.objects.using(alias).values_list("queue", flat=True).distinct())
    if name in known:
        return
    meant = difflib.get_close_matches(str(name), known, cutoff=QUEUE_SIMILARITY)
    if all(backend.queues for backend in backends):
        hint = f" Did you mean {meant[0]!r}?" if meant else ""
        names = ", ".join(map(repr, sorted(known)))
        raise WrongArgumentsError(call, f"no job can be in queue {name!r}: TASKS has {names}.{hint}")
    for near in meant:
        if _STEM.findall(near)[:1] != _STEM.findall(name)[:1]:
            raise WrongArgumentsError(call, f"no job is in queue {name!r}. Did you mean {near!r}?")
