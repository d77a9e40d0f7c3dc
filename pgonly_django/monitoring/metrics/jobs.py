"""Metrics of jobs, and of their runs by queue and task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import inf

from pgonly_django.models.job_stats import BOUNDS, BUCKETS
from pgonly_django.monitoring.metrics.metric import OTHERS, Buckets, BucketsSample, Kind, Metric, Sample
from pgonly_django.monitoring.runs import Runs
from pgonly_django.monitoring.stats import Stats

OUTCOMES = ("succeeded", "failed", "retried", "interrupted", "crashed")
OF_TASK = ("database", "queue", "task")
# Each is twice the one before: 4 ms to 4 h 40 min. Those of the statistics are closer, and reach further.
SHOWN_BOUNDS = tuple(range(4, 49, 2))


def _states(stats: Stats) -> Iterator[Sample]:
    for state, counted in (stats.states or {}).items():
        yield (stats.database, str(state.value)), counted.number


def _failed(stats: Stats) -> Iterator[Sample]:
    if stats.failed is not None:
        yield (stats.database,), stats.failed.last_hour


def _runs(stats: Stats) -> Iterator[tuple[tuple[str, ...], Runs]]:
    for runs in stats.runs.runs if stats.runs else ():
        yield (stats.database, runs.queue or OTHERS, runs.task or OTHERS), runs


def _ended(stats: Stats) -> Iterator[Sample]:
    for labels, runs in _runs(stats):
        for outcome in OUTCOMES:
            yield (*labels, outcome), getattr(runs, outcome)


def _left_out(stats: Stats) -> Iterator[Sample]:
    if stats.runs is not None:
        yield (stats.database,), stats.runs.left_out


def _histogram(times_of: Callable[[Runs], Sequence[int]]) -> Callable[[Stats], Iterator[BucketsSample]]:
    def samples(stats: Stats) -> Iterator[BucketsSample]:
        for labels, runs in _runs(stats):
            if runs.task:
                yield labels, buckets(times_of(runs))

    return samples


def buckets(counts: Sequence[int]) -> Buckets:
    """The buckets of SHOWN_BOUNDS: of the statistics' own some are added up, so that none is an estimate."""
    upto = list(accumulate([*counts, *[0] * BUCKETS][:BUCKETS]))
    return [*((BOUNDS[number], upto[number]) for number in SHOWN_BOUNDS), (inf, upto[-1])]


METRICS = (
    Metric(
        "pgonly_jobs",
        "Jobs by state, counted up to 10,000 of each.",
        ("states",),
        ("database", "state"),
        _states,
    ),
    Metric(
        "pgonly_jobs_failed_last_hour",
        "Jobs that failed for the last time within the last hour.",
        ("failed",),
        ("database",),
        _failed,
    ),
    Metric(
        "pgonly_runs_total",
        "Runs that have ended, by what came of them. It begins again at midnight, UTC.",
        ("runs",),
        (*OF_TASK, "outcome"),
        _ended,
        Kind.COUNTER,
    ),
    Metric(
        "pgonly_wait_duration_seconds",
        "From ready to the start of the run. It begins again at midnight, UTC.",
        ("runs",),
        OF_TASK,
        _histogram(lambda runs: runs.waiting_times),
        Kind.HISTOGRAM,
    ),
    Metric(
        "pgonly_run_duration_seconds",
        "How long runs took. It begins again at midnight, UTC.",
        ("runs",),
        OF_TASK,
        _histogram(lambda runs: runs.run_times),
        Kind.HISTOGRAM,
    ),
    Metric(
        "pgonly_tasks_left_out",
        'Pairs of a queue and a task that are counted together as "(other)", since there are more than 100.',
        ("runs",),
        ("database",),
        _left_out,
    ),
)
