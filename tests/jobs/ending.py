"""Tasks that end their run in one way or another."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import timedelta

from django.db import connection

from pgonly_django import Backoff, Discard, Retry, Snooze, task
from tests.jobs import AT_ONCE, mark, stay_deaf


@task
def kill_the_worker():
    os.kill(os.getpid(), signal.SIGKILL)


@task(takes_context=True)
def die_after_each_step(context, steps):
    for n in range(steps):
        made = []
        context.step(f"step {n}", made.append, n)
        if made:
            os.kill(os.getpid(), signal.SIGKILL)


@task(takes_context=True)
def die_after_the_same_saves(context, saves):
    for n in range(saves):
        context.save_checkpoint(n)
    os.kill(os.getpid(), signal.SIGKILL)


@task(takes_context=True)
def innocent(context, key, seconds):
    """Long, saves a checkpoint halfway."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)
        context.save_checkpoint({"at": time.time()})
        if context.should_stop:
            break
    mark(key)


@task(takes_context=True, max_attempts=3, backoff=AT_ONCE)
def fail_until(context, attempt):
    if context.attempt < attempt:
        raise ValueError(f"attempt {context.attempt}")
    return context.attempt


@task
def snooze_once(key):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM tests_mark WHERE key = %s", [key])
        (seen,) = cursor.fetchone()
    mark(key)
    if not seen:
        raise Snooze(0.05)
    return "awake"


@task(max_attempts=2)
def ask_for_retry():
    raise Retry(0, "please")


@task(max_attempts=5)
def give_up():
    raise Discard("pointless")


@task
async def exit_async():
    sys.exit(1)


@task(backoff=AT_ONCE)
async def give_up_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(_give_up())


async def _give_up():
    raise Discard("pointless")


@task
def snooze_for_ages():
    raise Snooze(timedelta(days=3_000_000))


@task(max_runtime=timedelta(seconds=0.2), backoff=Backoff(base=timedelta(days=9), cap=timedelta(days=9)))
def stubborn_with_a_backoff(key):
    mark(f"{key}:started")
    stay_deaf(6)


@task(takes_context=True)
def submit_and_poll(context):
    context.step("submit", str, 1)
    raise Snooze(timedelta(hours=1))
