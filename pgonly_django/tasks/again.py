"""run_again(): a new job with the call of one that is there, as it was or with other arguments."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import OperationalError

from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import PgonlyError
from pgonly_django.models import Job
from pgonly_django.queue.enqueue import aware
from pgonly_django.tasks.dead_letters import dead_letter_tasks
from pgonly_django.tasks.editing import UnfitCallError
from pgonly_django.tasks.keys import stored_key
from pgonly_django.tasks.options import TaskOptions, restored
from pgonly_django.tasks.registry import UnknownTaskError, backend_of, find_task
from pgonly_django.tasks.result import JobResult
from pgonly_django.tasks.retention import failed_retention_of
from pgonly_django.tasks.task import PostgresTask
from pgonly_django.tasks.uniqueness import kept_for_its_key


def run_again(
    job: Job, *, queue: str, priority: int, run_at: datetime | None, args: Any, kwargs: Any
) -> JobResult:
    """Enqueue the task of `job` once more; `run_at` None: now. The options of .using() that its row has are those of
    the new job, too: all but `unique` and its kin and `idempotency_key`; and its metadata. Unique keys hold: the result
    may be that of another job (`is_duplicate`). Raises UnfitCallError, in words, for what enqueue() refuses."""
    if not (isinstance(args, list) and isinstance(kwargs, dict)):
        raise UnfitCallError("The arguments must be a list and an object of names.")
    try:
        task = find_task(job.task, job.backend, queue, priority)
        backend = backend_of(task)
        moment = None if run_at is None else aware(run_at)
        result: JobResult = task.using(run_after=moment, **_options(job, task, backend)).enqueue(
            *args, **kwargs
        )
    except (PgonlyError, UnknownTaskError, InvalidTask) as error:
        raise UnfitCallError(str(error)) from error
    except OperationalError:
        raise
    except Exception as error:
        raise UnfitCallError(f"{type(error).__name__}: {error}") from error
    return result


def _options(job: Job, task: Any, backend: Any) -> dict[str, Any]:
    """A plain Task, of Django's own decorator, has none."""
    if not isinstance(task, PostgresTask):
        return {}
    usual = backend.options_of(task)
    stored = restored(job.options if isinstance(job.options, dict) else None)
    metadata = {"metadata": job.metadata} if isinstance(job.metadata, dict) else {}
    changed = {name: value for name, value in _columns(job, usual).items() if value != getattr(usual, name)}
    return stored | metadata | changed | _own_key(job, task, backend)


def _columns(job: Job, usual: TaskOptions) -> dict[str, Any]:
    """The options that have a column, as the row has them. One that the row cannot tell is as `usual`."""
    queue = job.dead_letter_queue
    columns: dict[str, Any] = {
        "max_attempts": job.max_attempts,
        "max_runtime": job.max_runtime,
        "retention": _retention(job.retention, usual.retention, usual),
        "failed_retention": _retention(
            failed_retention_of(job.failed_retention), usual.failed_retention, usual
        ),
        "slots": job.slots or 1,
    }
    if queue is None or queue in dead_letter_tasks():  # not one that has no task any more
        columns["dead_letter_queue"] = queue
    if job.concurrency_limit is not None:  # the row of a job without a key has none
        columns["concurrency_limit"] = job.concurrency_limit
    return columns


def _retention(stored: timedelta | None, usual: timedelta | None, options: TaskOptions) -> timedelta | None:
    """That of a row with a unique key may have been made longer for its key."""
    return usual if stored == kept_for_its_key(usual, options) else stored


def _own_key(job: Job, task: Any, backend: Any) -> dict[str, Any]:
    """The concurrency key, where .using() gave the job another one than its task makes of its arguments. A key that is
    stored as a hash cannot be given again."""
    key = job.concurrency_key
    try:
        ((_task, new),) = backend.prepare_many([(task, job.args, job.kwargs, None)])
    except Exception:  # noqa: BLE001 - of arguments that do not fit any more nothing is known
        return {}
    if key == (new.own or {}).get("concurrency_key") or (key is not None and stored_key(key) != key):
        return {}
    return {"concurrency_key": None if key is None else lambda *_args, **_kwargs: key}
