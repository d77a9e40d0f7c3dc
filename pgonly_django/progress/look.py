"""One look at the jobs of a page: their rows, what keeps them waiting, and what they have emitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.utils.translation import gettext as _

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.models import Job, Queue, State, Worker
from pgonly_django.models.job import CANCELLABLE, ClockTimestamp
from pgonly_django.monitoring.progress import job_progress
from pgonly_django.monitoring.workers import served_queues
from pgonly_django.progress import wording
from pgonly_django.progress.tokens import Grant
from pgonly_django.progress.wording import Surroundings
from pgonly_django.queue.output import read_output

MESSAGE_LENGTH = 300
COLUMNS = (
    "id", "backend", "queue", "state", "run_at", "attempt", "progress", "attempted_at", "reported_at",
    "worker_id", "lease_expires_at", "cancel_requested_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    grant: Grant
    after: int = 0  # an offset of its output


def database_of(backend: str) -> str | None:
    """None: no backend of this name keeps its jobs in rows."""
    try:
        return getattr(task_backends[backend], "database", None)
    except InvalidTaskBackend:
        return None


def look(wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """What is to be shown of each, in the same order. Statements: one for the jobs of a database, up to three for what
    keeps them waiting, and one for each that shows its output. Index: primary keys."""
    rows: dict[str, dict[UUID, Job]] = {}
    for backend in {each.grant.backend for each in wanted}:
        alias = database_of(backend)
        ids = [each.grant.job_id for each in wanted if each.grant.backend == backend]
        rows[backend] = {} if alias is None else _jobs(alias).filter(backend=backend).in_bulk(ids)
    around = {backend: _surroundings(backend, list(jobs.values())) for backend, jobs in rows.items()}
    return [
        _shown(each, rows[each.grant.backend].get(UUID(each.grant.job_id)), around[each.grant.backend])
        for each in wanted
    ]


def _jobs(alias: str) -> Any:
    """Each with `now`: the clock of this machine may differ from the one that made the times of the rows."""
    return Job.objects.using(alias).only(*COLUMNS).annotate(now=ClockTimestamp())


def _surroundings(backend: str, jobs: Sequence[Any]) -> Surroundings:
    alias = database_of(backend)
    waiting = {job.queue for job in jobs if job.state in (State.READY, State.SCHEDULED)}
    late = {each.worker_id for each in jobs if each.worker_id and wording.silent_seconds(each, each.now)}
    if alias is None or not (waiting or late):
        return Surroundings(None, set(), set())
    served, paused = None, set()
    if waiting:
        served = served_queues(alias)
        queues = Queue.objects.using(alias).filter(name__in=waiting, paused_at__isnull=False)
        paused = set(queues.values_list("name", flat=True))
    if late:  # a job that holds its own row locked is not renewed, and its worker lives
        from_then_on = ClockTimestamp() - timedelta(seconds=wording.silent_from())
        lives = Worker.objects.using(alias).filter(
            pk__in=late, stopped_at=None, heartbeat_at__gt=from_then_on
        )
        late -= set(lives.values_list("pk", flat=True))
    return Surroundings(served, paused, set(late))


def _shown(wanted: Wanted, job: Any, around: Surroundings) -> dict[str, Any]:
    if job is None:
        return {"state": "gone", "label": _("No longer here"), "is_over": True, "may_cancel": False}
    progress = job_progress(job, job.now)
    reported = job.progress if isinstance(job.progress, dict) else {}
    shown: dict[str, Any] = {
        "state": job.state,
        "label": wording.label(job, around, job.now),
        "percent": 100 if job.state == State.SUCCEEDED else progress.percent,
        "pace": wording.pace(progress),
        "message": str(reported.get("message") or "")[:MESSAGE_LENGTH],
        "is_over": job.is_finished,
        "may_cancel": wanted.grant.may_cancel
        and job.state in CANCELLABLE
        and job.cancel_requested_at is None,
    }
    if wanted.grant.shows_output and (alias := database_of(job.backend)) is not None:
        output = read_output(alias, job.pk, wanted.after)
        shown["output"] = {"text": output.text, "keep": output.keep, "offset": str(output.offset)}
    return shown


def cancel(grant: Grant) -> bool:
    """Whether there was something to cancel."""
    alias = database_of(grant.backend)
    rows = Job.objects.using(alias).filter(pk=grant.job_id, backend=grant.backend)
    return alias is not None and bool(rows.cancel())
