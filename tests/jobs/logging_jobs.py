"""Jobs whose code logs, from every place that a job's code may run in."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from asgiref.sync import sync_to_async

from pgonly_django import task
from tests.jobs import AT_ONCE

logger = logging.getLogger("tests.jobs.logging_jobs")


@task
def log_in_thread(word):
    logger.info(word)


@task
async def log_in_async(word):
    logger.info("%s: task", word)
    await sync_to_async(logger.info)("%s: sync_to_async", word)
    await sync_to_async(logger.info, thread_sensitive=False)("%s: any thread", word)
    await asyncio.to_thread(logger.info, "%s: to_thread", word)
    await asyncio.gather(_say(f"{word}: gathered"), asyncio.create_task(_say(f"{word}: created")))


async def _say(text):
    await asyncio.sleep(0)
    logger.info(text)


@task
def log_in_run(word):
    """A sync job with an event loop of its own."""
    asyncio.run(_say(f"{word}: run"))


@task(max_attempts=2, backoff=AT_ONCE)
def log_and_fail(word):
    logger.info(word)
    raise ValueError(word)


@task(takes_context=True, max_attempts=1)
def fail_in_step(context, cause=None):
    """Its error passes through frames of the package: step() and iterate()."""
    for _ in context.iterate([1]):
        context.step("broken", _break, cause)


@task(takes_context=True, max_attempts=1)
def fail_after_step(context):
    """An error of a step that the job has handled is not what ends it."""
    with suppress(ValueError):
        context.step("broken", _break, None)
    raise RuntimeError


AGAIN = ValueError("one object")


@task(takes_context=True, max_attempts=1)
def fail_in_nested_steps(context, name):
    """Every run raises the same object."""
    context.step(name, lambda: context.step(f"{name} inside", _fail_again))


def _fail_again():
    raise AGAIN


def _break(cause):
    try:
        raise KeyError(cause or "inside")
    except KeyError as error:
        raise ValueError("broken step") from error


@task(takes_context=True, max_attempts=1)
def fail_in_ours(context):
    """The error is raised by the package itself."""
    context.stop()
