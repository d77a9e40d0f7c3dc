"""The call of a job in a form: edit a job that waits, or run one again as a new job. Masked values may stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import ValidationError
from django.db import OperationalError, router
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.database.on_django import time_limit, timed_out
from pgonly_django.exceptions import NotStorableError
from pgonly_django.masking import unmasked
from pgonly_django.models import Job, State
from pgonly_django.models.readable import OddValue
from pgonly_django.monitoring.waiting import waits_of
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.editing import EDITABLE, EditError, UnfitCallError, edit, run_again, version_of
from pgonly_django.tasks.masking import JobMask
from pgonly_django.tasks.options import NAME_LENGTH, YEARS, is_in_years
from pgonly_django.tasks.registry import UnknownTaskError, import_task
from pgonly_django.tasks.result import JobResult

CALL_FIELDS = ("queue", "priority", "args", "kwargs")
CHARACTERS_AT_MOST = 100_000
# How long another transaction may lock a row.
PATIENCE = timedelta(seconds=3)
KINDS: dict[str, tuple[type[Any], Any]] = {
    "args": (list, gettext_lazy("a list")),
    "kwargs": (dict, gettext_lazy("an object")),
}


def edit_view(model_admin: VerbAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    job: Job = model_admin.row_to_operate(request, object_id)
    page = _page_of(model_admin, request, job.pk)
    if job.state not in EDITABLE:
        text = _("Only a job that waits can be edited; this one is %s.") % job.get_state_display().lower()
        model_admin.message_user(request, text, messages.ERROR)
        return HttpResponseRedirect(page)
    is_due = job.state == State.SCHEDULED and not waits_of(router.db_for_read(Job), [job.pk])
    run_at = job.run_at if is_due else None  # of a wait without a deadline it is in a hundred years
    form = CallForm(request, job, run_at=run_at, version=version_of(job))
    if form.is_valid() and (told := _edited(request, form)) is not None:
        model_admin.message_user(request, *told)
        return HttpResponseRedirect(page)
    return _render(
        model_admin,
        request,
        form,
        title=_("Edit %s") % short_name(job.task),
        submit=_("Save"),
        about=_("It is saved only if the job still waits and has not been changed since this page was made."),
        warning=_("It has run before: its steps and its checkpoint stay.") if job.lease_epoch else "",
    )


def _edited(request: HttpRequest, form: CallForm) -> tuple[str, int] | None:
    """Returns the message for the person; None where it was refused, and the form says why."""
    changes = form.changes
    if not changes:
        return _("Nothing was changed."), messages.INFO
    said = _("Edited: %s.") % ", ".join(str(form.fields[name].label).lower() for name in changes)
    with _refusals(request, form):
        notes = edit(router.db_for_write(Job), form.job.pk, form.cleaned_data["version"], changes)
        _log(request, form.job, said)
        return " ".join([said, *notes]), messages.SUCCESS
    return None


def again_view(model_admin: VerbAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    job: Job = model_admin.row_to_operate(request, object_id)
    form = CallForm(request, job)
    if form.is_valid() and (result := _run_again(request, form)) is not None:
        page = _page_of(model_admin, request, result.id)
        if result.is_duplicate:
            link = format_html('<a href="{}">{}</a>', page, result.id)
            text = format_html(_("No new job: {} has the same unique key and is this one."), link)
            model_admin.message_user(request, text, messages.WARNING)
        else:
            model_admin.message_user(request, _("This is the new job."), messages.SUCCESS)
        return HttpResponseRedirect(page)
    return _render(
        model_admin,
        request,
        form,
        title=_("Run %s again") % short_name(job.task),
        submit=_("Run again"),
        about=_(
            "A new job of the same task. It begins from scratch, without the steps and the checkpoint of this one."
        ),
        warning="" if job.is_finished else _("This job has not finished. Both will run."),
    )


def _run_again(request: HttpRequest, form: CallForm) -> JobResult | None:
    """Returns None where it was refused, and the form says why."""
    job, given = form.job, form.cleaned_data
    call = {name: given.get(name, getattr(job, name)) for name in CALL_FIELDS}
    with _refusals(request, form):
        made = run_again(job, run_at=given["run_at"], **call)
        said = _("Run again: the job %s has its unique key.") if made.is_duplicate else _("Run again as %s.")
        _log(request, job, said % made.id)
        return made
    return None


@contextmanager
def _refusals(request: HttpRequest, form: CallForm) -> Iterator[None]:
    """Runs in one transaction. A refusal in it is an error of the form, and nothing is written."""
    try:
        with time_limit(router.db_for_write(Job), PATIENCE):
            yield
    except UnfitCallError as error:
        unseen = _("The task or the queue refuses this job. A person who may see its arguments sees why.")
        form.add_error(None, str(error) if may_see_data(request) else unseen)
    except EditError as error:
        form.add_error(None, str(error))
    except OperationalError as error:
        if not timed_out(error):
            raise
        form.add_error(None, _("Another transaction holds the job for longer than 3 s. Try again."))


def _log(request: HttpRequest, job: Job, text: str) -> None:
    assert request.user.pk is not None
    LogEntry.objects.log_actions(request.user.pk, [job], CHANGE, text)


def _page_of(model_admin: VerbAdmin, request: HttpRequest, job_id: Any) -> str:
    return model_admin.links(request).address(Job, "change", str(job_id))


def _render(model_admin: VerbAdmin, request: HttpRequest, form: CallForm, **texts: Any) -> TemplateResponse:
    name, back = short_name(form.job.task), _page_of(model_admin, request, form.job.pk)
    return model_admin.page(request, "job/call.html", form=form, job_name=name, back=back, **texts)


class JsonText(forms.CharField):
    """JSON of a kind, as a person edits it: indented, and read back. Of any kind without one; empty is then null."""

    widget = forms.Textarea(attrs={"rows": 6, "cols": 80, "spellcheck": "false", "class": "pgonly-json"})

    def __init__(self, kind: type[Any] | None = None, kind_name: Any = "", **kwargs: Any) -> None:
        super().__init__(required=False, **kwargs)
        self.kind, self.kind_name = kind, kind_name

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compares the values, since a browser sends other line ends. True and 1 are two values."""
        try:
            values = [json.dumps(self.clean(text), sort_keys=True) for text in (initial, data)]
        except ValidationError:  # the row has an OddValue, or the data is refused anyway
            return True
        return values[0] != values[1]

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text.strip():
            return self.kind and self.kind()
        try:
            read = json.loads(text)
            to_json(read, str(self.label))
        except NotStorableError as error:
            raise ValidationError(str(error)) from error
        except (ValueError, RecursionError) as error:
            raise ValidationError(_("It is not JSON: %s") % error) from error
        if self.kind and not isinstance(read, self.kind):
            raise ValidationError(_("It must be %s in JSON.") % self.kind_name)
        return read


