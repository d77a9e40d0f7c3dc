"""Queues: who serves them, and how long jobs wait."""

from __future__ import annotations

from collections.abc import Iterator

from pgonly_django.models import Job
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.our_tables import belongs_to
from pgonly_django.monitoring.doctor.reading import reading
from pgonly_django.monitoring.doctor.words import HOUR, MINUTE, database_flag
from pgonly_django.monitoring.queues import QueueFigures, queues
from pgonly_django.monitoring.workers import served_queues
from pgonly_django.wording import duration

# So long a job may wait for a worker that is just being replaced, or for a tick.
UNSERVED_SECONDS = 15
LATE_SECONDS, LATE_ERROR_SECONDS = 5 * MINUTE, HOUR


def examine_queues(alias: str) -> Iterator[Finding]:
    """D111: no live worker serves a queue. D112: its jobs wait long. D113: it is paused."""
    if not belongs_to(alias, Job):
        return
    with reading(alias):
        found, served = queues(alias), served_queues(alias)
    for queue in found:
        waited = queue.oldest_seconds or 0
        if queue.paused_at is not None:
            if queue.waiting.number:
                yield _paused(alias, queue)
        elif served is not None and queue.name not in served:
            if waited >= UNSERVED_SECONDS:
                yield _unserved(alias, queue)
        elif waited >= LATE_SECONDS:
            yield _late(queue, waited)


def _data(queue: QueueFigures) -> dict[str, object]:
    return {
        "queue": queue.name,
        "waiting": queue.waiting.number,
        "running": queue.running.number,
        "oldest_seconds": queue.oldest_seconds,
    }


def _waiting(queue: QueueFigures) -> str:
    waiting = f"{queue.waiting.label} {'job waits' if queue.waiting.number == 1 else 'jobs wait'}"
    return f"{waiting}, the oldest for {duration(queue.oldest_seconds or 0)}"


def _unserved(alias: str, queue: QueueFigures) -> Finding:
    return Finding(
        id="D111",
        level=Level.ERROR,
        fact=f"No live worker serves the queue {queue.name!r}: {_waiting(queue)}.",
        advice=f"Start one: manage.py runworker --queues {queue.name}{database_flag(alias)}",
        data=_data(queue),
    )


def _late(queue: QueueFigures, waited: float) -> Finding:
    return Finding(
        id="D112",
        level=Level.ERROR if waited >= LATE_ERROR_SECONDS else Level.WARNING,
        fact=f"In the queue {queue.name!r} {_waiting(queue)}; {queue.running.label} run.",
        advice="Start more workers, or raise runworker --threads. If its jobs wait for a limit of the queue, of a key "
        "or of a limiter, that limit is what to raise: the page of a job in the admin says what it waits for.",
        data=_data(queue),
    )


def _paused(alias: str, queue: QueueFigures) -> Finding:
    return Finding(
        id="D113",
        level=Level.INFO,
        fact=f"The queue {queue.name!r} is paused since {queue.paused_at:%Y-%m-%d %H:%M}: {_waiting(queue)}.",
        advice=f"manage.py pgonly_jobs resume {queue.name}{database_flag(alias)}",
        data=_data(queue),
    )
