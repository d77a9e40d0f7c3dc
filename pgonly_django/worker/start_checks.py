"""What has to be there before a worker starts. The messages say what to do."""

from __future__ import annotations

from collections.abc import Iterator

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from pgonly_django.compat import task_backends
from pgonly_django.conf import settings
from pgonly_django.database.placement import what_is_wrong
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker.options import WorkerOptions, unknown_variables
from pgonly_django.worker.status import own_rss_mb

NO_BACKEND = """TASKS has no entry of pgonly_django, so that no job can reach this worker. Add to the settings:
TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend"}}"""
IN_TRANSACTION = (
    "runworker was called inside a transaction on {alias!r}: the worker's own connections see nothing of it. "
    "In a TestCase use drain() of pgonly_django.testing, or make it a TransactionTestCase (in pytest-django: "
    "@pytest.mark.django_db(transaction=True))."
)
NOTHING_WAKES = (
    "--sleep-after: nothing tells this worker of new jobs while it sleeps. Give it a --health-port and name its "
    'address in PGONLY["WAKE_URLS"], or set --poll-seconds.'
)


def backends() -> list[PostgresBackend]:
    """Those of TASKS that are ours. Raises CommandError where there are none, or one cannot be set up."""
    try:
        ours = [backend for backend in task_backends.all() if isinstance(backend, PostgresBackend)]
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    if not ours:
        raise CommandError(NO_BACKEND)
    return ours


def refuse_too_little_memory(options: WorkerOptions) -> None:
    """Raises CommandError where a process takes more before its first job than it may: each one would be replaced at
    once."""
    taken = own_rss_mb()
    if options.max_memory_mb is not None and taken is not None and taken > options.max_memory_mb:
        raise CommandError(
            f"--max-memory-mb {options.max_memory_mb:g} is less than the {taken:.0f} MB that the process takes before "
            "its first job. Leave room for the jobs.",
            returncode=2,
        )


def warnings_of(options: WorkerOptions, *, has_port: bool) -> Iterator[str]:
    """What keeps no worker from running, and is a mistake as a rule."""
    here = [backend.queues for backend in backends() if backend.database == options.database]
    if not here:
        yield f"--database {options.database}: no entry of TASKS keeps its jobs there."
    unknown = set(options.queues).difference(*here)
    if here and all(here) and unknown:  # an empty QUEUES allows every name
        names, allowed = (", ".join(sorted(some)) for some in (unknown, set().union(*here)))
        yield f"--queues {names}: not in the QUEUES of TASKS ({allowed})."
    yield from unknown_variables()
    sleeps = options.sleep_after is not None and not options.burst
    if sleeps and options.poll_seconds is None and not (has_port and settings().wake_urls):
        yield NOTHING_WAKES
    if options.max_memory_mb is not None and own_rss_mb() is None:
        yield "--max-memory-mb has no effect: this system does not tell how much memory a process takes."


def check_database(alias: str) -> None:
    """Raises CommandError with the command to type when the database or the tables are not there."""
    if alias not in connections:
        raise CommandError(
            f"--database {alias!r} is not in DATABASES. Known: {', '.join(connections)}.", returncode=2
        )
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise CommandError(f"DATABASES[{alias!r}] is {connection.vendor}; the worker needs PostgreSQL.")
    if not connection.settings_dict["AUTOCOMMIT"]:
        raise CommandError(
            f"DATABASES[{alias!r}] has AUTOCOMMIT = False: what jobs write would be rolled back behind them. Take the "
            "line out."
        )
    if connection.in_atomic_block:
        raise CommandError(IN_TRANSACTION.format(alias=alias))
    was_open = connection.connection is not None
    try:
        executor = MigrationExecutor(connection)
    except DatabaseError as error:
        hint = f"Is it running? Try: python manage.py dbshell --database {alias}"
        raise CommandError(f"Cannot reach PostgreSQL ({alias}): {str(error).strip()}\n{hint}") from error
    if problem := what_is_wrong(connection):
        raise CommandError(problem)
    nodes = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "pgonly_django"]
    if executor.migration_plan(nodes):
        raise CommandError(f"The tables are missing or old. Run: python manage.py migrate --database {alias}")
    if not was_open:
        connection.close()
