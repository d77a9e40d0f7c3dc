"""From a schedule to a job, by the task's own enqueue()."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from pgonly_django.exceptions import PgonlyError, WrongArgumentsError
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.schedule import Outcome, Schedule, Tick
from pgonly_django.scheduling.declaration import as_scheduled
from pgonly_django.tasks.registry import import_task


class ElsewhereError(PgonlyError):
    """The jobs of a schedule's task are not in the database of the schedule."""

    def __init__(self, task: Any, database: str) -> None:
        super().__init__(
            f"The schedule stands in the database {database!r}, and TASKS[{task.backend!r}], which is the backend of "
            f"{task.module_path}, keeps no jobs there."
        )


class RunRefusedError(PgonlyError):
    """A schedule whose task cannot be enqueued. What enqueue() raised is the cause."""

    def __init__(self, schedule: Schedule, error: BaseException) -> None:
        super().__init__(f"{schedule.name} cannot be run: {type(error).__name__}: {error}")


def task_of(schedule: Schedule, database: str) -> Any:
    """Its task, with the queue, priority and budget of the schedule. Raises UnknownTaskError and ElsewhereError."""
    task = import_task(schedule.task)
    if getattr(task.get_backend(), "database", None) != database:
        raise ElsewhereError(task, database)
    return as_scheduled(task, schedule)


def enqueue(task: Any, schedule: Schedule, at: datetime | None = None) -> dict[str, Any]:
    """The columns of the tick: its job, whose run_at is the tick, or why it has none. The job of another call is no run
    of the schedule, which a later tick might skip for or cancel. Raises as the task's enqueue() does."""
    if not (
        isinstance(schedule.args, list) and isinstance(schedule.kwargs, dict)
    ):  # written by another program
        raise WrongArgumentsError(schedule.task, "args must be a JSON list, and kwargs a JSON object")
    call = task if at is None else task.using(run_after=at)
    result = call.enqueue(*schedule.args, **schedule.kwargs)
    if result.is_duplicate:
        return {"outcome": Outcome.SKIPPED, "reason": f"The job {result.id} has its unique key."}
    return {"job_id": str(result.id)}


def run_now(schedules: QuerySet[Schedule]) -> int:
    """Enqueue each of `schedules` once, beside its ticks, whatever its state. Returns how many. In the caller's
    transaction, all or none. Where another job has the unique key, its tick says so. Raises RunRefusedError."""
    database = schedules.db
    with transaction.atomic(using=database):
        for schedule in schedules:
            try:
                columns = enqueue(task_of(schedule, database), schedule)
            except (Exception, SystemExit) as error:  # code of the project is called, which may even exit
                raise RunRefusedError(schedule, error) from error
            Tick.objects.using(database).create(
                schedule=schedule, tick_at=ClockTimestamp(), by_person=True, **columns
            )
    return len(schedules)
