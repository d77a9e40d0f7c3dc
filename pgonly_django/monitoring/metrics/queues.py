"""Metrics of queues. A row of them is there for QUEUES_AT_MOST queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest

from pgonly_django.monitoring.metrics.metric import Metric, Sample
from pgonly_django.monitoring.queues import QueueFigures
from pgonly_django.monitoring.stats import Stats

QUEUES_AT_MOST = 100


def shown(stats: Stats) -> list[QueueFigures]:
    """Those in which a job has waited longest, then those with most jobs."""
    return nsmallest(QUEUES_AT_MOST, stats.queues or (), key=_by_need)


def _by_need(queue: QueueFigures) -> tuple[float, int, str]:
    return -(queue.oldest_seconds or 0.0), -(queue.waiting.number + queue.running.number), queue.name


def _of_each(value_of: Callable[[QueueFigures], float | None]) -> Callable[[Stats], Iterator[Sample]]:
    def samples(stats: Stats) -> Iterator[Sample]:
        for queue in shown(stats):
            if (value := value_of(queue)) is not None:
                yield (stats.database, queue.name), value

    return samples


def _served(stats: Stats) -> Iterator[Sample]:
    if stats.served is not None:
        for queue in shown(stats):
            yield (stats.database, queue.name), float(stats.served.has(queue.name))


def _left_out(stats: Stats) -> Iterator[Sample]:
    yield (stats.database,), max((stats.queue_count or 0) - len(shown(stats)), 0)


def _metric(name: str, text: str, value_of: Callable[[QueueFigures], float | None]) -> Metric:
    return Metric(name, text, ("queues",), ("database", "queue"), _of_each(value_of))


METRICS = (
    _metric(
        "pgonly_queue_waiting_jobs",
        "Jobs that are ready, or due, counted up to 1,000 of each queue.",
        lambda queue: queue.waiting.number,
    ),
    _metric(
        "pgonly_queue_running_jobs",
        "Jobs that run, counted up to 1,000 of each queue.",
        lambda queue: queue.running.number,
    ),
    _metric(
        "pgonly_queue_oldest_waiting_seconds",
        "Since the job that has waited longest became ready, or was due; 0 where none waits.",
        lambda queue: queue.oldest_seconds or 0.0,
    ),
    _metric(
        "pgonly_queue_paused",
        "1 while a person has paused the queue.",
        lambda queue: float(queue.paused_at is not None),
    ),
    Metric(
        "pgonly_queue_served",
        "1 while a live worker takes jobs of the queue.",
        ("queues", "served"),
        ("database", "queue"),
        _served,
    ),
    _metric(
        "pgonly_queue_running_limit",
        "How many jobs of the queue may run at a time; only of queues that have this limit.",
        lambda queue: None if queue.row is None else queue.row.max_running,
    ),
    Metric(
        "pgonly_queues_left_out",
        "Queues that have no metrics, since there are more than 100.",
        ("queues", "queue_count"),
        ("database",),
        _left_out,
    ),
)
