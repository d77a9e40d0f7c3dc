"""Workers in the admin: the list with what each serves and holds, and the page of one with its jobs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.db import router
from django.db.models import Q
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from pgonly_django.admin import formats
from pgonly_django.admin.base import Links, stylesheets
from pgonly_django.admin.charts import Bar, Series, chart
from pgonly_django.admin.jobs.cells import LISTED, state_badge, took
from pgonly_django.admin.jobs.data import may_see_data, progress_of
from pgonly_django.admin.verbs import Verb, VerbAdmin
from pgonly_django.conf import settings
from pgonly_django.database.on_django import in_time
from pgonly_django.models import Job, State, Worker
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.job_rows import LARGE_COLUMNS
from pgonly_django.monitoring.workers import JOB_COLUMNS

JOBS_SHOWN, LAST_SHOWN = 100, 10
NEWEST_READ, LAST_LIMIT = 2_000, timedelta(milliseconds=150)
_OTHERWISE = gettext_lazy("A worker that has stopped cannot be asked.")
_STARTED = Q(stopped_at=None, stop_requested_at=None)


def _may_stop(worker: Any) -> bool:
    return worker.stop_requested_at is None and bool(worker.is_live(worker.now))


STOP = Verb(
    name="stop",
    label=gettext_lazy("Stop"),
    hint=gettext_lazy(
        "As SIGTERM does: its jobs may save a checkpoint, and are given back. A supervisor or a platform may "
        "start another one in its place."
    ),
    logged=gettext_lazy("Asked to stop."),
    otherwise=_OTHERWISE,
    allowed=_STARTED,
    allows=_may_stop,
)
DRAIN = Verb(
    name="drain",
    label=gettext_lazy("Drain"),
    hint=gettext_lazy(
        "It claims no more jobs and ends after its own are finished. A supervisor or a platform may start another "
        "one in its place."
    ),
    logged=gettext_lazy("Asked to drain."),
    otherwise=_OTHERWISE,
    allowed=_STARTED & Q(drain_requested_at=None),
    allows=lambda worker: worker.drain_requested_at is None and _may_stop(worker),
)


@admin.display(description=gettext_lazy("state"))
def life(worker: Any) -> SafeString:
    if worker.stopped_at is not None:
        return formats.badge("stopped", _("Stopped"), formats.exact_time(worker.stopped_at))
    if worker.sleeping_since is not None:
        return formats.badge("asleep", _("Asleep"), formats.exact_time(worker.sleeping_since))
    if not worker.is_live(worker.now):
        if worker.now - worker.heartbeat_at < timedelta(seconds=settings().lease_seconds):
            return formats.badge("held", _("Silent"), _("Its heartbeat is late."))
        return formats.badge(
            "dead",
            _("Dead"),
            _("Silent for longer than a lease: a live worker takes over its jobs, if it had any."),
        )
    if worker.stop_requested_at is not None:
        return formats.badge("cancelling", _("Stopping"), formats.exact_time(worker.stop_requested_at))
    if worker.drain_requested_at is not None:
        return formats.badge("cancelling", _("Draining"), formats.exact_time(worker.drain_requested_at))
    return formats.badge("live", _("Live"))


@admin.display(description=gettext_lazy("name"))
def worker_name(worker: Any) -> SafeString:
    html = '<span class="pgonly-name">{}</span><span class="pgonly-second pgonly-whole">{}</span>'
    return format_html(html, worker.name, place(worker))


def place(worker: Any) -> str:
    return f"{worker.hostname}, {_('process %d') % worker.pid}"


@admin.display(description=gettext_lazy("queues"))
def served(worker: Any) -> str:
    return ", ".join(map(formats.brief, worker.queues)) or _("all")


@admin.display(description=gettext_lazy("running"))
def held(worker: Any) -> str:
    """Shows the number by the rows of the jobs: a dead worker's own number stays when they are rescued."""
    return f"{worker.jobs_held:,}"


@admin.display(description=gettext_lazy("heartbeat"))
def heartbeat(worker: Any) -> SafeString:
    return formats.ago(worker.heartbeat_at, worker.now)


@admin.display(description=gettext_lazy("uptime"))
def since(worker: Any) -> SafeString:
    end = worker.stopped_at or (worker.now if worker.is_live(worker.now) else worker.heartbeat_at)
    return formats.time_tag(worker.started_at, formats.age(worker.started_at, end))


