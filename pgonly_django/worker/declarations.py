"""What the settings declare, written into its rows before a worker's first claim."""

from django.db import connections

from pgonly_django.compat import task_backends
from pgonly_django.queue.declared_queues import declare_queues
from pgonly_django.tasks import PostgresBackend


def declare(alias: str) -> None:
    """Queues: those of PGONLY["QUEUES"] with their limits, and all that TASKS names, so that the admin lists them.
    Raises ImproperlyConfigured, and django.db.Error."""
    backends = [each for each in task_backends.all() if isinstance(each, PostgresBackend)]
    names = {str(name) for backend in backends if backend.database == alias for name in backend.queues}
    was_open = connections[alias].connection is not None
    declare_queues(alias, names)
    if not was_open:
        connections[alias].close()