class CallForm(forms.Form):
    """A job's queue, priority, time and arguments. The arguments do not change for a person who may not see them."""

    queue = forms.CharField(label=gettext_lazy("Queue"), max_length=NAME_LENGTH)
    priority = forms.IntegerField(
        label=gettext_lazy("Priority"),
        min_value=-100,
        max_value=100,
        help_text=gettext_lazy("-100 to 100; larger ones start first."),
    )
    run_at = forms.DateTimeField(
        label=gettext_lazy("Not before"),
        required=False,
        widget=forms.DateTimeInput({"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S"),
    )
    version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, request: HttpRequest, job: Job, **initial: Any) -> None:
        data = request.POST if request.method == "POST" else None
        super().__init__(data, initial={"queue": job.queue, "priority": job.priority, **initial})
        self.job = job
        text = _("In the time zone %s. Empty: as soon as a worker is free.")
        self.fields["run_at"].help_text = text % timezone.get_current_timezone_name()
        self.unseen = ""
        if may_see_data(request):
            self._add_arguments()
        else:
            self.unseen = _("You may not see the arguments of jobs: they stay as they are.")

    def _add_arguments(self) -> None:
        mask = JobMask()
        self.masked = {"args": mask.args(self.job.task, self.job.args), "kwargs": mask.value(self.job.kwargs)}
        texts = {
            name: str(value)
            if isinstance(value, OddValue)
            else json.dumps(value, indent=2, ensure_ascii=False)
            for name, value in self.masked.items()
        }
        if max(map(len, texts.values())) > CHARACTERS_AT_MOST:
            self.unseen = _("The arguments are too long to be edited here: they stay as they are.")
            return
        labels = {"args": _("Positional arguments"), "kwargs": _("Keyword arguments")}
        for name, text in texts.items():
            self.fields[name] = JsonText(*KINDS[name], label=labels[name])
            self.initial[name] = text
        self.fields["args"].help_text = _parameters_of(self.job.task)

    def clean_run_at(self) -> datetime | None:
        moment: datetime | None = self.cleaned_data["run_at"]
        if moment is not None and not is_in_years(moment):
            raise ValidationError(_("It must lie in the years %d to %d.") % (YEARS[0], YEARS[-1]))
        return moment

    def clean_args(self) -> Any:
        return self._unmasked("args")

    def clean_kwargs(self) -> Any:
        return self._unmasked("kwargs")

    def _unmasked(self, name: str) -> Any:
        try:
            return unmasked(self.cleaned_data[name], self.masked[name], getattr(self.job, name))
        except ValueError as error:
            raise ValidationError(str(error)) from error

    @property
    def changes(self) -> dict[str, Any]:
        """Returns what differs from the job, by the names of its columns."""
        return {name: self.cleaned_data[name] for name in self.changed_data if name != "version"}


def _parameters_of(path: str) -> str:
    """Returns the parameters of the task, without their defaults: one of these may be a secret."""
    try:
        task = import_task(path)
    except UnknownTaskError as error:
        return str(error)
    signature = call_signature(task.func, task.takes_context).signature
    bare = [each.replace(default=each.empty, annotation=each.empty) for each in signature.parameters.values()]
    return _("The task takes: %s") % (", ".join(map(str, bare)) or _("nothing"))
