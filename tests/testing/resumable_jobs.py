"""Jobs for assert_resumable(): some resume, others pay or write twice."""

from __future__ import annotations

import asyncio
import operator
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from functools import reduce
from pathlib import Path

from django.conf import settings
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
def resumes(context, count):
    """Steps, a loop, and rows that may be written again."""
    for number in context.iterate(range(count)):
        price = context.step(f"pay {number}", pay, number)
        Group.objects.update_or_create(name=f"{number} costs {price}")
    return {"groups": Group.objects.count()}


@task(takes_context=True)
async def aresumes(context, count):
    async for number in context.aiterate(range(count)):
        price = await context.astep(f"pay {number}", apay, number)
        await Group.objects.aupdate_or_create(name=f"{number} costs {price}")
    return {"groups": await Group.objects.acount()}


@task(takes_context=True)
def writes_twice(context, count):
    """The rows are written before the position is saved, and nothing keeps a second one out."""
    for number in context.iterate(range(count)):
        User.objects.create(username=str(uuid.uuid4()), last_name=f"number {number}")


@task(takes_context=True)
def pays_twice(context, count):
    """What the steps have returned is lost where their transaction does not commit."""
    with transaction.atomic():
        for number in range(count):
            context.step(f"pay {number}", pay, number)


@task(takes_context=True)
def pays_twice_in_its_second_run(context):
    context.step(f"pay in attempt {context.checkpoint or 1}", pay, 1)
    context.save_checkpoint(2)


@task(takes_context=True)
def pays_outside_of_a_step(context):
    pay(1)
    context.save_checkpoint("paid")


@task(takes_context=True)
def forgets_its_sum(context, count):
    """The sum is in memory, and the loop goes on behind it."""
    total = 0
    for number in context.iterate(range(count)):
        total += number
    return total


@task(takes_context=True)
def skips_a_step(context):
    """Saves that a step is done before it is."""
    if context.checkpoint is None:
        context.save_checkpoint("paid")
        context.step("pay", pay, 1)


@task
def writes_at_its_end():
    User.objects.create(username=str(uuid.uuid4()))


@task(atomic=True)
def writes_with_its_end():
    User.objects.create(username=str(uuid.uuid4()))


@task(takes_context=True)
def enqueues_twice(context):
    follow_up.enqueue(1)
    context.step("pay", pay, 1)


@task
def follow_up(number):
    raise AssertionError("The jobs that a job enqueues do not run.")


@task(takes_context=True)
def in_its_own_names(context):
    context.step(f"pay {uuid.uuid4()}", pay, 1)


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
def changes_a_prepared_row(context):
    """Adds again to what it has added."""
    user = only_test_user()
    user.first_name += "+"
    user.save()
    context.step("pay", pay, 1)


@task(takes_context=True)
def adds_a_group_in_its_first_run_only(context):
    if context.checkpoint is None:
        context.save_checkpoint("begun")
        only_test_user().groups.add(Group.objects.create(name="late"))


@task(takes_context=True)
def prints_forks_and_leaves_others_behind(context, path):
    """Its processes note their ids in the file."""
    print("x" * 100, file=sys.stderr)
    os.write(1, b"y" * 5_000_000)
    pid = os.fork()
    if pid == 0:
        return
    os.waitpid(pid, 0)
    with Path(path).open("a") as file:
        print(os.getpid(), subprocess.Popen(["sleep", "600"]).pid, file=file)
    context.step("pay", pay, 1)


@task(takes_context=True)
def holds_what_others_wait_for(context):
    """A limiter with one slot, a lock and the computation of a cached value, at each of its saves."""
    with limiter("one at a time"), caches["answers"].lock("mine", timeout=600):
        context.step("pay", pay, 1)
        caches["answers"].get_or_set("computed", lambda: context.step("compute", pay, 1), lock_timeout=600)


@task(takes_context=True)
async def pays_side_by_side(context, count):
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
def never_ends():
    print("going on")
    while True:
        time.sleep(0.01)


@task(takes_context=True)
def never_ends_when_it_resumes(context):
    if context.checkpoint is not None:
        time.sleep(600)
    context.save_checkpoint("begun")


@task
def fails():
    raise ValueError("no such paper")


@task
def tells_settings():
    return [settings.SCREENING_DELAY_SECONDS, settings.EMAIL_BACKEND.rpartition(".")[2], pay(1)]


def fake_pay():
    sys.modules[__name__].pay = lambda _number: 77


def interrupt_the_test():
    """Ctrl-C for the parent of this run's parent, which is at rest by then."""
    with Path(settings.NOTE_PIDS_IN).open("a") as file:
        print(os.getpid(), os.getppid(), file=file)
    with Path(f"/proc/{os.getppid()}/stat").open() as file:
        os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGINT)
