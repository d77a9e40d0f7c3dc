"""Tasks that use a limiter."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from django.db import transaction

from pgonly_django import limiter, task
from tests.jobs import mark, stay


@task
def use(key):
    with limiter("deepseek"):
        mark(key)


@task
async def use_async(key):
    async with limiter("deepseek"):
        pass


@task
def swallow(key):
    """Tries again and again, whatever it is told."""
    with contextlib.suppress(BaseException), limiter("deepseek"):
        mark(key)


@task(atomic=True)
def use_in_transaction(key):
    with limiter("deepseek"), transaction.atomic():
        mark(key)


@task(max_runtime=timedelta(seconds=1), max_attempts=1)
def use_in_time(key):
    with limiter("deepseek"):
        mark(key)


@task(max_runtime=timedelta(seconds=1), max_attempts=1)
async def use_in_time_async(key):
    async with limiter("deepseek"):
        pass


@task
def stay_inside(key):
    with limiter("deepseek"):
        mark(key)
        stay(60)


@task
def swallow_inside(key):
    with limiter("deepseek"), contextlib.suppress(BaseException):
        mark(key)
        stay(60)
