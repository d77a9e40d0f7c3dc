"""Tasks that leave behind how many run beside them."""

from __future__ import annotations

import threading
import time

from django.db import connection

from pgonly_django import limiter, task
from tests.jobs import mark

RUNNING = "SELECT coalesce(sum(coalesce(slots, 1)), 0) FROM pgonly_job WHERE state = 'running' AND task = %s"


def slots_in_use(name):
    """By running jobs of this task, in all workers."""
    with connection.cursor() as cursor:
        cursor.execute(RUNNING, [f"tests.jobs.limited.{name}"])
        return cursor.fetchone()[0]


@task
def count_beside(seconds=0.0):
    """Returns the most slots that were in use by its kind while it ran."""
    deadline = time.monotonic() + seconds
    most = slots_in_use("count_beside")
    while time.monotonic() < deadline:
        time.sleep(0.01)
        most = max(most, slots_in_use("count_beside"))
    return int(most)


class InUse:
    """The slots that jobs of this process take up now, and the most they did."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = self.most = 0

    def add(self, slots):
        with self.lock:
            self.now += slots
            self.most = max(self.most, self.now)


IN_USE = InUse()


@task
def take_slots(slots, seconds):
    IN_USE.add(slots)
    time.sleep(seconds)
    IN_USE.add(-slots)


@task
def enqueue_one(is_limited):
    time.sleep(0.05)  # the worker has looked by then
    if is_limited:
        return pay.enqueue("child", 1).id
    return take_slots.enqueue(1, 0.0).id


@task
def stay_inside(seconds):
    """In a call that no exception interrupts."""
    with limiter("deepseek"):
        mark("inside")
        time.sleep(seconds)


@task(concurrency_key="account:{account}")
def pay(account, number, seconds=0.0):
    """One at a time for each account."""
    mark(f"{account}:{number}:began")
    time.sleep(seconds)
    mark(f"{account}:{number}:ended")
