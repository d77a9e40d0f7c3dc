"""The panels of the overview, in the order of the page. A new one is a Panel and a template."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import budgets, cache_entries, formats, limiters, queues, schedules, workers
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.overview.alerts import alerts
from pgonly_django.admin.overview.overview import TIME_LIMIT, Overview, Panel, alias_of
from pgonly_django.admin.sessions import user_names
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
from pgonly_django.models.job_stats import NUMBERS
from pgonly_django.monitoring.limits import schedules as newest_schedules
from pgonly_django.monitoring.queues import jobs_by_state
from pgonly_django.monitoring.runs import Period, throughput, times
from pgonly_django.monitoring.storage import OfUser, sessions
from pgonly_django.monitoring.workers import WorkerFigures
from pgonly_django.wording import duration

ALERTS_SHOWN, WORKERS_SHOWN, JOBS_OF_A_WORKER = 20, 25, 5
PERIODS = {
    Period.HOUR: (gettext_lazy("Hour"), gettext_lazy("the last hour")),
    Period.DAY: (gettext_lazy("Day"), gettext_lazy("the last day")),
    Period.WEEK: (gettext_lazy("Week"), gettext_lazy("the last week")),
}
WIDTH, HEIGHT = 640.0, 160.0
GAP = 0.15  # of a bar's width
SMALLEST = 2.0  # so that one failure among ten thousand is seen


def alerts_panel(overview: Overview) -> dict[str, Any]:
    found = alerts(overview)
    sees_waiting = overview.may_view(Worker) and (overview.may_view(Queue) or overview.may_view(Job))
    return {
        "alerts": found[:ALERTS_SHOWN],
        "more": max(len(found) - ALERTS_SHOWN, 0),
        "is_quiet": not found,
        "sees_waiting": sees_waiting,
    }


def states_panel(overview: Overview) -> dict[str, Any]:
    counts = jobs_by_state(alias_of(Job))
    return {
        "states": [
            (state, state.label, count.label, overview.to_list(Job, state__exact=state.value))
            for state, count in counts.items()
        ],
    }


def throughput_panel(overview: Overview) -> dict[str, Any]:
    ended = throughput(alias_of(Job), overview.period)
    labels = [_part_label(part.starts_at, overview.period) for part in ended]
    numbers = [[getattr(part, kind) for kind in NUMBERS] for part in ended]
    sums = map(sum, zip(*numbers, strict=True))
    return {
        "periods": [
            (f"?period={period.name.lower()}", label, period is overview.period)
            for period, (label, _within) in PERIODS.items()
        ],
        "within": PERIODS[overview.period][1],
        "chart": bar_chart(numbers),
        "kinds": [(kind, _(kind), f"{total:,}") for kind, total in zip(NUMBERS, sums, strict=True)],
        "marks": [labels[0], labels[len(labels) // 2], labels[-1]],
        "rows": [(label, of_part) for label, of_part in zip(labels, numbers, strict=True) if any(of_part)],
    }


def _part_label(moment: datetime, period: Period) -> str:
    moment = timezone.localtime(moment) if settings.USE_TZ else moment
    return date_format(moment, "D H:i" if period is Period.WEEK else "H:i")


def bar_chart(bars: list[list[int]]) -> dict[str, Any]:
    """Bars as the template draws them, in SVG. Each has a number for each of NUMBERS, the classes of its colours."""
    top = nice(max((sum(numbers) for numbers in bars), default=0))
    width = WIDTH / max(len(bars), 1)
    return {
        "top": top,  # what the upper edge stands for
        "bars": [_bar(numbers, place * width, width, top) for place, numbers in enumerate(bars)],
        "view_box": f"0 0 {WIDTH:g} {HEIGHT:g}",
    }


def _bar(numbers: list[int], left: float, width: float, top: int) -> list[dict[str, str]]:
    """Coordinates as text: a template would write them as the reader's language writes numbers."""
    rects = []
    lower = HEIGHT
    for kind, number in zip(NUMBERS, numbers, strict=True):
        if number > 0:
            height = min(max(number / top * HEIGHT, SMALLEST), lower)
            lower -= height
            place = {"x": left + width * GAP / 2, "y": lower, "width": width * (1 - GAP), "height": height}
            rects.append({"kind": kind, **{name: f"{value:.2f}" for name, value in place.items()}})
    return rects


def nice(number: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    power: int = 10 ** (len(str(number)) - 1)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= number)


