"""The statistics that workers would have written of the seeded jobs: a chart counts the jobs that its list shows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.utils import timezone

from example_project.screening.demo.seeding.rows import MODULE, Run, runs_of
from pgonly_django.models import Job, JobStats, State
from pgonly_django.models.job_stats import BOUNDS, BUCKETS, STATS_KEPT, TIMED
from pgonly_django.outcomes import Outcome

Stats = dict[tuple[str, datetime, str, str], JobStats]
# Of the runs of each outcome; others are not counted.
COLUMNS = {outcome.value: outcome.counts for outcome in Outcome}


def write(rows: Iterable[Job]) -> None:
    """Replaces what an earlier demo has left."""
    JobStats.objects.filter(task__startswith=f"{MODULE}.").delete()
    stats: Stats = {}
    for row in rows:
        since, runs = row.ready_at, runs_of(row)
        for run in runs:
            if (kind := COLUMNS.get(run.outcome)) is not None:
                has_failed = row.state == State.FAILED and run is runs[-1]
                _count(stats, row, run, "failed" if has_failed and kind == "retried" else kind, since)
            since = run.ended
    JobStats.objects.bulk_create(stats.values(), batch_size=500)


def _count(stats: Stats, row: Job, run: Run, kind: str, since: datetime) -> None:
    """A second attempt has waited for a moment, since it became ready."""
    waited = (run.began - since) / timedelta(seconds=1) if since == row.ready_at else 0.05
    minute = run.ended.replace(second=0, microsecond=0)
    for granularity, at in (("minute", minute), ("hour", minute.replace(minute=0))):
        if timezone.now() - at > STATS_KEPT[granularity]:
            continue
        counts = stats.setdefault(
            (granularity, at, row.queue, row.task),
            JobStats(
                granularity=granularity, starts_at=at, queue=row.queue, task=row.task,
                waiting_times=[0] * BUCKETS, run_times=[0] * BUCKETS,
            ),
        )  # fmt: skip
        setattr(counts, kind, getattr(counts, kind) + 1)
        counts.failed += kind == "crashed" and row.state == State.FAILED and run.ended == row.finished_at
        counts.waiting_times[_bucket(waited)] += 1
        if kind in TIMED:
            counts.run_times[_bucket((run.ended - run.began) / timedelta(seconds=1))] += 1


def _bucket(seconds: float) -> int:
    return bisect_left(BOUNDS[:-1], seconds)
