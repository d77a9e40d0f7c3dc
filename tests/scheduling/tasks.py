"""Tasks for schedules."""

from __future__ import annotations

import threading

from pgonly_django import task
from tests.jobs import mark


@task
async def ahello():
    return "hello"


@task(atomic=True)
def mark_atomically(key):
    mark(key)


@task(takes_context=True)
def tick_and_budget(context):
    return [context.task_result.task.run_after.isoformat(), context.budget.name]


def interrupt():
    raise KeyboardInterrupt


@task(concurrency_key=interrupt)
def interrupts():
    return None


@task(unique=True)
def unique(number): ...


released = threading.Event()


def _hang(number):
    released.wait(60)


@task(concurrency_key=_hang)
def hangs(number): ...
