"""The cells of the list of schedules."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Subquery
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.declared import origin_badge
from pgonly_django.models import Job, Schedule, State, Tick
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.queue.enqueue import aware
from pgonly_django.scheduling.due import timing_of
from pgonly_django.scheduling.settings import STALE_AFTER
from pgonly_django.scheduling.timing import TimingError
from pgonly_django.tasks.masking import JobMask
from pgonly_django.wording import duration

_newest = Tick.objects.filter(schedule=OuterRef("pk"), job_id__isnull=False).order_by("-tick_at")
_newest_job = Job.objects.filter(pk=OuterRef("last_job_id"))
# What the list shows of each schedule beside its columns. `now` is the database's clock.
LAST_RUN = {
    "now": ClockTimestamp(),
    "last_job_id": Subquery(_newest.values("job_id")[:1]),
    "last_run_at": Subquery(_newest.values("at")[:1]),
    "last_state": Subquery(_newest_job.values("state")[:1]),
}


def for_reader(schedule: Any, *, sees_data: bool) -> Any:
    """With `said`, which is its problem as this reader may see it: the text of an error may have values of the
    arguments in it, so who may not see these is told its class."""
    schedule.said = problem = schedule.problem or ""
    if problem and not sees_data:
        kind = problem.partition(":")[0]
        known = kind if kind.isidentifier() else _("An error")
        schedule.said = _("%s. Somebody who may see the arguments of jobs sees why.") % known
    return schedule


def is_stale(schedule: Any) -> bool:
    """Whether no worker has declared it lately, though code or settings once did."""
    if schedule.declared is None:
        return False
    return schedule.declared_at is None or schedule.now - schedule.declared_at > STALE_AFTER


@admin.display(description=gettext_lazy("state"))
def state_badge(schedule: Any) -> SafeString:
    if schedule.paused_at is not None:
        return formats.badge("paused", _("Paused"), formats.exact_time(schedule.paused_at))
    if schedule.said:
        return formats.badge("failed", _("Problem"), schedule.said)
    if is_stale(schedule) and schedule.edited_at is None:
        return formats.badge("stopped", _("Not in the code"), _("No worker declares it any more."))
    return formats.badge("live", _("Active"))


@admin.display(description=gettext_lazy("name"))
def name(schedule: Any) -> SafeString:
    """With the task below it, or with what is wrong; and where it comes from when that is not the code."""
    second = schedule.said or schedule.task
    html = '<span class="pgonly-name">{0}</span> {1}<span class="pgonly-second" title="{2}">{2}</span>'
    return format_html(html, schedule.name, origin_badge(schedule), second)


@admin.display(description=gettext_lazy("when"))
def when(schedule: Any) -> str:
    line = schedule.cron or ""
    return format_html('{}<span class="pgonly-second">{}</span>', words(schedule), line)


def words(schedule: Schedule) -> str:
    try:
        return timing_of(schedule).words()
    except TimingError as error:
        return str(error)


@admin.display(description=gettext_lazy("positional arguments"))
def args(schedule: Any) -> SafeString:
    return _code(JobMask().args(schedule.task, schedule.args))


@admin.display(description=gettext_lazy("keyword arguments"))
def kwargs(schedule: Any) -> SafeString:
    return _code(JobMask().value(schedule.kwargs))


@admin.display(description=gettext_lazy("metadata"))
def metadata(schedule: Any) -> SafeString:
    return _code(JobMask().value(schedule.metadata or {}))


def _code(value: Any) -> SafeString:
    return format_html('<pre class="pgonly-code">{}</pre>', formats.pretty_json(value))


@admin.display(description=gettext_lazy("next tick"))
def next_tick(schedule: Any) -> str:
    if schedule.paused_at is not None or schedule.next_at is None:
        return "-"
    if not schedule.is_planned:
        return _("as soon as a worker looks")
    wait = schedule.next_at - schedule.now
    text = (_("due for %s") if wait < timedelta(0) else _("in %s")) % duration(abs(wait))
    return formats.time_tag(schedule.next_at, text)


@admin.display(description=gettext_lazy("last run"))
def last_run(schedule: Any) -> str:
    if schedule.last_run_at is None:
        return "-"
    age = _("%s ago") % duration(schedule.now - schedule.last_run_at)
    return format_html("{} {}", job_badge(schedule.last_state), formats.time_tag(schedule.last_run_at, age))


def job_badge(state: str | None) -> SafeString:
    if state is None:
        return formats.badge("stopped", _("Pruned"), _("Its job is not kept any more."))
    return formats.badge(state, str(State(state).label))


def upcoming(schedule: Any, count: int = 5) -> list[Any]:
    """Its next ticks, as aware times in its zone."""
    if schedule.paused_at is not None or not schedule.is_planned:
        return []
    try:
        timing = timing_of(schedule)
    except TimingError:
        return []
    ticks = [aware(schedule.next_at)]
    while len(ticks) < count and (tick := timing.next_after(ticks[-1])) is not None:
        ticks.append(tick)
    zone = getattr(timing, "zone", timezone.get_current_timezone())
    return [tick.astimezone(zone) for tick in ticks]
