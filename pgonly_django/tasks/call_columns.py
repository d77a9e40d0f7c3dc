"""The columns of a job that depend on the arguments of its call. Most tasks have none, and their calls pay nothing.

An option that sets such columns has a function here, which is asked once for each task: it returns None where the task
does not use the option, else a function of the call that returns the columns. SOURCES names them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgonly_django.exceptions import OptionError
from pgonly_django.tasks.arguments import CallSignature
from pgonly_django.tasks.job_budget import check_budget
from pgonly_django.tasks.keys import key_function, stored_key
from pgonly_django.tasks.options import TaskOptions

# Of a call, as the job will get them: its args and kwargs.
Columns = Callable[[list[Any], dict[str, Any]], dict[str, Any]]


def call_columns(signature: CallSignature, options: TaskOptions) -> Columns | None:
    """What makes the columns of a call; None where no column depends on it. Raises OptionError for a name that is no
    argument of the function."""
    sources = [columns for source in SOURCES if (columns := source(signature, options)) is not None]
    if not sources:
        return None
    return lambda args, kwargs: {n: v for source in sources for n, v in source(args, kwargs).items()}


def concurrency(signature: CallSignature, options: TaskOptions) -> Columns | None:
    """concurrency_key, concurrency_limit and slots. A job that is limited has `slots`, be it 1."""
    slots, limit, rule = options.slots, options.concurrency_limit, options.concurrency_key
    heavy = {"slots": slots} if slots > 1 else {}
    if rule is None:
        return (lambda _args, _kwargs: heavy) if heavy else None
    key_of = key_function("concurrency_key", rule, signature)

    def columns(args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        key = key_of(args, kwargs)
        if key is None:
            return heavy
        if not isinstance(key, str | int) or isinstance(key, bool):
            rule = f"concurrency_key of {signature.name}() must return a str, an int or None (not limited)"
            raise OptionError(f"{rule}, got {key!r}.")
        return {"concurrency_key": stored_key(str(key)), "concurrency_limit": limit, "slots": slots}

    return columns


SOURCES = (concurrency, check_budget)
