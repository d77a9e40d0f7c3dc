"""Deleting jobs by hand: running ones stay, and no page reads all steps of all jobs first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import router, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from pgonly_django.admin.paging import count_label
from pgonly_django.models import Job, State, Step


def delete_jobs(jobs: QuerySet[Job]) -> int:
    """Delete those of `jobs` that do not run, with their checkpoints and steps. Returns how many."""
    database = router.db_for_write(Job)
    with transaction.atomic(using=database):
        idle = jobs.using(database).exclude(state=State.RUNNING).select_for_update()
        ids = list(idle.order_by("pk").values_list("pk", flat=True))
        Job.objects.using(database).filter(pk__in=ids).delete()
    return len(ids)


def summary(
    jobs: Sequence[Job] | QuerySet[Job], may_delete: bool
) -> tuple[list[str], dict[str, Any], set[str], list[str]]:
    """For the page that asks for confirmation: jobs, counts, missing permissions, jobs that cannot be deleted."""
    steps = Step.objects.filter(job__in=[job.pk for job in jobs])
    counts = {_("jobs"): len(jobs), _("steps"): count_label(steps)}
    text = _("%(job)s, which runs: cancel it first")
    running = [text % {"job": job} for job in jobs if job.state == State.RUNNING]
    return [str(job) for job in jobs], counts, set() if may_delete else {_("job")}, running
