"""Deletes what is over: jobs and their statistics, workers, sessions, entries of caches, costs."""

import logging
from collections.abc import Callable
from datetime import timedelta
from threading import Event

from pgonly_django.cache.prune import prunable_databases
from pgonly_django.cache.prune import prune_expired as prune_cache
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.limits.expiry import prune_costs
from pgonly_django.models import CostEntry, Session
from pgonly_django.queue import liveness, stats
from pgonly_django.queue.prune import prune as prune_jobs
from pgonly_django.sessions import prune_expired as prune_sessions
from pgonly_django.worker.maintenance import BATCH, Connect, Duty, database_of, in_batches, no_timeout, tried

WORKERS_FORGOTTEN_AFTER = timedelta(days=1)
KEPT_NAMED = 10

Prune = Callable[[str, Connect, Event], int]


class Pruning(Duty):
    def __init__(self, alias: str, name: str, prune: Prune) -> None:
        self.alias, self.name, self._prune = alias, name, prune

    def run_once(self, jobs: Connect, over: Event) -> int:
        return self._prune(self.alias, jobs, over)


def pruning(alias: str) -> list[Pruning]:
    """One duty for each kind of rows. `alias` is the jobs' database."""
    return [Pruning(alias, name, prune) for name, prune in PRUNES.items()]


def _forget_workers(_alias: str, jobs: Connect, _over: Event) -> int:
    return liveness.forget(jobs(), WORKERS_FORGOTTEN_AFTER)


def _prune_jobs(_alias: str, jobs: Connect, over: Event) -> int:
    connection, deleted = jobs(), [0]
    found = in_batches(lambda: _prune_batch_of_jobs(connection, deleted), over)
    if count := sum(deleted):
        message = f"{count} finished job(s) were deleted, whose retention was over."
        emit("worker.jobs_pruned", message, count=count)
    return found


def _prune_batch_of_jobs(connection: OwnConnection, counts: list[int]) -> int:
    deleted, kept = prune_jobs(connection, BATCH)
    counts.append(deleted)
    if kept:
        named = "; ".join(f"{job.id}: {job.reason}" for job in kept[:KEPT_NAMED])
        message = f"{len(kept)} finished job(s) cannot be deleted and are kept for a day more. {named}"
        emit("worker.jobs_kept", message, level=logging.WARNING, jobs=[job.id for job in kept])
    return deleted + len(kept)


def _prune_job_stats(_alias: str, jobs: Connect, over: Event) -> int:
    connection = jobs()
    return in_batches(lambda: stats.prune(connection), over)


def _prune_sessions(_alias: str, _jobs: Connect, over: Event) -> int:
    """Where the router keeps them, which may be another database than that of the jobs."""
    alias = database_of(Session)
    if alias is None:
        return 0
    with no_timeout(alias):
        count = in_batches(lambda: prune_sessions(alias, BATCH), over)
    if count:
        emit("sessions.pruned", f"{count} expired sessions were deleted.", count=count, database=alias)
    return count


def _prune_caches(alias: str, _jobs: Connect, over: Event) -> int:
    aliases = sorted(prunable_databases(alias))
    return sum(tried(f"Pruning the cache in {each!r}", _prune_cache, each, over) for each in aliases)


def _prune_cache(alias: str, over: Event) -> int:
    with no_timeout(alias):
        count = in_batches(lambda: prune_cache(alias, BATCH), over)
    if count:
        emit("cache.pruned", f"{count} expired entries of caches were deleted.", count=count, database=alias)
    return count


def _prune_costs(_alias: str, _jobs: Connect, over: Event) -> int:
    alias = database_of(CostEntry)
    if alias is None:
        return 0
    with no_timeout(alias):
        return in_batches(lambda: prune_costs(alias, BATCH), over)


# By the names of the duties, as their failures are logged.
PRUNES: dict[str, Prune] = {
    "Forgetting workers": _forget_workers,
    "Pruning jobs": _prune_jobs,
    "Pruning the statistics of jobs": _prune_job_stats,
    "Pruning sessions": _prune_sessions,
    "Pruning caches": _prune_caches,
    "Pruning costs": _prune_costs,
}
