"""The workers that should be there: how each is, what it serves, and the jobs that it holds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from django.db.models import Count, Exists, F, Min, OuterRef, Q, Sum

from pgonly_django.models import Job, State, Worker
from pgonly_django.models.job import ClockTimestamp

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
    def queues(self) -> list[str]:
        """Empty: all."""
        return [str(name) for name in self.row.queues] if isinstance(self.row.queues, list) else []

    @property
    def is_late(self) -> bool:
        """It holds jobs, and its heartbeat should have come by now."""
        return bool(self.jobs) and not self.is_live

    def serves(self, queue: str) -> bool:
        return not self.queues or queue in self.queues


def workers(alias: str) -> list[WorkerFigures]:
    """Those that have not stopped, the last heard of first, WORKERS_AT_MOST; and of the running jobs JOBS_AT_MOST. One
    that is not live is shown while it holds jobs, and for an hour after its last heartbeat.

    Index: pgonly_job_running, for the jobs; pgonly_worker is small.
    """
    now = ClockTimestamp()
    started = Worker.objects.using(alias).filter(stopped_at=None).annotate(now=now)
    jobs = running_jobs(alias)
    holders = [job.worker_id for job in jobs]
    shown = started.filter(
        Q(heartbeat_at__gt=now - SHOWN_FOR) | Q(sleeping_since__isnull=False) | Q(pk__in=set(holders))
    )
    rows: Any = shown.order_by("-heartbeat_at")[:WORKERS_AT_MOST]
    by_worker = defaultdict(list)
    for job in jobs:
        by_worker[job.worker_id].append(job)
    return [
        WorkerFigures(
            row, max(row.now - row.heartbeat_at, timedelta(0)), row.is_live(row.now), by_worker[row.pk]
        )
        for row in rows
    ]


def running_jobs(alias: str) -> list[Job]:
    """JOBS_AT_MOST of them, the longest running first within a queue. Index: pgonly_job_running."""
    running = Job.objects.using(alias).filter(state=State.RUNNING).order_by("queue", "attempted_at")
    return list(running.only(*JOB_COLUMNS)[:JOBS_AT_MOST])


def served_queues(alias: str) -> set[str] | None:
    """The queues of which live workers take jobs. None: some of them serve all queues."""
    served: set[str] = set()
    for queues in Worker.objects.using(alias).claiming().values_list("queues", flat=True):
        if not isinstance(queues, list) or not queues:
            return None
        served.update(map(str, queues))
    return served


class WorkerTotals(NamedTuple):
    """Of all workers, however many there are."""

    live: int
    asleep: int  # of the live ones
    silent: (
        int  # neither stopped nor live; those whose last heartbeat is an hour old only while they hold jobs
    )
    threads: int  # of the live ones
    newest_heartbeat_seconds: float | None  # ago, of a live one; None: there is none


def worker_totals(alias: str) -> WorkerTotals:
    """Index: pgonly_job_running, for the jobs of those that are silent; pgonly_worker is small."""
    now = ClockTimestamp()
    rows = Worker.objects.using(alias)
    live = rows.live().aggregate(
        live=Count("pk"),
        asleep=Count("pk", filter=Q(sleeping_since__isnull=False)),
        threads=Sum("threads", default=0),
        age=Min(now - F("heartbeat_at")),
    )
    holders = Job.objects.using(alias).filter(state=State.RUNNING, worker_id=OuterRef("pk"))
    silent = rows.filter(stopped_at=None).exclude(pk__in=rows.live().values("pk"))
    shown = silent.filter(Q(heartbeat_at__gt=now - SHOWN_FOR) | Exists(holders))
    age = live.pop("age")
    seconds = None if age is None else max(age.total_seconds(), 0.0)
    return WorkerTotals(**live, silent=shown.count(), newest_heartbeat_seconds=seconds)
