"""Jobs in the admin: the list, a job's page, and the three things a person may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import columns, deletion
from pgonly_django.admin.details import details
from pgonly_django.admin.filters import QueueFilter, StateFilter, TaskFilter
from pgonly_django.admin.formats import short_name
from pgonly_django.admin.operations import CANCEL, DISCARD, OPERATIONS, RETRY, Operation
from pgonly_django.admin.paging import BoundedChangeList, CappedPaginator
from pgonly_django.admin.requests import drop_impossible_keys
from pgonly_django.admin.search import HELP, search_jobs
from pgonly_django.models import Job, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.urls import URLPattern

    ModelAdmin = admin.ModelAdmin[Job]
else:
    ModelAdmin = admin.ModelAdmin

# What the list does not show and may be megabytes.
NOT_LISTED = ("args", "kwargs", "options", "result", "errors", "log")


class JobChangeList(BoundedChangeList):
    def get_queryset(
        self, request: HttpRequest, exclude_parameters: list[str | None] | None = None
    ) -> QuerySet[Job]:
        jobs: QuerySet[Job] = super().get_queryset(request, exclude_parameters).defer(*NOT_LISTED)
        return jobs.annotate(**columns.LAST_ERROR)


@admin.register(Job)
class JobAdmin(ModelAdmin):
    list_display = ("state_badge", "task_name", "queue", "progress_cell", "age", "attempts")
    list_display_links = ("state_badge", "task_name")
    list_filter = (("state", StateFilter), QueueFilter, TaskFilter)
    sortable_by = ()
    ordering = ("-pk",)  # ids are ordered by time: newest first without a sort
    search_fields = ("task",)
    search_help_text = HELP
    show_facets = ShowFacets.NEVER
    show_full_result_count = False
    list_per_page = 50
    paginator = CappedPaginator
    actions = ("retry_jobs", "cancel_jobs", "discard_jobs", deletion.delete_selected)
    fieldsets = ()

    class Media:
        css = {"all": ["pgonly_django/admin.css"]}
        js = ["pgonly_django/job.js"]

    # Who may do what.

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        running = obj is not None and obj.state == State.RUNNING
        return not running and super().has_delete_permission(request, obj)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("pgonly_django.operate_job")

    # The list.

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        drop_impossible_keys(request, self.opts.pk)
        return super().changelist_view(request, {"title": _("Jobs"), **(extra_context or {})})

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobChangeList]:
        return JobChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        return (search_jobs(queryset, search_term) if search_term.strip() else queryset), False

    @admin.display(description=gettext_lazy("state"))
    def state_badge(self, job: Job) -> str:
        return columns.state(job)

    @admin.display(description=gettext_lazy("task"))
    def task_name(self, job: Job) -> str:
        return columns.task(job)

    @admin.display(description=gettext_lazy("progress"))
    def progress_cell(self, job: Job) -> str:
        return columns.progress(job)

    @admin.display(description=gettext_lazy("age"))
    def age(self, job: Job) -> str:
        return columns.age(job)

    @admin.display(description=gettext_lazy("attempts"))
    def attempts(self, job: Job) -> str:
        return columns.attempts(job)

    # A job's page.

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Job | None = None,
    ) -> HttpResponse:
        assert obj is not None  # nothing is added by hand
        may_operate = self.has_operate_permission(request)
        context |= details(obj) | {
            "title": short_name(obj.task),
            "subtitle": None,
            "operations": [o for o in OPERATIONS.values() if may_operate and o.allows(obj)],
            "may_delete": self.has_delete_permission(request, obj),
            "state_badge": columns.state(obj),
        }
        return super().render_change_form(request, context, add, change, form_url, obj)

    # Retry, cancel, discard.

    @admin.action(permissions=["operate"], description=gettext_lazy("Retry selected jobs"))
    def retry_jobs(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._perform(request, RETRY, jobs)

    @admin.action(permissions=["operate"], description=gettext_lazy("Cancel selected jobs"))
    def cancel_jobs(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._perform(request, CANCEL, jobs)

    @admin.action(permissions=["operate"], description=gettext_lazy("Discard selected jobs"))
    def discard_jobs(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._perform(request, DISCARD, jobs)

    def get_urls(self) -> list[URLPattern]:
        operate = self.admin_site.admin_view(self.operate_view)
        route = path("<path:object_id>/operate/<str:verb>/", operate, name="pgonly_django_job_operate")
        return [route, *super().get_urls()]

    def operate_view(self, request: HttpRequest, object_id: str, verb: str) -> HttpResponse:
        """The buttons of a job's page, on every Django alike."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_operate_permission(request) and self.has_view_permission(request)):
            raise PermissionDenied
        job = self.get_object(request, unquote(object_id))
        if job is None or verb not in OPERATIONS:
            raise Http404
        self._perform(request, OPERATIONS[verb], self.get_queryset(request).filter(pk=job.pk))
        page = reverse("admin:pgonly_django_job_change", args=[job.pk], current_app=self.admin_site.name)
        return HttpResponseRedirect(page)

    def _perform(self, request: HttpRequest, operation: Operation, jobs: QuerySet[Job]) -> None:
        assert request.user.pk is not None
        text, level = columns.outcome(operation, operation.perform(jobs, request.user.pk))
        self.message_user(request, text, level)

    # Deleting.

    def get_deleted_objects(self, objs: Sequence[Job] | QuerySet[Job], request: HttpRequest) -> Any:
        return deletion.summary(objs, self.has_delete_permission(request))

    def delete_model(self, request: HttpRequest, obj: Job) -> None:
        if not deletion.delete_jobs(self.get_queryset(request).filter(pk=obj.pk)):
            raise PermissionDenied(_("It runs by now: cancel it first."))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        deletion.delete_jobs(queryset)
