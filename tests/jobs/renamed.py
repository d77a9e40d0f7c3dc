"""Tasks whose paths have changed. `tests.jobs.before` never was a module of these tests."""

from __future__ import annotations

from pgonly_django import task
from tests.jobs import mark


@task(aliases=["tests.jobs.before.add_up", "tests.jobs.before.add"])
def add_numbers(a, b=1):
    return a + b


@task(aliases=["tests.jobs.before.count"], takes_context=True)
def count_in_steps(context, key):
    for number in context.iterate(range(3)):
        context.step(f"mark {number}", mark, f"{key}:{number}")
    return context.task_result.task.module_path
