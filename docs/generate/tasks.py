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

## What `enqueue()` raises

`.using()`, `enqueue()` and `enqueue_many()` raise these errors before anything is written, so your
transaction stays usable. An error of a function among the options, such as that of `unique`,
reaches you too.

| exception | raised for |
| --- | --- |
| `WrongArgumentsError` (a TypeError) | arguments that do not fit the function |
| `NotStorableError` (a TypeError and a ValueError) | NaN, text with a NUL character, or another argument that JSON cannot hold; more than 500 levels of nesting, or 32,000,000 characters in all; metadata that is not JSON, or has more than 8,192 bytes |
| `OptionError` (a ValueError) | an option of `.using()` that does not exist or has a wrong value; metadata that is not a dict, or has a key that is not text |
| `InvalidTask` of `django.tasks.exceptions` (in the backport `InvalidTaskError`) | a queue name that is not in `QUEUES` or does not have 1 to 64 characters; a `run_after` that is not a datetime (aware with `USE_TZ`); a `priority` that is not a whole number from -100 to 100; a task that no worker would find by its path |
| `ManualCommitError` | [autocommit](../how-to/queue.md#autocommit) that is off |
| `ImproperlyConfigured` | a wrong entry in `TASKS`, or a dead letter queue without a task |

## What JSON keeps

Arguments, metadata, checkpoints, the payloads of events, and the results of steps and jobs are
stored as JSON, in columns of the type `jsonb`. They all keep the same:

| you give | you get |
| --- | --- |
| None, True, False, text, a list | the same |
| an int of up to 4,300 digits | the same |
| a float | the same float, of any size. -0.0 loses its sign |
| a tuple | a list |
| a dict | a dict whose keys are text: `1` becomes `"1"`, and None `"null"`. The keys lose their order |
| bytes that are UTF-8 | text |
| NaN, an infinity, text with a NUL character or half of a surrogate pair, more than 500 levels of nesting | `NotStorableError` |
| any other object, such as a datetime, a Decimal, a UUID, a set or an instance of a model | `NotStorableError`. Give its `isoformat()`, its text or its primary key |

## The job context

A task with `takes_context=True` gets it as its first argument. The methods with an `a` before their
name are for async tasks.

{context}

## Results

`enqueue()`, `enqueue_many()` and `get_result()` return a `JobResult`, which is Django's
`TaskResult` with these additions. The methods with an `a` before their name are for coroutines.

{result}

A result can be read even if the code of its task no longer exists. Its `task` is then an object
that raises `UnknownTaskError`, an ImportError, when it is called.

## Verbs

Methods of `Job.objects.filter(...)`, which return the number of jobs that they have changed. Jobs
in other states are left alone.

| verb | from | to |
| --- | --- | --- |
| `retry()` | failed, cancelled, scheduled, held | ready, with all attempts again; steps and checkpoint stay, except the steps and waits in [`forget`](../how-to/queue.md#steps). The jobs that it has [gathered](../how-to/workflows.md#gather-results) and needs are retried with it, unless `members="keep"`. A finished job is left alone if another job has its [unique key](../how-to/concurrency.md#what-happens-when) by then |
| `cancel()` | scheduled, ready, held | cancelled at once |
| `cancel()` | running | cancelled soon: the task sees `should_stop`, and a second later `JobCancelled` is raised in it (an async task is cancelled). If the task ignores that for the `--grace-seconds` of its worker, the job is cancelled without it: a new thread takes the slot, and the old thread can write nothing more about the job |
| `discard(reason)` | scheduled, ready, held | failed, with the reason. What it has [gathered](../how-to/workflows.md#gather-results) is cancelled, as after `cancel()`, unless `members="keep"` |
| `run_now()` | scheduled | ready before its time, with its remaining attempts; limits and pauses still apply |
| `hold(reason)` | scheduled, ready | held, with the reason |
| `resume()` | held | ready, or scheduled while its `run_at` is in the future and it waits for no event. It continues from its checkpoint and steps, with its remaining attempts |

## Signals

Django's `task_enqueued` is sent when the transaction commits, `task_started` before each run, and
`task_finished` after the end is committed. The sender is the class of the backend. The verbs send
no signal.
"""  # noqa: E501 - the rows of a table
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
