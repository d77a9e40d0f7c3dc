"""Tasks that wait for several answers at once, in asyncio tasks or threads."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import connections

from pgonly_django import task
from pgonly_django.exceptions import EventTimeout
from tests.jobs import AT_ONCE, add, mark


@task(takes_context=True)
async def first_of_wait(context, keys, *, is_tidy=False):
    asked = [asyncio.create_task(context.await_for_event(key)) for key in keys]
    done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    answers = sorted(each.result() for each in done)
    if is_tidy:
        for each in others:
            each.cancel()
    await asyncio.sleep(0.5)  # code that is no step
    return await context.astep("go on", _return, answers)


@task(takes_context=True)
async def first_as_completed(context, keys, *, is_tidy=False):
    asked = [asyncio.create_task(context.await_for_event(key)) for key in keys]
    for each in asyncio.as_completed(asked):
        answers = [await each]
        break
    if is_tidy:
        for each in asked:
            each.cancel()
    return await context.astep("go on", _return, answers)


@task(takes_context=True)
async def gather_all(context, keys):
    waits = [context.await_for_event(key) for key in keys]
    return await asyncio.gather(*waits, return_exceptions=True)


@task(takes_context=True)
def all_in_threads(context, keys):
    with ThreadPoolExecutor() as pool:
        return sorted(
            each.result() for each in as_completed([pool.submit(_ask, context, key) for key in keys])
        )


@task(takes_context=True)
async def wait_beside_steps(context, key, count, seconds):
    """One branch waits, another one has steps."""

    async def draft():
        for number in range(count):
            await context.astep(f"draft {number}", asyncio.sleep, seconds)
        await context.astep("drafted", _mark, f"{key}:drafted")

    answer, _ = await asyncio.gather(context.await_for_event(key), draft())
    return answer


@task(takes_context=True)
def wait_beside_steps_in_threads(context, key, count, seconds):
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(_ask, context, key)
        for number in range(count):
            context.step(f"draft {number}", time.sleep, seconds)
        context.step("drafted", mark, f"{key}:drafted")
        return answer.result()


@task(takes_context=True)
async def ask_two(context, lawyer, cfo):
    """Asks the lawyer at once, and the CFO after a draft."""

    async def after_draft():
        await context.astep("draft", asyncio.sleep, 0.3)
        return await context.await_for_event(cfo)

    return await asyncio.gather(context.await_for_event(lawyer), after_draft())


@task(takes_context=True)
async def ask_in_vain(context, key, after):
    """Gives a wait up after a step beside it, and goes on with another one."""
    asked = asyncio.create_task(context.await_for_event(key))
    await context.astep("work", asyncio.sleep, 0.3)
    asked.cancel()
    await asyncio.wait([asked])
    return await context.await_for_event(after)


@task(takes_context=True)
async def limit_the_wait(context, key):
    """A timeout of asyncio's, while another branch has a step."""
    async with asyncio.TaskGroup() as group:
        group.create_task(context.astep("work", asyncio.sleep, 1.0))
        try:
            await asyncio.wait_for(context.await_for_event(key), 0.3)
        except TimeoutError:
            return "gone on"


@task(takes_context=True, max_attempts=2, backoff=AT_ONCE)
async def fail_beside_a_wait(context, key):
    async def fail():
        await context.astep("work", asyncio.sleep, 0.3)
        raise ValueError("of a branch")

    return await asyncio.gather(context.await_for_event(key), fail())


@task(takes_context=True)
async def wait_for_first(context, keys, seconds=None):
    try:
        return await context.await_for_first(_keys(keys), seconds)
    except EventTimeout as error:
        return str(error)


@task(takes_context=True)
def wait_for_first_and_then(context, keys, after):
    key, answer = context.wait_for_first(_keys(keys), timedelta(days=3))
    context.step("paid", mark, f"{after}:{key}")
    return [key, answer, context.wait_for_event(after)]


@task(takes_context=True)
def ask_anew(context, old, new):
    """After its first run it asks something else, as with a new version of its code."""
    key = old if context._run.job.lease_epoch == 1 else new
    return context.wait_for_event(key, choices=["yes", "no"], question="Yes?")


# Branches that meet.


@task(takes_context=True)
async def limit_one_of_two(context, key):
    """Two branches wait for one key, and one of them gives up."""

    async def limited():
        try:
            async with asyncio.timeout(0.3):
                return await context.await_for_event(key)
        except TimeoutError:
            return "given up"

    work = context.astep("work", asyncio.sleep, 0.8)
    return await asyncio.gather(context.await_for_event(key), limited(), work)


@task(takes_context=True)
async def share_a_key(context, keys, shared):
    waits = [context.await_for_first({key: None, shared: None}) for key in keys]
    return await asyncio.gather(*waits)


@task(takes_context=True)
async def wait_in_steps(context, keys):
    return await asyncio.gather(*(context.astep(f"ask {key}", context.await_for_event, key) for key in keys))


@task(takes_context=True)
async def gather_in_steps(context):
    calls = [add.bind(1, 2)]
    return await asyncio.gather(*(context.astep(f"s {name}", context.agather, name, calls) for name in "xy"))


@task(takes_context=True)
def first_in_own_loop(context, keys):
    """A sync task that runs an event loop."""
    return asyncio.run(_first_of(context, keys))


async def _first_of(context, keys):
    asked = [asyncio.create_task(context.await_for_event(key)) for key in keys]
    done, others = await asyncio.wait(asked, return_when=FIRST_COMPLETED)
    for each in others:
        each.cancel()
    return [each.result() for each in done]


@task(takes_context=True)
async def hear_by_queue(context, keys):
    """Nobody awaits the tasks that wait."""
    answers = asyncio.Queue()

    async def ask(key):
        await answers.put(await context.await_for_event(key))

    asked = [asyncio.create_task(ask(key)) for key in keys]
    return [await answers.get() for _ in asked]


@task(takes_context=True)
async def cancel_twice(context, key, after):
    """As anyio does, which cancels at each await until the task has ended."""
    asked = asyncio.create_task(context.await_for_event(key))
    await context.astep("work", asyncio.sleep, 0.3)
    while not asked.done():
        asked.cancel()
        await asyncio.sleep(0)
    return await context.await_for_event(after)


@task(takes_context=True)
async def clean_up_for_long(context, keys, mark_of_end):
    try:
        return await asyncio.gather(*map(context.await_for_event, keys))
    finally:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await _mark(mark_of_end)
            raise


def _ask(context, key):
    try:
        return context.wait_for_event(key)
    finally:
        connections.close_all()  # of this thread


def _keys(keys):
    return keys if isinstance(keys, dict) else dict.fromkeys(keys)


async def _return(value):
    return value


async def _mark(text):
    await sync_to_async(mark)(text)
