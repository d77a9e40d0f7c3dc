"""Tasks by their paths: which modules declare them, and from the path in a row back to the task in the code, also by
a former path, `@task(aliases=["shop.tasks.old_name"])`. A task that stands at the path comes before one that has it as
an alias."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from django.apps import apps
from django.utils.module_loading import import_string, module_has_submodule

from pgonly_django.compat import InvalidTask, InvalidTaskBackend, Task
from pgonly_django.database.statement import printable
from pgonly_django.events import emit
from pgonly_django.tasks.options import PATH_LENGTH

RULE = 'a list of dotted paths such as ["shop.tasks.old_name"]'

# The tasks by their paths and by their aliases, of all modules that are imported so far.
_declared: dict[str, Any] = {}
_claimed: dict[str, Any] = {}

MODULE = "tasks"
TRY_AGAIN_SECONDS = 30.0

# Of modules that could not be imported: why, and when they are tried again, by time.monotonic().
_failures: dict[str, tuple[str, float]] = {}


class UnknownTaskError(ImportError):
    """There is no task at this path: it is not deployed yet, or was renamed or removed."""


class UnfitArgumentsError(UnknownTaskError):
    """The task here has another signature than where the job was enqueued, as happens during a deploy."""


@lru_cache(maxsize=1024)
def find_task(path: str, backend: str, queue: str, priority: int) -> Any:
    """Returns the task at `path`, set to how this job was enqueued. Raises UnknownTaskError."""
    task = import_task(path)
    if (task.backend, task.queue_name, task.priority) == (backend, queue, priority):
        return task
    return with_fields(task, backend=backend, queue_name=queue, priority=priority)


def import_task(path: str) -> Any:
    """Returns the task at `path`, or the one that has it among its aliases. Raises UnknownTaskError."""
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
    """Returns a copy of the task with these fields changed, not validated."""
    values = {name: getattr(task, name) for name in task.__dataclass_fields__}
    return unvalidated(type(task), {**values, **changes})


def unvalidated(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Returns a task that no backend has validated: its row exists, whatever QUEUES says today."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def import_tasks() -> dict[str, str]:
    """The modules that cannot be imported, with the reasons. Each is logged once, is tried again by a call that comes
    30 s later or more, and keeps no other app's tasks from being known. Imports nothing before the apps are loaded."""
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


def validated_aliases(aliases: Any, place: str) -> tuple[str, ...]:
    """Raises InvalidTask, with the `place` of the task, for anything except dotted paths, each named once."""
    if not isinstance(aliases, list | tuple):
        raise InvalidTask(f"{place}: aliases must be {RULE}, got {aliases!r}.")
    for alias in aliases:
        if not _is_path(alias):
            raise InvalidTask(f"{place}: aliases must be {RULE}, got {alias!r} among them.")
        if aliases.count(alias) > 1:
            raise InvalidTask(f"{place}: aliases has {alias!r} twice. Name each path once.")
    return tuple(aliases)


def claim(task: Any, place: str) -> None:
    """Notes the path and the aliases of a task. Raises InvalidTask where another task has one of them, or stands at
    that path. A module that is imported again replaces what it claimed."""
    path = task.module_path
    if (claimant := _claimed.get(path)) is not None:
        raise InvalidTask(f"{place}: {path} is an alias of {claimant.module_path}. {_remedy(path)}")
    for alias in task.aliases:
        if alias == path:
            raise InvalidTask(f"{place}: aliases has the task's own path. Take {alias!r} out.")
        if (claimant := _claimed.get(alias)) is not None and claimant.module_path != path:
            other = f"{claimant.module_path} has the alias {alias!r} too"
            raise InvalidTask(f"{place}: {other}. Jobs of that path can run one task only.")
        if is_another_task(imported(alias), task):
            raise InvalidTask(f"{place}: the alias {alias!r} is another task. {_remedy(alias)}")
    for alias in task.aliases:
        known = _claimed.get(alias)
        if known is None or known.func is not task.func:  # a copy by .using() has another queue
            _claimed[alias] = task
    _declared[path] = task


def claimed() -> dict[str, Any]:
    """Returns the tasks by their aliases, of all modules that are imported so far."""
    return dict(_claimed)


def known_tasks() -> dict[str, Any]:
    """Returns the tasks by the paths under which their jobs may be stored: those in the `tasks` module of an app, and
    those of modules that are imported so far."""
    import_tasks()
    return _claimed | _declared


def first_path(task: Any) -> str:
    """Returns the path under which the task was known first. It names the task in what has to survive a change of its
    path: unique keys and schedules."""
    aliases: tuple[str, ...] = getattr(task, "aliases", ())
    path: str = task.module_path
    return aliases[0] if aliases else path


def is_another_task(found: Any, task: Any) -> bool:
    """Returns False where the module of the alias imports the task under its former name."""
    return isinstance(found, Task) and found.module_path != task.module_path


def imported(path: str) -> Any:
    """Returns what stands at the path, if its module is imported."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), "__dict__", {}).get(name)


def _remedy(path: str) -> str:
    return f"Take the alias out, or remove the task {path}."


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= PATH_LENGTH or printable(value) != value:
        return False
    parts = value.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)
