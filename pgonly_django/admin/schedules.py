"""Schedules in the admin: the list with the next ticks and the last runs, and the page of one with its ticks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.db import router
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links
from pgonly_django.admin.declared import RESET, DeclaredAdmin, TimeZoneForm, origin_badge, pause_and_resume
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.verbs import Verb
from pgonly_django.models import Job, Schedule, State, Tick
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.queue.enqueue import OF_SCHEDULE, aware
from pgonly_django.scheduling import calls
from pgonly_django.scheduling.calls import RunRefusedError, run_now
from pgonly_django.scheduling.declaration import Declaration
from pgonly_django.scheduling.due import timing_of
from pgonly_django.scheduling.settings import FORGOTTEN_AFTER
from pgonly_django.scheduling.timing import TimingError
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.masking import JobMask

TICKS_SHOWN, TICKS_AHEAD = 25, 5
ARGUMENTS = ("args", "kwargs", "metadata")
# What a filter in the address could tell letter by letter.
DATA_COLUMNS = (*ARGUMENTS, "declared", "problem")
# Where a problem is shown that has another name in code.
FIELDS = {"every": "every_seconds"}

_newest = Tick.objects.filter(schedule=OuterRef("pk"), job_id__isnull=False).order_by("-tick_at")
_newest_job = Job.objects.filter(pk=OuterRef("last_job_id"))
# What the list shows of each schedule beside its columns. `now` is the database's clock.
LAST_RUN = {
    "now": ClockTimestamp(),
    "last_job_id": Subquery(_newest.values("job_id")[:1]),
    "last_run_at": Subquery(_newest.values("at")[:1]),
    "last_state": Subquery(_newest_job.values("state")[:1]),
}
RUN = Verb(
    name="run",
    method=lambda _request, schedules: run_now(schedules),
    label=gettext_lazy("Run now"),
    hint=gettext_lazy("One job now, beside its ticks, also while it is paused."),
    logged=gettext_lazy("Run now."),
    refusals=(RunRefusedError,),
)
PAUSE, RESUME = pause_and_resume(
    gettext_lazy("No more ticks until it is resumed; also across deploys."),
    gettext_lazy("Ticks that passed during the pause do not run."),
)


def for_reader(schedule: Any, *, sees_data: bool) -> Any:
    """Adds `said`, the problem as this reader may see it: the text of an error may have values of the arguments in it,
    so a reader who may not see these is told its class."""
    schedule.said = problem = schedule.problem or ""
    if problem and not sees_data:
        kind = problem.partition(":")[0]
        known = kind if kind.isidentifier() else _("An error")
        schedule.said = _("%s. A person who may see the arguments of jobs sees why.") % known
    return schedule


def is_stale(schedule: Any) -> bool:
    """Returns whether no worker has declared it lately, though code or settings once did."""
    if schedule.declared is None:
        return False
    return schedule.declared_at is None or schedule.now - schedule.declared_at > FORGOTTEN_AFTER


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
    """Shows the name with the task below it, or with what is wrong; and its origin when that is not the code."""
    return formats.named(schedule.name, origin_badge(schedule), schedule.said or schedule.task)


@admin.display(description=gettext_lazy("when"))
def when(schedule: Any) -> str:
    return format_html("{}{}", words(schedule), formats.second(schedule.cron or ""))


def words(schedule: Schedule) -> str:
    try:
        return timing_of(schedule).words()
    except TimingError as error:
        return str(error)


@admin.display(description=gettext_lazy("positional arguments"))
def args(schedule: Any) -> SafeString:
    return formats.json_block(JobMask().args(schedule.task, schedule.args))


@admin.display(description=gettext_lazy("keyword arguments"))
def kwargs(schedule: Any) -> SafeString:
    return formats.json_block(JobMask().value(schedule.kwargs))


@admin.display(description=gettext_lazy("metadata"))
def metadata(schedule: Any) -> SafeString:
    return formats.json_block(JobMask().value(schedule.metadata or {}))


@admin.display(description=gettext_lazy("next tick"))
def next_tick(schedule: Any) -> str:
    if schedule.paused_at is not None or schedule.next_at is None:
        return "-"
    if not schedule.is_planned:
        return _("as soon as a worker looks")
    return formats.until(schedule.next_at, _("due for %s"), schedule.now)


@admin.display(description=gettext_lazy("last run"))
def last_run(schedule: Any) -> str:
    if schedule.last_run_at is None:
        return "-"
    since = formats.ago(schedule.last_run_at, schedule.now)
    return format_html("{} {}", job_badge(schedule.last_state), since)


def job_badge(state: str | None) -> SafeString:
    if state is None:
        return formats.badge("stopped", _("Pruned"), _("Its job is not kept any more."))
    return formats.badge(state, str(State(state).label))


def upcoming(schedule: Any) -> list[Any]:
    """Returns its next ticks, as aware times in its zone."""
    if schedule.paused_at is not None or not schedule.is_planned:
        return []
    try:
        timing = timing_of(schedule)
    except TimingError:
        return []
    ticks = [aware(schedule.next_at)]
    while len(ticks) < TICKS_AHEAD and (tick := timing.next_after(ticks[-1])) is not None:
        ticks.append(tick)
    return [in_zone_of(schedule, tick) for tick in ticks]


def in_zone_of(schedule: Any, tick: datetime) -> datetime:
    """Returns the same time in the zone of the cron line; the reader's for an interval."""
    here = timezone.get_current_timezone()
    try:
        zone = getattr(timing_of(schedule), "zone", here)
    except TimingError:
        zone = here
    return aware(tick).astimezone(zone)


class JsonOrEmpty(forms.JSONField):
    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


