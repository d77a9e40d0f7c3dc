"""The panels of the overview and of the page behind it, in their order. A new one is a Panel and a template."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django import models
from pgonly_django.admin import budgets, cache_entries, formats, limiters, queues, schedules, waits, workers
from pgonly_django.admin.base import PageAdmin
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.overview.alerts import alerts, known_already
from pgonly_django.admin.overview.overview import SEEN_AT, TIME_LIMIT, OverviewPage, Panel, alias_of, shown
from pgonly_django.admin.sessions import user_names
from pgonly_django.admin.sums import start_of_today
from pgonly_django.database.on_django import in_time
from pgonly_django.models import (
    Budget,
    CacheEntry,
    CostEntry,
    DurableCacheEntry,
    Job,
    Limiter,
    Queue,
    Schedule,
    Session,
    Wait,
    Worker,
)
from pgonly_django.monitoring.limits import schedules as newest_schedules
from pgonly_django.monitoring.queues import Counted, jobs_by_state
from pgonly_django.monitoring.situations import (
    PARTS_OF_SCHEDULED,
    SCHEDULED,
    SITUATIONS,
    parts_of_scheduled,
)
from pgonly_django.monitoring.storage import OfUser, sessions
from pgonly_django.monitoring.waiting import open_questions
from pgonly_django.monitoring.workers import WorkerFigures

LAST_EPOCH = 1e10  # of the year 2286
MONTH_LIMIT = timedelta(milliseconds=40)  # about 100,000 calls
PARTS_LIMIT = timedelta(milliseconds=80)  # for what 10,000 scheduled jobs wait for
ALERTS_SHOWN, WAITS_SHOWN, WORKERS_SHOWN, JOBS_OF_A_WORKER, QUEUES_SHOWN = 10, 3, 6, 4, 8


def alerts_panel(overview: OverviewPage) -> dict[str, Any]:
    found = alerts(overview)
    sees_workers = overview.may_view(Worker)
    return {
        "alerts": found[:ALERTS_SHOWN],
        "more": max(len(found) - ALERTS_SHOWN, 0),
        "is_quiet": not found,
        "known": [] if found else known_already(overview),
        "sees_waiting": sees_workers and (overview.may_view(Queue) or overview.may_view(Job)),
        "has_worker": found or not sees_workers or any(worker.is_live for worker in overview.workers),
        **_failures_seen(overview, max((alert.failed_at for alert in found[:ALERTS_SHOWN]), default=0.0)),
    }


def need_attention(request: HttpRequest, site: admin.AdminSite) -> int:
    """Returns how many alerts the person of the request has on the overview of this site. It reads them once for each
    request."""
    name = f"_pgonly_alerts_{site.name}"
    if not hasattr(request, name):
        overview = OverviewPage(request, site)
        with closing(overview.reader):
            setattr(request, name, len(alerts(overview)))
    count: int = getattr(request, name)
    return count


def _failures_seen(overview: OverviewPage, newest_at: float) -> dict[str, Any]:
    """Returns the button that takes the failures up to `newest_at` from the list."""
    if not (newest_at and overview.may_view(models.Overview)):
        return {}
    marked_at = overview.request.session.get(SEEN_AT)
    return {
        "seen_url": overview.address(models.Overview, "seen"),
        "newest_at": repr(newest_at),
        "marked_at": marked_at
        and formats.exact_time(timezone.localtime(datetime.fromtimestamp(marked_at, UTC))),
    }


def states_panel(overview: OverviewPage) -> dict[str, Any]:
    """Shows one tile for each state, and for each part of the scheduled jobs that has some."""
    alias = alias_of(Job)
    counts = {state.value: count for state, count in jobs_by_state(alias).items()}
    scheduled = counts[SCHEDULED.name]
    if scheduled.number:
        parts = in_time(alias, PARTS_LIMIT, lambda: parts_of_scheduled(alias, scheduled.number)) or {}
        counts |= {name: Counted(number, scheduled.has_more and number > 0) for name, number in parts.items()}
    return {
        "states": [
            (each.name, each.label, count.label, overview.to_list(Job, state__exact=each.name))
            for each in SITUATIONS.values()
            if (count := counts.get(each.name)) and (count.number or each not in PARTS_OF_SCHEDULED)
        ],
    }


def throughput_panel(overview: OverviewPage) -> dict[str, Any]:
    return overview.charts.runs()


def latency_panel(overview: OverviewPage) -> dict[str, Any]:
    return overview.charts.waits()


def queues_panel(overview: OverviewPage) -> dict[str, Any]:
    """Shows those first in which a job has waited longest."""
    rows = []
    longest = sorted(overview.queues, key=lambda queue: -(queue.oldest_seconds or 0))
    for queue in longest[:QUEUES_SHOWN]:
        row = queue.row
        queues.prepare(row, overview, overview.served, queue.oldest_seconds)
        rows.append(
            {
                "queue": queue,
                "state": queues.state_badge(row),
                "url": overview.to_row(row),
                "waiting": queues.waiting(row),
                "running": queues.running(row),
                "rate": formats.second(queues.rate(row)) if row.rate_count else "",
                "oldest": queues.oldest(row),
                "buttons": overview.buttons(row, "pause", "resume"),
            }
        )
    return {
        "rows": rows,
        "more": max(len(longest) - QUEUES_SHOWN, 0),
        "url": overview.to_list(Queue),
    }


def workers_panel(overview: OverviewPage) -> dict[str, Any]:
    """Shows the late ones first, then those that hold jobs."""
    found = sorted(overview.workers, key=lambda worker: (not worker.is_late, not worker.jobs))
    return {
        "rows": [_worker(overview, worker) for worker in found[:WORKERS_SHOWN]],
        "more": max(len(found) - WORKERS_SHOWN, 0),
        "url": overview.to_list(Worker),
    }


def _worker(overview: OverviewPage, worker: WorkerFigures) -> dict[str, Any]:
    row: Any = worker.row
    jobs, sees_data = worker.jobs[:JOBS_OF_A_WORKER], may_see_data(overview.request)
    return {
        "worker": worker,
        "url": overview.to_row(row),
        "badge": workers.life(row),
        "served": workers.served(row),
        "silent": formats.whole(worker.silent_for),
        "jobs": workers.held_jobs(row, jobs, overview, sees_data=sees_data),
        "more": max(len(worker.jobs) - JOBS_OF_A_WORKER, 0),
        "buttons": overview.buttons(row),
    }


def waits_panel(overview: OverviewPage) -> dict[str, Any]:
    """Shows the oldest questions."""
    found = open_questions(alias_of(Wait), WAITS_SHOWN + 1)
    shown = waits.prepare_waits(found[:WAITS_SHOWN], overview, overview.request.get_full_path())
    rows = [
        {
            "key": wait.pk,
            "question": waits.question(wait),
            "since": waits.since(wait),
            "until": waits.until(wait),
            "answers": waits.answers(wait),
        }
        for wait in shown
    ]
    more = {"has_more": len(found) > WAITS_SHOWN, "url": overview.to_list(Wait)}
    return {"rows": rows, **more} if rows else {}


def times_panel(overview: OverviewPage) -> dict[str, Any]:
    return overview.charts.times()


def schedules_panel(overview: OverviewPage) -> dict[str, Any]:
    sees_data = may_see_data(overview.request)
    return _rows(
        {
            "row": schedules.for_reader(row, sees_data=sees_data),
            "url": overview.to_row(row),
            "badge": schedules.state_badge(row),
            "words": schedules.words(row),
            "next": schedules.next_tick(row),
        }
        for row in newest_schedules(alias_of(Schedule))
    )


def limiters_panel(overview: OverviewPage) -> dict[str, Any]:
    return _rows(
        {
            "row": row,
            "url": overview.to_row(row),
            "badge": limiters.state_badge(row),
            "in_use": limiters.in_use(row),
            "waiting": limiters.waiting(row),
            "requests": limiters.requests(row),
            "tokens": limiters.tokens(row),
            "buttons": overview.buttons(row, "end_cool_down"),
        }
        for row in overview.limiters
    )


def budgets_panel(overview: OverviewPage) -> dict[str, Any]:
    return _rows(
        {
            "row": row,
            "url": overview.to_row(row),
            "badge": budgets.state_badge(row),
            "period": budgets.period(row),
            "spent": budgets.spent(row),
            "reserved": budgets.reserved(row),
            "held": row.held_jobs.label if row.held_jobs.number else "-",
            "held_url": budgets.held_url(row, overview) if row.held_jobs.number else "",
            "buttons": overview.buttons(row, "resume") if row.held_jobs.number else [],
        }
        for row in overview.budgets
    )


def costs_panel(overview: OverviewPage) -> dict[str, Any]:
    """Shows today and the running month, unless that has too many calls. Index: pgonly_cost_at."""
    today, alias = start_of_today(), alias_of(CostEntry)
    entries = CostEntry.objects.using(alias).filter(at__gte=today.replace(day=1))
    of_today = Sum("usd", filter=Q(at__gte=today), default=0)
    spent = in_time(alias, MONTH_LIMIT, lambda: entries.aggregate(today=of_today, month=Sum("usd")))
    if spent is None:
        spent = {**entries.filter(at__gte=today).aggregate(today=of_today), "month": None}
    elif spent["month"] is None:
        return {}
    return {name: "" if usd is None else formats.money(usd) for name, usd in spent.items()} | {
        "url": overview.address(CostEntry, "sums")
    }


def caches_panel(overview: OverviewPage) -> dict[str, Any]:
    return _rows(cache_entries.numbers_of_caches(overview, TIME_LIMIT))


def _rows(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns no panel without rows."""
    found = list(rows)
    return {"rows": found} if found else {}


