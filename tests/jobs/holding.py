"""Tasks that are held: by Hold, or by something that acts for the job, as a budget does."""

from __future__ import annotations

import asyncio
import contextlib

from asgiref.sync import sync_to_async

from pgonly_django import Hold, task
from pgonly_django.current_job import current_job
from tests.jobs import mark


def be_over():
    raise current_job.get().hold("budget:x", "No money is left.")


@task(takes_context=True)
def ask_a_person(context, key):
    """Pays a step and saves, then waits for a person once."""
    context.step("pay", mark, key)
    if context.checkpoint is None:
        context.save_checkpoint("asked")
        raise Hold("Is this right?")
    return context.checkpoint


@task
async def ask_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(_ask())


async def _ask():
    raise Hold("Is this right?")


@task
def pass_on(key):
    be_over()


@task
def swallow_exceptions(key):
    with contextlib.suppress(Exception):
        be_over()
    mark(f"{key}:after")


@task
def swallow_everything(key):
    try:
        be_over()
    except BaseException:
        return "all of it"


@task(takes_context=True)
def swallow_and_pay_on(context, key):
    with contextlib.suppress(BaseException):
        be_over()
    context.step("pay", mark, f"{key}:after")


@task
def fail_on_the_way_out(key):
    try:
        be_over()
    finally:
        raise ValueError("broken clean-up")


@task(atomic=True)
def write_and_be_over(key):
    mark(f"{key}:after")
    be_over()


@task(atomic=True)
def write_and_swallow(key):
    mark(f"{key}:after")
    with contextlib.suppress(BaseException):
        be_over()


@task
async def be_over_async(key):
    be_over()


@task
async def be_over_in_a_thread(key):
    await sync_to_async(be_over)()


@task
async def gather_quietly(key):
    await asyncio.gather(_be_over(), _be_over(), return_exceptions=True)


@task
async def gather(key):
    await asyncio.gather(_be_over(), asyncio.sleep(0.01))


@task
async def be_over_in_a_group(key):
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(_be_over())


async def _be_over():
    be_over()


OVER = (
    pass_on,
    swallow_exceptions,
    swallow_everything,
    swallow_and_pay_on,
    fail_on_the_way_out,
    write_and_be_over,
    write_and_swallow,
    be_over_async,
    be_over_in_a_thread,
    gather_quietly,
    gather,
    be_over_in_a_group,
)
