"""The panels of schedules, limiters and budgets. Without rows there is no panel."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from pgonly_django.admin.budgets import cells as budget_cells
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.limiters import cells as limiter_cells
from pgonly_django.admin.overview.overview import Overview, alias_of
from pgonly_django.admin.schedules import cells as schedule_cells
from pgonly_django.models import Schedule
from pgonly_django.monitoring.limits import schedules


def schedules_panel(overview: Overview) -> dict[str, Any]:
    sees_data = may_see_data(overview.request)
    rows = [
        {
            "row": schedule_cells.for_reader(row, sees_data=sees_data),
            "url": overview.page_url(row),
            "badge": schedule_cells.state_badge(row),
            "words": schedule_cells.words(row),
            "next": schedule_cells.next_tick(row),
        }
        for row in schedules(alias_of(Schedule))
    ]
    return {"rows": rows} if rows else {}


def limiters_panel(overview: Overview) -> dict[str, Any]:
    rows = [
        {
            "row": row,
            "url": overview.page_url(row),
            "badge": limiter_cells.state_badge(row),
            "in_use": limiter_cells.in_use(row),
            "waiting": limiter_cells.waiting(row),
            "rates": [
                (label, cell(row))
                for label, limit, cell in (
                    (_("requests"), row.requests_per_minute, limiter_cells.requests),
                    (_("tokens"), row.tokens_per_minute, limiter_cells.tokens),
                )
                if limit is not None
            ],
            "buttons": overview.buttons(row, "end_cool_down"),
        }
        for row in overview.limiters
    ]
    return {"rows": rows} if rows else {}


def budgets_panel(overview: Overview) -> dict[str, Any]:
    rows = [
        {
            "row": row,
            "url": overview.page_url(row),
            "badge": budget_cells.state_badge(row),
            "period": budget_cells.period(row),
            "spent": budget_cells.spent(row),
            "reserved": budget_cells.reserved(row),
            "held": row.held_jobs.label if row.held_jobs.number else "-",
            "held_url": budget_cells.held_url(row, overview.links) if row.held_jobs.number else "",
            "buttons": overview.buttons(row, "resume") if row.held_jobs.number else [],
        }
        for row in overview.budgets
    ]
    return {"rows": rows} if rows else {}