def sessions_panel(overview: OverviewPage) -> dict[str, Any]:
    found = sessions(alias_of(Session))
    names = user_names(each.user_id for each in found.by_user)
    return {
        "active": found.active.label,
        "logged_in": found.logged_in.label,
        "users": [
            {
                "name": formats.brief(names.get(each.user_id, each.user_id)),
                "active": each.active,
                "url": overview.to_list(Session, q=each.user_id, state="active"),
                "buttons": overview.buttons(_newest_of(each), "revoke_user"),
            }
            for each in found.by_user
        ],
        "url": overview.to_list(Session, state="active"),
    }


def _newest_of(user: OfUser) -> Any:
    """Returns enough of the row for its buttons."""
    session: Any = Session(key_hash=user.key_hash, user_id=user.user_id)
    session.is_ended = False
    return session


# What is looked at first, and what is behind a link.
FIRST = (
    Panel("states", gettext_lazy("Jobs"), (Job,), states_panel, is_wide=True),
    Panel(
        "alerts",
        gettext_lazy("Needs attention"),
        (Job, Queue, Worker, Budget, Schedule, Limiter),
        alerts_panel,
        has_limits=True,
        has_list=False,
        is_wide=True,
    ),
    Panel("waits", gettext_lazy("Waiting for people"), (Wait,), waits_panel, is_wide=True),
    Panel("workers", gettext_lazy("Running now"), (Worker,), workers_panel),
    Panel("queues", gettext_lazy("Queues"), (Queue,), queues_panel),
)
MORE = (
    Panel("throughput", gettext_lazy("Runs that ended"), (Job,), throughput_panel, has_list=False),
    Panel("latency", gettext_lazy("How long jobs waited"), (Job,), latency_panel, has_list=False),
    Panel("times", gettext_lazy("Waiting and run time"), (Job,), times_panel, has_list=False),
    Panel("schedules", gettext_lazy("Schedules"), (Schedule,), schedules_panel),
    Panel("limiters", gettext_lazy("Limiters"), (Limiter,), limiters_panel),
    Panel("budgets", gettext_lazy("Budgets"), (Budget,), budgets_panel),
    Panel("costs", gettext_lazy("Costs"), (CostEntry,), costs_panel),
    Panel("caches", gettext_lazy("Caches"), (CacheEntry, DurableCacheEntry), caches_panel, has_limits=True),
    Panel("sessions", gettext_lazy("Sessions"), (Session,), sessions_panel),
)


