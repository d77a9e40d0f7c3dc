"""run_again(): a new job with the call of one that is there, as it was or with other arguments."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import OperationalError

from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import PgonlyError
from pgonly_django.models import Job
from pgonly_django.queue.enqueue import aware
from pgonly_django.tasks.editing import UnfitCallError
from pgonly_django.tasks.options import restored
from pgonly_django.tasks.registry import UnknownTaskError, backend_of, find_task
from pgonly_django.tasks.result import JobResult
from pgonly_django.tasks.task import PostgresTask


def run_again(
    job: Job, *, queue: str, priority: int, run_at: datetime | None, args: Any, kwargs: Any
) -> JobResult:
    """Enqueue the task of `job` once more; `run_at` None: now. The options of .using() that its row has are those of
    the new job, too: max_attempts, max_runtime and those without a column; and its metadata. Unique keys hold: the
    result may be that of another job (`is_duplicate`). Raises UnfitCallError, in words, for what enqueue() refuses."""
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
    columns = {"max_attempts": job.max_attempts, "max_runtime": job.max_runtime}
    metadata = {"metadata": job.metadata} if isinstance(job.metadata, dict) else {}
    changed = {name: value for name, value in columns.items() if value != getattr(usual, name)}
    return stored | metadata | changed
