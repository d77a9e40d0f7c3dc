from threading import Event

from django.db import connections, router, transaction

from pgonly_django.conf import settings
from pgonly_django.database import notify
from pgonly_django.limits.budget_settings import exact_names
from pgonly_django.models import Budget
from pgonly_django.worker import declarations
from pgonly_django.worker.duties.duty import INTERVAL_SECONDS, LOCK_WAIT, Connect, tried

LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"


class Declare:
    """Says again what the settings declare of queues and budgets: an older process may have said something else, and a
    declaration that no process confirms can be replaced by any. Budgets are in the admin before they are used."""

    name, interval = "Declaring queues and budgets", INTERVAL_SECONDS

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        """0: it never hurries."""
        tried("Declaring queues", self._queues)
        tried("Declaring budgets", self._budgets)
        return 0

    def _queues(self) -> None:
        with transaction.atomic(using=self.alias):
            _limit_lock_waits(self.alias)
            if declarations.declare(self.alias) and settings().queues:
                notify.wake_after_commit(self.alias, notify.limited(notify.ANY_QUEUE))

    def _budgets(self) -> None:
        alias = router.db_for_write(Budget)
        if connections[alias].vendor == "postgresql" and router.allow_migrate_model(alias, Budget):
            with transaction.atomic(using=alias):
                _limit_lock_waits(alias)
                rows = {name: declaration.columns for name, declaration in exact_names().items()}
                Budget.objects.using(alias).declare(rows)


def _limit_lock_waits(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(LOCK_TIMEOUT, [LOCK_WAIT])