@admin.register(models.Overview)
class OverviewAdmin(PageAdmin):
    def get_urls(self) -> list[URLPattern]:
        more = transaction.non_atomic_requests(partial(self.more_view))  # as PageAdmin has its page
        return [
            self.own_url("seen", "seen/", self.seen_view),
            self.own_url("more", "more/", more),
            *super().get_urls(),
        ]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allows a person who sees one of its panels."""
        links = self.links(request)
        return any(links.may_view(model) for panel in (*FIRST, *MORE) for model in panel.models)

    def show(self, request: HttpRequest) -> HttpResponse:
        """Leads to the index of the app: the overview, which every site and theme has."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        app = {"app_label": self.opts.app_label}
        return HttpResponseRedirect(reverse("admin:app_list", kwargs=app, current_app=self.admin_site.name))

    def more_view(self, request: HttpRequest) -> HttpResponse:
        """Shows the charts, and the panels whose rows have a list elsewhere."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        panels = shown(OverviewPage(request, self.admin_site), MORE)
        return self.page(request, "overview/more.html", _("Figures"), panels=panels)

    def seen_view(self, request: HttpRequest) -> HttpResponse:
        """Marks the failures up to `newest_at`, an epoch, as seen in this session."""
        overview = self.show(request)
        with suppress(ValueError):
            newest_at = float(request.POST.get("newest_at", ""))
            if 0 < newest_at < LAST_EPOCH:
                request.session[SEEN_AT] = newest_at
        return overview
