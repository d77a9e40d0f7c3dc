"""Tasks for schedules."""

from __future__ import annotations

from pgonly_django import task
from tests.jobs import mark


@task
async def ahello():
    return "hello"


@task(atomic=True)
def mark_atomically(key):
    mark(key)
