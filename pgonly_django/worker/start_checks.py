"""What has to be there before a worker starts. The messages say what to do."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from pgonly_django.compat import task_backends
from pgonly_django.conf import settings
from pgonly_django.database.placement import what_is_wrong
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker.options import WorkerOptions

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


def nothing_wakes(options: WorkerOptions, *, has_port: bool) -> list[str]:
    """The warning that a new job may wait until the next due time; or none."""
    sleeps = options.sleep_after is not None and not options.burst
    is_told = options.poll_seconds is not None or (has_port and settings().wake_urls)
    return [NOTHING_WAKES] if sleeps and not is_told else []


def backends() -> list[PostgresBackend]:
    """Those of TASKS that are ours. Raises CommandError where there are none, or one cannot be set up."""
    try:
        ours = [backend for backend in task_backends.all() if isinstance(backend, PostgresBackend)]
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    if not ours:
        raise CommandError(NO_BACKEND)
    return ours


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
