"""The cells of the job list."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.contrib import messages
from django.db.models import TextField
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Left
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pgonly_django.admin import formats
from pgonly_django.admin.details import progress_of
from pgonly_django.models import Job, State
from pgonly_django.models.job import seconds_between

if TYPE_CHECKING:
    from pgonly_django.admin.operations import Done, Operation

PAST_ERRORS = (State.SUCCEEDED, State.CANCELLED)
CAUSE_SHOWN = 200


def _last_error(key: str) -> Left:
    newest = KeyTransform(-1, "errors")
    return Left(KeyTextTransform(key, newest), CAUSE_SHOWN, output_field=TextField())


# Of the many attempts only what the list shows; read for the rows of one page, since no sort stands between.
LAST_ERROR = {
    f"last_{key}": _last_error(key) for key in ("exception", "message", "reason", "started_at", "finished_at")
}


def state(job: Job) -> SafeString:
    if job.state == State.RUNNING and job.cancel_requested_at is not None:
        return formats.badge("cancelling", _("Cancelling"), _("It was asked to stop."))
    return formats.badge(job.state, job.get_state_display())


def task(job: Job) -> SafeString:
    """The short name; below it why the last attempt ended, unless the job is past that."""
    name = format_html(
        '<span class="pgonly-name" title="{} {}">{}</span>', job.task, job.pk, formats.short_name(job.task)
    )
    return name if job.state in PAST_ERRORS else name + _cause(job)


def _cause(job: Job) -> SafeString:
    exception, text = job.last_exception or "", job.last_message or job.last_reason or ""  # type: ignore[attr-defined] # LAST_ERROR
    cause = ": ".join(filter(None, (formats.short_name(exception), text)))
    return format_html('<span class="pgonly-second" title="{0}">{0}</span>', cause) if cause else SafeString()


def progress(job: Job) -> str:
    """The bar while there is one to show; otherwise the one time that matters in this state."""
    said = progress_of(job)
    if said is None or job.state == State.SUCCEEDED:
        return _time_that_matters(job)
    if said["total"] is None:
        return format_html("{} {}", said["figures"], said["message"])
    bar = formats.progress_bar(said["done"], said["total"])
    return format_html(
        '{} <span class="pgonly-second" title="{}">{}</span>', bar, said["message"], said["figures"]
    )


def _time_that_matters(job: Job) -> str:
    if job.state == State.SCHEDULED and job.run_at is not None:
        wait = job.run_at - timezone.now()
        return formats.time_tag(job.run_at, _("in %s") % formats.short_duration(wait))
    if job.attempted_at is None:
        return ""
    if job.state == State.RUNNING:
        return formats.time_tag(job.attempted_at, _("for %s") % formats.age(job.attempted_at))
    seconds = _run_seconds(job)
    if job.finished_at is None or seconds is None:
        return ""
    took = formats.short_duration(timedelta(seconds=seconds))
    return formats.time_tag(job.finished_at, _("took %s") % took)


def _run_seconds(job: Job) -> float | None:
    """Of the latest run; None where the last entry is a person's verb, which may come much later."""
    if job.state == State.SUCCEEDED:
        return job.run_seconds
    return seconds_between(job.last_started_at, job.last_finished_at)  # type: ignore[attr-defined] # LAST_ERROR


def age(job: Job) -> SafeString:
    return formats.time_tag(job.enqueued_at, formats.age(job.enqueued_at))


def attempts(job: Job) -> SafeString:
    """ "2/4", and what interrupted or crashed it when anything did."""
    others = [
        *_times(job.interruptions, ngettext("%d interruption", "%d interruptions", job.interruptions)),
        *_times(job.crashes, ngettext("%d crash", "%d crashes", job.crashes)),
    ]
    lines = format_html_join("", '<span class="pgonly-second">{}</span>', ((other,) for other in others))
    return format_html("{}/{}{}", job.attempt, job.max_attempts, lines)


def _times(count: int, label: str) -> list[str]:
    return [label % count] if count else []


def outcome(operation: Operation, done: Done) -> tuple[str, int]:
    """What to tell the person who did it, and how loud."""
    label = str(operation.label)
    said = []
    if done.moved:
        text = ngettext("%(label)s: %(count)s job.", "%(label)s: %(count)s jobs.", done.moved)
        said.append(text % {"label": label, "count": f"{done.moved:,}"})
    if done.asked:
        text = ngettext("%s job was asked to stop.", "%s jobs were asked to stop.", done.asked)
        said.append(text % f"{done.asked:,}")
    if not said:
        return _("%s: nothing to do; no such job is in a state that allows it.") % label, messages.WARNING
    if done.more:
        said.append(_("There are more; do it again for the next ones."))
    return " ".join(said), messages.WARNING if done.more else messages.SUCCESS
