"""What a person should look at first: one line each, the worst first. monitoring/conditions.py judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from django.utils.translation import ngettext

from pgonly_django.admin.budgets import held_url
from pgonly_django.admin.formats import brief
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.overview.overview import Overview, alias_of, within_limit
from pgonly_django.admin.schedules import for_reader
from pgonly_django.models import Budget, Job, Limiter, Queue, Schedule, State, Worker
from pgonly_django.monitoring import conditions
from pgonly_django.monitoring.findings import Finding, Level
from pgonly_django.monitoring.limits import with_problem
from pgonly_django.monitoring.runs import failed_jobs
from pgonly_django.monitoring.snapshots import old_snapshots
from pgonly_django.monitoring.workers import Served, served_queues

BAD, WARNING = "failed", "held"  # the colour of a badge


Found = Iterator[tuple[Finding, str]]  # with a link


def alerts(overview: Overview) -> list[dict[str, str]]:
    """Each kind is read within its own time: one that fails says so in its place."""
    found = []
    for read, *models in SOURCES:
        if any(map(overview.may_view, models)):
            some, problem = within_limit({alias_of(models[0])}, partial(_listed, read, overview))
            found += some or []
            found += [{"level": WARNING, "text": problem}] if problem else []
    return sorted(found, key=lambda alert: alert["level"] != BAD)


def _listed(read: Callable[[Overview], Found], overview: Overview) -> list[dict[str, str]]:
    return [
        {"level": BAD if finding.level is Level.ERROR else WARNING, "text": finding.fact, "url": url}
        for finding, url in read(overview)
    ]


def _of_queues(overview: Overview) -> Found:
    """How late the others are is in the panel of queues."""
    served = (
        served_queues(alias_of(Worker))
        if any(map(conditions.has_waited, overview.queues))
        else Served(all=True)
    )
    for finding in conditions.of_queues(overview.queues, served):
        if finding.about is None:
            yield finding, overview.to_list(Job, state__exact=State.READY)
        elif finding.id != conditions.QUEUE_LATE.id:
            yield finding, overview.to_list(Job, queue=finding.about.name)


def _of_workers(overview: Overview) -> Found:
    for finding in conditions.of_workers(overview.workers):
        if finding.about.is_late:
            yield finding, overview.to_row(finding.about.row)


def _of_failures(overview: Overview) -> Found:
    for finding in conditions.of_failures(failed_jobs(alias_of(Job))):
        yield finding, overview.to_list(Job, state__exact=State.FAILED)


def _of_budgets(overview: Overview) -> Found:
    for budget in overview.budgets:
        if number := budget.held_jobs.number:
            jobs = ngettext("%s job", "%s jobs", number) % budget.held_jobs.label
            url = held_url(budget, overview) or overview.to_row(budget)
            yield conditions.BUDGET_HOLDS.finding(name=brief(budget.name), _jobs=jobs), url


def _of_schedules(overview: Overview) -> Found:
    sees_data = may_see_data(overview.request)
    for schedule in with_problem(alias_of(Schedule)):
        problem = brief(for_reader(schedule, sees_data=sees_data).said, 200)
        finding = conditions.SCHEDULE_FAILS.finding(name=brief(schedule.name), problem=problem)
        yield finding, overview.to_row(schedule)


def _of_limiters(overview: Overview) -> Found:
    for limiter in overview.limiters:
        if limiter.blocked_until is not None and limiter.blocked_until > limiter.now:
            seconds = (limiter.blocked_until - limiter.now).total_seconds()
            finding = conditions.LIMITER_COOLS_DOWN.finding(name=brief(limiter.name), seconds=seconds)
            yield finding, overview.to_row(limiter)


def _of_snapshots(overview: Overview) -> Found:
    found = old_snapshots(alias_of(Job), conditions.OLD_SNAPSHOT.limit)
    for finding in conditions.of_snapshots(found):
        jobs = finding.about.jobs
        yield finding, overview.to_row(jobs[0]) if len(jobs) == 1 else ""


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
