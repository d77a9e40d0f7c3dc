"""What the page of one job shows, in a bounded number of queries."""

from __future__ import annotations

from typing import Any

from django.db import router
from django.utils.translation import gettext as _

from pgonly_django.admin.jobs.page.facts import facts_of
from pgonly_django.admin.jobs.page.output import output_of
from pgonly_django.admin.jobs.page.progress import progress_of
from pgonly_django.admin.jobs.page.steps import steps_of
from pgonly_django.admin.jobs.page.values import checkpoint_of, values_of
from pgonly_django.admin.jobs.page.waits import reasons_to_wait
from pgonly_django.admin.jobs.timeline import attempts_of, log_lines, timeline
from pgonly_django.admin.links import Links
from pgonly_django.models import Job, Worker
from pgonly_django.tasks.masking import JobMask

__all__ = ["page_context", "progress_of"]


def page_context(job: Job, links: Links, *, sees_data: bool) -> dict[str, Any]:
    """For the template change_form.html. `sees_data`: what the job was called with and returned may be shown."""
    worker, mask = _worker_name(job), JobMask()
    attempts = attempts_of(job, worker, sees_data=sees_data)
    hides_keys = not sees_data or mask.hides_of(job.task, job.args, job.kwargs)
    return {
        "job": job,
        "sees_data": sees_data,
        "facts": facts_of(job, worker, hides_keys=hides_keys),
        "waits": reasons_to_wait(job, links, hides_keys=hides_keys),
        "progress": progress_of(job, sees_data=sees_data),
        "timeline": timeline(job, attempts),
        "attempts": attempts[::-1],
        "values": values_of(job, mask) if sees_data else [],
        "checkpoint": checkpoint_of(job, mask, sees_data=sees_data),
        "steps": steps_of(job, mask, sees_data=sees_data),
        "output": output_of(job) if sees_data else None,
        "log": log_lines(job) if sees_data else [],
    }


def _worker_name(job: Job) -> str:
    if job.worker_id is None:
        return ""
    workers = Worker.objects.using(router.db_for_read(Worker, instance=job))
    name = workers.filter(pk=job.worker_id).values_list("name", flat=True).first()
    return name or _("unknown (%s)") % job.worker_id
