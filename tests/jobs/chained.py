"""Tasks that another job follows, or that follow one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from pgonly_django import Backoff, Discard, task
from tests.jobs import mark, nest
from tests.jobs.watched import is_marked
from tests.waiting import wait_for

HOUR = timedelta(hours=1)


@task
def load(number):
    return {"number": number}


@task
async def load_async(number):
    await asyncio.sleep(0)
    return {"number": number}


@task
def load_slowly(number):
    """Returns only once the test has locked its row."""
    mark("began")
    wait_for(lambda: is_marked("locked"))
    return {"number": number}


@task
async def load_slowly_async(number):
    return await sync_to_async(load_slowly.func)(number)


@task(atomic=True)
def load_atomically(number):
    return {"number": number}


@task(takes_context=True, max_attempts=2, backoff=Backoff(base=timedelta(microseconds=1), cap=HOUR))
def load_at_the_second_attempt(context, number):
    context.log("began")
    if context.step("first", int) == 0 and context.attempt == 1:
        raise ValueError("at first")
    return {"number": number}


@task
def keep(*values, **named):
    return [list(values), named]


@task(concurrency_key="project:{project}", concurrency_limit=2, slots=2)
def keep_in(project, value=None): ...


@task(unique=["project"], debounce=HOUR)
def keep_later(project, value=None): ...


@task(unique=["project"])
def keep_once(project, value=None): ...


@task(concurrency_key=lambda value: value["project"])
def keep_by_value(value): ...


@task(max_attempts=1)
def end(how):
    if how == "discard":
        raise Discard("pointless")
    if how == "deep":
        return nest(500)
    if how == "fenced":
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pgonly_job SET lease_epoch = lease_epoch + 1 WHERE state = 'running'")
    if how == "left open":
        transaction.set_autocommit(False)
        mark("left open")
    if how == "error":
        raise ValueError(how)
    return how
