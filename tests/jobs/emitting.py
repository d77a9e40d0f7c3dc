"""Tasks that emit output."""

from __future__ import annotations

import time
from datetime import timedelta

from django.db import transaction

from pgonly_django import Snooze, task
from tests.gate import GATE
from tests.jobs import AT_ONCE

STORY = (
    "Once upon a time. A king. "
    "0 daughters. Anna 0. Tea. 1 daughters. Anna 1. Tea. 2 daughters. Anna 2. Tea. "
    "A checkpoint. The end."
)


@task(takes_context=True)
def say(context, *chunks):
    for chunk in chunks:
        context.emit(chunk)


@task(takes_context=True)
async def asay(context, *chunks):
    for chunk in chunks:
        await context.aemit(chunk)


@task(takes_context=True, atomic=True, max_attempts=2, backoff=AT_ONCE)
def say_in_a_transaction(context, *chunks):
    for chunk in chunks:
        context.emit(f"{chunk}{context.attempt} ")
    if context.attempt == 1:
        raise ValueError("not yet")


@task(takes_context=True)
def say_and_wait(context, first, then):
    """Waits until the test lets it go on."""
    context.emit(first)
    GATE.reached.set()
    GATE.opened.wait(20)
    context.emit(then)


@task(takes_context=True)
def say_and_wait_inside(context, first, then):
    """Waits inside a transaction."""
    with transaction.atomic():
        context.step("first", context.emit, first)
        GATE.reached.set()
        GATE.opened.wait(20)
    context.emit(then)


@task(takes_context=True, max_attempts=3, backoff=AT_ONCE)
def say_until_the_third_attempt(context):
    context.emit(f"Attempt {context.attempt}")
    if context.attempt < 3:
        raise ValueError("not yet")


@task(takes_context=True)
def count_snoozes(context):
    context.emit(f"Look {context._run.job.lease_epoch}")
    if context._run.job.lease_epoch < 3:
        raise Snooze(timedelta(0))


@task(takes_context=True)
def count_aloud(context, items):
    """Each item says its number twice: outside of its step, and slowly inside of it."""
    context.emit("Counting. ")
    for number in context.iterate(range(items)):
        context.emit(f"{number}, ")
        context.step(f"again {number}", count_slowly, context, number)
    context.emit("Done.")


def count_slowly(context, number):
    for letter in f"{number}. ":
        context.emit(letter)
        time.sleep(0.05)


def counted_aloud(items):
    return "Counting. " + "".join(f"{number}, {number}. " for number in range(items)) + "Done."


@task(takes_context=True)
def tell_a_story(context):
    """See STORY. Works in each way in which a job can be resumed."""
    context.emit("Once upon a time. ")
    context.step("who", context.emit, "A king. ")
    for number in context.iterate(range(3)):
        context.emit(f"{number} daughters. ")
        context.step(f"name {number}", context.emit, f"Anna {number}. ")
        context.step(f"drink {number}", context.emit, "Tea. ")
    if context.checkpoint is None:
        context.emit("A checkpoint. ")
        context.save_checkpoint("done")
    context.step("end", context.emit, "The end.")
