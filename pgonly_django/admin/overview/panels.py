"""The panels of the overview, in the order of the page. A new one is a Panel and a template."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from pgonly_django.admin.overview.alerts import alerts
from pgonly_django.admin.overview.jobs import states_panel, throughput_panel, times_panel
from pgonly_django.admin.overview.limits import budgets_panel, limiters_panel, schedules_panel
from pgonly_django.admin.overview.overview import Overview, Panel
from pgonly_django.admin.overview.storage import cache_aliases, caches_panel, sessions_panel
from pgonly_django.admin.overview.workers import queues_panel, workers_panel
from pgonly_django.models import (
    Budget,
    CacheEntry,
    DurableCacheEntry,
    Job,
    Limiter,
    Queue,
    Schedule,
    Session,
    Worker,
)

ALERTS_SHOWN = 20


def alerts_panel(overview: Overview) -> dict[str, Any]:
    found = alerts(overview)
    sees_waiting = overview.may_view(Worker) and (overview.may_view(Queue) or overview.may_view(Job))
    return {
        "alerts": found[:ALERTS_SHOWN],
        "more": max(len(found) - ALERTS_SHOWN, 0),
        "is_quiet": not found,
        "sees_waiting": sees_waiting,
    }


# Of alerts each kind has its own limit of time, so this panel has none.
PANELS = (
    Panel(
        "alerts",
        _("Needs attention"),
        (Job, Queue, Worker, Budget, Schedule, Limiter),
        alerts_panel,
        tuple,
        is_wide=True,
    ),
    Panel("states", _("Jobs"), (Job,), states_panel, is_wide=True),
    Panel("throughput", _("Runs that ended"), (Job,), throughput_panel),
    Panel("queues", _("Queues"), (Queue,), queues_panel),
    Panel("workers", _("Workers"), (Worker,), workers_panel),
    Panel("times", _("Waiting and run time"), (Job,), times_panel),
    Panel("schedules", _("Schedules"), (Schedule,), schedules_panel),
    Panel("limiters", _("Limiters"), (Limiter,), limiters_panel),
    Panel("budgets", _("Budgets"), (Budget,), budgets_panel),
    Panel("caches", _("Caches"), (CacheEntry, DurableCacheEntry), caches_panel, cache_aliases),
    Panel("sessions", _("Sessions"), (Session,), sessions_panel),
)
