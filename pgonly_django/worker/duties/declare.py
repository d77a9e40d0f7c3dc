"""Writes into their rows what the settings declare: before a worker's first claim, and every now and then."""

from threading import Event

from django.db import connections, transaction

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.conf import settings
from pgonly_django.database import notify
from pgonly_django.limits.budget_settings import exact_names
from pgonly_django.models import Budget
from pgonly_django.queue.declared_queues import declare_queues
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker.maintenance import LOCK_WAIT, Connect, Duty, database_of, tried

LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"


class Declare(Duty):
    """Says again what the settings declare of queues and budgets: an older process may have said something else, and a
    declaration that no process confirms can be replaced by any. Budgets are in the admin before they are used."""

    name = "Declaring queues and budgets"

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        tried("Declaring queues", self._queues)
        tried("Declaring budgets", self._budgets)
        return 0

    def _queues(self) -> None:
        with transaction.atomic(using=self.alias):
            _limit_lock_waits(self.alias)
            if declare(self.alias) and settings().queues:
                notify.wake_after_commit(self.alias, notify.limited(notify.ANY_QUEUE))

    def _budgets(self) -> None:
        if (alias := database_of(Budget)) is not None:
            with transaction.atomic(using=alias):
                _limit_lock_waits(alias)
                rows = {name: declaration.columns for name, declaration in exact_names().items()}
                Budget.objects.using(alias).declare(rows)


def _limit_lock_waits(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(LOCK_TIMEOUT, [LOCK_WAIT])


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