class ScheduleForm(TimeZoneForm):
    """A form that refuses what a worker could not enqueue."""

    class Meta:
        model = Schedule
        fields = (
            "name", "task", "args", "kwargs", "cron", "timezone", "every_seconds", "catch_up", "overlap", "queue",
            "priority", "budget", "metadata",
        )  # fmt: skip
        labels = {
            "args": gettext_lazy("Positional arguments"),
            "kwargs": gettext_lazy("Keyword arguments"),
            "cron": gettext_lazy("Cron line"),
            "timezone": gettext_lazy("Time zone"),
            "every_seconds": gettext_lazy("Interval in seconds"),
            "catch_up": gettext_lazy("Missed ticks"),
            "overlap": gettext_lazy("Overlapping runs"),
        }
        help_texts = {
            "args": gettext_lazy("A JSON list."),
            "kwargs": gettext_lazy("A JSON object."),
            "metadata": gettext_lazy("The metadata of its jobs: a JSON object. Empty: none."),
        }
        field_classes = {"metadata": JsonOrEmpty}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in {*ARGUMENTS} & self.fields.keys():
            field = self.fields[name]
            field.widget.attrs["rows"] = 2
            field.show_hidden_initial = False  # on for callable defaults: the row says what has changed

    def clean_args(self) -> Any:
        return [] if self.cleaned_data["args"] is None else self.cleaned_data["args"]

    def clean_kwargs(self) -> Any:
        return {} if self.cleaned_data["kwargs"] is None else self.cleaned_data["kwargs"]

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return values
        # Those that are stored, for a person who may not see them.
        call = {name: getattr(self.instance, name) for name in ARGUMENTS} | values
        given = {"name": self.instance.name, **call}
        given["every"] = given.pop("every_seconds")
        for name, problem in Declaration(**given).problems().items():
            field = FIELDS.get(name, name)
            self.add_error(field if field in self.fields else None, problem)
        if not self.errors:
            self._check_call(Schedule(**call))
        return values

    def _check_call(self, schedule: Schedule) -> None:
        """Adds an error unless enqueue() would take it: the task exists, its queue is allowed, and the arguments
        fit."""
        try:
            task = calls.task_of(schedule, Schedule.objects.db)
        except Exception as error:  # noqa: BLE001 - the task's module and its backend may raise anything
            self.add_error("task", str(error))
            return
        try:
            call_signature(task.func, task.takes_context).check(schedule.args, schedule.kwargs)
        except TypeError as error:
            self.add_error("args" if "args" in self.fields else None, str(error))


@admin.register(Schedule)
class ScheduleAdmin(DeclaredAdmin):
    form = ScheduleForm
    annotations = LAST_RUN
    list_display = (state_badge, name, when, next_tick, last_run)
    list_display_links = (state_badge, name)
    search_fields = ("name", "task")
    verbs = (RUN, PAUSE, RESUME, RESET)
    actions = tuple(verb.as_action("schedules") for verb in verbs)
    fieldsets = (
        (None, {"fields": ("name", "task", *ARGUMENTS)}),
        (
            gettext_lazy("When"),
            {
                "fields": ("cron", "timezone", "every_seconds", "catch_up", "overlap"),
                "description": gettext_lazy("Either a cron line or an interval."),
            },
        ),
        (gettext_lazy("Its jobs"), {"fields": ("queue", "priority", "budget")}),
    )

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        sees_data = may_see_data(request)
        for row in rows:
            for_reader(row, sees_data=sees_data)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Shows the arguments only to readers who may see those of its jobs, masked unless they may change them. A
        person who adds a schedule writes the arguments."""
        shown: tuple[Any, ...] = ARGUMENTS
        if obj is not None and not may_see_data(request):
            shown = ()
        elif obj is not None and not self.has_change_permission(request, obj):
            shown = (args, kwargs, metadata)
        (title, _call), *others = self.fieldsets
        return [(title, {"fields": ("name", "task", *shown)}), *others]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        allowed = may_see_data(request) or lookup.partition("__")[0] not in DATA_COLUMNS
        return allowed and super().lookup_allowed(lookup, value, request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allows it one by one. A declared one would come back with the next worker: pause it, or take it out of the
        code."""
        may_go = obj is not None and (obj.declared is None or is_stale(obj))
        return may_go and super().has_delete_permission(request, obj)

    def page_of(self, request: HttpRequest, schedule: Any) -> dict[str, Any]:
        for_reader(schedule, sees_data=may_see_data(request))
        links = self.links(request)
        return {
            "state_badge": state_badge(schedule),
            "words": words(schedule),
            "upcoming": upcoming(schedule),
            "ticks": self._ticks(schedule, links),
            "jobs_url": links.to_list(Job, enqueued_by=f"{OF_SCHEDULE}{schedule.name}"),
        }

    def _ticks(self, schedule: Schedule, links: Links) -> list[dict[str, Any]]:
        """Returns the newest ones, each with its job's state and page."""
        ticks = list(schedule.ticks.order_by("-tick_at")[:TICKS_SHOWN])
        jobs = Job.objects.using(router.db_for_read(Job, instance=schedule))
        found = jobs.only("task", "state", "attempted_at", "finished_at", "started_at").in_bulk(
            [tick.job_id for tick in ticks if tick.job_id]
        )
        shown = []
        for tick in ticks:
            job = found.get(tick.job_id) if tick.job_id else None
            url = links.to_row(job) if job else ""
            skipped = formats.badge(tick.outcome, tick.get_outcome_display())
            badge = job_badge(job.state if job else None) if tick.job_id else skipped
            task, at = formats.short_name(job.task) if job else "", in_zone_of(schedule, tick.tick_at)
            shown.append({"tick": tick, "at": at, "url": url, "task": task, "badge": badge})
        return shown
