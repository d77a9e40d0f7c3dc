from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin, messages
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from pgonly_django.admin.budgets import cells
from pgonly_django.admin.budgets.form import BudgetForm
from pgonly_django.admin.budgets.sums import sums_by
from pgonly_django.admin.budgets.verbs import RAISE, RESUME, START_OVER
from pgonly_django.admin.declared import RESET, DeclaredAdmin
from pgonly_django.admin.formats import money
from pgonly_django.admin.links import Links
from pgonly_django.admin.paging import TimedChangeList
from pgonly_django.exceptions import AmountError, BudgetError
from pgonly_django.models import Budget, CostEntry, Job
from pgonly_django.models.budget import HELD_BY
from pgonly_django.monitoring.limits import held_jobs

JOBS_SHOWN, COSTS_SHOWN = 20, 25


class BudgetChangeList(TimedChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        links = Links(request, self.model_admin.admin_site)
        self.result_list = with_held_jobs(list(self.result_list), links)


def with_held_jobs(budgets: list[Any], links: Links) -> list[Any]:
    """Each with `held_jobs`, how many it holds, and `held_url`, the list of these."""
    counts = held_jobs(budget.name for budget in budgets)
    for budget in budgets:
        budget.held_jobs, budget.held_url = counts[budget.name], cells.held_url(budget, links)
    return budgets


@admin.register(Budget)
class BudgetAdmin(DeclaredAdmin):
    form = BudgetForm
    list_display = (cells.state_badge, cells.name, cells.spent, cells.reserved, cells.held)
    list_display_links = (cells.state_badge, cells.name)
    verbs = (RAISE, RESUME, START_OVER, RESET)
    actions = tuple(verb.as_action(f"{verb.name}_budgets") for verb in verbs if verb is not RAISE)
    fieldsets = ((None, {"fields": ("name", "usd", "per", "timezone")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        rows: Any = super().get_queryset(request)
        with_spent: QuerySet[Budget] = rows.with_spent_now()
        return with_spent

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[BudgetChangeList]:
        return BudgetChangeList

    def operate_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        try:
            return super().operate_view(request, object_id, name)
        except (AmountError, BudgetError) as error:
            messages.error(request, str(error))
            page = reverse(
                f"admin:{self.url_name('change')}", args=[object_id], current_app=self.admin_site.name
            )
            return HttpResponseRedirect(page)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["timezones"] = sorted(available_timezones())
        return super().render_change_form(request, context, *args, **kwargs)

    def page_of(self, request: HttpRequest, budget: Any) -> dict[str, Any]:
        links = Links(request, self.admin_site)
        with_held_jobs([budget], links)
        jobs = Job.objects.using(router.db_for_read(Job)).held(f"{HELD_BY}{budget.name}")
        costs: Any = CostEntry.objects.using(router.db_for_read(CostEntry)).filter(budget=budget.name)
        return {
            "raises": RAISE,
            "state_badge": cells.state_badge(budget),
            "spent": cells.spent(budget),
            "reserved": money(budget.reserved),
            "period": cells.period(budget),
            "jobs": [(job, links.to_page(Job, job.pk)) for job in jobs.order_by("pk")[:JOBS_SHOWN]],
            "costs": [
                (entry, cells.task(entry), cells.cost(entry))
                for entry in cells.with_job_urls(costs.order_by("-at")[:COSTS_SHOWN], links)
            ],
            "sums": [sums_by(costs, "task")],
        }
