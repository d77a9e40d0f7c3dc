"""The cells of the job list."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
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
from pgonly_django.wording import duration

CAUSE_SHOWN = 110
ARGUMENTS_SHOWN = 70
MESSAGE_SHOWN = 60


@admin.display(description=gettext_lazy("state"))
def state_badge(job: Job) -> SafeString:
    if is_cancelling(job):
        return formats.badge("cancelling", _("Cancelling"), _("It was asked to stop."))
    return formats.badge(job.state, job.get_state_display())


@admin.display(description=gettext_lazy("task"))
def task_name(job: Any) -> SafeString:
    """The short name; below it why the last attempt ended, unless the job is past its errors."""
    name = format_html(
        '<a class="pgonly-name" href="{}" title="{} {}">{}</a>',
        job.row.address, job.task, job.pk, formats.short_name(job.task),
    )  # fmt: skip
    return name + formats.folded(f"why-{job.pk}", job.row.cause, CAUSE_SHOWN)


@admin.display(description=gettext_lazy("arguments"))
def arguments(job: Any) -> SafeString:
    return formats.folded(f"with-{job.pk}", job.row.arguments, ARGUMENTS_SHOWN)


@admin.display(description=gettext_lazy("progress"))
def progress_cell(job: Any) -> str:
    """A bar with its percentage, and below it the figures and the message; nothing once the job has succeeded."""
    progress = progress_of(job, sees_data=job.row.sees_data)
    if progress is None or job.state == State.SUCCEEDED:
        return ""
    told = " · ".join(filter(None, (progress["figures"], " ".join(progress["message"].split()))))
    second = formats.folded(f"far-{job.pk}", told, MESSAGE_SHOWN)
    if progress["total"] is None:
        return second
    bar = formats.progress_bar(progress["done"], progress["total"])
    percent = formats.percentage(progress["done"], progress["total"])
    return format_html('<span class="pgonly-bar">{} {}</span>{}', bar, percent, second)


@admin.display(description=gettext_lazy("time"))
def time_cell(job: Any) -> SafeString:
    """The time that matters in its state, and below it another one."""
    if job.state == State.RUNNING:
        return _lines(_since(job.attempted_at, _("for %s")), _waited(job))
    if job.state == State.READY:
        return _lines(_since(job.waiting_since, _("waits %s")))
    if job.state == State.SCHEDULED:
        return _lines(_due(job))
    if job.state == State.HELD:
        return _lines(_("by %s") % job.held_by, _since(job.enqueued_at, _("enqueued %s ago")))
    return _lines(_took(job), _since(job.finished_at, _("%s ago")))


def _lines(*texts: str) -> SafeString:
    """The first one that is not empty, and the next below it."""
    first, *others = [*filter(None, texts), ""]
    second = format_html_join(
        "", '<span class="pgonly-second">{}</span>', ((text,) for text in others if text)
    )
    return format_html("{}{}", first, second)


def _since(moment: datetime | None, text: str) -> str:
    return "" if moment is None else formats.time_tag(moment, text % formats.age(moment))


def _due(job: Job) -> str:
    if job.run_at is None:
        return ""
    wait = job.run_at - timezone.now()
    text = _("in %s") if wait > timedelta(0) else _("late by %s")
    return formats.time_tag(job.run_at, text % duration(abs(wait)))


def _waited(job: Job) -> str:
    if job.attempted_at is None or job.attempted_at < job.waiting_since:
        return ""
    return _("waited %s") % duration(job.attempted_at - job.waiting_since)


def _took(job: Any) -> str:
    """ "" where no run is known."""
    if job.state == State.SUCCEEDED:
        seconds = job.run_seconds
    else:  # None where the last entry of `errors` is a person's decision, which may come much later than the run
        seconds = seconds_between(job.last_started_at, job.last_finished_at)
    return "" if seconds is None else _("took %s") % duration(timedelta(seconds=seconds))


@admin.display(description=gettext_lazy("worker"))
def worker(job: Any) -> SafeString | str:
    """The one that runs the job or ran it last: leads to what it runs."""
    if not job.worker_id:
        return ""
    name = job.row.worker or _("unknown")
    return format_html('<a href="?worker={}">{}</a>', job.worker_id, name)


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
