"""What a person should look at first: one line each, the worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from pgonly_django.admin.budgets.cells import held_url
from pgonly_django.admin.formats import brief, exact_time, short_name, whole
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.overview.overview import Overview, alias_of, within_limit
from pgonly_django.admin.schedules.cells import for_reader
from pgonly_django.models import Budget, Job, Limiter, Queue, Schedule, State, Worker
from pgonly_django.monitoring.limits import with_problem
from pgonly_django.monitoring.queues import QueueFigures
from pgonly_django.monitoring.runs import failed_jobs
from pgonly_django.monitoring.snapshots import Snapshot, oldest_snapshot
from pgonly_django.monitoring.states import Counted
from pgonly_django.monitoring.workers import served_queues
from pgonly_django.wording import duration

BAD, WARNING = "failed", "held"  # the colour of a badge
# So long a job may wait for a worker that is just being replaced, or for a tick.
UNSERVED_SECONDS = 15
# More failures than this in an hour, and this many times those of the hour before, are worth a look.
FEW_FAILURES, MORE_BY = 5, 2


@dataclass(frozen=True, slots=True)
class Alert:
    level: str
    text: str
    url: str = ""


def alerts(overview: Overview) -> list[Alert]:
    """Each kind is read within its own time: one that fails says so in its place."""
    found: list[Alert] = []
    for read, *models in SOURCES:
        visible = [model for model in models if overview.may_view(model)]
        if visible:
            some, problem = within_limit({alias_of(models[0])}, partial(_listed, read, overview))
            found += some or []
            found += [Alert(WARNING, problem)] if problem else []
    return sorted(found, key=lambda alert: alert.level != BAD)


def _listed(read: Callable[[Overview], Iterator[Alert]], overview: Overview) -> list[Alert]:
    return list(read(overview))


def _of_queues(overview: Overview) -> Iterator[Alert]:
    waiting = {queue.name: queue for queue in overview.queues if queue.waiting.number or queue.oldest_seconds}
    ready = [
        queue
        for queue in waiting.values()
        if queue.paused_at is None and (queue.oldest_seconds or 0) >= UNSERVED_SECONDS
    ]
    served = served_queues(alias_of(Worker)) if ready else None
    if served == set() and len(ready) > 1:
        yield _without_any_worker(overview, ready)
        ready = []
    for name, queue in waiting.items():
        facts = {"queue": brief(name), "waiting": _waiting(queue)}
        url = overview.list_url(Job, queue=name)
        if queue.paused_at is not None:
            text = _("The queue “%(queue)s” is paused since %(since)s: %(waiting)s.")
            yield Alert(WARNING, text % {**facts, "since": exact_time(queue.paused_at)}, url)
        elif queue in ready and served is not None and name not in served:
            yield Alert(BAD, _("No live worker serves “%(queue)s”: %(waiting)s.") % facts, url)


def _without_any_worker(overview: Overview, ready: list[QueueFigures]) -> Alert:
    """One line in the place of one for each queue."""
    jobs = Counted(
        sum(queue.waiting.number for queue in ready), has_more=any(queue.waiting.has_more for queue in ready)
    )
    oldest = max(queue.oldest_seconds or 0 for queue in ready)
    text = _("No worker is live: %(jobs)s jobs wait in %(queues)d queues, the oldest for %(time)s.") % {
        "jobs": jobs.label,
        "queues": len(ready),
        "time": duration(timedelta(seconds=oldest)),
    }
    return Alert(BAD, text, overview.list_url(Job, state__exact=State.READY))


def _waiting(queue: QueueFigures) -> str:
    """ "40 jobs wait, the oldest for 7 min"."""
    count = queue.waiting
    text = _counted(count, ngettext("%s job waits", "%s jobs wait", count.number))
    if queue.oldest_seconds is None:
        return text
    oldest = duration(timedelta(seconds=queue.oldest_seconds))
    return _("%(jobs)s, the oldest for %(time)s") % {"jobs": text, "time": oldest}


def _counted(count: Counted, text: str) -> str:
    return text % count.label


def _of_workers(overview: Overview) -> Iterator[Alert]:
    for worker in overview.workers:
        if not worker.is_late:
            continue
        count = len(worker.jobs)
        text = ngettext(
            "The worker %(name)s is silent for %(time)s and holds %(count)d job.",
            "The worker %(name)s is silent for %(time)s and holds %(count)d jobs.",
            count,
        ) % {"name": brief(worker.row.name), "time": whole(worker.silent_for), "count": count}
        rest = _("Another one takes over when their leases end.")
        yield Alert(BAD, f"{text} {rest}", overview.page_url(worker.row))


def _of_failures(overview: Overview) -> Iterator[Alert]:
    failed = failed_jobs(alias_of(Job))
    if failed.last_hour > max(FEW_FAILURES, failed.hour_before * MORE_BY):
        text = _("%(now)s jobs failed within the last hour, and %(before)s in the hour before.")
        facts = {"now": f"{failed.last_hour:,}", "before": f"{failed.hour_before:,}"}
        yield Alert(BAD, text % facts, overview.list_url(Job, state__exact=State.FAILED))


def _of_budgets(overview: Overview) -> Iterator[Alert]:
    for budget in overview.budgets:
        if budget.held_jobs.number:
            text = ngettext(
                "The budget “%(name)s” holds %(count)s job.",
                "The budget “%(name)s” holds %(count)s jobs.",
                budget.held_jobs.number,
            ) % {"name": brief(budget.name), "count": budget.held_jobs.label}
            url = held_url(budget, overview.links) or overview.page_url(budget)
            yield Alert(WARNING, text, url)


def _of_schedules(overview: Overview) -> Iterator[Alert]:
    sees_data = may_see_data(overview.request)
    for schedule in with_problem(alias_of(Schedule)):
        said = for_reader(schedule, sees_data=sees_data).said
        facts = {"name": brief(schedule.name), "problem": brief(said, 200)}
        text = _("The schedule “%(name)s” could not enqueue its job: %(problem)s") % facts
        yield Alert(BAD, text, overview.page_url(schedule))


def _of_limiters(overview: Overview) -> Iterator[Alert]:
    for limiter in overview.limiters:
        if limiter.blocked_until is not None and limiter.blocked_until > limiter.now:
            left = duration(limiter.blocked_until - limiter.now)
            text = _("The limiter “%(name)s” cools down for another %(time)s.")
            facts = {"name": brief(limiter.name), "time": left}
            yield Alert(WARNING, text % facts, overview.page_url(limiter))


def _of_snapshots(overview: Overview) -> Iterator[Alert]:
    snapshot = oldest_snapshot(alias_of(Job))
    if snapshot is not None:
        yield Alert(
            WARNING,
            _("A transaction is open for %(time)s and keeps vacuum from cleaning up: %(who)s.")
            % {"time": duration(timedelta(seconds=snapshot.seconds)), "who": _holder(snapshot)},
            overview.page_url(snapshot.jobs[0]) if len(snapshot.jobs) == 1 else "",
        )


def _holder(snapshot: Snapshot) -> str:
    """The job where only one can be it, else the worker, else the process of the server."""
    facts = {
        "pid": snapshot.pid,
        "name": brief(snapshot.worker or snapshot.application_name or _("no application_name")),
    }
    if not snapshot.jobs:
        return _("process %(pid)s of the server, %(name)s") % facts
    tasks = ", ".join(f"{short_name(job.task)} {str(job.pk)[:8]}" for job in snapshot.jobs)
    if len(snapshot.jobs) == 1:
        return _("the job %(tasks)s of the worker %(name)s") % {**facts, "tasks": tasks}
    return _("one of the jobs %(tasks)s of the worker %(name)s") % {**facts, "tasks": tasks}


# What is read, and the models of which a person may view one to be told.
SOURCES: tuple[Any, ...] = (
    (_of_queues, Queue, Job),
    (_of_workers, Worker),
    (_of_failures, Job),
    (_of_budgets, Budget),
    (_of_schedules, Schedule),
    (_of_limiters, Limiter),
    (_of_snapshots, Job),
)
