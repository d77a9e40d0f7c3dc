"""Tasks that wait for an event or a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from pgonly_django import task
from pgonly_django.exceptions import EventTimeout
from tests.jobs import AT_ONCE, mark
from tests.jobs.watched import is_marked
from tests.waiting import wait_for


@task(takes_context=True)
def wait(context, key, timeout=None):
    context.step("before", mark, f"{key}:before")
    return context.wait_for_event(key, timeout)


@task(takes_context=True)
def choose(context, key, choices):
    return context.wait_for_event(key, choices=choices)


@task(takes_context=True)
async def await_event(context, key, seconds=None):
    return await context.await_for_event(key, seconds)


@task(takes_context=True, max_attempts=2, backoff=AT_ONCE)
def wait_in_vain(context, key):
    context.wait_for_event(key, 0)


@task(takes_context=True)
def catch_the_timeout(context, key, timeout):
    try:
        return context.wait_for_event(key, timeout)
    except EventTimeout as error:
        return str(error)


@task(takes_context=True)
def sleep(context, seconds):
    context.sleep("a while", seconds)
    return "awake"


@task(takes_context=True)
async def asleep(context, seconds):
    await context.asleep("a while", seconds)
    return "awake"


@task(takes_context=True)
def leave_slowly(context, key):
    """Leaves its run only once the test lets it go."""
    try:
        return context.wait_for_event(key)
    finally:
        mark(f"{key}:leaving")
        wait_for(lambda: is_marked(f"{key}:go"))


@task(takes_context=True)
async def wait_beside_a_call(context, key):
    """One asyncio task waits while another one is in the middle of a paid call."""

    async def pay():
        await asyncio.sleep(0.3)
        await sync_to_async(mark)(f"{key}:paid")

    async def wait():
        await asyncio.sleep(0.1)
        return await context.await_for_event(key)

    async with asyncio.TaskGroup() as group:
        group.create_task(context.astep("pay", pay))
        answer = group.create_task(wait())
    return answer.result()


@task(takes_context=True)
async def wait_for_both(context, first, second, seconds):
    async with asyncio.TaskGroup() as group:
        answers = [
            group.create_task(context.await_for_event(key, limit))
            for key, limit in ((first, None), (second, seconds))
        ]
    return [answer.result() for answer in answers]


@task(takes_context=True)
def wait_in_a_transaction(context, key):
    with transaction.atomic():
        context.wait_for_event(key)


@task(atomic=True, takes_context=True)
def wait_as_atomic(context, key):
    context.sleep(key, 1)


@task(takes_context=True)
def die_at(context, key, place):
    """Its first run is killed: by its place before or after each statement of the wait, or on the way out."""
    places = itertools.count()

    def die():
        if next(places) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute_mortally(execute, *arguments):
        die()
        answer = execute(*arguments)
        die()
        return answer

    if context.step("first", os.getpid) != os.getpid():
        return context.wait_for_event(key)
    try:
        with connection.execute_wrapper(execute_mortally):
            return context.wait_for_event(key)
    finally:
        die()


PLACES = 7  # of die_at()

# What jobs make of the interruption: each waits all the same, and returns the answer in the end.


@task(takes_context=True)
def swallow_exceptions(context, key):
    answer = None
    with contextlib.suppress(Exception):
        answer = context.wait_for_event(key)
    if answer is None:
        mark(f"{key}:after")
    return answer


@task(takes_context=True)
def swallow_everything(context, key):
    try:
        return context.wait_for_event(key)
    except BaseException:
        return "nothing"


@task(takes_context=True)
def swallow_and_pay_on(context, key):
    answer = None
    with contextlib.suppress(BaseException):
        answer = context.wait_for_event(key)
    if answer is None:
        context.step("pay", mark, f"{key}:after")
    return answer


@task(takes_context=True)
def swallow_and_wait_on(context, key):
    answer = None
    for _ in range(2):
        with contextlib.suppress(BaseException):
            answer = context.wait_for_event(key)
    return answer


@task(takes_context=True)
def fail_on_the_way_out(context, key):
    answer = None
    try:
        answer = context.wait_for_event(key)
    finally:
        if answer is None:
            raise ValueError("broken clean-up")
    return answer


@task(takes_context=True)
def wait_inside_a_step(context, key):
    return context.step("both", context.wait_for_event, key)


@task(takes_context=True)
def wait_in_a_loop(context, key):
    for _ in context.iterate([1]):
        answer = context.wait_for_event(key)
    return answer


@task(takes_context=True)
async def wait_in_a_group(context, key):
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(context.await_for_event(key)) for _ in range(3)]
    return answers[0].result()


@task(takes_context=True)
async def gather_quietly(context, key):
    answers = await asyncio.gather(*(context.await_for_event(key) for _ in range(2)), return_exceptions=True)
    return answers[0]


@task(takes_context=True)
async def wait_in_a_thread(context, key):
    return await sync_to_async(context.wait_for_event)(key)


HOSTILE = (
    wait,
    await_event,
    swallow_exceptions,
    swallow_everything,
    swallow_and_pay_on,
    swallow_and_wait_on,
    fail_on_the_way_out,
    wait_inside_a_step,
    wait_in_a_loop,
    wait_in_a_group,
    gather_quietly,
    wait_in_a_thread,
)
