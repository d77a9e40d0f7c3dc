"""From the dotted path in a row back to the Task in the code."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.utils.module_loading import import_string

from pgonly_django.compat import Task
from pgonly_django.tasks.task import PostgresTask


class UnknownTaskError(ImportError):
    """The path leads to no task here: not deployed yet, renamed or removed."""


class UnfitArgumentsError(UnknownTaskError):
    """The task is here, with another signature than where the job was enqueued: amid a deploy."""


def find_task(path: str, backend: str, queue: str, priority: int, run_at: datetime | None = None) -> Any:
    """The task at `path`, set to how this job was enqueued. Raises UnknownTaskError."""
    task = _placed(path, backend, queue, priority)
    return task if run_at is None else with_run_after(task, run_at)


def task_to_read(path: str, backend: str, queue: str, priority: int, run_at: datetime | None = None) -> Any:
    """See find_task(); where that raises, a task of this name that raises the same when it is called."""
    try:
        return find_task(path, backend, queue, priority, run_at)
    except UnknownTaskError as error:
        place = {"backend": backend, "queue_name": queue, "priority": priority, "run_after": run_at}
        defaults = {spec.name: spec.default for spec in fields(PostgresTask)}
        return _unvalidated(PostgresTask, {**defaults, **place, "func": _raising(str(error), path)})


def _raising(message: str, path: str) -> Callable[..., Any]:
    def gone(*_args: Any, **_kwargs: Any) -> Any:
        raise UnknownTaskError(message)

    module, _, name = path.rpartition(".")
    gone.__module__, gone.__qualname__, gone.__name__ = module, name, name
    return gone


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
    """A changed copy."""
    values = {name: getattr(task, name) for name in task.__dataclass_fields__}
    return _unvalidated(type(task), {**values, **changes})


def _unvalidated(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A task without the backend's validation: the row exists, whatever QUEUES says today."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made
