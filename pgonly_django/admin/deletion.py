"""Deleting jobs by hand: running ones stay, and nothing reads all steps of all jobs first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.actions import delete_selected as djangos_delete_selected
from django.db import router, transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.paging import count_label
from pgonly_django.models import Job, State, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.contrib.admin import ModelAdmin
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

# The page that asks for confirmation posts one field per job; Django takes 1,000 of them.
AT_ONCE = 500


@admin.action(permissions=["delete"], description=gettext_lazy("Delete selected %(verbose_name_plural)s"))
def delete_selected(
    model_admin: ModelAdmin[Job], request: HttpRequest, queryset: QuerySet[Job]
) -> HttpResponse | None:
    """Django's own, for the newest AT_ONCE of them."""
    ids = list(queryset.order_by("-pk").values_list("pk", flat=True)[:AT_ONCE])
    return djangos_delete_selected(model_admin, request, queryset.filter(pk__in=ids))


def delete_jobs(jobs: QuerySet[Job]) -> int:
    """Delete those of `jobs` that do not run, with their checkpoint and steps. Returns how many."""
    database = router.db_for_write(Job)
    with transaction.atomic(using=database):
        resting = jobs.using(database).exclude(state=State.RUNNING).select_for_update()
        ids = list(resting.order_by("pk").values_list("pk", flat=True))
        Job.objects.using(database).filter(pk__in=ids).delete()
    return len(ids)


Summary = tuple[list[str], dict[str, Any], set[str], list[str]]


def summary(jobs: Sequence[Job] | QuerySet[Job], may_delete: bool) -> Summary:
    """What the confirmation page shows: jobs, counts, permissions that lack, jobs that cannot go."""
    steps = Step.objects.filter(job__in=[job.pk for job in jobs])
    counts = {_("jobs"): len(jobs), _("steps"): count_label(steps)}
    running = [
        _("%(job)s, which runs: cancel it first") % {"job": job} for job in jobs if job.state == State.RUNNING
    ]
    return [str(job) for job in jobs], counts, set() if may_delete else {_("job")}, running
