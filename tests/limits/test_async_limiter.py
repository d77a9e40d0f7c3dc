"""`async with limiter(...)`, and many waiters with few connections."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from pgonly_django import limiter
from pgonly_django.exceptions import LimiterTimeoutError, NestedLimiterError
from pgonly_django.models import LimiterWaiter
from pgonly_django.models.job import ClockTimestamp
from tests.limits.rows import enter, held, pids_of_limits, waiting
from tests.waiting import cancel_once, wait_for


@pytest.mark.slow
@pytest.mark.parametrize("pool_size", [1, 2])
def test_fifty_tasks_wait_with_few_connections_that_others_can_use(limits, hold, pool_size):
    limits(pool_size, deepseek={"concurrent": 1}, other={"concurrent": 1})
    holder, inside, most = hold("deepseek"), 0, 0

    async def use():
        nonlocal inside, most
        async with limiter("deepseek"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async def main():
        tasks = [asyncio.create_task(use()) for _ in range(50)]
        await in_a_thread(wait_for, lambda: waiting() == 50)
        async with limiter("other"):
            # A connection of an earlier test may still be about to end.
            await in_a_thread(wait_for, lambda: len(pids_of_limits()) <= pool_size)
        assert await in_a_thread(waiting) == 50
        await asyncio.to_thread(holder.leave)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert most == 1
    assert (held(), waiting()) == (0, 0)


async def in_a_thread(function, *arguments):
    """Where it may ask the database."""

    def call():
        with contextlib.closing(connection):
            return function(*arguments)

    return await asyncio.to_thread(call)


async def stay_inside(**options):
    async with limiter("deepseek", **options):
        await asyncio.sleep(60)


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_queue(limits, hold):
    limits(deepseek={"concurrent": 1})
    holder = hold("deepseek")
    cancel_once(waiting, stay_inside())
    wait_for(lambda: not waiting())
    assert held() == 1
    holder.leave()
    assert held() == 0


def test_a_task_that_is_cancelled_inside_frees_its_slot(limits):
    limits(deepseek={"concurrent": 1})
    cancel_once(held, stay_inside())
    wait_for(lambda: not held())


@pytest.mark.slow
def test_async_code_that_does_not_get_in_within_its_timeout_is_told(limits, hold):
    limits(deepseek={"concurrent": 1})
    hold("deepseek")

    with pytest.raises(LimiterTimeoutError):
        asyncio.run(stay_inside(timeout=0.2))
    wait_for(lambda: not waiting())


def test_tasks_do_not_count_as_inside_of_each_others_blocks(limits):
    limits(deepseek={"concurrent": 5})

    async def use():
        async with limiter("deepseek"):
            await asyncio.sleep(0.01)

    async def main():
        await asyncio.gather(*(use() for _ in range(20)))

    asyncio.run(main())


def test_it_cannot_be_entered_by_who_is_inside_also_through_a_thread(limits):
    limits(deepseek={"concurrent": 2})

    async def nested():
        async with limiter("deepseek"), limiter("deepseek"):
            pytest.fail("entered")

    async def hopping():
        async with limiter("deepseek"):
            await sync_to_async(enter)()

    for each in (nested, hopping):
        with pytest.raises(NestedLimiterError):
            asyncio.run(each())
    assert held() == 0


@pytest.mark.slow
def test_who_has_many_before_it_keeps_its_ticket_though_it_looks_seldom(limits, hold):
    limits(deepseek={"concurrent": 1})
    holder, order = hold("deepseek"), []

    async def use(number):
        async with limiter("deepseek"):
            order.append(number)

    async def main():
        tasks = []
        for number in range(30):
            tasks.append(asyncio.create_task(use(number)))
            await in_a_thread(wait_for, lambda: waiting() == len(tasks))
        left = await in_a_thread(seconds_left_of_tickets)
        assert max(left[:20]) <= 4 < min(left[20:]) <= max(left[20:]) <= 15
        await asyncio.to_thread(holder.leave)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == list(range(30))


def seconds_left_of_tickets():
    rows = LimiterWaiter.objects.order_by("ticket").annotate(now=ClockTimestamp())
    return [(row.expires_at - row.now).total_seconds() for row in rows]
