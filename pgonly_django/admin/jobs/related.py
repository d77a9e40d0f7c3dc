"""The origin of a job, the jobs that it has enqueued, and its batches, for its page."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import router
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.base import Links
from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs.cells import state_badge
from pgonly_django.admin.jobs.data import progress_of_parts
from pgonly_django.admin.paging import COUNTED_AT_MOST, label_of
from pgonly_django.models import Job, JobBatch, Schedule
from pgonly_django.monitoring.progress import BatchProgress, progress_for_page
from pgonly_django.monitoring.situations import SITUATION
from pgonly_django.queue.enqueue import OF_BATCH, OF_COPY, OF_JOB, OF_SCHEDULE

SHOWN = 20
LINKED_COLUMNS = ("task", "state", "cancel_requested_at")
WORDS = {
    OF_JOB: gettext_lazy("enqueued by job %s"),
    OF_COPY: gettext_lazy("run again from job %s"),
    OF_SCHEDULE: gettext_lazy("enqueued by schedule %s"),
    OF_BATCH: gettext_lazy("enqueued by batch %s"),
}


def in_words(origin: str) -> str:
    """Returns a value of enqueued_by in words, for the title of a list."""
    kind = next((each for each in WORDS if origin.startswith(each)), OF_JOB)
    return str(WORDS[kind] % origin.removeprefix(kind))


def batches_of(job: Job) -> list[JobBatch]:
    """Returns the batch that it is a member of, and the newest ones that it gathers. Index: the primary key, and
    pgonly_batch_once. (Ordered by the key itself, PostgreSQL may walk over all batches from the newest one.)"""
    batches = JobBatch.objects.using(_alias(job))
    gathered = batches.filter(parent=job).order_by(Cast("pk", TextField()).desc())[:SHOWN]
    return list(gathered.union(batches.filter(pk=job.batch_id), all=True) if job.batch_id else gathered)


def related_jobs(job: Job, links: Links, batches: list[JobBatch]) -> dict[str, Any]:
    """Returns what its page shows of them: where the job comes from, its batch, and the first SHOWN jobs that come from
    it."""
    groups = ((_("Enqueued"), OF_JOB), (_("Run again as"), OF_COPY))
    found = [_made_by(f"{kind}{job.pk}", label, job, links) for label, kind in groups]
    own = next((each for each in batches if each.pk == job.batch_id), None)
    batch = _batch(_("Member of"), str(job.batch_id), job, links, own) if job.batch_id else None
    return {
        "lines": [line for line in (_origin_of(job, links), batch) if line],
        "groups": [group for group in found if group["jobs"]],
    }


def gathered_by(job: Job, links: Links, batches: list[JobBatch]) -> list[dict[str, Any]]:
    """Returns how far those of the `batches` are that it gathers, as progress_of() does."""
    batches = [batch for batch in batches if batch.parent_id == job.pk]
    found = progress_for_page(_alias(job), [str(batch.pk) for batch in batches])
    return [
        {**_parts(batch.name, found.get(str(batch.pk))), "url": _address(batch, links)}
        for batch in batches[::-1]
    ]


def _address(batch: JobBatch, links: Links) -> str:
    """Returns that of its page, or of its jobs on a site without pages of batches."""
    return links.to_row(batch) or links.to_list(Job, batch_id=str(batch.pk))


def _parts(name: str, parts: BatchProgress | None) -> dict[str, Any]:
    return {"figures": name, "percent": None} if parts is None else progress_of_parts(parts, name)


def _batch(
    label: str, batch_id: str, job: Job, links: Links, batch: JobBatch | None = None
) -> dict[str, Any]:
    """Returns a line for a batch, with how far it is. Without its row, which may be pruned, it leads to its jobs."""
    parts = progress_for_page(_alias(job), [batch_id]).get(batch_id)
    shown = _parts((batch and batch.name) or _("batch %s") % batch_id, parts)
    url = _address(batch, links) if batch else links.to_list(Job, batch_id=batch_id)
    bar = shown.get("bar", "")
    return {"label": label, "badge": bar, "text": shown["figures"], "title": batch_id, "url": url}


def _made_by(origin: str, label: str, job: Job, links: Links) -> dict[str, Any]:
    """Index: pgonly_job_enqueued_by."""
    jobs = _jobs_beside(job).filter(enqueued_by=origin)
    first = list(jobs.order_by("pk").only(*LINKED_COLUMNS)[: SHOWN + 1])
    has_more = len(first) > SHOWN
    count = jobs.values("pk")[: COUNTED_AT_MOST + 1].count() if has_more else len(first)
    return {
        "label": label,
        "count": label_of(count),
        "url": links.to_list(Job, enqueued_by=origin) if has_more else "",
        "jobs": [_line(each, links) for each in first[:SHOWN]],
    }


def _origin_of(job: Job, links: Links) -> dict[str, Any] | None:
    """Returns its origin. A job that was pruned, or is kept in another database, is named by its id."""
    origin = job.enqueued_by or ""
    if origin.startswith(OF_SCHEDULE):
        name = origin.removeprefix(OF_SCHEDULE)
        is_known = Schedule.objects.using(router.db_for_read(Schedule)).filter(pk=name).exists()
        url = links.to_page(Schedule, name) if is_known else ""
        return {"label": _("Enqueued by"), "text": _("schedule %s") % name, "url": url}
    if origin.startswith(OF_BATCH):
        return _batch(_("Enqueued by"), origin.removeprefix(OF_BATCH), job, links)
    kind = OF_COPY if origin.startswith(OF_COPY) else OF_JOB
    if not origin.startswith(kind):
        return None
    label = _("Run again from") if kind == OF_COPY else _("Enqueued by")
    found = _job(origin.removeprefix(kind), job)
    if found is None:
        gone = _("a job that is not in this database any more: %s") % origin.removeprefix(kind)
        return {"label": label, "text": gone, "url": ""}
    return {"label": label, **_line(found, links)}


def _job(key: str, job: Job) -> Job | None:
    try:
        return _jobs_beside(job).filter(pk=UUID(key)).only(*LINKED_COLUMNS).first()
    except ValueError:
        return None


def _jobs_beside(job: Job) -> QuerySet[Job]:
    return Job.objects.using(_alias(job)).annotate(situation=SITUATION)


def _alias(job: Job) -> str:
    return router.db_for_read(Job, instance=job)


def _line(job: Job, links: Links) -> dict[str, Any]:
    return {
        "badge": state_badge(job),
        "text": short_name(job.task),
        "title": f"{job.task} {job.pk}",
        "url": links.to_row(job),
    }
