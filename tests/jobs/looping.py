"""Tasks that loop through their context."""

from __future__ import annotations

import asyncio
import contextlib
import time

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import transaction

from pgonly_django import task
from tests.jobs import AT_ONCE, mark


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def roll_back_and_note(context, key):
    """Catches the error that rolled its loop back, saves something, and dies of another one."""
    if context.attempt == 1:
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            for i in context.iterate(range(5)):
                mark(f"{key}:{i}")
            1 / 0  # noqa: B018 - the error
        context.save_checkpoint("note")
        raise ValueError("once")
    for i in context.iterate(range(5)):
        mark(f"{key}:{i}")


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
async def roll_back_and_note_async(context, key):
    async def loop(*, fails):
        block = transaction.atomic()
        await sync_to_async(block.__enter__)()
        async for i in context.aiterate(range(5)):
            await sync_to_async(mark)(f"{key}:{i}")
        error = (ZeroDivisionError, ZeroDivisionError(), None) if fails else (None, None, None)
        await sync_to_async(block.__exit__)(*error)

    await loop(fails=context.attempt == 1)
    if context.attempt == 1:
        await context.asave_checkpoint("note")
        raise ValueError("once")


@task(takes_context=True)
def loop_slowly(context, key, items, pause):
    for i in context.iterate(range(items)):
        mark(f"{key}:{i}")
        time.sleep(pause)


@task(takes_context=True)
async def loop_slowly_async(context, key, items, pause):
    async for i in context.aiterate(range(items)):
        await sync_to_async(mark)(f"{key}:{i}")
        await asyncio.sleep(pause)


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def fail_at_the_third(context, key):
    for i in context.iterate(range(5)):
        mark(f"{key}:{i}")
        if i == 2 and context.attempt == 1:
            raise ValueError("once")


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
async def fail_at_the_third_async(context, key):
    async for i in context.aiterate(range(5)):
        await sync_to_async(mark)(f"{key}:{i}")
        if i == 2 and context.attempt == 1:
            raise ValueError("once")


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def loop_in_a_transaction(context, key):
    """Fails at the third item of its first attempt, and with it what the transaction held."""
    with transaction.atomic():
        for i in context.iterate(range(5)):
            mark(f"{key}:{i}")
            if i == 2 and context.attempt == 1:
                raise ValueError("once")


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
def loop_behind_a_transaction(context, key):
    with transaction.atomic():
        for i in context.iterate(range(3), name="first"):
            mark(f"{key}:{i}")
    if context.attempt == 1:
        raise ValueError("once")


@task(takes_context=True, max_attempts=1)
def loop_twice(context, key):
    for i in context.iterate("ab"):
        mark(f"{key}:{i}")
    for i in context.iterate("cdef"):
        mark(f"{key}:{i}")


def save(user):
    user.save()


def switch_off(user):
    User.objects.filter(pk=user.pk).update(is_active=False)


def delete(user):
    user.delete()


BODIES = {"save": save, "switch off": switch_off, "delete": delete}


@task(takes_context=True, max_attempts=1)
def visit_users(context, body):
    """Over a queryset without an order, whose rows the body changes."""
    for user in context.iterate(User.objects.filter(is_active=True)):
        mark(user.username)
        BODIES[body](user)
        time.sleep(0.02)
