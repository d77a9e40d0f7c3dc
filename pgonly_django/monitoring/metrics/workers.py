"""Metrics of workers and of what they do beside jobs: as the database knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from pgonly_django.monitoring.metrics.metric import Metric, Sample
from pgonly_django.monitoring.stats import Stats
from pgonly_django.monitoring.workers import WorkerTotals


def _total(name: str, text: str, value_of: Callable[[WorkerTotals], float | None]) -> Metric:
    def samples(stats: Stats) -> Iterator[Sample]:
        if stats.worker_totals is not None and (value := value_of(stats.worker_totals)) is not None:
            yield (stats.database,), value

    return Metric(name, text, ("worker_totals",), ("database",), samples)


def _late(stats: Stats) -> Iterator[Sample]:
    yield (stats.database,), sum(worker.is_late for worker in stats.workers or ())


def _snapshot(stats: Stats) -> Iterator[Sample]:
    yield (stats.database,), max((each.seconds for each in stats.snapshots or ()), default=0.0)


def _failing(stats: Stats) -> Iterator[Sample]:
    yield (stats.database_of["schedules"],), len(stats.failing_schedules or ())


def _overdue(stats: Stats) -> Iterator[Sample]:
    late = (_late_for(row) for row in stats.schedules or ())
    yield (stats.database_of["schedules"],), max(late, default=0.0)


def _late_for(row: Any) -> float:
    """Seconds. The row has `now`, the database's clock."""
    if row.paused_at is not None or row.next_at is None:
        return 0.0
    late: timedelta = row.now - row.next_at
    return max(late.total_seconds(), 0.0)


METRICS = (
    _total("pgonly_workers_live", "Workers that are live.", lambda totals: totals.live),
    _total("pgonly_workers_asleep", "Live workers that sleep (--sleep-after).", lambda totals: totals.asleep),
    _total(
        "pgonly_workers_silent",
        "Workers that were not stopped and say nothing for half a lease, for an hour or while they hold jobs.",
        lambda totals: totals.silent,
    ),
    Metric(
        "pgonly_workers_late",
        "Workers that hold jobs and whose heartbeat is late; of the 100 that were heard of last.",
        ("workers",),
        ("database",),
        _late,
    ),
    _total(
        "pgonly_workers_threads",
        "Jobs that the live workers may run at a time.",
        lambda totals: totals.threads,
    ),
    _total(
        "pgonly_workers_last_heartbeat_age_seconds",
        "Since the last heartbeat of a live worker; absent where none is live.",
        lambda totals: totals.newest_heartbeat_seconds,
    ),
    Metric(
        "pgonly_oldest_snapshot_seconds",
        "Since the oldest transaction began that keeps vacuum from cleaning up; 0 where none is older than 1 s.",
        ("snapshots",),
        ("database",),
        _snapshot,
    ),
    Metric(
        "pgonly_schedules_failing",
        "Schedules whose last tick could not be enqueued, counted up to 20.",
        ("failing_schedules",),
        ("database",),
        _failing,
    ),
    Metric(
        "pgonly_schedule_overdue_seconds",
        "Since the tick was due that is due for longest; 0 where none is.",
        ("schedules",),
        ("database",),
        _overdue,
    ),
)
