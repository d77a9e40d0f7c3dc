"""The duties of the queue: rows whose time is over are deleted."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta

from pgonly_django.duties import BATCH, Duty, Pruning
from pgonly_django.events import emit
from pgonly_django.queue import batches, liveness, stats
from pgonly_django.queue.prune import prune as prune_jobs
from pgonly_django.queue.waits import prune_events

WORKERS_FORGOTTEN_AFTER = timedelta(days=1)
KEPT_NAMED = 10


class ForgetWorkers(Pruning):
    name = "Forgetting workers"

    def prune(self) -> int:
        return min(
            liveness.forget(self.workplace.connect(), WORKERS_FORGOTTEN_AFTER), BATCH - 1
        )  # all at once


class PruneJobs(Pruning):
    name = "Pruning jobs"

    def prune(self) -> int:
        pruned = prune_jobs(self.workplace.connect(), BATCH)
        self.deleted += Counter({self.workplace.database: pruned.deleted})
        if kept := pruned.kept:
            named = "; ".join(f"{job.id}: {job.reason}" for job in kept[:KEPT_NAMED])
            message = f"{len(kept)} finished job(s) cannot be deleted and are kept for a day more. {named}"
            emit("worker.jobs_kept", message, level=logging.WARNING, jobs=[job.id for job in kept])
        return pruned.found

    def tell(self, count: int, database: str) -> None:  # noqa: ARG002 - that of the jobs
        message = f"{count} finished job(s) whose retention had ended were deleted."
        emit("worker.jobs_pruned", message, count=count)


class PruneEvents(Pruning):
    name = "Pruning events"

    def prune(self) -> int:
        return prune_events(self.workplace.connect(), BATCH)


class PruneBatches(Pruning):
    name = "Pruning batches"

    def prune(self) -> int:
        return batches.prune(self.workplace.connect())


class PruneStatistics(Pruning):
    name = "Pruning the statistics of jobs"

    def prune(self) -> int:
        return stats.prune(self.workplace.connect())


DUTIES: tuple[type[Duty], ...] = (ForgetWorkers, PruneJobs, PruneEvents, PruneBatches, PruneStatistics)
