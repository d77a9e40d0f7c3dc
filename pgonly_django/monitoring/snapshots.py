"""Old snapshots: a transaction that is open for long keeps vacuum from removing what all jobs leave behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import connections

from pgonly_django.models import Job, State, Worker
from pgonly_django.models.job import ClockTimestamp

OLD = timedelta(minutes=5)
# Of no table of ours. Sessions of other roles have no xact_start for a role without pg_read_all_stats.
OLDEST_SNAPSHOTS = """
SELECT pid, application_name, greatest(date_part('epoch', clock_timestamp()) - date_part('epoch', xact_start), 0),
    state = 'idle in transaction'
FROM pg_stat_activity
WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND datname = current_database()
    AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND xact_start < clock_timestamp() - %s::interval
ORDER BY xact_start LIMIT %s
"""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
JOBS_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    pid: int
    application_name: str
    seconds: float
    is_idle: bool  # in its transaction: it waits for its client
    worker: str  # its name, where the connection is one of a worker's
    jobs: list[Job]  # of that worker which ran when the transaction began: one of them holds it


def oldest_snapshot(alias: str, older_than: timedelta = OLD) -> Snapshot | None:
    """The transaction that has been open for longest, if that is `older_than`."""
    return next(iter(old_snapshots(alias, older_than, 1)), None)


def old_snapshots(
    alias: str, older_than: timedelta, at_most: int, *, names_jobs: bool = True
) -> list[Snapshot]:
    """The transactions that have been open for `older_than`, the oldest first. Without `names_jobs` no table of ours is
    read."""
    with connections[alias].cursor() as cursor:
        cursor.execute(OLDEST_SNAPSHOTS, [str(older_than), at_most])
        found = cursor.fetchall()
    return [_snapshot(alias, *row, names_jobs=names_jobs) for row in found]


def _snapshot(
    alias: str,
    pid: int,
    application_name: str | None,
    seconds: float,
    is_idle: bool | None,
    *,
    names_jobs: bool,
) -> Snapshot:
    found = _UUID.search(application_name or "") if names_jobs else None
    worker_id = UUID(found.group()) if found else None
    return Snapshot(
        pid=pid,
        application_name=application_name or "",
        seconds=seconds,
        is_idle=bool(is_idle),
        worker=_name_of(alias, worker_id) if worker_id else "",
        jobs=_jobs_of(alias, worker_id, seconds) if worker_id else [],
    )


def _name_of(alias: str, worker_id: UUID) -> str:
    rows = Worker.objects.using(alias).filter(pk=worker_id)
    return rows.values_list("name", flat=True).first() or ""


def _jobs_of(alias: str, worker_id: UUID, seconds: float) -> list[Job]:
    """Those that have run for as long as the transaction, the latest first. Index: pgonly_job_running."""
    running = Job.objects.using(alias).filter(state=State.RUNNING, worker_id=worker_id)
    began = running.filter(attempted_at__lte=ClockTimestamp() - timedelta(seconds=seconds))
    return list(began.order_by("-attempted_at").only("id", "task", "queue", "attempted_at")[:JOBS_AT_MOST])
