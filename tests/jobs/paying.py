"""Tasks with steps that are paid for, and a checkpoint."""

from __future__ import annotations

import asyncio

from django.db import connection

from pgonly_django import task
from tests.jobs import AT_ONCE, mark


def pay(key):
    """Makes its mark on a separate connection, and ends the job's connection before it returns."""
    from pgonly_django.database.connect import connect

    connection.ensure_connection()
    with connect("default", application_name="shooter") as other:
        other.execute("INSERT INTO tests_mark (key) VALUES (%s)", [key])
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    return 7


def pay_once(key, answer=None):
    mark(f"paid {key}")
    return answer


@task(takes_context=True, backoff=AT_ONCE)
def pay_under(context, name):
    return context.step(name, pay_once, "k")


@task(takes_context=True, backoff=AT_ONCE)
async def apay_under(context, name):
    return await context.astep(name, asyncio.sleep, 0)


@task(takes_context=True, backoff=AT_ONCE)
def pay_for_what_is_no_json(context):
    context.step("ask", pay_once, "k", object())


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def sum_up(context):
    """Changes what it has saved, and fails before it saves again."""
    state = context.checkpoint or {"sum": 0}
    if context.attempt == 1:
        context.save_checkpoint(state)
    for i in context.iterate([1, 1, 1]):
        state["sum"] += i
        if context.attempt == 1 and state["sum"] == 2:
            raise ValueError("once")
    return state["sum"]


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def compare_answers(context):
    """Whether a step gives the same, to the order of its keys, in the run that makes it and in a later one."""
    text = repr(context.step("ask", dict, zebra=1, a=1e22, text="é"))
    before = context.step("first", str, text)
    if context.attempt == 1:
        raise ValueError("once")
    return text == before


@task(takes_context=True, max_attempts=1)
async def call_in_groups(context, key, gathers=False):
    async def call(i):
        await asyncio.sleep(0.02)
        return i

    for n in range(1000):
        if gathers:
            calls = [context.astep(f"{n}:{i}", call, i) for i in range(3)]
            await asyncio.gather(*calls, return_exceptions=True)
        else:
            async with asyncio.TaskGroup() as group:
                for i in range(3):
                    group.create_task(context.astep(f"{n}:{i}", call, i))
        if n == 0:
            from asgiref.sync import sync_to_async

            await sync_to_async(mark)(f"{key}:started")
    return "as if nothing had been"


def pay_amid_a_failover(key):
    """The primary becomes a standby before the answer arrives."""
    answer = pay_once(key, 7)
    connection.connection.execute("SET default_transaction_read_only = on")
    return answer


@task(takes_context=True, max_attempts=1)
def pay_through_a_failover(context):
    return context.step("ask", pay_amid_a_failover, "k")
