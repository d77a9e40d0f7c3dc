"""All figures at once, for programs that watch: `from pgonly_django.monitoring.stats import stats`.

Each part is read in a separate transaction and within a time limit, so that a part that cannot be read does not stop
the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, InterfaceError, OperationalError, connections, router
from django.db.models import Model

from pgonly_django.database.on_django import time_limit, timed_out
from pgonly_django.models import Budget, Job, Limiter, Schedule, Session, State
from pgonly_django.monitoring.limits import budgets, limiters, schedules, with_problem
from pgonly_django.monitoring.queues import Counted, QueueFigures, jobs_by_state, open_batches, queues
from pgonly_django.monitoring.runs import (
    EndedRuns,
    Failed,
    Period,
    RunsToday,
    Times,
    failed_jobs,
    runs_today,
    throughput,
    times,
)
from pgonly_django.monitoring.snapshots import OldSnapshot, old_snapshots
from pgonly_django.monitoring.storage import CacheFigures, SessionFigures, caches, sessions
from pgonly_django.monitoring.workers import (
    Served,
    WorkerFigures,
    WorkerTotals,
    served_queues,
    worker_totals,
    workers,
)
from pgonly_django.queue.known_names import queue_count

logger = logging.getLogger("pgonly_django.monitoring")
SECONDS = 5.0  # for all parts together
PART_LIMIT = timedelta(seconds=1)  # of one statement
NO_TIME = "There was no time left for it."
OLDEST = partial(old_snapshots, older_than_seconds=1.0)  # the reading itself is a younger one


class StatsPart(NamedTuple):
    """A part of the figures. `model`: whose database it reads where that is not the one of the jobs."""

    read: Callable[[str], Any]
    model: type[Model] | None = None
    keeps_its_time: bool = False  # its connections are not that of the alias


def _part(*facts: Any, **more: Any) -> Any:
    return field(default=None, metadata={"part": StatsPart(*facts, **more)})


@dataclass(slots=True, kw_only=True)
class Stats:
    """The figures that stats() returns. A part is None where it was not asked for or could not be read; `missing` says
    why it could not."""

    database: str  # the alias
    is_up: bool = False  # it answers
    # fmt: off
    # In the order in which they are read: what wakes a person comes first.
    worker_totals: WorkerTotals | None = _part(worker_totals)
    served: Served | None = _part(served_queues)
    queues: list[QueueFigures] | None = _part(queues)
    queue_count: int | None = _part(queue_count)  # there may be more than `queues` has
    failed: Failed | None = _part(failed_jobs)
    runs: RunsToday | None = _part(runs_today)
    states: Mapping[State, Counted] | None = _part(jobs_by_state)
    open_batches: Counted | None = _part(open_batches)
    workers: list[WorkerFigures] | None = _part(workers)
    snapshots: list[OldSnapshot] | None = _part(OLDEST)  # the oldest, if it is older than a second
    schedules: list[Any] | None = _part(schedules, Schedule)  # rows of Schedule, with `now`
    failing_schedules: list[Any] | None = _part(with_problem, Schedule)  # those whose last tick could not be enqueued
    budgets: list[Any] | None = _part(budgets, Budget)  # rows of Budget, with `spent_now` and `held_jobs`
    limiters: list[Any] | None = _part(limiters, Limiter)  # rows of Limiter, with `held` and `waiters`
    sessions: SessionFigures | None = _part(sessions, Session)
    throughput: list[EndedRuns] | None = _part(partial(throughput, period=Period.HOUR))  # of the last hour, by minute
    times: list[Times] | None = _part(partial(times, period=Period.HOUR))  # of the last hour
    caches: list[CacheFigures] | None = _part(lambda _alias: caches(PART_LIMIT), keeps_its_time=True)
    # fmt: on
    missing: dict[str, str] = field(default_factory=dict)  # the reason by the name of the part
    database_of: Mapping[str, str] = field(default_factory=dict)  # the alias that a part is read from
    seconds: float = 0.0  # that the reading took


PARTS: dict[str, StatsPart] = {
    each.name: each.metadata["part"] for each in fields(Stats) if "part" in each.metadata
}


def stats(
    alias: str | None = None, *, parts: Collection[str] | None = None, seconds: float = SECONDS
) -> Stats:
    """Returns the figures of the jobs in the database of `alias`, by default where the router reads jobs, and those of
    the limiters, budgets, schedules, sessions and caches where each of them is.

        figures = stats(parts=["states", "queues"])

    `parts`: the names of the fields to read, by default all. It does not raise for a database that is unavailable, a
    table that is missing or a missing permission: see Stats. Each statement may take one second, and none begins after
    `seconds`; what is unread then is in Stats.missing. It waits for a database that does not answer to a connection as
    its OPTIONS say ("connect_timeout"). Raises ImproperlyConfigured for an alias that is not PostgreSQL, and ValueError
    for a part that does not exist.
    """
    found = unread(alias or router.db_for_read(Job), PARTS if parts is None else parts)
    read(found, time.monotonic() + seconds)
    return as_far_as_read(found)


def unread(alias: str, parts: Collection[str]) -> Stats:
    """Returns an unread Stats for read(). Raises as stats()."""
    if connections[alias].vendor != "postgresql":
        raise ImproperlyConfigured(f"DATABASES[{alias!r}] is not PostgreSQL: no jobs are there.")
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"stats() has no part {unknown[0]!r}. Known are: {', '.join(PARTS)}.")
    databases = {
        name: router.db_for_read(part.model) if part.model else alias for name, part in PARTS.items()
    }
    return Stats(database=alias, missing=dict.fromkeys(parts, NO_TIME), database_of=databases)


def as_far_as_read(stats: Stats) -> Stats:
    """Returns a copy, also while another thread is in read()."""
    copy = replace(stats)
    copy.missing = {name: why for name, why in copy.missing.items() if getattr(copy, name) is None}
    return copy


def read(stats: Stats, until: float) -> None:
    """Reads one part after the other; none begins after `until`, by time.monotonic(). Where the database does not
    answer, each part would wait for it."""
    began = time.monotonic()
    try:
        with time_limit(stats.database, PART_LIMIT), connections[stats.database].cursor() as cursor:
            cursor.execute("SELECT 1")
        stats.is_up = True
        for name in [name for name in PARTS if name in stats.missing]:
            _read_part(stats, name, until)
    except Error as error:
        stats.missing = dict.fromkeys(stats.missing, _reason(error))
    finally:
        stats.seconds = time.monotonic() - began


def _read_part(stats: Stats, name: str, until: float) -> None:
    part, alias = PARTS[name], stats.database_of[name]
    left = timedelta(seconds=until - time.monotonic())
    if left <= timedelta(milliseconds=1):
        return
    try:
        with nullcontext() if part.keeps_its_time else time_limit(alias, min(left, PART_LIMIT)):
            found = part.read(alias)
        setattr(stats, name, found)
    except Exception as error:
        if not isinstance(error, Error):
            logger.exception("A part of the statistics failed: %s", name)
        is_late = left < PART_LIMIT and isinstance(error, Error) and timed_out(error)
        stats.missing[name] = NO_TIME if is_late else _reason(error)


def _reason(error: Exception) -> str:
    if isinstance(error, Error) and timed_out(error):
        return f"It took longer than {PART_LIMIT.total_seconds():g} s and was stopped."
    text = " ".join(str(error).split())[:200] or type(error).__name__
    is_away = isinstance(error, OperationalError | InterfaceError)
    return f"The database did not answer: {text}" if is_away else f"It could not be read: {text}"
