"""Former paths of tasks: `@task(aliases=["shop.tasks.old_name"])`. What was stored under such a path runs the task."""

from __future__ import annotations

import sys
from typing import Any

from pgonly_django.compat import InvalidTask, Task
from pgonly_django.database.statement import printable
from pgonly_django.tasks.options import PATH_LENGTH

RULE = 'a list of dotted paths such as ["shop.tasks.old_name"]'

# The tasks by their aliases, of all modules that are imported so far.
_claimed: dict[str, Any] = {}


def validated_aliases(aliases: Any, place: str) -> tuple[str, ...]:
    """Raises InvalidTask, with the `place` of the task, for anything but dotted paths, each named once."""
    if not isinstance(aliases, list | tuple):
        raise InvalidTask(f"{place}: aliases must be {RULE}, got {aliases!r}.")
    for alias in aliases:
        if not _is_path(alias):
            raise InvalidTask(f"{place}: aliases must be {RULE}, got {alias!r} among them.")
    for alias in aliases:
        if aliases.count(alias) > 1:
            raise InvalidTask(f"{place}: aliases has {alias!r} twice. Name each path once.")
    return tuple(aliases)


def claim(task: Any, place: str) -> None:
    """Note the aliases of a task. Raises InvalidTask where another task has one of them, or stands at that path. A
    module that is imported again replaces what it claimed."""
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
            raise InvalidTask(f"{place}: the alias {alias!r} is a task of its own. {_remedy(alias)}")
    for alias in task.aliases:
        known = _claimed.get(alias)
        if known is None or known.func is not task.func:  # a copy by .using() has another queue
            _claimed[alias] = task


def claimed() -> dict[str, Any]:
    """The tasks by their aliases, of all modules that are imported so far."""
    return dict(_claimed)


def first_path(task: Any) -> str:
    """The path under which the task was known first. It names the task in what has to survive a change of its path:
    unique keys and schedules."""
    aliases: tuple[str, ...] = getattr(task, "aliases", ())
    path: str = task.module_path
    return aliases[0] if aliases else path


def is_another_task(found: Any, task: Any) -> bool:
    """False where the module of the alias imports the task under its former name."""
    return isinstance(found, Task) and found.module_path != task.module_path


def imported(path: str) -> Any:
    """What stands at the path, if its module is imported."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), "__dict__", {}).get(name)


def _remedy(path: str) -> str:
    return f"Take the alias out, or remove the task {path}."


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= PATH_LENGTH or printable(value) != value:
        return False
    parts = value.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)
