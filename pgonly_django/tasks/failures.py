"""What happens after a job has failed: `on_failure` is called, and a dead letter is sent.

PGONLY["QUEUES"] = {"dead": {"task": "screening.tasks.look_into"}} names the task of a queue, and a task's option
`dead_letter_queue="dead"` sends it the ids of its failed jobs.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asgiref.sync import async_to_sync
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils.module_loading import import_string

from pgonly_django.compat import InvalidTask
from pgonly_django.conf import settings
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.queue.enqueue import OF_JOB
from pgonly_django.tasks.arguments import call_signature
from pgonly_django.tasks.metadata import Call
from pgonly_django.tasks.options import TaskOptions, is_on_failure
from pgonly_django.tasks.task import PostgresTask

QUEUE_TASK = 'PGONLY["QUEUES"][{!r}]["task"]'


def on_failure_functions(options: TaskOptions) -> list[Any]:
    """Returns the task's, then that of PGONLY["ON_FAILURE"]. Each is a function or its dotted path."""
    return [each for each in (options.on_failure, settings().on_failure) if each]


def call_on_failure(
    function: Callable[..., Any] | str, task_result: Any, error: BaseException | None
) -> None:
    """Calls the function, and runs the coroutine that it returns. Raises what it raises, and ImportError."""
    called = import_string(function) if isinstance(function, str) else function
    returned = called(task_result, error)
    if inspect.isawaitable(returned):
        async_to_sync(_result_of)(returned)


async def _result_of(awaitable: Any) -> Any:
    return await awaitable


def check_on_failure(**_: object) -> list[checks.CheckMessage]:
    """The system check E011."""
    try:
        path = settings().on_failure
    except ImproperlyConfigured:  # E001 says so
        return []
    if problem := path and _what_is_wrong_with(path):
        message, hint = f'PGONLY["ON_FAILURE"] {problem}', "See docs/how-to/failures.md#on_failure."
        return [checks.Error(message, hint=hint, id="pgonly_django.E011")]
    return []


def _what_is_wrong_with(path: str) -> str:
    try:
        function = import_string(path)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may fail with anything while it is imported
        return f"cannot be imported: {type(error).__name__}: {error}"
    if isinstance(function, str) or not is_on_failure(function):
        return f"must be the dotted path of a function (task_result, error), got {path!r}."
    return ""


def dead_letter_tasks() -> dict[str, Any]:
    """Returns the dotted paths of the tasks, by the names of their queues."""
    queues = settings().queues.items()
    return {name: entry["task"] for name, entry in queues if isinstance(entry, Mapping) and "task" in entry}


def check_dead_letter_queue(queue: str | None) -> None:
    """Raises ImproperlyConfigured where no task would be told of the jobs that fail."""
    known = dead_letter_tasks()
    if queue is None or queue in known:
        return
    near = difflib.get_close_matches(queue, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "it is the dotted path of a task that takes a job's id."
    raise ImproperlyConfigured(f"dead_letter_queue={queue!r} needs {QUEUE_TASK.format(queue)}: {hint}")


def dead_letter_task(queue: str) -> PostgresTask:
    """Returns the task of the dead letters in `queue`, as they are enqueued: their own failures send no further
    letters. Raises ImproperlyConfigured where it cannot be imported, or takes something else than an id."""
    path, place = str(dead_letter_tasks()[queue]), QUEUE_TASK.format(queue)
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


def send_dead_letters(alias: str, queue: str, limit: int) -> int:
    """Sends the letters of at most `limit` failed jobs: exactly once for each failure, since one transaction enqueues
    and marks them. Returns how many. Raises as dead_letter_task()."""
    from pgonly_django.queue.failed_jobs import mark_sent, unsent

    task = dead_letter_task(queue)
    backend: Any = task.get_backend()
    if backend.database != alias:
        there = f"keeps its jobs in {backend.database!r}, and the failed ones are in {alias!r}"
        place = QUEUE_TASK.format(queue)
        raise ImproperlyConfigured(f"{place}: {task.module_path} {there}. Both must be the same.")
    with transaction.atomic(using=alias):
        letters = unsent(alias, queue, limit)
        if letters:
            calls: Iterator[Call] = ((task, [job_id], {}, texts) for job_id, texts in letters.items())
            prepared = zip(letters, backend.prepare_many(calls), strict=True)
            backend.insert_many(
                [(task, new.enqueued_by(f"{OF_JOB}{job_id}")) for job_id, (task, new) in prepared]
            )
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
            dead_letter_task(queue)
        except ImproperlyConfigured as error:
            hint = "See docs/how-to/failures.md#dead-letters."
            found.append(checks.Error(str(error), hint=hint, id="pgonly_django.E010"))
    return found
