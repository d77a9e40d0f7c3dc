"""The cells of the job list."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import admin
from django.db.models import TextField
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Left
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pgonly_django.admin import formats
from pgonly_django.admin.jobs.page import progress_of
from pgonly_django.admin.jobs.verbs import is_cancelling
from pgonly_django.models import Job, State
from pgonly_django.models.job import seconds_between

# States in which a job's errors are history.
PAST_ERRORS = (State.SUCCEEDED, State.CANCELLED)
CAUSE_SHOWN = 200
# What the list shows of a job's attempts. PostgreSQL reads it for the rows of one page: the list is not sorted.
LAST_ERROR = {
    f"last_{key}": Left(
        KeyTextTransform(key, KeyTransform(-1, "errors")), CAUSE_SHOWN, output_field=TextField()
    )
    for key in ("exception", "message", "reason", "started_at", "finished_at")
}


@admin.display(description=gettext_lazy("state"))
def state_badge(job: Job) -> SafeString:
    if is_cancelling(job):
        return formats.badge("cancelling", _("Cancelling"), _("It was asked to stop."))
    return formats.badge(job.state, job.get_state_display())


@admin.display(description=gettext_lazy("task"))
def task_name(job: Job) -> SafeString:
    """The short name; below it why the last attempt ended, unless the job is past its errors."""
    name = format_html(
        '<span class="pgonly-name" title="{} {}">{}</span>', job.task, job.pk, formats.short_name(job.task)
    )
    exception, text = job.last_exception or "", job.last_message or job.last_reason or ""  # type: ignore[attr-defined] # LAST_ERROR
    cause = ": ".join(filter(None, (formats.short_name(exception), text)))
    if not cause or job.state in PAST_ERRORS:
        return name
    return name + format_html('<span class="pgonly-second" title="{0}">{0}</span>', cause)


@admin.display(description=gettext_lazy("progress"))
def progress_cell(job: Job) -> str:
    """The job's progress, or else the time that matters in its state."""
    progress = progress_of(job)
    if progress is None or job.state == State.SUCCEEDED:
        return _time_that_matters(job)
    if progress["total"] is None:
        return format_html("{} {}", progress["figures"], progress["message"])
    bar = formats.progress_bar(progress["done"], progress["total"])
    second = '{} <span class="pgonly-second" title="{}">{}</span>'
    return format_html(second, bar, progress["message"], progress["figures"])


def _time_that_matters(job: Job) -> str:
    if job.state == State.SCHEDULED and job.run_at is not None:
        wait = job.run_at - timezone.now()
        return formats.time_tag(job.run_at, _("in %s") % formats.short_duration(wait))
    if job.state == State.HELD:
        return str(job.held_by or "")
    if job.attempted_at is None:
        return ""
    if job.state == State.RUNNING:
        return formats.time_tag(job.attempted_at, _("for %s") % formats.age(job.attempted_at))
    if job.state == State.SUCCEEDED:
        seconds = job.run_seconds
    else:  # None where the last entry of `errors` is a person's decision, which may come much later than the run
        seconds = seconds_between(job.last_started_at, job.last_finished_at)  # type: ignore[attr-defined] # LAST_ERROR
    if job.finished_at is None or seconds is None:
        return ""
    took = formats.short_duration(timedelta(seconds=seconds))
    return formats.time_tag(job.finished_at, _("took %s") % took)


@admin.display(description=gettext_lazy("age"))
def age(job: Job) -> SafeString:
    return formats.time_tag(job.enqueued_at, formats.age(job.enqueued_at))


@admin.display(description=gettext_lazy("attempts"))
def attempts(job: Job) -> SafeString:
    """ "2/4", and below it how many interruptions and crashes there were, if any."""
    counts = {
        ngettext("%d interruption", "%d interruptions", job.interruptions): job.interruptions,
        ngettext("%d crash", "%d crashes", job.crashes): job.crashes,
    }
    lines = ((label % count,) for label, count in counts.items() if count)
    second = format_html_join("", '<span class="pgonly-second">{}</span>', lines)
    return format_html("{}/{}{}", job.attempt, job.max_attempts, second)
