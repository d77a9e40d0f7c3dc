"""The workers that should be there: how each is, what it serves, and the jobs that it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from django.db.models import Q

from pgonly_django.conf import settings
from pgonly_django.models import Job, State, Worker
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.worker import silent_after

WORKERS_AT_MOST = 100
JOBS_AT_MOST = 500
# What is shown of a running job, and what job_progress() reads.
JOB_COLUMNS = (
    "id", "task", "queue", "worker_id", "progress", "attempted_at", "reported_at", "cancel_requested_at", "state",
)  # fmt: skip
SHOWN_FOR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    row: Worker
    silent_for: timedelta  # since its last heartbeat
    is_live: bool
    jobs: list[Job]  # that it holds; without their large columns

    @property
    def is_late(self) -> bool:
        """Whether it holds jobs, and its heartbeat should have come by now."""
        return bool(self.jobs) and not self.is_live


def workers(alias: str) -> list[WorkerFigures]:
    """Returns those that have not stopped, the last heard of first, WORKERS_AT_MOST; and of the running jobs
    JOBS_AT_MOST. One that is not live is shown while it holds jobs, and for an hour after its last heartbeat. Index:
    pgonly_job_running, for the jobs; pgonly_worker is small.
    """
    now = ClockTimestamp()
    started = Worker.objects.using(alias).filter(stopped_at=None).annotate(now=now)
    running = Job.objects.using(alias).filter(state=State.RUNNING).order_by("queue", "attempted_at")
    jobs = defaultdict(list)
    for job in running.only(*JOB_COLUMNS)[:JOBS_AT_MOST]:
        jobs[job.worker_id].append(job)
    is_heard_of = Q(heartbeat_at__gt=now - SHOWN_FOR) | Q(sleeping_since__isnull=False)
    rows: Any = started.filter(is_heard_of | Q(pk__in=[*jobs])).order_by("-heartbeat_at")[:WORKERS_AT_MOST]
    return [
        WorkerFigures(row, max(row.now - row.heartbeat_at, timedelta(0)), row.is_live(row.now), jobs[row.pk])
        for row in rows
    ]


def silences(alias: str, jobs: Iterable[Any]) -> dict[object, timedelta]:
    """Returns for how long the workers of running jobs have been silent, by the ids of the jobs: where neither the
    lease of the job nor the heartbeat of its worker was renewed for silent_after(). Each job has `now`, the clock of
    the database. Index: the primary key of pgonly_worker; without a late lease no statement."""
    lease = timedelta(seconds=settings().lease_seconds)
    late = {
        job.pk: (job.worker_id, silent)
        for job in jobs
        if job.state == State.RUNNING and job.lease_expires_at is not None
        if (silent := lease - (job.lease_expires_at - job.now)) >= silent_after()
    }
    if not late:
        return {}
    # A job that holds its own row locked is not renewed, and its worker lives.
    workers = Worker.objects.using(alias).live().filter(pk__in={worker for worker, _silent in late.values()})
    live = set(workers.values_list("pk", flat=True))
    return {job_id: silent for job_id, (worker, silent) in late.items() if worker not in live}


def is_late() -> Q:
    """Returns a condition for jobs that silences() looks at: a renewal of the lease is late."""
    left = timedelta(seconds=settings().lease_seconds) - silent_after()
    return Q(lease_expires_at__lte=ClockTimestamp() + left)


class Served(NamedTuple):
    """The queues that have a live worker that takes jobs of them."""

    all: bool  # some worker serves every queue
    names: frozenset[str] = frozenset()

    def has(self, queue: str) -> bool:
        return self.all or queue in self.names


def served_queues(alias: str) -> Served:
    of_workers = list(Worker.objects.using(alias).claiming().values_list("queues", flat=True))
    return Served(all=not all(of_workers), names=frozenset().union(*of_workers))


class WorkerTotals(NamedTuple):
    """The totals of all workers, however many there are, or of those that serve some queues."""

    live: int
    asleep: int  # of the live ones
    silent: int  # neither stopped nor live; one whose last heartbeat is an hour old only while it holds jobs
    threads: int  # of the live ones
    newest_heartbeat_seconds: float | None  # ago, of a live one; None: there is none


def worker_totals(alias: str, queues: Collection[str] = (), max_age: timedelta | None = None) -> WorkerTotals:
    """Returns the totals. `max_age`: a worker whose heartbeat is older is not live; by default as in the admin. Index:
    pgonly_job_running, for the jobs of those that are silent for an hour; pgonly_worker is small.
    """
    started: list[Any] = list(
        Worker.objects.using(alias).filter(stopped_at=None).annotate(now=ClockTimestamp())
    )
    rows = [row for row in started if not queues or {*(row.queues or queues)} & {*queues}]
    live: list[Any] = []
    silent: list[Any] = []
    at_most = silent_after() if max_age is None else max_age
    for row in rows:
        has_beaten = row.now - row.heartbeat_at < at_most
        (live if has_beaten or row.sleeping_since is not None else silent).append(row)
    old = [row.pk for row in silent if row.now - row.heartbeat_at > SHOWN_FOR]
    holders = Job.objects.using(alias).filter(state=State.RUNNING, worker_id__in=old).values("worker_id")
    ages = [(row.now - row.heartbeat_at).total_seconds() for row in live]
    return WorkerTotals(
        live=len(live),
        asleep=sum(row.sleeping_since is not None for row in live),
        silent=len(silent) - len(old) + (holders.distinct().count() if old else 0),
        threads=sum(row.threads for row in live),
        newest_heartbeat_seconds=max(min(ages), 0.0) if ages else None,
    )
