from threading import Event

from django.db import connections, router

from pgonly_django.events import emit
from pgonly_django.models import Session
from pgonly_django.sessions import prune_expired
from pgonly_django.worker.duties.duty import BATCH, INTERVAL_SECONDS, Connect, in_batches, no_timeout


class PruneSessions:
    """Deletes expired sessions: where the router keeps them, which may be another database than that of the jobs."""

    name, interval = "Pruning sessions", INTERVAL_SECONDS

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        alias = router.db_for_write(Session)
        if connections[alias].vendor != "postgresql" or not router.allow_migrate_model(alias, Session):
            return 0
        with no_timeout(alias):
            count = in_batches(lambda: prune_expired(alias, BATCH), over)
        if count:
            emit("sessions.pruned", f"{count} expired sessions were deleted.", count=count, database=alias)
        return count
