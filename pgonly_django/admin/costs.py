"""Costs in the admin: the cost of each call, and their sums."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links, ReadOnlyAdmin
from pgonly_django.admin.sums import Sums, start_of_today
from pgonly_django.models import CostEntry, Job

DAYS = (1, 7, 30, 90)


@admin.display(description=gettext_lazy("at"), ordering="at")
def at(entry: Any) -> SafeString:
    return formats.exact(entry.at)


@admin.display(description=gettext_lazy("cost"))
def cost(entry: Any) -> str:
    text = formats.money_above_tokens(entry.usd, entry.tokens_in, entry.tokens_out)
    if not entry.is_estimate:
        return text
    title = _("The amount that was reserved: the call never said what it cost.")
    return format_html("{} {}", text, formats.badge("held", _("Not reported"), title))


@admin.display(description=gettext_lazy("task"))
def task(entry: Any) -> str:
    short = formats.short_name(entry.task) if entry.task else "-"
    if entry.job_url:
        short = format_html('<a href="{}" title="{}">{}</a>', entry.job_url, entry.task, short)
    return format_html("{}{}", short, formats.second(entry.step))


def with_job_urls(entries: list[Any], links: Links) -> list[Any]:
    """Adds `job_url` to each, which task() needs."""
    for entry in entries:
        entry.job_url = links.to_page(Job, entry.job_id) if entry.job_id is not None else ""
    return entries


class DaysFilter(admin.SimpleListFilter):
    """Has no choice for all calls, which are kept for 90 days: without a choice the page has their sums."""

    title = gettext_lazy("time")
    parameter_name = "days"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(str(days), _label(days)) for days in DAYS]

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield from islice(super().choices(changelist), 1, None)

    def queryset(self, request: HttpRequest, queryset: QuerySet[CostEntry]) -> QuerySet[CostEntry]:
        days = _chosen(self.value())
        return queryset if days is None else queryset.filter(at__gte=_ago(days))


@admin.register(CostEntry)
class CostAdmin(ReadOnlyAdmin):
    list_display = (at, cost, task, "model", "queue", "budget")
    list_display_links = None
    list_filter = (DaysFilter,)
    search_fields = ("budget",)
    search_help_text = gettext_lazy("Search for the name of a budget, or for a job's id.")
    sortable_by = ()
    ordering = ("-at",)
    list_per_page = 100
    actions = None
    fields: ClassVar[Any] = (at, cost, task, "model", "queue", "budget", "reservation")
    readonly_fields = fields
    change_list_template = "admin/pgonly_django/costentry/change_list.html"

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        with_job_urls(rows, self.links(request))

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        found = super().get_object(request, object_id, from_field)
        return found and with_job_urls([found], self.links(request))[0]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[CostEntry], search_term: str
    ) -> Any:
        """Searches by a job's id, or by the whole name of a budget: each has its index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(job_id=UUID(term)), False
        except ValueError:
            return queryset.filter(budget=term), False

    def get_urls(self) -> list[URLPattern]:
        return [self.own_url("sums", "sums/", self.sums_view), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Shows the sums, where no calls are chosen."""
        if not request.GET:
            return self.sums_view(request)
        return super().changelist_view(request, extra_context)

    def sums_view(self, request: HttpRequest) -> HttpResponse:
        """Shows the sums of the running month, or of the last days, today included."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        days = _chosen(request.GET.get("days"))
        today = start_of_today()
        since = today.replace(day=1) if days is None else today - timedelta(days=days - 1)
        links = self.links(request)
        calls = partial(links.to_list, CostEntry, at__gte=since.isoformat())
        entries = self.get_queryset(request).filter(at__gte=since)
        sums = Sums(entries, calls, reads_all="all" in request.GET)
        choices = [("", _("This month"), days is None)]
        choices += [(f"days={choice}", _label(choice), choice == days) for choice in DAYS[1:]]
        context = {
            "choices": choices,
            "sums": sums,
            "figures": sums.chart(since.date(), today.date()),
            "tables": sums.tables("model", "task", "queue", "budget"),
            "address_of_all": links.address(CostEntry, "sums", all="1", days=str(days or "")),
            "calls_url": calls(),
        }
        return self.page(request, "costentry/sums.html", _("Costs"), **context)


def _chosen(value: str | None) -> int | None:
    return next((days for days in DAYS if str(days) == value), None)


def _label(days: int) -> str:
    return _("Last 24 hours") if days == 1 else _("Last %d days") % days


def _ago(days: int) -> datetime:
    return timezone.now() - timedelta(days=days)
