from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin.base import ReadOnlyAdmin
from pgonly_django.admin.budgets import cells
from pgonly_django.admin.budgets.sums import sums_by
from pgonly_django.admin.links import Links
from pgonly_django.admin.paging import TimedChangeList
from pgonly_django.models import CostEntry

DAYS = (1, 7, 30, 90)


class DaysFilter(admin.SimpleListFilter):
    title = gettext_lazy("time")
    parameter_name = "days"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(str(days), _days(days)) for days in DAYS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[CostEntry]) -> QuerySet[CostEntry]:
        days = _chosen(self.value())
        return queryset if days is None else queryset.filter(at__gte=_ago(days))


class CostChangeList(TimedChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        links = Links(request, self.model_admin.admin_site)
        self.result_list = cells.with_job_urls(self.result_list, links)


@admin.register(CostEntry)
class CostAdmin(ReadOnlyAdmin):
    list_display = (cells.at, cells.cost, cells.task, cells.queue, cells.budget_name)
    list_display_links = None
    list_filter = (DaysFilter,)
    search_fields = ("budget",)
    search_help_text = gettext_lazy("The name of a budget, or a job's id.")
    sortable_by = ()
    ordering = ("-at",)
    list_per_page = 100
    actions = None
    change_list_template = "admin/pgonly_django/costentry/change_list.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[CostChangeList]:
        return CostChangeList

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[CostEntry], search_term: str
    ) -> Any:
        """By a job's id, or by the whole name of a budget: each has its index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(job_id=UUID(term)), False
        except ValueError:
            return queryset.filter(budget=term), False

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.sums_view)
        return [path("sums/", view, name=self.url_name("sums")), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"sums_url": self._sums_url, **(extra_context or {})})

    def sums_view(self, request: HttpRequest) -> HttpResponse:
        """What was spent in the last days: per task, queue and budget."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        days = _chosen(request.GET.get("days")) or DAYS[1]
        entries = self.get_queryset(request).filter(at__gte=_ago(days))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Sums of costs"),
            "opts": self.opts,
            "sums_url": self._sums_url,
            "choices": [(choice, _days(choice), choice == days) for choice in DAYS],
            "sums": [sums_by(entries, column) for column in ("task", "queue", "budget")],
        }
        return TemplateResponse(request, "admin/pgonly_django/costentry/sums.html", context)

    @property
    def _sums_url(self) -> str:
        return f"admin:{self.url_name('sums')}"


def _chosen(value: str | None) -> int | None:
    return next((days for days in DAYS if str(days) == value), None)


def _days(days: int) -> str:
    return _("the last 24 hours") if days == 1 else _("the last %d days") % days


def _ago(days: int) -> Any:
    return timezone.now() - timedelta(days=days)
