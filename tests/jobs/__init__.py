"""The tasks that the tests enqueue: here those that many tests use, in the modules the others by subject."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import connection

from pgonly_django import Backoff, task

AT_ONCE = Backoff(base=timedelta(0), cap=timedelta(0))


@task
def add(a, b=1):
    return a + b


@task(takes_context=True, max_attempts=2)
def count_to(context, n):
    total = 0
    for i in context.iterate(range(n)):
        total += context.step(f"square {i}", pow, i, 2)
    return total


def mark(key):
    """A side effect that counts: one row a call, in the job's own connection."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tests_mark (key) VALUES (%s)", [key])


def read_marks():
    """The keys in order."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT key FROM tests_mark ORDER BY id")
        return [key for (key,) in cursor.fetchall()]


def stay(seconds):
    """Runs Python code every 20 ms, where an exception can arrive."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.02)


def stay_deaf(seconds):
    """See stay(); swallows every exception."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(BaseException):
            time.sleep(0.02)


@task
def mark_once(key):
    mark(key)


@task(takes_context=True)
def slow_count(context, n, pause, key):
    """`n` items of `pause` seconds, each marked; resumable."""
    for item in context.iterate(range(n)):
        context.step(f"mark {item}", mark, f"{key}:{item}")
        time.sleep(pause)
    return n


@task(takes_context=True)
def hold_on(context, key, seconds=60.0):
    """Runs until it is told to stop, then leaves with a checkpoint."""
    mark(f"{key}:started")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not context.should_stop:
        time.sleep(0.02)
    if context.checkpoint is None:
        context.save_checkpoint({"seen": 1})
    for _ in context.iterate([1]):
        pass
    return context.checkpoint


@task
def sleep_in_slices(key, seconds=60.0):
    """Knows nothing of contexts; an exception reaches it between two slices."""
    mark(f"{key}:started")
    try:
        stay(seconds)
    finally:
        mark(f"{key}:cleaned up")


@task
async def sleep_async(key, seconds=60.0):

    await sync_to_async(mark)(f"{key}:started")
    await asyncio.sleep(seconds)


@task
def stubborn(key, seconds=60.0):
    """Swallows whatever comes."""
    mark(f"{key}:started")
    stay_deaf(seconds)


@task(max_attempts=3, backoff=AT_ONCE)
def fail(message="no"):
    raise ValueError(message)


@task(takes_context=True)
def report_progress(context, pause=0.0):
    context.progress(3, 10, "three")
    context.log("a line")
    time.sleep(pause)
    return context.time_left


@task
async def add_async(a, b):
    await asyncio.sleep(0)
    return a + b


@task(takes_context=True)
async def count_async(context, n):
    async def square(i):
        return i * i

    total = 0
    async for i in context.aiterate(range(n)):
        total += await context.astep(f"square {i}", square, i)
    await context.aprogress(n, n, "done")
    await context.asave_checkpoint({"total": total})
    return total


@task
def pause(seconds):
    time.sleep(seconds)


@task
def echo(value):
    return value


def nest(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


@task(takes_context=True)
def log_slowly(context, lines):
    mark("log:started")
    for i in range(lines):
        context.log(str(i))
        time.sleep(0.1)


@task
def print_and_open():
    """The number that the system gives to the next opened file."""
    print("to whom it may concern")
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


def bound_elsewhere(x):
    return x


under_another_name = task(bound_elsewhere)
