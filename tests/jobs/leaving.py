"""Tasks that are told to end, and what they make of it."""

from __future__ import annotations

import asyncio
import time

from asgiref.sync import sync_to_async

from pgonly_django import task
from pgonly_django.exceptions import JobStopped
from tests.jobs import AT_ONCE, mark, stay

SECONDS = 20


@task(max_attempts=1)
def swallow(key):
    """Runs until anything is raised in it, and returns as if it had done its work."""
    mark(f"{key}:started")
    try:
        stay(SECONDS)
    except BaseException:
        return "partial"


@task(max_attempts=1)
async def swallow_async(key):
    await sync_to_async(mark)(f"{key}:started")
    try:
        await asyncio.sleep(SECONDS)
    except BaseException:
        return "partial"


@task(takes_context=True, max_attempts=1)
def swallow_from_the_context(context, key):
    mark(f"{key}:started")
    try:
        for _ in context.iterate(range(SECONDS * 50)):
            time.sleep(0.02)
    except BaseException:
        return "partial"


@task(takes_context=True, max_attempts=1)
def leave(context, key):
    """A loop of its own, which leaves as the docs say."""
    mark(f"{key}:started")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.02)
        if context.should_stop:
            context.save_checkpoint({"page": 3})
            context.stop()


@task(takes_context=True, max_attempts=1)
async def leave_async(context, key):
    await sync_to_async(mark)(f"{key}:started")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        if context.should_stop:
            await context.asave_checkpoint({"page": 3})
            context.stop()


@task(takes_context=True, max_attempts=1)
def be_done_just_then(context, key):
    """Its work ends in the moment in which the worker is told to stop."""
    mark(f"{key}:started")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not context.should_stop:
        time.sleep(0.001)
    return "all of it"


@task(takes_context=True, max_attempts=1)
async def be_done_just_then_async(context, key):
    await sync_to_async(mark)(f"{key}:started")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not context.should_stop:  # noqa: ASYNC110 - told by a thread
        await asyncio.sleep(0.001)
    return "all of it"


@task(max_attempts=1)
def fail_while_leaving(key):
    mark(f"{key}:started")
    try:
        stay(SECONDS)
    finally:
        raise ValueError("the file is closed already")


@task(max_attempts=1)
async def leave_a_mark(key):
    """Its coroutine is cancelled, and cleans up."""
    await sync_to_async(mark)(f"{key}:started")
    try:
        await asyncio.sleep(SECONDS)
    finally:
        await sync_to_async(mark)(f"{key}:cleaned up")


@task(takes_context=True, max_attempts=1)
def stop_unasked(context):
    context.stop()


@task(max_attempts=3, backoff=AT_ONCE)
def raise_job_stopped():
    raise JobStopped
