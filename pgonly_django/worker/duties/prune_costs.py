from threading import Event

from django.db import connections, router

from pgonly_django.limits.expiry import prune_costs
from pgonly_django.models import CostEntry
from pgonly_django.worker.duties.duty import BATCH, INTERVAL_SECONDS, Connect, in_batches, no_timeout


class PruneCosts:
    """Deletes what calls have cost after 90 days."""

    name, interval = "Pruning costs", INTERVAL_SECONDS

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        alias = router.db_for_write(CostEntry)
        if connections[alias].vendor != "postgresql" or not router.allow_migrate_model(alias, CostEntry):
            return 0
        with no_timeout(alias):
            return in_batches(lambda: prune_costs(alias, BATCH), over)
