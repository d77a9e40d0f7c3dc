import logging
from threading import Event

from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.queue.prune import prune
from pgonly_django.worker.duties.duty import BATCH, INTERVAL_SECONDS, Connect, in_batches

KEPT_NAMED = 10


class PruneJobs:
    """Deletes finished jobs whose retention is over."""

    name, interval = "Pruning jobs", INTERVAL_SECONDS

    def run_once(self, jobs: Connect, over: Event) -> int:
        connection, deleted = jobs(), [0]
        found = in_batches(lambda: _prune(connection, deleted), over)
        if count := sum(deleted):
            message = f"{count} finished job(s) were deleted, whose retention was over."
            emit("worker.jobs_pruned", message, count=count)
        return found


def _prune(connection: OwnConnection, counts: list[int]) -> int:
    deleted, kept = prune(connection, BATCH)
    counts.append(deleted)
    if kept:
        named = "; ".join(f"{job.id}: {job.reason}" for job in kept[:KEPT_NAMED])
        message = f"{len(kept)} finished job(s) cannot be deleted and are kept for a day more. {named}"
        emit("worker.jobs_kept", message, level=logging.WARNING, jobs=[job.id for job in kept])
    return deleted + len(kept)
