"""Tasks whose jobs a worker leaves to others, since it does not know them. Amid a rolling deploy the workers of the old
version are idle, and would claim the jobs of a new task again and again while those of the new version are busy."""

from __future__ import annotations

import time
from datetime import timedelta

from pgonly_django.database.statement import Params
from pgonly_django.models.worker import SILENT_AFTER
from pgonly_django.tables import qualified

UNKNOWN_FOR = timedelta(hours=1)  # a rolling deploy: then a job fails that no worker knows
LEFT_SECONDS = 60.0

# On a row of pgonly_job. While no other worker lives the job is claimed, and judged, by this one. Index: pgonly_worker
# is small.
NOT_LEFT_TO_OTHERS = qualified(f"""(task <> ALL (%(unknown)s::text[]) OR NOT EXISTS (
    SELECT FROM pgonly_worker AS other WHERE other.id <> %(worker)s AND other.stopped_at IS NULL
        AND other.heartbeat_at > clock_timestamp() - %(lease_for)s::interval * {SILENT_AFTER}))""")


# The parameters of a statement with it that passes over nothing.
NOTHING_LEFT: Params = {"unknown": [], "worker": None, "lease_for": None}


class UnknownTasks:
    """Those of one worker, for its main loop: their jobs are left alone for a minute after each one that was postponed,
    in the first hour. From then on all are claimed, so that each gets its end where no worker knows them."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def note(self, task: str) -> None:
        """The worker has claimed a job of this task, which it does not know."""
        now = time.monotonic()
        if now < self._since.setdefault(task, now) + UNKNOWN_FOR.total_seconds():
            self._until[task] = now + LEFT_SECONDS

    def names(self) -> list[str]:
        now = time.monotonic()
        return [task for task, until in self._until.items() if now < until]
