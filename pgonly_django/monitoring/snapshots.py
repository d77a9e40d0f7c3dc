"""Old snapshots: a transaction that is open for long keeps vacuum from removing the dead rows of all jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import connections

from pgonly_django.models import Job, State, Worker
from pgonly_django.models.job import ClockTimestamp

# Of no table of ours. Sessions of other roles have no xact_start for a role without pg_read_all_stats.
OLDEST_SNAPSHOTS = """
SELECT pid, coalesce(application_name, ''),
    greatest(date_part('epoch', clock_timestamp()) - date_part('epoch', xact_start), 0),
    coalesce(state = 'idle in transaction', false)
FROM pg_stat_activity
WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND datname = current_database()
    AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND xact_start < clock_timestamp() - make_interval(secs => %s)
ORDER BY xact_start LIMIT %s
"""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
JOBS_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class OldSnapshot:
    pid: int
    application_name: str
    seconds: float
    is_idle: bool  # in its transaction: it waits for its client
    worker: str = ""  # its name, where the connection is one of a worker's
    jobs: tuple[Job, ...] = ()  # of that worker which ran when the transaction began: one of them holds it


def old_snapshots(
    alias: str, older_than_seconds: float, at_most: int = 1, *, names_jobs: bool = True
) -> list[OldSnapshot]:
    """Returns the transactions that have been open for longest. Without `names_jobs` no table of ours is read."""
    with connections[alias].cursor() as cursor:
        cursor.execute(OLDEST_SNAPSHOTS, [older_than_seconds, at_most])
        return [
            OldSnapshot(pid, name, seconds, is_idle, *(_holders(alias, name, seconds) if names_jobs else ()))
            for pid, name, seconds, is_idle in cursor.fetchall()
        ]


def _holders(alias: str, application_name: str, seconds: float) -> tuple[str, tuple[Job, ...]]:
    """Returns the worker and its jobs that run since the transaction began, latest first. Index: pgonly_job_running."""
    if (found := _UUID.search(application_name)) is None:
        return "", ()
    worker_id = UUID(found.group())
    name = Worker.objects.using(alias).filter(pk=worker_id).values_list("name", flat=True).first()
    running = Job.objects.using(alias).filter(state=State.RUNNING, worker_id=worker_id)
    began = running.filter(attempted_at__lte=ClockTimestamp() - timedelta(seconds=seconds))
    jobs = began.order_by("-attempted_at").only("id", "task", "queue", "attempted_at")[:JOBS_AT_MOST]
    return name or "", tuple(jobs)