@admin.register(Worker)
class WorkerAdmin(VerbAdmin):
    list_display = (life, worker_name, served, "threads", held, heartbeat, since)
    list_display_links = (life, worker_name)
    list_per_page = 50
    sortable_by = ()
    ordering = ("-heartbeat_at",)
    verbs = (STOP, DRAIN)
    actions = tuple(verb.as_action("workers") for verb in verbs)
    fields: ClassVar[Any] = ("version", "python", "release", served, "threads", heartbeat, since)
    readonly_fields = fields

    class Media:
        css = {"all": stylesheets("chart")}

    def has_delete_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        """Adds `now`, the database's clock. Before PostgreSQL 17 an infinite time cannot be subtracted in SQL."""
        rows: Any = super().get_queryset(request)
        return rows.with_jobs_held().annotate(now=ClockTimestamp())

    def page_of(self, request: HttpRequest, worker: Any) -> dict[str, Any]:
        """Adds the jobs that it holds, the oldest first, JOBS_SHOWN; those that it ran last; and its memory."""
        links, sees_data = self.links(request), may_see_data(request)
        running = Job.objects.using(router.db_for_read(Job)).filter(state=State.RUNNING, worker_id=worker.pk)
        jobs = running.order_by("queue", "attempted_at").only(*JOB_COLUMNS)[:JOBS_SHOWN]
        return {
            "state_badge": life(worker),
            "place": place(worker),
            "silent_for": "" if worker.is_live(worker.now) else formats.age(worker.heartbeat_at, worker.now),
            "jobs": held_jobs(worker, jobs, links, sees_data=sees_data),
            "last_jobs": last_jobs(worker, links) if links.may_view(Job) else None,
            "memory": memory_chart(worker),
        }


def last_jobs(worker: Any, links: Links) -> list[dict[str, Any]]:
    """Returns the LAST_SHOWN jobs that this worker ran last and holds no more, the newest first, of the NEWEST_READ
    newest of all; none where that takes too long. Index: the primary key, read backwards."""
    jobs = Job.objects.using(router.db_for_read(Job))
    newest = jobs.order_by("-pk").values("pk")[:NEWEST_READ]
    ended = jobs.filter(pk__in=newest, worker_id=worker.pk).exclude(state=State.RUNNING)
    last = ended.order_by("-attempted_at").values_list("pk", flat=True)[:LAST_SHOWN]
    keys = in_time(jobs.db, LAST_LIMIT, lambda: list(last)) or []
    rows = jobs.filter(pk__in=keys).defer(*LARGE_COLUMNS).annotate(**LISTED).order_by("-attempted_at")
    return [
        {
            "task": formats.short_name(job.task),
            "url": links.to_row(job),
            "badge": state_badge(job),
            "took": took(job),
            "began": formats.exact(job.attempted_at),
        }
        for job in (rows if keys else ())
    ]


def memory_chart(worker: Any) -> dict[str, Any] | None:
    """Returns a bar for each minute of the last hour; None where the system does not tell the memory."""
    samples = [max(round(each), 0) for each in worker.memory_mb or ()]
    if not any(samples):
        return None
    ages = [_("last"), *(_("%d min before") % minutes for minutes in range(1, len(samples)))][::-1]
    bars = [Bar(age, [mb], [f"{mb:,} MB"]) for age, mb in zip(ages, samples, strict=True)]
    return chart([Series("running", _("at last"), f"{samples[-1]:,} MB")], bars, lambda top: f"{top:,} MB")


def held_jobs(worker: Any, jobs: Iterable[Job], links: Links, *, sees_data: bool) -> list[dict[str, Any]]:
    """Returns what a page shows of `jobs` of this worker, which has `now`. Of a silent one their times end with its
    last heartbeat."""
    is_live = worker.is_live(worker.now)
    until = worker.now if is_live else worker.heartbeat_at
    return [
        {
            "job": job,
            "task": formats.short_name(job.task),
            "url": links.to_row(job),
            "progress": progress_of(job, sees_data=sees_data, is_silent=not is_live),
            "time": formats.age(job.attempted_at, max(until, job.attempted_at)) if job.attempted_at else "",
        }
        for job in jobs
    ]
