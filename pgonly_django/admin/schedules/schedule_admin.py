from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.declared import RESET, DeclaredAdmin
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.links import Links
from pgonly_django.admin.paging import TimedChangeList
from pgonly_django.admin.schedules import cells
from pgonly_django.admin.schedules.form import ScheduleForm
from pgonly_django.admin.schedules.verbs import PAUSE, RESUME, RUN
from pgonly_django.models import Job, Schedule

TICKS_SHOWN = 25
ARGUMENTS = ("args", "kwargs", "metadata")
# What a filter in the address could tell letter by letter.
DATA_COLUMNS = (*ARGUMENTS, "declared", "problem")


class ScheduleChangeList(TimedChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        sees_data = may_see_data(request)
        self.result_list = [cells.for_reader(row, sees_data=sees_data) for row in self.result_list]


@admin.register(Schedule)
class ScheduleAdmin(DeclaredAdmin):
    form = ScheduleForm
    list_display = (cells.state_badge, cells.name, cells.when, cells.next_tick, cells.last_run)
    list_display_links = (cells.state_badge, cells.name)
    search_fields = ("name", "task")
    verbs = (RUN, PAUSE, RESUME, RESET)
    actions = tuple(verb.as_action(f"{verb.name}_schedules") for verb in verbs)
    fieldsets = (
        (None, {"fields": ("name", "task", *ARGUMENTS)}),
        (
            _("When"),
            {
                "fields": ("cron", "timezone", "every_seconds", "catch_up", "overlap"),
                "description": _("Either a cron line or an interval."),
            },
        ),
        (_("Its jobs"), {"fields": ("queue", "priority", "budget")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Schedule]:
        rows: QuerySet[Schedule] = super().get_queryset(request)
        return rows.annotate(**cells.LAST_RUN)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ScheduleChangeList]:
        return ScheduleChangeList

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """The arguments of a schedule are those of its jobs: only who may see these sees them, masked unless he may
        change them. Who adds a schedule writes his own."""
        shown: tuple[Any, ...] = ARGUMENTS
        if obj is not None and not may_see_data(request):
            shown = ()
        elif obj is not None and not self.has_change_permission(request, obj):
            shown = (cells.args, cells.kwargs, cells.metadata)
        (title, _call), *others = self.fieldsets
        return [(title, {"fields": ("name", "task", *shown)}), *others]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        allowed = may_see_data(request) or lookup.partition("__")[0] not in DATA_COLUMNS
        return allowed and super().lookup_allowed(lookup, value, request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One by one. A declared one would come back with the next worker: pause it, or take it out of the code."""
        may_go = obj is not None and (obj.declared is None or cells.is_stale(obj))
        return may_go and super().has_delete_permission(request, obj)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["timezones"] = sorted(available_timezones())
        return super().render_change_form(request, context, *args, **kwargs)

    def page_of(self, request: HttpRequest, schedule: Any) -> dict[str, Any]:
        cells.for_reader(schedule, sees_data=may_see_data(request))
        return {
            "state_badge": cells.state_badge(schedule),
            "words": cells.words(schedule),
            "upcoming": cells.upcoming(schedule),
            "ticks": self._ticks(schedule, Links(request, self.admin_site)),
        }

    def _ticks(self, schedule: Schedule, links: Links) -> list[dict[str, Any]]:
        """The newest ones, each with its job's state and page."""
        ticks = list(schedule.ticks.order_by("-tick_at")[:TICKS_SHOWN])
        database = router.db_for_read(Job, instance=schedule)
        jobs = Job.objects.using(database).only("state", "attempted_at", "finished_at", "started_at")
        found = jobs.in_bulk([tick.job_id for tick in ticks if tick.job_id])
        shown = []
        for tick in ticks:
            job = found.get(tick.job_id) if tick.job_id else None
            url = links.to_page(Job, job.pk) if job else ""
            badge = cells.job_badge(job.state if job else None) if tick.job_id else None
            shown.append({"tick": tick, "url": url, "badge": badge})
        return shown
