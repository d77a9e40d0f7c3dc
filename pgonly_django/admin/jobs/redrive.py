"""The action that redrives failed jobs: a page asks how many a minute, and for other arguments."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.verbs import AT_ONCE, VerbAdmin, log_once
from pgonly_django.exceptions import PgonlyError
from pgonly_django.models import Job, State
from pgonly_django.tasks.redrive import Redriven, redrive
from pgonly_django.tasks.registry import UnknownTaskError

TEMPLATE = "admin/pgonly_django/job/redrive.html"
REASONS_SHOWN = 5


class RedriveForm(forms.Form):
    per_minute = forms.FloatField(
        label=gettext_lazy("Jobs a minute"),
        required=False,
        min_value=0.001,
        help_text=gettext_lazy("They start evenly spread. Empty: all now."),
    )
    arguments = forms.JSONField(
        label=gettext_lazy("New arguments"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 4, "cols": 60}),
        help_text=gettext_lazy('By name, as JSON: {"model": "deepseek-chat"}. Empty: as they are.'),
    )

    def __init__(self, data: Any, *, sees_data: bool) -> None:
        """Who may not see the arguments does not choose others: they could send what is in a job elsewhere."""
        super().__init__(data)
        if not sees_data:
            del self.fields["arguments"]

    def clean_arguments(self) -> dict[str, Any]:
        arguments = self.cleaned_data["arguments"] or {}
        if not isinstance(arguments, dict):
            raise ValidationError(_('It must be an object of names and values, such as {"model": "x"}.'))
        return arguments


@admin.action(
    permissions=["operate"], description=gettext_lazy("Redrive selected %(verbose_name_plural)s ...")
)
def redrive_jobs(
    model_admin: VerbAdmin, request: HttpRequest, queryset: QuerySet[Job]
) -> TemplateResponse | None:
    """Ask first, and then do it: for AT_ONCE jobs at most, those that have failed longest ago."""
    oldest: Any = queryset.filter(state=State.FAILED).order_by("pk")[: AT_ONCE + 1]
    form = RedriveForm(request.POST if "apply" in request.POST else None, sees_data=may_see_data(request))
    if form.is_valid():
        try:
            done = redrive(oldest[:AT_ONCE], **form.cleaned_data)
        except (PgonlyError, UnknownTaskError) as error:
            form.add_error("arguments" if "arguments" in form.fields else None, str(error))
        else:
            _tell(model_admin, request, done, form.cleaned_data)
            return None
    return _page(model_admin, request, form, len(oldest.values_list("pk", flat=True)))


def _tell(model_admin: VerbAdmin, request: HttpRequest, done: Redriven, how: dict[str, Any]) -> None:
    counted = ngettext("%s job", "%s jobs", done.jobs) % f"{done.jobs:,}"
    if done.jobs:
        names = ", ".join(how.get("arguments", ()))
        said = _("Redriven with another %s.") % names if names else _("Redriven.")
        log_once(request.user.pk, Job, counted, said)
        model_admin.message_user(request, _("Redriven: %s.") % counted, messages.SUCCESS)
    if done.left or not done.jobs:
        left = ngettext("%s was left alone.", "%s were left alone.", done.left) % f"{done.left:,}"
        told = [*done.reasons.items()][:REASONS_SHOWN] if may_see_data(request) else []
        reasons = [f"{job_id}: {reason}" for job_id, reason in told]
        text = " ".join([left, *reasons]) if done.left else _("None of them has failed.")
        model_admin.message_user(request, text, messages.WARNING)


def _page(model_admin: VerbAdmin, request: HttpRequest, form: RedriveForm, count: int) -> TemplateResponse:
    context = {
        **model_admin.admin_site.each_context(request),
        "title": _("Redrive failed jobs"),
        "opts": model_admin.opts,
        "form": form,
        "count": f"{min(count, AT_ONCE):,}",
        "has_jobs": count > 0,
        "has_more": count > AT_ONCE,
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "select_across": request.POST.get("select_across", "0"),
        "checkbox_name": ACTION_CHECKBOX_NAME,
        "back": request.get_full_path(),
    }
    return TemplateResponse(request, TEMPLATE, context)
