"""What the sessions plug into the worker."""

from __future__ import annotations

from collections import Counter

from pgonly_django.database.housekeeping import database_of, no_timeout
from pgonly_django.duties import BATCH, Pruning
from pgonly_django.events import emit
from pgonly_django.models import Session
from pgonly_django.plugins import Plugin
from pgonly_django.sessions.prune import prune_expired


class PruneSessions(Pruning):
    """Deletes expired sessions where the router keeps them, which may be another database than that of the jobs."""

    name = "Pruning sessions"

    def prune(self) -> int:
        if (alias := database_of(Session)) is None:
            return 0
        with no_timeout(alias):
            count = prune_expired(alias, BATCH)
        self.deleted += Counter({alias: count})
        return count

    def tell(self, count: int, database: str) -> None:
        message = f"{count} expired sessions were deleted."
        emit("sessions.pruned", message, count=count, database=database)


class SessionsPlugin(Plugin):
    duties = (PruneSessions,)
