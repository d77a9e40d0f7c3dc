"""What a task may say of itself, judged before a row is made of it: PostgreSQL would refuse it in the caller's
transaction, which that aborts."""

from __future__ import annotations

import sys
from datetime import datetime
from inspect import isfunction
from numbers import Real
from typing import Any

from pgonly_django.compat import InvalidTask

NAME_LENGTH, PATH_LENGTH = 64, 255  # of the columns
YEARS = range(1000, 9000)  # what PostgreSQL and Python can both hold in every time zone


def validate_fields(task: Any) -> None:
    """Raises InvalidTask for a value of another type or size than its column takes. Django's own rules come on top."""
    if not isfunction(task.func):
        raise InvalidTask(f"Task function must be defined at a module level. {task.func!r} is no function.")
    path = task.module_path
    if len(path) > PATH_LENGTH:
        raise InvalidTask(
            f"The path of a task must be at most {PATH_LENGTH} characters long, got {len(path)}: {path[:80]}..."
        )
    if wrong := what_is_wrong_with_name(task.queue_name):
        raise InvalidTask(f"queue_name must be {wrong}, got {task.queue_name!r}.")
    if not _is_number(task.priority):
        raise InvalidTask(
            f"priority must be a whole number between -100 and 100. It cannot be {task.priority!r}."
        )
    _validate_run_after(task.run_after)


def validate_place(task: Any) -> None:
    """Raises InvalidTask where a worker would not find the task at its path: it is bound to another name than its
    function's, or hidden there by another decorator. Asked when it is enqueued: only then its module is complete."""
    function = task.func
    module = sys.modules.get(function.__module__)
    found = getattr(module, function.__qualname__, None)
    if module is None or getattr(found, "func", None) is function:
        return
    raise InvalidTask(
        f"A worker would look for this task at {task.module_path}, and there is "
        f"{'nothing' if found is None else f'a {type(found).__name__}'} there. Give the task the name of its function, "
        "at the module's level, with @task as the outermost decorator."
    )


def what_is_wrong_with_name(name: Any) -> str:
    """What a queue's name has to be, where `name` is not; else the empty string."""
    fits = isinstance(name, str) and 0 < len(name) <= NAME_LENGTH and is_text(name)
    return "" if fits else f"a str of 1 to {NAME_LENGTH} characters without NUL"


def is_text(value: str) -> bool:
    """Whether PostgreSQL can hold it: no NUL, no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def _is_number(value: Any) -> bool:
    """Nor NaN, which Django's rule cannot compare."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - NaN alone is not


def _validate_run_after(moment: Any) -> None:
    if moment is None:
        return
    if not isinstance(moment, datetime):
        raise InvalidTask(
            f"run_after must be an aware datetime. It cannot be {moment!r}; for a delay: timezone.now() + delay."
        )
    if moment.year not in YEARS:
        raise InvalidTask(f"run_after must lie in the years {YEARS[0]} to {YEARS[-1]}, got {moment}.")
