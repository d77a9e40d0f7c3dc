from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from pgonly_django.admin.base import delete_selected, stylesheets
from pgonly_django.admin.formats import short_name
from pgonly_django.admin.jobs import cells, deletion
from pgonly_django.admin.jobs.bulk import bulk_action, bulk_view
from pgonly_django.admin.jobs.calls import again_view, edit_view
from pgonly_django.admin.jobs.change_list import JobChangeList
from pgonly_django.admin.jobs.data import is_of_data, may_see_data
from pgonly_django.admin.jobs.filters import (
    ErrorFilter,
    LateFilter,
    QueueFilter,
    StateFilter,
    StuckFilter,
    TaskFilter,
    WorkerFilter,
)
from pgonly_django.admin.jobs.page import page_context
from pgonly_django.admin.jobs.redrive import redrive_jobs
from pgonly_django.admin.jobs.search import HELP, search_jobs
from pgonly_django.admin.jobs.times import TimeFilter
from pgonly_django.admin.jobs.verbs import CANCEL, DISCARD, HOLD, RESUME, RETRY, RUN_NOW
from pgonly_django.admin.links import Links
from pgonly_django.admin.verbs import VerbAdmin
from pgonly_django.models import Job, State
from pgonly_django.tasks.editing import EDITABLE

# What the form above the list sends, also where it is empty.
OF_THE_FORM = {SEARCH_VAR, "queue", "task", "error", "worker", "time", "from", "until", "late", "stuck"}


@admin.register(Job)
class JobAdmin(VerbAdmin):
    list_display = (
        cells.state_badge, cells.task_name, cells.arguments, cells.progress_cell, cells.time_cell, "queue",
        cells.attempts, cells.worker,
    )  # fmt: skip
    list_display_links = (cells.state_badge,)  # the name of the task is a link of its own
    empty_value_display = ""
    list_filter = (
        ("state", StateFilter), QueueFilter, TaskFilter, ErrorFilter, WorkerFilter, TimeFilter, LateFilter,
        StuckFilter,
    )  # fmt: skip
    sortable_by = ()
    ordering = ("-pk",)  # ids are ordered by time: newest first without a sort
    search_fields = ("task",)  # shows the box; get_search_results does the search
    search_help_text = HELP
    list_per_page = 50
    verbs = (RESUME, RUN_NOW, RETRY, HOLD, CANCEL, DISCARD)
    actions = (*map(bulk_action, verbs), redrive_jobs, delete_selected)
    fieldsets = ()

    class Media:
        js = ["pgonly_django/traceback.js"]
        css = {"all": stylesheets("job_list", "job_filters", "job", "job_page")}

    def get_urls(self) -> list[URLPattern]:
        bulk = self.admin_site.admin_view(partial(bulk_view, self))
        return [
            path("bulk/<str:name>/", bulk, name=self.url_name("bulk")),
            self._page("edit", edit_view),
            self._page("again", again_view),
            *super().get_urls(),
        ]

    def _page(self, name: str, view: Callable[..., HttpResponse]) -> URLPattern:
        page = self.admin_site.admin_view(partial(view, self))
        return path(f"<path:object_id>/{name}/", page, name=self.url_name(name))

    def has_delete_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        running = obj is not None and obj.state == State.RUNNING
        return not running and super().has_delete_permission(request, obj)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobChangeList]:
        return JobChangeList

    def get_list_display(self, request: HttpRequest) -> Any:
        columns = super().get_list_display(request)
        return columns if may_see_data(request) else [each for each in columns if each is not cells.arguments]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Under a title that says which jobs it lists. A filter that is empty, as the form sends it, is left out of the
        address."""
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
        allowed = may_see_data(request) or not is_of_data(lookup)
        return allowed and super().lookup_allowed(lookup, value, request)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        job = kwargs["obj"]  # never None: nothing is added by hand
        links = Links(request, self.admin_site)
        context |= page_context(job, links, sees_data=may_see_data(request)) | {
            "title": short_name(job.task),
            "subtitle": None,
            "verbs": self.verbs_for(request, job),
            "may_delete": self.has_delete_permission(request, job),
            "may_operate": self.has_operate_permission(request),
            "may_edit": self.has_operate_permission(request) and job.state in EDITABLE,
            "state_badge": cells.state_badge(job),
        }
        return super().render_change_form(request, context, *args, **kwargs)

    def get_deleted_objects(self, objs: Sequence[Job] | QuerySet[Job], request: HttpRequest) -> Any:
        return deletion.summary(objs, self.has_delete_permission(request))

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        if not deletion.delete_jobs(self.get_queryset(request).filter(pk=obj.pk)):
            raise PermissionDenied(_("It runs by now: cancel it first."))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        deletion.delete_jobs(queryset)
