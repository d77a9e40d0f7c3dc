"""From a schedule to a job, as the task's own enqueue() makes one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from pgonly_django.exceptions import PgonlyError
from pgonly_django.models.job import FINISHED, ClockTimestamp, Job
from pgonly_django.models.job_rows import UNIQUE_ROW
from pgonly_django.models.queue import Queue
from pgonly_django.models.schedule import CatchUp, Overlap, Schedule, Tick, TickOutcome, lock
from pgonly_django.queue.enqueue import OF_SCHEDULE
from pgonly_django.scheduling.declaration import as_scheduled
from pgonly_django.tasks.registry import import_task

# The number of ticks of each outcome that are kept of a schedule: the newest.
TICKS_SEEN = 100


class ElsewhereError(PgonlyError):
    """The jobs of a schedule's task are not in the database of the schedule."""

    def __init__(self, task: Any, database: str) -> None:
        super().__init__(
            f"The schedule stands in the database {database!r}, and TASKS[{task.backend!r}], which is the backend of "
            f"{task.module_path}, keeps no jobs there."
        )


class RunRefusedError(PgonlyError):
    """The task of a schedule cannot be enqueued. What enqueue() raised is the cause."""

    def __init__(self, schedule: Schedule, error: BaseException) -> None:
        super().__init__(f"{schedule.name} cannot be run: {type(error).__name__}: {error}")


def task_of(schedule: Schedule, database: str) -> Any:
    """Returns the schedule's task with its queue, priority and budget. Raises UnknownTaskError and ElsewhereError."""
    task = import_task(schedule.task)
    if getattr(task.get_backend(), "database", None) != database:
        raise ElsewhereError(task, database)
    return as_scheduled(task, schedule)


def enqueue(task: Any, schedule: Schedule, at: datetime | None = None) -> dict[str, Any]:
    """Returns the columns of the tick: its job, whose run_at is the tick, or why it has none. The job of another call
    is not a run of the schedule, which a later tick might skip for or cancel. Raises as the task's enqueue() does."""
    call = task if at is None else task.using(run_after=at)
    backend = call.get_backend()
    ((_task, new),) = backend.prepare_many([(call, schedule.args, schedule.kwargs, None)])
    result = backend.insert(call, new.enqueued_by(f"{OF_SCHEDULE}{schedule.name}"))
    if result.is_duplicate:
        return {"outcome": TickOutcome.SKIPPED, "reason": f"The job {result.id} has its unique key."}
    return {"job_id": str(result.id)}


def run_now(schedules: QuerySet[Schedule]) -> int:
    """Enqueues each of `schedules` once, beside its ticks, whatever its state, in the caller's transaction: all or
    none. Returns the number of ticks. If another job has the unique key, the tick says so. Raises RunRefusedError."""
    database = schedules.db
    with transaction.atomic(using=database):
        locked = lock(database, [schedule.pk for schedule in schedules])  # nobody deletes them in between
        for schedule in locked:
            try:
                columns = enqueue(task_of(schedule, database), schedule)
            except (Exception, SystemExit) as error:  # code of the project is called, which may even exit
                raise RunRefusedError(schedule, error) from error
            Tick.objects.using(database).create(
                schedule=schedule, tick_at=ClockTimestamp(), by_person=True, **columns
            )
    return len(locked)


def reason_to_skip(schedule: Schedule, queue: str, database: str) -> str | None:
    """Returns why the present tick does not run; "" when it runs. Cancels the earlier runs if the rule says so. Returns
    None while an earlier run that was asked to stop still has the unique key: the tick's job can be enqueued after its
    end. A paused queue takes at most one run of a schedule: it waits there, and runs after the pause.
    """
    is_paused = Queue.objects.using(database).filter(name=queue, paused_at__isnull=False).exists()
    said_of_pause = f"The queue {queue} is paused."
    if is_paused and schedule.catch_up == CatchUp.NONE:
        return said_of_pause
    if schedule.overlap == Overlap.ALLOW and not is_paused:
        return ""
    earlier = unfinished(schedule, database)
    if schedule.overlap == Overlap.REPLACE:
        earlier.filter(cancel_requested_at=None).cancel()
        return None if earlier.filter(UNIQUE_ROW).exists() else ""
    job = earlier.only("id", "state").first()
    if job is None:
        return ""
    return said_of_pause if is_paused else f"An earlier run is {job.get_state_display().lower()}."


def unfinished(schedule: Schedule, database: str) -> Any:
    """Returns the unfinished jobs of the newest ticks of a schedule. A job that was pruned has finished."""
    ids = [tick.job_id for tick in newest_runs(schedule, database) if tick.job_id]
    return Job.objects.using(database).filter(pk__in=ids).exclude(state__in=FINISHED)


def newest_runs(schedule: Schedule, database: str) -> QuerySet[Tick]:
    """Returns the newest runs of a schedule. Index: pgonly_tick_once."""
    ticks: QuerySet[Tick] = Tick.objects.using(database).filter(schedule=schedule, job_id__isnull=False)
    return ticks.order_by("-tick_at").only("job_id")[:TICKS_SEEN]
