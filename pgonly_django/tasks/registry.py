"""From the dotted path in a row back to the Task in the code."""

from __future__ import annotations

import importlib
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.utils.module_loading import import_string

from pgonly_django.compat import Task


class UnknownTaskError(ImportError):
    """The path leads to no task here: not deployed yet, renamed or removed."""


def find_task(path: str, backend: str, queue: str, priority: int, run_at: datetime | None = None) -> Any:
    """The task at `path`, set to how this job was enqueued. Raises UnknownTaskError."""
    task = _placed(path, backend, queue, priority)
    return task if run_at is None else with_run_after(task, run_at)


def with_run_after(task: Any, run_at: datetime) -> Any:
    """The task as it was enqueued for a certain time."""
    return _with(task, run_after=run_at)


@lru_cache(maxsize=1024)
def _placed(path: str, backend: str, queue: str, priority: int) -> Any:
    task = _imported(path)
    if (task.backend, task.queue_name, task.priority) == (backend, queue, priority):
        return task
    return _with(task, backend=backend, queue_name=queue, priority=priority)


def _imported(path: str) -> Any:
    importlib.invalidate_caches()
    try:
        found = import_string(path)
    except (Exception, SystemExit) as error:  # a module may fail with anything while it is imported
        raise UnknownTaskError(f"Cannot import the task {path}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Task):
        raise UnknownTaskError(f"{path} is not a task but a {type(found).__name__}.")
    return found


def _with(task: Any, **changes: Any) -> Any:
    """A changed copy without the backend's validation: the row exists, whatever QUEUES says today."""
    copy = object.__new__(type(task))
    for name in task.__dataclass_fields__:
        object.__setattr__(copy, name, changes.get(name, getattr(task, name)))
    return copy
