"""Whether the fields of a task fit the columns of its row. PostgreSQL would refuse them in the caller's transaction,
which would be lost with that."""

from __future__ import annotations

import sys
from datetime import datetime
from inspect import isfunction
from numbers import Real
from typing import Any

from pgonly_django.compat import InvalidTask
from pgonly_django.database.statement import printable

NAME_LENGTH, PATH_LENGTH = 64, 255  # of the columns
YEARS = range(1000, 9000)  # PostgreSQL and Python can both hold these in every time zone


def validate_fields(task: Any) -> None:
    """Raises InvalidTask for a value of another type or size than its column takes. Django's own rules come on top."""
    if not isfunction(task.func):
        raise InvalidTask(f"Task function must be defined at a module level. {task.func!r} is no function.")
    if len(path := task.module_path) > PATH_LENGTH:
        rule = f"The path of a task must be at most {PATH_LENGTH} characters long"
        raise InvalidTask(f"{rule}, got {len(path)}: {path[:80]}...")
    if wrong := what_is_wrong_with_name(task.queue_name):
        raise InvalidTask(f"queue_name must be {wrong}, got {task.queue_name!r}.")
    priority, moment = task.priority, task.run_after
    is_number = isinstance(priority, Real) and not isinstance(priority, bool)
    if not is_number or priority != priority:  # noqa: PLR0124 - only NaN differs from itself; Django cannot compare it
        raise InvalidTask(f"priority must be a whole number between -100 and 100. It cannot be {priority!r}.")
    if not isinstance(moment, datetime | None):
        remedy = "for a delay: timezone.now() + delay."
        raise InvalidTask(f"run_after must be an aware datetime. It cannot be {moment!r}; {remedy}")
    if moment is not None and moment.year not in YEARS:
        raise InvalidTask(f"run_after must lie in the years {YEARS[0]} to {YEARS[-1]}, got {moment}.")


def validate_place(task: Any) -> None:
    """Raises InvalidTask where a worker would not find the task at its path: the task has another name than its
    function, or another decorator hides it. Called by enqueue(): before that, its module may be half imported."""
    function = task.func
    module = sys.modules.get(function.__module__)
    found = getattr(module, function.__qualname__, None)
    if module is None or getattr(found, "func", None) is function:
        return
    there = "nothing" if found is None else f"a {type(found).__name__}"
    raise InvalidTask(
        f"A worker would look for this task at {task.module_path}, and there is {there} there. Give the task the name "
        "of its function, at the module's level, with @task as the outermost decorator."
    )


def what_is_wrong_with_name(name: Any) -> str:
    """For a message: the rule for names of queues, where `name` breaks it; else the empty string."""
    fits = isinstance(name, str) and 0 < len(name) <= NAME_LENGTH and printable(name) == name
    return "" if fits else f"a str of 1 to {NAME_LENGTH} characters without NUL"
