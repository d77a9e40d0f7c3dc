"""The option `budget` of a task: a budget's name, or a template over the arguments such as "project:{project_id}"."""

from __future__ import annotations

from typing import Any

from pgonly_django.tasks.arguments import CallSignature
from pgonly_django.tasks.keys import key_function
from pgonly_django.tasks.options import TaskOptions


def check_budget(signature: CallSignature, options: TaskOptions) -> None:
    """Raises OptionError for a template that no call can fill in. It sets no column: the worker fills it in."""
    if options.budget is not None:
        key_function("budget", options.budget, signature)


def budget_name(
    rule: str | None, signature: CallSignature, args: list[Any], kwargs: dict[str, Any]
) -> str | None:
    """The name for one call; None without a budget. Raises WrongArgumentsError where the template has no value."""
    return None if rule is None else str(key_function("budget", rule, signature)(args, kwargs))
