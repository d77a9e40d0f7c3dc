"""The result of a job that is made of its row."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pgonly_django.queue.carried import shown_of
from pgonly_django.tasks.registry import UnknownTaskError, find_task, unvalidated, with_fields
from pgonly_django.tasks.result import STATUS, JobResult, build_result
from pgonly_django.tasks.task import PostgresTask

if TYPE_CHECKING:
    from pgonly_django.models import Job
    from pgonly_django.queue.enqueue import Template


def result_of(job: Job) -> JobResult:
    is_recorded = job.state not in ("running", "succeeded")  # its last run, among the errors
    return build_result(
        task=task_of(job),
        id=str(job.id),
        status=STATUS[job.state],
        backend=job.backend,
        args=job.args,
        kwargs=job.kwargs,
        enqueued_at=job.enqueued_at,
        started_at=job.started_at,
        last_attempted_at=job.attempted_at,
        finished_at=job.finished_at,
        errors=job.errors,
        worker_id=None if is_recorded else str(job.worker_id),
        _return_value=job.result,
        _attempts=job.attempt,
        _carried=shown_of(job),
    )


def task_of(job: Job | Template) -> Any:
    """Returns what find_task() does. Where that raises, a stand-in of that name raises the same when it is called."""
    try:
        task = find_task(job.task, job.backend, job.queue, job.priority)
        return task if job.run_at is None else with_fields(task, run_after=job.run_at)
    except UnknownTaskError as error:
        message = str(error)

    def unknown(*_args: Any, **_kwargs: Any) -> Any:
        raise UnknownTaskError(message)

    module, _, name = job.task.rpartition(".")
    unknown.__module__, unknown.__qualname__, unknown.__name__ = module, name, name
    known = {"func": unknown, "backend": job.backend, "queue_name": job.queue, "priority": job.priority}
    defaults = {spec.name: spec.default for spec in fields(PostgresTask)}
    return unvalidated(PostgresTask, {**defaults, **known, "run_after": job.run_at})
