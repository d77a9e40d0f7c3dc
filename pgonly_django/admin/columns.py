"""The cells of the job list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pgonly_django.admin import formats
from pgonly_django.admin.details import progress_of
from pgonly_django.models import Job, State

if TYPE_CHECKING:
    from django.utils.safestring import SafeString

    from pgonly_django.admin.operations import Operation


def state(job: Job) -> SafeString:
    if job.state == State.RUNNING and job.cancel_requested_at is not None:
        return formats.badge("cancelling", _("Cancelling"), _("It was asked to stop."))
    return formats.badge(job.state, job.get_state_display())


def progress(job: Job) -> str:
    """The bar while there is one to show; otherwise the one time that matters in this state."""
    said = progress_of(job)
    if said is None or job.state == State.SUCCEEDED:
        return _time_that_matters(job)
    if said["total"] is None:
        return format_html("{} {}", "" if said["done"] is None else said["done"], said["message"])
    bar = formats.progress_bar(said["done"], said["total"])
    figures = f"{said['done']:,} / {said['total']:,}"
    return format_html('{} <span class="pgonly-quiet" title="{}">{}</span>', bar, said["message"], figures)


def _time_that_matters(job: Job) -> str:
    if job.state == State.SCHEDULED and job.run_at is not None:
        wait = job.run_at - timezone.now()
        return formats.time_tag(job.run_at, _("in %s") % formats.short_duration(wait))
    if job.attempted_at is None:
        return ""
    if job.state == State.RUNNING:
        return formats.time_tag(job.attempted_at, _("for %s") % formats.age(job.attempted_at))
    if job.finished_at is not None:
        took = formats.short_duration(job.finished_at - job.attempted_at)
        return formats.time_tag(job.finished_at, _("took %s") % took)
    return ""


def age(job: Job) -> SafeString:
    return formats.time_tag(job.enqueued_at, formats.age(job.enqueued_at))


def attempts(job: Job) -> SafeString:
    """ "2/4", and what interrupted or crashed it when anything did."""
    others = [
        *_times(job.interruptions, ngettext("%d interruption", "%d interruptions", job.interruptions)),
        *_times(job.crashes, ngettext("%d crash", "%d crashes", job.crashes)),
    ]
    figures = f"{job.attempt}/{job.max_attempts}"
    return format_html('{} <span class="pgonly-quiet">{}</span>', figures, ", ".join(others))


def _times(count: int, label: str) -> list[str]:
    return [label % count] if count else []


def outcome(operation: Operation, count: int, more: bool) -> tuple[str, int]:
    """What to tell the person who did it, and how loud."""
    label = str(operation.label)
    if not count:
        return _("%s: nothing to do; no such job is in a state that allows it.") % label, messages.WARNING
    text = ngettext("%(label)s: %(count)d job.", "%(label)s: %(count)d jobs.", count)
    text %= {"label": label, "count": count}
    if more:
        return f"{text} {_('There are more; do it again for the next ones.')}", messages.WARNING
    return text, messages.SUCCESS
