"""Jobs for assert_resumable(): those that resume, and some that it cannot judge. The others: broken_jobs.py."""

from __future__ import annotations

import asyncio
import operator
import random
import time
import uuid
from functools import reduce
from pathlib import Path

from django.contrib.auth.models import Group, User
from django.core.cache import caches
from django.db import transaction
from django.utils import timezone

from pgonly_django import Retry, Snooze, limiter, task


def pay(number):
    return number * 10


async def apay(number):
    return number * 10


def pay_for_nothing(_number):
    return 0


def only_test_user():
    return User.objects.get(last_name="prepared")


@task(takes_context=True)
def resumes(context, count=2):
    """Steps, a loop, and rows that may be written again."""
    for number in context.iterate(range(count)):
        price = context.step(f"pay {number}", pay, number)
        Group.objects.update_or_create(name=f"{number} costs {price}")
    return {"groups": Group.objects.count()}


@task(takes_context=True)
async def aresumes(context, count=2):
    async for number in context.aiterate(range(count)):
        price = await context.astep(f"pay {number}", apay, number)
        await Group.objects.aupdate_or_create(name=f"{number} costs {price}")
    return {"groups": await Group.objects.acount()}


@task(atomic=True)
def writes_with_its_end():
    User.objects.create(username=str(uuid.uuid4()))


@task
def follow_up(number):
    raise AssertionError("The jobs that a job enqueues do not run.")


@task(takes_context=True)
def keeps_what_it_paid_for_in_a_file(context, path):
    if not Path(path).exists():
        Path(path).write_text(str(context.step("pay", pay, 1)))


@task(takes_context=True)
def unsteady(context):
    """Random ids, times, and sums whose last digits depend on the order; a many-to-many table, and old rows."""
    user, _ = User.objects.get_or_create(
        last_name="made", defaults={"username": str(uuid.uuid4()), "last_login": timezone.now()}
    )
    names = ["a", "b", "c"]
    random.shuffle(names)
    for name in names:
        context.step(name, pay, 1)
        user.groups.add(Group.objects.get_or_create(name=name)[0])
    User.objects.filter(last_name="prepared").update(email=f"{time.time_ns()}@example.com", first_name="seen")
    values = [0.1, 0.2, 0.3, 1e9]
    random.shuffle(values)
    return {"sum": reduce(operator.add, values), "at": time.time()}


@task(takes_context=True)
def holds_what_others_wait_for(context):
    """A limiter with one slot, a lock and the computation of a cached value, at each of its saves."""
    with limiter("one at a time"), caches["answers"].lock("mine", timeout=600):
        context.step("pay", pay, 1)
        caches["answers"].get_or_set("computed", lambda: context.step("compute", pay, 1), lock_timeout=600)


@task(takes_context=True)
async def pays_side_by_side(context, count=3):
    await asyncio.gather(*(context.astep(f"pay {number}", asleep, number) for number in range(count)))


async def asleep(number):
    await asyncio.sleep(0.01 * number)
    return number


@task(takes_context=True)
def waits_and_retries(context):
    if context.step("first", pay, 1) and context.checkpoint is None:
        context.save_checkpoint(1)
        raise Snooze(3600)
    if context.checkpoint == 1:
        context.save_checkpoint(2)
        raise Retry(3600, "once more")
    return context.checkpoint


@task(takes_context=True)
def pays_within_a_step(context):
    def outer():
        return context.step("inner", pay, 1) + pay_for_nothing(1)

    return context.step("outer", outer)


@task
def fails():
    raise ValueError("no such paper")


@task(takes_context=True)
def writes_each_item_with_its_mark(context):
    """An item that comes again finds its mark."""
    for number in context.iterate(range(5)):
        with transaction.atomic():
            _, is_new = Group.objects.get_or_create(name=f"item {number}")
            if is_new:
                User.objects.create(username=str(uuid.uuid4()))
                follow_up.enqueue(number)


@task(takes_context=True)
def enqueues_once(context):
    follow_up.using(unique=True).enqueue(1)
    context.step("pay", pay, 1)
    caches["answers"].set("paid", 1)


@task(atomic=True)
def does_all_in_one_transaction():
    User.objects.create(username=str(uuid.uuid4()))
    follow_up.enqueue(1)


@task(takes_context=True)
def iterates_in_order(context):
    for name in context.iterate(sorted({"a", "b", "c"})):
        Group.objects.get_or_create(name=name)


@task(takes_context=True)
def releases_its_mark_in_a_finally_block(context):
    """A killed process does not."""
    if User.objects.filter(last_name="busy").exists():
        return "busy"
    User.objects.update_or_create(username="mark", defaults={"last_name": "busy"})
    try:
        context.step("pay", pay, 1)
    finally:
        User.objects.filter(username="mark").update(last_name="free")
    return "done"


@task
def goes_on_after_everything():
    """Swallows what it can, inside and outside of transactions, and writes on."""
    for number in range(3):
        try:
            with transaction.atomic():
                User.objects.create(username=f"user {number}")
                caches["answers"].set(f"user {number}", "x")
        except BaseException:
            caches["answers"].set("failed", "x")
            Group.objects.create(name=f"user {number} failed")


@task(takes_context=True)
def forgets_nothing_in_this_process(context):
    """Another process would have an empty list."""
    if context.checkpoint is None:
        REMEMBERED.append("begun")
        context.save_checkpoint("begun")
    return len(REMEMBERED)


REMEMBERED: list[str] = []
