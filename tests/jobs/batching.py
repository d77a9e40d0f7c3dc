"""Members of batches, and what comes after them."""

from __future__ import annotations

import time

from django.db import transaction

from pgonly_django import Batch, task
from tests.jobs import AT_ONCE, mark, read_marks


@task
def member(number, pause=0.0):
    time.sleep(pause)
    return number


@task(max_attempts=1)
def fail(number):
    raise ValueError(number)


@task(max_attempts=1)
def fail_unless_marked(key):
    if key not in read_marks():
        raise ValueError(key)


@task(max_attempts=3, backoff=AT_ONCE)
def fail_once(key):
    """Its first run fails, its second one succeeds."""
    if key not in read_marks():
        mark(key)
        raise ValueError(key)


@task
def split(depth):
    """Adds two members to its own batch, each of which does so too."""
    if depth:
        batch = Batch.current()
        batch.enqueue(split, depth - 1)
        batch.enqueue_many([split.bind(depth - 1)])
    return depth


@task
def note(text):
    mark(text)


@task
def note_batch():
    """Marks what the callback of a batch knows of it."""
    batch = Batch.current()
    mark(f"{batch.id} {[result.status.name for result in batch.results()]}")


@task(unique=True)
def unique(number): ...


@task(takes_context=True)
def stay(context, key):
    """Runs until it is told to stop."""
    mark(f"{key}:started")
    while not context.should_stop:
        time.sleep(0.02)
    context.stop()


@task(takes_context=True, max_attempts=3, backoff=AT_ONCE)
def gather(context, numbers, failed="raise", other="member"):
    """Gathers a member of each number; those below zero are calls of `other`."""
    calls = [member.bind(each) if each >= 0 else globals()[other].bind(f"{each}") for each in numbers]
    return [str(each) for each in context.gather("numbers", calls, failed=failed)]


@task(takes_context=True)
async def gather_async(context, numbers):
    return await context.agather("numbers", (member.bind(each) for each in numbers))


@task(takes_context=True)
def gather_twice(context, numbers):
    first = context.gather("first", [member.bind(each) for each in numbers])
    second = context.gather("second", [member.bind(each + 10) for each in first])
    return context.step("sum", sum, [*first, *second])


@task(takes_context=True)
def gather_gatherers(context):
    return context.gather("outer", [gather_twice.bind([each]) for each in (1, 2)])


@task(takes_context=True, max_attempts=1)
def gather_in_transaction(context):
    with transaction.atomic():
        context.gather("numbers", [member.bind(1)])


@task(takes_context=True)
def gather_levels(context, levels, width=1):
    """Gathers jobs that gather, through so many levels. The leaves run until they are told to stop."""
    below = gather_levels.bind(levels - 1, width) if levels > 1 else stay.bind("leaf")
    return context.gather("below", [below] * width)
