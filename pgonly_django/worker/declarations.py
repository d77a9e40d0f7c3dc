"""What the settings declare, written into its rows before a worker's first claim."""

from django.db import connections

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.queue.declared_queues import declare_queues
from pgonly_django.tasks import PostgresBackend


def declare(alias: str) -> int:
    """Queues: those of PGONLY["QUEUES"] with their limits, and all that TASKS names, so that the admin lists them.
    Returns how many rows are new or have changed. Raises ImproperlyConfigured, and django.db.Error."""
    backends = [backend for backend in map(_backend, task_backends) if backend is not None]
    names = {str(name) for backend in backends if backend.database == alias for name in backend.queues}
    was_open = connections[alias].connection is not None
    changed = declare_queues(alias, names)
    if not was_open:
        connections[alias].close()
    return changed


def _backend(alias: str) -> PostgresBackend | None:
    """None of an entry in TASKS that is not ours, or cannot be imported: that is not this worker's business."""
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend:
        return None
    return backend if isinstance(backend, PostgresBackend) else None
