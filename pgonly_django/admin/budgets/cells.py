"""The cells of the lists of budgets and costs."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.links import Links
from pgonly_django.amounts import shown
from pgonly_django.models import Job, State
from pgonly_django.models.budget import HELD_BY

NEARLY_USED_UP = Decimal("0.9")


def _figure(amount: Decimal) -> Decimal:
    """Another program may have written NaN, which cannot be compared."""
    return amount if amount.is_finite() else Decimal(0)


@admin.display(description=gettext_lazy("state"))
def state_badge(budget: Any) -> SafeString:
    spent_now, cap = _figure(budget.spent_now), _figure(budget.usd)
    if spent_now >= cap:
        return formats.badge("failed", _("Used up"), _("Jobs that spend from it are held."))
    if spent_now + _figure(budget.reserved) >= cap * NEARLY_USED_UP:
        return formats.badge("held", _("Nearly used up"))
    return formats.badge("live", _("Open"))


@admin.display(description=gettext_lazy("name"))
def name(budget: Any) -> SafeString:
    """With its period below it, and where it comes from when that is not the code."""
    origin = SafeString("")
    if budget.declared is None:
        origin = formats.badge("made", _("By hand"), _("Made by a person."))
    elif budget.edited_at is not None:
        origin = formats.badge("edited", _("Edited"), formats.exact_time(budget.edited_at))
    html = '<span class="pgonly-name">{0}</span> {1}<span class="pgonly-second">{2}</span>'
    return format_html(html, budget.name, origin, period(budget))


def period(budget: Any) -> str:
    if not budget.per:
        return _("in all")
    return _("per %(period)s, %(zone)s") % {
        "period": budget.get_per_display().lower(),
        "zone": budget.timezone,
    }


@admin.display(description=gettext_lazy("spent of its cap"))
def spent(budget: Any) -> SafeString:
    bar = formats.progress_bar(float(_figure(budget.spent_now)), float(_figure(budget.usd)) or 1.0)
    text = _("%(spent)s of %(cap)s") % {"spent": shown(budget.spent_now), "cap": shown(budget.usd)}
    return format_html('{} <span class="pgonly-second">{}</span>', bar, text)


@admin.display(description=gettext_lazy("reserved"))
def reserved(budget: Any) -> str:
    return shown(budget.reserved) if budget.reserved else "-"


@admin.display(description=gettext_lazy("held jobs"))
def held(budget: Any) -> str:
    """How many jobs it holds, with a link to them."""
    count = budget.held_jobs
    if not count.number:
        return "-"
    return (
        format_html('<a href="{}">{}</a>', budget.held_url, count.label) if budget.held_url else count.label
    )


def held_url(budget: Any, links: Links) -> str:
    return links.to_list(Job, state__exact=State.HELD.value, held_by=f"{HELD_BY}{budget.name}")


@admin.display(description=gettext_lazy("at"), ordering="at")
def at(cost: Any) -> SafeString:
    return formats.time_tag(cost.at, formats.exact_time(cost.at))


@admin.display(description=gettext_lazy("cost"))
def cost(entry: Any) -> str:
    text = formats.money(entry.usd, entry.tokens_in, entry.tokens_out)
    if not entry.is_estimate:
        return text
    title = _("The reserved amount: the call never said what it cost.")
    return format_html("{} {}", text, formats.badge("held", _("Reserved"), title))


@admin.display(description=gettext_lazy("task"))
def task(entry: Any) -> str:
    """The short name, which leads to the job; below it the step."""
    short = formats.short_name(entry.task) if entry.task else "-"
    if entry.job_url:
        short = format_html('<a href="{}" title="{}">{}</a>', entry.job_url, entry.task, short)
    return format_html('{}<span class="pgonly-second">{}</span>', short, entry.step)


def with_job_urls(entries: Iterable[Any], links: Links) -> list[Any]:
    """Each with `job_url`, which task() needs."""
    found = list(entries)
    for entry in found:
        entry.job_url = links.to_page(Job, entry.job_id) if entry.job_id is not None else ""
    return found


@admin.display(description=gettext_lazy("budget"))
def budget_name(entry: Any) -> str:
    return entry.budget or "-"


@admin.display(description=gettext_lazy("queue"))
def queue(entry: Any) -> str:
    return entry.queue or "-"
