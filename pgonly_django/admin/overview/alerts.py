"""The alerts to look at first: one line each, the worst first. monitoring/conditions.py judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from django.utils.translation import gettext, ngettext

from pgonly_django.admin.budgets import held_url
from pgonly_django.admin.charts import local_text
from pgonly_django.admin.formats import brief, short_name
from pgonly_django.admin.jobs.attempts import cause_of
from pgonly_django.admin.jobs.data import may_see_data
from pgonly_django.admin.jobs.verbs import RETRY
from pgonly_django.admin.overview.overview import DAY_SECONDS, OverviewPage, alias_of
from pgonly_django.admin.schedules import for_reader
from pgonly_django.models import Budget, Job, Limiter, Queue, Schedule, State, Worker
from pgonly_django.monitoring import conditions
from pgonly_django.monitoring.findings import Finding, Level
from pgonly_django.monitoring.limits import with_problem
from pgonly_django.monitoring.runs import failed_since, retried
from pgonly_django.monitoring.situations import RETRYING
from pgonly_django.monitoring.snapshots import old_snapshots

BAD, WARNING = "failed", "held"  # the colour of a badge
GROUPS_SHOWN = 10


class Alert(NamedTuple):
    level: str
    text: str
    url: str = ""
    retry_url: str = ""  # of the page that asks before all of these jobs are retried
    failed_at: float = 0.0  # an epoch: when the newest of the jobs failed
    newest: str = ""  # the newest error


def alerts(overview: OverviewPage) -> list[Alert]:
    """Returns the alerts. Each kind is read within its own time: one that fails says so in its place."""
    found = []
    for read, *models in SOURCES:
        if any(map(overview.may_view, models)):
            some, problem = overview.reader.read({alias_of(models[0])}, partial(_listed, read, overview))
            found += some or []
            found += [Alert(WARNING, problem)] if problem else []
    return sorted(found, key=lambda alert: alert.level != BAD)


def _listed(read: Callable[[OverviewPage], Iterator[Alert]], overview: OverviewPage) -> list[Alert]:
    return list(read(overview))


def _alert(finding: Finding, url: str, **more: Any) -> Alert:
    return Alert(BAD if finding.level is Level.ERROR else WARNING, finding.fact, url, **more)


def _of_queues(overview: OverviewPage) -> Iterator[Alert]:
    """Yields the alerts of queues; the panel of queues says how late the others are."""
    for finding in conditions.of_queues(overview.queues, overview.served):
        if finding.about is None:
            yield _alert(finding, overview.to_list(Job, state__exact=State.READY))
        elif finding.id != conditions.QUEUE_LATE.id:
            yield _alert(finding, overview.to_list(Job, queue=finding.about.name))


def _of_workers(overview: OverviewPage) -> Iterator[Alert]:
    for finding in conditions.of_workers(overview.workers):
        if finding.about.is_late:
            yield _alert(finding, overview.to_row(finding.about.row))


def _of_failures(overview: OverviewPage) -> Iterator[Alert]:
    groups, sees_data = failed_since(alias_of(Job), overview.failures_since), may_see_data(overview.request)
    since = local_text(datetime.fromtimestamp(overview.failures_since, UTC))
    all_failed = {"state__exact": State.FAILED.value, "time": "finished", "from": since}
    for group in groups[:GROUPS_SHOWN]:
        finding = conditions.JOBS_FAILED.finding(
            task=brief(short_name(group.task)),
            error=brief(short_name(group.error)),
            seconds=group.newest_seconds,
            _jobs=ngettext("%s job", "%s jobs", group.jobs.number) % group.jobs.label,
            _last=gettext("the last one ") if group.jobs.number > 1 else "",
        )
        query = {**all_failed, "task": group.task, "error": group.error}
        retry_url = overview.to_bulk(RETRY.name, **query)
        url = overview.to_list(Job, **query)
        newest = brief(cause_of(group.newest, sees_data=sees_data))
        yield _alert(finding, url, retry_url=retry_url, failed_at=group.newest_at, newest=newest)
    if others := groups[GROUPS_SHOWN:]:
        text = ngettext("%d more group of failed jobs.", "%d more groups of failed jobs.", len(others))
        newest_at = max(group.newest_at for group in others)
        yield Alert(BAD, text % len(others), overview.to_list(Job, **all_failed), failed_at=newest_at)


def _of_retries(overview: OverviewPage) -> Iterator[Alert]:
    sees_data = may_see_data(overview.request)
    for group in retried(alias_of(Job), int(conditions.JOBS_RETRIED.limit))[:GROUPS_SHOWN]:
        finding = conditions.JOBS_RETRIED.finding(
            task=brief(short_name(group.task)),
            attempts=group.attempts,
            max_attempts=group.max_attempts,
            _jobs=ngettext("%d job waits", "%d jobs wait", group.jobs) % group.jobs,
        )
        newest = brief(cause_of(group.newest, sees_data=sees_data))
        yield _alert(
            finding, overview.to_list(Job, state__exact=RETRYING.name, task=group.task), newest=newest
        )


def known_already(overview: OverviewPage) -> list[Alert]:
    """Returns what is no alert, and still not nothing: failures of the last day that the person has marked as seen, and
    jobs that wait for another attempt."""
    if not overview.may_view(Job):
        return []
    alias, found = alias_of(Job), []
    if failed := sum(group.jobs.number for group in failed_since(alias, time.time() - DAY_SECONDS)):
        text = ngettext("%d failed job is marked as seen.", "%d failed jobs are marked as seen.", failed)
        found.append(Alert(WARNING, text % failed, overview.to_list(Job, state__exact=State.FAILED)))
    if waiting := sum(group.jobs for group in retried(alias, 1)):
        text = ngettext("%d job waits for another attempt.", "%d jobs wait for another attempt.", waiting)
        found.append(Alert(WARNING, text % waiting, overview.to_list(Job, state__exact=RETRYING.name)))
    return found


def _of_budgets(overview: OverviewPage) -> Iterator[Alert]:
    for budget in overview.budgets:
        if number := budget.held_jobs.number:
            jobs = ngettext("%s job", "%s jobs", number) % budget.held_jobs.label
            url = held_url(budget, overview) or overview.to_row(budget)
            yield _alert(conditions.BUDGET_HOLDS.finding(name=brief(budget.name), _jobs=jobs), url)


def _of_schedules(overview: OverviewPage) -> Iterator[Alert]:
    sees_data = may_see_data(overview.request)
    for schedule in with_problem(alias_of(Schedule)):
        problem = brief(for_reader(schedule, sees_data=sees_data).said, 200)
        finding = conditions.SCHEDULE_FAILS.finding(name=brief(schedule.name), problem=problem)
        yield _alert(finding, overview.to_row(schedule))


def _of_limiters(overview: OverviewPage) -> Iterator[Alert]:
    for limiter in overview.limiters:
        if limiter.blocked_until is not None and limiter.blocked_until > limiter.now:
            seconds = (limiter.blocked_until - limiter.now).total_seconds()
            finding = conditions.LIMITER_COOLS_DOWN.finding(name=brief(limiter.name), seconds=seconds)
            yield _alert(finding, overview.to_row(limiter))


def _of_snapshots(overview: OverviewPage) -> Iterator[Alert]:
    found = old_snapshots(alias_of(Job), conditions.OLD_SNAPSHOT.limit)
    for finding in conditions.of_snapshots(found):
        jobs = finding.about.jobs
        yield _alert(finding, overview.to_row(jobs[0]) if len(jobs) == 1 else "")


# What is read, and the models of which a person may view one to be told.
SOURCES: tuple[Any, ...] = (
    (_of_queues, Queue, Job),
    (_of_workers, Worker),
    (_of_failures, Job),
    (_of_retries, Job),
    (_of_budgets, Budget),
    (_of_schedules, Schedule),
    (_of_limiters, Limiter),
    (_of_snapshots, Job),
)
