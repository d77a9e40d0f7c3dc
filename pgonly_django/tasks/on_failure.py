"""Who is called when a job has failed: the task's `on_failure`, and PGONLY["ON_FAILURE"] for all tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgonly_django.conf import settings
from pgonly_django.tasks.options import TaskOptions, is_on_failure

PLACE = 'PGONLY["ON_FAILURE"]'


def on_failure_functions(options: TaskOptions) -> list[Any]:
    """The task's first. Each is a function or its dotted path."""
    return [each for each in (options.on_failure, settings().on_failure) if each]


def call_on_failure(
    function: Callable[..., Any] | str, task_result: Any, error: BaseException | None
) -> None:
    """Call the function, and run the coroutine that it returns. Raises what it raises, and where it cannot be
    imported."""
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
        message, hint = f"{PLACE} {problem}", "See docs/how-to/failures.md#on_failure."
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
