"""Dead letters: a task is told of each job that has failed.

PGONLY["QUEUES"] = {"dead": {"task": "screening.tasks.look_into"}} names the task of a queue, and a task's option
`dead_letter_queue="dead"` sends it the ids of its failed jobs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils.module_loading import import_string

from pgonly_django.compat import InvalidTask
from pgonly_django.conf import settings
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.queue.dead_letters import mark_sent, unsent
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.metadata import Call
from pgonly_django.tasks.task import PostgresTask

PLACE = 'PGONLY["QUEUES"][{!r}]["task"]'


def dead_letter_tasks() -> dict[str, Any]:
    """The dotted paths of the tasks, by the names of their queues."""
    queues = settings().queues.items()
    return {name: entry["task"] for name, entry in queues if isinstance(entry, Mapping) and "task" in entry}


def required(queue: str | None) -> str | None:
    """`queue`. Raises ImproperlyConfigured where no task would be told of the jobs that fail."""
    known = dead_letter_tasks()
    if queue is None or queue in known:
        return queue
    near = difflib.get_close_matches(queue, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "it is the dotted path of a task that takes a job's id."
    raise ImproperlyConfigured(f"dead_letter_queue={queue!r} needs {PLACE.format(queue)}: {hint}")


def task_of(queue: str) -> PostgresTask:
    """The task of the dead letters in `queue`, as they are enqueued: their own failures send no further letters.
    Raises ImproperlyConfigured where it cannot be imported, or takes something else than an id."""
    path, place = str(dead_letter_tasks()[queue]), PLACE.format(queue)
    try:
        task = import_string(path)
    except (Exception, SystemExit) as error:  # a module may fail with anything while it is imported
        raise ImproperlyConfigured(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(task, PostgresTask):
        kind = type(task).__name__
        raise ImproperlyConfigured(f"{place} must be the dotted path of a task, got {path!r}, a {kind}.")
    try:
        call_signature(task.func, task.takes_context).check(["the id of the failed job"], {})
        return task.using(queue_name=queue, dead_letter_queue=None)
    except (WrongArgumentsError, InvalidTask) as error:
        rule = "must take one argument, the id of the failed job, and its queue"
        raise ImproperlyConfigured(f"{place} {rule}: {error}") from error


def send(alias: str, queue: str, limit: int) -> int:
    """Send the letters of at most `limit` failed jobs: exactly once for each failure, since one transaction enqueues
    and marks them. A letter has the metadata of its job. Returns how many. Raises as task_of()."""
    task = task_of(queue)
    backend: Any = task.get_backend()
    if (database := backend.database) != alias:
        there = f"keeps its jobs in {database!r}, and the failed ones are in {alias!r}"
        raise ImproperlyConfigured(
            f"{PLACE.format(queue)}: {task.module_path} {there}. Both must be the same."
        )
    with transaction.atomic(using=alias):
        letters = unsent(alias, queue, limit)
        if letters:
            calls: Iterator[Call] = ((task, [job_id], {}, meta) for job_id, meta in letters.items())
            backend.insert_many(backend.prepare_many(calls))
            mark_sent(alias, letters)
    return len(letters)


def check_dead_letter_tasks(**_: object) -> list[checks.CheckMessage]:
    """The system check E010."""
    found: list[checks.CheckMessage] = []
    try:
        queues = dead_letter_tasks()
    except ImproperlyConfigured:  # E001 says so
        return found
    for queue in queues:
        try:
            task_of(queue)
        except ImproperlyConfigured as error:
            hint = "See docs/how-to/failures.md#dead-letters."
            found.append(checks.Error(str(error), hint=hint, id="pgonly_django.E010"))
    return found
