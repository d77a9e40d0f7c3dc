"""Tasks that enqueue others, in every way."""

from __future__ import annotations

import contextvars
from datetime import timedelta
from functools import partial
from threading import Thread

from django.db import connections
from django.utils import timezone

from pgonly_django import Discard, enqueue_many, task
from tests.jobs import add

LATER = timedelta(hours=1)


@task(unique=True)
def once(number): ...


@task(unique=True, debounce=LATER)
def debounced(number): ...


@task(concurrency_key="number:{number}")
def keyed(number): ...


def alone():
    return [add.enqueue(1)]


def later():
    return [add.using(run_after=timezone.now() + LATER).enqueue(1)]


def with_metadata():
    return [add.using(metadata={"a": 1}).enqueue(1)]


def with_a_key():
    return [keyed.enqueue(1)]


def unique():
    return [once.enqueue(1), debounced.enqueue(1)]


def many():
    return enqueue_many([(add, (1,)), (keyed, (1,)), (once, (1,)), (add, (2,), {}, {"a": 1})])


def in_a_thread(target=alone):
    def run():
        found.extend(target())
        connections.close_all()

    found = []
    thread = Thread(target=run)
    thread.start()
    thread.join()
    return found


def in_a_thread_with_its_context():
    return in_a_thread(partial(contextvars.copy_context().run, alone))


WAYS = {
    way.__name__: way
    for way in (
        alone, later, with_metadata, with_a_key, unique, many, in_a_thread, in_a_thread_with_its_context,
    )
}  # fmt: skip


@task
def enqueue(way):
    return [result.id for result in WAYS[way]()]


@task
async def enqueue_async():
    return [(await add.aenqueue(1)).id]


@task(dead_letter_queue="dead", max_attempts=1)
def fail():
    raise Discard("pointless")
