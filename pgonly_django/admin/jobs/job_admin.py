"""Jobs in the admin: what the list and the pages offer, and to which person; how jobs are deleted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.base import delete_selected, stylesheets
from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs import cells
from pgonly_django.admin.jobs.answers import answer_view
from pgonly_django.admin.jobs.bulk import bulk_action, bulk_view, redrive_jobs
from pgonly_django.admin.jobs.calls import again_view, edit_view
from pgonly_django.admin.jobs.change_list import STATE_VAR, JobChangeList
from pgonly_django.admin.jobs.data import DATA_COLUMNS, may_see_data
from pgonly_django.admin.jobs.filters import FORM_FILTERS, JobStateFilter
from pgonly_django.admin.jobs.page import page_context
from pgonly_django.admin.jobs.silence import worker_of
from pgonly_django.admin.jobs.verbs import CANCEL, DISCARD, HOLD, RESUME, RETRY, RUN_NOW, buttons_of
from pgonly_django.admin.paging import COUNTED_AT_MOST, label_of
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.models import CostEntry, Job, State, Step
from pgonly_django.monitoring.situations import read_situation
from pgonly_django.queue.carried import SHOWN
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.editing import EDITABLE
from pgonly_django.tasks.registry import known_tasks

# What the search reads, as text.
SEARCHED = ("args", "kwargs", *SHOWN)
# What the form above the list sends, also where it is empty.
OF_THE_FORM = {SEARCH_VAR, *(n for each in FORM_FILTERS for n in (each.parameter_name, *each.bounds))}


@admin.register(Job)
class JobAdmin(VerbAdmin):
    list_display = (
        cells.state_badge, cells.task_name, cells.arguments, cells.time_cell, cells.enqueued, cells.queue,
        cells.attempts, *cells.OPTIONAL,
    )  # fmt: skip
    list_display_links = (cells.state_badge,)  # the name of the task is a separate link
    empty_value_display = ""
    list_filter = (("state", JobStateFilter), *FORM_FILTERS)
    sortable_by = ()  # JobChangeList knows more
    ordering = ("-pk",)  # ids are ordered by time: newest first without a sort
    search_fields = ("task",)  # shows the box; get_search_results does the search
    search_help_text = gettext_lazy(
        "An id, a part of the task's name or of the unique key, text in the arguments or the metadata (such as the id "
        "of a trace), or name=value for one argument or one entry of the metadata. "
        "A search that takes too long is narrowed to the newest rows, and this page says so."
    )
    list_per_page = 50
    verbs = (RESUME, RUN_NOW, RETRY, HOLD, CANCEL, DISCARD)
    actions = (*map(bulk_action, verbs), redrive_jobs, delete_selected)
    fieldsets = ()

    class Media:
        js = ["pgonly_django/traceback.js"]
        css = {"all": stylesheets("job_list", "job_filters", "job", "job_page")}

    def get_urls(self) -> list[URLPattern]:
        return [
            self.own_url("bulk", "bulk/<str:name>/", partial(bulk_view, self)),
            self.own_url("edit", "<path:object_id>/edit/", partial(edit_view, self)),
            self.own_url("again", "<path:object_id>/again/", partial(again_view, self)),
            self.own_url("answer", "<path:object_id>/answer/", partial(answer_view, self)),
            *super().get_urls(),
        ]

    def has_delete_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        running = obj is not None and obj.state == State.RUNNING
        return not running and super().has_delete_permission(request, obj)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobChangeList]:
        return JobChangeList

    def get_ordering(self, request: HttpRequest) -> Any:
        """Puts the job that failed last first where failed jobs are listed, as their index does."""
        is_failed = request.GET.get(STATE_VAR) == State.FAILED
        return ("-finished_at", "-pk") if is_failed else super().get_ordering(request)

    def get_list_display(self, request: HttpRequest) -> Any:
        sees_costs = self.links(request).may_view(CostEntry)
        sees: dict[Any, bool] = {cells.arguments: may_see_data(request), cells.cost: sees_costs}
        return [each for each in super().get_list_display(request) if sees.get(each, True)]

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Adds what the cells show, and `address`, from which the reader comes back to this list."""
        links, kept = self.links(request), self.get_preserved_filters(request)
        for job in rows:
            address = links.address(Job, "change", str(job.pk))
            job.address = f"{address}?{kept}" if kept else address
        cells.prepare(rows, links, sees_data=may_see_data(request))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Shows the list under a title that says which jobs it has. A filter that is empty, as the form sends it, is
        left out of the address."""
        given = {
            name: values for name, values in request.GET.lists() if any(values) or name not in OF_THE_FORM
        }
        if request.method == "GET" and len(given) < len(request.GET):
            return HttpResponseRedirect(f"{request.path}?{urlencode(given, doseq=True)}")
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if "cl" in context:
            context["title"] = context["cl"].heading
        return response

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Job], search_term: str) -> Any:
        if not search_term.strip():
            return queryset, False
        return search_jobs(queryset, search_term, in_data=may_see_data(request)), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        allowed = may_see_data(request) or lookup.partition("__")[0] not in DATA_COLUMNS
        return allowed and super().lookup_allowed(lookup, value, request)

    def page_of(self, request: HttpRequest, job: Any) -> dict[str, Any]:
        may_operate = self.has_operate_permission(request)
        links = self.links(request)
        job.situation = read_situation(job)
        job.worker_name, job.silent_for = worker_of(job)
        shown = page_context(job, links, sees_data=may_see_data(request))
        buttons = buttons_of(
            job,
            links,
            waits=bool(shown["waits"] and shown["waits"]["since"]),
            gathers=shown["gathers"],
            may_operate=may_operate,
            may_edit=may_operate and job.state in EDITABLE,
            may_delete=self.has_delete_permission(request, job),
        )
        return shown | {
            "title": short_name(job.task),
            "buttons": buttons,
            "state_badge": cells.state_badge(job),
        }

    def get_deleted_objects(self, objs: Sequence[Job] | QuerySet[Job], request: HttpRequest) -> Any:
        """Does not read all steps of all jobs. Jobs that run are not deleted."""
        steps = Step.objects.filter(job__in=[job.pk for job in objs]).order_by()[: COUNTED_AT_MOST + 1]
        counts = {_("jobs"): len(objs), _("steps"): label_of(steps.count())}
        missing = set() if self.has_delete_permission(request) else {_("job")}
        text = _("%(job)s, which runs: cancel it first")
        running = [text % {"job": job} for job in objs if job.state == State.RUNNING]
        return [str(job) for job in objs], counts, missing, running

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        if not delete_jobs(self.get_queryset(request).filter(pk=obj.pk)):
            raise PermissionDenied(_("It runs now: cancel it first."))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        delete_jobs(queryset)


def delete_jobs(jobs: QuerySet[Job]) -> int:
    """Deletes those of `jobs` that do not run, with their checkpoints and steps. Returns how many."""
    database = router.db_for_write(Job)
    with transaction.atomic(using=database):
        idle = jobs.using(database).exclude(state=State.RUNNING).select_for_update()
        ids = list(idle.order_by("pk").values_list("pk", flat=True))
        Job.objects.using(database).filter(pk__in=ids).delete()
    return len(ids)


def search_jobs(jobs: QuerySet[Job], term: str, *, in_data: bool) -> QuerySet[Job]:
    """Returns the job with the id `term`, the jobs with that argument or metadata, or those whose task, unique key,
    arguments or metadata contain it. Without `in_data` it searches id and task alone: by trying values, a search would
    reveal an argument letter by letter."""
    term = term.strip()
    with suppress(ValueError):  # what is an id may also be that of a trace, or stand in the arguments
        with_id = jobs.filter(pk=UUID(term))
        if not in_data or with_id.exists():
            return with_id
    if not in_data:
        return jobs.filter(task__icontains=term)
    name, equals, value = term.partition("=")
    if equals and name.isidentifier():
        return jobs.filter(_has(name, value))
    condition = Q(task__icontains=term) | Q(unique_key__icontains=term)
    # As typed, and as it stands inside a JSON string (quotes, backslashes, line ends).
    for text in {term, json.dumps(term, ensure_ascii=False)[1:-1]}:
        for column in SEARCHED:
            condition |= Q(**{f"{column}_text__icontains": text})
    texts = {f"{column}_text": Cast(column, TextField()) for column in SEARCHED}
    return jobs.alias(**texts).filter(condition)


def _has(name: str, value: str) -> Q:
    """Finds jobs whose argument or metadata `name` is `value`, as JSON or as a string without its quotes."""
    places, condition = _places(name), Q()
    for each in (value, _as_json(value)):
        for column in ("kwargs", *SHOWN):
            condition |= Q(**{f"{column}__contains": {name: each}})
        for place, paths in places.items():
            condition |= Q(**{f"args__{place}": each}, task__in=paths)
    return condition


def _places(name: str) -> dict[int, list[str]]:
    """Returns where the argument `name` stands in calls that pass it without its name, with the tasks that have it
    there."""
    paths: dict[int, list[str]] = defaultdict(list)
    for path, task in known_tasks().items():
        with suppress(ValueError):  # of a callable that has no signature
            places = call_signature(task.func, task.takes_context).places
            if name in places:
                paths[places[name]].append(path)
    return paths


def _as_json(value: str) -> Any:
    """Returns `value` read as JSON. What no job can hold (a NUL character, 1e400, thousands of levels) stays text."""
    try:
        read = json.loads(value, parse_constant=str)
        to_json(read, "The value")
    except (ValueError, RecursionError):
        return value
    return read
