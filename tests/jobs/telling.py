"""Tasks whose failures are told to functions."""

from __future__ import annotations

import threading

from asgiref.sync import sync_to_async
from django.db import transaction

from pgonly_django import task
from pgonly_django.models import Job
from tests.jobs import AT_ONCE, mark

told: list[tuple] = []
hanging = threading.Event()


def tell(task_result, error):
    told.append((task_result.id, str(task_result.status), repr(error)))


def tell_globally(task_result, error):
    told.append(("all", task_result.id))


async def atell(task_result, error):
    state = await sync_to_async(lambda: Job.objects.get(pk=task_result.id).state)()
    told.append((task_result.id, state))


def raises(task_result, error):
    told.append(task_result.id)
    raise ValueError("told badly")


def leaves(task_result, error):
    told.append(task_result.id)
    raise SystemExit(3)


def leaves_a_transaction_open(task_result, error):
    transaction.set_autocommit(False)
    mark("lost")


def hangs(task_result, error):
    told.append(task_result.id)
    hanging.wait(30)


@task(max_attempts=2, backoff=AT_ONCE, on_failure=tell)
def fail(text="x"):
    raise ValueError(text)
