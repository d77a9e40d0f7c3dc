"""The page that edits a job that waits."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db import router
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs.calls.form import CallForm
from pgonly_django.admin.jobs.calls.view import job_of, log, refusals, render, to_page
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.models import Job
from pgonly_django.tasks.editing import EDITABLE, edit, version_of


def edit_view(model_admin: VerbAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    job = job_of(model_admin, request, object_id)
    if job.state not in EDITABLE:
        text = _("Only a job that waits can be edited; this one is %s.") % job.get_state_display().lower()
        model_admin.message_user(request, text, messages.ERROR)
        return to_page(model_admin, job.pk)
    data = request.POST if request.method == "POST" else None
    form = CallForm(data, job, sees_data=may_see_data(request), initial=_initial(job))
    if form.is_valid() and _is_saved(model_admin, request, form, job):
        return to_page(model_admin, job.pk)
    return render(
        model_admin,
        request,
        form,
        job,
        title=_("Edit %s") % short_name(job.task),
        submit=_("Save"),
        about=_("It is saved only if the job still waits and has not been changed since this page was made."),
        warning=_has_run(job),
    )


def _initial(job: Job) -> dict[str, Any]:
    shown = job.run_at if job.state == "scheduled" else None
    return {"queue": job.queue, "priority": job.priority, "run_at": shown, "version": version_of(job)}


def _has_run(job: Job) -> str:
    return _("It has run before: its steps and its checkpoint stay.") if job.lease_epoch else ""


def _is_saved(model_admin: VerbAdmin, request: HttpRequest, form: CallForm, job: Job) -> bool:
    changes = form.changes
    if not changes:
        model_admin.message_user(request, _("Nothing was changed."), messages.INFO)
        return True
    alias, notes = router.db_for_write(Job), [""]
    with refusals(request, form, alias):
        notes = edit(alias, job.pk, form.cleaned_data["version"], changes)
        names = ", ".join(str(form.fields[name].label).lower() for name in changes)
        log(request, job, _("Edited: %s.") % names)
    if form.errors:
        return False
    model_admin.message_user(request, " ".join([_("Edited: %s.") % names, *notes]), messages.SUCCESS)
    return True
