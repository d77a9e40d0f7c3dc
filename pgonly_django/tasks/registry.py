"""From the dotted path in a row back to the Task in the code. A task that stands at the path comes before one that has
it as an alias."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

from pgonly_django.compat import InvalidTaskBackend, Task
from pgonly_django.tasks.aliases import claimed
from pgonly_django.tasks.task import PostgresTask

if TYPE_CHECKING:
    from pgonly_django.models import Job


import logging
import sys
import time

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from pgonly_django.events import emit


class UnknownTaskError(ImportError):
    """There is no task at this path: it is not deployed yet, was renamed or removed."""


class UnfitArgumentsError(UnknownTaskError):
    """The task here has another signature than where the job was enqueued, as happens during a deploy."""


MODULE = "tasks"
TRY_AGAIN_SECONDS = 30.0

# Of modules that could not be imported: why, and when they are tried again, by time.monotonic().
_failures: dict[str, tuple[str, float]] = {}


@lru_cache(maxsize=1024)
def find_task(path: str, backend: str, queue: str, priority: int) -> Any:
    """The task at `path`, set to how this job was enqueued. Raises UnknownTaskError."""
    task = import_task(path)
    if (task.backend, task.queue_name, task.priority) == (backend, queue, priority):
        return task
    return with_fields(task, backend=backend, queue_name=queue, priority=priority)


def import_task(path: str) -> Any:
    """The task at `path`, or the one that has it among its aliases. Raises UnknownTaskError."""
    try:
        return _import(path)
    except UnknownTaskError:
        if path not in claimed():
            import_tasks()  # the task may have moved to another module, which is not imported yet
        if path not in claimed():
            raise
        return claimed()[path]


def _import(path: str) -> Any:
    with suppress(KeyError, RuntimeError):  # another thread removes or adds an entry in this moment
        importlib.invalidate_caches()
    try:
        task = import_string(path)
    except (Exception, SystemExit) as error:  # a module may fail with anything while it is imported
        raise UnknownTaskError(f"Cannot import the task {path}: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise UnknownTaskError(f"{path} is not a task but a {type(task).__name__}.")
    return task


def task_of(job: Job) -> Any:
    """See find_task(); where that raises, a stand-in of the task's name that raises the same when it is called."""
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
    return _unvalidated(PostgresTask, {**defaults, **known, "run_after": job.run_at})


def backend_of(task: Any) -> Any:
    """Raises UnknownTaskError when TASKS has no such entry (any more), or it is not ours."""
    try:
        backend = task.get_backend()
    except InvalidTaskBackend as error:
        raise UnknownTaskError(f"TASKS has no backend {task.backend!r} for {task.module_path}.") from error
    if not hasattr(backend, "options_of"):
        kind = type(backend).__name__
        raise UnknownTaskError(f"TASKS[{task.backend!r}] is a {kind}, not a PostgresBackend.")
    return backend


def with_fields(task: Any, **changes: Any) -> Any:
    """A copy of the task with these fields changed, not validated."""
    values = {name: getattr(task, name) for name in task.__dataclass_fields__}
    return _unvalidated(type(task), {**values, **changes})


def _unvalidated(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A task that no backend has validated: its row exists, whatever QUEUES says today."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def import_tasks() -> dict[str, str]:
    """Why which modules cannot be imported. Each is logged once, is tried again by a call that comes 30 s later or
    more, and keeps no other app's tasks from being known. Imports nothing before the apps are loaded."""
    for app in apps.get_app_configs() if apps.ready else ():
        path = f"{app.name}.{MODULE}"
        if path in _failures and time.monotonic() < _failures[path][1]:
            continue
        if path in sys.modules or (app.module is not None and module_has_submodule(app.module, MODULE)):
            _import_module(path)
    return {path: reason for path, (reason, _) in tuple(_failures.items())}


def _import_module(path: str) -> None:
    """Waits where another thread is importing the module."""
    try:
        importlib.import_module(path)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module may fail with anything while it is imported
        reason = f"{type(error).__name__}: {error}"
        message = f"{path} cannot be imported, so its tasks and schedules are unknown here: {reason}"
        if path not in _failures:
            emit("scheduling.module_not_imported", message, level=logging.ERROR, path=path)
        _failures[path] = reason, time.monotonic() + TRY_AGAIN_SECONDS
    else:
        _failures.pop(path, None)
