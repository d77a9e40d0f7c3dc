"""Tasks whose steps take a known time, for workers that end by themselves."""

from __future__ import annotations

import asyncio
import time

from asgiref.sync import sync_to_async

from pgonly_django import task
from tests.jobs import mark


def pay(key, seconds):
    mark(key)
    time.sleep(seconds)
    return key


@task(takes_context=True)
def pay_in_turn(context, key, count, seconds):
    return [context.step(str(n), pay, f"{key}:{n}", seconds) for n in range(count)]


async def apay(key, seconds):
    await sync_to_async(mark)(key)
    await asyncio.sleep(seconds)


@task(takes_context=True)
async def pay_side_by_side(context, key, durations, rounds):
    """A lane for each of the durations; each pays one step after the other."""

    async def pay_lane(lane, seconds):
        for n in range(rounds):
            await context.astep(f"{lane}:{n}", apay, f"{key}:{lane}:{n}", seconds)

    async with asyncio.TaskGroup() as group:
        for lane, seconds in enumerate(durations):
            group.create_task(pay_lane(lane, seconds))


@task(takes_context=True)
def tell_time_left(context):
    return context.time_left


@task(takes_context=True)
def pay_inside_a_step(context, key, seconds):
    """The second step is called inside the first one, which has taken long by then."""

    def outer():
        context.step("long", pay, f"{key}:long", seconds)
        return context.step("inner", pay, f"{key}:inner", 0)

    return context.step("outer", outer)