def queues_panel(overview: Overview) -> dict[str, Any]:
    rows = []
    for queue in overview.queues:
        row, named = queue.row, queue.row or Queue(name=queue.name)
        rows.append(
            {
                "queue": queue,
                "state": queues.state_badge(row) if row else formats.badge("live", _("Open")),
                "url": overview.to_row(row) if row else "",
                "waiting_url": overview.to_list(Job, queue=queue.name),
                "running": queues.running(row) if row else queue.running.label,
                "rate": queues.rate(row) if row else "-",
                "oldest": _age(queue.oldest_seconds),
                "buttons": overview.buttons(named, "pause", "resume"),
            }
        )
    oldest = max(
        (queue for queue in overview.queues if queue.oldest_seconds is not None and queue.paused_at is None),
        key=lambda queue: queue.oldest_seconds or 0,
        default=None,
    )
    return {"rows": rows, "oldest": oldest and (oldest.name, _age(oldest.oldest_seconds))}


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else formats.whole(timedelta(seconds=seconds))


def workers_panel(overview: Overview) -> dict[str, Any]:
    """Those that are late come first."""
    found = sorted(overview.workers, key=lambda worker: not worker.is_late)
    return {
        "rows": [_worker(overview, worker) for worker in found[:WORKERS_SHOWN]],
        "more": max(len(found) - WORKERS_SHOWN, 0),
        "url": overview.to_list(Worker),
    }


def _worker(overview: Overview, worker: WorkerFigures) -> dict[str, Any]:
    row: Any = worker.row
    jobs, sees_data = worker.jobs[:JOBS_OF_A_WORKER], may_see_data(overview.request)
    return {
        "worker": worker,
        "url": overview.to_row(row),
        "badge": workers.life(row),
        "served": workers.served(row),
        "silent": formats.whole(worker.silent_for),
        "jobs": workers.held_jobs(jobs, overview, sees_data=sees_data),
        "more": max(len(worker.jobs) - JOBS_OF_A_WORKER, 0),
        "buttons": overview.buttons(row),
    }


def times_panel(overview: Overview) -> dict[str, Any]:
    rows = [
        {
            "figures": each,
            "task": formats.short_name(each.task) or _("other tasks"),
            "url": overview.to_list(Job, queue=each.queue, task=each.task) if each.task else "",
            "waited": _pair(each.waiting_p50, each.waiting_p95),
            "took": _pair(each.run_p50, each.run_p95),
        }
        for each in times(alias_of(Job), overview.period)
    ]
    return {"rows": rows, "within": PERIODS[overview.period][1]}


def _pair(p50: float | None, p95: float | None) -> str:
    return "-" if p50 is None or p95 is None else f"{duration(p50)} / {duration(p95)}"


def schedules_panel(overview: Overview) -> dict[str, Any]:
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


def limiters_panel(overview: Overview) -> dict[str, Any]:
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


def budgets_panel(overview: Overview) -> dict[str, Any]:
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


def caches_panel(overview: Overview) -> dict[str, Any]:
    return _rows(cache_entries.numbers_of_caches(overview, TIME_LIMIT))


def _rows(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Without rows there is no panel."""
    found = list(rows)
    return {"rows": found} if found else {}


def sessions_panel(overview: Overview) -> dict[str, Any]:
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
    """Enough of the row for its buttons."""
    session: Any = Session(key_hash=user.key_hash, user_id=user.user_id)
    session.is_ended = False
    return session


PANELS = (
    Panel(
        "alerts",
        gettext_lazy("Needs attention"),
        (Job, Queue, Worker, Budget, Schedule, Limiter),
        alerts_panel,
        has_limits=True,
        is_wide=True,
    ),
    Panel("states", gettext_lazy("Jobs"), (Job,), states_panel, is_wide=True),
    Panel("throughput", gettext_lazy("Runs that ended"), (Job,), throughput_panel),
    Panel("queues", gettext_lazy("Queues"), (Queue,), queues_panel),
    Panel("workers", gettext_lazy("Workers"), (Worker,), workers_panel),
    Panel("times", gettext_lazy("Waiting and run time"), (Job,), times_panel),
    Panel("schedules", gettext_lazy("Schedules"), (Schedule,), schedules_panel),
    Panel("limiters", gettext_lazy("Limiters"), (Limiter,), limiters_panel),
    Panel("budgets", gettext_lazy("Budgets"), (Budget,), budgets_panel),
    Panel("caches", gettext_lazy("Caches"), (CacheEntry, DurableCacheEntry), caches_panel, has_limits=True),
    Panel("sessions", gettext_lazy("Sessions"), (Session,), sessions_panel),
)
