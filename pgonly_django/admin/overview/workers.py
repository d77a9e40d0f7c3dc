"""The panels of queues and workers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils.timezone import now
from django.utils.translation import gettext as _

from pgonly_django.admin import formats
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.jobs.page.progress import progress_of
from pgonly_django.admin.overview.overview import Overview
from pgonly_django.admin.queues import cells
from pgonly_django.admin.workers import cells as worker_cells
from pgonly_django.models import Job, Queue, Worker
from pgonly_django.monitoring.workers import WorkerFigures
from pgonly_django.wording import duration

WORKERS_SHOWN, JOBS_OF_A_WORKER = 25, 5


def queues_panel(overview: Overview) -> dict[str, Any]:
    rows = []
    for queue in overview.queues:
        row, named = queue.row, queue.row or Queue(name=queue.name)
        rows.append(
            {
                "queue": queue,
                "state": cells.state_badge(row) if row else formats.badge("live", _("Open")),
                "url": overview.page_url(row) if row else "",
                "waiting_url": overview.list_url(Job, queue=queue.name),
                "running": cells.running(row) if row else queue.running.label,
                "rate": cells.rate(row) if row else "-",
                "oldest": _seconds(queue.oldest_seconds),
                "buttons": overview.buttons(named, "pause", "resume"),
            }
        )
    oldest = max(
        (queue for queue in overview.queues if queue.oldest_seconds is not None and queue.paused_at is None),
        key=lambda queue: queue.oldest_seconds or 0,
        default=None,
    )
    return {"rows": rows, "oldest": oldest and (oldest.name, _seconds(oldest.oldest_seconds))}


def workers_panel(overview: Overview) -> dict[str, Any]:
    """Those that are late come first."""
    found = sorted(overview.workers, key=lambda worker: not worker.is_late)
    return {
        "rows": [_worker(overview, worker) for worker in found[:WORKERS_SHOWN]],
        "more": max(len(found) - WORKERS_SHOWN, 0),
        "url": overview.list_url(Worker),
    }


def _worker(overview: Overview, worker: WorkerFigures) -> dict[str, Any]:
    row: Any = worker.row
    row.jobs_held = len(worker.jobs)
    sees_data = may_see_data(overview.request)
    return {
        "worker": worker,
        "url": overview.page_url(row),
        "badge": worker_cells.life(row),
        "served": ", ".join(formats.brief(name) for name in worker.queues) or _("all"),
        "version": row.version or "",
        "silent": duration(_whole(worker.silent_for)),
        "jobs": [
            {
                "task": formats.short_name(job.task),
                "url": overview.page_url(job),
                "progress": progress_of(job, sees_data=sees_data),
                "time": duration(_whole(now() - job.attempted_at)) if job.attempted_at else "",
            }
            for job in worker.jobs[:JOBS_OF_A_WORKER]
        ],
        "more": max(len(worker.jobs) - JOBS_OF_A_WORKER, 0),
        "buttons": overview.buttons(row),
    }


def _seconds(value: float | None) -> str:
    return "-" if value is None else duration(_whole(timedelta(seconds=value)))


def _whole(time: timedelta) -> int:
    """Seconds, one at least: on a page that refreshes itself, fractions would only flicker."""
    return max(time // timedelta(seconds=1), 1)
