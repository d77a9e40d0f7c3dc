"""reference/tasks.md"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from docs.generate.api import members
from docs.generate.markdown import default_of, literal, own_doc, table
from pgonly_django import Backoff, task
from pgonly_django.context.context import JobContext
from pgonly_django.tasks.options import OF_ONE_CALL, RULES, TaskOptions
from pgonly_django.tasks.result import JobResult
from pgonly_django.tasks.task import PostgresTask

TEXT = """
# Tasks, the job context, results

The options of `@task`, the attributes and methods of the job context, and those of the result that
`enqueue()` returns. [The queue](../how-to/queue.md) shows how to use them.

## Options

`@task(...)` takes Django's parameters (`priority`, `queue_name`, `backend`, `takes_context`),
`aliases` ([releases.md](../how-to/releases.md#a-task-gets-another-path)), and these
options. `.using(...)` takes them for the calls made through it, and `TASKS` for all tasks
([settings.md](settings.md#tasks)).

{options}

{of_one_call} belong to one call: only `.using()` takes them.

## The job context

A task with `takes_context=True` gets it as its first argument. The methods with an `a` before their
name are for async tasks.

{context}

## Results

`enqueue()`, `enqueue_many()` and `get_result()` return a `JobResult`, which is Django's
`TaskResult` with these additions. The methods with an `a` before their name are for coroutines.

{result}
"""
# - `max_attempts=8`: What it is for.
OPTION = re.compile(r"^- `(\w+)=([^`]+)`: (.+(?:\n  .+)*)", re.MULTILINE)
# What a worker calls.
OF_THE_WORKER = {"flush", "resume_output", "close", "close_failed", "aclose_failed"}


def page() -> str:
    says = explained(task) | explained(PostgresTask.using)
    defaults = {field.name: default_of(field) for field in fields(TaskOptions)}
    rows = [
        (f"`{name}`", says[name][1], shown(defaults.get(name)), re.sub(r"(?<!\w)'([^']+)'", r"`\1`", rule))
        for name, (_, rule) in RULES.items()
    ]
    return TEXT.strip().format(
        options=table(["option", "", "default", "values"], rows),
        of_one_call=", ".join(f"`{name}`" for name in OF_ONE_CALL[:-1]) + f" and `{OF_ONE_CALL[-1]}`",
        context=members(JobContext, "context", hidden=OF_THE_WORKER),
        result=members(JobResult, "result"),
    )


def explained(function: Callable[..., Any]) -> dict[str, tuple[str, str]]:
    """The options in the docstring of the function: the default and what it is for, by name."""
    return {name: (default, text) for name, default, text in OPTION.findall(own_doc(function))}


def shown(value: object) -> str:
    if isinstance(value, Backoff):
        return f"`Backoff()`: {literal(value.base)} to {literal(value.cap)}"
    return "none" if value in (None, ()) else literal(value)
