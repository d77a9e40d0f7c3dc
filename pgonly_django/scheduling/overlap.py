"""What a tick does while an earlier run of its schedule is unfinished, or its queue is paused."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from pgonly_django.models.job import FINISHED, UNIQUE_ROW, Job
from pgonly_django.models.queue import Queue
from pgonly_django.models.schedule import CatchUp, Overlap, Schedule, Tick

# Ticks of each outcome that are kept of a schedule; the newest.
KEPT = 100


def reason_to_skip(schedule: Schedule, queue: str, database: str) -> str:
    """Why the present tick does not run; "" when it runs. Cancels the earlier runs where the rule says so.

    A paused queue takes at most one run of a schedule: it waits there, and runs after the pause.
    """
    is_paused = is_queue_paused(queue, database)
    if is_paused and schedule.catch_up == CatchUp.NONE:
        return f"The queue {queue} is paused."
    if schedule.overlap == Overlap.ALLOW and not is_paused:
        return ""
    earlier = unfinished(schedule, database)
    if schedule.overlap == Overlap.REPLACE:
        earlier.filter(cancel_requested_at=None).cancel()
        return ""
    job = earlier.only("id", "state").first()
    if job is None:
        return ""
    return (
        f"The queue {queue} is paused."
        if is_paused
        else f"An earlier run is {job.get_state_display().lower()}."
    )


def waits_for_replaced(schedule: Schedule, database: str) -> bool:
    """Whether an earlier run that was asked to stop still has its unique key: the tick's own job can be enqueued once
    that run has ended."""
    if schedule.overlap != Overlap.REPLACE:
        return False
    running: bool = unfinished(schedule, database).filter(UNIQUE_ROW).exists()
    return running


def unfinished(schedule: Schedule, database: str) -> Any:
    """The jobs of its newest ticks that have not finished. A job that was pruned has."""
    ids = [tick.job_id for tick in newest_runs(schedule, database) if tick.job_id]
    return Job.objects.using(database).filter(pk__in=ids).exclude(state__in=FINISHED)


def newest_runs(schedule: Schedule, database: str) -> QuerySet[Tick]:
    """Index: pgonly_tick_once."""
    ticks: QuerySet[Tick] = Tick.objects.using(database).filter(schedule=schedule, job_id__isnull=False)
    return ticks.order_by("-tick_at").only("job_id")[:KEPT]


def is_queue_paused(queue: str, database: str) -> bool:
    return Queue.objects.using(database).filter(name=queue, paused_at__isnull=False).exists()
