"""Tasks that spend from a budget."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections

from pgonly_django import budget, task
from tests.jobs import mark, stay


def pay(usd, key="paid"):
    with budget("p").reserve(usd) as reservation:
        mark(key)
        reservation.settle(usd)


async def apay(usd):
    async with budget("p").reserve(usd) as reservation:
        await reservation.asettle(usd)


@task(takes_context=True)
def pay_for_steps(context, count, usd):
    """Pays each step once, however often it is held."""
    for number in context.iterate(range(count)):
        context.step(f"step {number}", pay, usd, f"step {number}")
    return count


@task
def pay_once(usd):
    pay(usd)


@task
def swallow_exceptions(usd):
    with contextlib.suppress(Exception):
        pay(usd)
    mark("after")


@task
def swallow_everything(usd):
    try:
        pay(usd)
    except BaseException:
        return


@task(atomic=True)
def pay_in_a_transaction(usd):
    mark("before")
    pay(0.1)
    pay(usd)


@task
async def pay_async(usd):
    await apay(usd)


@task
async def pay_in_a_gather(usd):
    await asyncio.gather(*(apay(usd) for _ in range(3)))


@task
async def pay_in_a_quiet_gather(usd):
    await asyncio.gather(*(apay(usd) for _ in range(3)), return_exceptions=True)


@task
async def pay_in_a_group(usd):
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(apay(usd))


@task
def pay_in_a_loop_of_its_own(usd):
    async_to_sync(apay)(usd)


@task
def pay_in_a_thread(usd):
    """The thread knows the job by the context that it gets; its error stays there."""
    thread = threading.Thread(target=copy_context().run, args=(_quietly, usd))
    thread.start()
    thread.join()


def _quietly(usd):
    with contextlib.suppress(BaseException):
        pay(usd)


OVER = (
    pay_once,
    swallow_exceptions,
    swallow_everything,
    pay_in_a_transaction,
    pay_async,
    pay_in_a_gather,
    pay_in_a_quiet_gather,
    pay_in_a_group,
    pay_in_a_loop_of_its_own,
    pay_in_a_thread,
)


async def ask_slowly(number):
    await asyncio.sleep(0.2)
    await sync_to_async(mark)(f"asked {number}")
    return number


@task(takes_context=True)
async def pay_for_six_at_once(context):
    """Three fit, and the others when those have settled."""
    await asyncio.gather(
        *(context.astep(f"{n}", ask_slowly, n, cost=0.01, budget="p", reserve=0.3) for n in range(6))
    )


def sleep_and_mark(number):
    time.sleep(0.2)
    mark(f"asked {number}")
    return number


@task(takes_context=True)
def pay_for_six_in_threads(context):
    def ask(number):
        try:
            context.step(f"{number}", sleep_and_mark, number, cost=0.01, budget="p", reserve=0.3)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as threads:
        list(
            threads.map(
                lambda number, here: here.run(ask, number), range(6), [copy_context() for _ in range(6)]
            )
        )


@task(takes_context=True)
def pay_inside_a_reservation(context):
    with budget("p").reserve(0.9):
        context.step("inside", pay, 0.3)


@task
def pay_and_say_so(usd):
    with budget("p").reserve(usd) as reservation:
        reservation.settle(usd)


@task(takes_context=True)
def pay_for_a_slow_step(context):
    context.step("pay", _slowly, cost=0.1, budget="p", reserve=0.4)


def _slowly():
    mark("paying")
    stay(1)


@task(takes_context=True)
def pay_and_stay(context, seconds):
    """The first run stays inside its first paid call; the next ones do not."""
    mark(f"run {context._run.job.lease_epoch}")
    with budget("p").reserve(0.4) as reservation:
        if context._run.job.lease_epoch == 1:
            mark("paying")
            stay(seconds)
        reservation.settle(0.1)
    return "paid"
