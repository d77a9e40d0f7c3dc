"""What the two pages with the form share: who may, the row, the page, and what is said of a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs.calls.form import CallForm
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.database.on_django import time_limit, timed_out
from pgonly_django.models import Job
from pgonly_django.tasks.editing import EditError, UnfitCallError

TEMPLATE = "admin/pgonly_django/job/call.html"
# How long a row may be locked by somebody else.
PATIENCE = timedelta(seconds=3)


def job_of(model_admin: VerbAdmin, request: HttpRequest, object_id: str) -> Job:
    """Raises PermissionDenied and Http404."""
    if not (model_admin.has_operate_permission(request) and model_admin.has_view_permission(request)):
        raise PermissionDenied
    job = model_admin.get_object(request, unquote(object_id))
    if job is None:
        raise Http404
    assert isinstance(job, Job)
    return job


def page_of(model_admin: VerbAdmin, job_id: Any) -> str:
    page = f"admin:{model_admin.url_name('change')}"
    return reverse(page, args=[quote(job_id)], current_app=model_admin.admin_site.name)


def to_page(model_admin: VerbAdmin, job_id: Any) -> HttpResponse:
    return HttpResponseRedirect(page_of(model_admin, job_id))


def render(
    model_admin: VerbAdmin, request: HttpRequest, form: CallForm, job: Job, **texts: Any
) -> TemplateResponse:
    request.current_app = model_admin.admin_site.name  # as Django's own views set it
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "form": form,
        "job": job,
        "job_name": short_name(job.task),
        "back": page_of(model_admin, job.pk),
        **texts,
    }
    return TemplateResponse(request, TEMPLATE, context)


@contextmanager
def refusals(request: HttpRequest, form: CallForm, alias: str) -> Iterator[None]:
    """One transaction. What is refused in it is an error of the form, and nothing is written."""
    try:
        with time_limit(alias, PATIENCE):
            yield
    except UnfitCallError as error:
        unseen = _("The task or the queue refuses this job. Somebody who may see its arguments sees why.")
        form.add_error(None, str(error) if may_see_data(request) else unseen)
    except EditError as error:
        form.add_error(None, str(error))
    except OperationalError as error:
        if not timed_out(error):
            raise
        form.add_error(None, _("Another transaction holds the job for longer than 3 s. Try again."))


def log(request: HttpRequest, job: Job, text: str) -> None:
    assert request.user.pk is not None
    LogEntry.objects.log_actions(request.user.pk, [job], CHANGE, text)
