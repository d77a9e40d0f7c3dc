"""Budgets in the admin: the list with what is spent of each cap and what it holds, and the page of one."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links
from pgonly_django.admin.costs import cost, task, with_job_urls
from pgonly_django.admin.declared import RESET, DeclaredAdmin, TimeZoneForm, origin_badge
from pgonly_django.admin.sums import Sums
from pgonly_django.admin.verbs import Verb
from pgonly_django.exceptions import AmountError, BudgetError
from pgonly_django.limits import budget_settings
from pgonly_django.models import Budget, CostEntry, Job, State
from pgonly_django.models.budget import HELD_BY
from pgonly_django.monitoring.limits import held_jobs

JOBS_SHOWN, COSTS_SHOWN = 20, 25
NEARLY_USED_UP = Decimal("0.9")


def _raise_and_resume(request: HttpRequest, budgets: Any) -> int:
    """Raises AmountError and BudgetError."""
    return _told(request, budgets.raise_cap(request.POST.get("usd", "")), budgets.count())


def _told(request: HttpRequest, jobs: int, budgets: int) -> int:
    text = ngettext("%s held job continues.", "%s held jobs continue.", jobs)
    messages.info(request, text % f"{jobs:,}")
    return budgets


RAISE = Verb(
    name="raise",
    method=_raise_and_resume,
    label=gettext_lazy("Raise and resume"),
    hint=gettext_lazy("Set a higher cap, and let all jobs that it holds continue from their checkpoints."),
    logged=gettext_lazy("Raised; the jobs that it held continue."),
    refusals=(AmountError, BudgetError),
)
RESUME = Verb(
    name="resume",
    method=lambda request, budgets: _told(request, budgets.resume(), budgets.count()),
    label=gettext_lazy("Resume"),
    hint=gettext_lazy("Let the jobs that it holds continue. Jobs for which nothing is left are held again."),
    logged=gettext_lazy("The jobs that it held continue."),
)
START_OVER = Verb(
    name="start_over",
    label=gettext_lazy("Start over"),
    hint=gettext_lazy("Set what is spent to zero. The costs are kept."),
    logged=gettext_lazy("Counts from zero again."),
)


@admin.display(description=gettext_lazy("state"))
def state_badge(budget: Any) -> SafeString:
    if budget.spent_now >= budget.usd:
        return formats.badge("failed", _("Used up"), _("Jobs that spend from it are held."))
    if budget.spent_now + budget.reserved >= budget.usd * NEARLY_USED_UP:
        return formats.badge("held", _("Nearly used up"))
    return formats.badge("live", _("Open"))


@admin.display(description=gettext_lazy("name"))
def name(budget: Any) -> SafeString:
    return formats.named(budget.name, origin_badge(budget), period(budget))


def period(budget: Any) -> str:
    if not budget.per:
        return _("for all time")
    facts = {"period": budget.get_per_display().lower(), "zone": budget.timezone}
    return _("per %(period)s, %(zone)s") % facts


@admin.display(description=gettext_lazy("spent of its cap"))
def spent(budget: Any) -> SafeString:
    bar = formats.progress_bar(float(budget.spent_now), float(budget.usd) or 1.0)
    amounts = {"spent": formats.money(budget.spent_now), "cap": formats.money(budget.usd)}
    return format_html("{} {}", bar, formats.second(format_html(_("{spent} of {cap}"), **amounts)))


@admin.display(description=gettext_lazy("reserved"))
def reserved(budget: Any) -> str:
    return formats.money(budget.reserved) if budget.reserved else "-"


@admin.display(description=gettext_lazy("held jobs"))
def held(budget: Any) -> str:
    count = budget.held_jobs
    if not count.number:
        return "-"
    link = '<a href="{}">{}</a>'
    return format_html(link, budget.held_url, count.label) if budget.held_url else count.label


def held_url(budget: Any, links: Links) -> str:
    return links.to_list(Job, state__exact=State.HELD.value, held_by=f"{HELD_BY}{budget.name}")


class BudgetForm(TimeZoneForm):
    """Refuses what no budget can have."""

    class Meta:
        model = Budget
        fields = ("name", "usd", "per", "timezone")
        labels = {"timezone": gettext_lazy("Time zone")}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["usd"] = Decimal(
                f"{self.instance.usd.normalize():f}"
            )  # without the zeros at its end

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        with budget_settings.errors_as(ValidationError):
            budget_settings.check_name(name)
        return name

    def clean_per(self) -> str | None:
        return self.cleaned_data["per"] or None

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            given = {name: values.get(name) for name in budget_settings.KEYS}
            with budget_settings.errors_as(ValidationError):
                budget_settings.validated(given, "The budget")
        return values


@admin.register(Budget)
class BudgetAdmin(DeclaredAdmin):
    form = BudgetForm
    list_display = (state_badge, name, spent, reserved, held)
    list_display_links = (state_badge, name)
    verbs = (RAISE, RESUME, START_OVER, RESET)
    actions = tuple(verb.as_action("budgets") for verb in verbs if verb is not RAISE)
    fieldsets = ((None, {"fields": ("name", "usd", "per", "timezone")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Budget]:
        rows: Any = super().get_queryset(request)
        with_spent: QuerySet[Budget] = rows.with_spent_now()
        return with_spent

    def prepare_rows(self, request: HttpRequest, rows: list[Any]) -> None:
        """Adds `held_jobs`, the number of jobs that it holds, and `held_url`, the list of these."""
        links = self.links(request)
        counts = held_jobs(budget.name for budget in rows)
        for budget in rows:
            budget.held_jobs, budget.held_url = counts[budget.name], held_url(budget, links)

    def page_of(self, request: HttpRequest, budget: Any) -> dict[str, Any]:
        self.prepare_rows(request, [budget])
        links = self.links(request)
        jobs = Job.objects.using(router.db_for_read(Job)).held(f"{HELD_BY}{budget.name}")
        costs: Any = CostEntry.objects.using(router.db_for_read(CostEntry)).filter(budget=budget.name)
        calls = partial(links.to_list, CostEntry, budget=budget.name)
        sums = Sums(costs, calls, by_budget=False)
        newest = with_job_urls(list(costs.order_by("-at")[:COSTS_SHOWN]), links)
        return {
            "state_badge": state_badge(budget),
            "spent": spent(budget),
            "reserved": formats.money(budget.reserved),
            "period": period(budget),
            "jobs": [
                (job, formats.short_name(job.task), links.to_row(job))
                for job in jobs.order_by("pk")[:JOBS_SHOWN]
            ],
            "costs": [(entry, task(entry), cost(entry)) for entry in newest],
            "sums": sums,
            "tables": sums.tables("model", "task"),
        }
