"""The page that runs a job again as a new one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db import router
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs.calls.form import CallForm
from pgonly_django.admin.jobs.calls.view import job_of, log, page_of, refusals, render, to_page
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.models import Job
from pgonly_django.tasks.editing import run_again

CALL = ("queue", "priority", "args", "kwargs")


def again_view(model_admin: VerbAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    job = job_of(model_admin, request, object_id)
    data = request.POST if request.method == "POST" else None
    initial = {"queue": job.queue, "priority": job.priority}
    form = CallForm(data, job, sees_data=may_see_data(request), initial=initial)
    if form.is_valid() and (result := _result(request, form, job)) is not None:
        _tell(model_admin, request, result)
        return to_page(model_admin, result.id)
    return render(
        model_admin,
        request,
        form,
        job,
        title=_("Run %s again") % short_name(job.task),
        submit=_("Run again"),
        about=_(
            "A new job of the same task. It begins from scratch, without the steps and the checkpoint of this one."
        ),
        warning="" if job.is_finished else _("This job has not finished. Both will run."),
    )


def _result(request: HttpRequest, form: CallForm, job: Job) -> Any:
    """None where it was refused, and the form says why."""
    call = {name: getattr(job, name) for name in CALL}
    call |= {name: value for name, value in form.cleaned_data.items() if name in (*CALL, "run_at")}
    made: Any = None
    with refusals(request, form, router.db_for_write(Job)):
        made = run_again(job, **call)
        said = _("Run again: the job %s has its unique key.") if made.is_duplicate else _("Run again as %s.")
        log(request, job, said % made.id)
    return None if form.errors else made


def _tell(model_admin: VerbAdmin, request: HttpRequest, result: Any) -> None:
    link = format_html('<a href="{}">{}</a>', page_of(model_admin, result.id), result.id)
    if result.is_duplicate:
        text = format_html(_("No new job: {} has the same unique key and is this one."), link)
        model_admin.message_user(request, text, messages.WARNING)
    else:
        model_admin.message_user(request, _("This is the new job."), messages.SUCCESS)
